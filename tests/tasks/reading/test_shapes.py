"""Shapes of rows: noticed or as told, and every row that is no example named by row and column."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tasks.reading.formats import as_bytes

from headstart.tasks.problems import DataError, Place, refuse
from headstart.tasks.reading.shapes import examples_of, find_shape, pairs_of, read_columns, read_turns
from headstart.tasks.reading.tables import read_rows
from headstart.tasks.task import Example

PLACE = Place("a.jsonl", 3)


def read(*rows, **options):
    """Rows as pairs of instruction and example."""
    placed = [(Place("a.jsonl", number), row) for number, row in enumerate(rows, start=1)]
    return [(pair.instruction, pair.example) for pair in examples_of(placed, **options)]


def says(role, content):
    return {"role": role, "content": content}


CHAT = [says("system", "Rhyme."), says("user", " q1 "), says("assistant", "a1\n"), says("user", "q2"), says("assistant", "a2")]
TOLD = (("system", "Rhyme."), ("user", "q1"), ("assistant", "a1"))
KNOWN = {
    "input/output": ({"input": "i", "output": "o"}, "", Example("i", "o")),
    "alpaca": ({"instruction": "n", "input": "i", "output": "o", "text": "all of it"}, "n", Example("i", "o")),
    "alpaca without input": ({"instruction": "n", "input": "", "output": "o"}, "n", Example("", "o")),
    "alpaca with null": ({"instruction": "n", "input": None, "output": "o"}, "n", Example("", "o")),
    "instruction/output": ({"instruction": "n", "output": "o"}, "", Example("n", "o")),
    "dolly": ({"instruction": "n", "context": "i", "response": "o", "category": "qa"}, "n", Example("i", "o")),
    "instruction/response": ({"instruction": "n", "response": "o"}, "", Example("n", "o")),
    "prompt/completion": ({"prompt": "i", "completion": "o"}, "", Example("i", "o")),
    "chats as prompt and completion": (
        {"prompt": CHAT[:2], "completion": CHAT[2:3]},
        "",
        Example("q1", "a1", (("system", "Rhyme."),)),
    ),
    "chat as prompt, text as completion": ({"prompt": CHAT[:4], "completion": "o"}, "", Example("q2", "o", TOLD)),
    "prompt/response": ({"prompt": "i", "response": "o"}, "", Example("i", "o")),
    "definition/inputs/targets": ({"definition": "n", "inputs": "i", "targets": "o"}, "n", Example("i", "o")),
    "inputs/targets": ({"inputs": "i", "targets": "o", "task": "t"}, "", Example("i", "o")),
    "question/answer": ({"question": "i", "answer": "o"}, "", Example("i", "o")),
    "class by name": ({"text": "i", "label": "spam"}, "", Example("i", "spam")),
    "class by number": ({"text": "i", "label": 0}, "", Example("i", "0")),
    "class by truth": ({"text": "i", "label": True}, "", Example("i", "true")),
    "class called none": ({"sentence": "i", "label": "none", "idx": 7}, "", Example("i", "none")),
    "messages": ({"messages": CHAT[:3]}, "", Example("q1", "a1", (("system", "Rhyme."),))),
    "sharegpt": ({"conversations": [{"from": "human", "value": "i"}, {"from": "gpt", "value": "o"}]}, "", Example("i", "o")),
    "content in parts": (
        {"messages": [says("user", [{"type": "text", "text": "i"}, {"type": "text", "text": "j"}]), says("assistant", "o")]},
        "",
        Example("ij", "o"),
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_shapes_are_noticed(name):
    row, instruction, example = KNOWN[name]
    assert read(row) == [(instruction, example)]


def test_every_turn_of_the_assistants_is_an_example_with_what_was_said_before():
    assert read({"messages": CHAT}) == [("", Example("q1", "a1", (("system", "Rhyme."),))), ("", Example("q2", "a2", TOLD))]
    assert read({"messages": CHAT}, turns="last") == [("", Example("q2", "a2", TOLD))]


def test_a_last_turn_of_the_users_is_not_answered():
    assert read({"messages": CHAT[:4]}) == read({"messages": CHAT[:3]}) == read({"messages": CHAT[:4]}, turns="last")


def test_columns_as_told_win():
    row = {"input": "i", "output": "o", "q": "other", "kind": 3, "how": "n"}
    assert read(row, given={"input": "q"}) == [("", Example("other", "o"))]
    assert read(row, given={"input": "q", "label": "kind"}) == [("", Example("other", "3"))]
    assert read(row, given={"label": "kind"}) == [("", Example("i", "3"))]
    assert read(row, given={"instruction": "how"}) == [("n", Example("i", "o"))]
    assert read(row, given={"prompt": "q", "completion": "how"}) == [("", Example("other", "n"))]
    assert read({"text": "i", "category": "c"}, given={"label": "category"}) == [("", Example("i", "c"))]
    assert read({"chat": CHAT[:3], "input": "i", "output": "o"}, given={"messages": "chat"}) == read({"messages": CHAT[:3]})


def test_an_instruction_as_told_wins_and_may_hold_columns():
    row = {"instruction": "n", "input": "i", "output": "o", "language": "{Irish}"}
    assert read(row, instruction="Say it in {language}: {{so}}.") == [("Say it in {Irish}: {so}.", Example("i", "o"))]
    assert read(row, instruction="") == [("", Example("i", "o"))]
    assert [instruction for instruction, _ in read({"messages": CHAT, "x": "y"}, instruction="{x}")] == ["y", "y"]


def test_a_row_with_more_than_the_first_is_read_whole():
    bare, whole = {"input": "i", "output": "o"}, {"instruction": "n", "input": "j", "output": "p"}
    assert read(bare, whole, {**bare, "note": "x"}) == [("", Example("i", "o")), ("n", Example("j", "p")), ("", Example("i", "o"))]
    assert read({"instruction": "m", "output": "o"}, whole) == [("", Example("m", "o")), ("n", Example("j", "p"))]
    assert read(whole, {"instruction": "m", "output": "o"}) == [("n", Example("j", "p")), ("m", Example("", "o"))]
    assert read(bare, whole, given={"input": "input", "output": "output"})[1] == ("", Example("j", "p"))


def test_the_shape_is_shown():
    shown = []
    read({"prompt": "i", "completion": "o"}, {"prompt": "i", "completion": "o"}, shown=shown)
    assert list(map(str, shown)) == ["prompt/completion (input from `prompt`, output from `completion`)"]


# rows, what is told of each faulty one by number and column, and how many examples are read
ROW = {"input": "i", "output": "o"}
GOOD_CHAT = {"messages": CHAT[:3]}
FAULTS = {
    "mixed types": (
        [ROW, {"input": 1, "output": "o"}, {"input": "i", "output": 2.5}, {"input": {"x": 1}, "output": "o"}, {**ROW, "output": True}, ROW],
        [
            "line 2: `input` is a number, not text; put it in quotes",
            "line 3: `output` is a number, not text; put it in quotes",
            "line 4: `input` is an object, not text; give text",
            "line 5: `output` is true or false, not text; give text",
        ],
        2,
    ),
    "missing columns": (
        [ROW, {"input": "i", "answer": "o"}, {"output": "o"}, ROW],
        ["line 2: `output` is missing; columns found: input, answer", "line 3: `input` is missing; columns found: output"],
        2,
    ),
    "nulls": (
        [ROW, {"input": None, "output": "o"}, {"input": "i", "output": None}],
        ["line 2: `input` is empty", "3: `output` is empty"],
        1,
    ),
    "empty answers": ([ROW, {"input": "i", "output": " \n"}], ["line 2: `output` is empty; every row needs an answer to train on"], 1),
    "answers in lists": (
        [ROW, {"input": "i", "output": ["o", "p"]}, {"input": "i", "output": []}],
        [
            "line 2: `output` is a list, not text; give one answer a row",
            "line 3: `output` is a list, not text; fill it in",
        ],
        1,
    ),
    "inputs in lists": ([ROW, {"input": ["i"], "output": "o"}], ["line 2: `input` is a list, not text"], 1),
    "nan": (
        [ROW, {"input": "i", "output": float("nan")}],
        ["line 2: `output` is NaN, as pandas writes where a value is missing, not text; give text"],
        1,
    ),
    "labels that are missing": (
        [{"text": "i", "label": 1}, *({"text": "i", "label": label} for label in (float("nan"), "nan", "", None, "NULL", 0.5, [1]))],
        [
            "line 2: `label` is NaN, so the label is missing; fill it in, or leave the row out",
            "line 3: `label` is 'nan', so the label is missing; fill it in, or leave the row out",
            "line 4: `label` is empty; every row needs an answer to train on",
            "line 5: `label` is empty",
            "line 6: `label` is 'NULL', so the label is missing",
            "line 7: `label` is a number, not text; put it in quotes",
            "line 8: `label` is a list, not text; give one answer a row",
        ],
        1,
    ),
    "lone surrogates": (
        [ROW, {"input": "\ud83d", "output": "o"}, {"input": "i", "output": "a\udc00"}, {"input": "\U0001f600", "output": "o"}],
        [
            "line 2: `input` holds half of a surrogate pair, which is no character; write the file again from the source",
            "line 3: `output` holds half of a surrogate pair",
        ],
        2,
    ),
    "lone surrogates in chats": (
        [GOOD_CHAT, {"messages": [says("user", "i"), says("assistant", "\ud800")]}],
        ["line 2: `messages` holds half of a surrogate pair"],
        1,
    ),
    "no shape": (
        [{"question": "i", "solution": "o"}, ROW],
        ["line 1: columns found: question, solution; rows need `input` and `output`,"],
        0,
    ),
    "half a shape": ([{"input": "i", "answer": "o"}, ROW], ["line 1: `output` is missing; columns found: input, answer; rows need"], 0),
    "other half of a shape": ([{"question": "i", "output": "o"}], ["line 1: `input` is missing; columns found: question, output"], 0),
    "no columns": ([{}], ["line 1: columns found: none; rows need"], 0),
    "no chats": (
        [GOOD_CHAT, *({"messages": chat} for chat in ("text", [], None, {"role": "user"}, ["text"], [None]))],
        [
            "line 2: `messages` is text, not a list of turns",
            "line 3: `messages` is an empty list, not a list of turns",
            "line 4: `messages` is empty, not a list of turns",
            "line 5: `messages` is an object, not a list of turns",
            "line 6: `messages` turn 1 is text, not an object with `role` and `content`",
            "line 7: `messages` turn 1 is empty, not an object",
        ],
        1,
    ),
    "tools": (
        [
            GOOD_CHAT,
            {"messages": [*CHAT[:3], says("tool", "4")]},
            {"messages": [CHAT[1], {**CHAT[2], "tool_calls": [{"id": "x"}]}]},
            {"messages": [CHAT[1], {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}]},
            {"messages": [CHAT[1], {**CHAT[2], "tool_calls": []}]},
        ],
        [
            "line 2: `messages` turn 4 is spoken by 'tool'; known are system, user, human, assistant, gpt",
            "line 3: `messages` turn 2 calls tools, which are not trained; leave such chats out",
            "line 4: `messages` turn 2 calls tools",
        ],
        2,
    ),
    "unknown speakers": (
        [GOOD_CHAT, *({"messages": [says(role, "i"), CHAT[2]]} for role in ("bot", None, ["user"], 1)), {"messages": [{"content": "i"}]}],
        [
            "line 2: `messages` turn 1 is spoken by 'bot'; known are",
            "line 3: `messages` turn 1 is spoken by None; known are",
            "line 4: `messages` turn 1 is spoken by ['user']; known are",
            "line 5: `messages` turn 1 is spoken by 1; known are",
            "line 6: `messages` turn 1 is spoken by None; known are",
        ],
        1,
    ),
    "turns out of order": (
        [
            GOOD_CHAT,
            {"messages": [CHAT[2], CHAT[1]]},
            {"messages": [CHAT[0], CHAT[2]]},
            {"messages": [CHAT[1], CHAT[1], CHAT[2]]},
            {"messages": [*CHAT[1:3], CHAT[2]]},
            {"messages": [*CHAT[1:3], CHAT[0], *CHAT[3:]]},
            {"messages": [CHAT[0], CHAT[0], *CHAT[1:]]},
        ],
        [
            "line 2: `messages` turn 1 is the assistant's out of turn; after a system prompt, if any, user and assistant alternate",
            "line 3: `messages` turn 2 is the assistant's out of turn",
            "line 4: `messages` turn 2 is the user's out of turn",
            "line 5: `messages` turn 3 is the assistant's out of turn",
            "line 6: `messages` turn 3 is the system's out of turn",
            "line 7: `messages` turn 2 is the system's out of turn",
        ],
        1,
    ),
    "nothing answered": (
        [GOOD_CHAT, {"messages": CHAT[:2]}, {"messages": CHAT[:1]}],
        [f"line {row}: `messages` has no turn of the assistant's, so there is nothing to train on" for row in (2, 3)],
        1,
    ),
    "empty answers in chats": (
        [GOOD_CHAT, {"messages": [CHAT[1], says("assistant", " "), *CHAT[3:]]}],
        ["line 2: `messages` turn 2, the assistant's, is empty; every answer needs text to train on"],
        1,
    ),
    "content that is no text": (
        [GOOD_CHAT, *({"messages": [says("user", content), CHAT[2]]} for content in (None, 3, [], [{"type": "image", "url": "x"}]))],
        [
            "line 2: `messages` turn 1 has empty for its content, not text",
            "line 3: `messages` turn 1 has a number for its content, not text",
            "line 4: `messages` turn 1 has a list for its content, not text",
            "line 5: `messages` turn 1 has a list for its content, not text",
        ],
        1,
    ),
    "prompts that are chats": (
        [
            {"prompt": CHAT[:2], "completion": CHAT[2:3]},
            {"prompt": CHAT[:2], "completion": None},
            {"prompt": CHAT[:3], "completion": "o"},
            {"prompt": "i", "completion": CHAT[2:3]},
            {"prompt": [], "completion": "o"},
        ],
        [
            "line 2: `completion` is empty",
            "line 3: `prompt` turn 4 is the assistant's out of turn",
            "line 4: `completion` is a list, not text",
            "line 5: `prompt` is a list, not text; fill it in",
        ],
        1,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_row_that_is_no_example_is_told_and_the_others_are_read(both_ways, fault):
    rows, told, good = FAULTS[fault]
    placed = [(Place("a.jsonl", number), row) for number, row in enumerate(rows, start=1)]
    found = both_ways(lambda report: examples_of(placed, report=report), *(f"{'a.jsonl, ' * one.startswith('line')}{one}" for one in told))
    assert len(found) == good


def test_faults_of_files_rows_and_texts_are_told_in_one_pass(tmp_path, both_ways):
    lines = [json.dumps(ROW), "{", json.dumps({"input": 7, "output": "o"}), "[1]", '{"input": "i", "output": NaN}', json.dumps(ROW)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = both_ways(
        lambda report: examples_of(read_rows(tmp_path / "a.jsonl", report), report=report),
        "a.jsonl, line 2: not valid JSON",
        "a.jsonl, line 3: `input` is a number, not text; put it in quotes",
        "a.jsonl, line 4: is a list; a row is",
        "a.jsonl, line 5: `output` is NaN, as pandas writes",
    )
    assert len(found) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"inptu": "a"}, "columns: 'inptu' is no role; roles are input, output, instruction, messages, label, prompt, completion, text"),
        ({"input": "x"}, "there is no column 'x'; columns found: a, b"),
        ({"input": "a"}, "columns found: a, b; rows need `input` and `output`"),
    ],
)
def test_columns_that_do_not_fit_are_told(given, words):
    with pytest.raises(DataError) as raised:
        find_shape(["a", "b"], given)
    assert words in str(raised.value)


def test_a_chat_is_not_completed_by_other_columns():
    with pytest.raises(DataError, match="columns: give messages, or both input and output, for rows with the columns messages, q"):
        find_shape(["messages", "q"], {"input": "q"})


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("In {tongue}:", "instruction: there is no column 'tongue'; columns found: input, output, language, size"),
        ("In {}:", "instruction: there is no column ''; columns found"),
        ("In {language.__class__}:", r"instruction: there is no column 'language.__class__'"),
        ("In {language", r"instruction: 'In \{language' is no template \(.*\); write braces that are meant as such twice"),
        ("Of {size}:", "`size` is a number, not text; put it in quotes"),
    ],
)
def test_instructions_that_cannot_be_filled_are_told(template, words):
    row = {"input": "i", "output": "o", "language": "Irish", "size": 3}
    with pytest.raises(DataError, match=f"^a.jsonl, line 3: {words}"):
        pairs_of(row, find_shape(list(row)), PLACE, instruction=template)


def test_columns_are_read_from_a_line():
    assert read_columns("input = a b, output=c,") == {"input": "a b", "output": "c"}
    assert read_columns(None) == read_columns("") == {}
    for text in ("input", "input=", "=a", "input=a,b"):
        with pytest.raises(DataError, match="is not of the form input=NAME,output=NAME"):
            read_columns(text)


def test_turns_are_all_or_the_last():
    assert [read_turns(word) for word in ("all", "last")] == ["all", "last"]
    with pytest.raises(DataError, match="turns: 'first' is neither all nor last"):
        read_turns("first")


ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ANSWERS = ANY.filter(str.strip)


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("columns", [("input", "output"), ("prompt", "completion"), ("question", "answer")])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(texts=st.lists(st.tuples(ANY, ANSWERS), min_size=1, max_size=4))
def test_texts_come_back_as_examples_whatever_the_format(tmp_path, ending, columns, texts):
    path = tmp_path / f"a{ending}"
    path.write_bytes(as_bytes([dict(zip(columns, pair, strict=True)) for pair in texts], ending))
    assert [pair.example for pair in examples_of(read_rows(path))] == [Example(*pair) for pair in texts]


@given(
    system=st.none() | ANY,
    talk=st.lists(st.tuples(ANY, ANSWERS), min_size=1, max_size=4),
    chosen=st.sampled_from(["all", "last"]),
)
def test_a_chat_is_cut_at_its_answers(system, talk, chosen):
    turns = [says("system", system)] * (system is not None)
    for asked, answer in talk:
        turns += [says("user", asked), says("assistant", answer)]
    found = [example for _, example in read({"messages": turns}, turns=chosen, report=refuse)]
    assert len(found) == (len(talk) if chosen == "all" else 1)
    for example, (asked, answer) in zip(found, talk if chosen == "all" else talk[-1:], strict=True):
        assert (example.input, example.output) == (asked.strip(), answer.strip())
    whole = (*found[-1].history, ("user", found[-1].input), ("assistant", found[-1].output))
    assert whole == tuple((turn["role"], turn["content"].strip()) for turn in turns)
