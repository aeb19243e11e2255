"""What a tier, the options and the recipe make of an evaluation."""

from pathlib import Path

import pytest

from headstart.evaluation.contenders import Contender
from headstart.evaluation.design import (
    TIERS,
    Setting,
    horizon_of,
    primary_setting,
    primary_step,
    recorded_recipe,
    settings,
    tuned_horizons,
)
from headstart.evaluation.errors import EvaluationError
from headstart.recipe import EvaluationSection, RecipeError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("horizons", "steps", "tuned"),
    [
        ((5, 10, 50), (0, 1, 2, 5, 10), (5, 10)),
        ((5, 10, 50), (0, 20), (5, 10, 20)),
        ((5, 10, 50), (0, 100), (5, 10, 50)),
        ((5, 10, 50), (0, 3), (3,)),
        ((5, 10, 50), (0, 5), (5,)),
        ((10,), (0, 50), (10,)),
        ((5, 10, 50), (0,), ()),
    ],
)
def test_rates_are_tuned_for_horizons_up_to_the_last_step(horizons, steps, tuned):
    assert tuned_horizons(EvaluationSection(horizons=horizons, steps=steps)) == tuned


@pytest.mark.parametrize(("step", "horizon"), [(0, 5), (5, 5), (6, 10), (10, 10), (11, 50), (100, 50)])
def test_a_step_is_read_off_the_next_horizons_run(step, horizon):
    assert horizon_of(step, (5, 10, 50)) == horizon


def test_settings_cross_regimes_and_shots():
    section = EvaluationSection(support=(16, 4, 4), regimes=("instructed", "house_rules"))
    assert [setting.key for setting in settings(section)] == ["instructed/4", "instructed/16", "house_rules/4", "house_rules/16"]
    assert primary_setting(section) == Setting("instructed", 16)
    assert primary_setting(EvaluationSection(support=(4, 64), regimes=("house_rules",))) == Setting("house_rules", 4)


@pytest.mark.parametrize(
    ("steps", "primary"), [((0, 1, 5, 10, 50), 10), ((0, 1, 5), 5), ((0, 8, 20), 8), ((0,), 0), ((20, 50), 20), ((0, 20, 50), 20)]
)
def test_the_headline_is_of_step_10_or_the_last_before_it(steps, primary):
    assert primary_step(steps) == primary


@pytest.fixture
def contender(run_folder):
    return Contender.read(run_folder / "adapter")


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_fixes_tasks_draws_query_steps_and_shots(contender, tier):
    section = recorded_recipe(contender, tier, {}, ()).evaluation
    for key, value in TIERS[tier].items():
        found = getattr(section, key)
        assert (list(found) if isinstance(found, tuple) else found) == value
    assert {"tasks", "draws", "query", "steps", "arms", "support"} <= TIERS[tier].keys()
    # what no tier names stays the recipe's
    assert section.learning_rates == (1e-3,)


def test_the_protocols_page_tells_the_tiers_as_they_are():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for tier, values in TIERS.items():
        shots = values["support"] if isinstance(values["support"], list) else [values["support"]]
        told = [values["tasks"] or "all", values["query"], ", ".join(map(str, shots)), ", ".join(map(str, values["steps"]))]
        assert f"| `{tier}` | {' | '.join(map(str, [*told, values['draws'], values['tuning_tasks'], values['drift_tokens']]))} |" in page


def test_options_come_after_the_tier_and_overrides_after_options(contender):
    section = recorded_recipe(contender, "quick", {"support": 4, "draws": 2}, ["evaluation.draws=3"]).evaluation
    assert (section.shots, section.draws, section.query) == ((4,), 3, TIERS["quick"]["query"])


def test_without_a_tier_the_recipe_decides(contender):
    assert recorded_recipe(contender, None, {}, ()).evaluation.steps == (0, 1, 3)


@pytest.mark.parametrize(
    ("tier", "options", "overrides", "error", "words"),
    [
        ("qick", {}, (), EvaluationError, "unknown tier 'qick'; there are quick, standard, full"),
        (None, {}, ["outer.learning_rate=1"], EvaluationError, r"only evaluation\.KEY=VALUE"),
        (None, {"support": 0}, (), RecipeError, "evaluation.support"),
        (None, {"steps": []}, (), RecipeError, "evaluation.steps"),
    ],
)
def test_what_does_not_fit_is_refused(contender, tier, options, overrides, error, words):
    with pytest.raises(error, match=words):
        recorded_recipe(contender, tier, options, overrides)
