"""`headstart generate`: prompts answered by one adapter, or by several side by side, all in one batch over one base."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headstart.adapter.adapted import likeliest_first
from headstart.adapter.header import AdapterError
from headstart.adapter.stored import StoredAdapter, read_adapter, together
from headstart.algorithms.types import Tensors
from headstart.files import WriteError, require_writable, writing
from headstart.model.base import load_base, load_tokenizer
from headstart.model.decode import OnTokens, Prompt, Sampling, decode, require_room
from headstart.passes import Passes, passes_over
from headstart.progress import say
from headstart.tasks.episodes import Draw
from headstart.tasks.problems import Place
from headstart.tasks.reading.shapes import text_of
from headstart.tasks.reading.tables import Row, read_rows
from headstart.tasks.render import Renderer
from headstart.tasks.task import Example, SuiteError, Task

BARE = "base"
"""Stands for the base without an adapter, beside adapters."""
BATCH_SIZE = 16
INPUTS = ("input", "prompt", "text", "question", "inputs")
OUTPUTS = ("output", "completion", "answer", "targets")
"""Columns of a file of questions; the first that its first row has counts."""


@dataclass(frozen=True)
class Question:
    """An input, and what is known with it.

    Args:
        input: the text to answer.
        instruction: what precedes it; the adapter's own where None.
        expected: the right answer, if it is known.
    """

    input: str
    instruction: str | None = None
    expected: str | None = None


def generate(
    adapters: Sequence[str | Path],
    *,
    prompts: Sequence[str] = (),
    file: str | Path | None = None,
    output: str | Path | None = None,
    instruction: str | None = None,
    labels: tuple[str, ...] | None = None,
    sampling: Sampling | None = None,
    batch_size: int = BATCH_SIZE,
    base_source: str | None = None,
    allow_base_variant: bool = False,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Answer prompts, or the rows of a file, with each of some adapters.

    A terminal shows answers as they are written; elsewhere each is a JSON line, written batch by batch.

    Args:
        adapters: folders of plain LoRA adapters of one base, or shipped ones' names; `base` is the base without any.
        prompts: inputs to answer.
        file: a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file with `input`, and perhaps
            `instruction` and `output`, instead of prompts.
        output: a file for the JSON lines, which is there when all are answered; printed where None.
        instruction: what precedes every input that has none of its own; the adapter's where None.
        labels: to choose among by their probabilities, white space around them and repeated ones left out; the adapter's own where
            None, written answers where empty.
        sampling: how written answers are chosen.
        batch_size: how many inputs are answered at once, by all adapters.
        base_source: where the base's weights come from; what the first adapter that tells says where None.
        allow_base_variant: accept other weights of the same base.
        console: prints.

    Returns:
        For each input and adapter `adapter`, `input`, `output`, and where there are labels `probabilities`, the likeliest first.

    Raises:
        SuiteError: nothing to answer, or an input or label that cannot be rendered; raised before the base is loaded.
        AdapterError, BaseError: an adapter cannot be used, or is of another base.
        DecodeError: there is no room for an answer.
        WriteError: the output cannot be written.
    """
    console, sampling = console or Console(), sampling or Sampling()
    questions = _questions(prompts, file)
    stored = [_told(one, instruction, labels) for one in _read(adapters)]
    # a plain PEFT adapter does not tell how its base was loaded
    spec = next((one for one in stored if one.fingerprint), stored[0]).base_from(base_source)
    renderer = Renderer(load_tokenizer(spec), max(one.max_length for one in stored), spec.chat_template_kwargs)
    requests = [_requested(one, question, renderer) for one in stored for question in questions]
    if output is not None:
        _require_file(Path(output))
    base = load_base(spec)
    require_room(base.model, [max(requests, key=len)], sampling)
    for one in stored:
        one.require_base(base, allow_base_variant)
    phi, lora = together(stored)
    found: list[dict[str, Any]] = []
    with passes_over(base, lora, renderer.max_length) as passes, _Sink.open(output, console) as sink:
        phi = {name: tensor.to(base.device) for name, tensor in phi.items()}
        for start in range(0, len(questions), batch_size):
            batch = questions[start : start + batch_size]
            # the same seed in every batch would draw the same again
            drawing = replace(sampling, seed=(sampling.seed + start) % 2**63)
            with sink.showing(batch, stored, renderer) as on_tokens:
                answers = _answered(stored, phi, batch, passes, drawing, on_tokens)
            found += sink.take(batch, stored, answers)
    return found


def _questions(prompts: Sequence[str], file: str | Path | None) -> list[Question]:
    if bool(prompts) == (file is not None):
        raise SuiteError("give either --prompt or --file" + (", not both" if prompts else ""))
    if file is None:
        return [Question(text) for text in prompts]
    rows = list(read_rows(file))
    # the first row tells the columns of all
    asked = next((name for name in INPUTS if name in rows[0][1]), INPUTS[0])
    known = next((name for name in OUTPUTS if name in rows[0][1]), OUTPUTS[0])
    return [_question(row, place, asked, known) for place, row in rows]


def _question(row: Row, place: Place, asked: str, known: str) -> Question:
    instruction = text_of(row, "instruction", place, default="") or None
    return Question(text_of(row, asked, place), instruction, text_of(row, known, place) if row.get(known) is not None else None)


def _read(adapters: Sequence[str | Path]) -> list[StoredAdapter]:
    """The adapters under names of their own; the bare base as an adapter that changes nothing.

    Raises:
        AdapterError: none, or of more than one base.
    """
    read = {str(each): read_adapter(each) for each in adapters if str(each) != BARE}
    if not read:
        raise AdapterError(f"give an adapter's folder or name; {BARE} alone is no adapter")
    first = next(iter(read.values()))
    nothing = replace(first, name=BARE, phi={name: tensor * 0 for name, tensor in first.phi.items()}, instruction="", labels=())
    found = [read[str(each)] if str(each) != BARE else nothing for each in dict.fromkeys(map(str, adapters))]
    other = next((one for one in found if one.base.id != first.base.id), None)
    if other:
        raise AdapterError(f"{first.name} belongs to {first.base.id} and {other.name} to {other.base.id}; answer with one base at a time")
    # those that do not tell how their base was loaded take it as it comes
    loaded = {(one.base.quantization, one.base.dtype): one.name for one in found if one.fingerprint}
    if len(loaded) > 1:
        told = ", ".join(f"{name} on {quantization} {dtype}" for (quantization, dtype), name in loaded.items())
        raise AdapterError(f"the adapters' bases are loaded in more than one way ({told}); answer with one way at a time")
    names = [one.name for one in found]
    paths = list(dict.fromkeys(map(str, adapters)))
    return [one if names.count(one.name) == 1 else replace(one, name=path) for one, path in zip(found, paths, strict=True)]


def _told(adapter: StoredAdapter, instruction: str | None, labels: tuple[str, ...] | None) -> StoredAdapter:
    chosen = adapter.labels if labels is None else tuple(dict.fromkeys(label.strip() for label in labels))
    if not all(chosen):
        raise SuiteError(f"one of the labels {list(chosen)} is empty; an answer needs some text")
    return replace(adapter, instruction=adapter.instruction if instruction is None else instruction, labels=chosen)


def _instruction(adapter: StoredAdapter, question: Question) -> str:
    return adapter.instruction if question.instruction is None else question.instruction


def _requested(adapter: StoredAdapter, question: Question, renderer: Renderer) -> Prompt:
    """The request's tokens; raises `SuiteError` where it, or a label behind it, cannot be rendered."""
    instruction = _instruction(adapter, question)
    renderer.render(instruction, [Example(question.input, label) for label in adapter.labels])
    return renderer.prompt(instruction, question.input)


def _require_file(path: Path) -> None:
    """See that a file to come can be written; raises `WriteError`."""
    if path.is_dir():
        raise WriteError(f"{path}: cannot be written: a folder is there; name a file for the answers")
    require_writable(path)


Answers = list[list[dict[str, Any]]]
"""What each adapter answers to each question: `output`, and where there are labels `probabilities`."""


def _answered(
    adapters: Sequence[StoredAdapter],
    phi: Tensors,
    questions: Sequence[Question],
    passes: Passes,
    sampling: Sampling,
    on_tokens: OnTokens | None,
) -> Answers:
    """Written answers of the adapters without labels in one batch, the others' labels ranked in another."""
    renderer = passes.batcher.renderer
    prompts = [[] if one.labels else [renderer.prompt(_instruction(one, each), each.input) for each in questions] for one in adapters]
    written = decode(passes.learner, phi, prompts, renderer.end_id, sampling, on_tokens)
    draws = [_ranked(one, question) for one in adapters if one.labels for question in questions]
    found: Answers = [[{"output": renderer.text(tokens)} for tokens in own] for own in written]
    if not draws:
        return found
    lanes = [number for number, one in enumerate(adapters) if one.labels for _ in questions]
    answers = passes.answers({name: tensor[lanes] for name, tensor in phi.items()}, draws)
    for lane, (answer,) in zip(lanes, answers, strict=True):
        probabilities = likeliest_first(answer.probabilities)
        found[lane].append({"output": next(iter(probabilities)), "probabilities": probabilities})
    return found


def _ranked(adapter: StoredAdapter, question: Question) -> Draw:
    # which label stands as the answer has no bearing on the labels' probabilities
    example = Example(question.input, adapter.labels[0])
    return Draw(Task("asked", _instruction(adapter, question), (example,), "user", adapter.labels), (), (example,))


@dataclass
class _Sink:
    """Where answers go: a file, a terminal as they are written, or lines of JSON.

    Args:
        console: prints.
        scratch: the file to come, under a name of its own; None where answers are printed.
    """

    console: Console
    scratch: Path | None

    @classmethod
    @contextmanager
    def open(cls, output: str | Path | None, console: Console) -> Iterator["_Sink"]:
        """A sink; the file is put in place at the end, and not there if that does not come."""
        if output is None:
            yield cls(console, None)
            return
        target = Path(output)
        scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with writing(target):
            try:
                scratch.touch()
                yield cls(console, scratch)
                scratch.replace(target)
            finally:
                scratch.unlink(missing_ok=True)
        say(console, f"wrote {target}")

    @contextmanager
    def showing(self, questions: Sequence[Question], adapters: Sequence[StoredAdapter], renderer: Renderer) -> Iterator[OnTokens | None]:
        """On a terminal, a table of the batch whose answers grow token by token."""
        if self.scratch or not self.console.is_terminal:
            yield None
            return
        writers = [number for number, one in enumerate(adapters) if not one.labels]
        rows: list[list[int]] = [[] for _ in range(len(writers) * len(questions))]

        def table() -> Table:
            texts = [renderer.text(tokens) for tokens in rows]
            columns = {number: texts[at * len(questions) : (at + 1) * len(questions)] for at, number in enumerate(writers)}
            return _table(questions, adapters, [columns.get(number, [""] * len(questions)) for number in range(len(adapters))])

        with Live(table(), console=self.console, transient=True) if writers else nullcontext() as live:

            def on_tokens(step: list[int]) -> None:
                for row, token in zip(rows, step, strict=True):
                    if renderer.end_id not in row:
                        row.append(token)
                if live:
                    live.update(table())

            yield on_tokens

    def take(self, questions: Sequence[Question], adapters: Sequence[StoredAdapter], answers: Answers) -> list[dict[str, Any]]:
        """Hand a batch's answers on, and give them as rows."""
        rows = [_row(one.name, each, answers[a][q]) for q, each in enumerate(questions) for a, one in enumerate(adapters)]
        if self.scratch:
            with self.scratch.open("a", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        elif self.console.is_terminal:
            self.console.print(_table(questions, adapters, [[_shown(one) for one in own] for own in answers]))
        else:
            for row in rows:
                # as it is: no smiley where a text has `:smile:`
                self.console.out(json.dumps(row, ensure_ascii=False), highlight=False)
        return rows


def _row(name: str, question: Question, answer: Mapping[str, Any]) -> dict[str, Any]:
    expected = {"expected": question.expected} if question.expected is not None else {}
    return {"adapter": name, "input": question.input, **expected, **answer}


def _shown(answer: Mapping[str, Any]) -> str:
    probabilities: Mapping[str, float] = answer.get("probabilities", {})
    return "\n".join(f"{label} {share:.1%}" for label, share in probabilities.items()) or answer["output"]


def _table(questions: Sequence[Question], adapters: Sequence[StoredAdapter], columns: Sequence[Sequence[str]]) -> Table:
    table = Table(show_lines=True)
    expected = any(each.expected is not None for each in questions)
    for heading in ("input", *(["expected"] if expected else []), *(one.name for one in adapters)):
        table.add_column(Text(heading), overflow="fold")
    for number, each in enumerate(questions):
        told = [each.expected or ""] if expected else []
        # texts, not markup: brackets and backslashes stand as they are
        table.add_row(*map(Text, (each.input, *told, *(column[number] for column in columns))))
    return table
