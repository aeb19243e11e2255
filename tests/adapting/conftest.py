"""A meta-adapter of the tiny base, and files to adapt it to."""

import json
from dataclasses import replace

import pytest
import torch

from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.model.learner import Learner, LoraSpec
from headstart.passes import passes_over


@pytest.fixture
def make_meta(dense_base):
    """Builds meta-adapters with B away from zero and rates of three steps."""
    with Learner(dense_base, LoraSpec(r=4, lora_alpha=8)) as learner:
        shapes, spec = learner.shapes(), learner.spec

    def make(rule="adam", steps=3, learned=True, rate=5e-3):
        generator = torch.Generator().manual_seed(3)
        theta = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}
        rates = {name: rate * torch.linspace(0.5, 1.5, steps) for name in theta} if learned else {}
        adaptation = Adaptation(rule, steps, rate)
        return MetaAdapter(theta, rates, spec, adaptation, dense_base.spec, dense_base.fingerprint, {"name": "tiny"})

    return make


@pytest.fixture
def meta(make_meta):
    return make_meta()


@pytest.fixture
def mixing():
    """Gives a meta-adapter rates that mix ranks."""

    def mix(meta):
        draw = torch.Generator().manual_seed(5)
        matrices = {name: torch.eye(4) + 0.3 * torch.randn(4, 4, generator=draw) for name in meta.rates}
        return replace(meta, rates={name: rate[:, None, None] * matrices[name] for name, rate in meta.rates.items()})

    return mix


@pytest.fixture
def passes(dense_base, meta):
    with passes_over(dense_base, meta.lora, 512) as passes:
        yield passes


@pytest.fixture
def adapter(meta, tmp_path):
    """The meta-adapter's folder."""
    meta.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def write(tmp_path):
    """Writes rows of (input, output) to a file of one task."""

    def write(name, rows, instruction="Shout."):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [{"instruction": instruction, "input": text, "output": answer} for text, answer in rows]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


@pytest.fixture
def shouted():
    """Rows of words and the same in capitals."""
    return lambda count, start=0: [(f"word {n}", f"WORD {n}") for n in range(start, start + count)]
