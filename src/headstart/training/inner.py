"""What a phase asks of its algorithm: the inner loop with its weights, and how it is differentiated on this base."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from headstart.algorithms.hvp import RELATIVE_STEPS, double_backward, finite_difference, forward_over_reverse
from headstart.algorithms.rules import Rule
from headstart.algorithms.schedules import drawn_steps, query_weights, second_order_weight, support_weights
from headstart.algorithms.types import HVP, InnerLoop, Losses, Tensors
from headstart.model.base import DTYPES
from headstart.model.learner import Learner
from headstart.recipe import FomamlPhase, MamlPhase, Phase


def inner_loop(
    phase: Phase, rule: Rule, rates: Mapping[str, Tensor], done: float, learner: Learner, seed: int = 0, step: int = 0
) -> InnerLoop:
    """The inner loop of a phase when the share `done` of it is done, at an outer step of the run with that seed."""
    loop = InnerLoop(rule, drawn_steps(phase.loop.min_steps, phase.loop.steps, seed, step), rates)
    if isinstance(phase, FomamlPhase | MamlPhase):
        left = 1 - phase.start_share - phase.path_share
        query = tuple(left * weight for weight in query_weights(loop.steps, done, phase.multi_step_loss))
        loop = replace(loop, query_weights=query, support_weights=support_weights(loop.steps, phase.start_share, phase.path_share))
    if isinstance(phase, MamlPhase):
        weight = second_order_weight(done, phase.second_order_warmup)
        loop = replace(loop, second_order=weight, hvp=hessian(phase, learner), inner_states=phase.inner_state)
    return loop


def hessian(phase: MamlPhase, learner: Learner) -> HVP:
    """The phase's Hessian-vector product: finite differences if it asks for them, else the exact one that the base supports."""
    if phase.hvp == "finite_difference":
        # how far it moves goes by the bits that the base computes in, not by the adapter's
        return partial(finite_difference, relative_step=RELATIVE_STEPS[DTYPES[learner.base.spec.dtype]])
    return partial(_computed_again, learner, forward_over_reverse if learner.forward_mode else double_backward)


def _computed_again(learner: Learner, hvp: HVP, losses: Losses, phi: Tensors, rows: Any, w: Tensors) -> dict[str, Tensor]:
    """With decoder layers computed again on the way back: kept, a product takes four times the memory of a first-order gradient."""
    with learner.second_order():
        return hvp(losses, phi, rows, w)
