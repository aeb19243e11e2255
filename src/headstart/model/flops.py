"""Counted floating-point operations: what an equal-compute comparison is made equal in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from headstart.model.sites import linear_shape
from headstart.model.targets import expert_weights, linear_names
from headstart.tasks.rows import Rows


@dataclass(frozen=True)
class PassCost:
    """The multiply-accumulates of one base with LoRA sites, by what they are proportional to.

    Args:
        linear: per token, in the frozen inner linear layers and the experts that a token is sent to.
        lora: per token, in the LoRA factors.
        head: per label token, in the output layer.
        attention: per pair of tokens of a row (a dense mask computes all pairs).
        reached: the share of the decoder layers that the way back goes through, from the first that is adapted on.
        again: whether those layers are computed again on the way back.
    """

    linear: int
    lora: int
    head: int
    attention: int
    reached: float = 1.0
    again: bool = False

    def flops(self, rows: Rows, backward: bool) -> int:
        """Operations of a forward pass, or of a forward and a backward pass.

        Two a multiply-accumulate. Going back, a frozen product costs once more (its weights get no gradient); attention
        and the LoRA factors, where both operands do, cost twice more. Layers computed again cost one more pass forward.
        """
        head = self.head * len(rows.targets)
        frozen = self.linear * rows.tokens
        attention = self.attention * rows.tokens * rows.input_ids.shape[1]
        lora = self.lora * rows.tokens
        forward = head + frozen + attention + lora
        if not backward:
            return 2 * forward
        back = head + self.reached * (frozen + 2 * attention) + 2 * lora
        again = self.reached * (frozen + attention) + lora if self.again else 0
        return round(2 * (forward + back + again))


def pass_cost(model: nn.Module, adapted: Sequence[str] = (), r: int = 0, again: bool = False) -> PassCost:
    """Read the cost off a plain model's layers and configuration; the layers named in `adapted` carry LoRA factors of rank r."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    linear = [math.prod(linear_shape(model.get_submodule(name))) for name in linear_names(model)]
    per_token = getattr(config, "num_experts_per_tok", None) or 1
    experts = [math.prod(shape[1:]) * per_token for shape in expert_weights(model).values()]
    return PassCost(
        linear=sum(linear) + sum(experts),
        lora=sum(r * sum(linear_shape(model.get_submodule(name))) for name in adapted),
        head=math.prod(linear_shape(head)),
        attention=2 * width * config.num_hidden_layers,
        reached=_reached(model, adapted),
        again=again,
    )


def _reached(model: nn.Module, adapted: Sequence[str]) -> float:
    layers = [name for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)]
    first = next((index for index, name in enumerate(layers) if any(site.startswith(f"{name}.") for site in adapted)), 0)
    return (len(layers) - first) / len(layers) if layers else 1.0
