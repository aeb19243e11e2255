"""Under which licences and terms tasks stand."""

from collections.abc import Iterable
from typing import Any

from headstart.tasks.task import Task

UNKNOWN = "none named"


def terms_of(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """The tasks by licence and terms of their data, as the sources name them, the most common first.

    Each is `{"licence", "data_terms", "tasks", "datasets"}`: how many tasks, and the names of their datasets in order.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for task in tasks:
        found.setdefault((task.licence or UNKNOWN, task.data_terms), []).append(task.dataset)
    ordered = sorted(found.items(), key=lambda each: (-len(each[1]), each[0]))
    return [
        {"licence": licence, "data_terms": terms, "tasks": len(datasets), "datasets": sorted(set(datasets))}
        for (licence, terms), datasets in ordered
    ]
