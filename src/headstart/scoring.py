"""Scoring adapters on query examples: loss and accuracy, a task axis at a time."""

from dataclasses import dataclass

import torch

from headstart.algorithms.types import Tensors
from headstart.batches import Batcher
from headstart.model.learner import Learner
from headstart.tasks.episodes import Episode


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


def measure(learner: Learner, phi: Tensors, episode: Episode, batcher: Batcher) -> list[Metrics]:
    """Each task's metrics on its query examples, in the episode's order; `phi` leads with the same T tasks."""
    rows = batcher.ranking_rows(episode)
    scores = learner.scores(phi, rows)
    metrics, example = [], 0
    for task, draw in enumerate(episode):
        right = 0
        for _ in draw.query:
            sequences = torch.nonzero(rows.sequence_example == example).flatten()
            # The true answer stands first; with no other candidates, writing it greedily is what counts.
            ranked = int(scores.log_likelihood[sequences].argmax()) == 0
            right += ranked if draw.task.labels else bool(scores.greedy[sequences[0]])
            example += 1
        metrics.append(Metrics(float(scores.loss[task]), right / len(draw.query), len(draw.query)))
    return metrics
