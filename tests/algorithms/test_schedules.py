"""How weights move along a phase."""

import pytest

from headstart.algorithms.schedules import drawn_steps, query_weights, second_order_weight, support_weights


@pytest.mark.parametrize(("done", "warmup", "weight"), [(0, 0, 1), (0.5, 0, 1), (0, 0.5, 0), (0.25, 0.5, 0.5), (0.5, 0.5, 1), (1, 1, 1)])
def test_second_order_rises_linearly(done, warmup, weight):
    assert second_order_weight(done, warmup) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("done", "annealing", "weights"),
    [
        (0, 0, (0, 0, 0, 1)),
        (0, 0.5, (0, 1 / 3, 1 / 3, 1 / 3)),
        (0.25, 0.5, (0, 1 / 6, 1 / 6, 2 / 3)),
        (0.5, 0.5, (0, 0, 0, 1)),
        (0.9, 0.5, (0, 0, 0, 1)),
    ],
)
def test_query_weights_move_to_the_last(done, annealing, weights):
    assert query_weights(3, done, annealing) == pytest.approx(weights)


@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("done", [0, 0.1, 0.7, 1])
def test_query_weights_sum_to_one(steps, done):
    found = query_weights(steps, done, 0.8)
    assert len(found) == steps + 1
    assert sum(found) == pytest.approx(1)
    assert found[0] == (steps == 0)


def test_support_weights_are_the_start_and_the_path():
    assert support_weights(3, 0.3, 0.0) == pytest.approx((0.3, 0, 0))
    assert support_weights(4, 0.2, 0.4) == pytest.approx((0.3, 0.1, 0.1, 0.1))
    assert support_weights(0, 0.0, 0.0) == ()


def test_steps_are_drawn_between_their_bounds_and_again_the_same():
    drawn = [drawn_steps(2, 5, 0, step) for step in range(200)]
    assert set(drawn) == {2, 3, 4, 5}
    assert min(drawn.count(steps) for steps in range(2, 6)) > 30
    assert drawn == [drawn_steps(2, 5, 0, step) for step in range(200)]
    assert drawn != [drawn_steps(2, 5, 1, step) for step in range(200)]
    assert {drawn_steps(None, 5, 0, step) for step in range(20)} == {5}
