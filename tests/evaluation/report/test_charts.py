"""Places in the page's pictures: round ticks around the data, names apart from each other, curves where their numbers are."""

import itertools
import re

import pytest
from evaluation.report.synthetic import ARMS, STEPS, make_results
from hypothesis import given
from hypothesis import strategies as st

from headstart.evaluation.report.charts import (
    BOTTOM,
    FOREST_WIDTH,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    curve_panel,
    forest,
    spread_out,
    ticks,
)

LOOKS = {arm: number for number, arm in enumerate(ARMS)}


@pytest.fixture(scope="module")
def setting():
    return make_results(tasks=3, draws=1)["settings"][0]


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_ticks_are_few_even_and_hold_the_data(low, width):
    found = ticks(low, low + width)
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert 2 <= len(found) <= 7
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert found[0] <= low + 1e-6 * steps[0]
    assert found[-1] >= low + width - 1e-6 * steps[0]


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (0.1, 3.4, [0, 1, 2, 3, 4]), (2, 2, [1, 1.5, 2, 2.5, 3])]
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@given(st.lists(st.floats(0, 300), max_size=12))
def test_names_keep_apart_in_their_order_and_within_the_picture(places):
    moved = spread_out(places, 14, 0, 300)
    assert all(-0.01 <= place <= 300.01 for place in moved)
    order = sorted(range(len(places)), key=lambda index: places[index])
    assert all(moved[after] - moved[before] >= 13.97 for before, after in itertools.pairwise(order))


def test_names_with_room_stay_where_they_are():
    assert spread_out([200.0, 10.0, 100.0], 14, 0, 300) == [200.0, 10.0, 100.0]


def test_names_too_close_move_to_both_sides_alike():
    assert spread_out([100.0, 102.0, 200.0], 14, 0, 300) == [94.0, 108.0, 200.0]


def test_more_names_than_there_is_room_for_share_it():
    assert spread_out([5.0] * 5, 14, 0, 40) == [0, 10, 20, 30, 40]


@given(st.floats(0, 1))
def test_a_scale_is_a_straight_line(share):
    assert Scale(2, 4, 100, 300)(2 + 2 * share) == pytest.approx(100 + 200 * share, abs=0.01)


def test_curves_stand_where_their_numbers_are(setting):
    panel = curve_panel(setting, "accuracy", LOOKS)
    assert panel.title == "accuracy, %"
    assert [text for _, text in panel.x_ticks] == [str(step) for step in STEPS]
    gaps = [after[0] - before[0] for before, after in zip(panel.x_ticks, panel.x_ticks[1:], strict=False)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps), abs=0.02)
    (bottom, low), *_, (top, high) = panel.y_ticks
    line = next(line for line in panel.lines if line.name == "meta")
    for point, (x, _), step in zip(line.points, panel.x_ticks, STEPS, strict=True):
        mean = 100 * setting["summary"]["meta"][str(step)]["accuracy"]["mean"]
        assert point.x == x
        assert point.y == pytest.approx(bottom + (mean - float(low)) / (float(high) - float(low)) * (top - bottom), abs=0.05)
        assert point.tip.startswith(f"meta, step {step}: {mean:.1f}% [")


def test_everything_lies_within_the_picture(setting):
    for metric in ("loss", "accuracy"):
        for line in curve_panel(setting, metric, LOOKS).lines:
            numbers = [float(text) for text in re.findall(r"-?\d+\.?\d*", f"{line.path} {line.band}")]
            assert all(LEFT <= x <= WIDTH - RIGHT for x in numbers[::2])
            assert all(TOP - 0.01 <= y <= HEIGHT - BOTTOM + 0.01 for y in numbers[1::2])


def test_a_constant_arm_is_a_level_line_marked_once(setting):
    line = next(line for line in curve_panel(setting, "loss", LOOKS).lines if line.name == "zero_shot")
    numbers = [float(text) for text in re.findall(r"\d+\.?\d*", line.path)]
    assert len(numbers) == 2 * len(STEPS)
    assert len(set(numbers[1::2])) == 1
    assert [point.x for point in line.points] == [LEFT]


def test_one_step_is_drawn_too():
    setting = make_results(steps=(10,), tasks=3, draws=1, arms=("random", "multitask", "meta_adamw"))["settings"][0]
    assert [len(line.points) for line in curve_panel(setting, "loss", LOOKS).lines] == [1, 1, 1]


def test_a_forest_names_the_side_that_speaks_for_each_arm():
    found = {"mean": 0.01, "low": -0.01, "high": 0.03}
    decided = {"mean": 0.02, "low": 0.01, "high": 0.03}
    accuracy = forest([("one", found), ("two", decided)], "accuracy", "meta", "multitask")
    loss = forest([("one", found)], "loss", "meta", "multitask")
    assert (accuracy.left, accuracy.right) == ("multitask ahead", "meta ahead")
    assert (loss.left, loss.right) == ("meta ahead", "multitask ahead")
    assert [row.decided for row in accuracy.rows] == [False, True]
    one, two = accuracy.rows
    assert 0 < one.low < accuracy.zero < one.mean < one.high < FOREST_WIDTH
    assert accuracy.zero < two.low < two.mean < two.high
    assert one.y < two.y < accuracy.height
    assert one.value == "+1.0 [-1.0, +3.0]"
