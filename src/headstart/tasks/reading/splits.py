"""Splits for sources that have none: whole clusters are held out, by a draw that no training seed changes."""

import hashlib
from collections.abc import Mapping

from headstart.tasks.problems import DataError, Problem


def hold_out(clusters: Mapping[str, str], shares: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """Share tasks out over splits, a cluster whole to one of them.

    Clusters are ordered by a digest of their names, and fill one split after another up to its share of the clusters, but at least one.

    Args:
        clusters: task -> its cluster.
        shares: split -> share; they are taken in proportion.

    Raises:
        DataError: fewer clusters than splits.
    """
    wanted = {split: share for split, share in sorted(shares.items()) if share > 0}
    names = sorted(set(clusters.values()), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(names) < len(wanted):
        told = f"{len(names)} cluster(s) of tasks cannot be held out whole for {len(wanted)} splits ({', '.join(wanted)})"
        raise DataError(
            Problem(f"{told}; give more tasks, a cluster_column or cluster_pattern that tells more kinds, or splits with shares")
        )
    counts = _counts(len(names), wanted)
    split_of: dict[str, str] = {}
    at = 0
    # what is held out is drawn first, so that more clusters leave the held-out ones as they were for as long as their number stays
    for split in sorted(wanted, key=lambda split: split == "meta_train"):
        split_of |= dict.fromkeys(names[at : at + counts[split]], split)
        at += counts[split]
    return {split: tuple(task for task, cluster in clusters.items() if split_of[cluster] == split) for split in shares if split in wanted}


def _counts(clusters: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers of clusters, at least one each; what rounding leaves goes to the most, and what it lacks comes from there."""
    total = sum(shares.values())
    counts = {split: max(1, round(clusters * share / total)) for split, share in shares.items()}
    while left := clusters - sum(counts.values()):
        counts[max(counts, key=lambda split: counts[split])] += 1 if left > 0 else -1
    return counts
