"""Generation: several adapters answer their prompts in one batch, by transformers' own `generate` and its cache.

Rows are filled up on the left, so that every row's next token follows its last one; transformers takes positions from the mask.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from headstart.errors import HeadstartError
from headstart.model.learner import Learner
from headstart.model.sites import Phi, handing

Prompt = Sequence[int]
"""The token ids of one request."""
OnTokens = Callable[[list[int]], None]
"""Is told every row's newest token."""


class DecodeError(HeadstartError):
    """Nothing can be generated as asked; the message says why, and how to mend it."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Args:
        max_new_tokens: the most tokens of an answer, its end token included.
        temperature: 0 always takes the likeliest token; above, tokens are drawn, the more evenly the higher it is.
        top_p: draws among the likeliest tokens that together have this probability.
        seed: of the draws.

    Raises:
        DecodeError: a value is out of its range.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise DecodeError(f"max_new_tokens: expected at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise DecodeError(f"temperature: expected 0 (always the likeliest token) or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise DecodeError(f"top_p: expected more than 0 and at most 1 (all tokens), got {self.top_p}")
        if not 0 <= self.seed < 2**63:
            raise DecodeError(f"seed: expected a whole number from 0 to 2**63 - 1, got {self.seed}")


GREEDY = Sampling()


@torch.no_grad()
def decode(
    learner: Learner,
    phi: Phi,
    prompts: Sequence[Sequence[Prompt]],
    end_id: int,
    sampling: Sampling = GREEDY,
    on_tokens: OnTokens | None = None,
) -> list[list[tuple[int, ...]]]:
    """What each adapter writes behind each of its prompts; all of them in one batch.

    Greedy answers are those of each prompt alone, up to rounding; drawn ones depend on what else is in the batch.

    Args:
        learner: the base with its sites.
        phi: A `(T, r, d_in)` and B `(T, d_out, r)` for every site.
        prompts: for each of the T adapters its prompts, any number of them.
        end_id: the token that ends an answer.
        sampling: how tokens are chosen; the base's own defaults of generation do not count.
        on_tokens: called after every step with one new token a row, rows in the order of `prompts`; `end_id` for those that have
            ended. What it raises ends the generation.

    Returns:
        For each adapter and prompt the new tokens, without the end token.

    Raises:
        DecodeError: a prompt is empty, or is too long for the base together with the answer.
    """
    counts = [len(each) for each in prompts]
    tasks = {len(tensor) for tensor in phi.values()}
    if tasks != {len(counts)}:
        raise ValueError(f"prompts of {len(counts)} adapters for tensors of {sorted(tasks)}")
    rows = [prompt for each in prompts for prompt in each]
    if not rows:
        return [[] for _ in prompts]
    model, device = learner.base.model, learner.base.device
    require_room(model, rows, sampling)
    ids, mask = (tensor.to(device) for tensor in _left_padded(rows, end_id))
    with handing(learner.sites, _by_row(phi, counts)), _without_defaults(model), _whole_heads(model), _seeded(sampling.seed, device):
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=_config(sampling, end_id),
            streamer=None if on_tokens is None else _Streamer(on_tokens),
        )
    answers = (_until(row, end_id) for row in found[:, ids.shape[1] :].tolist())
    return [[next(answers) for _ in each] for each in prompts]


def require_room(model: Any, rows: Sequence[Prompt], sampling: Sampling) -> None:
    """See that a base has room for prompts and their answers, as `decode` does before it starts.

    Raises:
        DecodeError: a prompt is empty, or is too long for the base together with the answer.
    """
    if not all(rows):
        raise DecodeError("a prompt has no token; a request needs at least one")
    longest = max(len(row) for row in rows)
    # bases that count no places, such as BLOOM, name no limit
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest + sampling.max_new_tokens > limit:
        raise DecodeError(
            f"a prompt of {longest} tokens and {sampling.max_new_tokens} new ones are more than the base's context of {limit}; "
            "shorten the input, or lower max_new_tokens"
        )


def _left_padded(rows: Sequence[Prompt], fill: int) -> tuple[Tensor, Tensor]:
    """Ids `(R, L)`, and a mask that is 1 where they are of the prompt."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[fill] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _by_row(phi: Phi, counts: Sequence[int]) -> Phi:
    """Each row its adapter; a site itself spreads adapters over equally many rows each."""
    if len(set(counts)) == 1:
        return phi
    row_task = torch.tensor([task for task, count in enumerate(counts) for _ in range(count)])
    return {name: tensor.index_select(0, row_task.to(tensor.device)) for name, tensor in phi.items()}


def _config(sampling: Sampling, end_id: int) -> Any:
    # its own default of top_k draws among 50 tokens
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens, do_sample=bool(sampling.temperature), eos_token_id=end_id, pad_token_id=end_id, **drawn
    )


@contextmanager
def _without_defaults(model: Any) -> Iterator[None]:
    """`generate` would take whatever is not set from the model's own configuration, such as a penalty for repeating."""
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


@contextmanager
def _whole_heads(model: Any) -> Iterator[None]:
    """Hand the output layer its input in one stretch: of a slice, PyTorch's product copies the layer's weights once for every row."""
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: tuple(each.contiguous() for each in inputs))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draws inside come from a seed, and leave the global generators as they were."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        (torch.cuda.default_generators[device.index] if on_gpu else torch.default_generator).manual_seed(seed)
        yield


class _Streamer(BaseStreamer):  # type: ignore[misc]
    """Hands tokens on as they come; the first that `generate` puts is the prompts."""

    def __init__(self, on_tokens: OnTokens) -> None:
        self.on_tokens = on_tokens
        self.started = False

    def put(self, value: Tensor) -> None:
        if self.started:
            self.on_tokens(value.tolist())
        self.started = True

    def end(self) -> None:
        """Nothing is held back."""


def _until(ids: list[int], end_id: int) -> tuple[int, ...]:
    return tuple(ids[: ids.index(end_id)] if end_id in ids else ids)
