"""Scoring adapters on query examples: how each was answered, and loss and accuracy over them, a task axis at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from headstart.algorithms.types import Tensors
from headstart.batches import Batcher
from headstart.model.learner import Learner
from headstart.tasks.episodes import Draw, Episode


@dataclass(frozen=True)
class Answer:
    """How one example was answered.

    Args:
        loss: the mean negative log-likelihood of its answer's tokens, its end token included; nats.
        right: with labels, whether its label alone has the highest summed log-probability, end token included; without, whether greedy
            decoding writes exactly the answer's tokens and stops.
        probabilities: label -> probability, normalised over the labels, in the labels' order; empty without labels.
        written: what greedy decoding writes before it stops, if that is the example's own answer or one of the labels; else None.
    """

    loss: float
    right: bool
    probabilities: dict[str, float]
    written: str | None = None


@dataclass(frozen=True)
class Metrics:
    """How an adapter does on some examples.

    Args:
        loss: mean over examples of the mean negative log-likelihood of their answer's tokens, its end token included; nats.
        accuracy: the share answered right. With labels, right is the label of the highest summed log-probability, end
            token included; without, that greedy decoding writes exactly the answer's tokens and stops.
        examples: how many there were.
    """

    loss: float
    accuracy: float
    examples: int

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> "Metrics":
        """The means over answers, of which there is at least one."""
        return cls(fmean(answer.loss for answer in answers), fmean(answer.right for answer in answers), len(answers))


def measure(learner: Learner, phi: Tensors, episode: Episode, batcher: Batcher) -> list[Metrics]:
    """Each task's metrics on its query examples, in the episode's order; `phi` leads with the same T tasks."""
    return [Metrics.of(each) for each in answers(learner, phi, episode, batcher)]


def answers(learner: Learner, phi: Tensors, episode: Episode, batcher: Batcher) -> list[list[Answer]]:
    """How each task's query examples are answered, in the episode's order; `phi` leads with the same T tasks.

    Every label of a classification task is ranked as a candidate answer.
    """
    rows = batcher.ranking_rows(episode)
    scores = learner.scores(phi, rows)
    tokens = torch.bincount(rows.sequence, minlength=len(rows.sequence_task))
    loss, likelihood, greedy = (each.tolist() for each in (-scores.log_likelihood / tokens, scores.log_likelihood, scores.greedy))
    found, at = [], 0
    for draw in episode:
        width = max(1, len(draw.task.labels))
        starts = range(at, at + width * len(draw.query), width)
        # an example's sequences stand together, its own answer first
        found.append(
            [
                _answer(draw, index, loss[start], likelihood[start : start + width], greedy[start : start + width])
                for index, start in enumerate(starts)
            ]
        )
        at = starts.stop
    return found


def _answer(draw: Draw, index: int, loss: float, likelihoods: Sequence[float], greedy: Sequence[bool]) -> Answer:
    labels, own = draw.task.labels, draw.query[index].output
    candidates = [own, *(label for label in labels if label != own)]
    written = next((text for text, writes in zip(candidates, greedy, strict=True) if writes), None)
    if not labels:
        return Answer(loss, greedy[0], {}, written)
    ranked = dict(zip(candidates, likelihoods, strict=True))
    scores = torch.tensor([ranked[label] for label in labels], dtype=torch.float64)
    # an adapter that diverged prefers none
    shares = torch.softmax(scores if scores.isfinite().all() else torch.zeros_like(scores), 0).tolist()
    right = all(likelihoods[0] > other for other in likelihoods[1:])
    return Answer(loss, right, dict(zip(labels, shares, strict=True)), written)


def losses(learner: Learner, phi: Tensors, episode: Episode, batcher: Batcher) -> list[Tensor]:
    """The loss of each task's query examples `(N,)`, without ranking labels."""
    rows = batcher.query_rows(episode)
    each = -learner.scores(phi, rows).log_likelihood / torch.bincount(rows.sequence, minlength=len(rows.sequence_task))
    return list(torch.split(each.cpu(), [len(draw.query) for draw in episode]))
