import json

import pytest

from headstart.adapting.data import Reading, make_job, read_job
from headstart.adapting.settings import Settings
from headstart.adapting.trials import cross_folds
from headstart.tasks.render import Renderer
from headstart.tasks.task import Example, SuiteError, Task


@pytest.fixture
def read(tokenizer):
    return lambda path, settings=None, **said: read_job(path, Reading(**said), settings or Settings(), Renderer(tokenizer, 200))


def labelled(count, labels=("yes", "no")):
    return [(f"is it {n}", labels[n % len(labels)]) for n in range(count)]


def test_few_rows_all_train_and_are_cross_fitted(read, write, shouted):
    job = read(write("few.jsonl", shouted(20)))
    assert (len(job.rows), job.validation, job.test) == (20, (), ())


def test_of_many_rows_a_tenth_is_held_out_and_chooses(read, write, shouted):
    job = read(write("many.jsonl", shouted(200)))
    assert (len(job.rows), len(job.validation)) == (180, 20)
    assert job.test == job.validation
    assert not set(job.rows) & set(job.validation)
    assert "20 of 200 rows held out of training" in job.notes


def test_all_rows_train_where_nothing_is_chosen_nor_measured(read, write, shouted):
    job = read(write("many.jsonl", shouted(200)), Settings(steps=3, measure=False))
    assert (len(job.rows), job.validation, job.test) == (200, (), ())


def test_rows_beyond_the_shots_measure_and_choose_nothing(read, write, shouted):
    job = read(write("rows.jsonl", shouted(40)), shots=16)
    assert (len(job.rows), job.validation, len(job.test)) == (16, (), 24)
    assert not set(job.rows) & set(job.test)


def test_shots_show_every_label(read, write):
    rows = [(f"is it {n}", "rare" if n in (7, 50) else "common") for n in range(60)]
    job = read(write("rows.jsonl", rows), shots=4, labels=("rare", "common"))
    assert sorted(row.output for row in job.rows) == ["common", "common", "rare", "rare"]


def test_an_evaluation_file_chooses_and_measures_without_rows_that_are_trained_on(read, write, shouted):
    job = read(write("rows.jsonl", shouted(20)), eval_file=write("eval.jsonl", shouted(10, start=15)))
    assert len(job.rows) == 20
    assert sorted(row.input for row in job.test) == sorted(row.input for row in job.validation) == [f"word {n}" for n in range(20, 25)]
    assert any("5 of 10 rows are trained on too" in note for note in job.notes)


def test_few_outputs_are_noticed_to_be_labels(read, write, shouted):
    job = read(write("labels.jsonl", labelled(9, ("a", "b", "c"))))
    assert job.task.labels == ("a", "b", "c")
    assert any("labels noticed: a, b, c" in note for note in job.notes)
    assert read(write("labels.jsonl", labelled(9, ("a", "b", "c"))), labels=()).task.labels == ()
    assert read(write("few.jsonl", labelled(8, ("a", "b", "c")))).task.labels == ()
    assert read(write("texts.jsonl", shouted(30))).task.labels == ()


def test_a_label_that_no_row_shows_is_told_of(read, write):
    job = read(write("labels.jsonl", labelled(12)), labels=("yes", "no", "perhaps"))
    assert any("has the label perhaps" in note for note in job.notes)


def test_repeated_inputs_keep_their_first_row_and_are_told_of(read, write, shouted):
    job = read(write("rows.jsonl", [*shouted(6), ("word 2", "other"), ("word 3", "WORD 3")]))
    assert len(job.rows) == 6
    assert any("2 rows with repeated inputs left out, 1 input(s) among them with other outputs" in note for note in job.notes)


BAD = {
    "fewer rows than shots": (lambda write, rows: write("bad.jsonl", rows(8)), {"shots": 8}, "too few for 8 shots and a row to hold back"),
    "one output": (lambda write, rows: write("bad.jsonl", labelled(8, ("yes",))), {}, "all 8 rows have the output 'yes'"),
    "one label": (lambda write, rows: write("bad.jsonl", labelled(8)), {"labels": ("yes",)}, "give at least two"),
    "stray output": (
        lambda write, rows: write("bad.jsonl", labelled(8)),
        {"labels": ("yes", "maybe")},
        "'no', which is not among its labels",
    ),
    "long answers": (lambda write, rows: write("bad.jsonl", [*rows(5), ("x", "y" * 300)]), {}, "1 of 6 rows take more than 200 tokens"),
    "no rows": (lambda write, rows: write("bad.jsonl", []), {}, "the file has no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_rows_are_refused_by_file(read, write, shouted, case):
    make, said, told = BAD[case]
    with pytest.raises(SuiteError, match=r"bad\.jsonl") as error:
        read(make(write, shouted), **said)
    assert told in str(error.value)


def test_an_evaluation_file_of_rows_trained_on_is_refused(read, write, shouted):
    with pytest.raises(SuiteError, match="nothing to measure on"):
        read(write("rows.jsonl", shouted(9)), eval_file=write("eval.jsonl", shouted(4)))
    with pytest.raises(SuiteError, match=r"its instruction is 'Whisper\.'"):
        read(write("rows.jsonl", shouted(9)), eval_file=write("eval.jsonl", shouted(4, 20), "Whisper."))


def test_long_labels_count_for_every_row(tokenizer):
    task = Task("t", "", (Example("a", "x"), Example("b" * 40, "y" * 20)), "user", ("x", "y" * 20))
    with pytest.raises(SuiteError, match="take more than"):
        make_job(task, (), None, Settings(steps=1, measure=False), Renderer(tokenizer, 95))


@pytest.mark.parametrize("count", [2, 3, 9, 16, 63])
def test_folds_hold_every_row_out_once_and_train_on_the_others(count):
    rows = tuple(Example(f"is it {n}", answer) for n, (_, answer) in enumerate(labelled(count)))
    folds = cross_folds(rows, seed=1)
    held = [row.input for fold in folds for row in fold.held]
    assert sorted(held) == sorted(row.input for row in rows)
    for fold in folds:
        assert set(fold.train) == set(rows) - set(fold.held)
        assert fold.train
    assert max(len(fold.held) for fold in folds) - min(len(fold.held) for fold in folds) <= 1


def test_every_fold_trains_on_every_label_that_two_rows_have():
    rows = tuple(Example(f"{n}", str(n // 2)) for n in range(16))
    assert all({row.output for row in fold.train} == {row.output for row in rows} for fold in cross_folds(rows, seed=0))


def chats(count, turns=3):
    """Chats whose turns say which chat they are of."""
    return [
        [{"role": role, "content": f"{role} {chat}.{turn}"} for turn in range(turns) for role in ("user", "assistant")]
        for chat in range(count)
    ]


@pytest.fixture
def chat_file(tmp_path):
    def write(talks, name="chats.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
        return tmp_path / name

    return write


def chats_of(rows):
    return {row.output.split()[1].split(".")[0] for row in rows}


@pytest.mark.parametrize(("turns", "learned"), [("all", 3), ("last", 1)])
def test_every_turn_of_a_chat_is_learned_or_the_last(read, chat_file, turns, learned):
    job = read(chat_file(chats(5)), turns=turns)
    assert len(job.rows) == 5 * learned
    last = next(row for row in job.rows if row.output == "assistant 4.2")
    assert last.input == "user 4.2"
    assert [text for _, text in last.history] == ["user 4.0", "assistant 4.0", "user 4.1", "assistant 4.1"]
    assert any("read as messages" in note for note in job.notes)


def test_the_turns_of_a_conversation_are_never_parted(read, chat_file):
    held = read(chat_file(chats(40)))
    assert held.validation
    assert not chats_of(held.rows) & chats_of(held.validation)
    shots = read(chat_file(chats(10)), shots=7)
    assert len(shots.rows) == 7
    assert shots.test
    assert not chats_of(shots.rows) & chats_of(shots.test)
    for fold in cross_folds(read(chat_file(chats(9))).rows, seed=0):
        assert not chats_of(fold.train) & chats_of(fold.held)
        assert fold.held
    apart = read(chat_file(chats(4)), eval_file=chat_file(chats(6), "eval.jsonl"))
    assert chats_of(apart.test) == {"4", "5"}


def test_instructions_of_their_own_go_in_front_of_inputs(read, tmp_path):
    rows = [{"instruction": f"Do {n}.", "input": f"in {n}" if n else "", "output": f"out {n}"} for n in range(6)]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    job = read(tmp_path / "alpaca.json")
    assert job.task.instruction == ""
    assert [row.input for row in job.rows] == ["Do 0.", *(f"Do {n}.\nin {n}" for n in range(1, 6))]
    assert any("instructions of their own" in note for note in job.notes)


def test_columns_are_as_told(read, tmp_path):
    (tmp_path / "table.csv").write_text("frage,antwort,art\n" + "".join(f"f {n},a {n},x\n" for n in range(5)))
    job = read(tmp_path / "table.csv", columns={"input": "frage", "output": "antwort"}, instruction="Say {art}.")
    assert job.name == "table"
    assert job.task.instruction == "Say x."
    assert job.rows[2] == Example("f 2", "a 2")
    with pytest.raises(SuiteError, match=r"table\.csv.*columns found: frage, antwort, art.*--columns"):
        read(tmp_path / "table.csv")


def test_columns_that_are_not_read_are_told(read, tmp_path):
    (tmp_path / "wide.csv").write_text("id,input,output,art\n" + "".join(f"{n},i {n},o {n},x\n" for n in range(5)))
    (note,) = [note for note in read(tmp_path / "wide.csv", instruction="Say {art}.").notes if "read as" in note]
    assert note.endswith("read as input/output (input from `input`, output from `output`; not read: id)")
