"""What the benchmarks share: synthetic episodes of exact sizes, sides timed in turns, bases, reports.

A side is a function that gives a context: entering it prepares the base (wraps it, puts sites in), leaving it gives the plain base
back, and what it yields is the call that is timed. So all sides work on one base, and no preparation is timed.
"""

import argparse
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.utils import logging

from headstart.algorithms.fomaml import fomaml
from headstart.algorithms.rules import Adam
from headstart.algorithms.types import Batch, InnerLoop, MetaGradient
from headstart.files import write_json
from headstart.model.attention import visible
from headstart.model.base import BUNDLED_ID, Base, BaseSpec, Dtype, Quantization, load_base
from headstart.model.block_attention import BLOCKS, RowAttention, attention
from headstart.model.label_loss import LabelLoss
from headstart.model.learner import Learner, LoraSpec
from headstart.model.row_costs import counted_costs
from headstart.model.sketch import sketched
from headstart.model.twins import compute
from headstart.provenance import provenance
from headstart.tasks.planner import Planner
from headstart.tasks.rows import Candidates, Layout, Rendered, Rows, build_rows

SCHEMA_VERSION = 1
FILE_WIDTH = 140
LORA = LoraSpec(r=8, lora_alpha=16)
DTYPES: dict[str, tuple[Quantization, Dtype]] = {
    "fp32": ("none", "float32"),
    "bf16": ("none", "bfloat16"),
    "nf4": ("nf4", "bfloat16"),
    "nf4-fp32": ("nf4", "float32"),
}
"""A benchmark's word for quantisation and type."""
PIECE_TOKENS = 5120
"""Padded tasks are computed together up to so many tokens: `headstart.batches.PIECE_TOKENS`, but for whole numbers of these tasks."""

# episodes


@dataclass(frozen=True)
class Shape:
    """The size of an episode, support and query alike.

    Args:
        tasks: T.
        examples: of each task.
        prefix: tokens that a task's examples share.
        own: tokens of each example after them; the last third are the trained answer.
    """

    tasks: int
    examples: int
    prefix: int
    own: int


@dataclass(frozen=True)
class Conversations:
    """An episode's examples before they are laid out; `support[task][example]` are candidates."""

    support: list[list[Candidates]]
    query: list[list[Candidates]]


def conversations(shape: Shape, vocabulary: int, jitter: float = 0.0, seed: int = 0) -> Conversations:
    """Random conversations of exactly these sizes; an example is shorter or longer by up to a share `jitter` of its own tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (count,), generator=generator).tolist())

    def example(prefix: tuple[int, ...], number: int) -> list[Rendered]:
        varied = (2 * torch.rand((), generator=generator) - 1) * jitter * shape.own
        own = max(2, shape.own + round(float(varied)))
        # the first own token is a counter, so that what is shared ends exactly where the prefix does
        return [Rendered((*prefix, number % vocabulary, *ids(own - 1)), len(prefix) + own - max(1, own // 3))]

    support, query = [], []
    for _ in range(shape.tasks):
        prefix = ids(shape.prefix)
        support.append([example(prefix, number) for number in range(shape.examples)])
        query.append([example(prefix, number) for number in range(shape.examples)])
    return Conversations(support, query)


def batch_of(talks: Conversations, base: Base, layout: Layout, tasks: slice = slice(None)) -> Batch:
    """The rows of an episode, laid out by the base's counted operations; one support batch serves every inner step."""
    planner = Planner(costs=counted_costs(base.model))
    support, query = (build_rows(part[tasks], layout=layout, planner=planner).to(base.device) for part in (talks.support, talks.query))
    return Batch([support], query, support.tasks)


def pieces_of(talks: Conversations, base: Base, layout: Layout, tokens: int = PIECE_TOKENS) -> list[Batch]:
    """The same in equal pieces of whole tasks, as large as `tokens` allow."""
    whole = batch_of(talks, base, layout)
    size = max(1, whole.tasks * tokens // max(whole.support[0].tokens, whole.query.tokens))
    return [batch_of(talks, base, layout, slice(first, first + size)) for first in range(0, whole.tasks, size)]


def afresh(batch: Batch) -> Batch:
    """The same rows without what was worked out from them, as a new episode's are."""
    return Batch([replace(rows) for rows in batch.support], replace(batch.query), batch.tasks)


def initialisation(base: Base, seed: int = 0) -> dict[str, Tensor]:
    """A as PEFT draws it, and a B away from zero, as after a warm start: at zero A would have no gradient."""
    generator = torch.Generator().manual_seed(seed)
    with Learner(base, LORA) as learner:
        theta = learner.fresh_adapter(seed)
    for name, tensor in theta.items():
        if name.endswith("lora_B"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.01)
    return theta


def inner_loop(theta: Mapping[str, Tensor], steps: int, rate: float = 1e-3) -> InnerLoop:
    """Adam with a rate for each tensor and step, all alike."""
    return InnerLoop(Adam(), steps, {name: torch.full((steps,), rate, device=tensor.device) for name, tensor in theta.items()})


# sides

Run = Callable[[], Any]
Side = Callable[[], AbstractContextManager[Run]]


@contextmanager
def headstart_side(base: Base, theta: Mapping[str, Tensor], inner: InnerLoop, batches: Sequence[Batch]) -> Iterator[Run]:
    """Headstart's own `fomaml`, piece by piece; what it works out from rows is worked out again in every run."""
    with Learner(base, LORA) as learner:
        yield lambda: mean([(fomaml(learner.losses, theta, afresh(batch), inner), batch.tasks) for batch in batches])


def mean(parts: Sequence[tuple[MetaGradient, int]]) -> MetaGradient:
    """The mean of meta-gradients, weighted by their numbers of tasks."""
    if len(parts) == 1:
        return parts[0][0]
    total = sum(tasks for _, tasks in parts)

    def add(of: Callable[[MetaGradient], Mapping[str, Any]]) -> dict[str, Any]:
        return {name: sum(of(part)[name] * (tasks / total) for part, tasks in parts) for name in of(parts[0][0])}

    return MetaGradient(add(lambda part: part.theta), add(lambda part: part.log_rates), add(lambda part: part.metrics))


@contextmanager
def limit_side(base: Base, passes: Sequence[Rows]) -> Iterator[Run]:
    """The bare frozen base there and back over rows of these sizes: no LoRA, plain causal attention, logits of labels alone.

    Gradients go to the input embeddings. Its 4-bit products and its loss are headstart's own.
    """
    with attending(base.model, "sdpa"):
        yield lambda: [_bare_pass(base.model, rows) for rows in passes]


def _bare_pass(model: Any, rows: Rows) -> Tensor:
    embeddings = model.get_input_embeddings()(rows.input_ids).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, logits_to_keep=rows.predicts, use_cache=False).logits
    loss = (compute(LabelLoss(rows.targets), logits) * rows.weight).sum()
    return torch.autograd.grad(loss, embeddings)[0]


def passes_of(batch: Batch, steps: int) -> list[Rows]:
    """The rows that an episode passes over, one pass after another."""
    return [*(batch.support[index % len(batch.support)] for index in range(steps)), batch.query]


@contextmanager
def attending(model: Any, implementation: str) -> Iterator[None]:
    """A model under another attention implementation."""
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# attention alone


def attention_sides(base: Base, rows: Rows, seed: int = 0) -> dict[str, Side]:
    """One layer's attention there and back over random heads, in memory as a model's are: packed, and plain causal over as many tokens."""
    config = base.model.config.get_text_config()
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    generator = torch.Generator().manual_seed(seed)

    def random(count: int) -> Tensor:
        shape = (*rows.input_ids.shape, count, width)
        return torch.randn(shape, generator=generator).to(base.device, base.model.dtype).transpose(1, 2).requires_grad_()

    q, k, v = random(heads), random(shared), random(shared)
    grad = torch.randn(q.transpose(1, 2).shape, generator=generator).to(q)

    def there_and_back(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Side:
        @contextmanager
        def side() -> Iterator[Run]:
            yield lambda: torch.autograd.grad(attend(q, k, v), (q, k, v), grad)

        return side

    return {"packed": there_and_back(packed_attention(base, rows)), "causal": there_and_back(causal_attention)}


def packed_attention(base: Base, rows: Rows) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Attention over packed rows as the base computes it, `(R, H, L, D)` to `(R, L, H, D)`: over blocks, or under a dense mask."""
    if base.model.config.get_text_config()._attn_implementation == BLOCKS:
        given = RowAttention(rows.blocks)
        sign = torch.zeros(1, 1, 1, 1, device=base.device)
        return lambda q, k, v: attention(nn.Module(), q, k, v, sign, row_attention=[given])[0]
    mask = visible(rows)
    return lambda q, k, v: _sdpa(q, k, v, attn_mask=mask)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's own, `(R, H, L, D)` to `(R, L, H, D)`."""
    return _sdpa(q, k, v, is_causal=True)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1], **how).transpose(1, 2)


# time


@dataclass
class Measured:
    """What was seen of one side.

    Args:
        seconds: of every timed run.
        result: of the last run.
        peak_bytes: the most that the CUDA allocator held in a timed run; None elsewhere.
        failed: why it was not timed; empty if it was.
    """

    seconds: list[float] = field(default_factory=list)
    result: Any = None
    peak_bytes: int | None = None
    failed: str = ""

    @property
    def median(self) -> float | None:
        """Seconds; None where nothing was timed."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """The fastest and the slowest run."""
        return (min(self.seconds), max(self.seconds)) if self.seconds else None


def interleaved(
    sides: Mapping[str, Side], repeats: int, device: torch.device, shorter: Mapping[str, Side] | None = None
) -> dict[str, Measured]:
    """Time the sides in turns, so that a drift of the machine hits all alike; one that runs out of memory is left out from then on.

    Each side is warmed up by one run, or by one of `shorter` where it has one there.
    """
    found = {name: Measured() for name in sides}
    for repeat in range(-1, repeats):
        for name, side in ({**sides, **(shorter or {})} if repeat < 0 else sides).items():
            if not found[name].failed:
                _run(side, found[name], device, timed=repeat >= 0)
    return found


def _run(side: Side, measured: Measured, device: torch.device, timed: bool) -> None:
    measured.result = None
    try:
        with side() as run:
            before = _start(device)
            measured.result = run()
            seconds, peak = _stop(device, before)
    except torch.OutOfMemoryError as error:
        measured.failed, measured.seconds = f"out of memory: {str(error).splitlines()[0]}", []
        return
    if timed:
        measured.seconds.append(seconds)
        measured.peak_bytes = peak


def _start(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return time.perf_counter()


def _stop(device: torch.device, before: float) -> tuple[float, int | None]:
    if device.type != "cuda":
        return time.perf_counter() - before, None
    torch.cuda.synchronize()
    return time.perf_counter() - before, torch.cuda.max_memory_allocated()


def ratio(over: float | None, under: float | None) -> float | None:
    """`over / under`; None where either is missing."""
    return None if over is None or not under else over / under


def profiled(side: Side, device: torch.device, count: int = 25) -> str:
    """The operations that a side spends most time in, after a run to warm up."""
    cuda = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
    with side() as run:
        run()
        with torch.profiler.profile(activities=activities) as profile:
            run()
            _stop(device, 0.0)
    table: str = profile.key_averages().table(sort_by="self_cuda_time_total" if cuda else "self_cpu_time_total", row_limit=count)
    return table


# gradients


def gradient_error(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest over tensors of `|found - wanted| / |wanted|`."""
    return max(float((found[name] - wanted[name]).norm() / wanted[name].norm().clamp_min(1e-30)) for name in _same(found, wanted))


def whole_error(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """`|found - wanted| / |wanted|` over all tensors together."""
    names = _same(found, wanted)
    apart = torch.stack([(found[name] - wanted[name]).norm() for name in names]).norm()
    return float(apart / torch.stack([wanted[name].norm() for name in names]).norm())


def _same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    if found.keys() != wanted.keys():
        raise ValueError("the two meta-gradients have different tensors")
    return list(wanted)


# bases


def spec_of(base: str, dtype: str) -> BaseSpec:
    """The base that a command line names: `bundled`, a folder, or a hub id."""
    quantization, torch_dtype = DTYPES[dtype]
    if base == "bundled":
        return BaseSpec(BUNDLED_ID, "bundled", quantization, torch_dtype)
    if Path(base).is_dir():
        return BaseSpec(f"local/{Path(base).name}", base, quantization, torch_dtype)
    return BaseSpec(base, "hub", quantization, torch_dtype)


def base_of(base: str, dtype: str, device: torch.device) -> Base:
    """Load what a command line names; `small` is made here, of random weights."""
    return random_base(SMALL, device, dtype) if base == "small" else load_base(spec_of(base, dtype), device)


SMALL = LlamaConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=2048,
    initializer_range=0.1,
    tie_word_embeddings=False,
)
"""A base for what does not depend on its size."""
LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
    rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    tie_word_embeddings=False,
)
"""The shape of Llama-3.1-8B."""


def random_base(config: LlamaConfig, device: torch.device, dtype: str = "nf4", seed: int = 0) -> Base:
    """A base of a shape with random weights."""
    return sketched(config, device, *DTYPES[dtype], seed=seed)


# command lines and reports


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    # of a module's docstring, with its own line ends
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", type=Path, metavar="PATH", help="also write what was measured to this file")
    found.add_argument("--repeats", type=int, default=3, metavar="N", help="timed runs of every side (3)")
    found.add_argument("--threads", type=int, metavar="N", help="PyTorch's threads on the CPU")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda; the GPU if there is one")
    return found


def begin(options: argparse.Namespace) -> torch.device:
    """Set the process up as the options say, and keep libraries quiet."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if options.threads:
        torch.set_num_threads(options.threads)
    return torch.device(options.device)


def listed(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A type of options: words of these, with commas between."""

    def read(text: str) -> list[str]:
        words = text.split(",")
        if unknown := [word for word in words if word not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return words

    return read


def numbers(text: str) -> list[int]:
    """A type of options: whole numbers from 1 on, with commas between."""
    found = [int(word) for word in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError("numbers from 1 on")
    return found


def document(
    name: str, options: argparse.Namespace, arguments: Sequence[str] | None, rows: Sequence[Mapping[str, Any]], **more: Any
) -> dict[str, Any]:
    """What was measured, with all that is needed to measure it again; written where the options say."""
    command = shlex.join([f"scripts/bench_{name}.py", *(sys.argv[1:] if arguments is None else arguments)])
    about = {"schema_version": SCHEMA_VERSION, "benchmark": name, "command": command, **provenance()}
    found = {**about, "device": options.device, "threads": torch.get_num_threads(), **more, "rows": list(rows)}
    if options.json:
        write_json(options.json, found)
    return found


def show(title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table; `columns` maps keys to headings."""
    table = Table(title=title, title_justify="left")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in columns))
    # a file or pipe has no width of its own
    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return " to ".join(_cell(each) for each in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
