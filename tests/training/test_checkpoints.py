"""Stopping at any step and going on gives the bits of a run that was never stopped; what cannot be gone on from is refused."""

import errno
import json
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

import headstart.files
import headstart.training.checkpoints as checkpoints_module
import headstart.training.run as run_module
from headstart.errors import HeadstartError
from headstart.interrupt import interruptible
from headstart.model.base import load_base
from headstart.recipe import load_recipe
from headstart.tasks.reading.source import of_suite
from headstart.training import checkpoints
from headstart.training.errors import RunError, Stopped
from headstart.training.folder import check_folder, cut_metrics
from headstart.training.run import Session, meta_train
from headstart.training.validation import Validation

PHASES = (
    {"algorithm": "multitask", "steps": 2},
    {"algorithm": "fomaml", "steps": 3, "inner": {"steps": 2, "learning_rate": 0.01}},
)
RUN = {"control": True, "save_steps": 2}


class Killed(BaseException):
    """Stands for a process that ends where it is."""


def end_at(monkeypatch, row, how):
    """Do something as soon as the run has logged so many steps, the control's among them."""
    seen = []
    log = Session.log

    def logging(self, values, step):
        log(self, values, step)
        seen.append(step)
        if len([step for step in seen if step]) == row:
            how()

    monkeypatch.setattr(Session, "log", logging)


def kill():
    raise Killed


def ask_to_stop():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def stopped(tiny_recipe, quiet):
    """A run that was asked to stop in its fourth step; its checkpoints are steps 2 and 4."""
    recipe = tiny_recipe(*PHASES, run=RUN)
    with pytest.MonkeyPatch.context() as patch:
        end_at(patch, 4, ask_to_stop)
        with pytest.raises(Stopped, match="stopped after step 4"):
            meta_train(recipe, quiet)
    assert names(recipe) == ["step-000002", "step-000004"]
    return recipe


def names(recipe):
    return sorted(path.name for path in (recipe.run.output_dir / "checkpoints").iterdir())


def change(recipe, section, **values):
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})


# steps 1 and 2 are the first phase, 3 to 5 the second, the others the control
@pytest.mark.parametrize(("ending", "row"), [(ask_to_stop, row) for row in range(1, 9)] + [(kill, row) for row in (3, 5, 6, 8)])
def test_resumed_is_uninterrupted_to_the_bit(tiny_recipe, quiet, monkeypatch, outcome, ending, row):
    whole, broken = (tiny_recipe(*PHASES, folder=folder, run=RUN) for folder in ("whole", "broken"))
    meta_train(whole, quiet)
    with monkeypatch.context() as patch:
        end_at(patch, row, ending)
        with pytest.raises((Stopped, Killed)):
            meta_train(broken, quiet)
    assert not (broken.run.output_dir / "adapter").exists()
    returned = meta_train(broken, quiet, resume=True)
    (tensors, metrics), (expected_tensors, expected_metrics) = outcome(broken.run.output_dir), outcome(whole.run.output_dir)
    assert tensors == expected_tensors
    assert metrics == expected_metrics
    assert {"adapter/rates.safetensors", "control/adapter/adapter_model.safetensors"} <= tensors.keys()
    assert len(metrics["control/metrics.jsonl"]) > 3
    assert [leg["flops"] for leg in returned.record["phases"]] == [leg["flops"] for leg in saved_phases(whole)]
    assert not (broken.run.output_dir / "checkpoints").exists()


def assert_goes_on(whole, broken, row, quiet, monkeypatch, outcome):
    """A run that is stopped at a row of its metrics and resumed ends as one that never was."""
    meta_train(whole, quiet)
    with monkeypatch.context() as patch:
        end_at(patch, row, ask_to_stop)
        with pytest.raises(Stopped):
            meta_train(broken, quiet)
    meta_train(broken, quiet, resume=True)
    assert outcome(broken.run.output_dir) == outcome(whole.run.output_dir)


# in each phase after its first step, at its end and at its last but one, and in the control
@pytest.mark.parametrize("row", [1, 2, 4, 7])
def test_averages_and_pulls_back_go_on_to_the_bit(tiny_recipe, quiet, monkeypatch, outcome, row):
    outer = {"learning_rate": 0.01, "warmup_steps": 1, "lr_scheduler_type": "linear", "ema_decay": 0.8, "proximal": 20.0}
    phases = ({**PHASES[0], "learning_rate": 0.02}, PHASES[1])
    whole, broken = (tiny_recipe(*phases, folder=folder, run=RUN, outer=outer) for folder in ("whole", "broken"))
    assert_goes_on(whole, broken, row, quiet, monkeypatch, outcome)


# in the phase with matrices, after its first step and at its end; in the next, which goes on with them
@pytest.mark.parametrize("row", [1, 2, 3, 4])
@pytest.mark.usefixtures("one_thread")
def test_preconditioners_go_on_to_the_bit(tiny_recipe, quiet, monkeypatch, outcome, row):
    mixing = {**PHASES[1], "steps": 2, "inner": {**PHASES[1]["inner"], "precondition": True}}
    phases = (mixing, {**mixing, "learn": "rates"})
    outer = {"learning_rate": 0.01, "warmup_steps": 1, "ema_decay": 0.5}
    whole, broken = (tiny_recipe(*phases, folder=folder, outer=outer) for folder in ("whole", "broken"))
    assert_goes_on(whole, broken, row, quiet, monkeypatch, outcome)


# a look in the middle of a phase is its best
@pytest.mark.parametrize("row", range(1, 9))
def test_the_best_state_is_kept_over_stops(tiny_recipe, quiet, monkeypatch, outcome, row):
    begun = {}

    def look(self, learner, theta, rates):
        norm = float(sum(tensor.square().sum() for tensor in theta.values()))
        first = begun.setdefault(tuple(rates), norm)
        return {"validation/loss_0": 0.0, "validation/loss_adapted": (norm - first - 0.02) ** 2, "validation/gain": 0.0}

    monkeypatch.setattr(Validation, "__call__", look)
    phases = ({"algorithm": "multitask", "steps": 4}, {**PHASES[1], "steps": 4})
    run = {"save_steps": 1, "eval_steps": 1, "load_best_model_at_end": True}
    whole, broken = (tiny_recipe(*phases, folder=folder, run=run) for folder in ("whole", "broken"))
    legs = meta_train(whole, quiet).record["phases"]
    with monkeypatch.context() as patch:
        end_at(patch, row, ask_to_stop)
        with pytest.raises(Stopped):
            meta_train(broken, quiet)
    resumed = meta_train(broken, quiet, resume=True).record["phases"]
    assert outcome(broken.run.output_dir) == outcome(whole.run.output_dir)
    assert [(leg["best_step"], leg["loss"], leg["tokens"]) for leg in resumed] == [
        (leg["best_step"], leg["loss"], leg["tokens"]) for leg in legs
    ]
    assert any(leg["best_step"] < leg["steps"] for leg in legs), "no best state had to be kept"


def test_a_checkpoint_of_an_earlier_version_is_gone_on_from(stopped, quiet):
    """It counted no tokens and knew of no best state."""

    def older(about):
        about["schema_version"] = 1
        del about["leg_tokens"], about["best_loss"]
        for state in about["states"].values():
            for leg in state["spent"]:
                del leg["tokens"], leg["loss"], leg["best_step"]

    edit(stopped, older)
    record = meta_train(stopped, quiet, resume=True).record
    assert [leg["tokens"] > 0 for leg in record["phases"]] == [False, True]
    assert record["cost"]["flops"] == sum(leg["flops"] for leg in record["phases"])


def test_rows_are_laid_out_by_the_checkpoints_costs(stopped, quiet, monkeypatch):
    """Another measurement would choose other rows, and so other bits."""
    costs = checkpoints.load_newest(stopped.run.output_dir / "checkpoints").costs
    assert costs.linear > 0
    assert costs.blocks
    monkeypatch.setattr("headstart.training.run.measured_costs", lambda _: pytest.fail("measured again"))
    used = []
    monkeypatch.setattr(Session, "finish", lambda self, _: used.append(self.batcher.planner.costs))
    meta_train(stopped, quiet, resume=True)
    assert used == [costs]


def saved_phases(recipe):
    return json.loads((recipe.run.output_dir / "adapter" / "headstart.json").read_text())["record"]["phases"]


def test_a_run_stopped_at_every_step_ends_all_the_same(tiny_recipe, quiet, monkeypatch, outcome):
    whole, broken = (tiny_recipe(*PHASES, folder=folder, run=RUN) for folder in ("whole", "broken"))
    meta_train(whole, quiet)
    stops = 0
    while not (broken.run.output_dir / "adapter").exists():
        with monkeypatch.context() as patch:
            end_at(patch, 1, ask_to_stop)
            try:
                meta_train(broken, quiet, resume=stops > 0)
            except Stopped:
                stops += 1
    assert stops > len(PHASES) + 3
    assert outcome(broken.run.output_dir) == outcome(whole.run.output_dir)


def test_sigterm_asks_as_well(tiny_recipe, quiet, monkeypatch):
    end_at(monkeypatch, 1, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped, match="stopped after step 1"):
        meta_train(tiny_recipe(*PHASES), quiet)


def test_signal_handlers_are_given_back(stopped):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_other_threads_leave_signals_alone():
    handlers = []

    def look():
        with interruptible():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_second_interrupt_stops_at_once_and_the_checkpoint_stays_good(tiny_recipe, quiet, monkeypatch, outcome):
    whole, broken = (tiny_recipe(*PHASES, folder=folder, run=RUN) for folder in ("whole", "broken"))
    meta_train(whole, quiet)

    def twice():
        ask_to_stop()
        ask_to_stop()

    with monkeypatch.context() as patch:
        end_at(patch, 4, twice)
        with pytest.raises(KeyboardInterrupt) as caught:
            meta_train(broken, quiet)
    assert not isinstance(caught.value, Stopped)
    meta_train(broken, quiet, resume=True)
    assert outcome(broken.run.output_dir) == outcome(whole.run.output_dir)


def test_evaluation_looks_change_no_training(tiny_recipe, quiet, outcome):
    often, seldom = (tiny_recipe(*PHASES, folder=str(steps), run={**RUN, "eval_steps": steps}) for steps in (1, 50))
    for recipe in (often, seldom):
        meta_train(recipe, quiet)
    assert outcome(often.run.output_dir)[0] == outcome(seldom.run.output_dir)[0]


def test_checkpoint_holds_the_adapter_and_nothing_of_the_base(stopped, tiny_spec):
    base = load_base(tiny_spec(), "cpu")
    weights = {tuple(tensor.shape) for name, tensor in base.model.named_parameters()}
    folder = stopped.run.output_dir / "checkpoints" / "step-000004"
    assert {path.name for path in folder.iterdir()} == {"state.safetensors", "checkpoint.json"}
    with safe_open(folder / "state.safetensors", framework="pt") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    assert {name.split("/")[0] for name in shapes} == {"start", "now", "outer"}
    assert all("lora_" in name for name in shapes)
    assert not weights & set(shapes.values())
    about = json.loads((folder / "checkpoint.json").read_text())
    assert about["step"] == 4
    assert about["leg"] == 1
    assert about["identity"]["ranks"] == 1
    assert about["made_by"]["versions"].keys() >= {"torch", "headstart"}


def test_a_stray_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "step-000002").mkdir()
    (tmp_path / "step-000009.bak").mkdir()
    assert [path.name for path in checkpoints.found(tmp_path)] == ["step-000002"]


@pytest.mark.parametrize("limit", [1, 3])
def test_newest_checkpoints_are_kept(tiny_recipe, quiet, monkeypatch, limit):
    recipe = tiny_recipe({"algorithm": "multitask", "steps": 9}, run={"save_steps": 1, "save_total_limit": limit})
    end_at(monkeypatch, 8, kill)
    with pytest.raises(Killed):
        meta_train(recipe, quiet)
    assert names(recipe) == [f"step-{step:06d}" for step in range(8 - limit, 8)]


def test_keys_that_change_no_result_may_differ(stopped, quiet, monkeypatch, outcome):
    folder = stopped.run.output_dir
    monkeypatch.chdir(folder.parent)
    other = change(stopped, "run", output_dir=Path(folder.name), report_to=(), save_steps=1, save_total_limit=5)
    meta_train(other, quiet, resume=True)
    assert (folder / "adapter").exists()


def refused(recipe, quiet, monkeypatch, resume=True):
    """The message, given before the base is loaded."""
    monkeypatch.setattr(run_module, "load_base", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(RunError) as caught:
        meta_train(recipe, quiet, resume=resume)
    return str(caught.value)


def test_nothing_to_resume_from(tiny_recipe, quiet, monkeypatch):
    assert "run without --resume" in refused(tiny_recipe(*PHASES), quiet, monkeypatch)


def test_a_stopped_run_is_not_started_anew(stopped, quiet, monkeypatch):
    assert "add --resume" in refused(stopped, quiet, monkeypatch, resume=False)


def test_another_recipe_is_refused_with_its_differences(stopped, quiet, monkeypatch):
    other = change(change(stopped, "outer", learning_rate=0.5), "run", control=False)
    message = refused(other, quiet, monkeypatch)
    assert "outer.learning_rate: 0.01 in the checkpoint, 0.5 in this run" in message
    assert "run.control: true in the checkpoint, false in this run" in message
    assert "save_steps" not in message


def test_another_suite_is_refused(stopped, quiet, monkeypatch, toy_suite):
    monkeypatch.setattr("headstart.tasks.prepare.open_source", lambda *_: of_suite(replace(toy_suite, revision="new")))
    assert "the suite has changed" in refused(stopped, quiet, monkeypatch)


def test_another_base_is_refused(stopped, quiet, monkeypatch):
    monkeypatch.setattr(run_module, "fingerprint", lambda folder: "0123")
    assert "the base has other weights" in refused(stopped, quiet, monkeypatch)


def test_another_number_of_ranks_is_refused(stopped, quiet, monkeypatch):
    edit(stopped, lambda about: about["identity"].update(ranks=2))
    assert "saved by 2 rank(s), this run has 1; start it with `torchrun" in refused(stopped, quiet, monkeypatch)


def test_a_newer_schema_is_refused(stopped, quiet, monkeypatch):
    edit(stopped, lambda about: about.update(schema_version=99))
    assert "written by a newer headstart (schema 99); upgrade" in refused(stopped, quiet, monkeypatch)


def edit(recipe, changing):
    path = recipe.run.output_dir / "checkpoints" / "step-000004" / "checkpoint.json"
    about = json.loads(path.read_text())
    changing(about)
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("state.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        ("state.safetensors", lambda path: path.unlink()),
        ("checkpoint.json", lambda path: path.write_text(path.read_text()[:50])),
        ("checkpoint.json", lambda path: path.write_text("[]")),
        ("checkpoint.json", lambda path: path.write_text("{}")),
    ],
)
def test_a_spoilt_checkpoint_is_named_and_the_earlier_one_is_good(stopped, quiet, monkeypatch, name, spoil):
    newest = stopped.run.output_dir / "checkpoints" / "step-000004"
    spoil(newest / name)
    message = refused(stopped, quiet, monkeypatch)
    assert f"{newest}/{name}: not a whole checkpoint" in message
    assert f"remove {newest} to go on from step-000002" in message
    monkeypatch.undo()
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    assert checkpoints_module.load_newest(newest.parent).position.steps == 2


def test_a_single_spoilt_checkpoint_has_no_earlier_one(tmp_path):
    (tmp_path / "step-000001").mkdir()
    with pytest.raises(RunError, match="there is no earlier one"):
        checkpoints_module.load_newest(tmp_path)


def full_disk(*_arguments, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_leaves_the_earlier_checkpoint_to_go_on_from(tiny_recipe, quiet, monkeypatch, outcome):
    whole, broken = (tiny_recipe(*PHASES, folder=folder, run={**RUN, "save_steps": 1}) for folder in ("whole", "broken"))
    meta_train(whole, quiet)
    folder = broken.run.output_dir / "checkpoints"
    with monkeypatch.context() as patch:
        end_at(patch, 4, lambda: patch.setattr(checkpoints_module, "write_json", full_disk))
        with pytest.raises(HeadstartError, match=r"step-000004: cannot be written: No space left on device"):
            meta_train(broken, quiet)
    assert sorted(path.name for path in folder.iterdir()) == ["step-000002", "step-000003"]
    meta_train(broken, quiet, resume=True)
    assert outcome(broken.run.output_dir) == outcome(whole.run.output_dir)


def test_output_folder_that_cannot_be_one(tiny_recipe, quiet, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/run"):
        assert "is a file; name another folder" in refused(tiny_recipe(*PHASES, folder=folder), quiet, monkeypatch, resume=False)


def test_output_folder_of_something_else(tiny_recipe, quiet, monkeypatch, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    assert "is not empty and holds no run of headstart" in refused(tiny_recipe(*PHASES), quiet, monkeypatch, resume=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_output_folder_without_permission(tiny_recipe, quiet, monkeypatch):
    def forbidden(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(headstart.files.os, "replace", forbidden)
    message = refused(tiny_recipe(*PHASES), quiet, monkeypatch, resume=False)
    assert "recipe.yaml: cannot be written: Permission denied; name a folder that can be written" in message


def test_a_run_that_ended_before_its_first_checkpoint_starts_anew(tiny_recipe, quiet, monkeypatch):
    recipe = tiny_recipe(*PHASES)
    with monkeypatch.context() as patch:
        end_at(patch, 1, kill)
        with pytest.raises(Killed):
            meta_train(recipe, quiet)
    meta_train(recipe, quiet)
    assert len((recipe.run.output_dir / "metrics.jsonl").read_text().splitlines()) == 6


def test_empty_folder_may_be_written(tmp_path):
    check_folder(tmp_path, resume=False)


def test_metrics_are_cut_at_a_step_and_a_torn_row_goes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = "".join(f'{{"step": {step}, "loss": 1.50}}\n' for step in range(5))
    path.write_text(rows + '{"step": 5, "lo')
    cut_metrics(path, 9)
    assert path.read_text() == rows
    cut_metrics(path, 2)
    assert path.read_text() == rows[: len(rows) // 5 * 3]
    cut_metrics(path, -1)
    assert not path.exists()


def test_limit_of_checkpoints_is_transformers_name():
    assert load_recipe("quickstart").run.save_total_limit == 2
