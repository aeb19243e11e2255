"""Counted floating-point operations: what an equal-compute comparison is made equal in."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from headstart.tasks.rows import Rows


@dataclass(frozen=True)
class PassCost:
    """The multiply-accumulates of one base with LoRA sites, by what they are proportional to.

    Args:
        linear: per token, in the frozen inner linear layers.
        lora: per token, in the LoRA factors.
        head: per label token, in the output layer.
        attention: per pair of tokens of a row (a dense mask computes all pairs).
    """

    linear: int
    lora: int
    head: int
    attention: int

    def flops(self, rows: Rows, backward: bool) -> int:
        """Operations of a forward pass, or of a forward and a backward pass.

        Two a multiply-accumulate. Going back, a frozen product costs once more (its weights get no gradient); attention
        and the LoRA factors, where both operands do, cost twice more.
        """
        frozen = self.linear * rows.tokens + self.head * len(rows.targets)
        both = self.lora * rows.tokens + self.attention * rows.tokens * rows.input_ids.shape[1]
        return 2 * (frozen * 2 + both * 3) if backward else 2 * (frozen + both)


def pass_cost(model: nn.Module, adapted: Iterable[nn.Linear], r: int) -> PassCost:
    """Read the cost off a model's layers and configuration; `adapted` are the layers that carry LoRA factors of rank r."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    return PassCost(
        linear=sum(module.in_features * module.out_features for module in linear),
        lora=sum(r * (module.in_features + module.out_features) for module in adapted),
        head=head.in_features * head.out_features,
        attention=2 * width * config.num_hidden_layers,
    )
