"""Passes in micro-batches: what they are split into changes no result."""

import pytest
import torch

from headstart.algorithms.inner import gradients
from headstart.passes import Passes, split
from headstart.tasks.episodes import Draw
from headstart.tasks.planner import Sizes


@pytest.fixture
def draws(toy_suite):
    """Three tasks with examples of unlike number and length."""
    tasks = [toy_suite.tasks[name] for name in ("upper", "twice", "vowel")]
    return [Draw(task, (), task.examples[:count]) for task, count in zip(tasks, (5, 3, 6), strict=True)]


@pytest.fixture
def phi(learner, random_phi):
    return random_phi(learner, 3)


@pytest.fixture
def passes(learner, base, batcher):
    return lambda tokens: Passes(learner, batcher(base), tokens)


def test_split_keeps_order_and_every_example_within_the_limit():
    sizes = [Sizes(10, (5, 5)), Sizes(4, (3,) * 20), Sizes(0, ()), Sizes(1, (100, 2))]
    parts = split(sizes, 32)
    flat = [(task, index) for micro in parts for task, part in micro for index in part]
    assert flat == [(task, index) for task, size in enumerate(sizes) for index in range(len(size.examples))]
    for micro in parts:
        assert len({task for task, _ in micro}) == len(micro)
        tokens = sum(sizes[task].prefix + sum(sizes[task].examples[part.start : part.stop]) for task, part in micro)
        assert tokens <= 32 or sum(len(part) for _, part in micro) == 1
    assert len(split(sizes, 1000)) == 1


@pytest.mark.parametrize("tokens", [1, 60, 150, 400])
def test_accumulated_gradients_are_the_whole_ones(passes, phi, draws, learner, base, batcher, assert_same, tokens):
    names = [name for name in phi if "q_proj" in name]
    wanted_losses, wanted = gradients(learner.losses, phi, batcher(base).query_rows(draws), names)
    losses, found = passes(tokens).gradients(phi, draws, names)
    torch.testing.assert_close(losses, wanted_losses, rtol=1e-5, atol=1e-6)
    assert_same(found, wanted)


@pytest.mark.parametrize("tokens", [1, 150])
def test_losses_and_answers_do_not_depend_on_the_split(passes, phi, draws, tokens):
    small, large = passes(tokens), passes(10_000)
    for found, wanted in zip(small.losses(phi, draws), large.losses(phi, draws), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    for found, wanted in zip(small.answers(phi, draws), large.answers(phi, draws), strict=True):
        assert [one.right for one in found] == [one.right for one in wanted]
        assert [one.loss for one in found] == pytest.approx([one.loss for one in wanted], rel=1e-5)
        assert [one.probabilities for one in found] == [pytest.approx(one.probabilities, rel=1e-4) for one in wanted]


def test_a_task_without_examples_has_no_losses(passes, phi, draws):
    found = passes(400).losses(phi, [draws[0], Draw(draws[1].task, (), ()), draws[2]])
    assert [len(each) for each in found] == [5, 0, 6]


def test_running_out_of_memory_halves_the_micro_batches_and_changes_nothing(passes, phi, draws, monkeypatch):
    names = list(phi)
    wanted = passes(10_000).gradients(phi, draws, names)
    tight = passes(10_000)
    compute = tight._gradients

    def short_of_memory(*arguments):
        if tight.tokens > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(*arguments)

    monkeypatch.setattr(tight, "_gradients", short_of_memory)
    losses, found = tight.gradients(phi, draws, names)
    assert 150 <= tight.tokens <= 300
    torch.testing.assert_close(losses, wanted[0], rtol=1e-5, atol=1e-6)
    for name in names:
        torch.testing.assert_close(found[name], wanted[1][name], rtol=1e-4, atol=1e-6)


def test_memory_for_not_even_one_example_is_an_error(passes, phi, draws, monkeypatch):
    never = passes(8)

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(never, "_gradients", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        never.gradients(phi, draws, list(phi))
