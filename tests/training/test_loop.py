"""What a run draws at a step, as its recipe wants it."""

import os
import signal
from collections import Counter
from dataclasses import replace

import pytest
import torch

import headstart.training.run as run_module
from headstart.adapter.meta_adapter import MetaAdapter
from headstart.recipe import InnerSection, MultitaskPhase
from headstart.tasks.episodes import training_episode
from headstart.tasks.regimes import house_rules
from headstart.training.errors import Stopped
from headstart.training.loop import episode_of, starting_rates
from headstart.training.run import meta_train
from headstart.training.state import State

FOMAML = {"algorithm": "fomaml", "steps": 4, "inner": {"steps": 2, "learning_rate": 0.01}}
REDRAWN = {"support": [2, 6], "regime": "mixed", "codes": "episode", "paraphrase": True}


@pytest.fixture
def toy_suite(toy_suite):
    """With a classification and other wordings among what is trained on."""
    tasks = {name: replace(task, paraphrases=(f"{task.instruction} Now.", "Do it.")) for name, task in toy_suite.tasks.items()}
    splits = {"meta_train": ("upper", "title", "reverse", "vowel"), "meta_validation": ("sorted",), "meta_test": ("twice",)}
    return replace(toy_suite, tasks=tasks, splits=splits)


def drawn(recipe, suite, steps=range(40), rank=0):
    phase = recipe.phases[0]
    return [episode_of(recipe, suite, phase, step, rank) for step in steps]


def test_a_step_draws_one_number_of_shots_for_all_tasks_and_ranks(tiny_recipe, toy_suite):
    recipe = tiny_recipe(FOMAML, suite={"support": [2, 6]})
    first, second = (drawn(recipe, toy_suite, rank=rank) for rank in (0, 1))
    sizes = [{len(draw.support[0]) for draw in (*one, *other)} for one, other in zip(first, second, strict=True)]
    assert all(len(each) == 1 for each in sizes)
    counts = Counter(size for each in sizes for size in each)
    assert set(counts) == {2, 6}
    assert min(counts.values()) > 10


def test_one_number_of_shots_draws_as_it_always_did(tiny_recipe, toy_suite):
    (episode,) = drawn(tiny_recipe(FOMAML), toy_suite, [7])
    assert episode == training_episode(toy_suite, seed=0, step=7, tasks=2, support=4, query=4)


def test_the_recipe_says_what_is_drawn_anew(tiny_recipe, toy_suite):
    ruled = house_rules(toy_suite.tasks["vowel"])
    suite = replace(toy_suite, tasks={**toy_suite.tasks, "vowel": ruled})
    fixed, fresh = (tiny_recipe(FOMAML, suite={"tasks_per_step": 4, **each}) for each in ({}, REDRAWN))
    seen = {"codes": [], "wordings": []}
    for recipe in (fixed, fresh):
        tasks = [draw.task for episode in drawn(recipe, suite) for draw in episode]
        seen["codes"].append({task.labels for task in tasks if task.name == "vowel"})
        seen["wordings"].append({task.instruction for task in tasks if task.name == "upper"})
    assert seen["codes"][0] == {ruled.labels}
    assert len(seen["codes"][1]) == 40
    assert seen["wordings"] == [{"Shout."}, {"Shout.", "Shout. Now.", "Do it."}]


def test_plain_training_draws_them_too(tiny_recipe, toy_suite):
    recipe = tiny_recipe(FOMAML, suite=REDRAWN)
    plain = episode_of(recipe, toy_suite, MultitaskPhase(algorithm="multitask", steps=1), 3)
    (same,) = drawn(recipe, toy_suite, [3])
    assert [(draw.task, draw.query) for draw in plain] == [(draw.task, draw.query) for draw in same]
    assert all(draw.support == () for draw in plain)


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_draws_anew_is_resumed_to_the_same_bits(tiny_recipe, quiet, outcome, monkeypatch):
    whole, parted = (tiny_recipe(FOMAML, folder=folder, suite=REDRAWN) for folder in ("whole", "parted"))
    meta_train(whole, quiet)
    log = run_module.Session.log

    def interrupted(session, values, step):
        log(session, values, step)
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Session, "log", interrupted)
        with pytest.raises(Stopped):
            meta_train(parted, quiet)
    meta_train(parted, quiet, resume=True)
    assert outcome(parted.run.output_dir) == outcome(whole.run.output_dir)
    splits = MetaAdapter.from_pretrained(whole.run.output_dir / "adapter").record["suite"]["splits"]
    assert "vowel@house_rules" in splits["meta_train"]


NAMES = {"x.lora_A": torch.zeros(2, 6), "x.lora_B": torch.zeros(6, 2)}


def started(state_rates, **inner):
    loop = InnerSection(steps=2, learning_rate=0.01, **inner)
    return starting_rates(loop, State(NAMES, state_rates))


def test_preconditioners_start_as_the_identity_from_learned_rates_or_the_recipes():
    learned = {name: torch.tensor([0.3, 0.1]) for name in NAMES}
    constant = torch.full((2,), 0.01)
    for given, numbers in ((learned, learned["x.lora_A"]), ({}, constant), ({"y": torch.ones(2)}, constant)):
        for rate in started(given, precondition=True).values():
            assert torch.equal(rate, numbers[:, None, None] * torch.eye(2))


def test_matrices_go_on_where_they_are_learned_and_nowhere_else():
    matrices = {name: torch.rand(2, 2, 2) for name in NAMES}
    assert all(torch.equal(rate, matrices[name]) for name, rate in started(matrices, precondition=True).items())
    assert all(torch.equal(rate, torch.full((2,), 0.01)) for rate in started(matrices).values())
    longer = {name: torch.rand(3, 2, 2) for name in NAMES}
    assert all(torch.equal(rate, 0.01 * torch.eye(2).expand(2, 2, 2)) for rate in started(longer, precondition=True).values())


def test_a_phase_may_judge_on_other_than_the_suites_number(tiny_recipe, toy_suite):
    recipe = tiny_recipe(FOMAML, {**FOMAML, "query": 6}, suite={"support": 4, "query": 3})
    usual, more = (episode_of(recipe, toy_suite, phase, 5) for phase in recipe.phases)
    assert [len(draw.query) for draw in usual] == [3, 3]
    assert [len(draw.query) for draw in more] == [6, 6]
    assert [draw.task for draw in usual] == [draw.task for draw in more]
