"""Real processes under real launchers: ranks are counted, R ranks of T tasks are one rank of R*T, and all stop together."""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from headstart.cli import MISTAKE, STOPPED
from headstart.recipe import load_recipe
from headstart.training.errors import RunError
from headstart.training.folder import RESOLVED
from headstart.training.run import meta_train
from headstart.training.runtime import Runtime, losing_ranks, wanted_ranks

# a rendezvous of its own on a free port
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2")
FOMAML = {"algorithm": "fomaml", "steps": 3, "inner": {"steps": 2, "learning_rate": 0.01}}


@pytest.fixture
def one_thread():
    """This process computes as its children do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_two_ranks_of_two_tasks_reduce_to_one_rank_of_four(command, tmp_path, monkeypatch):
    script = str(Path(__file__).with_name("one_meta_gradient.py"))
    paths = [str(tmp_path / name) for name in ("two", "one")]
    halves = [script, str(command(FOMAML, suite={"tasks_per_step": 2}).recipe), paths[0]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*TORCHRUN, *halves], check=True, timeout=240, env=environment, capture_output=True)
    monkeypatch.setattr(sys, "argv", [script, str(command(FOMAML, suite={"tasks_per_step": 4}).recipe), paths[1]])
    runpy.run_path(script)
    two, one = map(load_file, paths)
    assert (int(two.pop("ranks")), int(one.pop("ranks"))) == (2, 1)
    assert two.keys() == one.keys()
    assert {name.split("/")[0] for name in one} == {"theta", "log_rates", "metrics"}
    # how much filling there is depends on which tasks are laid out together, and changes nothing else
    for name in one.keys() - {"metrics/padding_share"}:
        expected = one[name]
        assert float((two[name] - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), name


def test_whole_run_of_two_ranks_is_one_of_twice_the_tasks(command, tmp_path, quiet):
    phases, run = ({"algorithm": "multitask", "steps": 2}, FOMAML), {"control": True}
    code, printed, errors = command(*phases, launcher=TORCHRUN, run=run).run()
    assert code == 0, errors
    assert printed.count("2 rank(s)") == 1, "more than the first rank printed"
    assert json.loads((tmp_path / "run" / "adapter" / "headstart.json").read_text())["record"]["ranks"] == 2
    meta_train(load_recipe(command(*phases, suite={"tasks_per_step": 4}, folder="alone", run=run).recipe), quiet)
    rows, expected_rows = (
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()] for run in ("run", "alone")
    )
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    for row, expected in zip(rows, expected_rows, strict=True):
        assert row.get("tasks") == expected.get("tasks")
        # what is filled up and computed depends on which tasks are laid out together
        for name in row.keys() - {"phase", "seconds", "padding_share", "tasks", "flops", "tokens"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4), name
    mine, theirs = (load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("run", "alone"))
    differences = torch.cat([(mine[key] - theirs[key]).abs().flatten() for key in theirs])
    # AdamW moves every entry by about its rate, 0.01, whatever its gradient's size: the few entries whose gradient is little more
    # than rounding may go anywhere in that range, all the others agree
    assert float(differences.quantile(0.99)) < 1e-4
    assert float(differences.max()) < 0.05


def test_two_ranks_search_as_they_run_and_train_their_control(command, tmp_path):
    """Several runs in one process share its ranks; and operations and tokens are of both."""
    search = {"grid": {"outer.learning_rate": [0.01, 0.02]}}
    asked = command({"algorithm": "multitask", "steps": 2}, launcher=TORCHRUN, search=search)
    code, printed, errors = asked.run()
    assert code == 0, errors
    assert printed.count("of 2 is the best") == 1
    record = json.loads((tmp_path / "run" / "adapter" / "headstart.json").read_text())["record"]
    assert (record["ranks"], len(record["search"]["losses"])) == (2, 2)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][1:]
    assert record["cost"]["flops"] == sum(row["flops"] for row in rows)
    assert record["cost"]["tokens"] == sum(row["tokens"] for row in rows)
    control = [*TORCHRUN, "-m", "headstart", "meta-train", "--equal-compute-of", str(tmp_path / "run")]
    subprocess.run(control, check=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    about = json.loads((tmp_path / "run" / "control" / "adapter" / "headstart.json").read_text())["record"]
    assert about["control_of"]["flops"] == record["cost"]["flops"] <= about["control_of"]["spent"]
    assert about["ranks"] == 2
    assert len(about["search"]["losses"]) == 2


def stop(process, folder, number):
    """Send a signal once there is a new checkpoint; gives the exit code and what was printed as errors."""
    before = set(folder.glob("checkpoints/step-*"))
    while not set(folder.glob("checkpoints/step-*")) - before:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def test_ranks_stop_together_and_go_on_to_the_same_bits(command, tmp_path, outcome):
    phases, run = [{"algorithm": "multitask", "steps": 60}], {"save_steps": 3}
    code, _, errors = command(*phases, launcher=TORCHRUN, run=run, folder="whole").run()
    assert code == 0, errors
    broken = command(*phases, launcher=TORCHRUN, run=run)
    _, errors = stop(broken.start(), tmp_path / "run", signal.SIGINT)
    assert "go on, under the same launcher, with: headstart meta-train" in errors
    assert errors.count("stopped after step") == 1
    code, _, errors = broken.run("--resume")
    assert code == 0, errors
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_an_error_on_one_rank_ends_all(command, tmp_path):
    """The first rank cannot save, while the other waits for it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(RESOLVED)
    (tmp_path / "run" / "checkpoints").touch()
    began = time.monotonic()
    code, _, errors = command(FOMAML, launcher=TORCHRUN).run()
    assert code != 0
    assert "headstart: " in errors
    assert "checkpoints/step-000002: cannot be written" in errors
    assert time.monotonic() - began < 100


def test_a_process_killed_and_then_interrupted_goes_on_to_the_same_bits(command, tmp_path, outcome, quiet, one_thread):
    phases, run = [{"algorithm": "multitask", "steps": 200}, FOMAML], {"save_steps": 3, "control": True}
    meta_train(load_recipe(command(*phases, run=run, folder="whole").recipe), quiet)
    broken, folder = command(*phases, run=run), tmp_path / "run"
    stop(broken.start(), folder, signal.SIGKILL)
    code, errors = stop(broken.start("seed=0", "--resume"), folder, signal.SIGINT)
    assert code == STOPPED
    assert f"go on with: headstart meta-train {broken.recipe} seed=0 --resume\n" in errors
    assert "Traceback" not in errors
    assert not (folder / "adapter").exists()
    code, printed, errors = broken.run("--resume")
    assert code == 0, errors
    assert "going on after step" in printed
    assert outcome(folder) == outcome(tmp_path / "whole")


def test_accelerate_launch_on_cpus_is_told_how_to_start_two(command, tmp_path):
    code, _, errors = command(FOMAML, launcher=ACCELERATE).run()
    assert code != 0
    assert "asked for several processes but started one" in errors
    assert "torchrun --standalone --nproc_per_node N -m headstart meta-train" in errors
    assert not (tmp_path / "run").exists()


def test_port_in_use_is_named(command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        code, _, errors = command(FOMAML).run(**ranks)
    assert code == MISTAKE
    assert f"MASTER_PORT {port}" in errors
    assert "set MASTER_PORT to a port that is free" in errors
    assert "Traceback" not in errors


def test_as_many_ranks_as_were_asked_for(tmp_path, monkeypatch):
    Runtime(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RunError, match=r"asked for 3 rank\(s\), but there is 1; start it with `torchrun --standalone --nproc_per_node 3"):
        Runtime(tmp_path)


def test_launchers_say_how_many_they_start():
    assert wanted_ranks({}) == 1
    assert wanted_ranks({"MASTER_PORT": "29500"}) == 1
    assert wanted_ranks({"ACCELERATE_MIXED_PRECISION": "no"}) == 1
    assert wanted_ranks({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "1", "WORLD_SIZE": "4"}) == 4
    assert wanted_ranks({"OMPI_COMM_WORLD_SIZE": "2"}) == 2


def test_a_lost_rank_is_a_message():
    with pytest.raises(RunError, match="another rank is gone"), losing_ranks():
        raise RuntimeError("Connection closed by peer\nmore")
