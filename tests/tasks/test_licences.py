"""Licences and terms, counted as the sources name them."""

from headstart.tasks.licences import terms_of
from headstart.tasks.task import Example, Task


def task(name, **about):
    return Task(name, "Do it.", (Example("a", "b"), Example("c", "d")), "kind", **about)


def test_tasks_are_gathered_by_licence_and_terms_the_most_common_first():
    tasks = [
        task("one", licence="MIT", dataset="x"),
        task("two", licence="MIT", dataset="x"),
        task("three", licence="MIT", dataset="w"),
        task("four", licence="MIT", data_terms="research use"),
        task("five"),
    ]
    assert terms_of(tasks) == [
        {"licence": "MIT", "data_terms": "", "tasks": 3, "datasets": ["w", "x"]},
        {"licence": "MIT", "data_terms": "research use", "tasks": 1, "datasets": ["four"]},
        {"licence": "none named", "data_terms": "", "tasks": 1, "datasets": ["five"]},
    ]
