"""A toy run that was trained with a control, and a bench to run arms on."""

import shutil

import pytest
import torch

from headstart.algorithms.inner import expand
from headstart.algorithms.rules import Adam
from headstart.evaluation.arms import Arm
from headstart.evaluation.design import Setting
from headstart.evaluation.protocol import Bench, Protocol
from headstart.passes import Passes
from headstart.recipe import parse_recipe
from headstart.tasks.reading.source import of_suite
from headstart.training.run import meta_train

STEPS = (0, 1, 3)


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """Neither a user's ledger nor what was measured before is touched."""
    monkeypatch.setattr("headstart.evaluation.kept.kept_folder", lambda: tmp_path / "kept")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def toy_source(toy_suite, monkeypatch):
    """Whatever source is named, it is the toy suite."""
    monkeypatch.setattr("headstart.tasks.prepare.open_source", lambda *_: of_suite(toy_suite))


@pytest.fixture(scope="session")
def run_content(tiny_folder):
    """A recipe for a run of seconds."""
    return {
        "base": {"id": "test/tiny", "source": str(tiny_folder), "quantization": "nf4", "dtype": "float32"},
        "suite": {"source": "toy", "support": 4, "query": 4, "tasks_per_step": 2},
        "phases": [{"algorithm": "fomaml", "steps": 2, "inner": {"steps": 2}}],
        "run": {"eval_tasks": 1, "control": True},
        "evaluation": {
            "support": 4,
            "query": 4,
            "steps": list(STEPS),
            "regimes": ["instructed"],
            "tuning_tasks": 1,
            "learning_rates": [1e-3],
            "rate_factors": [1.0],
            "drift_tokens": 0,
        },
    }


@pytest.fixture(scope="session")
def trained(run_content, tmp_path_factory):
    """Trains a run of a seed on the toy suite as the test has it, once a session."""
    made = {}

    def train(seed, suite, quiet):
        seed_and_splits = seed, tuple(suite.splits.items())
        if seed_and_splits not in made:
            folder = tmp_path_factory.mktemp(f"seed-{seed}") / "run"
            content = {**run_content, "seed": seed, "run": {**run_content["run"], "output_dir": str(folder)}}
            meta_train(parse_recipe(content), quiet)
            made[seed_and_splits] = folder
        return made[seed_and_splits]

    return train


@pytest.fixture
def run_of(trained, tmp_path, quiet, toy_suite):
    """A copy of a run of a seed, which a test may change."""
    return lambda seed: shutil.copytree(trained(seed, toy_suite, quiet), tmp_path / f"run-{seed}")


@pytest.fixture
def run_folder(run_of):
    return run_of(0)


@pytest.fixture
def protocol():
    return Protocol(Setting("instructed", 4), query=6, steps=STEPS, horizons=(3,), draws=2, seed=0)


@pytest.fixture
def bench(learner, batcher):
    passes = Passes(learner, batcher(learner.base))
    return Bench(passes, passes)


@pytest.fixture
def arm_of():
    """Builds an arm with one rate over a learner."""

    def build(learner, candidates=(0.01,), name="random", seed=0):
        theta = {key: tensor + 0.01 for key, tensor in learner.fresh_adapter(seed).items()}
        ones = {key: torch.ones(1) for key in theta}
        return Arm(name, seed, lambda episode: expand(theta, len(episode)), Adam(), ones, candidates)

    return build
