"""The preview on a terminal: nothing wider than it is, and readable without colours too."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray
from rich.cells import get_character_cell_size
from rich.console import Console
from rich.text import Text

from headstart.checking.preview import PackedRow, Piece, Preview, ShownExample, branch_name, count, spelled
from headstart.tasks.blocks import SHARED

STYLES = {
    "template": ("#9ca3af on #1f2937", "#9ca3af on #293548"),
    "prompt": ("#f3f4f6 on #374151", "#f3f4f6 on #4b5563"),
    "trained": ("bold #052e16 on #4ade80", "bold #052e16 on #86efac"),
}
"""A kind's two shades, which take turns so that tokens can be told apart; each with its own ground, whatever the terminal's."""
TRAINED = "#16a34a"
PREFIX = "#7a8699"
EXAMPLES = ("#2f7fc1", "#e08a1e", "#c2679f", "#3fa7b5", "#cf5a3a", "#7c66c9")
"""Colours of examples in a row; they come round again."""
MOST_CELLS = 64
"""The picture of a row is no larger than this, unless its examples would not all show."""
ASCII = str.maketrans("│↵█▀▄\u00a0", "|$#'. ")
"""What stands in where a terminal has no more than ASCII."""
GUTTER = len(" shared 1234 │ ")


def print_preview(preview: Preview, console: Console) -> None:
    """Print a task's examples token by token, and the row that they are packed in."""
    _print(console, [Text(preview.heading, style="bold"), _legend()])
    for number, example in enumerate(preview.examples, 1):
        _print(console, [Text(), Text(f"example {number}: {example.summary}"), *_example(example, number, console.width - GUTTER)])
    side = picture_side(preview.row, console.width - 1)
    _print(console, [Text(), Text(preview.summary), *_picture(preview.row, side), _row_legend(preview.row, side)])


def _print(console: Console, lines: Iterable[Text]) -> None:
    for line in chain.from_iterable(folded(line, console.width) for line in lines):
        if console.options.ascii_only:
            line.plain = line.plain.translate(ASCII).encode("ascii", "replace").decode()
        console.print(line, no_wrap=True, overflow="ignore", crop=False, highlight=False, emoji=False)


def folded(text: Text, width: int) -> list[Text]:
    """A text in lines of at most `width` cells, without losing any character; broken behind a space where there is one."""
    return [line for whole in text.split("\n") for line in whole.divide(_breaks(whole.plain, width))]


def _breaks(plain: str, width: int) -> Iterator[int]:
    start, used, behind_space = 0, 0, 0
    for index, char in enumerate(plain):
        if used + get_character_cell_size(char) > width:
            start = behind_space if behind_space > start else index
            used = sum(map(get_character_cell_size, plain[start:index]))
            yield start
        used += get_character_cell_size(char)
        behind_space = index + 1 if char == " " else behind_space


def _legend() -> Text:
    names = {"template": "chat template and special tokens", "prompt": "instruction and input", "trained": "trained"}
    words = [part for kind, name in names.items() for part in ((f" {name} ", STYLES[kind][0]), " ")]
    return Text.assemble(*words, "shades take turns token by token; ↵ is a line end")


def _example(example: ShownExample, number: int, width: int) -> Iterator[Text]:
    """The example's parts, each behind a gutter that says where its tokens are computed and how many they are."""
    for part, pieces in example.segments:
        repeated = part == "shared" and number > 1
        text = Text("the same as in example 1", style="italic") if repeated else _tokens(pieces)
        for index, line in enumerate(folded(text, max(width, 2))):
            label = f"{part:>7} {count(pieces):>4}" if index == 0 else ""
            yield Text.assemble(f"{label:>12} │ ", line)


def _tokens(pieces: Sequence[Piece]) -> Text:
    text = Text()
    for index, piece in enumerate(pieces):
        shade = STYLES[piece.kind][index % 2]
        for run, stands_in in spelled(piece.text):
            text.append(run, f"{shade} italic" if stands_in else shade)
    return text


def picture_side(row: PackedRow, room: int) -> int:
    """Cells along one side of a row's picture: one a token while that fits."""
    return max(1, min(row.tokens, room, max(MOST_CELLS, len(row.sizes))))


def cell_starts(row: PackedRow, side: int) -> NDArray[np.int64]:
    """`(side,)` the first token of each cell; no cell straddles two examples while there is one for each."""
    sizes = np.array(list(row.sizes.values()))
    if len(sizes) > side:
        return np.arange(side) * row.tokens // side
    cells = np.ones_like(sizes)
    for _ in range(side - len(sizes)):
        cells[np.argmax(sizes / cells)] += 1
    firsts = np.cumsum(sizes) - sizes
    return np.concatenate([first + np.arange(n) * size // n for first, size, n in zip(firsts, sizes, cells, strict=True)])


def _picture(row: PackedRow, side: int) -> Iterator[Text]:
    """Two rows of cells a line; the trained tokens are marked on the upper and the left edge."""
    starts = cell_starts(row, side)
    seen = np.maximum.reduceat(np.maximum.reduceat(row.colours, starts, axis=0), starts, axis=1)
    trained = np.logical_or.reduceat(row.trained, starts)
    yield Text.assemble(" ", *(_cell(0, int(mark), TRAINED) for mark in trained))
    for upper in range(0, side, 2):
        two = np.pad(seen[upper : upper + 2], ((0, side % 2), (0, 0)))[:2]
        high, low = np.pad(trained[upper : upper + 2], (0, side % 2))[:2].astype(int)
        runs = groupby(zip(*two.tolist(), strict=True))
        cells = (_cell(up, down, colour(max(up, down) - 2), len(list(run))) for (up, down), run in runs)
        yield Text.assemble(_cell(high, low, TRAINED), *cells)


def _cell(upper: int, lower: int, style: str, times: int = 1) -> tuple[str, str]:
    """Two cells above each other, filled or not, several times."""
    glyph = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}[bool(upper), bool(lower)]
    return glyph * times, style


def colour(example: int) -> str:
    """The colour of an example in a row; of the prefix, if the number is `SHARED`."""
    return PREFIX if example == SHARED else EXAMPLES[example % len(EXAMPLES)]


def _row_legend(row: PackedRow, side: int) -> Text:
    # a name is not broken from its colour
    names = {branch: f" {branch_name(branch)}: {size}".replace(" ", "\u00a0") for branch, size in row.sizes.items()}
    words = [part for branch, name in names.items() for part in (("█", colour(branch)), f"{name}  ")]
    scale = f"; a cell stands for up to {np.diff(cell_starts(row, side), append=row.tokens).max()} tokens" if side < row.tokens else ""
    note = f"Down: tokens that look. Across: the tokens that they see{scale}."
    return Text.assemble(*words, ("▄", TRAINED), "\u00a0trained, on\u00a0the\u00a0edges\n", note)
