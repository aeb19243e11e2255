"""The results document: what it holds, and reading and writing it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import ErrorDetails, from_json
from typing_extensions import TypedDict

from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.records import BINS
from headstart.files import write_atomically

SCHEMA_VERSION = 3
OLDEST_READ = 2
"""Version 3 added `multitask_target` and `steps_to_multitask`, without which a document says all that it said."""
MOST_FAULTS = 3
"""Of a document that are told."""
ROUNDING = 1e-9
"""By which what was computed may leave its range; no evaluation is to be lost to a last bit."""

_closed = with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))


def _finite(content: dict[str, Any]) -> dict[str, Any]:
    json.dumps(content, allow_nan=False)
    return content


def _within_one(share: float) -> float:
    if not -ROUNDING <= share <= 1 + ROUNDING:
        raise ValueError("a share lies between 0 and 1")
    return share


def _in_order(interval: "Interval") -> "Interval":
    if interval["low"] > interval["high"] + ROUNDING * max(1.0, abs(interval["high"])):
        raise ValueError("low lies above high")
    return interval


Step = Annotated[str, Field(pattern=r"^\d+$")]
"""A number of adaptation steps, as JSON's keys are texts."""
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, AfterValidator(_within_one)]
Open = Annotated[dict[str, Any], AfterValidator(_finite)]
"""An object of any content."""
RegimeName = Literal["instructed", "house_rules"]
MetricName = Literal["loss", "accuracy", "invalid", "ece", "gain", "improved", "drift"]


@_closed
class Interval(TypedDict):
    """A macro-mean, or a weighted median, and its 95% interval."""

    mean: float
    low: float
    high: float


AnInterval = Annotated[Interval, AfterValidator(_in_order)]


@_closed
class StepsToTarget(TypedDict):
    """The weighted median of the steps to a target loss, and the share of trajectories that never reach it."""

    mean: float
    low: float
    high: float
    censored: Share


Metrics = dict[MetricName, AnInterval]
"""By metric; one that was not measured is absent."""
Curve = dict[Step, Metrics]


@_closed
class CurveSummary(TypedDict):
    """What one number says of a whole curve; arms with one step have no areas."""

    auc_loss: NotRequired[AnInterval]
    auc_accuracy: NotRequired[AnInterval]
    steps_to_target: NotRequired[StepsToTarget]
    steps_to_multitask: NotRequired[StepsToTarget]


@_closed
class Target(TypedDict):
    """The loss to reach on each task, and the arm and step that it is taken from."""

    arm: str
    step: Count
    losses: dict[str, float]


@_closed
class Sensitivity(TypedDict):
    """The pairs at the primary step again, with some tasks left out."""

    name: str
    tasks: Count
    left_out: list[str]
    pairs: dict[str, Metrics]


@_closed
class Setting(TypedDict):
    """All that was found under one regime with one number of shots; a pair `first-second` is first minus second.

    `target` is what `steps_to_target` lead to, `multitask_target` what `steps_to_multitask` do; null without the arm.
    """

    regime: RegimeName
    k: Count
    summary: dict[str, Curve]
    pairs: dict[str, Curve]
    curves: dict[str, CurveSummary]
    curve_pairs: dict[str, CurveSummary]
    target: Target | None
    multitask_target: Target | None
    sensitivity: list[Sensitivity]


@_closed
class Headline(TypedDict):
    """The primary pair's difference, first minus second, at the primary step of the primary setting."""

    regime: RegimeName
    k: Count
    pair: str
    metric: MetricName
    step: Count
    mean: float
    low: float
    high: float


@_closed
class TaskFacts(TypedDict):
    """What is known of a measured task.

    `majority` is the share of its commonest output; without `headroom` no arm beats that by two standard errors; `relatives` are training
    tasks that look like it.
    """

    cluster: str
    dataset: str
    kind: Literal["classification", "generation"]
    query: Count
    majority: Share
    headroom: bool
    relatives: list[str]


@_closed
class RecordRow(TypedDict):
    """One measurement; see `headstart.evaluation.records.Record`."""

    arm: str
    task: str
    cluster: str
    dataset: str
    regime: RegimeName
    k: Count
    draw: Count
    seed: int
    step: Count
    loss: float
    accuracy: Share
    invalid: Share
    examples: Count
    gaps: Annotated[list[float], Field(min_length=BINS, max_length=BINS)] | None
    drift: float | None


@_closed
class AdapterFacts(TypedDict):
    """An adapter that was measured; several are one recipe's training seeds."""

    name: str
    seed: int
    sha256: str


@_closed
class BaseFacts(TypedDict):
    """The base's weights."""

    id: str
    source: str
    fingerprint: str
    quantization: str
    dtype: str


@_closed
class Variant(TypedDict):
    """The weights that the adapters were trained on, where they were measured on others."""

    source: str
    fingerprint: str


@_closed
class SuiteFacts(TypedDict):
    """The tasks that were measured, and the regime of training."""

    name: str
    revision: str
    split: str
    training_regime: str


@_closed
class Primary(TypedDict):
    """What the headline is about, fixed before anything was measured."""

    regime: RegimeName
    k: Count
    step: Count
    pair: str
    metric: MetricName


@_closed
class Tuning(TypedDict):
    """The validation loss of every candidate, and those chosen; settings are named as `instructed/16`, horizons are last steps."""

    tasks: list[str]
    grids: dict[str, dict[str, dict[Step, dict[str, float]]]]
    chosen: dict[str, dict[str, dict[Step, float]]]


@_closed
class Spending(TypedDict):
    """Counted operations, tokens and seconds; None where they were not recorded."""

    flops: float | None
    tokens: float | None
    seconds: float | None


@_closed
class Cost(TypedDict):
    """What training each initialisation took, and the evaluation."""

    training: dict[str, Spending]
    evaluation: Spending


@_closed
class DriftFacts(TypedDict):
    """The text that drift was measured on."""

    tokens: Count
    sha256: str


@_closed
class ProtocolFacts(TypedDict):
    """How the records were made."""

    adapters: list[AdapterFacts]
    base: BaseFacts
    base_variant_of: Variant | None
    suite: SuiteFacts
    regimes: list[RegimeName]
    shots: list[Count]
    query: Count
    steps: list[Count]
    horizons: list[Count]
    draws: Count
    seeds: list[int]
    tier: str | None
    primary: Primary
    arms: dict[str, str]
    skipped: dict[str, str]
    measured: list[str]
    tuning: Tuning
    cost: Cost
    recipe: Open
    drift: DriftFacts | None
    machine: str
    versions: dict[str, str]
    commit: str | None
    seconds: float


@_closed
class Results(TypedDict):
    """A results document; its top level repeats the primary setting's `summary` and `pairs`."""

    schema_version: Literal[3]
    protocol: ProtocolFacts
    headline: Headline | None
    settings: Annotated[list[Setting], Field(min_length=1)]
    summary: dict[str, Curve]
    pairs: dict[str, Curve]
    tasks: dict[str, TaskFacts]
    looks: list[Open]
    notes: list[str]
    records: list[RecordRow]


RESULTS = TypeAdapter(Results)


def results_schema() -> dict[str, Any]:
    """The JSON schema of a results document."""
    return RESULTS.json_schema()


def read_results(path: str | Path) -> Results:
    """Read a results document; one of schema version 2 is read as one of version 3 without `multitask_target`.

    Raises:
        EvaluationError: it is none, or one of an older or newer schema version; the message says where in it and what is wrong.
    """
    return _checked(_lifted(_parsed(Path(path).read_bytes(), str(path))), str(path))


def write_results(results: Mapping[str, Any], path: str | Path) -> Results:
    """Write a document, whole or not at all, each record on a line of its own.

    Returns:
        The document as it is read back.

    Raises:
        EvaluationError: it is no results document; NaN and infinity, which JSON does not have, belong to none.
        WriteError: the file cannot be written.
    """
    text = _text(results)
    checked = _checked(_parsed(text, str(path)), str(path))
    write_atomically(Path(path), text)
    return checked


def _text(results: Mapping[str, Any]) -> bytes:
    head = json.dumps({key: value for key, value in results.items() if key != "records"}, indent=1, ensure_ascii=False)
    records = ",\n".join(json.dumps(record, ensure_ascii=False) for record in results.get("records", ()))
    return f'{head.removesuffix("}").rstrip()},\n "records": [\n{records}\n ]\n}}\n'.encode()


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    """JSON of a version that is read, not yet checked any further."""
    try:
        content = from_json(text)
    except ValueError as error:
        raise EvaluationError(f"{where}: not JSON: {error}") from None
    _require_version(content, where)
    return dict(content)


def _lifted(content: dict[str, Any]) -> dict[str, Any]:
    """A document of an older version as one of the present; what else is wrong with it is left for the check to tell."""
    settings = content.get("settings")
    if content["schema_version"] == SCHEMA_VERSION or not isinstance(settings, list):
        return {**content, "schema_version": SCHEMA_VERSION}
    lifted = [{**setting, "multitask_target": None} if isinstance(setting, dict) else setting for setting in settings]
    return {**content, "schema_version": SCHEMA_VERSION, "settings": lifted}


def _checked(content: dict[str, Any], where: str) -> Results:
    try:
        return RESULTS.validate_python(content)
    except ValidationError as error:
        faults = [_fault(item) for item in error.errors(include_url=False)]
        more = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        raise EvaluationError(f"{where}: {'; '.join(faults[:MOST_FAULTS])}{more}") from None


def _require_version(content: Any, where: str) -> None:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise EvaluationError(f"{where}: no results document: it has no schema_version")
    reads = f"this one reads {OLDEST_READ} to {SCHEMA_VERSION}"
    if version < OLDEST_READ:
        raise EvaluationError(f"{where}: schema version {version}, of an older headstart; {reads}: run headstart evaluate again")
    if version > SCHEMA_VERSION:
        raise EvaluationError(f"{where}: schema version {version}, of a newer headstart; {reads}: update headstart")


def _fault(item: ErrorDetails) -> str:
    place = ".".join(str(part) for part in item["loc"])
    return f"{place}: {item['msg']}"
