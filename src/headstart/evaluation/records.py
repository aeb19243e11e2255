"""What one measurement is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headstart.tasks.regimes import Regime

BINS = 10
"""Of confidence, of equal width, for the calibration error."""


@dataclass(frozen=True, slots=True)
class Record:
    """One arm's metrics on one task, for one support draw and training seed, after `step` steps on `k` examples.

    Args:
        arm: the arm's name.
        task: the task's name, the same under every regime.
        cluster: the task's kind.
        dataset: tasks of one dataset share underlying examples.
        regime: how the task was given.
        k: the shots.
        draw: the number of the support draw.
        seed: the training seed of the adapter, and of what is drawn in its place by arms without one.
        step: adaptation steps.
        loss: mean over query examples of the mean negative log-likelihood of the answer's tokens, its end token included; nats.
        accuracy: the share of query examples answered right: by label ranking of classifications, else by normalised exact match.
        invalid: the share of query examples to which greedy decoding writes nothing usable.
        examples: query examples behind these numbers.
        gaps: of classifications, for each of `BINS` bins of confidence the sum over its examples of (confidence - right), over
            `examples`; the expected calibration error is the sum of their absolute values.
        drift: relative change of perplexity on a fixed text; None where it was not measured.
    """

    arm: str
    task: str
    cluster: str
    dataset: str
    regime: Regime
    k: int
    draw: int
    seed: int
    step: int
    loss: float
    accuracy: float
    invalid: float
    examples: int
    gaps: tuple[float, ...] | None = None
    drift: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON's values."""
        return {**asdict(self), "gaps": None if self.gaps is None else list(self.gaps)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Record":
        """The record that `to_json` gave."""
        return cls(**{**content, "gaps": None if content["gaps"] is None else tuple(content["gaps"])})
