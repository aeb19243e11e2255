"""What rows cost: counted everywhere alike, measured once a machine."""

import json
import random

import pytest

from headstart.model import row_costs
from headstart.model.row_costs import SHAPES, counted_costs, fit, measured_costs
from headstart.tasks.planner import RowCosts


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "headstart" / "row-costs"


def samples(linear, quadratic, once=0.0, noise=0.0):
    source = random.Random(0)
    return [(r * n, r * n * n, (once + linear * r * n + quadratic * r * n * n) * (1 + noise * source.gauss(0, 1))) for r, n in SHAPES]


@pytest.mark.parametrize(("linear", "quadratic"), [(5e-4, 6e-7), (1e-5, 1e-9), (3e-4, 0.0)])
def test_fit_finds_what_seconds_were_made_of(linear, quadratic):
    found = fit(samples(linear, quadratic, once=0.02), blocks=True)
    assert found.linear == pytest.approx(linear, rel=1e-6)
    assert found.quadratic == pytest.approx(quadratic, rel=1e-5, abs=1e-12)
    assert found.blocks


def test_no_cost_is_below_zero():
    noisy = fit([(384, 147456, 1.0), (384, 12288, 1.2), (128, 16384, 0.4), (128, 4096, 0.4)], blocks=False)
    assert noisy.linear > 0
    assert noisy.quadratic == 0
    hopeless = fit([(384, 147456, 0.1), (384, 12288, 0.1), (128, 16384, 0.5), (128, 4096, 0.5)], blocks=False)
    assert hopeless == RowCosts(pytest.approx(1.2 / 1024), 0.0)


def test_measured_once_a_machine_and_found_again(dense_base, cache, monkeypatch):
    first = measured_costs(dense_base)
    assert first.linear > 0
    assert first.quadratic >= 0
    assert first.blocks
    monkeypatch.setattr(row_costs, "_measure", lambda *_: pytest.fail("measured again"))
    assert measured_costs(dense_base) == first


@pytest.mark.parametrize("content", ["", "{}", '{"linear": null, "quadratic": 1}', "[1]"])
def test_a_broken_measurement_is_made_anew(dense_base, cache, monkeypatch, content):
    told = RowCosts(3.0, 0.5, True)
    monkeypatch.setattr(row_costs, "_measure", lambda *_: told)
    measured_costs(dense_base)
    (path,) = cache.glob("*.json")
    path.write_text(content)
    assert measured_costs(dense_base) == told
    assert json.loads(path.read_text())["linear"] == 3.0


def test_another_base_is_measured_for_itself(dense_base, tiny_spec, cache):
    from headstart.model.base import load_base

    for base in (dense_base, load_base(tiny_spec("nf4"), "cpu")):
        measured_costs(base)
    assert len(list(cache.glob("*.json"))) == 2


def test_a_cache_that_cannot_be_written_is_done_without(dense_base, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert measured_costs(dense_base).linear > 0


def test_attention_over_blocks_is_noted(architecture):
    assert counted_costs(architecture("llama").model).blocks
    assert not counted_costs(architecture("gemma2").model).blocks
