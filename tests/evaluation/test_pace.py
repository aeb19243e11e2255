"""What an evaluation is predicted to take, by hand."""

from dataclasses import replace

import pytest

from headstart.evaluation.design import Setting
from headstart.evaluation.pace import Pace, Prediction, in_hours, query_tokens, support_tokens
from headstart.evaluation.tuning import ValidationTasks
from headstart.recipe import EvaluationSection
from headstart.tasks.episodes import Draw

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("seconds", "told"), [(5, "under a minute"), (61, "1 minute"), (1800, "30 minutes"), (3600, "1.0 hours"), (9000, "2.5 hours")]
)
def test_seconds_are_told_as_a_user_plans(seconds, told):
    assert in_hours(seconds) == told


def test_tokens_are_those_of_the_rows(bench, protocol, toy_suite):
    part = protocol.episode([toy_suite.tasks["vowel"]], 0)[0]
    batcher = bench.passes.batcher
    support = batcher.query_rows((Draw(part.task, (), part.support[0]),))
    assert support_tokens(bench.passes)(part) == support.tokens - support.filling
    ranked = batcher.ranking_rows((part,))
    assert query_tokens(bench.passes)(part) == ranked.tokens - ranked.filling


def test_a_setting_takes_its_passes_at_the_pace(bench, protocol, toy_suite):
    passes, tasks = bench.passes, [toy_suite.tasks[name] for name in ("twice", "upper")]
    section = EvaluationSection(learning_rates=(1e-3, 2e-3))
    validation = ValidationTasks(toy_suite, 1, Setting("instructed", 4))
    two = replace(protocol, steps=(0, 1, 4), horizons=(1, 4))
    pieces = {draw: [two.episode(tasks, draw)] for draw in range(2)}
    found = Prediction.of(Pace(gradient=2.0, measuring=3.0), validation, pieces, two, section, passes)
    parts = [part for draw in range(2) for part in pieces[draw][0]]
    support, query = (sum(map(count(passes), parts)) for count in (support_tokens, query_tokens))
    # four steps, and half of the run for the shorter horizon, which is none
    assert found.measuring == pytest.approx(2.0 * 4 * support + 3.0 * 3 * query)
    assert found.constant == pytest.approx(3.0 * query)
    (tuned,) = two.episode(validation.tasks, 0)
    # two candidates and one widening
    assert found.tuning == pytest.approx(3 * (2.0 * 4 * support_tokens(passes)(tuned) + 3.0 * query_tokens(passes)(tuned)))


def test_without_steps_nothing_is_tuned(bench, protocol, toy_suite):
    still = replace(protocol, steps=(0,), horizons=())
    pieces = {0: [still.episode([toy_suite.tasks["twice"]], 0)]}
    validation = ValidationTasks(toy_suite, 1, Setting("instructed", 4))
    found = Prediction.of(Pace(1.0, 1.0), validation, pieces, still, EvaluationSection(), bench.passes)
    assert found.tuning == 0
    assert found.measuring == found.constant


def test_a_pace_is_timed_on_a_piece(bench, protocol, toy_suite, arm_of):
    piece = protocol.episode([toy_suite.tasks["twice"]], 0)
    pace = Pace.of(bench.passes, arm_of(bench.passes.learner).start(piece), piece)
    assert pace.gradient > 0
    assert pace.measuring > 0
