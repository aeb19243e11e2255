"""Chat templates: which one a tokenizer has, what it is told, and the texts that it makes of conversations."""

import inspect
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import Any, NamedTuple

from jinja2 import TemplateError

from headstart.tasks.task import SuiteError

Chat = list[dict[str, str]]
"""The turns of a conversation, as chat templates take them: `role` and `content`."""

PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ message['content'] | trim + ('\n\n' if message['role'] == 'system' else '\n') }}{% endif %}"
    "{% endfor %}"
)
"""For a tokenizer without a template: what is asked, a line end, the answer, the token that ends a text."""
PINNED_DATE = "26 Jul 2024"
"""What Llama's templates write where there is no clock; any day would do, as long as it stays."""
TOLD: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": False}, {"thinking": False})
"""What a template is told, in the order it is tried; templates pass over what they do not know."""
SAMPLE_ANSWER = "blue"
SAMPLE: Chat = [{"role": "user", "content": "Name a colour."}]
SAMPLE_SYSTEM = "Answer in one word."

# what templates raise of their own (`raise_exception`, undefined names), and what Python does over values they do not expect
_FAULTS = (TemplateError, TypeError, ValueError)


class Templated(NamedTuple):
    """A templated conversation.

    Args:
        text: all of it.
        prompt: the length of the request, which the text starts with; only white space stands between it and the answer.
        start: the character at which the answer starts.
        stop: the character behind its last.
    """

    text: str
    prompt: int
    start: int
    stop: int


class ChatTemplate:
    """A tokenizer's chat template, and what it is told.

    Args:
        tokenizer: a transformers tokenizer.
        kwargs: what the template is told, taken as it is; found on a sample conversation if None.

    Attributes:
        jinja: the template in use; a plain one where the tokenizer has none.
        kwargs: what it is told.
        notes: what a user should know of it, a line each. One is added when the first system prompt turns out not to be taken.

    Raises:
        SuiteError: no kwargs put answers right behind the generation prompt, the given ones are arguments of `apply_chat_template`,
        or there is neither a template nor a token that ends a text.
    """

    def __init__(self, tokenizer: Any, kwargs: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        self.notes: list[str] = []
        self.jinja = self._own() if tokenizer.chat_template else self._plain()
        self.kwargs: dict[str, Any] = self._found() if kwargs is None else _given(tokenizer, kwargs)
        if self._dated:
            self.notes.append(
                "the chat template writes today's date, so tokens differ from day to day; "
                "give `date_string` in base.chat_template_kwargs if the template takes it"
            )

    @property
    def today(self) -> str:
        """Today's date where the template writes it; empty where the texts are the same every day."""
        return date.today().isoformat() if self._dated else ""

    def apply(self, chats: Sequence[Chat], prompt: bool = False) -> list[str]:
        """The texts of conversations; with `prompt`, up to where the answer to the last turn starts.

        Raises:
            SuiteError: the template refuses a conversation; the message names it.
        """
        try:
            return self._applied(chats, prompt, self.kwargs)
        except _FAULTS as error:
            if len(chats) > 1:
                return [text for chat in chats for text in self.apply([chat], prompt)]
            roles = ", ".join(turn["role"] for turn in chats[0])
            asked = next(turn["content"] for turn in reversed(chats[0]) if turn["role"] == "user")
            raise SuiteError(
                f"the chat template refuses the conversation with the input {asked[:60]!r}, whose turns are {roles}: {error}; "
                "change or drop the row, or use a base whose template takes it"
            ) from error

    def templated(self, requests: Sequence[Chat], answers: Sequence[str]) -> list[Templated]:
        """The texts of requests with their answers.

        Raises:
            SuiteError: the template refuses a conversation, or does not put an answer as it is right behind the request.
        """
        wholes = [[*request, {"role": "assistant", "content": answer}] for request, answer in zip(requests, answers, strict=True)]
        prompts = self.apply(requests, prompt=True)
        return [self._located(*each) for each in zip(prompts, self.apply(wholes), answers, strict=True)]

    def fitted(self, chat: Chat) -> Chat:
        """The conversation as the template takes it: where it takes no system turn, its text goes in front of the first user turn."""
        if chat[0]["role"] != "system" or self.takes_system:
            return chat
        system, *turns = chat
        first = next(index for index, turn in enumerate(turns) if turn["role"] == "user")
        content = "\n\n".join(text for text in (system["content"], turns[first]["content"]) if text)
        return [*turns[:first], {"role": "user", "content": content}, *turns[first + 1 :]]

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system turn is written, in a request as in a whole conversation; decided on a sample."""
        asked = [{"role": "system", "content": SAMPLE_SYSTEM}, *SAMPLE]
        try:
            prompt, whole = self._sampled(asked, self.kwargs)
        except _FAULTS:
            prompt = whole = ""
        takes = SAMPLE_SYSTEM in prompt and whole.startswith(prompt)
        if not takes:
            self.notes.append(
                "the chat template takes no system turn; system prompts go in front of the first user turn, a blank line between"
            )
        return takes

    @property
    def _dated(self) -> bool:
        pinned = "date_string" in self.jinja and "date_string" in self.kwargs
        return "strftime_now" in self.jinja and not pinned

    def _own(self) -> str:
        try:
            return str(self._tokenizer.get_chat_template())
        except ValueError as error:
            raise SuiteError(f"the base's tokenizer has several chat templates: {error}; name one of them `default`") from error

    def _plain(self) -> str:
        if self._tokenizer.eos_token is None:
            raise SuiteError(
                "the base's tokenizer has no chat template and no token that ends a text, so a model could never learn to stop; "
                "use an instruction-tuned base, or put a chat_template.jinja into its folder"
            )
        self.notes.append("the base's tokenizer has no chat template; a plain one is used: what is asked, a line end, the answer")
        bos = self._tokenizer.bos_token_id
        starts = bos is not None and self._tokenizer("a")["input_ids"][:1] == [bos]
        return "{{ bos_token }}" * starts + PLAIN

    def _found(self) -> dict[str, Any]:
        faults = {}
        for told in TOLD:
            fault = self._fault(told)
            if fault is None:
                pinned = "date_string" in self.jinja and "strftime_now" in self.jinja
                return told | {"date_string": PINNED_DATE} if pinned else dict(told)
            faults[str(told)] = fault
        tried = "; ".join(f"told {told}: {fault}" for told, fault in faults.items())
        raise SuiteError(
            f"the chat template does not put a sample answer right behind its generation prompt ({tried}); give what it needs as "
            "base.chat_template_kwargs, or use another base: such templates are not supported"
        )

    def _fault(self, kwargs: Mapping[str, Any]) -> str | None:
        """What keeps a sample's answer from coming right behind its request."""
        try:
            prompt, whole = self._sampled(SAMPLE, kwargs)
        except _FAULTS as error:
            return str(error)
        if whole.startswith(prompt) and whole[len(prompt) :].lstrip().startswith(SAMPLE_ANSWER):
            return None
        return f"{whole[-60:]!r} where the request ends with {prompt[-30:]!r}"

    def _sampled(self, request: Chat, kwargs: Mapping[str, Any]) -> tuple[str, str]:
        """A request, and the same with an answer."""
        (prompt,) = self._applied([request], True, kwargs)
        (whole,) = self._applied([[*request, {"role": "assistant", "content": SAMPLE_ANSWER}]], False, kwargs)
        return prompt, whole

    def _applied(self, chats: Sequence[Chat], prompt: bool, kwargs: Mapping[str, Any]) -> list[str]:
        return list(
            self._tokenizer.apply_chat_template(
                list(chats), chat_template=self.jinja, tokenize=False, add_generation_prompt=prompt, **kwargs
            )
        )

    def _located(self, prompt: str, whole: str, answer: str) -> Templated:
        behind = whole[len(prompt) :]
        start = len(prompt) + len(behind) - len(behind.lstrip())
        if not whole.startswith(prompt) or not whole.startswith(answer, start):
            raise SuiteError(
                f"the chat template does not put the answer {answer[:60]!r} as it is right behind its generation prompt. "
                f"base.chat_template_kwargs (now {self.kwargs}) decides what it is told: many take `enable_thinking: true` for answers "
                "with a think block of their own, `enable_thinking: false` for those without"
            )
        return Templated(whole, len(prompt), start, start + len(answer))


def _given(tokenizer: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(tokenizer.apply_chat_template).parameters
    taken = sorted(kwargs.keys() & (signature.keys() | {"messages"}))
    if taken:
        raise SuiteError(f"base.chat_template_kwargs has {taken[0]!r}, which is not for the template to be told; leave it out")
    return dict(kwargs)
