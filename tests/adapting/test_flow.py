"""The way of jobs: what is chosen, what is measured, and that each job comes out as if it had been alone."""

from dataclasses import replace

import pytest
import torch

from headstart.adapting.data import make_job
from headstart.adapting.flow import adapt_batch, lanes
from headstart.adapting.report import comparison, many, plot_adapting, predictions, results, verdict
from headstart.adapting.samples import samples
from headstart.adapting.settings import Settings
from headstart.algorithms.inner import expand
from headstart.scoring import Answer, Metrics
from headstart.tasks.episodes import Draw
from headstart.tasks.task import Example, Task


@pytest.fixture
def job(toy_suite, passes):
    def build(name="upper", rows=8, held=(), shots=None, settings=None):
        task = toy_suite.tasks[name]
        return make_job(replace(task, examples=task.examples[:rows]), held, shots, settings or Settings(), passes.batcher.renderer)

    return build


@pytest.fixture
def run(meta, passes):
    return lambda jobs, settings: adapt_batch(jobs, meta, passes, settings)


def test_each_job_is_as_if_alone(job, run, assert_same):
    settings = Settings(steps=5)
    jobs = [job("upper", 8), job("twice", 5), job("vowel", 6), job("sorted", 12, shots=7)]
    for one, found in zip(jobs, run(jobs, settings), strict=True):
        (alone,) = run([one], settings)
        assert found.steps == alone.steps == 5
        assert_same(found.phi, alone.phi, 2e-5)
        for ours, theirs in zip(found.sides, alone.sides, strict=True):
            assert ours.metrics.loss == pytest.approx(theirs.metrics.loss, rel=1e-5)
            assert ours.metrics.accuracy == theirs.metrics.accuracy


def test_jobs_choosing_together_choose_as_alone(job, run, assert_same):
    settings = Settings(early_stopping=2)
    jobs = [job("upper", 8), job("vowel", 6)]
    for one, found in zip(jobs, run(jobs, settings), strict=True):
        (alone,) = run([one], settings)
        assert found.steps == alone.steps
        assert_same(found.phi, alone.phi, 5e-5)


def test_cross_fitting_measures_with_adapters_that_did_not_see_the_row(job, run, passes):
    settings = Settings(steps=4)
    one = job(rows=8)
    (found,) = run([one], settings)
    assert found.cross_fitted
    assert {row.input for row in found.rows} == {row.input for row in one.rows}
    before, after = found.sides
    # by hand: a job of each fold's training rows, measured on what the fold holds out
    for number, fold in enumerate(found.folds):
        by_hand = run([replace(one, task=replace(one.task, examples=fold.train), test=fold.held)], settings)[0]
        start = sum(len(each.held) for each in found.folds[:number])
        own = [answer.loss for answer in after.answers[start : start + len(fold.held)]]
        assert own == pytest.approx([answer.loss for answer in by_hand.sides[1].answers], rel=1e-4)
    assert before.steps == 0
    assert after.metrics.loss < before.metrics.loss


def test_all_rows_train_after_cross_fitting(job, run):
    (chosen,) = run([job(rows=8)], Settings())
    (fixed,) = run([job(rows=8)], Settings(steps=chosen.steps, measure=False))
    assert chosen.steps > 0
    assert all(torch.equal(chosen.phi[name], fixed.phi[name]) for name in fixed.phi)


def test_chosen_steps_have_the_lowest_held_out_loss(job, run):
    (found,) = run([job(rows=8)], Settings())
    held = found.curves["head start"]
    assert found.steps == min(held, key=held.get)
    assert found.chosen_on
    (apart,) = run([job(rows=14, shots=8)], Settings())
    assert not apart.chosen_on


def test_validation_rows_choose_and_flatter_and_this_is_told(job, run, toy_suite):
    held = toy_suite.tasks["upper"].examples[8:14]
    (found,) = run([job(rows=8, held=held)], Settings())
    assert found.chosen_on
    assert "flatters" in str(comparison(found).title)
    (fixed,) = run([job(rows=8, held=held)], Settings(steps=3))
    assert not fixed.chosen_on
    assert (fixed.steps, len(fixed.rows)) == (3, 6)


def test_measured_is_what_the_saved_adapter_does(job, run, passes):
    (found,) = run([job(rows=14, shots=8)], Settings(steps=3))
    wanted = passes.answers(expand(found.phi, 1), [Draw(found.job.task, (), found.rows)])[0]
    assert [one.loss for one in found.sides[1].answers] == pytest.approx([one.loss for one in wanted], rel=1e-5)


def test_one_row_takes_the_trained_steps(job, run, meta):
    (found,) = run([job(rows=1)], Settings())
    assert (found.steps, found.sides) == (meta.adaptation.steps, ())


def test_a_comparison_tunes_a_fresh_lora(job, run, passes):
    settings = Settings(steps=3, compare=True)
    (found,) = run([job("vowel", 16, shots=9)], settings)
    assert [side.name for side in found.sides][:2] == ["before", "head start"]
    rival = found.sides[2]
    best = min((held[step], name, step) for name, held in found.curves.items() if name != "head start" for step in held)
    assert (rival.name, rival.steps) == best[1:]
    assert results(found)["verdict"] == verdict(found)
    assert lanes(found.job, settings) == 20
    assert lanes(found.job, Settings(steps=3)) == 1
    assert found.steps == 3


def compared(job, run, ours, theirs):
    (found,) = run([job(rows=14, shots=8)], Settings(steps=1, compare=True))
    count = len(found.rows)
    own, other = (tuple(Answer(each[n % len(each)], n % 2 == 0, {}) for n in range(count)) for each in (ours, theirs))
    before, head, fresh = found.sides
    return replace(found, sides=(before, replace(head, answers=own), replace(fresh, answers=other)))


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ((1.0, 1.1), (2.0, 2.2), "The head start helps: loss 1.050"),
        ((2.0, 2.2), (1.0, 1.1), "The head start does not help here: loss 1.050"),
        ((1.0, 2.0), (2.0, 1.0), "no clear difference in the end: loss 0.000"),
    ],
)
def test_the_verdict_says_plainly_who_did_better(job, run, ours, theirs, told):
    assert told in verdict(compared(job, run, ours, theirs))


def test_a_job_that_diverges_fails_alone(job, make_meta, passes):
    meta = make_meta(rate=1e30, learned=False)
    wild = adapt_batch([job("upper", 6)], meta, passes, Settings(steps=3, measure=False))
    assert "no number" in wild[0].failed
    assert not wild[0].phi


def test_predictions_are_what_the_adapters_write(job, run, passes):
    (found,) = run([job(rows=8)], Settings(steps=6))
    shown = samples(found, passes)
    assert 4 <= len(shown) <= 6
    assert {each.input for each in shown} <= {row.input for row in found.rows}
    assert all(len(each.answers) == 2 for each in shown)
    right = {row.input: answer.right for row, answer in zip(found.rows, found.sides[1].answers, strict=True)}
    assert all((each.answers[1] == each.expected) == right[each.input] for each in shown)
    table = predictions(shown, found.sides)
    assert table.row_count == len(shown)


def test_predictions_of_labels_come_with_their_probability(job, run, passes):
    (found,) = run([job("vowel", 8)], Settings(steps=2))
    for shown in samples(found, passes):
        label, share = shown.answers[1].rsplit(" ", 1)
        assert label in found.job.task.labels
        assert 50 <= int(share.strip("(%)")) <= 100


def test_pictures_and_rows_of_the_table(job, run, tmp_path, png_size):
    (found,) = run([job("vowel", 9)], Settings(steps=3, compare=True))
    plot_adapting(found, tmp_path / "curves.png")
    assert min(png_size(tmp_path / "curves.png")) > 300
    table = many([{"name": "a", "output": "x", **results(found)}, {"name": "b", "output": "y", "failed": "no [rows]"}])
    assert table.row_count == 2


def test_metrics_are_means_over_answers():
    assert Metrics.of([Answer(1.0, True, {}), Answer(3.0, False, {})]) == Metrics(2.0, 0.5, 2)


def test_rows_of_one_output_are_refused_from_python(meta, dense_base):
    rows = [Example(f"w{n}", "same") for n in range(4)]
    with pytest.raises(ValueError, match="nothing to tell apart"):
        meta.adapt(rows, base=dense_base)
    assert Task("t", "", tuple(rows), "user").examples == tuple(rows)


def test_python_chooses_too(meta, dense_base, toy_suite):
    rows = [{"input": row.input, "output": row.output} for row in toy_suite.tasks["upper"].examples[:8]]
    adapted = meta.adapt(rows, instruction="Shout.", steps="auto", base=dense_base)
    assert adapted.steps > 0
    assert len(adapted.history) == adapted.steps
    assert adapted.evaluate(rows).examples == 8
    in_epochs = meta.adapt(rows, instruction="Shout.", epochs=2, batch_size=3, learning_rate=1e-3, base=dense_base)
    assert in_epochs.steps == 6
