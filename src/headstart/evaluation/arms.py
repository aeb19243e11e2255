"""Arms: what is compared. An arm is where adapting starts, by which rule, and which rates it may be tuned over."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.algorithms.inner import expand
from headstart.algorithms.rules import Adam, Rule
from headstart.algorithms.types import Tensors
from headstart.batches import Batcher
from headstart.evaluation.contenders import CONTROLS, Contender
from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.inits import INITS, Start, initialised, require_init
from headstart.model.base import BaseSpec
from headstart.model.learner import Learner
from headstart.recipe import EvaluationSection

PROMPTED = "icl"
CONSTANT = ("zero_shot", PROMPTED)
"""Arms that do not adapt."""
SEEDLESS = (*CONSTANT, *(name for name, init in INITS.items() if init.needs_examples or init.alters_base))
"""Arms that no training seed has a say in: they are run once, under the first, and count under every one."""
LEARNED_RATES = ("multitask_rates", "meta")
ARMS = {
    "zero_shot": "the bare base, asked as it is",
    "icl": "the bare base with the support examples as earlier turns of the chat, as many as fit; nothing is adapted",
    "random": "a fresh LoRA under AdamW's rule at one tuned rate",
    **{name: f"{init.told}, under AdamW's rule at one tuned rate" for name, init in INITS.items()},
    "multitask": "plain multi-task LoRA at equal compute, under AdamW's rule at one tuned rate",
    "multitask_rates": "plain multi-task LoRA with rates learned on it inside the same compute, times one tuned factor",
    "meta_adamw": "the meta-learned initialisation, under AdamW's rule at one tuned rate",
    "meta": "the meta-learned initialisation under the rule and rates it was learned with, times one tuned factor",
}
USUAL_ARMS = ("zero_shot", "icl", "random", "multitask", "multitask_rates", "meta_adamw", "meta")


@dataclass(frozen=True)
class Arm:
    """One side of a comparison, of one training seed.

    Args:
        name: as in `ARMS`.
        seed: the training seed of the adapter that it starts from, or of its own fresh draw.
        start: where the tasks of an episode start.
        rule: the update rule.
        rates: tensor name -> `(K,)` or `(K, r, r)`, what a candidate is multiplied with; empty for an arm that does not adapt.
        candidates: factors to tune over on validation tasks; for an arm with one rate, that rate itself over rates of 1.
    """

    name: str
    seed: int
    start: Start
    rule: Rule
    rates: Mapping[str, Tensor]
    candidates: tuple[float, ...]

    @property
    def adapts(self) -> bool:
        """Whether it takes any step."""
        return bool(self.rates)

    @property
    def prompts(self) -> bool:
        """Whether it is shown the support examples in the prompt."""
        return self.name == PROMPTED

    def rates_at(self, candidate: float) -> dict[str, Tensor]:
        """The rates under one candidate."""
        return {name: rate * candidate for name, rate in self.rates.items()}


def choose_arms(
    wanted: Sequence[str] | None, contenders: Sequence[Contender], base: BaseSpec, strict: bool = True
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The arms to run, and those that were wanted and cannot be, with the reason why.

    Args:
        wanted: names; the usual ones where None.
        contenders: whose controls are looked at.
        base: as it will be loaded.
        strict: whether the names are the user's own for this evaluation, so that each must be run.

    Raises:
        EvaluationError: an unknown or repeated name, or one that cannot be run and must; or none can be.
    """
    names = tuple(wanted or USUAL_ARMS)
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise EvaluationError(f"unknown arm {unknown[0]!r}; there are {', '.join(ARMS)}")
    if len(set(names)) < len(names):
        raise EvaluationError(f"arms {', '.join(names)}: name each once")
    skipped = {name: why for name in names if (why := why_not(name, contenders, base))}
    if skipped and (strict or len(skipped) == len(names)):
        name, why = next(iter(skipped.items()))
        if name in INITS:
            # which says how to mend it
            raise EvaluationError(why)
        raise EvaluationError(f"the arm `{name}` cannot be run: {why}; leave it out with --arms")
    return tuple(name for name in names if name not in skipped), skipped


def why_not(name: str, contenders: Sequence[Contender], base: BaseSpec) -> str:
    """Why an arm cannot be run; empty where it can."""
    lacking = [one for one in contenders if name in CONTROLS and name not in one.controls]
    if lacking:
        rates = " --learn-rates" if name == "multitask_rates" else ""
        folder = lacking[0].folder
        # what is shipped or fetched is no longer in its run
        run = folder.parent if folder.name == "adapter" else "RUN"
        return f"there is no control beside {folder}; `headstart meta-train --equal-compute-of {run}{rates}` trains one of a finished run"
    bare = [one for one in contenders if name == "multitask_rates" and not one.controls[name].rates]
    if bare:
        return f"the control beside {bare[0].folder} has learned no rates"
    if name in INITS:
        try:
            require_init(name, base, contenders[0].meta.lora)
        except EvaluationError as error:
            return str(error)
    return ""


@contextmanager
def opened(name: str, contender: Contender, learner: Learner, batcher: Batcher, section: EvaluationSection) -> Iterator[Arm]:
    """An arm, for whose time the base is as its initialisation wants it."""
    if name in INITS:
        with initialised(name, learner, batcher, contender.seed) as start:
            yield _under_adamw(name, contender.seed, start, learner.shapes(), learner, section)
    else:
        yield _arm(name, contender, learner, section)


def _arm(name: str, contender: Contender, learner: Learner, section: EvaluationSection) -> Arm:
    seed = contender.seed
    if name in CONSTANT:
        # B is zero in a fresh adapter, so that this is the bare base
        return Arm(name, seed, _same(learner.fresh_adapter(seed)), Adam(), {}, ())
    if name == "random":
        return _under_adamw(name, seed, _same(fresh := learner.fresh_adapter(seed)), fresh, learner, section)
    adapter = contender.controls[name] if name in CONTROLS else contender.meta
    theta = adapter.initial(learner)
    if name in LEARNED_RATES:
        return Arm(name, seed, _same(theta), adapter.adaptation.build(), adapter.schedule(learner), section.rate_factors)
    # an initialisation that was learned for some sites to adapt is judged on those
    adapting = adapter.adaptation.adapting(theta) if name == "meta_adamw" else theta
    return _under_adamw(name, seed, _same(theta), adapting, learner, section)


def _under_adamw(
    name: str, seed: int, start: Start, adapting: Sequence[str] | Mapping[str, object], learner: Learner, section: EvaluationSection
) -> Arm:
    """AdamW without weight decay, which is Adam, over rates of 1."""
    ones = {each: torch.ones(1, device=learner.base.device) for each in adapting}
    return Arm(name, seed, start, Adam(), ones, section.learning_rates)


def _same(theta: Tensors) -> Start:
    """Every task starts from one initialisation."""
    return lambda episode: expand(theta, len(episode))
