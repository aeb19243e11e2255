"""Arms: what is compared. An arm is where adapting starts, by which rule, and which rates it may be tuned over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.algorithms.rules import Adam, Rule
from headstart.model.learner import Learner
from headstart.recipe import EvaluationSection

ARMS = ("random", "multitask", "meta_adamw", "meta")
"""`random`: a fresh LoRA. `multitask`: the equal-compute control. `meta_adamw` and `meta`: the meta-learned initialisation
under plain AdamW at one tuned rate, and under its own rule with learned rates."""


class ArmError(ValueError):
    """An arm cannot be run; the message says which, why, and how to mend it."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Args:
        name: as in `ARMS`.
        theta: the initialisation, without task axis.
        rule: the update rule.
        rates: tensor name -> `(K,)`, what a candidate is multiplied with.
        candidates: factors to tune over on validation tasks; for an arm with one rate, that rate itself over rates of 1.
    """

    name: str
    theta: Mapping[str, Tensor]
    rule: Rule
    rates: Mapping[str, Tensor]
    candidates: tuple[float, ...]

    def rates_at(self, candidate: float) -> dict[str, Tensor]:
        """The rates under one candidate."""
        return {name: rate * candidate for name, rate in self.rates.items()}


def build_arms(names: Sequence[str], meta: MetaAdapter, multitask: MetaAdapter | None, learner: Learner, section: EvaluationSection, seed: int) -> list[Arm]:
    """The named arms over one learner; every one gets the same number of candidates.

    Raises:
        ArmError: an unknown name, `multitask` without a control, or `meta` without learned rates.
    """
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise ArmError(f"unknown arm {unknown[0]!r}; there are {', '.join(ARMS)}")
    if "multitask" in names and multitask is None:
        raise ArmError("the arm `multitask` needs the run's control; train it with `headstart meta-train --equal-compute-of RUN`, or leave it out with --arms")
    starts = {"random": learner.fresh_adapter(seed), "meta_adamw": meta.initial(learner), "meta": meta.initial(learner)}
    if multitask is not None:
        starts["multitask"] = multitask.initial(learner)
    return [_arm(name, starts[name], meta, learner, section) for name in names]


def _arm(name: str, theta: Mapping[str, Tensor], meta: MetaAdapter, learner: Learner, section: EvaluationSection) -> Arm:
    if name == "meta":
        return Arm(name, theta, meta.adaptation.build(), meta.schedule(learner), section.rate_factors)
    ones = {key: torch.ones(1, device=tensor.device) for key, tensor in theta.items()}
    return Arm(name, theta, Adam(), ones, section.learning_rates)
