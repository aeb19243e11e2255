"""The shapes that rows come in: which columns hold the input, the output, a whole chat; noticed, or as a user says."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import Any, Literal, NamedTuple, cast

from headstart.tasks.problems import DataError, Place, Problem, Report, refuse
from headstart.tasks.reading.tables import Row, kind
from headstart.tasks.task import Example, Message

Turns = Literal["all", "last"]
ROLES = ("input", "output", "instruction", "messages", "label")
SAME_ROLE = {"prompt": "input", "completion": "output", "text": "input"}
"""Other names for roles, of other tools."""
SPEAKERS: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
EMPTY_ANSWER = "is empty; every row needs an answer to train on"
MISSING_LABELS = {"nan", "NaN", "NAN", "null", "NULL", "<NA>"}
"""What tools write where a value is missing, and nobody calls a class; `none` is a class of some data."""


@dataclass(frozen=True)
class Shape:
    """How rows become examples.

    Args:
        name: what the shape is called.
        columns: role -> column; the roles are `messages` (a chat), or `input` and `output`, perhaps with `instruction`; an output
            under the role `label` is a class's name or number.
        unread: the other columns.
    """

    name: str
    columns: Mapping[str, str]
    unread: tuple[str, ...] = ()

    def __str__(self) -> str:
        unread = f"; not read: {', '.join(self.unread)}" if self.unread else ""
        return f"{self.name} ({', '.join(f'{role} from `{column}`' for role, column in self.columns.items())}{unread})"


def of_others(problem: Problem) -> Problem:
    """A problem in data that others have published: a row of it without an answer is left out, and stops nobody."""
    return replace(problem, text="is empty; the row is left out", level="warning") if problem.text == EMPTY_ANSWER else problem


def read_columns(text: str | None) -> dict[str, str]:
    """Role -> column, from `role=column,role=column`.

    Raises:
        DataError: it is not of that form.
    """
    parts = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    if any(not (equals and role.strip() and column.strip()) for role, equals, column in parts):
        raise DataError(Problem(f"columns: {text!r} is not of the form input=NAME,output=NAME"))
    return {role.strip(): column.strip() for role, _, column in parts}


def read_turns(text: str) -> Turns:
    """Which turns of a chat are learned, from a word.

    Raises:
        DataError: it is no such word.
    """
    if text not in ("all", "last"):
        raise DataError(Problem(f"turns: {text!r} is neither all nor last"))
    return cast(Turns, text)


SHAPES = (
    Shape("messages", {"messages": "messages"}),
    Shape("messages", {"messages": "conversations"}),
    Shape("alpaca", {"instruction": "instruction", "input": "input", "output": "output"}),
    Shape("input/output", {"input": "input", "output": "output"}),
    Shape("instruction/output", {"input": "instruction", "output": "output"}),
    Shape("instruction/response", {"instruction": "instruction", "input": "context", "output": "response"}),
    Shape("instruction/response", {"input": "instruction", "output": "response"}),
    Shape("prompt/completion", {"input": "prompt", "output": "completion"}),
    Shape("prompt/response", {"input": "prompt", "output": "response"}),
    Shape("definition/inputs/targets", {"instruction": "definition", "input": "inputs", "output": "targets"}),
    Shape("inputs/targets", {"input": "inputs", "output": "targets"}),
    Shape("question/answer", {"input": "question", "output": "answer"}),
    Shape("text/label", {"input": "text", "label": "label"}),
    Shape("sentence/label", {"input": "sentence", "label": "label"}),
)
"""The first whose columns are all there is taken."""
MAY_BE_EMPTY = {"alpaca": ("input",), "instruction/response": ("input",)}


def find_shape(found: Sequence[str], given: Mapping[str, str] | None = None) -> Shape:
    """The shape of rows with these columns.

    Args:
        found: the columns there are.
        given: role -> column, as the user says; the rest as noticed.

    Raises:
        DataError: no known shape, an unknown role, or a column that is not there.
    """
    given = {SAME_ROLE.get(role, role): column for role, column in (given or {}).items()}
    unknown = next((role for role in given if role not in ROLES), None)
    if unknown is not None:
        raise DataError(Problem(f"columns: {unknown!r} is no role; roles are {', '.join([*ROLES, *SAME_ROLE])}"))
    lacking = next((column for column in given.values() if column not in found), None)
    if lacking is not None:
        raise DataError(Problem(f"there is no column {lacking!r}; columns found: {', '.join(found)}"))
    if "messages" in given or ("input" in given and ("output" in given or "label" in given)):
        return Shape("columns as given", given)
    said = {*given, *(("output", "label") if {"output", "label"} & set(given) else ())}
    for shape in SHAPES:
        rest = {role: column for role, column in shape.columns.items() if role not in said}
        if set(rest.values()) <= set(found):
            return _completed(rest, given, found) if given else shape
    raise DataError(Problem(_unknown(found)))


def _completed(rest: Mapping[str, str], given: Mapping[str, str], found: Sequence[str]) -> Shape:
    """The shape of which a user gave some columns, and the rest was noticed."""
    if "messages" in rest:
        raise DataError(Problem(f"columns: give messages, or both input and output, for rows with the columns {', '.join(found)}"))
    return Shape("columns as given", {**rest, **given})


def _unknown(found: Sequence[str]) -> str:
    lacks = "`output` is missing; " if "input" in found else "`input` is missing; " if "output" in found else ""
    return (
        f"{lacks}columns found: {', '.join(found) or 'none'}; rows need `input` and `output`, `prompt` and `completion`, `text` and "
        "`label`, or `messages`; say which columns hold what by --columns input=NAME,output=NAME (in a recipe: columns)"
    )


class Pair(NamedTuple):
    """An example with its own instruction, and where it stands."""

    instruction: str
    example: Example
    place: Place


def examples_of(
    rows: Iterable[tuple[Place, Row]],
    given: Mapping[str, str] | None = None,
    turns: Turns = "all",
    instruction: str | None = None,
    report: Report = refuse,
    shown: list[Shape] | None = None,
) -> Iterator[Pair]:
    """The examples of rows, whose shape the first row tells; of a row that has more, such as an instruction, more is read.

    Args:
        rows: with their places.
        given: role -> column, as the user says.
        turns: as in `pairs_of`.
        instruction: as in `pairs_of`.
        report: is told every row that is no example, which is left out then.
        shown: takes the shape that was found.
    """
    shape: Shape | None = None
    for place, row in rows:
        try:
            if shape is None:
                first, shape = row.keys(), find_shape(list(map(str, row)), given)
                if shown is not None:
                    unread = set(row) - set(shape.columns.values()) - columns_in(instruction)
                    shown.append(replace(shape, unread=tuple(column for column in row if column in unread)))
            own = shape if given or row.keys() == first else _wider(shape, row)
            pairs = pairs_of(row, own, place, turns, instruction)
        except DataError as error:
            report(error.problem.at(place))
            if shape is None:
                return
            continue
        yield from pairs


def _wider(shape: Shape, row: Row) -> Shape:
    """A known shape that reads all that this one does and more of the row, or else this one."""
    read, found = set(shape.columns.values()), set(row)
    return next((each for each in SHAPES if read < set(each.columns.values()) <= found), shape)


def pairs_of(row: Row, shape: Shape, place: Place, turns: Turns = "all", instruction: str | None = None) -> list[Pair]:
    """The examples of a row: one, or of a chat as many as the assistant has turns.

    Args:
        row: column -> value.
        shape: which column is what.
        place: where the row stands.
        turns: of a chat, every assistant's turn as an example, the turns before it as its history; or the last alone.
        instruction: what precedes the input, instead of what the row says; columns in braces stand for their texts.

    Raises:
        DataError: the row is no example.
    """
    pairs = _of_chat(row, shape, turns, place) if "messages" in shape.columns else [_of_row(row, shape, place)]
    if instruction is None:
        return pairs
    return [pair._replace(instruction=_filled(instruction, row, place)) for pair in pairs]


def text_of(row: Row, column: str, place: Place, default: str | None = None) -> str:
    """A row's text in a column, or the default where the column is missing or empty.

    Raises:
        DataError: there is none and no default, or it is no text.
    """
    value = row.get(column)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        if value is None:
            found = "" if column in row else f"; columns found: {', '.join(map(str, row))}"
            raise DataError(Problem(f"is {'empty' if column in row else 'missing'}{found}", place, column))
        raise DataError(Problem(f"is {kind(value)}, not text; {_as_text(value)}", place, column))
    if not value.isascii() and not _encodes(value):
        raise DataError(
            Problem("holds half of a surrogate pair, which is no character; write the file again from the source", place, column)
        )
    return value


def columns_in(template: str | None) -> set[str]:
    """The columns that a template takes; none of one that is no template, which is told where it is filled."""
    try:
        return {name for _, name, _, _ in Formatter().parse(template or "") if name is not None}
    except ValueError:
        return set()


def _filled(template: str, row: Row, place: Place) -> str:
    """A template with a row's texts in place of its columns; without braces it is the same for all."""
    try:
        wanted = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise DataError(
            Problem(f"instruction: {template!r} is no template ({error}); write braces that are meant as such twice", place)
        ) from error
    lacking = sorted(wanted - set(row))
    if lacking:
        raise DataError(Problem(f"instruction: there is no column {lacking[0]!r}; columns found: {', '.join(map(str, row))}", place))
    # str.format would reach into values' attributes
    return "".join(text + ("" if name is None else text_of(row, name, place)) for text, name, _, _ in Formatter().parse(template))


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return "give one answer a row" if value else "fill it in"
    return "put it in quotes" if isinstance(value, int | float) and not isinstance(value, bool) and value == value else "give text"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_row(row: Row, shape: Shape, place: Place) -> Pair:
    columns = shape.columns
    if _is_chat(row.get(columns["input"])):
        return _of_prompt_chat(row, shape, place)
    instruction = text_of(row, columns["instruction"], place, default="") if "instruction" in columns else ""
    empty = "" if "instruction" in columns and shape.name in MAY_BE_EMPTY else None
    text = text_of(row, columns["input"], place, default=empty)
    answer = _label(row, columns["label"], place) if "label" in columns else text_of(row, columns["output"], place)
    if not answer.strip():
        raise DataError(Problem(EMPTY_ANSWER, place, columns.get("label") or columns["output"]))
    return Pair(instruction, Example(text, answer), place)


def _label(row: Row, column: str, place: Place) -> str:
    """A class's name; a number is taken for one."""
    value = row.get(column)
    if isinstance(value, float) and math.isnan(value):
        raise DataError(Problem("is NaN, so the label is missing; fill it in, or leave the row out", place, column))
    if isinstance(value, int):
        return str(value).lower() if isinstance(value, bool) else str(value)
    label = text_of(row, column, place)
    if label.strip() in MISSING_LABELS:
        raise DataError(Problem(f"is {label.strip()!r}, so the label is missing; fill it in, or leave the row out", place, column))
    return label


def _of_prompt_chat(row: Row, shape: Shape, place: Place) -> Pair:
    """A prompt that is a chat, and a completion that is its last turn, as TRL takes them."""
    column = shape.columns["input"]
    answer = shape.columns.get("output") or shape.columns["label"]
    completion = row.get(answer)
    last = completion if _is_chat(completion) else [{"role": "assistant", "content": text_of(row, answer, place)}]
    return _of_chat({column: row[column] + last}, Shape("messages", {"messages": column}), "last", place)[0]


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _of_chat(row: Row, shape: Shape, turns: Turns, place: Place) -> list[Pair]:
    """An example for every turn of the assistant's, as it is served: with the turns before it."""
    column = shape.columns["messages"]
    chat = row.get(column)
    if not isinstance(chat, list) or not chat:
        raise DataError(Problem(f"is {kind(chat) if chat != [] else 'an empty list'}, not a list of turns", place, column))
    messages = [_turn(turn, number, column, place) for number, turn in enumerate(chat, start=1)]
    _require_turns(messages, column, place)
    answered = [number for number, (role, _) in enumerate(messages) if role == "assistant"]
    chosen = answered if turns == "all" else answered[-1:]
    return [Pair("", Example(messages[at - 1][1], messages[at][1], tuple(messages[: at - 1])), place) for at in chosen]


def _turn(turn: Any, number: int, column: str, place: Place) -> Message:
    if not isinstance(turn, dict):
        raise DataError(Problem(f"turn {number} is {kind(turn)}, not an object with `role` and `content`", place, column))
    speaker = turn.get("role", turn.get("from"))
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise DataError(Problem(f"turn {number} is spoken by {speaker!r}; known are {', '.join(SPEAKERS)}", place, column))
    if turn.get("tool_calls") or turn.get("function_call"):
        raise DataError(Problem(f"turn {number} calls tools, which are not trained; leave such chats out", place, column))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list) and content and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise DataError(Problem(f"turn {number} has {kind(content)} for its content, not text", place, column))
    return SPEAKERS[speaker], text_of({column: content}, column, place).strip()


def _require_turns(messages: Sequence[Message], column: str, place: Place) -> None:
    spoken = [role for role, _ in messages]
    talk = spoken[1:] if spoken[0] == "system" else spoken
    if "assistant" not in talk:
        raise DataError(Problem("has no turn of the assistant's, so there is nothing to train on", place, column))
    wrong = next((number for number, role in enumerate(talk) if role != ("user", "assistant")[number % 2]), None)
    if wrong is not None:
        number = wrong + len(spoken) - len(talk) + 1
        raise DataError(
            Problem(
                f"turn {number} is the {talk[wrong]}'s out of turn; after a system prompt, if any, user and assistant alternate",
                place,
                column,
            )
        )
    empty = next((number for number, (role, text) in enumerate(messages, start=1) if role == "assistant" and not text), None)
    if empty is not None:
        raise DataError(Problem(f"turn {empty}, the assistant's, is empty; every answer needs text to train on", place, column))
