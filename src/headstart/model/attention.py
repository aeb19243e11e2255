"""Which tokens see which: rows, told to a model in the form that its attention understands.

Three forms mean the same. Attention over blocks (`headstart.model.block_attention`) takes the rows themselves and computes only
what is seen. Where a model cannot be given it, a packed row needs a dense mask, which transformers hands to every layer as it is: so
a layer's sliding window is written into it here, on positions; models with several types of layer take one mask a type; SDPA
takes booleans, while eager attention adds what it is given. Padded rows need no more than the model's own mask.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from headstart.model.block_attention import BLOCKS, RowAttention
from headstart.tasks.blocks import PADDING, SHARED
from headstart.tasks.rows import Rows

WHOLE = "full_attention"
WINDOWED = "sliding_attention"
MASKED = ("sdpa", "eager")
"""Attention implementations that take a mask with an entry for every pair of tokens."""


def model_inputs(model: Any, rows: Rows) -> dict[str, Any]:
    """The keyword arguments that make a causal language model compute `rows`.

    Padded rows begin with their first token, so the model's own positions and its own mask are right. Packed ones get
    positions and `(R, 1, L, L)` masks, in the form that the model's attention takes. Under attention over blocks, both get
    positions and what each kind of layer attends to.

    Raises:
        ValueError: packed rows under an attention implementation that takes no such mask.
    """
    if model.config.get_text_config()._attn_implementation == BLOCKS:
        return {"input_ids": rows.input_ids, "position_ids": rows.position_ids, **_block_inputs(model, rows)}
    if rows.layout == "padded":
        return {"input_ids": rows.input_ids, "attention_mask": (rows.branch != PADDING).long()}
    return {"input_ids": rows.input_ids, "position_ids": rows.position_ids, "attention_mask": packed_masks(model, rows)}


def _block_inputs(model: Any, rows: Rows) -> dict[str, Any]:
    """What each kind of layer attends to, and for each kind a mask of no content whose shape says which of them is its own."""
    config = model.config.get_text_config()
    kinds = layer_windows(config)
    attention = [rows.once(("attention", window), partial(RowAttention, rows.blocks, window)) for window in kinds.values()]
    signs = {kind: torch.zeros(1, 1, index + 1, 1, device=rows.input_ids.device) for index, kind in enumerate(kinds)}
    return {"row_attention": attention, "attention_mask": signs if getattr(config, "layer_types", None) else signs[WHOLE]}


def packed_masks(model: Any, rows: Rows) -> Tensor | dict[str, Tensor]:
    """The mask of packed rows `(R, 1, L, L)`; one for each type of layer where the model tells its layers apart; made once."""
    config = model.config.get_text_config()
    if config._attn_implementation not in MASKED:
        raise ValueError(f"packed rows need attention that takes a mask, {' or '.join(MASKED)}; not {config._attn_implementation}")
    kinds = layer_windows(config)
    added = model.dtype if config._attn_implementation == "eager" else None
    masks = {kind: rows.once(("mask", window, added), partial(_mask, rows, window, added)) for kind, window in kinds.items()}
    return masks if getattr(config, "layer_types", None) else masks[WHOLE]


def _mask(rows: Rows, window: int | None, added: torch.dtype | None) -> Tensor:
    mask = visible(rows) if window is None else visible(rows) & within(rows, window)
    return mask if added is None else _additive(mask, added)


def pairs(model: Any, rows: Rows) -> int:
    """Pairs of tokens whose scores a layer's attention computes."""
    if model.config.get_text_config()._attn_implementation == BLOCKS:
        return rows.blocks.pairs
    return rows.tokens * rows.input_ids.shape[1]


def layer_windows(config: Any) -> dict[str, int | None]:
    """Each type of layer's sliding window in tokens, None where it has none.

    A model without types has one kind of layer, all of them windowed where the configuration names a window.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return {WHOLE: window}
    return {kind: window if kind == WINDOWED else None for kind in dict.fromkeys(kinds)}


def visible(rows: Rows) -> Tensor:
    """`(R, 1, L, L)`, true where a query may look at a key: before it, and shared with its branch and leaf."""

    def sees(part: Tensor) -> Tensor:
        return (part[:, None, :] == SHARED) | (part[:, None, :] == part[:, :, None])

    length = rows.input_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=rows.branch.device).tril()
    return (causal & sees(rows.branch) & sees(rows.leaf))[:, None]


def within(rows: Rows, window: int) -> Tensor:
    """`(R, 1, L, L)`, true where a key's position is less than `window` before the query's."""
    positions = rows.position_ids
    return (positions[:, None, :] > positions[:, :, None] - window)[:, None]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Eager attention would add a boolean as 0 and 1, in silence; it wants 0 and the lowest number."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
