"""Rendering to tokens: an example becomes exactly what the base's chat template makes of its whole conversation.

Nothing is ever tokenised in parts and joined, so no token can differ from what a serving client sends.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import tokenizers
import transformers

from headstart.tasks.rows import Rendered
from headstart.tasks.task import USER_TURN, Example, Message, SuiteError, user_turn
from headstart.tasks.templates import SAMPLE, SAMPLE_ANSWER, Chat, ChatTemplate, Templated

__all__ = ["DEFAULT_MAX_LENGTH", "USER_TURN", "Renderer", "conversation", "user_turn"]

DEFAULT_MAX_LENGTH = 512
CACHED = 20_000
"""So many renderings are kept; the oldest go first."""
PART = 1000


def conversation(instruction: str, text: str, history: Sequence[Message] = ()) -> Chat:
    """The turns of a request, the last of them the input; the instruction precedes what the user says first.

    Raises:
        SuiteError: a system prompt stands behind another turn.
    """
    chat = [{"role": str(role), "content": content} for role, content in (*history, ("user", text))]
    if any(turn["role"] == "system" for turn in chat[1:]):
        raise SuiteError(f"the example with input {text[:60]!r} has a system prompt behind another turn; put it first, once")
    first = next(turn for turn in chat if turn["role"] == "user")
    first["content"] = user_turn(instruction, first["content"])
    return chat


class Renderer:
    """Renders examples with a tokenizer's chat template.

    Args:
        tokenizer: a fast transformers tokenizer. Without a chat template it gets a plain one, where it has a token that ends a text.
        max_length: the most tokens that one example may take.
        template_kwargs: what the template is told; if None, what puts a sample's answer right behind the generation prompt, and a
            fixed date where the template asks the clock for one.

    Raises:
        SuiteError: the tokenizer gives no character offsets, or its chat template cannot be used.
    """

    def __init__(self, tokenizer: Any, max_length: int = DEFAULT_MAX_LENGTH, template_kwargs: Mapping[str, Any] | None = None) -> None:
        if not tokenizer.is_fast:
            raise SuiteError("the base's tokenizer gives no character offsets; headstart needs a fast tokenizer (tokenizer.json)")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._template = ChatTemplate(tokenizer, template_kwargs)
        self._special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        # some tokenizers do not mark as special the token that ends a text
        self._ends = self._special | {tokenizer.eos_token_id}
        self._cache: dict[tuple[str, str, str, tuple[Message, ...]], Rendered] = {}
        self._by: dict[str, str] = {}

    @property
    def chat_template(self) -> str:
        """The jinja text of the chat template in use."""
        return self._template.jinja

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """What the chat template is told, beside the conversation."""
        return dict(self._template.kwargs)

    @property
    def serving(self) -> dict[str, Any]:
        """What a serving client has to know to ask as in training: what the template is told, and the template where the base has none."""
        own = {} if self.tokenizer.chat_template else {"chat_template": self.chat_template}
        return {"user_turn": USER_TURN, "chat_template_kwargs": self.template_kwargs, **own}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the base's template is used, a line each; of system prompts only once there was one."""
        return tuple(self._template.notes)

    @cached_property
    def key(self) -> str:
        """A digest of all that ids come of but instruction and example: tokenizer, template and what it is told, versions, a date."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # how a caller last padded or truncated is no part of a tokenizer
        tokenizer = {name: value for name, value in state.items() if name not in ("padding", "truncation")}
        template = [self.chat_template, self.template_kwargs, dict(self.tokenizer.special_tokens_map), USER_TURN, self._template.today]
        return _digest(tokenizer, template, tokenizers.__version__, transformers.__version__)

    def by(self, instruction: str) -> str:
        """A digest of `key` and an instruction: what the ids of its examples come of."""
        if instruction not in self._by:
            self._by[instruction] = _digest(self.key, instruction)
        return self._by[instruction]

    def render(self, instruction: str, examples: Sequence[Example]) -> list[Rendered]:
        """Render examples of one instruction; those with tokens that still hold are taken from there.

        Raises:
            SuiteError: an example is longer than `max_length`, the template refuses it or changes its answer, the answer has no token,
            or no end token follows it.
        """
        examples = list(examples)
        found = self._found(instruction, examples)
        self._keep(instruction, examples, found)
        for example, rendered in zip(examples, found, strict=True):
            if len(rendered.ids) > self.max_length:
                raise SuiteError(
                    f"the example with input {example.input[:60]!r} takes {len(rendered.ids)} tokens, over the limit of "
                    f"{self.max_length}; shorten the row, or raise suite.max_length in the recipe that is, or was, trained by"
                )
        return found

    def prompt(self, instruction: str, text: str, history: Sequence[Message] = ()) -> tuple[int, ...]:
        """The ids of the request that a client sends for one input, without the white space around it: an example's up to its answer.

        Raises:
            SuiteError: there is nothing to answer, the template refuses the turns, or no room is left for an answer within `max_length`.
        """
        text = text.strip()
        chat = conversation(instruction, text, history)
        if not chat[-1]["content"].strip():
            raise SuiteError("there is nothing to answer: the instruction and the input are empty")
        _require_unicode([instruction, text, *(said for _, said in history)])
        ids = self._ids(self._template.apply([self._template.fitted(chat)], prompt=True))[0]
        if len(ids) >= self.max_length:
            raise SuiteError(
                f"the request with input {text[:60]!r} takes {len(ids)} tokens, which leaves no room for an answer within the limit of "
                f"{self.max_length}; shorten the input"
            )
        return tuple(ids)

    @cached_property
    def end_id(self) -> int:
        """The id of the token that ends an answer.

        Raises:
            SuiteError: the template drops an answer or puts no end token behind it.
        """
        (text,) = self._template.apply([[*SAMPLE, {"role": "assistant", "content": SAMPLE_ANSWER}]])
        start = text.rfind(SAMPLE_ANSWER)
        if start < 0:
            raise SuiteError(f"the chat template drops the answer {SAMPLE_ANSWER!r}; use another base, or mend its chat_template.jinja")
        (encoding,) = self._encode([text])
        return int(encoding.ids[self._end(encoding, start + len(SAMPLE_ANSWER))])

    def text(self, ids: Sequence[int]) -> str:
        """What the ids of an answer say, without special tokens, as servers give it back."""
        said = [index for index in ids if index != self.tokenizer.eos_token_id]
        return str(self.tokenizer.decode(said, skip_special_tokens=True))

    def training_rows(self, instruction: str, examples: Sequence[Example]) -> list[dict[str, list[int]]]:
        """Rows of `input_ids` and `labels` for other trainers: what headstart trains on, labels being -100 in front of the answer.

        A chat template mostly puts something behind the token that ends an answer; trainers that render a whole chat train on that too.

        Raises:
            SuiteError: as `render`.
        """
        rendered = self.render(instruction, examples)
        return [{"input_ids": list(one.ids), "labels": [-100] * one.answer + list(one.ids[one.answer :])} for one in rendered]

    def measure(self, instruction: str, examples: Sequence[Example]) -> list[Rendered]:
        """Render examples whatever their length and whatever tokens they have; nothing is kept of them.

        Raises:
            SuiteError: as `render`, but for the limit.
        """
        return [one for part in _parts(examples) for one in self._rendered(instruction, part)]

    def fitting(self, instruction: str, examples: Sequence[Example]) -> list[Example]:
        """The examples that render within `max_length` tokens."""
        # a part at a time, since a hundred thousand renderings need not be there at once
        sized = ((example, one) for part in _parts(examples) for example, one in zip(part, self._found(instruction, part), strict=True))
        return [example for example, one in sized if len(one.ids) <= self.max_length]

    def tokens(self, instruction: str, example: Example) -> int:
        """The number of tokens of one rendered example, whatever the limit."""
        return len(self._found(instruction, [example])[0].ids)

    def _found(self, instruction: str, examples: list[Example]) -> list[Rendered]:
        """Rendered whatever their length: before, kept, or only now."""
        known = [self._own(instruction, one) or self._cache.get(_place(instruction, one)) for one in examples]
        missing = [example for example, one in zip(examples, known, strict=True) if one is None]
        fresh = iter(self.measure(instruction, missing))
        return [one or next(fresh) for one in known]

    def _keep(self, instruction: str, examples: list[Example], found: list[Rendered]) -> None:
        fresh = zip(examples, found, strict=True)
        self._cache.update({_place(instruction, example): one for example, one in fresh if self._own(instruction, example) is None})
        while len(self._cache) > CACHED:
            del self._cache[next(iter(self._cache))]

    def _own(self, instruction: str, example: Example) -> Rendered | None:
        """An example's tokens, if they come of this tokenizer, template and instruction."""
        tokens = example.tokens
        return Rendered(tokens.ids, tokens.answer) if tokens and tokens.by == self.by(instruction) else None

    def _rendered(self, instruction: str, examples: list[Example]) -> list[Rendered]:
        _require_unicode(chain([instruction], chain.from_iterable(_said(example) for example in examples)))
        requests = [self._template.fitted(conversation(instruction, one.input, one.history)) for one in examples]
        texts = self._template.templated(requests, [example.output for example in examples])
        encodings = self._encode([text.text for text in texts])
        rendered = [self._cut(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
        self._require_same_requests(texts, encodings, rendered)
        return rendered

    def _encode(self, texts: list[str]) -> list[Any]:
        """The tokenizer's encodings, which tell the characters of every token."""
        # the template writes every special token itself; what goes unused is not asked for, since making it takes as long as tokenising
        asked = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
        return list(self.tokenizer(texts, **asked).encodings)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [list(encoding.ids) for encoding in self._encode(texts)]

    def _cut(self, text: Templated, encoding: Any) -> Rendered:
        """Find the first trained token, which starts where the request ends, and the end token that follows the answer's last."""
        answer = text.text[text.start : text.stop][:60]
        word = _token_at(encoding, text.start)
        if word is None or encoding.token_to_chars(word)[0] >= text.stop:
            raise SuiteError(f"the answer {answer!r} has no token in the base's tokenizer, so there is nothing to train on")
        first = word if text.start == text.prompt else _token_at(encoding, text.prompt)
        if first is None or encoding.token_to_chars(first)[0] < text.prompt:
            raise SuiteError(f"the answer {answer!r} shares its first token with the prompt; the tokenizer merges over the turn's start")
        end = self._end(encoding, text.stop)
        between = text.text[text.stop : encoding.token_to_chars(end)[0]]
        if between.strip():
            raise SuiteError(f"the chat template puts {between[:60]!r} between the answer {answer!r} and its end token")
        return Rendered(ids=tuple(encoding.ids[: end + 1]), answer=first)

    def _end(self, encoding: Any, stop: int) -> int:
        """The index of the first end token at or behind a character."""
        ids, behind = encoding.ids, _token_at(encoding, stop)
        indices = () if behind is None else range(behind, len(ids))
        end = next((index for index in indices if ids[index] in self._ends), None)
        if end is None:
            raise SuiteError("the chat template puts no end token behind the assistant's turn, so a model could never learn to stop")
        return end

    def _require_same_requests(self, texts: list[Templated], encodings: list[Any], rendered: list[Rendered]) -> None:
        """A request alone must have the tokens that it has in front of its answer, or serving would ask otherwise than training."""
        # a tokenizer never merges over a special token, so only what follows the last one can differ; mostly that is the same everywhere
        tails = [self._tail(*each) for each in zip(texts, encodings, rendered, strict=True)]
        distinct = list({tail for _, tail in tails})
        alone = dict(zip(distinct, self._ids(distinct), strict=True)) if distinct else {}
        for text, one, (index, tail) in zip(texts, rendered, tails, strict=True):
            same = alone[tail] == list(one.ids[index : one.answer])
            # tokenizers may begin a text otherwise than go on in one, so the whole request has the last word
            if not same and self._ids([text.text[: text.prompt]])[0] != list(one.ids[: one.answer]):
                raise SuiteError(
                    f"the request in front of the answer {text.text[text.start : text.stop][:60]!r} has other tokens alone than with the "
                    "answer behind it; the tokenizer merges over the turn's start"
                )

    def _tail(self, text: Templated, encoding: Any, rendered: Rendered) -> tuple[int, str]:
        """The request's last special token: its index, and the request's text from there."""
        behind = (index for index in range(rendered.answer - 1, -1, -1) if rendered.ids[index] in self._special)
        index = next(behind, 0)
        start = encoding.token_to_chars(index)[0] if index else 0
        return index, text.text[start : text.prompt]


def _place(instruction: str, example: Example) -> tuple[str, str, str, tuple[Message, ...]]:
    return instruction, example.input, example.output, example.history


def _parts(examples: Sequence[Example]) -> Iterator[list[Example]]:
    return (list(examples[start : start + PART]) for start in range(0, len(examples), PART))


def _said(example: Example) -> Iterator[str]:
    yield example.input
    yield example.output
    yield from (said for _, said in example.history)


def _token_at(encoding: Any, character: int) -> int | None:
    """The index of the first token that ends behind a character's start."""
    index: int | None = encoding.char_to_token(character)
    if index is not None:
        return index
    # some tokenizers leave white space out of offsets
    return next((index for index, (_, end) in enumerate(encoding.offsets) if end > character), None)


def _require_unicode(texts: Iterable[str]) -> None:
    texts = list(texts)
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        broken = next(text for text in texts if any("\ud800" <= character <= "\udfff" for character in text))
        raise SuiteError(
            f"the text {broken[:60]!r} has half of a surrogate pair, which no tokenizer takes; write the row's characters whole"
        ) from None


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
