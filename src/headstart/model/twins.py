"""Twins: a computation by its plain definition, and the same by hand where only first derivatives are asked for.

The definition is made of PyTorch's own operations, so it can be differentiated any number of times, in both modes. Its twin keeps
less for the way back and goes over memory fewer times. Which of them runs is decided here, pass by pass: a pass without gradients
and one in forward mode take the definition, and so does everything that a second derivative goes through.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

_twice: ContextVar[bool] = ContextVar("differentiable twice", default=False)
_later: ContextVar[bool] = ContextVar("to be differentiated", default=False)


class Twin(Protocol):
    """A function of tensors in two forms. What it is given besides tensors it holds itself."""

    def plain(self, *inputs: Tensor) -> Tensor:
        """The definition."""
        ...

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The value, and what `backward` needs beside the inputs; runs without gradients."""
        ...

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], kept: Sequence[Tensor], needed: Sequence[bool]) -> Sequence[Tensor | None]:
        """The gradient in each input, None where it is not needed; runs without gradients."""
        ...


def compute(twin: Twin, *inputs: Tensor) -> Tensor:
    """The value of a twin, differentiable in its inputs."""
    if asks_for_more(*inputs):
        return twin.plain(*inputs)
    if torch.is_grad_enabled() and any(each.requires_grad for each in inputs):
        return cast(Tensor, _ByHand.apply(twin, *inputs))  # type: ignore[no-untyped-call]
    return twin.forward(*inputs)[0] if _later.get() else twin.plain(*inputs)


def asks_for_more(*inputs: Tensor) -> bool:
    """Whether more than a first derivative in reverse is wanted of a pass: it is in forward mode, or inside `differentiable_twice`."""
    return _twice.get() or in_forward_mode(*inputs)


def in_forward_mode(*inputs: Tensor) -> bool:
    """Whether an input carries a tangent."""
    return any(forward_ad.unpack_dual(each).tangent is not None for each in inputs)  # type: ignore[no-untyped-call]


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Passes inside take nothing that has no second derivative: definitions for twins, plain products for fused attention."""
    with _set(_twice), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def to_be_differentiated() -> Iterator[None]:
    """Passes inside have no gradients, but will be computed again with them and must have the same values then."""
    with _set(_later):
        yield


@contextmanager
def _set(flag: ContextVar[bool]) -> Iterator[None]:
    token = flag.set(True)
    try:
        yield
    finally:
        flag.reset(token)


class _ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, twin: Twin, *inputs: Tensor) -> Tensor:
        value, kept = twin.forward(*inputs)
        ctx.twin, ctx.count = twin, len(inputs)
        ctx.save_for_backward(*inputs, *kept)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        # asked for once: PyTorch's checkpointing lets go of what it has handed out
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        inputs, kept = saved[: ctx.count], saved[ctx.count :]
        if torch.is_grad_enabled():
            return None, *_through_definition(ctx.twin, grads[0], inputs, needed)
        return None, *ctx.twin.backward(grads[0], inputs, kept, needed)


def _through_definition(twin: Twin, grad: Tensor, inputs: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    """Under `create_graph`: the definition computed again, and its gradient as a function of inputs and incoming gradient."""
    wanted = [each for each, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(twin.plain(*inputs), wanted, grad, create_graph=True))
    return [next(found) if need else None for need in needed]
