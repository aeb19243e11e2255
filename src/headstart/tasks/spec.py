"""What a user says of where tasks come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TaskType = Literal["classification", "generation"]
"""A task with labels, and one without."""
SourceKind = Literal["auto", "builtin", "folder", "natural_instructions", "files", "dataset"]
SHARES = {"meta_train": 0.8, "meta_validation": 0.1, "meta_test": 0.1}
"""How clusters are shared out where a source has no splits of its own."""


@dataclass(frozen=True)
class SourceSpec:
    """One source of tasks.

    Args:
        path: `builtin`, a folder, or a dataset's id on the hub.
        kind: the layout: `builtin`, `folder` (splits.json and tasks.json), `natural_instructions` (tasks/ and splits/), `files` (each
            file a task), `dataset` (rows of all tasks, for the library datasets); `auto` sees it from what is there.
        weight: how often tasks are drawn from this source, beside the other sources' weights.
        clusters: only tasks of these clusters.
        languages: only tasks of these languages.
        licences: only tasks under these licences.
        types: only classifications (tasks with labels), or only generations.
        exclude: no tasks whose names, as the source has them, match one of these shell patterns (`fnmatch`; case counts).
        min_examples: only tasks with so many examples.
        max_examples: of larger tasks so many examples, drawn once.
        columns: role -> column, of `files` and `dataset`: roles are `input`, `output`, `instruction`, `prompt`, `completion`,
            `messages`, `text`, `label`; as noticed where empty.
        instruction: of `files` and `dataset`: what precedes every input; may hold columns, as in `Translate to {language}.`
        turns: of chats, `all` of the assistant's turns are answers to learn, or the `last` alone.
        task_column: of `dataset`: whose values part the rows into tasks.
        cluster_column: of `dataset`: the task's cluster.
        cluster_pattern: of `files` and `dataset`: a regular expression whose first group, found in a task's name, is its cluster.
        name: of `dataset`: the configuration.
        split: of `dataset`: the dataset's own split that is read.
        revision: of `dataset`: branch, tag or commit on the hub.
        data_files: of `dataset`: the files that are read, in a folder or on the hub.
        streaming: of `dataset`: read without downloading it whole first.
        split_set: of `natural_instructions`: which of the folders in `splits/` says what is tested on.
        splits: split -> share of the clusters, where the source has no splits of its own.
    """

    path: str
    kind: SourceKind = "auto"
    weight: float = 1.0
    clusters: tuple[str, ...] | None = None
    languages: tuple[str, ...] | None = None
    licences: tuple[str, ...] | None = None
    types: tuple[TaskType, ...] | None = None
    exclude: tuple[str, ...] | None = None
    min_examples: int = 0
    max_examples: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    instruction: str | None = None
    turns: Literal["all", "last"] = "all"
    task_column: str | None = None
    cluster_column: str | None = None
    cluster_pattern: str | None = None
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    data_files: tuple[str, ...] | None = None
    streaming: bool = False
    split_set: str = "default"
    splits: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
