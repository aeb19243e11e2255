"""Held-out splits: whole clusters, every split some, whatever the order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.tasks.problems import DataError
from headstart.tasks.reading.splits import hold_out
from headstart.tasks.spec import SHARES

SPLITS = ("meta_train", "meta_validation", "meta_test", "other", "more", "last")


@st.composite
def wanted(draw):
    """Tasks with their clusters, and shares of no more splits than there are clusters."""
    clusters = draw(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=30, unique=True))
    tasks = [(f"{cluster}-{number}", cluster) for cluster in clusters for number in range(draw(st.integers(1, 3)))]
    splits = draw(st.integers(1, min(len(SPLITS), len(clusters))))
    shares = {split: draw(st.floats(0.01, 1)) for split in SPLITS[:splits]}
    return tasks, shares


@given(wanted(), st.randoms(use_true_random=False))
def test_a_cluster_is_whole_in_one_split_and_every_split_has_one(drawn, chance):
    tasks, shares = drawn
    splits = hold_out(dict(tasks), shares)
    assert list(splits) == list(shares)
    assert sorted(name for names in splits.values() for name in names) == sorted(name for name, _ in tasks)
    kinds = [{dict(tasks)[name] for name in names} for names in splits.values()]
    assert all(kinds)
    assert sum(map(len, kinds)) == len(set().union(*kinds))
    mixed, turned = chance.sample(tasks, len(tasks)), chance.sample(list(shares.items()), len(shares))
    assert {split: set(names) for split, names in hold_out(dict(mixed), dict(turned)).items()} == {
        split: set(names) for split, names in splits.items()
    }


def held(count, shares):
    return {split: len(names) for split, names in hold_out({f"task {n}": f"cluster {n}" for n in range(count)}, shares).items()}


@pytest.mark.parametrize(
    ("count", "shares", "counts"),
    [
        (100, SHARES, {"meta_train": 80, "meta_validation": 10, "meta_test": 10}),
        (3, SHARES, {"meta_train": 1, "meta_validation": 1, "meta_test": 1}),
        (7, SHARES, {"meta_train": 5, "meta_validation": 1, "meta_test": 1}),
        (10, {"meta_train": 9, "meta_test": 1}, {"meta_train": 9, "meta_test": 1}),
        (10, {"meta_train": 1, "meta_test": 0}, {"meta_train": 10}),
        # every share rounds up
        (6, dict.fromkeys("abcd", 0.25), {"a": 1, "b": 1, "c": 2, "d": 2}),
    ],
)
def test_shares_are_of_clusters(count, shares, counts):
    assert held(count, shares) == counts


def test_more_clusters_leave_the_held_out_ones_as_they_were():
    clusters = {f"task {n}": f"cluster {n}" for n in range(24)}
    before = hold_out(clusters, SHARES)
    after = hold_out({**clusters, "new": "zz"}, SHARES)
    moved = [set(before[split]) ^ set(after[split]) for split in ("meta_validation", "meta_test")]
    assert sum(map(len, moved)) <= 2


def test_too_few_clusters_are_told():
    with pytest.raises(
        DataError, match=r"2 cluster\(s\) .* for 3 splits \(.*meta_train.*\); give more tasks, a cluster_column or cluster_pattern"
    ):
        held(2, SHARES)
