"""Rematerialisation: what is computed again on the way back instead of being kept.

A layer that is computed again must see the adapter of the pass that it belongs to, not whatever is bound to its sites by then:
with an ambient adapter, gradients are silently wrong. So the layer's own adapter tensors are inputs of what is computed again,
which binds them itself (`headstart.model.layers`). transformers' own hook runs only in training mode and knows nothing of the adapter.

PyTorch's checkpointing saves nothing where a second derivative is asked for: it keeps all that the first way back went through. Here
the way back is a function of its own, computed again too when it is differentiated, so that at no time is more than one layer's
graph alive. In forward mode nothing is differentiated twice, and PyTorch's checkpointing does.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from headstart.model.twins import asks_for_more, differentiable_twice, in_forward_mode, to_be_differentiated

Run = Callable[..., tuple[Tensor, ...]]


def again(run: Callable[..., Any], *inputs: Tensor) -> Any:
    """`run(*inputs)`, keeping nothing but the inputs for the way back and for that of the way back.

    Args:
        run: gives a tensor, or a tuple of tensors and of what is none.
        inputs: what its value is differentiated in.
    """
    if in_forward_mode(*inputs):
        return checkpointed(run, *inputs)
    put_out: list[Any] = []

    def tensors_of(*tensors: Tensor) -> tuple[Tensor, ...]:
        found = run(*tensors)
        put_out[:] = [found]
        return tuple(each for each in ((found,) if isinstance(found, Tensor) else found) if isinstance(each, Tensor))

    values = iter(_Again.apply(tensors_of, *inputs))  # type: ignore[no-untyped-call]
    (found,) = put_out
    return next(values) if isinstance(found, Tensor) else tuple(next(values) if isinstance(each, Tensor) else each for each in found)


def checkpointed(run: Callable[..., Any], *inputs: Tensor) -> Any:
    """The same by PyTorch, for what `_Again` cannot do; the second run is to be as differentiable as the first."""
    second = differentiable_twice if asks_for_more(*inputs) else nullcontext
    # no random state to keep: the base is in evaluation mode and has no dropout
    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: (nullcontext(), second()))


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Run, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.run = run
        ctx.save_for_backward(*inputs)
        with to_be_differentiated():
            return run(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        found = iter(_WayBack.apply(ctx.run, needed, *inputs, *grads))  # type: ignore[no-untyped-call]
        return None, *(next(found) if need else None for need in needed)


class _WayBack(torch.autograd.Function):
    """The gradients of `run` in the inputs that need one, as a function of inputs and incoming gradients."""

    @staticmethod
    def forward(ctx: Any, run: Run, needed: Sequence[bool], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.run, ctx.needed = run, needed
        ctx.save_for_backward(*tensors)
        inputs, grads = _leaves(tensors[: len(needed)], needed), tensors[len(needed) :]
        with torch.enable_grad():
            values = run(*inputs)
        return torch.autograd.grad(values, _only(inputs, needed), grads)

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> Any:
        wanted = ctx.needs_input_grad[2:]
        tensors = _leaves(ctx.saved_tensors, [*ctx.needed, *wanted[len(ctx.needed) :]])
        inputs, grads = tensors[: len(ctx.needed)], tensors[len(ctx.needed) :]
        with torch.enable_grad(), differentiable_twice():
            found = torch.autograd.grad(ctx.run(*inputs), _only(inputs, ctx.needed), grads, create_graph=True)
            second = iter(torch.autograd.grad(found, _only(tensors, wanted), weights, allow_unused=True))
        return None, None, *(next(second) if want else None for want in wanted)


def _leaves(tensors: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    return [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors, needed, strict=True)]


def _only(tensors: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    return [tensor for tensor, need in zip(tensors, needed, strict=True) if need]
