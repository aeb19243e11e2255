"""Adapting and measuring an arm: tasks together as one by one, and every step off the run that was tuned for it."""

from dataclasses import replace

import pytest
import torch

from headstart.algorithms.inner import expand, walk
from headstart.evaluation.drift import Drift, DriftText
from headstart.evaluation.protocol import Bench, run_piece, trajectory
from headstart.passes import Passes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tasks(toy_suite):
    return [toy_suite.tasks[name] for name in ("vowel", "twice", "upper")]


def measured(gone):
    return {(record.task, record.draw, record.step): (record.loss, record.accuracy, record.invalid, record.gaps) for record in gone.records}


def test_records_are_what_adapting_one_task_alone_gives(bench, protocol, arm_of, tasks):
    arm = arm_of(bench.passes.learner)
    episode = protocol.episode(tasks, 1)
    together = measured(run_piece(arm, {3: 0.01}, 1, episode, protocol, bench))
    alone = {}
    for part in episode:
        alone |= measured(run_piece(arm, {3: 0.01}, 1, (part,), protocol, bench))
    assert together.keys() == alone.keys() == {(task.name, 1, step) for task in tasks for step in protocol.steps}
    for cell, (loss, *others) in alone.items():
        assert together[cell][0] == pytest.approx(loss, rel=1e-3), cell
        assert together[cell][1:3] == tuple(others[:2])
        assert (together[cell][3] is None) == (others[2] is None) == (cell[0] != "vowel")


def test_a_trajectory_is_the_inner_loop(bench, protocol, arm_of, tasks, assert_same):
    """The same steps as meta-training's own, from rows of the whole support."""
    learner, batcher = bench.passes.learner, bench.passes.batcher
    episode, arm = protocol.episode(tasks, 0), arm_of(bench.passes.learner)
    found = dict(trajectory(arm, 0.01, episode, bench, 3))
    assert list(found) == [0, 1, 2, 3]
    steps = walk(learner.losses, arm.start(episode), batcher.batch(episode).support, arm.rule, arm.rates_at(0.01), 3)
    for number, step in enumerate(steps, start=1):
        assert_same(found[number], step.phi, 1e-4)


def test_an_arms_rates_may_mix_ranks_and_a_factor_scales_them(bench, protocol, arm_of, tasks, assert_same):
    learner, batcher = bench.passes.learner, bench.passes.batcher
    draw = torch.Generator().manual_seed(0)
    plain = arm_of(learner)
    rates = {name: 0.01 * torch.linspace(1, 2, 2)[:, None, None] * torch.randn(4, 4, generator=draw) for name in plain.rates}
    arm, episode = replace(plain, name="meta", rates=rates), protocol.episode(tasks, 0)
    found = dict(trajectory(arm, 0.5, episode, bench, 3))
    halved = {name: 0.5 * rate for name, rate in rates.items()}
    steps = walk(learner.losses, arm.start(episode), batcher.batch(episode).support, arm.rule, halved, 3)
    for number, step in enumerate(steps, start=1):
        assert_same(found[number], step.phi, 1e-4)
    (alone,) = [dict(trajectory(arm, 0.5, (part,), bench, 3))[3] for part in episode[1:2]]
    assert_same(alone, {name: tensor[1:2] for name, tensor in found[3].items()}, 1e-4)


def test_micro_batches_change_no_trajectory(bench, protocol, arm_of, tasks, assert_same):
    arm, episode = arm_of(bench.passes.learner), protocol.episode(tasks, 0)
    small = replace(bench, passes=replace(bench.passes, tokens=60))
    whole, parted = (dict(trajectory(arm, 0.01, episode, each, 2))[2] for each in (bench, small))
    assert_same(parted, whole, 1e-4)


def test_adapting_lowers_the_loss_on_its_task(bench, protocol, arm_of, tasks):
    gone = run_piece(arm_of(bench.passes.learner), {3: 0.01}, 0, protocol.episode(tasks[:1], 0), protocol, bench)
    loss = {record.step: record.loss for record in gone.records}
    assert loss[3] < loss[0]


def test_every_step_is_read_off_the_run_of_its_horizon(bench, protocol, arm_of, tasks):
    two = replace(protocol, steps=(0, 1, 2, 3), horizons=(1, 3))
    episode, arm = protocol.episode(tasks[:1], 0), arm_of(bench.passes.learner)

    def losses(chosen):
        return {record.step: record.loss for record in run_piece(arm, chosen, 0, episode, two, bench).records}

    slow, fast, both = losses({1: 1e-3, 3: 1e-3}), losses({1: 1e-2, 3: 1e-2}), losses({1: 1e-3, 3: 1e-2})
    assert both == {0: slow[0], 1: slow[1], 2: fast[2], 3: fast[3]}
    assert slow[2] != fast[2]


def test_steps_past_the_last_horizon_are_read_off_its_run(protocol):
    long = replace(protocol, steps=(0, 5, 10, 100), horizons=(5, 50))
    assert long.runs({5: 0.1, 50: 0.2}) == {0.1: (0, 5), 0.2: (10, 100)}
    assert long.runs({5: 0.1, 50: 0.1}) == {0.1: (0, 5, 10, 100)}


def test_an_arm_that_does_not_adapt_is_the_bare_base_at_step_0(bench, protocol, arm_of, tasks):
    learner = bench.passes.learner
    bare = replace(arm_of(learner), name="zero_shot", rates={}, start=lambda episode: expand(learner.fresh_adapter(), len(episode)))
    gone = run_piece(bare, {}, 0, protocol.episode(tasks, 0), protocol, bench)
    assert {record.step for record in gone.records} == {0}
    assert gone.shown == {}
    rows = bench.passes.batcher.query_rows(protocol.episode(tasks, 0))
    nothing = {name: torch.zeros(3, *shape) for name, shape in learner.shapes().items()}
    assert [record.loss for record in gone.records] == pytest.approx(learner.scores(nothing, rows).loss.tolist(), rel=1e-4)


def test_examples_in_the_prompt_change_the_answer_and_are_counted(bench, protocol, arm_of, tasks):
    learner = bench.passes.learner
    bare = replace(arm_of(learner), rates={}, start=lambda episode: expand(learner.fresh_adapter(), len(episode)))
    shown, asked = (
        run_piece(replace(bare, name=name), {}, 0, protocol.episode(tasks, 0), protocol, bench) for name in ("icl", "zero_shot")
    )
    assert shown.shown == {task.name: 4 for task in tasks}
    assert all(one.loss != other.loss for one, other in zip(shown.records, asked.records, strict=True))


def test_drift_is_measured_at_its_step_alone(bench, protocol, arm_of, tasks):
    text = DriftText.of(bench.passes.learner.base, bench.passes.batcher, 40)
    drifting = Bench(bench.passes, bench.prompting, Drift(bench.passes.learner, text))
    wanted = replace(protocol, drift_step=1)
    gone = run_piece(arm_of(bench.passes.learner), {3: 0.01}, 0, protocol.episode(tasks, 0), wanted, drifting)
    assert {record.step for record in gone.records if record.drift is not None} == {1}
    assert all(record.drift != 0 for record in gone.records if record.step == 1)
    still = run_piece(arm_of(bench.passes.learner), {3: 0.01}, 0, protocol.episode(tasks, 0), protocol, drifting)
    assert all(record.drift is None for record in still.records)


def test_the_same_query_examples_under_every_draw(protocol, tasks):
    first, second = protocol.episode(tasks, 0), protocol.episode(tasks, 1)
    assert [part.query for part in first] == [part.query for part in second]
    assert all(one.support != other.support for one, other in zip(first, second, strict=True))


def test_a_bench_of_passes_takes_a_piece_of_any_size(bench, protocol, arm_of, tasks):
    gone = run_piece(arm_of(bench.passes.learner), {3: 0.01}, 0, protocol.episode(tasks, 0), protocol, bench)
    tiny = Bench(Passes(bench.passes.learner, bench.passes.batcher, tokens=1), bench.prompting)
    again = run_piece(arm_of(bench.passes.learner), {3: 0.01}, 0, protocol.episode(tasks, 0), protocol, tiny)
    assert [one.loss for one in gone.records] == pytest.approx([one.loss for one in again.records], rel=1e-3)
