"""From episodes to rows: which tasks are computed together, and that nothing depends on it."""

import random
from dataclasses import dataclass, replace

import pytest
import torch

import headstart.batches as batches
from headstart.algorithms.inner import gradients
from headstart.batches import Batcher, LayoutError
from headstart.model.learner import Learner, LoraSpec
from headstart.tasks.planner import Planner, RowCosts
from headstart.tasks.render import Renderer
from headstart.tasks.rows import build_rows, laid_out_tokens


@dataclass(frozen=True)
class AnyPlan:
    """Puts a task's examples into rows as chance will have it, in any order."""

    seed: int

    def plan(self, tasks):
        source = random.Random(self.seed)
        return [self.one(source, len(sizes.examples)) for sizes in tasks]

    def one(self, source, count):
        rows = {}
        for index in source.sample(range(count), count):
            rows.setdefault(source.randrange(count), []).append(index)
        return tuple(map(tuple, rows.values()))


@pytest.mark.parametrize("seed", range(4))
def test_any_plan_gives_the_same_losses_and_gradients(learner, batcher, random_phi, episode, assert_same, seed):
    tasks = [[[one] for one in batcher(learner.base).renderer.render(draw.task.instruction, draw.query)] for draw in episode]
    phi = random_phi(learner, len(episode))
    padded = gradients(learner.losses, phi, build_rows(tasks, layout="padded"))
    planned = gradients(learner.losses, phi, build_rows(tasks, planner=AnyPlan(seed)))
    torch.testing.assert_close(planned[0], padded[0], rtol=1e-5, atol=0)
    assert_same(planned[1], padded[1])


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("task_micro_batch", [1, 2, "auto"])
def test_pieces_give_the_same_losses_and_gradients(learner, batcher, random_phi, episode, assert_same, layout, task_micro_batch):
    """In whichever order the pieces come, a task keeps its own adapter."""
    whole = batcher(learner.base, layout=layout, task_micro_batch=len(episode))
    phi = dict(zip((draw.task.name for draw in episode), unstack(random_phi(learner, len(episode))), strict=True))
    (piece,) = whole.pieces(episode)
    wanted = computed(learner, whole, piece, phi)
    found = {}
    for piece in replace(whole, task_micro_batch=task_micro_batch).pieces(episode):
        found |= computed(learner, whole, piece, phi)
    assert found.keys() == wanted.keys() == phi.keys()
    for name in wanted:
        torch.testing.assert_close(found[name][0], wanted[name][0], rtol=1e-5, atol=0)
        assert_same(found[name][1], wanted[name][1])


def unstack(phi):
    return [{name: tensor[index] for name, tensor in phi.items()} for index in range(len(next(iter(phi.values()))))]


def computed(learner, batcher, piece, phi):
    """Task name -> loss and gradient."""
    mine = {name: torch.stack([phi[draw.task.name][name] for draw in piece]) for name in learner.shapes()}
    losses, found = gradients(learner.losses, mine, batcher.batch(piece).query)
    return {draw.task.name: (loss, each) for draw, loss, each in zip(piece, losses, unstack(found), strict=True)}


def test_auto_pieces_keep_their_limits(dense_base, batcher, episode, monkeypatch):
    one = batcher(dense_base)
    alone = [one.batch((draw,)).query.tokens for draw in episode]
    assert [len(piece) for piece in one.pieces(episode)] == [3]
    monkeypatch.setattr(batches, "PIECE_TOKENS", max(alone))
    assert [len(piece) for piece in one.pieces(episode)] == [1, 1, 1]


def test_auto_keeps_a_long_task_from_filling_up_short_ones(dense_base, batcher, episode):
    """In padded rows a long example is paid for by every row beside it."""
    long = replace(episode[0], query=tuple(replace(example, input=example.input * 60) for example in episode[0].query))
    pieces = list(batcher(dense_base, layout="padded").pieces((long, *episode[1:])))
    assert [len(piece) for piece in pieces] == [2, 1]
    assert pieces[1] == (long,)


def test_counted_tokens_are_those_of_the_rows(dense_base, batcher, episode):
    tasks = [[[one] for one in batcher(dense_base).renderer.render(draw.task.instruction, draw.query)] for draw in episode]
    for layout in ("packed", "padded"):
        for planner in (Planner(), Planner(100), Planner(costs=RowCosts(1.0, 0.01))):
            counted = laid_out_tokens(tasks, layout=layout, planner=planner)
            assert counted == build_rows(tasks, layout=layout, planner=planner).tokens


def test_auto_packs_where_the_base_allows(architecture):
    llama, lfm2 = architecture("llama"), architecture("lfm2")
    assert Batcher.of(llama, Renderer(llama.tokenizer)).layout == "packed"
    assert Batcher.of(llama, Renderer(llama.tokenizer), "padded").layout == "padded"
    assert Batcher.of(lfm2, Renderer(lfm2.tokenizer)).layout == "padded"
    with pytest.raises(LayoutError, match=r"suite\.layout: .* test/lfm2; set suite\.layout to auto or padded"):
        Batcher.of(lfm2, Renderer(lfm2.tokenizer), "packed")


def test_the_planner_weighs_with_the_bases_operations(dense_base):
    renderer = Renderer(dense_base.tokenizer)
    with Learner(dense_base, LoraSpec()) as learner:
        costs = RowCosts(learner.cost.linear, learner.cost.attention, blocks=True)
    assert Batcher.of(dense_base, renderer).planner.costs == costs
    told = RowCosts(2.0, 1.0)
    assert Batcher.of(dense_base, renderer, costs=told).planner.costs == told
