"""The rates of inner steps, and how one acts on a direction: as a number, or as a matrix that mixes its ranks.

A tensor's rates lead with the K steps: numbers `(K,)`, or matrices `(K, r, r)` on LoRA's rank axis, `rate D` for a direction D of A
`(r, d_in)` and `D rate` for one of B `(d_out, r)`. Matrices are learned as a number a step times one matrix for all steps: Meta-Curvature
(arXiv 1902.03356) on the one axis that is short. Whether a tensor is an A or a B is read off its name, here alone: where r is also
d_in or d_out, its shape does not say.
"""

import torch
from torch import Tensor

from headstart.algorithms.rules import per_task


def rate_at(rates: Tensor, step: int) -> Tensor:
    """The rate of a step, `()` or `(r, r)`, of a tensor's rates: past the last, that goes on."""
    return rates[min(step, len(rates) - 1)]


def is_matrix(rate: Tensor) -> bool:
    """Whether a rate is a matrix, of one step or of all."""
    return rate.dim() > 1


def scaled(name: str, rate: Tensor, direction: Tensor) -> Tensor:
    """A rate times a direction `(T, ...)`: what a step takes off.

    Args:
        name: the tensor's.
        rate: `()` or `(r, r)`; `(T,)` or `(T, r, r)` where every task has its own.
        direction: of the tensor.
    """
    if not is_matrix(rate):
        return per_task(rate, direction) * direction
    return direction @ rate if _is_b(name) else rate @ direction


def scaled_back(name: str, rate: Tensor, cotangent: Tensor) -> Tensor:
    """The cotangent of a direction, from that of the rate times it; arguments are `scaled`'s."""
    return scaled(name, rate.mT if is_matrix(rate) else rate, cotangent)


def rate_gradient(name: str, cotangent: Tensor, direction: Tensor) -> Tensor:
    """The gradient `(r, r)` in a matrix of `<cotangent, matrix times direction>`, as a mean over tasks."""
    across = "tor,tos->rs" if _is_b(name) else "tsi,tri->rs"
    return torch.einsum(across, direction, cotangent) / len(direction)


def as_matrices(name: str, rates: Tensor, tensor: Tensor) -> Tensor:
    """A tensor's rates as matrices `(K, r, r)`: numbers times the identity, which acts alike.

    Args:
        name: the tensor's.
        rates: `(K,)`; matrices are given back as they are.
        tensor: with or without task axis.
    """
    return rates if is_matrix(rates) else _times_identity(rates, tensor.shape[-1 if _is_b(name) else -2])


def followed_by(rates: Tensor, number: float) -> Tensor:
    """Rates with one more step's, a number, in their own form."""
    last = rates.new_full((1,), number)
    return torch.cat([rates, _times_identity(last, rates.shape[-1]) if is_matrix(rates) else last])


def parted(rates: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rates as a positive number a step `(K,)` and, where they are matrices, the one `(r, r)` that all numbers multiply.

    Its largest entry is 1 or -1: exactly the identity where the rates are numbers times it.
    """
    if not is_matrix(rates):
        return rates, None
    numbers = rates.flatten(1).abs().amax(1)
    return numbers, rates[0] / numbers[0]


def joined(numbers: Tensor, matrix: Tensor | None) -> Tensor:
    """Rates from their parts."""
    return numbers if matrix is None else numbers[:, None, None] * matrix


def _is_b(name: str) -> bool:
    return name.endswith("lora_B")


def _times_identity(numbers: Tensor, rank: int) -> Tensor:
    return numbers[:, None, None] * torch.eye(rank, dtype=numbers.dtype, device=numbers.device)
