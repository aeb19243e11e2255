"""How weights move along a phase."""

import pytest

from headstart.algorithms.schedules import query_weights, second_order_weight


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
