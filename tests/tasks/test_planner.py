"""Plans: what they keep, and that the cheapest is chosen."""

import random
from itertools import combinations, pairwise

import pytest

from headstart.tasks.planner import Planner, RowCosts, Sizes, balanced, fill


def random_sizes(seed):
    source = random.Random(seed)
    return [
        Sizes(source.randint(0, 60), tuple(source.randint(1, 50) for _ in range(source.randint(1, 9)))) for _ in range(source.randint(1, 4))
    ]


def lengths(sizes, plan):
    return [sizes.prefix + sum(sizes.examples[index] for index in row) for row in plan]


@pytest.mark.parametrize("seed", range(20))
def test_every_example_is_in_one_row_and_the_limit_is_kept(seed):
    tasks = random_sizes(seed)
    limit = 40 + 10 * seed
    for sizes, plan in zip(tasks, Planner(limit, RowCosts(1.0, 0.003)).plan(tasks), strict=True):
        assert [index for row in plan for index in row] == list(range(len(sizes.examples)))
        assert all(row for row in plan)
        for row, length in zip(plan, lengths(sizes, plan), strict=True):
            assert length <= limit or len(row) == 1


def cuts(count):
    """Every way to cut a task's examples into rows without changing their order."""
    for number in range(count):
        for ends in combinations(range(1, count), number):
            edges = (0, *ends, count)
            yield tuple(tuple(range(first, last)) for first, last in pairwise(edges))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("quadratic", [0.0, 0.001, 0.01, 1.0])
@pytest.mark.parametrize("blocks", [False, True])
def test_no_other_cut_of_a_task_is_cheaper(seed, quadratic, blocks):
    (sizes,) = random_sizes(seed)[:1]
    planner = Planner(10_000, RowCosts(1.0, quadratic, blocks))
    best = min(planner.cost([sizes], [plan]) for plan in cuts(len(sizes.examples)))
    assert planner.cost([sizes], planner.plan([sizes])) == pytest.approx(best)


def test_costly_pairs_make_short_rows_and_costly_prefixes_long_ones():
    sizes = Sizes(10, (50,) * 8)
    assert len(Planner(10_000, RowCosts(1.0, 0.0)).plan([sizes])[0]) == 1
    assert len(Planner(10_000, RowCosts(1.0, 1.0)).plan([sizes])[0]) == 8
    assert len(Planner(10_000, RowCosts(1.0, 0.003)).plan([Sizes(400, (50,) * 8)])[0]) < len(
        Planner(10_000, RowCosts(1.0, 0.003)).plan([sizes])[0]
    )


def test_attention_over_blocks_has_no_cause_to_cut_rows():
    """However costly pairs are, a row of its own costs an example its prefix once more and saves it none."""
    sizes = Sizes(10, (50,) * 8)
    assert len(Planner(10_000, RowCosts(1.0, 1.0, blocks=True)).plan([sizes])[0]) == 1


def test_a_long_task_is_cut_to_the_length_of_short_ones():
    """Rows of a batch are filled up to the longest, so one long row would be paid for by all."""
    long, short = Sizes(20, (50,) * 8), Sizes(20, (50,) * 2)
    plans = Planner(10_000, RowCosts(1.0, 0.0)).plan([long, short, short, short])
    assert len(plans[0]) > 1
    assert [len(plan) for plan in plans[1:]] == [1, 1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_balanced_is_the_shortest_limit_for_a_number_of_rows(seed):
    (sizes,) = random_sizes(seed)[:1]
    for rows in range(1, len(sizes.examples) + 1):
        limit = balanced(sizes, rows)
        assert len(fill(sizes, limit)) <= rows
        assert limit == sizes.prefix + max(sizes.examples) or len(fill(sizes, limit - 1)) > rows
