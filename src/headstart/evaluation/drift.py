"""Drift: how far an adapter changes the base's perplexity on a fixed text that is none of its task's business."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from headstart.algorithms.types import Tensors
from headstart.batches import Batcher
from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.measuring import MOST_LOSS
from headstart.model.base import Base
from headstart.model.learner import Learner
from headstart.tasks.rows import Layout, Rendered, build_rows

TEXT = Path(__file__).with_name("drift.txt")
"""Passages of works in the public domain; `drift.md` beside it says which."""
WINDOW = 512
"""The most tokens that are read at once."""
PASS_LOGITS = 1 << 27
"""Adapters share a pass up to so many logits, half a gigabyte in float32."""


@dataclass(frozen=True)
class DriftText:
    """The text as a base reads it: windows, each without sight of the others.

    Args:
        windows: their token ids, with what the tokenizer puts in front of a text; all but the first token of each are predicted.
        tokens: how many tokens of the text they hold.
        sha256: of the text's file.
        layout: how the rows of a pass are laid out.
    """

    windows: tuple[Rendered, ...]
    tokens: int
    sha256: str
    layout: Layout

    @classmethod
    def of(cls, base: Base, batcher: Batcher, tokens: int) -> "DriftText":
        """So many tokens of the text, or all, as plain text without a chat template, in windows spread evenly over the whole of it.

        Raises:
            EvaluationError: too few are asked for to predict one.
        """
        content = TEXT.read_bytes()
        front, ids = _tokenized(base.tokenizer, content.decode())
        if tokens < 2:
            raise EvaluationError(f"evaluation.drift_tokens: {tokens} tokens predict none; give 2 or more, or 0 to leave drift out")
        # tokenizers of large vocabularies make fewer of it
        tokens = min(tokens, len(ids))
        windows = tuple(_windows(front, ids, tokens, _window_size(base)))
        return cls(windows, tokens, hashlib.sha256(content).hexdigest(), batcher.layout)

    @property
    def predicted(self) -> int:
        """How many tokens are predicted."""
        return sum(len(window.ids) - window.answer for window in self.windows)


def _tokenized(tokenizer: Any, content: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts in front of a text, such as a token that begins one, and the text's own ids."""
    # it warns of texts that are longer than the base's context
    found = tokenizer(content, return_special_tokens_mask=True, verbose=False)
    ids, added = found["input_ids"], found["special_tokens_mask"]
    own = tuple(index for index, mark in zip(ids, added, strict=True) if not mark)
    return tuple(ids[: added.index(0)]), own


def _window_size(base: Base) -> int:
    # bases that count no places, such as BLOOM, name no limit
    return min(WINDOW, getattr(base.model.config.get_text_config(), "max_position_embeddings", WINDOW))


def _windows(front: tuple[int, ...], ids: Sequence[int], tokens: int, size: int) -> Iterator[Rendered]:
    """As few windows of at most `size` tokens as hold so many of the text, of like length; each begins as the text does."""
    count = -(-tokens // (size - len(front)))
    for place in range(count):
        start, length = place * len(ids) // count, (place + 1) * tokens // count - place * tokens // count
        yield Rendered((*front, *ids[start : start + length]), max(1, len(front)))


@dataclass(frozen=True, eq=False)
class Drift:
    """Measures adapters against the bare base, whose perplexity is computed once.

    Args:
        learner: the base with its sites.
        text: what is read.
    """

    learner: Learner
    text: DriftText

    @cached_property
    def bare(self) -> float:
        """The perplexity of the base without an adapter."""
        nothing = {name: torch.zeros(1, *shape, device=self.learner.base.device) for name, shape in self.learner.shapes().items()}
        return perplexities(self.learner, nothing, self.text)[0]

    def of(self, phi: Tensors) -> list[float]:
        """For each of the T adapters `perplexity / bare - 1`; 0 is no drift, 1 a perplexity twice as high."""
        return [value / self.bare - 1 for value in perplexities(self.learner, phi, self.text)]


def perplexities(learner: Learner, phi: Tensors, text: DriftText) -> list[float]:
    """Each adapter's perplexity: e to the mean negative log-likelihood over all predicted tokens of all windows.

    Memory is that of one pass over one window, by as many adapters as `PASS_LOGITS` allows; at least by one.

    Args:
        learner: the base with its sites.
        phi: A `(T, r, d_in)` and B `(T, d_out, r)` for every site.
        text: what is read.
    """
    adapters = len(next(iter(phi.values())))
    together = _adapters_of_a_pass(learner.base, text)
    found = list[float]()
    for first in range(0, adapters, together):
        found += _perplexities(learner, {name: tensor[first : first + together] for name, tensor in phi.items()}, text)
    return found


def _adapters_of_a_pass(base: Base, text: DriftText) -> int:
    longest = max(len(window.ids) for window in text.windows)
    logits: int = longest * base.model.config.get_text_config().vocab_size
    return max(1, PASS_LOGITS // logits)


def _perplexities(learner: Learner, phi: Tensors, text: DriftText) -> list[float]:
    """The same for adapters that share every pass."""
    adapters = len(next(iter(phi.values())))
    total = torch.zeros(adapters, dtype=torch.float64)
    for window in text.windows:
        rows = build_rows([[[window]]] * adapters, layout=text.layout).to(learner.base.device)
        total += learner.scores(phi, rows).log_likelihood.double().cpu()
    # of an adapter that diverged it is bounded, so that means stay finite
    return torch.exp((-total / text.predicted).nan_to_num(MOST_LOSS).clamp(max=MOST_LOSS)).tolist()
