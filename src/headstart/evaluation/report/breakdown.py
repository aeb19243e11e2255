"""Means by task and by cluster, for tables that say where a result comes from."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from headstart.evaluation.report.schema import MetricName, RecordRow, Results, Setting
from headstart.evaluation.report.view import MAIN, all_steps

Means = Mapping[str, Mapping[MetricName, float]]
"""By arm, then metric."""


@dataclass(frozen=True)
class Row:
    """Means of one task or cluster.

    Args:
        name: of the task or cluster.
        tasks: the names of the tasks behind it.
        means: of `loss` and `accuracy`, by arm; an arm that was not measured here is absent.
    """

    name: str
    tasks: tuple[str, ...]
    means: Means

    def difference(self, first: str, second: str, metric: MetricName) -> float | None:
        """First minus second, or None where one of them is absent."""
        if first not in self.means or second not in self.means:
            return None
        return self.means[first][metric] - self.means[second][metric]


def step_of(setting: Setting, primary: int) -> int:
    """The primary step if it was measured in this setting, else its last."""
    steps = all_steps(setting)
    return primary if primary in steps else steps[-1]


def by_task(results: Results, setting: Setting, step: int) -> list[Row]:
    """Each task's means over draws and seeds at a step, arms that do not adapt being taken at step 0; in the order of the names."""
    constant = {arm for arm, curve in setting["summary"].items() if list(curve) == ["0"]}
    found: dict[str, dict[str, list[RecordRow]]] = defaultdict(lambda: defaultdict(list))
    for record in results["records"]:
        here = record["regime"] == setting["regime"] and record["k"] == setting["k"]
        if here and record["step"] == (0 if record["arm"] in constant else step):
            found[record["task"]][record["arm"]].append(record)
    return [Row(task, (task,), {arm: _means(rows) for arm, rows in arms.items()}) for task, arms in sorted(found.items())]


def _means(rows: Sequence[RecordRow]) -> dict[MetricName, float]:
    return {"loss": fmean(row["loss"] for row in rows), "accuracy": fmean(row["accuracy"] for row in rows)}


def by_cluster(results: Results, tasks: Iterable[Row]) -> list[Row]:
    """Each cluster's means over its datasets' means over their tasks."""
    clusters: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in tasks:
        facts = results["tasks"][row.name]
        clusters[facts["cluster"]][facts["dataset"]].append(row)
    return [_joined(name, [_joined("", rows) for rows in datasets.values()]) for name, datasets in sorted(clusters.items())]


def _joined(name: str, rows: Sequence[Row]) -> Row:
    """Rows that count the same as one; an arm counts where it was measured."""
    arms = list(dict.fromkeys(arm for row in rows for arm in row.means))
    means = {arm: {metric: fmean(row.means[arm][metric] for row in rows if arm in row.means) for metric in MAIN} for arm in arms}
    return Row(name, tuple(task for row in rows for task in row.tasks), means)
