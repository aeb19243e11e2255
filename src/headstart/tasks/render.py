"""Rendering to tokens: an example becomes exactly what the base's chat template makes of its whole conversation.

Nothing is ever tokenised in parts and joined, so no token can differ from what a serving client sends.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from headstart.tasks.rows import Rendered
from headstart.tasks.task import Example, SuiteError

DEFAULT_MAX_LENGTH = 512
CACHED = 20_000
"""So many renderings are kept; the oldest go first."""
PART = 1000
USER_TURN = "{instruction}\n{input}"


def user_turn(instruction: str, text: str) -> str:
    """The user's message for one input: the instruction, a line end, the input; the input alone without an instruction."""
    return USER_TURN.format(instruction=instruction, input=text) if instruction and text else instruction or text


def _user(instruction: str, text: str) -> dict[str, str]:
    return {"role": "user", "content": user_turn(instruction, text)}


class Renderer:
    """Renders examples with a tokenizer's chat template.

    Args:
        tokenizer: a fast transformers tokenizer with a chat template.
        max_length: the most tokens that one example may take.

    Raises:
        SuiteError: the tokenizer has no chat template or gives no character offsets.
    """

    def __init__(self, tokenizer: Any, max_length: int = DEFAULT_MAX_LENGTH) -> None:
        if not tokenizer.chat_template:
            raise SuiteError(
                "the base's tokenizer has no chat template; use an instruction-tuned base, or put a chat_template.jinja into its folder"
            )
        if not tokenizer.is_fast:
            raise SuiteError("the base's tokenizer gives no character offsets; headstart needs a fast tokenizer (tokenizer.json)")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._cache: dict[tuple[str, str, str], Rendered] = {}

    def render(self, instruction: str, examples: Sequence[Example]) -> list[Rendered]:
        """Render examples of one instruction.

        Raises:
            SuiteError: an example is longer than `max_length`, the template changes its answer, the answer has no token, or no end
            token follows it.
        """
        missing = [example for example in examples if (instruction, example.input, example.output) not in self._cache]
        for example, rendered in zip(missing, self._render(instruction, missing), strict=True):
            self._cache[instruction, example.input, example.output] = rendered
        found = [self._cache[instruction, example.input, example.output] for example in examples]
        while len(self._cache) > CACHED:
            del self._cache[next(iter(self._cache))]
        for example, rendered in zip(examples, found, strict=True):
            if len(rendered.ids) > self.max_length:
                raise SuiteError(
                    f"the example with input {example.input[:60]!r} takes {len(rendered.ids)} tokens, over the limit of "
                    f"{self.max_length}; shorten the row, or raise suite.max_length in the recipe that is, or was, trained by"
                )
        return found

    def prompt(self, instruction: str, text: str) -> tuple[int, ...]:
        """The ids of the request that a client sends for one input, without the white space around it: an example's up to its answer.

        Raises:
            SuiteError: there is neither instruction nor input, or no room for an answer within `max_length`.
        """
        text = text.strip()
        if not user_turn(instruction, text).strip():
            raise SuiteError("there is nothing to answer: the instruction and the input are empty")
        ids = self.tokenizer(self._request(instruction, text), add_special_tokens=False)["input_ids"]
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
            SuiteError: the template cannot be trained on, as in `render`.
        """
        return self._render("", [Example("a", "a")])[0].ids[-1]

    def text(self, ids: Sequence[int]) -> str:
        """What the ids of an answer say, without special tokens, as servers give it back."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def training_rows(self, instruction: str, examples: Sequence[Example]) -> list[dict[str, list[int]]]:
        """Rows of `input_ids` and `labels` for other trainers: what headstart trains on, labels being -100 in front of the answer.

        A chat template mostly puts something behind the token that ends an answer; trainers that render a whole chat train on that too.

        Raises:
            SuiteError: as `render`.
        """
        rendered = self.render(instruction, examples)
        return [{"input_ids": list(one.ids), "labels": [-100] * one.answer + list(one.ids[one.answer :])} for one in rendered]

    def fitting(self, instruction: str, examples: Sequence[Example]) -> list[Example]:
        """The examples that render within `max_length` tokens."""
        # a part at a time, since a hundred thousand renderings need not be there at once
        parts = (examples[start : start + PART] for start in range(0, len(examples), PART))
        sized = ((example, len(one.ids)) for part in parts for example, one in zip(part, self._render(instruction, part), strict=True))
        return [example for example, tokens in sized if tokens <= self.max_length]

    def tokens(self, instruction: str, example: Example) -> int:
        """The number of tokens of one rendered example, whatever the limit."""
        return len(self._render(instruction, [example])[0].ids)

    def _render(self, instruction: str, examples: Sequence[Example]) -> list[Rendered]:
        if not examples:
            return []
        conversations = [self._conversation(instruction, example) for example in examples]
        encoded = self.tokenizer([text for text, _ in conversations], add_special_tokens=False, return_offsets_mapping=True)
        return [
            self._cut(example, ids, offsets, start)
            for example, ids, offsets, (_, start) in zip(
                examples, encoded["input_ids"], encoded["offset_mapping"], conversations, strict=True
            )
        ]

    def _request(self, instruction: str, text: str) -> str:
        """The templated text up to where an answer starts."""
        found: str = self.tokenizer.apply_chat_template([_user(instruction, text)], tokenize=False, add_generation_prompt=True)
        return found

    def _conversation(self, instruction: str, example: Example) -> tuple[str, int]:
        """The templated text and the character at which the answer starts."""
        assistant = {"role": "assistant", "content": example.output}
        prompt = self._request(instruction, example.input)
        text: str = self.tokenizer.apply_chat_template([_user(instruction, example.input), assistant], tokenize=False)
        if not text.startswith(prompt + example.output):
            raise SuiteError(
                f"the chat template does not put the answer {example.output[:60]!r} right behind its generation prompt; "
                "such templates are not supported"
            )
        return text, len(prompt)

    def _cut(self, example: Example, ids: list[int], offsets: list[tuple[int, int]], start: int) -> Rendered:
        """Find the answer's first token and the end token that follows its last."""
        stop = start + len(example.output)
        answer = next((index for index, (_, end) in enumerate(offsets) if end > start), len(ids))
        if answer == len(ids) or offsets[answer][0] >= stop:
            raise SuiteError(f"the answer {example.output[:60]!r} has no token in the base's tokenizer, so there is nothing to train on")
        if offsets[answer][0] < start:
            raise SuiteError(
                f"the answer {example.output[:60]!r} shares its first token with the prompt; the tokenizer merges over the turn's start"
            )
        ends = (index for index in range(answer, len(ids)) if offsets[index][0] >= stop and ids[index] in self._special)
        end = next(ends, None)
        if end is None:
            raise SuiteError("the chat template puts no end token behind the assistant's turn, so a model could never learn to stop")
        return Rendered(ids=tuple(ids[: end + 1]), answer=answer)
