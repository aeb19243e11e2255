"""Counted floating-point operations: what an equal-compute comparison is made equal in."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

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
        again: whether decoder layers are computed again on the way back.
    """

    linear: int
    lora: int
    head: int
    attention: int
    again: bool = False

    def flops(self, rows: Rows, backward: bool) -> int:
        """Operations of a forward pass, or of a forward and a backward pass.

        Two a multiply-accumulate. Going back, a frozen product costs once more (its weights get no gradient); attention
        and the LoRA factors, where both operands do, cost twice more. Layers computed again cost one more pass forward.
        """
        head = self.head * len(rows.targets)
        frozen = self.linear * rows.tokens
        both = self.lora * rows.tokens + self.attention * rows.tokens * rows.input_ids.shape[1]
        if not backward:
            return 2 * (head + frozen + both)
        return 2 * (2 * head + (2 + self.again) * frozen + (3 + self.again) * both)


def pass_cost(model: nn.Module, adapted: Iterable[str] = (), r: int = 0, again: bool = False) -> PassCost:
    """Read the cost off a plain model's layers and configuration; the layers named in `adapted` carry LoRA factors of rank r."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    linear = [math.prod(linear_shape(model.get_submodule(name))) for name in linear_names(model)]
    experts = [math.prod(shape[1:]) * config.num_experts_per_tok for shape in expert_weights(model).values()]
    return PassCost(
        linear=sum(linear) + sum(experts),
        lora=sum(r * sum(linear_shape(model.get_submodule(name))) for name in adapted),
        head=math.prod(linear_shape(head)),
        attention=2 * width * config.num_hidden_layers,
        again=again,
    )
