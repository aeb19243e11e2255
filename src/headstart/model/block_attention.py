"""Attention over blocks: what shared-prefix rows need, and no more.

Exact in every layout: a token's keys are its row's prefix and its own example, so the scores of a bucket are one batched product,
one softmax and one batched product, instead of a masked square over the whole row. Where blocks are so wide that keeping their
probabilities would cost more than computing them again, PyTorch's fused attention takes the same blocks.

Shape suffixes: R rows, L tokens of a row, H heads, J heads of keys and values, G = H / J, D width of a head; N, E, P, S as in
`headstart.tasks.blocks`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, softmax
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from headstart.model.twins import asks_for_more, compute
from headstart.tasks.blocks import Blocks, Bucket

BLOCKS = "headstart_blocks"
"""This attention's name among transformers' implementations."""
KEPT_KEYS = 768
"""Probabilities of up to so many keys a token are kept for the way back; beyond, fused attention computes them again."""
HIDDEN = -1e30
"""Added to the scores of pairs that do not see each other; finite, so that the filling's rows have no NaN."""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""`(q (N, J, G, E, D), k (N, J, S, D), v, bias (N, E, S), scale) -> (N, J, G, E, D)`."""


@dataclass(frozen=True, eq=False)
class RowAttention:
    """How the tokens of a batch of rows attend, for one kind of layer.

    Args:
        blocks: the rows' tokens.
        window: a key is seen if it is less than so many positions back; any where None.
    """

    blocks: Blocks
    window: int | None = None
    _memo: dict[Any, Any] = field(default_factory=dict)

    def bias(self, index: int, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of a bucket, `(N, E, S)`; made once."""
        return self._once(("bias", index, dtype), lambda: self._bias(self.blocks.buckets[index], dtype))

    def _bias(self, bucket: Bucket, dtype: torch.dtype) -> Tensor:
        visible = bucket.visible if self.window is None else bucket.visible & (bucket.ahead < self.window)
        # filling that saw nothing would have no softmax where all of its scores overflow
        visible = visible | ~visible.any(-1, keepdim=True)
        bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return bias.masked_fill_(~visible, max(HIDDEN, torch.finfo(dtype).min))

    def heads(self, index: int, heads: int) -> Tensor:
        """`(N * heads * E,)`: where each head of a bucket's tokens lies among all heads of all tokens; made once."""
        return self._once(("heads", index, heads), lambda: _heads(self.blocks.buckets[index].tokens, heads))

    def places(self, heads: int) -> Tensor:
        """As `Blocks.places`; made once."""
        return self._once(("places", heads), lambda: self.blocks.places(heads))

    def _once(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        if key not in self._memo:
            self._memo[key] = make()
        found: Tensor = self._memo[key]
        return found

    # between tokens and buckets

    def split(self, x: Tensor) -> list[Tensor]:
        """`(R, H, L, D)` to each bucket's own tokens `(N, H, E, D)`."""
        heads, width = x.shape[1], x.shape[3]
        flat = x.transpose(1, 2).reshape(-1, width)
        return [
            flat.index_select(0, self.heads(index, heads)).view(*bucket.tokens.shape[:1], heads, -1, width)
            for index, bucket in enumerate(self.blocks.buckets)
        ]

    def join(self, parts: Sequence[Tensor], rows: int) -> Tensor:
        """Each bucket's `(N, H, E, D)` to `(R, L, H, D)`."""
        heads, width = parts[0].shape[1], parts[0].shape[3]
        flat = torch.cat([part.reshape(-1, width) for part in parts]) if len(parts) > 1 else parts[0].reshape(-1, width)
        return flat.index_select(0, self.places(heads)).view(rows, -1, heads, width)

    def keys(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Each bucket's own tokens to its keys `(N, J, S, D)`: the row's prefix goes before an example."""
        if self.blocks.prefix is None:
            return list(parts)
        shared, *own = parts
        return [shared, *(torch.cat([shared.index_select(0, b.row), part], 2) for b, part in zip(self.blocks.own, own, strict=True))]

    def keys_back(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The transpose of `keys`: a prefix collects what all its row's examples send back, in float32 where they are narrower."""
        if self.blocks.prefix is None:
            return list(grads)
        size = self.blocks.prefix.tokens.shape[1]
        shared = grads[0].float() if grads[0].dtype.itemsize < 4 else grads[0].clone()
        for bucket, grad in zip(self.blocks.own, grads[1:], strict=True):
            shared.index_add_(0, bucket.row, grad[:, :, :size].to(shared.dtype))
        return [shared.to(grads[0].dtype), *(grad[:, :, size:] for grad in grads[1:])]


def _heads(tokens: Tensor, heads: int) -> Tensor:
    return (tokens[:, None, :] * heads + torch.arange(heads, device=tokens.device)[:, None]).flatten()


@dataclass(frozen=True)
class BlockAttention:
    """The twin of attention over blocks: `(q (R, H, L, D), k (R, J, L, D), v) -> (R, L, H, D)`."""

    rows: RowAttention
    scale: float
    attend: Attend

    def plain(self, *inputs: Tensor) -> Tensor:
        """Gather, attend, put back, by differentiable operations."""
        q, k, v = (self.rows.split(x) for x in inputs)
        k, v = self.rows.keys(k), self.rows.keys(v)
        found = [
            self.attend(_grouped(q[i], k[i]), k[i], v[i], self.rows.bias(i, q[i].dtype), self.scale).flatten(1, 2) for i in range(len(q))
        ]
        return self.rows.join(found, len(inputs[0]))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Keeps each bucket's probabilities."""
        q, k, v = (self.rows.split(x) for x in inputs)
        k, v = self.rows.keys(k), self.rows.keys(v)
        kept, found = [], []
        for i, query in enumerate(q):
            p = _probabilities(_grouped(query, k[i]), k[i], self.rows.bias(i, query.dtype), self.scale)
            kept.append(p)
            found.append(torch.matmul(p.flatten(2, 3), v[i]).view(query.shape))
        return self.rows.join(found, len(inputs[0])), kept

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], kept: Sequence[Tensor], needed: Sequence[bool]) -> Sequence[Tensor | None]:
        """By hand; what q, k and v were gathered into is gathered again."""
        q, k, v = (self.rows.split(x) for x in inputs)
        k, v = self.rows.keys(k), self.rows.keys(v)
        parts = self.rows.split(grad.transpose(1, 2))
        each: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, bucket in enumerate(self.rows.blocks.buckets):
            g = parts[i] if bucket.whole else parts[i] * bucket.real[:, None, :, None]
            each.append(
                _bucket_back(_grouped(g, k[i]).flatten(2, 3), kept[i].flatten(2, 3), _grouped(q[i], k[i]).flatten(2, 3), k[i], v[i])
            )
        rows = len(inputs[0])
        dq = self.rows.join([one[0].mul_(self.scale).view(part.shape) for one, part in zip(each, q, strict=True)], rows)
        dk = self.rows.join(self.rows.keys_back([one[1].mul_(self.scale) for one in each]), rows)
        dv = self.rows.join(self.rows.keys_back([one[2] for one in each]), rows)
        # filling was put back as a copy of some other token, and must send nothing back
        if self.rows.blocks.filling is not None:
            for x in (dq, dk, dv):
                x.masked_fill_(self.rows.blocks.filling[:, :, None, None], 0)
        return [x.transpose(1, 2) for x in (dq, dk, dv)]


def _grouped(q: Tensor, k: Tensor) -> Tensor:
    """`(N, H, E, D)` to `(N, J, G, E, D)`: the heads that share keys together."""
    return q.view(len(q), k.shape[1], -1, *q.shape[2:])


def _probabilities(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> Tensor:
    """`(N, J, G, E, S)`."""
    scores = bias[:, None, None].expand(*q.shape[:-1], k.shape[2]).flatten(2, 3).flatten(0, 1)
    scores = torch.baddbmm(scores, q.flatten(2, 3).flatten(0, 1), k.flatten(0, 1).mT, alpha=scale)
    return softmax(scores, -1).view(*q.shape[:-1], k.shape[2])


def _by_products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """The definition's: in float32 where the heads are narrower, and rounded once."""
    wide = torch.promote_types(q.dtype, torch.float32)
    p = _probabilities(q.to(wide), k.to(wide), bias.to(wide), scale)
    return torch.matmul(p.flatten(2, 3), v.to(wide)).view(q.shape).to(q.dtype)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    # heads that share keys as further queries: with a mask, PyTorch's kernels for grouped heads keep all probabilities on a GPU
    mask = bias.repeat(1, q.shape[2], 1)[:, None]
    return scaled_dot_product_attention(q.flatten(2, 3), k, v, attn_mask=mask, scale=scale).view(q.shape)


def _bucket_back(g: Tensor, p: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in q and k, still to be scaled, and in v; g and q are `(N, J, G * E, D)`, p `(N, J, G * E, S)`."""
    # takes the gradient of the probabilities, and gives that of the scores
    ds = torch._softmax_backward_data(torch.matmul(g, v.mT), p, -1, p.dtype)
    return torch.matmul(ds, k), torch.matmul(ds.mT, q), torch.matmul(p.mT, g)


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    row_attention: "Sequence[RowAttention] | None" = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The implementation that transformers calls: over blocks where rows were handed to the model, else PyTorch's own.

    Args:
        row_attention: how the rows attend in each kind of layer; the mask's third dimension tells the kind, from 1 on.

    Raises:
        ValueError: the layer wants what attention over blocks does not have, such as soft caps and sinks; at load, such a base is
            found out and keeps its own attention.
    """
    if row_attention is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return found
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if unknown or attention_mask is None:
        lacking = ", ".join(unknown) or "layers that are given no mask"
        raise ValueError(f"attention over blocks has no {lacking}; call model.set_attn_implementation with 'eager' or 'sdpa'")
    rows = row_attention[attention_mask.shape[2] - 1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if rows.blocks.most_keys > KEPT_KEYS and not asks_for_more(query, key, value):
        return BlockAttention(rows, scale, _fused).plain(query, key, value), None
    return compute(BlockAttention(rows, scale, _by_products), query, key, value), None


AttentionInterface.register(BLOCKS, attention)
AttentionMaskInterface.register(BLOCKS, sdpa_mask)
