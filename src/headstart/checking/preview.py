"""The preview of a task: its first examples token by token, and a packed row as attention sees it; what console and page both draw.

Shape suffix: L tokens of the row.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headstart.tasks.blocks import PADDING, SHARED
from headstart.tasks.planner import Planner
from headstart.tasks.render import Renderer
from headstart.tasks.rows import Rendered, Rows, build_rows, common_prefix
from headstart.tasks.task import Example, Message, SuiteError, Task

Kind = Literal["template", "prompt", "trained"]
"""What a token is: of the chat template or special, of what the task says, or a label."""
Part = Literal["shared", "own", "trained"]
"""Where a token is computed: once for the whole row, or with its example, of which the labels are a part."""
REPLACEMENT = "\ufffd"
"""What decoders give for bytes that are no whole character."""
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode's categories of characters that steer a display instead of showing."""
JOINERS = "\u200c\u200d"
"""Invisible, but letters and emoji next to them look otherwise without them."""


@dataclass(frozen=True)
class Piece:
    """A token, or several that share a character.

    Args:
        text: what it decodes to within its conversation.
        ids: of its tokens.
        position: of its first token in the conversation.
        kind: what its tokens are.
        shared: whether all of them are in the prefix that the row's examples share.
    """

    text: str
    ids: tuple[int, ...]
    position: int
    kind: Kind
    shared: bool

    @property
    def part(self) -> Part:
        """Where it is computed."""
        return "trained" if self.kind == "trained" else "shared" if self.shared else "own"


@dataclass(frozen=True)
class ShownExample:
    """One conversation in pieces, whose texts joined are the conversation's.

    Args:
        pieces: in order.
        shared: the tokens of the prefix that the row's examples share.
    """

    pieces: tuple[Piece, ...]
    shared: int

    @property
    def tokens(self) -> int:
        """All its tokens."""
        return count(self.pieces)

    @property
    def trained(self) -> int:
        """Tokens of the answer and the one that ends it."""
        return count([piece for piece in self.pieces if piece.kind == "trained"])

    @property
    def summary(self) -> str:
        """Its counts in words."""
        once = f"the first {self.shared} are computed once for all examples of a row" if self.shared else "none are shared"
        return f"{self.tokens} tokens; {once}, {self.trained} are trained"

    @property
    def segments(self) -> tuple[tuple[Part, tuple[Piece, ...]], ...]:
        """Runs of pieces that are computed in the same place."""
        return tuple((part, tuple(run)) for part, run in groupby(self.pieces, lambda piece: piece.part))


@dataclass(frozen=True, eq=False)
class PackedRow:
    """One packed row of a task, without filling, and what each of its tokens sees.

    Args:
        ids: `(L,)`.
        branch: `(L,)` the example of each token, `SHARED` in the prefix.
        leaf: `(L,)` the answer of each token, `SHARED` before the answers.
        positions: `(L,)` a token's place in its own conversation.
        trained: `(L,)` true on labels.
        visible: `(L, L)` true where a query, down, sees a key, across, in layers without a sliding window.
        rows: how many rows the drawn examples take; this is the first.
    """

    ids: NDArray[np.int64]
    branch: NDArray[np.int64]
    leaf: NDArray[np.int64]
    positions: NDArray[np.int64]
    trained: NDArray[np.bool_]
    visible: NDArray[np.bool_]
    rows: int

    @property
    def tokens(self) -> int:
        """L."""
        return len(self.ids)

    @property
    def sizes(self) -> dict[int, int]:
        """Tokens of the prefix (`SHARED`), if there is one, and of each example after it, in the row's order."""
        return {int(branch): len(list(run)) for branch, run in groupby(self.branch)}

    @property
    def unpacked(self) -> int:
        """Tokens that the row's examples have in rows of their own."""
        prefix = self.sizes.get(SHARED, 0)
        return sum(prefix + size for branch, size in self.sizes.items() if branch != SHARED)

    @property
    def colours(self) -> NDArray[np.int64]:
        """`(L, L)`: 0 where a query does not see a key, else 1 for a key of the prefix and 2 + k for one of example k."""
        return np.where(self.visible, self.branch[None, :] - SHARED + 1, 0)


@dataclass(frozen=True, eq=False)
class Preview:
    """What a task looks like in training.

    Args:
        task: its name.
        cluster: its kind.
        drawn: how many of its examples were laid out together.
        examples: the first of them, token by token.
        row: the first row that they take.
    """

    task: str
    cluster: str
    drawn: int
    examples: tuple[ShownExample, ...]
    row: PackedRow

    @property
    def heading(self) -> str:
        """Its name and kind on one line."""
        return one_line(f"{self.task} ({self.cluster})")

    @property
    def summary(self) -> str:
        """What the row saves, in words."""
        row, held = self.row, len(self.row.sizes.keys() - {SHARED})
        which = "one packed row" if row.rows == 1 else f"the first of the {row.rows} packed rows that {self.drawn} examples take"
        return (
            f"{which}, of {held} examples: {row.tokens} tokens, {row.trained.sum()} of them trained; "
            f"in rows of their own the examples take {row.unpacked}"
        )


def make_preview(task: Task, renderer: Renderer, examples: int = 3, packed: int = 6, planner: Planner | None = None) -> Preview:
    """Render the first examples of a task and lay them out as training would.

    Args:
        task: what to look at.
        renderer: of the base that will be trained.
        examples: how many to show token by token.
        packed: how many to lay out together, at least those that are shown; what all of them have in common is the shared prefix.
        planner: decides which of them share a row; the default one where None.

    Raises:
        SuiteError: an example cannot be rendered.
        ValueError: no example is asked for.
    """
    drawn = task.examples[: max(examples, packed)]
    rendered = renderer.render(task.instruction, drawn)
    row = packed_row(build_rows([[[one] for one in rendered]], planner=planner))
    shared = common_prefix(rendered)
    pairs = zip(drawn[:examples], rendered[:examples], strict=True)
    shown = tuple(ShownExample(_pieces(renderer, task.instruction, example, one, shared), shared) for example, one in pairs)
    return Preview(task.name, task.cluster, len(drawn), shown, row)


def packed_row(rows: Rows) -> PackedRow:
    """The first of a batch's rows, with what its tokens see by the rule that makes the model's masks."""
    # transformers takes seconds to import
    from headstart.model.attention import visible

    real = rows.branch[0] != PADDING
    return PackedRow(
        ids=rows.input_ids[0, real].numpy(),
        branch=rows.branch[0, real].numpy(),
        leaf=rows.leaf[0, real].numpy(),
        positions=rows.position_ids[0, real].numpy(),
        # a label is what the token before it predicts
        trained=rows.predicts[0].roll(1)[real].numpy(),
        visible=visible(rows)[0, 0][real][:, real].numpy(),
        rows=len(rows.row_task),
    )


def branch_name(branch: int) -> str:
    """What a part of a row is called."""
    return "shared" if branch == SHARED else f"example {branch + 1}"


def count(pieces: Sequence[Piece]) -> int:
    """The tokens of pieces."""
    return sum(len(piece.ids) for piece in pieces)


def spelled(text: str) -> Iterator[tuple[str, bool]]:
    """A text in runs that are safe to show, and whether each stands for an invisible character: `\\x00`, or `↵` and a line end."""
    for invisible, run in groupby(text, _is_invisible):
        if invisible:
            yield from (("↵\n" if char == "\n" else char.encode("unicode_escape").decode(), True) for char in run)
        else:
            yield "".join(run), False


def one_line(text: str) -> str:
    """A text with its invisible characters spelled out."""
    return "".join(run.removesuffix("\n") for run, _ in spelled(text))


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in INVISIBLE and char not in JOINERS


def _pieces(renderer: Renderer, instruction: str, example: Example, one: Rendered, shared: int) -> tuple[Piece, ...]:
    spans = list(_spans(renderer.tokenizer, one.ids))
    content = _content("".join(text for _, _, text in spans), renderer, instruction, example)
    special = {index for index, token in renderer.tokenizer.added_tokens_decoder.items() if token.special}
    pieces, at = [], 0
    for start, stop, text in spans:
        ids = one.ids[start:stop]
        said = bool(content[at : at + len(text)].any()) and not special.issuperset(ids)
        kind: Kind = "trained" if stop > one.answer else "prompt" if said else "template"
        pieces.append(Piece(text, ids, start, kind, stop <= shared))
        at += len(text)
    return tuple(pieces)


def _spans(tokenizer: Any, ids: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """Where each piece starts and stops among the ids, and its text; a piece ends where a whole character does.

    A token is decoded behind the piece before it, since some decoders treat the first token of a text in a way of its own.
    """
    whole = _decode(tokenizer, ids)
    before, start, at = 0, 0, 0
    for stop in range(1, len(ids)):
        earlier, later = _decode(tokenizer, ids[before:start]), _decode(tokenizer, ids[before:stop])
        text = later.removeprefix(earlier)
        if not text or earlier + text != later or not whole.startswith(text, at):
            continue
        # a replacement character that was written as such may still lack bytes
        if text.endswith(REPLACEMENT) and _decode(tokenizer, ids[before : stop + 1]) == later:
            continue
        yield start, stop, text
        before, start, at = start, stop, at + len(text)
    yield start, len(ids), whole[at:]


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _content(text: str, renderer: Renderer, instruction: str, example: Example) -> NDArray[np.bool_]:
    """Which characters of a conversation the task says; all of them where that cannot be told from the template's."""
    everything, said = np.ones(len(text), dtype=np.bool_), np.zeros(len(text), dtype=np.bool_)
    contents = [instruction, example.input, example.output, *(turn for _, turn in example.history)]
    frame = _frame(renderer, contents, example.history)
    at = len(frame[0])
    if not text.startswith(frame[0]):
        return everything
    for mark, following in zip(frame[1::2], frame[2::2], strict=True):
        end = _end(text, at, contents[int(mark)], following)
        if end < at:
            return everything
        said[at:end] = True
        at = end + len(following)
    return said if at == len(text) else everything


def _frame(renderer: Renderer, contents: Sequence[str], history: Sequence[Message]) -> list[str]:
    """The template's text around a conversation's contents, and between its parts the number of the content that belongs there.

    The renderer is asked to render marks in the contents' places, so that this holds whatever it makes of turns.
    """
    marks = [f"q{number}z" if content else "" for number, content in enumerate(contents)]
    turns = tuple((role, mark) for (role, _), mark in zip(history, marks[3:], strict=True))
    try:
        (rendered,) = renderer.render(marks[0], [Example(marks[1], marks[2], turns)])
    except SuiteError:
        return [""]
    return re.split(r"q(\d+)z", _decode(renderer.tokenizer, rendered.ids))


def _end(text: str, at: int, content: str, following: str) -> int:
    """Where a content that starts at a character ends; -1 where what follows it is not found."""
    forms = (form for form in (content, content.strip()) if text.startswith(form + following, at))
    # a template or a tokenizer may change what is said, as some drop earlier thoughts
    return next((at + len(form) for form in forms), text.find(following, at))
