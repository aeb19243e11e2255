"""Activations that forward mode can go through twice."""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import SiLUActivation

from headstart.model.twins import in_forward_mode


def make_activations_differentiable(model: nn.Module) -> None:
    """Let SiLU, whose backward has no forward derivative in PyTorch, be written out where it carries a tangent; in place."""
    for module in model.modules():
        if isinstance(module, nn.SiLU | SiLUActivation):
            module.forward = silu  # type: ignore[method-assign]


def silu(x: Tensor) -> Tensor:
    """`x sigmoid(x)`."""
    return x * x.sigmoid() if in_forward_mode(x) else F.silu(x)
