"""The benchmarks run, on a tiny base, and what they report beside time is right; time itself is not tested."""

import json
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig
from transformers.utils import logging

from headstart.model.base import load_base
from headstart.model.four_bit import is_four_bit
from headstart.tasks.rows import common_prefix

SCRIPTS = Path(__file__).parents[1] / "scripts"
CPU = torch.device("cpu")
ABOUT = {"schema_version", "benchmark", "command", "machine", "versions", "commit", "device", "threads", "repeats", "rows"}


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts can be imported, as they are when one of them is run; what they set for a whole process is set back."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    verbosity = logging.get_verbosity()
    with warnings.catch_warnings():
        yield
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


@pytest.fixture
def main(tiny_folder, tmp_path):
    """Runs a script's main on the tiny base; what it returns is also what it writes."""

    def run(name, *arguments):
        path = tmp_path / "found" / f"{name}.json"
        given = [*arguments, "--device", "cpu", "--repeats", "1", "--json", str(path)]
        script = __import__(f"bench_{name}")
        found = script.main([*given, "--base", str(tiny_folder)] if "--base" not in given else given)
        assert json.loads(path.read_text()) == json.loads(json.dumps(found))
        assert found.keys() >= ABOUT
        assert (found["schema_version"], found["benchmark"]) == (1, name)
        assert found["command"].startswith(f"scripts/bench_{name}.py ")
        return found

    return run


def test_conversations_have_the_sizes_asked_for():
    from _bench import Shape, conversations

    shape = Shape(tasks=2, examples=5, prefix=7, own=6)
    for part in (conversations(shape, 100).support, conversations(shape, 100).query):
        assert [len(task) for task in part] == [5, 5]
        for task in part:
            assert common_prefix([one for candidates in task for one in candidates]) == 7
            assert {(len(one.ids), one.answer) for (one,) in task} == {(13, 11)}
    lengths = {len(one.ids) for task in conversations(shape, 100, jitter=0.5).support for (one,) in task}
    assert len(lengths) > 1
    assert lengths <= set(range(7 + 3, 7 + 9 + 1))
    assert conversations(shape, 100, seed=1) == conversations(shape, 100, seed=1) != conversations(shape, 100, seed=2)


def test_sides_take_turns_and_one_without_memory_is_left_out():
    from _bench import interleaved

    seen = []

    def side(name, fails=False):
        @contextmanager
        def entered():
            def run():
                seen.append(name)
                if fails:
                    raise torch.OutOfMemoryError("no more")
                return name

            yield run

        return entered

    found = interleaved({"a": side("a"), "b": side("b", fails=True), "c": side("c")}, 2, CPU)
    assert seen == ["a", "b", "c", "a", "c", "a", "c"]
    assert [len(found[name].seconds) for name in "abc"] == [2, 0, 2]
    assert found["a"].result == "a"
    assert found["b"].failed == "out of memory: no more"
    assert found["b"].median is found["b"].spread is None
    low, high = found["c"].spread
    assert low <= found["c"].median <= high


ENGINE = {"peft_loop_s", "peft_best_s", "padded_s", "packed_s", "limit_s", "spread", "speedup", "speedup_best", "of_limit"}
ENGINE |= {"shape", "dtype", "quantization", "max_rel_grad_error", "rel_grad_error_padded", "padding_share", "tokens", "peak_bytes"}
ENGINE |= {"attention_packed_s", "attention_causal_s", "failed"}


@pytest.mark.parametrize("jitter", ["0", "0.5"])
def test_engine_compares_the_same_meta_gradient(main, jitter):
    found = main("engine", "--shapes", "short", "--dtypes", "fp32,nf4-fp32", "--tasks", "3", "--examples", "4", "--jitter", jitter)
    dense, four_bit = found["rows"]
    assert dense.keys() >= ENGINE
    assert [row["quantization"] for row in (dense, four_bit)] == ["none", "nf4"]
    for row in (dense, four_bit):
        assert row["failed"] == {}
        assert row["peak_bytes"] == dict.fromkeys(("peft_loop", "peft_best", "padded", "packed", "limit"))
        assert set(row["spread"]) == {"peft_loop_s", "peft_best_s", "padded_s", "packed_s", "limit_s"}
        assert row["rel_grad_error_padded"] < 1e-3
        # bitsandbytes' own product sums in another order
        assert row["max_rel_grad_error"] < (1e-3 if row is dense else 2e-2)
        assert row["rel_grad_error_stock"] < (1e-3 if row is dense else 2e-2)
        assert row["whole_rel_grad_error"] <= row["max_rel_grad_error"]
        assert row["tokens"] == row["rows"][0] * row["rows"][1]
        if jitter == "0":
            assert row["padding_share"] == 0
            assert row["tokens"] >= 3 * (24 + 4 * 12)
        else:
            assert 0 < row["padding_share"] < 0.5


def test_engine_leaves_out_sides_that_are_not_wanted(main):
    (row,) = main("engine", "--shapes", "short", "--dtypes", "fp32", "--tasks", "1", "--examples", "2", "--sides", "packed,limit")["rows"]
    assert row["peft_loop_s"] is row["padded_s"] is row["speedup"] is row["max_rel_grad_error"] is None
    assert row["of_limit"] == row["limit_s"] / row["packed_s"]


def test_engine_prints_a_profile(main, capsys):
    assert main("engine", "--shapes", "short", "--dtypes", "fp32", "--tasks", "1", "--examples", "2", "--profile")["rows"] == []
    printed = capsys.readouterr().out
    assert "short, fp32, packed:" in printed
    assert "short, fp32, limit:" in printed
    assert "aten::mm" in printed


def test_stock_sides_run_what_others_wrote_and_leave_the_base_as_it_was(tiny_spec):
    from bench_engine import stock

    base = load_base(tiny_spec("nf4"), "cpu")

    def state():
        return {name: (type(module), module.__dict__.get("forward")) for name, module in base.model.named_modules()}

    before, attention = state(), base.model.config._attn_implementation
    with stock(base) as adapter:
        inside = [module for module in base.model.modules() if is_four_bit(module)]
        assert inside
        assert all("forward" not in module.__dict__ for module in base.model.modules())
        assert not any(module.support_avx512bf16_for_cpu for module in inside)
        assert base.model.config._attn_implementation == "sdpa"
        assert all(tensor.dtype == torch.float32 for tensor in adapter.values())
        assert {name.rsplit(".", 1)[1] for name in adapter} == {"lora_A", "lora_B"}
    assert state() == before
    assert base.model.config._attn_implementation == attention
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_like_lengths_go_together():
    from bench_engine import WASTE, like_lengths

    from headstart.tasks.rows import Rendered

    examples = [[Rendered(tuple(range(size)), 1)] for size in (10, 30, 11, 29, 10, 60)]
    groups = [[len(one.ids) for (one,) in group] for group in like_lengths(examples)]
    assert groups == [[60], [30, 29], [11, 10, 10]]
    assert all(max(group) * len(group) * (1 - WASTE) <= sum(group) for group in groups)


def test_the_large_base_is_refused_on_a_cpu(capsys):
    import bench_engine

    with pytest.raises(SystemExit) as stopped:
        bench_engine.main(["--shapes", "8b", "--device", "cpu"])
    assert stopped.value.code == 2
    assert "needs a GPU" in capsys.readouterr().err


def test_a_random_base_of_the_large_ones_making(monkeypatch):
    import bench_engine
    from _bench import Shape, conversations, random_base

    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    base = random_base(LlamaConfig(vocab_size=320, tie_word_embeddings=False, initializer_range=0.1, **sizes), CPU, "nf4-fp32")
    packed = [name for name, module in base.model.named_modules() if is_four_bit(module)]
    assert len(packed) == 2 * 7
    assert all(module.weight.numel() <= module.in_features * module.out_features // 2 for module in map(base.model.get_submodule, packed))
    assert not any(parameter.is_meta for parameter in [*base.model.parameters(), *base.model.buffers()])
    assert base.packs
    row = bench_engine.measure(base, conversations(Shape(2, 3, 8, 6), 320), bench_engine.SIDES, repeats=1)
    assert row["rel_grad_error_padded"] < 1e-3
    assert row["max_rel_grad_error"] < 2e-2


def test_scaling(main):
    rows = main("scaling", "--dtype", "fp32", "--tasks", "1,2", "--own", "4,8", "--fixed-tasks", "2", "--examples", "2")["rows"]
    keys = {"T", "tokens", "packed_s", "limit_s", "of_limit", "spread", "sweep", "own", "packed_growth", "limit_growth"}
    assert all(keys <= row.keys() for row in rows)
    assert [(row["sweep"], row["T"], row["own"]) for row in rows] == [
        ("tasks", 1, 12),
        ("tasks", 2, 12),
        ("tokens", 2, 4),
        ("tokens", 2, 8),
    ]
    assert rows[1]["tokens"] == 2 * rows[0]["tokens"]
    assert [row["packed_growth"] for row in rows[::2]] == [1, 1]


@pytest.mark.parametrize("hvp", ["exact", "double_backward"])
def test_memory_of_the_adjoint_is_flat_and_that_of_the_graph_grows(main, hvp, capsys):
    found = main("memory", "--steps", "1,2,4", "--tasks", "2", "--examples", "3", "--hvp", hvp)
    rows = {(row["side"], row["K"]): row for row in found["rows"]}
    assert {side for side, _ in rows} == {"adjoint", "unrolled", "first_order"}
    keys = {"side", "K", "saved_bytes", "state_bytes", "state_bytes_predicted", "seconds", "peak_bytes", "spread"}
    assert all(keys <= row.keys() for row in rows.values())
    for steps in (1, 2, 4):
        adjoint, unrolled, first = (rows[side, steps] for side in ("adjoint", "unrolled", "first_order"))
        assert adjoint["state_bytes"] == adjoint["state_bytes_predicted"]
        assert first["state_bytes"] <= first["state_bytes_predicted"]
        assert adjoint["rel_grad_error"] < 1e-3 < first["rel_grad_error"]
        assert all(row["saved_bytes"] <= row["peak_bytes"] for row in (adjoint, unrolled, first))
        assert first["saved_bytes"] <= adjoint["saved_bytes"] < unrolled["saved_bytes"]
    assert rows["adjoint", 4]["saved_bytes"] <= 1.1 * rows["adjoint", 2]["saved_bytes"]
    assert rows["unrolled", 4]["saved_bytes"] > 1.5 * rows["unrolled", 2]["saved_bytes"]
    assert found["summary"]["flat"]["over"] == [4, 2]
    assert found["summary"]["flat"]["verdict"] == "met"
    assert "aim: at most 1.1): met" in capsys.readouterr().out


def test_verdicts():
    from bench_memory import summary_of

    def row(side, steps, saved):
        return {"side": side, "K": steps, "saved_bytes": saved, "state_bytes": 10 * steps}

    rows = [row("adjoint", 2, 100), row("adjoint", 16, 120), row("first_order", 16, 50)]
    assert [aim["verdict"] for aim in summary_of(rows, "cpu").values()] == ["missed", "missed"]
    # the allocator's peak holds the states too
    rows = [row("adjoint", 2, 120), row("adjoint", 16, 260), row("first_order", 16, 250)]
    assert [aim["verdict"] for aim in summary_of(rows, "cuda").values()] == ["met", "met"]
    assert [aim["verdict"] for aim in summary_of(rows[:1], "cpu").values()] == ["met", "not measured"]


def test_saved_bytes_are_those_held_at_once_each_once():
    from bench_memory import SavedBytes

    there = torch.randn(100)
    x = torch.randn(100, requires_grad=True)
    with SavedBytes([there]) as saved:
        for _ in range(3):
            y = (x * x) * there  # x twice, and what was there
            y.sin().sum().backward()  # y
            del y
    assert saved.peak == 2 * 400
    assert saved._now == 0


def test_live_bytes_are_those_made_since_the_start():
    from bench_memory import LiveBytes

    x = torch.ones(100)
    with LiveBytes() as live:
        for _ in range(3):
            y = x.t() + 1
            z = y.view(10, 10) * 2
            del y, z
    assert live.peak == 2 * 400
    assert live._now == 0


def test_precision_is_of_gradients_and_meta_gradients(main):
    rows = main("precision")["rows"]
    assert {(row["of"], row["dtype"]) for row in rows} == {(of, dtype) for of in ("gradient", "meta-gradient") for dtype in ("bf16", "nf4")}
    assert all(0 < row["error"] < 1.5 for row in rows)


def test_tenants_come_out_alike_on_all_sides(main):
    found = main("tenants", "--dtypes", "fp32", "--tenants", "5", "--stock-tenants", "3", "--examples", "4", "--steps", "3")
    (row,) = found["rows"]
    assert (row["tenants"], row["stock_tenants"]) == (5, 3)
    assert row["peft_loop_loss_error"] < 1e-4
    assert row["peft_best_loss_error"] < 1e-4
    assert all(row[key] > 0 for key in ("headstart_per_minute", "peft_loop_per_minute", "peft_best_per_minute", "speedup", "speedup_best"))


def test_tenants_are_all_different_and_no_more_than_there_are_rows_for():
    from bench_tenants import tenants

    jobs = tenants(200, 16)
    assert len({job.name for job in jobs}) == len({job.rows for job in jobs}) == 200
    with pytest.raises(SystemExit, match="lower --tenants"):
        tenants(100_000, 16)
