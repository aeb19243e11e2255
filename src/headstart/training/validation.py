"""Looking at held-out tasks while training: the loss before and after adapting, and their difference."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.adapter.meta_adapter import Adaptation
from headstart.algorithms.inner import expand, walk
from headstart.algorithms.types import Batch
from headstart.model.learner import Learner


@dataclass(frozen=True)
class Validation:
    """A fixed set of validation tasks, as rows.

    Args:
        batches: the tasks in pieces; the same in every look.
        adaptation: how the tasks are adapted to before the second look at the query.
    """

    batches: tuple[Batch, ...]
    adaptation: Adaptation

    def __call__(self, learner: Learner, theta: Mapping[str, Tensor], rates: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean query loss at step 0, after adapting, and the gain from adapting; a negative gain means that adapting hurts.

        Its operations and tokens are not counted as training's.
        """
        rates = rates or self.adaptation.constant_rates(theta)
        counted = learner.flops, learner.tokens
        before, after = zip(*(self._losses(learner, theta, rates, batch) for batch in self.batches), strict=True)
        learner.flops, learner.tokens = counted
        loss_0, adapted = float(torch.cat(before).mean()), float(torch.cat(after).mean())
        return {"validation/loss_0": loss_0, "validation/loss_adapted": adapted, "validation/gain": loss_0 - adapted}

    def _losses(self, learner: Learner, theta: Mapping[str, Tensor], rates: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        phi = expand(theta, batch.tasks)
        before = learner.scores(phi, batch.query).loss
        for step in walk(learner.losses, phi, batch.support, self.adaptation.build(), rates, self.adaptation.steps):
            phi = step.phi
        return before, learner.scores(phi, batch.query).loss
