"""The loss of label tokens from their logits, in float32 whatever the logits' type is."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1 << 20
"""Logits that are widened at once: few enough to stay in a processor's cache."""
LARGE_CHUNK = 1 << 26
"""The same elsewhere, where few large operations are better: a quarter of a gigabyte in float32."""


@dataclass(frozen=True, eq=False)
class LabelLoss:
    """The twin of the negative log-likelihood `(P,)` of targets `(P,)` under logits `(P, V)`.

    By hand, neither the widened logits nor their softmax are ever there whole: a vocabulary is the widest thing in a model.
    """

    targets: Tensor

    def plain(self, *inputs: Tensor) -> Tensor:
        """The definition."""
        return F.cross_entropy(_wide(inputs[0]), self.targets, reduction="none")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Keeps the logarithm of each token's sum of exponentials, `(P,)`."""
        (logits,) = inputs
        total = torch.cat([_wide(chunk).logsumexp(1) for chunk in torch.split(logits, _chunk(logits))])
        return total - _wide(logits.gather(1, self.targets[:, None])[:, 0]), (total,)

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], kept: Sequence[Tensor], needed: Sequence[bool]) -> Sequence[Tensor | None]:
        """Softmax less one at the target, times the incoming gradient."""
        (logits,), (total,) = inputs, kept
        found = torch.empty_like(logits)
        size = _chunk(logits)
        for start in range(0, len(logits), size):
            part = slice(start, start + size)
            chance = _wide(logits[part]).sub(total[part, None]).exp_()
            chance.scatter_add_(1, self.targets[part, None], chance.new_full((1, 1), -1.0).expand(len(chance), 1))
            found[part] = chance.mul_(grad[part, None])
        return (found,)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _chunk(logits: Tensor) -> int:
    return max(1, (CHUNK if logits.device.type == "cpu" else LARGE_CHUNK) // logits.shape[1])
