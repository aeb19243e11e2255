"""The keys of an adapter's record that anything goes by, and what they must hold; a record's other keys are its maker's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from headstart.adapter.files import from_json

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class _RecipeSuite:
    max_length: Count = 0


@dataclass(frozen=True)
class _Recipe:
    suite: _RecipeSuite = field(default_factory=_RecipeSuite)


@dataclass(frozen=True)
class _Data:
    licence: str
    tasks: Count
    datasets: tuple[str, ...]
    data_terms: str | None = None


@dataclass(frozen=True)
class _Suite:
    name: str = "?"
    revision: str = ""
    regime: str = ""
    training_tasks: Count | None = None
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    data: tuple[_Data, ...] | None = None


@dataclass(frozen=True)
class _Phase:
    algorithm: str
    steps: Count


@dataclass(frozen=True)
class _Cost:
    flops: Amount = 0
    tokens: Amount = 0
    seconds: Amount = 0


@dataclass(frozen=True)
class _ControlOf:
    name: str
    sha256: str


@dataclass(frozen=True)
class _Search:
    trials: tuple[dict[str, Any], ...] = ({},)
    chosen: Count = 0

    def __post_init__(self) -> None:
        if self.chosen >= len(self.trials):
            raise ValueError(f"chosen is {self.chosen}, of {len(self.trials)} trials")


@dataclass(frozen=True)
class _Split:
    name: str
    split: str


@dataclass(frozen=True)
class _Evaluation:
    suite: _Split
    headline: str
    looks: Count
    table: str
    base_variant: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Side:
    steps: Count
    loss: float
    accuracy: float


@dataclass(frozen=True)
class _Measured:
    how: str
    accuracy: str
    sides: dict[str, _Side]


@dataclass(frozen=True)
class _Results:
    measured: _Measured | None = None


@dataclass(frozen=True)
class _Record:
    name: str = ""
    recipe: _Recipe = field(default_factory=_Recipe)
    seed: int | None = None
    suite: _Suite = field(default_factory=_Suite)
    user_turn: str = ""
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    phases: tuple[_Phase, ...] = ()
    cost: _Cost = field(default_factory=_Cost)
    machine: str = ""
    command: str | None = None
    commit: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    control_of: _ControlOf | None = None
    search: _Search | None = None
    evaluation: _Evaluation | None = None
    rows: Count | None = None
    results: _Results = field(default_factory=_Results)


@dataclass(frozen=True)
class _Recorded:
    record: _Record = field(default_factory=_Record)


def require_record(content: Mapping[str, Any], path: Path) -> None:
    """See that the record in a `headstart.json` can be gone by; of what makes up no part of it nothing is asked.

    Raises:
        AdapterError: a key has a value of another type; the message names the file and every such key.
    """
    from_json(_Recorded, content, path)
