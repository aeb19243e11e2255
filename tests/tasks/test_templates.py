"""Chat templates of the kinds that models have: what they are told, what they refuse, and what becomes of system prompts."""

from datetime import date

import pytest
from templates.families import (
    FAMILIES,
    FOLDS,
    byte_level,
    end_of,
    fresh_tokenizer,
    merging,
    sentence_piece,
    shared_tokenizer,
    template_of,
)
from tokenizers import AddedToken, normalizers
from transformers import PreTrainedTokenizerFast

from headstart.tasks import templates
from headstart.tasks.render import Renderer
from headstart.tasks.task import Example, SuiteError
from headstart.tasks.templates import ChatTemplate

THOUGHT = Example("in", "<think>\nwhy\n</think>\n\nout")


def decoded(renderer, example, instruction="Do this."):
    """An example's request and its trained part, as text."""
    (one,) = renderer.render(instruction, [example])
    return renderer.tokenizer.decode(one.ids[: one.answer]), renderer.tokenizer.decode(one.ids[one.answer :])


def renderer_of(template, kwargs=None):
    tokenizer = fresh_tokenizer("smollm2")
    tokenizer.chat_template = template
    return Renderer(tokenizer, template_kwargs=kwargs)


FOUND = {"qwen3": {"enable_thinking": False}, "llama3_2": {"date_string": "26 Jul 2024"}}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_template_is_told_is_found(family):
    assert Renderer(shared_tokenizer(family)).template_kwargs == FOUND.get(family, {})


def test_thinking_is_switched_off_under_its_other_name():
    template = template_of("qwen3").replace("enable_thinking", "thinking")
    assert renderer_of(template).template_kwargs == {"thinking": False}
    assert decoded(renderer_of(template), Example("in", "out")) == decoded(Renderer(shared_tokenizer("qwen3")), Example("in", "out"))


def test_nothing_is_told_where_nothing_needs_to_be():
    """A template whose thinking is off unless asked for puts the answer right behind its prompt untold."""
    assert renderer_of(template_of("qwen3").replace("is defined and enable_thinking is false", "is not defined")).template_kwargs == {}


def test_a_template_that_nothing_helps_is_refused_with_what_it_did():
    with pytest.raises(
        SuiteError, match=r"right behind its generation prompt \(told \{\}: .*<think>.*enable_thinking.*chat_template_kwargs"
    ):
        renderer_of(template_of("qwen3").replace("enable_thinking", "other_word"))
    with pytest.raises(SuiteError, match="not today"):
        renderer_of("{{ raise_exception('not today') }}")


def test_given_kwargs_are_taken_as_they_are():
    assert Renderer(shared_tokenizer("qwen3"), template_kwargs={}).template_kwargs == {}
    assert Renderer(shared_tokenizer("qwen3"), template_kwargs={"enable_thinking": True}).template_kwargs == {"enable_thinking": True}
    assert Renderer(shared_tokenizer("llama3_2"), template_kwargs={"date_string": "1 May"}).template_kwargs == {"date_string": "1 May"}


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "messages", "add_generation_prompt"])
def test_kwargs_that_are_not_the_templates_are_refused(name):
    with pytest.raises(SuiteError, match=f"base.chat_template_kwargs has '{name}'"):
        Renderer(shared_tokenizer("qwen3"), template_kwargs={name: True})


def test_an_answer_with_a_thought_is_trained_whole_when_thinking_is_on():
    renderer = Renderer(shared_tokenizer("qwen3"), template_kwargs={"enable_thinking": True})
    assert decoded(renderer, THOUGHT)[1] == f"{THOUGHT.output}<|im_end|>"
    assert renderer.tokenizer.decode([renderer.end_id]) == "<|im_end|>"


@pytest.mark.parametrize(("thinking", "example"), [(False, THOUGHT), (True, Example("in", "out"))])
def test_an_answer_of_the_other_kind_is_refused(thinking, example):
    renderer = Renderer(shared_tokenizer("qwen3"), template_kwargs={"enable_thinking": thinking})
    with pytest.raises(SuiteError, match=r"the answer '(<think>|out).*base.chat_template_kwargs \(now .*enable_thinking: true") as raised:
        renderer.render("Do this.", [example])
    assert repr(example.output) in str(raised.value)


def test_thoughts_of_earlier_turns_go_as_the_template_lets_them():
    history = (("user", "q"), ("assistant", "<think>\nold\n</think>\n\na"))
    request, trained = decoded(Renderer(shared_tokenizer("qwen3")), Example("in", "out", history))
    assert "old" not in request
    assert "<|im_start|>assistant\na<|im_end|>" in request
    assert trained == "out<|im_end|>"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_system_prompt_is_never_dropped(family):
    renderer = Renderer(shared_tokenizer(family))
    assert not any("system" in note for note in renderer.notes)
    for history in [(("system", "Rhyme."),), (("system", "Rhyme."), ("user", "q"), ("assistant", "a"))]:
        request, trained = decoded(renderer, Example("in", "out", history))
        assert request.count("Rhyme.") == 1
        assert trained == f"out{end_of(family)}"
        first = history[1][1] if len(history) > 1 else "in"
        assert (f"Rhyme.\n\nDo this.\n{first}" in request) == (family in FOLDS or family == "gemma3" or family.startswith("none"))
    assert any("takes no system turn" in note for note in renderer.notes) == (family in FOLDS)


def test_folding_is_decided_and_noted_once():
    renderer = Renderer(shared_tokenizer("gemma2"))
    for text in ("one", "two"):
        renderer.render("", [Example(text, "out", (("system", "Rhyme."),))])
    assert len(renderer.notes) == 1


def test_a_template_that_drops_the_system_prompt_in_silence_is_seen_through():
    dropping = template_of("smollm2").replace("for message in messages", "for message in messages if message['role'] != 'system'")
    request, _ = decoded(renderer_of(dropping), Example("in", "out", (("system", "Rhyme."),)))
    assert request.endswith("<|im_start|>user\nRhyme.\n\nDo this.\nin<|im_end|>\n<|im_start|>assistant\n")


def test_a_folded_prompt_leaves_no_blank_lines_around_nothing():
    template = ChatTemplate(shared_tokenizer("gemma2"))
    assert template.fitted([{"role": "system", "content": ""}, {"role": "user", "content": "in"}]) == [{"role": "user", "content": "in"}]
    assert template.fitted([{"role": "system", "content": "S"}, {"role": "user", "content": ""}]) == [{"role": "user", "content": "S"}]


def test_turns_in_front_of_the_first_user_turn_stay_when_a_prompt_is_folded():
    turns = [
        {"role": role, "content": content} for role, content in [("system", "S"), ("assistant", "hello"), ("user", "q"), ("user", "in")]
    ]
    fitted = ChatTemplate(shared_tokenizer("gemma2")).fitted(turns)
    assert [turn["content"] for turn in fitted] == ["hello", "S\n\nq", "in"]


def test_a_system_prompt_must_come_first():
    late = Example("in", "out", (("user", "q"), ("system", "Rhyme.")))
    with pytest.raises(SuiteError, match="'in' has a system prompt behind another turn"):
        Renderer(shared_tokenizer("smollm2")).render("", [late])


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "mistral_v01", "mistral_v7_tekken"])
def test_turns_that_a_template_refuses_are_named(family):
    """Also among others, where the whole part was templated at once."""
    odd = Example("the odd one", "out", (("user", "q"),))
    renderer = Renderer(shared_tokenizer(family))
    with pytest.raises(SuiteError, match=r"'the odd one', whose turns are user, user: user and assistant take turns here"):
        renderer.render("", [Example("fine", "out"), odd, Example("fine too", "out")])
    with pytest.raises(SuiteError, match="'the odd one'"):
        renderer.prompt("", odd.input, odd.history)


def test_a_fault_in_whole_conversations_alone_names_its_example():
    picky = template_of("smollm2") + "{% if messages[-1]['content'] == 'bad' %}{{ raise_exception('no bad answers') }}{% endif %}"
    with pytest.raises(SuiteError, match=r"'second', whose turns are user, assistant: no bad answers"):
        renderer_of(picky).render("", [Example("first", "good"), Example("second", "bad")])


def test_llamas_date_stays():
    request, _ = decoded(Renderer(shared_tokenizer("llama3_2")), Example("in", "out"))
    assert "Today: 26 Jul 2024\n" in request
    given = Renderer(shared_tokenizer("llama3_2"), template_kwargs={"date_string": "1 May 2020"})
    assert "Today: 1 May 2020\n" in decoded(given, Example("in", "out"))[0]
    assert given.notes == ()


class Tomorrow(date):
    @classmethod
    def today(cls):
        return cls(2222, 2, 2)


@pytest.mark.parametrize(
    ("family", "kwargs", "moves"),
    [
        ("llama3_2", None, False),
        ("llama3_2", {}, True),
        ("llama3_2", {"date_string": "1 May 2020"}, False),
        ("llama3_1", None, False),
        ("mistral_v7_tekken", None, True),
        ("mistral_v7_tekken", {"date_string": "1 May 2020"}, True),
    ],
)
def test_a_key_moves_with_the_date_only_where_the_template_writes_it(monkeypatch, family, kwargs, moves):
    today, tomorrow = (Renderer(shared_tokenizer(family), template_kwargs=kwargs) for _ in range(2))
    before = today.key
    monkeypatch.setattr(templates, "date", Tomorrow)
    assert (tomorrow.key != before) == moves
    assert any("today's date" in note for note in tomorrow.notes) == moves


@pytest.mark.parametrize(("family", "bos"), [("none", ""), ("none_sentence_piece", ""), ("none_with_bos", "<s>")])
def test_without_a_template_a_plain_one_is_used_and_told_of(family, bos):
    renderer = Renderer(shared_tokenizer(family))
    assert decoded(renderer, Example("in", "out")) == (f"{bos}Do this.\nin\n", "out</s>")
    history = (("user", "q"), ("assistant", "a"))
    assert decoded(renderer, Example("in", "out", history)) == (f"{bos}Do this.\nq\na</s>in\n", "out</s>")
    assert decoded(renderer, Example("", "out"), "Do this.\n")[0] == f"{bos}Do this.\n", "one line end, or they would melt together"
    assert renderer.tokenizer.chat_template is None
    assert "'assistant'" in renderer.chat_template
    assert ["no chat template" in note for note in renderer.notes] == [True]


def test_a_template_of_its_own_is_the_one_in_use():
    renderer = Renderer(shared_tokenizer("gemma3"))
    assert renderer.chat_template == template_of("gemma3")
    assert renderer.notes == ()


def test_without_a_template_and_an_end_there_is_nothing_to_train():
    tokenizer = fresh_tokenizer("none")
    tokenizer.eos_token = None
    with pytest.raises(SuiteError, match="no chat template and no token that ends a text"):
        Renderer(tokenizer)


def test_of_several_templates_the_default_is_used():
    tokenizer = fresh_tokenizer("smollm2")
    tokenizer.chat_template = {"default": template_of("smollm2"), "tool_use": "x"}
    assert Renderer(tokenizer).chat_template == template_of("smollm2")
    tokenizer.chat_template = {"one": template_of("smollm2"), "other": "x"}
    with pytest.raises(SuiteError, match="several chat templates"):
        Renderer(tokenizer)


def test_a_bos_is_not_doubled():
    """Llama's tokenizer puts one in front of every text, and its template writes one too."""
    renderer = Renderer(shared_tokenizer("llama3"))
    bos = renderer.tokenizer.bos_token_id
    assert renderer.tokenizer("<|begin_of_text|>")["input_ids"] == [bos, bos]
    (one,) = renderer.render("Do this.", [Example("in", "out")])
    assert one.ids.count(bos) == renderer.prompt("Do this.", "in").count(bos) == 1


def test_line_ends_that_melt_together_in_a_request_alone_are_refused():
    """GPT-2's way of parting texts: two line ends at a text's end are one token, in front of a word they are two."""
    gpt2 = r"'s| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    tokenizer = merging(("<s>", "</s>"), gpt2)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'] + ('\n\n' if loop.index0 is even else '</s>') }}{% endfor %}"
    )
    assert tokenizer.tokenize("a\n\n") == ["a", "ĊĊ"]
    assert tokenizer.tokenize("a\n\nb") == ["a", "Ċ", "Ċ", "b"]
    with pytest.raises(SuiteError, match="other tokens alone than with the answer behind it"):
        Renderer(tokenizer).render("", [Example("in", "out")])
    tokenizer.chat_template = tokenizer.chat_template.replace("\n\n", "\n")
    assert decoded(Renderer(tokenizer), Example("in", "out"), "") == ("in\n", "out</s>")


def test_a_request_that_begins_otherwise_than_it_goes_on_is_no_such_case():
    """As old Llama tokenizers: every text gets a space in front, which a special token within one takes for its own."""
    backend = sentence_piece(("<s>", "</s>")).backend_tokenizer
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens([AddedToken("<sep>", special=True, normalized=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'] + (' <sep>' if loop.index0 is even else '</s>') }}{% endfor %}"
    )
    assert tokenizer.tokenize("the <sep>in")[1:] == ["▁<sep>", "in"]
    assert tokenizer.tokenize(" <sep>in") == ["▁", "▁<sep>", "in"]
    (one,) = Renderer(tokenizer).render("", [Example("the in", "the a")])
    assert Renderer(tokenizer).prompt("", "the in") == one.ids[: one.answer]
    assert tokenizer.convert_ids_to_tokens(one.ids[one.answer :]) == ["th", "e", "▁a", "</s>"]


def test_a_conversation_that_begins_unlike_its_request_is_refused():
    """Though the answer stands where the request ends."""
    template = "{{ 'asks' if messages[-1]['role'] == 'user' else 'told' }}" + template_of("smollm2")
    with pytest.raises(SuiteError, match="right behind its generation prompt"):
        renderer_of(template, {}).render("", [Example("in", "out")])


@pytest.mark.parametrize("build", [byte_level, merging])
def test_white_space_in_front_of_an_answer_is_trained_as_it_is_served(build):
    """The gap belongs to what a model has to write, since a request ends in front of it, also where offsets leave white space out."""
    tokenizer = build(("<s>", "</s>"))
    tokenizer.chat_template = template_of("mistral_v01")
    assert decoded(Renderer(tokenizer), Example("in", "out"), "") == ("<s>[INST] in [/INST]", " out</s>")
    tokenizer.chat_template = template_of("mistral_v01").replace("' ' + message", "' \n ' + message")
    assert decoded(Renderer(tokenizer), Example("in", "out"), "") == ("<s>[INST] in [/INST]", " \n out</s>")
    tokenizer.chat_template = template_of("mistral_v01").replace("' ' + message", "'. ' + message")
    with pytest.raises(SuiteError, match="right behind its generation prompt"):
        Renderer(tokenizer)
