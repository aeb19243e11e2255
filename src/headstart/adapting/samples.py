"""A handful of measured rows, with what each adapter of a comparison answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headstart.adapting.flow import Outcome, Side
from headstart.model.decode import Sampling, decode
from headstart.passes import Passes
from headstart.tasks.task import Example

SHOWN = 6
ROOM = 1.5
"""An answer may take so many times the tokens of the longest expected one,"""
MOST_TOKENS = 64
"""and no more than this."""


@dataclass(frozen=True)
class Sample:
    """A row, and each side's answer, in the order of the sides."""

    input: str
    expected: str
    answers: tuple[str, ...]


def samples(outcome: Outcome, passes: Passes) -> list[Sample]:
    """Rows from all folds, spread evenly; answers are labels with their probabilities, or written out."""
    chosen = _chosen(outcome)
    if outcome.job.task.labels:
        answered = [[_ranked(side, place) for _, place, _ in chosen] for side in outcome.sides]
    else:
        answered = _written(outcome, chosen, passes)
    return [Sample(row.input, row.output, tuple(side[index] for side in answered)) for index, (_, _, row) in enumerate(chosen)]


def _chosen(outcome: Outcome) -> list[tuple[int, int, Example]]:
    """The fold, the place among all measured rows, and the row; folds in turn."""
    places, at = [], 0
    for number, fold in enumerate(outcome.folds):
        places.append([(number, at + index, row) for index, row in enumerate(fold.held)])
        at += len(fold.held)
    turns = [part[index] for index in range(max(map(len, places))) for part in places if index < len(part)]
    return sorted(turns[:SHOWN], key=lambda one: one[1])


def _ranked(side: Side, place: int) -> str:
    probabilities = side.answers[place].probabilities
    best = max(probabilities, key=probabilities.__getitem__)
    return f"{best} ({probabilities[best]:.0%})"


def _written(outcome: Outcome, chosen: Sequence[tuple[int, int, Example]], passes: Passes) -> list[list[str]]:
    """What each side writes, every side and fold in one batch."""
    renderer, task = passes.batcher.renderer, outcome.job.task
    prompts = [
        [renderer.prompt(task.instruction, row.input, row.history) for fold, _, row in chosen if fold == number]
        for number in range(len(outcome.folds))
    ]
    longest = max(len(one.ids) - one.answer for one in renderer.render(task.instruction, [row for *_, row in chosen]))
    sampling = Sampling(max_new_tokens=min(MOST_TOKENS, round(ROOM * longest) + 4))
    phi = {name: torch.cat([side.phi[name] for side in outcome.sides]) for name in outcome.sides[0].phi}
    written = decode(passes.learner, phi, prompts * len(outcome.sides), renderer.end_id, sampling)
    texts = [[renderer.text(tokens) for tokens in lane] for lane in written]
    folds = len(outcome.folds)
    return [[text for lane in texts[side * folds : (side + 1) * folds] for text in lane] for side in range(len(outcome.sides))]
