"""The probe at load: does a base give the same logits when examples share a row, and when rows are filled up?

No flag of a model tells. Some carry state from one example to the next past any mask, some take their positions from the
row, some refuse; so two conversations are computed alone and plainly, and then in each layout.
"""

import sys
from typing import Any

import torch
from torch import Tensor

from headstart.model.attention import model_inputs
from headstart.model.block_attention import BLOCKS
from headstart.tasks.planner import MAX_ROW_TOKENS, Planner
from headstart.tasks.rows import Layout, Rendered, build_rows

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
"""Rounding alone stays below: 1e-6 in float32; in bfloat16 over thirty layers 0.02 to 0.09, where a wrong mask or wrong positions gave
0.40 and more (SmolLM2-135M, eight probes)."""
PREFIX, OWN = 8, 12
"""Tokens that the two conversations share, and tokens of each that are compared."""


def computes(model: Any, layout: Layout) -> bool:
    """Whether the model's label logits in a layout are those of the same conversations alone."""
    return layout_error(model, layout) < TOLERANCES[model.dtype]


def attend_over_blocks(model: Any) -> None:
    """Give a model attention over blocks, in place, if it is one that PyTorch's own attention serves and its logits stay the same."""
    before = model.config.get_text_config()._attn_implementation
    if before != "sdpa":
        return
    model.set_attn_implementation(BLOCKS)
    if not (computes(model, "packed") and computes(model, "padded")):
        model.set_attn_implementation(before)


def layout_error(model: Any, layout: Layout) -> float:
    """The largest of the label tokens' root mean squared differences, over the logits' standard deviation.

    Infinite where the model refuses the layout.
    """
    conversations = _conversations(model.config.get_text_config())
    rows = build_rows([[[one] for one in conversations]], layout=layout, planner=Planner(max_row_tokens=2 * MAX_ROW_TOKENS)).to(
        model.device
    )
    with torch.no_grad():
        plain = torch.cat([_alone(model, one) for one in conversations])
        try:
            found = model(**model_inputs(model, rows), logits_to_keep=rows.predicts, use_cache=False).logits
            difference = (found - plain).float()
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError):
            return float("inf")
    return float(difference.square().mean(1).sqrt().max() / plain.float().std())


def _alone(model: Any, one: Rendered) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([one.ids], device=model.device), use_cache=False).logits
    return logits[0, one.answer - 1 : -1]


def _conversations(config: Any) -> list[Rendered]:
    """Two that share their first tokens; in a packed row, the second begins past any window that counts places in the row.

    The second's first token of its own is compared too: it sees the shared ones however narrow the window.
    """
    length = PREFIX + _widest_window(config) + OWN
    ids = torch.randint(config.vocab_size, (length + OWN,), generator=torch.Generator().manual_seed(0)).tolist()
    # of unlike length, so that padded rows are filled up
    pair = ids[:length], ids[:PREFIX] + ids[length:-3]
    return [Rendered(tuple(one), max(PREFIX + 1, len(one) - OWN)) for one in pair]


def trusted_tokens(model: Any) -> int:
    """The longest packed row that the probe speaks for: no longer than a window or chunk which it did not outgrow.

    A window that the masks themselves hold, `sliding_window`, sets no limit.
    """
    beyond = {
        key: size for key, size in _windows(model.config.get_text_config()).items() if key != "sliding_window" and size >= MAX_ROW_TOKENS
    }
    return min(beyond.values(), default=sys.maxsize)


def _windows(config: Any) -> dict[str, int]:
    """The windows and chunks that a configuration names, under any key."""
    return {key: int(value) for key, value in config.to_dict().items() if ("window" in key or "chunk" in key) and isinstance(value, int)}


def _widest_window(config: Any) -> int:
    """The widest window that a packed row of ordinary length outgrows."""
    return max((size for size in _windows(config).values() if size < MAX_ROW_TOKENS), default=0)
