"""What the probe sees: wrong masks, positions and filling; and how far it may be trusted."""

import pytest
import torch

from headstart.batches import Batcher
from headstart.model import probe
from headstart.model.base import BaseError
from headstart.model.probe import computes, layout_error, trusted_tokens
from headstart.tasks.render import Renderer


def spoil(monkeypatch, change):
    """Makes the inputs of a layout wrong."""
    right = probe.model_inputs

    def wrong(model, rows):
        inputs = right(model, rows)
        change(inputs)
        return inputs

    monkeypatch.setattr(probe, "model_inputs", wrong)


def causal_only(inputs):
    length = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.ones(length, length, dtype=torch.bool).tril()[None, None]


@pytest.mark.parametrize("change", [causal_only, lambda inputs: inputs.pop("position_ids")], ids=["mask", "positions"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_that_are_told_wrongly_are_found(architecture, monkeypatch, dtype, change):
    model = architecture("llama", dtype=dtype).model
    assert computes(model, "packed")
    spoil(monkeypatch, change)
    assert not computes(model, "packed")


def test_padded_rows_are_filled_up_and_looked_at(architecture, monkeypatch):
    """A model that fills on the left would be given its first tokens as filling."""
    model = architecture("llama").model
    rows = []
    spoil(monkeypatch, lambda inputs: rows.append(inputs["attention_mask"]))
    assert layout_error(model, "padded") < 1e-5
    assert not rows[0].all(), "one row is shorter"


def test_a_base_that_is_wrong_in_a_batch_is_refused(architecture, monkeypatch):
    spoil(monkeypatch, lambda inputs: inputs.update(input_ids=inputs["input_ids"].flip(0)))
    with pytest.raises(BaseError, match="gives other logits in a batch than alone"):
        architecture("llama")


def test_running_out_of_memory_is_no_refusal(architecture, monkeypatch):
    model = architecture("llama").model

    def exhaust(_):
        raise torch.OutOfMemoryError("out of memory")

    spoil(monkeypatch, exhaust)
    with pytest.raises(torch.OutOfMemoryError):
        layout_error(model, "packed")


def test_rows_longer_than_the_probe_saw_are_padded(architecture):
    """A window of the row's own places, wider than any row of ordinary length, would be wrong in silence beyond it."""
    base = architecture("llama")
    renderer = Renderer(base.tokenizer)
    assert Batcher.of(base, renderer, max_row_tokens=4096).layout == "packed"
    base.model.config.attention_chunk_size = 2048
    assert trusted_tokens(base.model) == 2048
    assert Batcher.of(base, renderer, max_row_tokens=2048).layout == "packed"
    assert Batcher.of(base, renderer, max_row_tokens=4096).layout == "padded"
    assert Batcher.of(base, Renderer(base.tokenizer, max_length=4096)).layout == "padded"
    assert trusted_tokens(architecture("mistral").model) > 10**6


def test_attention_that_takes_no_mask_packs_no_rows(architecture, batcher, episode):
    base = architecture("llama")
    rows = batcher(base).batch(episode).query
    base.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="packed rows need attention that takes a mask, sdpa or eager; not flash_attention_2"):
        probe.model_inputs(base.model, rows)
