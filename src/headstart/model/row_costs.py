"""What a row's tokens and pairs of tokens cost on a base: counted from its shape, or measured on the machine at hand.

Counted, operations are the same everywhere. Measured, they are seconds, which do not follow operations: a fused product is bound
by arithmetic where a softmax is bound by memory. A measurement is kept, since another would choose other rows for the same run.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from headstart.files import WriteError, cache_folder, write_json
from headstart.model.attention import model_inputs
from headstart.model.base import Base
from headstart.model.block_attention import BLOCKS
from headstart.model.flops import pass_cost
from headstart.tasks.planner import RowCosts
from headstart.tasks.rows import Rendered, Rows, build_rows

SHAPES = ((1, 384), (12, 32), (1, 128), (4, 32))
"""Rows and their lengths that are timed: two pairs of as many tokens, with many pairs of tokens and with few."""
REPEATS = 3


def counted_costs(model: Any) -> RowCosts:
    """A base's counted operations; of a plain model, before it has sites."""
    cost = pass_cost(model)
    return RowCosts(cost.linear, cost.attention, model.config.get_text_config()._attn_implementation == BLOCKS)


def measured_costs(base: Base) -> RowCosts:
    """A base's seconds on this machine: found in the cache, else measured, by a few passes over 128 to 384 tokens, and kept there."""
    path = _place(base)
    blocks = counted_costs(base.model).blocks
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return RowCosts(float(found["linear"]), float(found["quadratic"]), blocks)
    except (OSError, ValueError, KeyError, TypeError):
        try:
            costs = _measure(base, blocks)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError):
            # a base that takes no embeddings for tokens: what is counted serves
            return counted_costs(base.model)
    # a cache that cannot be written costs the next run its time, and no more
    with suppress(WriteError):
        write_json(path, asdict(costs))
    return costs


def fit(samples: Sequence[tuple[int, int, float]], blocks: bool) -> RowCosts:
    """The least squares of seconds over tokens and pairs, with a share that depends on neither; no cost below zero.

    Args:
        samples: tokens, pairs and seconds of each shape.
        blocks: as in `RowCosts`.
    """
    table = torch.tensor(samples, dtype=torch.float64)
    design = torch.cat([table[:, :2], torch.ones(len(table), 1, dtype=torch.float64)], 1)
    scale = design.amax(0)
    solution = torch.linalg.lstsq(design / scale, table[:, 2:]).solution[:, 0] / scale
    linear, quadratic = float(solution[0]), float(solution[1])
    if linear <= 0:
        # noise beyond use: every second is put down to tokens
        return RowCosts(float(table[:, 2].sum() / table[:, 0].sum()), 0.0, blocks)
    return RowCosts(linear, max(quadratic, 0.0), blocks)


def _measure(base: Base, blocks: bool) -> RowCosts:
    batches = [_rows(base, rows, length) for rows, length in SHAPES]
    seconds: list[list[float]] = [[] for _ in batches]
    for repeat in range(REPEATS + 1):
        for taken, rows in zip(seconds, batches, strict=True):
            started = time.perf_counter()
            _forth_and_back(base, rows)
            if repeat:
                taken.append(time.perf_counter() - started)
    return fit([(r * n, r * n * n, median(taken)) for (r, n), taken in zip(SHAPES, seconds, strict=True)], blocks)


def _rows(base: Base, rows: int, length: int) -> Rows:
    """Rows of one example each, so that a row's pairs are its square in every form of attention."""
    ids = torch.randint(base.model.config.get_text_config().vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    tasks = [[[Rendered(tuple(row), length - 1)]] for row in ids.tolist()]
    return build_rows(tasks, layout="padded").to(base.device)


def _forth_and_back(base: Base, rows: Rows) -> None:
    inputs = model_inputs(base.model, rows)
    embedded = base.model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
    logits = base.model(inputs_embeds=embedded, **inputs, logits_to_keep=rows.predicts, use_cache=False).logits
    torch.autograd.grad(logits.float().logsumexp(-1).sum(), embedded)
    if base.device.type == "cuda":
        torch.cuda.synchronize(base.device)


def _place(base: Base) -> Path:
    device = torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    attention = base.model.config.get_text_config()._attn_implementation
    spec = (base.fingerprint, base.spec.quantization, base.spec.dtype, attention, device, torch.get_num_threads(), torch.__version__)
    return cache_folder() / "row-costs" / f"{hashlib.sha256(repr(spec).encode()).hexdigest()[:16]}.json"
