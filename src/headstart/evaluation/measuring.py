"""What an adapter's answers to a task's query examples are worth."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean

import torch

from headstart.algorithms.types import Tensors
from headstart.batches import PIECE_TOKENS
from headstart.evaluation.records import BINS
from headstart.model.decode import Sampling, decode
from headstart.passes import Passes, selected
from headstart.scoring import Answer
from headstart.tasks.episodes import Draw
from headstart.tasks.render import Renderer
from headstart.tasks.task import Example, Message

SLACK = 8
"""Greedy decoding may write so many tokens more than the longest of a task's right answers before it counts as not ending."""
MOST_LOSS = 100.0
"""Nats a token; what a run that diverged counts as, whatever its loss, so that means stay finite."""
QUOTES = ('"', "'", "`")


@dataclass(frozen=True)
class Measured:
    """What one adapter's answers to one task's query examples are worth; the fields are those of `Record`."""

    loss: float
    accuracy: float
    invalid: float
    examples: int
    gaps: tuple[float, ...] | None


def measure(passes: Passes, phi: Tensors, draws: Sequence[Draw]) -> list[Measured]:
    """Each task's metrics on its query examples; `phi` leads with as many tasks.

    Raises:
        DecodeError: a prompt is too long for the base together with its answer.
    """
    answers = passes.answers(phi, draws)
    return [_measured(*each) for each in zip(draws, answers, _written(passes, phi, draws, answers), strict=True)]


def _measured(draw: Draw, answers: Sequence[Answer], written: Sequence[str | None]) -> Measured:
    labels = {normalised(label) for label in draw.task.labels}
    texts = [None if text is None else normalised(text) for text in written]
    if labels:
        right = [answer.right for answer in answers]
        valid = [text in labels for text in texts]
    else:
        wanted = [normalised(example.output) for example in draw.query]
        right = [answer.right or text == own for answer, text, own in zip(answers, texts, wanted, strict=True)]
        valid = [bool(text) for text in texts]
    return Measured(
        loss=bounded(fmean(answer.loss for answer in answers)),
        accuracy=fmean(right),
        invalid=1 - fmean(valid),
        examples=len(answers),
        gaps=_gaps(answers) if labels else None,
    )


def bounded(loss: float) -> float:
    """The loss, or `MOST_LOSS` where it is more or no number."""
    return loss if loss <= MOST_LOSS else MOST_LOSS


def normalised(text: str) -> str:
    """The form in which answers are compared, by exact match and nothing softer.

    Unicode's composed form; white space is one blank between words and none around; a pair of quotation marks around the whole and a
    full stop at its end are dropped where something is left. Case and all other signs stay: there are tasks about nothing else.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if len(text) > 2 and text[0] == text[-1] and text[0] in QUOTES:
        text = text[1:-1].strip()
    return text[:-1].rstrip() if len(text) > 1 and text.endswith(".") and not text.endswith("..") else text


def _gaps(answers: Sequence[Answer]) -> tuple[float, ...]:
    """For each bin of confidence, the sum of (confidence - right) over its examples, over all examples (Guo et al. 2017, eq. 5)."""
    gaps = [0.0] * BINS
    for answer in answers:
        confidence = max(answer.probabilities.values())
        gaps[min(int(confidence * BINS), BINS - 1)] += (confidence - answer.right) / len(answers)
    return tuple(gaps)


def _written(passes: Passes, phi: Tensors, draws: Sequence[Draw], answers: Sequence[Sequence[Answer]]) -> list[list[str | None]]:
    """What greedy decoding writes to each query example; None where it does not stop in time.

    Where scoring has shown already that it writes the right answer or a label, nothing is decoded.
    """
    written = [[answer.written for answer in own] for own in answers]
    limits = [most_new_tokens(draw, passes.batcher.renderer) for draw in draws]
    for part in _parts(passes.batcher.renderer, draws, written, limits):
        for (task, index), text in zip(part.places, _decoded(passes, phi, part, limits), strict=True):
            written[task][index] = text
    return written


@dataclass(frozen=True)
class _Part:
    """Prompts that are answered together: (task, example) and the request of each, those of one task side by side."""

    places: list[tuple[int, int]]
    prompts: list[tuple[int, ...]]


def _parts(renderer: Renderer, draws: Sequence[Draw], written: Sequence[Sequence[str | None]], limits: Sequence[int]) -> Iterator[_Part]:
    part, longest = _Part([], []), 0
    for task, draw in enumerate(draws):
        for index, example in enumerate(draw.query):
            if written[task][index] is not None:
                continue
            prompt = renderer.prompt(draw.task.instruction, example.input, example.history)
            longest = max(longest, len(prompt) + limits[task])
            if part.places and longest * (len(part.places) + 1) > PIECE_TOKENS:
                yield part
                part, longest = _Part([], []), len(prompt) + limits[task]
            part.places.append((task, index))
            part.prompts.append(prompt)
    if part.places:
        yield part


def _decoded(passes: Passes, phi: Tensors, part: _Part, limits: Sequence[int]) -> list[str | None]:
    tasks = sorted({task for task, _ in part.places})
    own = [[prompt for (place, _), prompt in zip(part.places, part.prompts, strict=True) if place == task] for task in tasks]
    # filled up with repetitions: sites spread adapters over equally many rows each without copying them
    most = max(map(len, own))
    filled = [[*prompts, *prompts[-1:] * (most - len(prompts))] for prompts in own]
    index = torch.tensor(tasks, device=passes.batcher.device)
    sampling = Sampling(max_new_tokens=max(limits[task] for task in tasks))
    found = decode(passes.learner, selected(phi, index), filled, passes.batcher.renderer.end_id, sampling)
    texts = []
    for task, prompts, rows in zip(tasks, own, found, strict=True):
        # one that ends has fewer tokens than were allowed, its end being left out
        texts += [passes.batcher.renderer.text(row) if len(row) < limits[task] else None for row in rows[: len(prompts)]]
    return texts


def most_new_tokens(draw: Draw, renderer: Renderer) -> int:
    """How many tokens may be written to a task's query examples, the end among them."""
    answers = [replace(example, history=(), tokens=None) for example in draw.query]
    answers += [replace(answers[0], output=label) for label in draw.task.labels]
    return SLACK + max(len(one.ids) - one.answer for one in renderer.render(draw.task.instruction, answers))


def prompted(draw: Draw, renderer: Renderer) -> tuple[Draw, int]:
    """The draw with its support examples as earlier turns of every query example's chat, and how many of them fit.

    They stand in the draw's order, the instruction in front of the first. Where not all fit the renderer's `max_length`, the last ones go.
    """
    shots = draw.support[0]
    longest = _longest(draw, renderer)
    count = next(count for count in range(len(shots), -1, -1) if count == 0 or _fits(longest, shots[:count], draw, renderer))
    return replace(draw, support=(), query=tuple(_behind(shots[:count], example) for example in draw.query)), count


def _longest(draw: Draw, renderer: Renderer) -> Example:
    """The query example, with the answer, that takes the most tokens."""
    outputs = draw.task.labels
    candidates = [replace(example, output=output, tokens=None) for example in draw.query for output in outputs or (example.output,)]
    rendered = renderer.measure(draw.task.instruction, candidates)
    return max(zip(candidates, rendered, strict=True), key=lambda each: len(each[1].ids))[0]


def _fits(example: Example, shots: Sequence[Example], draw: Draw, renderer: Renderer) -> bool:
    return bool(renderer.fitting(draw.task.instruction, [_behind(shots, example)]))


def _behind(shots: Sequence[Example], example: Example) -> Example:
    """The example as the last turn of a chat that the shots stand in; a system prompt of its own stays first."""
    system = tuple(turn for turn in example.history if turn[0] == "system")
    turns: Iterator[Message] = chain.from_iterable(_turns(shot) for shot in shots)
    own = (turn for turn in example.history if turn[0] != "system")
    return replace(example, history=(*system, *turns, *own), tokens=None)


def _turns(shot: Example) -> Iterator[Message]:
    yield from (turn for turn in shot.history if turn[0] != "system")
    yield "user", shot.input
    yield "assistant", shot.output
