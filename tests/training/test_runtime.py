"""Trackers go by accelerate's names, and what is not installed is said before anything long."""

from typing import get_args

import pytest
import torch
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import headstart.training.run as run_module
import headstart.training.runtime as runtime_module
from headstart.algorithms.types import MetaGradient
from headstart.recipe import RecipeError, Tracker, load_recipe
from headstart.training.errors import RunError
from headstart.training.run import meta_train
from headstart.training.runtime import Runtime

MULTITASK = {"algorithm": "multitask", "steps": 2}


def test_trackers_are_the_ones_that_accelerate_knows():
    assert set(get_args(Tracker)) == {str(tracker) for tracker in LoggerType} - {"all"}


@pytest.mark.parametrize("name", sorted(set(get_args(Tracker)) - {"tensorboard"}))
def test_a_tracker_that_is_not_installed_is_said_first(tiny_recipe, quiet, monkeypatch, name):
    monkeypatch.setattr(runtime_module, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    monkeypatch.setattr(run_module, "prepare_suite", lambda *_: pytest.fail("the suite was loaded"))
    with pytest.raises(RunError, match=rf"run\.report_to: {name} is not installed; run `pip install {name.replace('_', '-')}`"):
        meta_train(tiny_recipe(MULTITASK, run={"report_to": ["tensorboard", name]}), quiet)


def test_an_unknown_tracker_is_a_fault_of_the_recipe():
    with pytest.raises(RecipeError, match=r"run\.report_to\.0: .*got the text 'wanbd'; did you mean wandb\?"):
        load_recipe("quickstart", ["run.report_to=[wanbd]"])


def test_tensorboard_gets_the_numbers_of_phases_and_control(tiny_recipe, quiet):
    recipe = tiny_recipe(MULTITASK, run={"control": True})
    meta_train(recipe, quiet)
    events = EventAccumulator(str(recipe.run.output_dir / "tensorboard" / "headstart"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    # the control starts over from the last phase's start, but a tracker's steps never go back
    assert [event.step for event in events.Scalars("control/loss")] == [3, 4]
    assert list((recipe.run.output_dir / "tensorboard").rglob("hparams.yml"))


def test_without_trackers_there_is_no_folder_for_them(tiny_recipe, quiet):
    recipe = tiny_recipe(MULTITASK, run={"report_to": []})
    meta_train(recipe, quiet)
    assert not (recipe.run.output_dir / "tensorboard").exists()


def test_a_reduced_gradient_comes_back_part_by_part(tmp_path, monkeypatch):
    """Two ranks of which the other's gradient is zero: all is halved, and stands where it stood."""
    runtime = Runtime(tmp_path)
    monkeypatch.setattr(Runtime, "ranks", 2)
    monkeypatch.setattr(Runtime, "_reduce", lambda self, flat, kind: flat / 2)
    parts = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4.0)}
    matrices = {"a": torch.arange(8.0).view(2, 2, 2)}
    found = runtime.reduce(MetaGradient(parts, {"a": torch.ones(2)}, {"loss": 4.0}, matrices))
    torch.testing.assert_close(found.theta, {name: part / 2 for name, part in parts.items()})
    torch.testing.assert_close(found.log_rates, {"a": torch.full((2,), 0.5)})
    torch.testing.assert_close(found.matrix_rates, {"a": matrices["a"] / 2})
    assert found.metrics == {"loss": 2.0}
