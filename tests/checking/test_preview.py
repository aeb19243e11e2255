"""What the preview shows is what the model gets, on a terminal and on a page."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from tiny import CHAT_TEMPLATE, build_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from headstart.checking.preview import make_preview, packed_row, spelled
from headstart.checking.preview_console import EXAMPLES, PREFIX, cell_starts, folded, picture_side, print_preview
from headstart.checking.preview_html import preview_html
from headstart.model.attention import packed_masks
from headstart.tasks.planner import Planner
from headstart.tasks.render import Renderer
from headstart.tasks.rows import Rendered, build_rows
from headstart.tasks.task import Example, Task

NASTY = '[bold]loud[/bold] [/] :smile: <script>alert("x")</script> &amp; {{ 7 * 7 }} é 👩‍💻 日本\r\n\x00\x1b[31m\tred\u202e\\x00'
SPELLED = NASTY.replace("\r\n", "\\r↵").replace("\x00", "\\x00").replace("\x1b", "\\x1b").replace("\t", "\\t").replace("\u202e", "\\u202e")
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SPECIAL = {"<|im_start|>", "<|im_end|>"}


def task(*pairs, instruction="Say it.", name="saying"):
    return Task(name, instruction, tuple(Example(*pair) for pair in pairs), "speech")


def long_task(examples, words=18):
    return task(*((f"number {n} " + "word " * words, f"yes {n}") for n in range(examples)), instruction="An instruction. " * 10)


@pytest.fixture
def renderer(tokenizer):
    return Renderer(tokenizer, max_length=4000)


@pytest.fixture(scope="module")
def byte_renderer():
    return Renderer(build_tokenizer(), max_length=4000)


@pytest.fixture(scope="module")
def spaced_renderer():
    """A tokenizer with a mark for spaces, bytes for what it has no token for, and a decoder that drops a text's first space."""
    symbols = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdeimnorstuy\n.", "▁s", "ay", "▁say"]
    model = models.BPE(
        vocab={symbol: index for index, symbol in enumerate(symbols)},
        merges=[("▁", "s"), ("a", "y"), ("▁s", "ay")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    tokenizer.add_special_tokens(sorted(SPECIAL))
    return Renderer(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, eos_token="<|im_end|>", unk_token="<unk>"), 4000
    )


def texts(pieces, *kinds):
    return "".join(piece.text for piece in pieces if piece.kind in kinds or not kinds)


def ids(pieces):
    return [index for piece in pieces for index in piece.ids]


@settings(max_examples=60, deadline=None)
@given(said=UNICODE, answer=UNICODE.filter(str.strip))
@example(said="a \ufffd\ufffdb", answer="\ufffd")
def test_pieces_are_the_conversation_in_whole_characters(byte_renderer, said, answer):
    """In a tokenizer of bytes a piece is one character of as many tokens as it has bytes, whatever the characters."""
    one = Example(said, answer)
    (shown,) = make_preview(task((said, answer)), byte_renderer).examples
    (rendered,) = byte_renderer.render("Say it.", [one])
    assert ids(shown.pieces) == list(rendered.ids)
    assert texts(shown.pieces) == byte_renderer.tokenizer.decode(rendered.ids)
    assert all(piece.text in SPECIAL or (len(piece.text) == 1 and len(piece.text.encode()) == len(piece.ids)) for piece in shown.pieces)
    assert [piece.position for piece in shown.pieces] == list(np.cumsum([0, *(len(piece.ids) for piece in shown.pieces)])[:-1])
    assert texts(shown.pieces, "trained") == one.output + "<|im_end|>"
    assert texts(shown.pieces, "prompt") == "Say it." + one.input


@settings(max_examples=60, deadline=None)
@given(said=UNICODE, answer=UNICODE.filter(str.strip))
def test_pieces_join_under_a_decoder_that_looks_at_a_texts_first_token(spaced_renderer, said, answer):
    (shown,) = make_preview(task((said, answer)), spaced_renderer).examples
    (rendered,) = spaced_renderer.render("Say it.", [Example(said, answer)])
    assert ids(shown.pieces) == list(rendered.ids)
    assert texts(shown.pieces) == spaced_renderer.tokenizer.decode(rendered.ids)


def test_tokens_behind_a_mark_for_spaces_are_pieces_of_their_own(spaced_renderer):
    (shown,) = make_preview(task(("you say so é", "say")), spaced_renderer, examples=1).examples
    said = [piece for piece in shown.pieces if piece.kind == "prompt"]
    assert [piece.text for piece in said][-5:] == [" say", " s", "o", " ", "é"]
    assert [len(piece.ids) for piece in said][-5:] == [1, 1, 1, 1, 2]


def test_kinds_tell_the_template_from_what_a_task_says(renderer):
    (shown,) = make_preview(task(("user u", "assistant")), renderer).examples
    assert texts(shown.pieces, "template") == (
        "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\n\n<|im_end|>\n<|im_start|>assistant\n"
    )
    assert texts(shown.pieces, "prompt") == "Say it.user u"
    assert texts(shown.pieces, "trained") == "assistant<|im_end|>"


def test_earlier_turns_are_said_and_not_trained(renderer):
    history = (("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi!"))
    chat = Task("chat", "", (Example("How are you?", "Fine.", history),), "chat")
    (shown,) = make_preview(chat, renderer).examples
    assert texts(shown.pieces, "prompt") == "Be kind.HelloHi!How are you?"
    assert texts(shown.pieces, "trained") == "Fine.<|im_end|>"


def test_special_tokens_in_a_text_do_not_pass_for_text(renderer):
    (shown,) = make_preview(task(("stop <|im_end|> here", "no")), renderer).examples
    assert texts(shown.pieces, "prompt") == "Say it.stop  here"


def test_where_a_template_changes_what_is_said_all_but_special_tokens_count_as_said(tokenizer):
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "message['content'] }}", "(message['content'] | upper if message['role'] == 'user' else message['content']) }}"
    )
    (shown,) = make_preview(task(("quiet", "loud")), Renderer(tokenizer)).examples
    assert {piece.text for piece in shown.pieces if piece.kind == "template"} == SPECIAL
    assert "SAY IT.\nQUIET" in texts(shown.pieces, "prompt")
    assert texts(shown.pieces, "trained") == "loud<|im_end|>"


def test_examples_and_row_hold_the_same_tokens(renderer):
    preview = make_preview(long_task(8), renderer, examples=3, packed=5)
    row, shared = preview.row, preview.examples[0].shared
    assert list(row.sizes) == [-1, 0, 1, 2, 3, 4]
    assert row.sizes[-1] == shared
    for number, shown in enumerate(preview.examples):
        mine = row.branch == number
        assert row.ids[mine].tolist() == ids(shown.pieces)[shared:]
        assert row.ids[row.branch == -1].tolist() == ids(piece for piece in shown.pieces if piece.shared)
        assert row.positions[mine].tolist() == list(range(shared, shown.tokens))
        assert row.ids[mine & row.trained].tolist() == ids(piece for piece in shown.pieces if piece.kind == "trained")
        assert shown.trained == (mine & row.trained).sum() == len(f"yes {number}") + 1
    assert row.unpacked == sum(len(one.ids) for one in renderer.render("An instruction. " * 10, long_task(8).examples[:5]))


def test_shared_tokens_may_end_within_a_character(renderer):
    """Both letters begin with the same byte."""
    preview = make_preview(task(("é", "a"), ("è", "b")), renderer)
    first = preview.examples[0]
    assert texts(piece for piece in first.pieces if not piece.shared).startswith("é")
    assert sum(len(piece.ids) for piece in first.pieces if piece.shared) == first.shared - 1


def test_visibility_is_the_models_own_mask(dense_base, toy_suite):
    dense_base.model.set_attn_implementation("sdpa")
    renderer, shown = Renderer(dense_base.tokenizer), toy_suite.tasks["upper"]
    row = make_preview(shown, renderer, packed=6).row
    rows = build_rows([[[one] for one in renderer.render(shown.instruction, shown.examples[:6])]])
    assert np.array_equal(row.visible, packed_masks(dense_base.model, rows)[0, 0].numpy())
    assert np.array_equal(row.ids, rows.input_ids[0].numpy())


def test_a_row_by_hand_without_its_filling():
    examples = [[Rendered((1, 2, 10, 20, 9), 3)], [Rendered((1, 2, 11, 21, 9), 3)]]
    other = [[Rendered(tuple(range(30, 44)), 5)]]
    row = packed_row(build_rows([examples, other]))
    assert row.ids.tolist() == [1, 2, 10, 20, 9, 11, 21, 9]
    assert row.sizes == {-1: 2, 0: 3, 1: 3}
    assert row.trained.tolist() == [False, False, False, True, True, False, True, True]
    assert row.colours.tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 2, 0, 0, 0, 0, 0],
        [1, 1, 2, 2, 0, 0, 0, 0],
        [1, 1, 2, 2, 2, 0, 0, 0],
        [1, 1, 0, 0, 0, 3, 0, 0],
        [1, 1, 0, 0, 0, 3, 3, 0],
        [1, 1, 0, 0, 0, 3, 3, 3],
    ]
    assert (row.tokens, row.unpacked, row.rows) == (8, 10, 2)


def test_a_planner_may_split_the_row(renderer):
    preview = make_preview(long_task(6), renderer, planner=Planner(max_row_tokens=600))
    assert preview.row.rows > 1
    assert preview.row.tokens <= 600
    assert f"the first of the {preview.row.rows} packed rows that 6 examples take" in preview.summary


def test_no_examples_are_refused(renderer):
    with pytest.raises(ValueError, match="at least one example"):
        make_preview(task(("a", "b")), renderer, examples=0, packed=0)


def printed(preview, width, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    print_preview(preview, console)
    return console.file.getvalue()


def plain_lines(output):
    return [Text.from_ansi(line).plain for line in output.splitlines()]


COLOURFUL = {"force_terminal": True, "color_system": "truecolor"}


@pytest.mark.parametrize("options", [{}, COLOURFUL], ids=["plain", "colour"])
@pytest.mark.parametrize("width", [24, 50, 100, 140])
def test_terminal_shows_everything_and_nothing_is_wider_than_it(renderer, width, options):
    preview = make_preview(task((NASTY, NASTY[::-1]), ("x", "日本" * 40), instruction=NASTY, name=NASTY), renderer)
    output = printed(preview, width, **options)
    lines = plain_lines(output)
    assert max(map(cell_len, lines)) <= width
    body = "".join(line.split("│ ", 1)[1] for line in lines if "│ " in line)
    assert body.count(SPELLED + "↵" + SPELLED) == 1
    assert "日本" * 40 in body
    assert "\x1b[31m" not in output
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", re.sub(r"\x1b\[[\d;]*m", "", output))


@given(st.text(st.characters(exclude_characters="\n", exclude_categories=["C", "Z"]) | st.just(" ")), st.integers(2, 40))
def test_folding_loses_nothing(text, width):
    lines = [line.plain for line in folded(Text(text), width)]
    assert "".join(lines) == text
    assert all(cell_len(line) <= width for line in lines)


def test_colours_mark_what_is_trained(renderer):
    output = printed(make_preview(task(("in", "out")), renderer), 100, **COLOURFUL)
    (line,) = (line for line in output.splitlines() if "trained" in line and "│" in line)
    text = Text.from_ansi(line)
    assert text.plain.endswith("│ out<|im_end|>")
    answer = text.plain.index("out")
    grounds = [text.get_style_at_offset(Console(), answer + at).bgcolor for at in range(3)]
    assert grounds[0] == grounds[2] != grounds[1]
    assert not any(text.get_style_at_offset(Console(), at).bgcolor for at in range(answer))


def diagonal(lines):
    """The colours of the last filled cell of each line of a picture, without repetitions."""
    colours = []
    for line in lines:
        text = Text.from_ansi(line)
        last = max(text.plain.rfind(glyph) for glyph in "█▀▄")
        colour = text.get_style_at_offset(Console(), last).color.get_truecolor().hex
        colours += [colour] if colours[-1:] != [colour] else []
    return colours


def test_a_long_row_fits_and_shows_each_of_its_examples(renderer):
    examples = 9
    preview = make_preview(long_task(examples), renderer, packed=examples, planner=Planner(max_row_tokens=10_000))
    assert preview.row.tokens > 1000
    lines = printed(preview, 100, **COLOURFUL).splitlines()
    side = picture_side(preview.row, 99)
    first = next(index for index, line in enumerate(plain_lines("\n".join(lines))) if "one packed row" in line) + 1
    while "▄" not in lines[first]:
        first += 1
    picture = lines[first + 1 : first + 1 + side // 2]
    assert diagonal(picture) == [PREFIX, *(EXAMPLES[number % len(EXAMPLES)] for number in range(examples))]
    # a cell on the diagonal is filled though the first of its tokens do not see its last
    assert [len(Text.from_ansi(line).plain.rstrip()) for line in picture] == [2 * number + 3 for number in range(side // 2)]
    assert set(preview.row.branch[cell_starts(preview.row, side)]) == set(range(-1, examples))


@pytest.mark.parametrize("side", [3, 4, 7, 8])
def test_cells_never_straddle_examples_while_there_is_one_for_each(side):
    row = packed_row(build_rows([[[Rendered((1, 2, 10, 20, 9), 3)], [Rendered((1, 2, 11, 21, 9), 3)]]]))
    starts = cell_starts(row, side)
    assert len(starts) == side
    assert (np.diff(starts) > 0).all()
    assert {0, 2, 5} <= set(starts.tolist())


def test_more_examples_than_a_terminal_has_cells(renderer):
    preview = make_preview(task(*((f"{n}", "a") for n in range(60))), renderer, packed=60, planner=Planner(max_row_tokens=10_000))
    assert max(map(cell_len, plain_lines(printed(preview, 40)))) <= 40


def test_a_terminal_without_unicode(renderer):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_preview(make_preview(task(("é\nb", "日本")), renderer), Console(file=stream, width=80))
    stream.flush()
    assert "?$\n" in stream.buffer.getvalue().decode("ascii")


ATTRIBUTES = {"lang", "charset", "name", "content", "class", "title", "role", "width", "height", "viewbox", "fill", "d", "style"}
"""None that runs or fetches anything."""


class Page(HTMLParser):
    """Holds elements to their nesting; collects the tokens, attributes, paths and what else is said."""

    VOID = ("meta",)

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.tokens, self.attributes = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag == "span" and "title" in dict(attrs):
            self.tokens.append([dict(attrs)["title"], ""])
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(tag == "span" and "title" in attributes for tag, attributes in self.open):
            self.tokens[-1][1] += data


def test_page_shows_every_token_and_runs_nothing(renderer):
    preview = make_preview(task((NASTY, NASTY[::-1]), ("x", "y"), instruction=NASTY, name=NASTY), renderer)
    page = Page(preview_html([preview, preview], NASTY))
    pieces = [piece for shown in preview.examples for piece in shown.pieces] * 2
    assert [said for _, said in page.tokens] == ["".join(run for run, _ in spelled(piece.text)).replace("↵", "") for piece in pieces]
    for (title, _), piece in zip(page.tokens, pieces, strict=True):
        assert title.startswith(piece.kind)
        assert set(map(str, piece.ids)) <= set(re.findall(r"\d+", title))
    assert not {"script", "link", "img", "iframe", "a", "bold"} & set(page.tags)
    assert {name for name, _ in page.attributes} <= ATTRIBUTES
    assert not re.search(r"[^\n -~\u200d\w\U0001f300-\U0001faff↵]", preview_html([preview], NASTY))


def test_page_draws_exactly_what_is_seen(renderer):
    row = make_preview(task(("one", "1"), ("two", "22"), ("three", "333")), renderer)
    page = Page(preview_html([row], "t"))
    paths = [value for name, value in page.attributes if name == "d"]
    drawn = np.zeros_like(row.row.colours)
    for code, path in enumerate(paths[:-1], 1):
        for x, y, width, height in boxes(path):
            assert not drawn[y : y + height, x : x + width].any()
            drawn[y : y + height, x : x + width] = code
    assert np.array_equal(drawn, row.row.colours)
    across = {x + at for x, y, width, _ in boxes(paths[-1]) if y < 0 for at in range(width)}
    down = {y + at for x, y, _, height in boxes(paths[-1]) if x < 0 for at in range(height)}
    assert across == down == set(np.flatnonzero(row.row.trained).tolist())


def boxes(path):
    return [tuple(map(int, box)) for box in re.findall(r"M(-?\d+) (-?\d+)h(\d+)v(\d+)h-\d+z", path)]


def test_page_stays_small_where_rows_are_long(renderer):
    preview = make_preview(long_task(9), renderer, examples=1, packed=9, planner=Planner(max_row_tokens=10_000))
    assert preview.row.tokens > 1000
    drawing = re.search("<svg.*</svg>", preview_html([preview], "t"), re.DOTALL)[0]
    assert len(drawing) < 60 * preview.row.tokens
