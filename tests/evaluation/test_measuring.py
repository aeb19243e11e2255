"""What answers are worth, by hand and against decoding one prompt at a time."""

import math
from dataclasses import replace

import pytest
import torch

from headstart.evaluation import measuring
from headstart.evaluation.measuring import MOST_LOSS, SLACK, bounded, measure, normalised, prompted
from headstart.evaluation.records import BINS
from headstart.model.decode import Sampling, decode
from headstart.passes import Passes
from headstart.scoring import Answer
from headstart.tasks.episodes import Draw, evaluation_draw
from headstart.tasks.render import Renderer
from headstart.tasks.task import Example, Task

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Paris", "Paris"),
        ("  the \n  quick\tfox ", "the quick fox"),
        ("Paris.", "Paris"),
        ("wait...", "wait..."),
        (".", "."),
        ('"Paris"', "Paris"),
        ("'It is.'", "It is"),
        ("''", "''"),
        ("PARIS", "PARIS"),
        (") ] }", ") ] }"),
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
        ("3.5", "3.5"),
    ],
)
def test_normalisation_drops_white_space_quotes_and_a_full_stop_and_nothing_else(text, form):
    assert normalised(text) == form
    assert normalised(form) == form or form in ('"', "'")


def task_of(labels=(), outputs=("Paris", "Rome", "Oslo", "Bern")):
    return Task("capitals", "Name it.", tuple(Example(f"q{n}", text) for n, text in enumerate(outputs)), "c", labels)


def answered(draw, answers, written):
    return measuring._measured(draw, answers, written)


def test_generation_is_right_by_exact_match_after_normalisation():
    draw = Draw(task_of(), (), task_of().examples)
    answers = [Answer(1.0, True, {}, "Paris"), Answer(2.0, False, {}), Answer(3.0, False, {}), Answer(6.0, False, {})]
    # exact; equal but for a full stop and white space; another case; never ended
    found = answered(draw, answers, ["Paris", " Rome. ", "OSLO", None])
    assert (found.loss, found.accuracy, found.invalid, found.examples, found.gaps) == (3.0, 0.5, 0.25, 4, None)


def test_an_empty_answer_is_invalid():
    draw = Draw(task_of(), (), task_of().examples)
    assert answered(draw, [Answer(1.0, False, {})] * 4, ["", "  ", "x", "y"]).invalid == 0.5


def test_classification_is_right_by_rank_and_valid_if_a_label_is_written():
    task = task_of(("yes", "no"), ("yes", "yes", "no", "no"))
    draw = Draw(task, (), task.examples)
    shares = [{"yes": 0.75, "no": 0.25}, {"yes": 0.05, "no": 0.95}, {"yes": 0.02, "no": 0.98}, {"yes": 0.71, "no": 0.29}]
    right = [True, False, True, False]
    answers = [Answer(1.0, is_right, share) for is_right, share in zip(right, shares, strict=True)]
    found = answered(draw, answers, ["yes", "No", "no.", None])
    assert found.accuracy == 0.5
    # "No" is no label, as case counts; the last never ended
    assert found.invalid == 0.5
    # bin 7: (0.75 - 1) + (0.71 - 0); bin 9: (0.95 - 0) + (0.98 - 1); over 4 examples
    expected = [0.0] * BINS
    expected[7], expected[9] = 0.46 / 4, 0.93 / 4
    assert found.gaps == pytest.approx(expected)


def test_full_confidence_falls_into_the_last_bin():
    task = task_of(("yes", "no"), ("yes",))
    found = answered(Draw(task, (), task.examples), [Answer(1.0, True, {"yes": 1.0, "no": 0.0})], ["yes"])
    assert found.gaps == (0.0,) * BINS


@pytest.mark.parametrize(("loss", "kept"), [(1.5, 1.5), (1e9, MOST_LOSS), (float("inf"), MOST_LOSS), (float("nan"), MOST_LOSS)])
def test_diverged_losses_count_as_the_most(loss, kept):
    assert bounded(loss) == kept


def test_an_adapter_that_diverged_is_wrong_and_prefers_nothing(passes, draws):
    phi = {name: torch.full((1, *shape), float("nan")) for name, shape in passes.learner.shapes().items()}
    (found,) = measure(passes, phi, [draws[1]])
    assert (found.loss, found.accuracy) == (MOST_LOSS, 0.0)
    assert all(math.isfinite(gap) for gap in found.gaps)


@pytest.fixture
def passes(learner, batcher):
    return Passes(learner, batcher(learner.base))


@pytest.fixture
def draws(toy_suite):
    return [evaluation_draw(toy_suite.tasks[name], draw=0, support=4, query=5) for name in ("twice", "vowel", "upper")]


def test_tasks_together_are_measured_as_one_by_one(passes, draws, random_phi):
    phi = random_phi(passes.learner, 3)
    together = measure(passes, phi, draws)
    for index, draw in enumerate(draws):
        (alone,) = measure(passes, {name: tensor[index : index + 1] for name, tensor in phi.items()}, [draw])
        assert (together[index].accuracy, together[index].invalid) == (alone.accuracy, alone.invalid)
        assert together[index].loss == pytest.approx(alone.loss, rel=1e-4)


def test_what_is_written_is_what_decoding_each_prompt_alone_writes(passes, draws, random_phi):
    phi, renderer = random_phi(passes.learner, 3), passes.batcher.renderer
    written = measuring._written(passes, phi, draws, passes.answers(phi, draws))
    for task, draw in enumerate(draws):
        limit = measuring.most_new_tokens(draw, renderer)
        for index, example in enumerate(draw.query):
            prompt = renderer.prompt(draw.task.instruction, example.input)
            own = {name: tensor[task : task + 1] for name, tensor in phi.items()}
            ((ids,),) = decode(passes.learner, own, [[prompt]], renderer.end_id, Sampling(max_new_tokens=limit))
            assert written[task][index] == (renderer.text(ids) if len(ids) < limit else None)


def test_what_scoring_knows_is_not_decoded(passes, draws, random_phi, monkeypatch):
    phi = random_phi(passes.learner, 3)
    answers = [[replace(answer, written="known") for answer in own] for own in passes.answers(phi, draws)]
    monkeypatch.setattr(measuring, "decode", lambda *_: pytest.fail("decoded"))
    assert measuring._written(passes, phi, draws, answers) == [["known"] * 5] * 3


def test_a_label_that_greedy_decoding_writes_is_known_from_ranking(passes, toy_suite):
    """An adapter trained to say one label writes it, and scoring tells so without decoding."""
    draw = evaluation_draw(toy_suite.tasks["vowel"], draw=0, support=4, query=5)
    constant = tuple(replace(example, output="no") for example in draw.query)
    phi = {name: tensor[None] for name, tensor in passes.learner.fresh_adapter().items()}
    for _ in range(60):
        _, found = passes.gradients(phi, [Draw(draw.task, (), constant)], list(phi))
        phi = {name: tensor - 0.02 * found[name].sign() for name, tensor in phi.items()}
    (own,) = passes.answers(phi, [draw])
    assert {answer.written for answer in own} == {"no"}
    prompts = [[passes.batcher.renderer.prompt(draw.task.instruction, example.input) for example in draw.query]]
    (ids,) = decode(passes.learner, phi, prompts, passes.batcher.renderer.end_id)
    assert {passes.batcher.renderer.text(each) for each in ids} == {"no"}


def test_the_limit_is_the_longest_answer_and_some_more(passes, draws):
    renderer = passes.batcher.renderer
    longest = max(len(one.ids) - one.answer for one in renderer.render("Say it twice.", draws[0].query))
    assert measuring.most_new_tokens(draws[0], renderer) == longest + SLACK
    labelled = replace(draws[1].task, labels=("yes", "no", "a label of many words"))
    assert measuring.most_new_tokens(replace(draws[1], task=labelled), renderer) > measuring.most_new_tokens(draws[1], renderer)


def test_shots_are_earlier_turns_with_the_instruction_in_front(passes, draws):
    shown, count = prompted(draws[0], Renderer(passes.learner.base.tokenizer, 2048))
    assert count == 4
    example, first = shown.query[0], draws[0].support[0][0]
    assert example.history[:2] == (("user", first.input), ("assistant", first.output))
    assert len(example.history) == 8
    assert (example.input, example.output) == (draws[0].query[0].input, draws[0].query[0].output)
    text = passes.learner.base.tokenizer.decode(passes.batcher.renderer.measure("Say it twice.", [example])[0].ids)
    assert text.index("Say it twice.") < text.index(first.input) < text.index(first.output) < text.index(example.input)
    assert text.count("Say it twice.") == 1


def test_as_many_shots_as_fit_are_shown(passes, draws):
    tokenizer = passes.learner.base.tokenizer

    def longest(count):
        wide, _ = prompted(replace(draws[0], support=(draws[0].support[0][:count],)), Renderer(tokenizer, 2048))
        return max(len(one.ids) for one in passes.batcher.renderer.measure("Say it twice.", wide.query))

    assert prompted(draws[0], Renderer(tokenizer, longest(2)))[1] == 2
    assert prompted(draws[0], Renderer(tokenizer, longest(3) - 1))[1] == 2
    assert prompted(draws[0], Renderer(tokenizer, longest(1) - 1))[1] == 0


def test_a_system_prompt_stays_first(draws):
    own = Example("q", "a", (("system", "Be brief."), ("user", "before"), ("assistant", "then")))
    shot = Example("s", "t", (("system", "Be long."), ("user", "u"), ("assistant", "v")))
    assert measuring._behind([shot], own).history == (
        ("system", "Be brief."),
        *(("user", "u"), ("assistant", "v"), ("user", "s"), ("assistant", "t")),
        *(("user", "before"), ("assistant", "then")),
    )


def test_prompts_are_answered_in_parts_of_limited_size(passes, draws, random_phi, monkeypatch):
    phi = random_phi(passes.learner, 3)
    whole = measuring._written(passes, phi, draws, passes.answers(phi, draws))
    sizes = []
    real = decode

    def watched(learner, phi, prompts, *rest):
        sizes.append(sum(map(len, prompts)))
        return real(learner, phi, prompts, *rest)

    monkeypatch.setattr(measuring, "decode", watched)
    monkeypatch.setattr(measuring, "PIECE_TOKENS", 200)
    assert measuring._written(passes, phi, draws, passes.answers(phi, draws)) == whole
    assert len(sizes) > 1
