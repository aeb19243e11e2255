"""Arms: what is compared. An arm is where adapting starts, by which rule, and which rates it may be tuned over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.algorithms.rules import Adam, Rule
from headstart.errors import HeadstartError
from headstart.model.learner import Learner
from headstart.recipe import EvaluationSection

ARMS = {
    "random": "a fresh LoRA under AdamW's rule at one tuned rate",
    "multitask": "plain multi-task LoRA at equal compute, under the same rule at one tuned rate",
    "meta_adamw": "the meta-learned initialisation, under the same rule at one tuned rate",
    "meta": "the meta-learned initialisation under the rule and rates it was learned with, times one tuned factor",
}
DEFAULT_ARMS = ("random", "multitask", "meta")


class EvaluationError(HeadstartError):
    """An evaluation cannot start; the message says why, and how to mend it."""


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


def require_arms(names: Sequence[str], control: MetaAdapter | None) -> None:
    """See that arms can be built, before anything is loaded.

    Raises:
        EvaluationError: an unknown or repeated name, or `multitask` without a control.
    """
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise EvaluationError(f"unknown arm {unknown[0]!r}; there are {', '.join(ARMS)}")
    if len(set(names)) < len(names) or not names:
        raise EvaluationError(f"arms {', '.join(names) or '(none)'}: name at least one, and each once")
    if "multitask" in names and control is None:
        raise EvaluationError("the arm `multitask` needs the run's control; meta-train with run.control=true, or leave it out with --arms")


def build_arms(
    names: Sequence[str], meta: MetaAdapter, control: MetaAdapter | None, learner: Learner, section: EvaluationSection, seed: int
) -> list[Arm]:
    """The named arms over one learner; every one gets the same number of candidates."""
    starts = {"random": learner.fresh_adapter(seed), "meta_adamw": meta.initial(learner), "meta": meta.initial(learner)}
    if control is not None:
        starts["multitask"] = control.initial(learner)
    return [_arm(name, starts[name], meta, learner, section) for name in names]


def _arm(name: str, theta: Mapping[str, Tensor], meta: MetaAdapter, learner: Learner, section: EvaluationSection) -> Arm:
    if name == "meta":
        return Arm(name, theta, meta.adaptation.build(), meta.schedule(learner), section.rate_factors)
    # an initialisation that was learned for some sites to adapt is judged on those
    adaptation = meta.adaptation if name == "meta_adamw" else Adaptation()
    ones = adaptation.constant_rates(theta, 1.0)
    return Arm(name, theta, Adam(), ones, section.learning_rates)
