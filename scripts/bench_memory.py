"""What the memory of exact MAML does as the inner loop grows longer.

Sides: `adjoint` (headstart's `maml`), `unrolled` (one graph through the whole inner loop), `first_order` (headstart's `fomaml`).

  saved_bytes  what autograd holds for a way back at the fullest moment, each piece of memory once and the base's weights not counted;
               on a GPU the allocator's peak over what was there before
  peak_bytes   the most that all tensors made since the start took at once, whatever they are for
  state_bytes  what the inner loop's states (adapters, moments, gradients) took at the fullest, and what was predicted; the unrolled
               graph holds them itself, among what it saves

The first two are measured in runs of their own, apart from time.
"""

import argparse
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from _bench import (
    DTYPES,
    LORA,
    Run,
    Shape,
    Side,
    afresh,
    base_of,
    batch_of,
    begin,
    conversations,
    document,
    gradient_error,
    initialisation,
    interleaved,
    listed,
    numbers,
    parser,
    show,
)
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headstart.algorithms.fomaml import fomaml
from headstart.algorithms.hvp import double_backward
from headstart.algorithms.inner import expand
from headstart.algorithms.maml import maml
from headstart.algorithms.rules import Adam, Rule, Sgd
from headstart.algorithms.trail import Trail, state_bytes
from headstart.algorithms.types import HVP, Algorithm, Batch, InnerLoop, Losses, MetaGradient, Tensors
from headstart.algorithms.unrolled import unrolled
from headstart.model.base import Base
from headstart.model.learner import Learner
from headstart.model.saved import SavedBytes
from headstart.recipe import MamlPhase
from headstart.training.inner import hessian

RULES: dict[str, tuple[Rule, float]] = {"adam": (Adam(eps_root=1e-4), 1e-3), "sgd": (Sgd(1.0), 0.1)}
"""A rule and its rate."""
HVPS = ("exact", "double_backward", "finite_difference")
INNER_STATES = ("keep", "offload", "recompute")
FLAT, NEAR = 1.1, 2.0
"""Aims: how many times what it saves at few steps the adjoint may save at many, and how many times what first order saves."""

# counting bytes


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class LiveBytes(TorchDispatchMode):
    """Counts the memory of all tensors that operations make while it is entered; `peak` is the most bytes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._see(tensor, new=False)
        found = func(*args, **(kwargs or {}))
        for tensor in _tensors(found):
            self._see(tensor, new=True)
        return found

    def _see(self, tensor: Tensor, new: bool) -> None:
        """What an operation is given and is unknown was there before, and counts nothing."""
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self._sizes:
            return
        self._sizes[place] = storage.nbytes() if new else 0
        self._now += self._sizes[place]
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._gone, place).atexit = False

    def _gone(self, place: int) -> None:
        self._now -= self._sizes.pop(place)


def _tensors(found: Any) -> Iterator[Tensor]:
    return (each for each in tree_leaves(found) if isinstance(each, Tensor))


def held_bytes(tensors: Sequence[Tensor], without: Sequence[Tensor]) -> int:
    """All memory behind some tensors, once each, but for that behind others."""
    there = {_place(tensor) for tensor in without}
    return sum({_place(tensor): tensor.untyped_storage().nbytes() for tensor in tensors if _place(tensor) not in there}.values())


# sides


def algorithm_of(side: str) -> Algorithm:
    return {"adjoint": maml, "unrolled": _unrolled, "first_order": fomaml}[side]


def _unrolled(losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
    # fused attention, which a model without attention over blocks would use, has no second derivative
    with sdpa_kernel(SDPBackend.MATH):
        return unrolled(losses, theta, batch, inner)


def hvp_of(word: str, learner: Learner) -> HVP:
    """`exact` is what training takes on this base; `double_backward` is that where forward mode fails."""
    if word == "double_backward":
        return partial(_double_backward, learner)
    return hessian(MamlPhase(algorithm="maml", steps=1, hvp=word), learner)


def _double_backward(learner: Learner, losses: Losses, phi: Tensors, rows: Any, w: Tensors) -> dict[str, Tensor]:
    with learner.second_order():
        return double_backward(losses, phi, rows, w)


@contextmanager
def side_of(learner: Learner, name: str, theta: Tensors, batch: Batch, inner: InnerLoop) -> Iterator[Run]:
    yield lambda: algorithm_of(name)(learner.losses, theta, afresh(batch), inner)


# what is measured


def states(learner: Learner, name: str, theta: Tensors, batch: Batch, inner: InnerLoop) -> tuple[int | None, int | None]:
    """Bytes of inner states as measured and as predicted, host's and device's together; none of an unrolled graph, which has no trail.

    The prediction is for an exact way back, and bounds that of first order.
    """
    if name == "unrolled":
        return None, None
    trail = Trail(
        learner.losses, expand(theta, batch.tasks), batch.support, inner if name == "adjoint" else replace(inner, second_order=0.0)
    )
    trail.there()
    there = list(theta.values())
    taken = [held_bytes(trail.held(), there)]
    for _ in trail.back():
        taken.append(held_bytes(trail.held(), there))
    predicted = state_bytes({key: theta[key].shape for key in inner.rates}, batch.tasks, inner.steps, inner.rule, inner.inner_states)
    return max(taken), predicted.host or predicted.device


def bytes_of(base: Base, theta: Tensors, run: Callable[[], Any]) -> dict[str, int]:
    """Peaks of what is saved and of all that lives, each in a run of its own."""
    if base.device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        return {"saved_bytes": peak, "peak_bytes": peak}
    with SavedBytes([*base.model.parameters(), *base.model.buffers(), *theta.values()]) as saved:
        run()
    with LiveBytes() as live:
        run()
    return {"saved_bytes": saved.peak, "peak_bytes": live.peak}


def measure(base: Base, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each side and number of steps."""
    theta = initialisation(base)
    shape = Shape(options.tasks, options.examples, options.prefix, options.own)
    batch = batch_of(conversations(shape, base.model.config.get_text_config().vocab_size), base, "packed")
    rule, rate = RULES[options.rule]
    rows = []
    with Learner(base, LORA) as learner:
        hvp = hvp_of(options.hvp, learner)
        for steps in options.steps:
            rates = {name: torch.full((steps,), rate, device=base.device) for name in theta}
            inner = InnerLoop(rule, steps, rates, hvp=hvp, inner_states=options.inner_states)
            sides: dict[str, Side] = {name: partial(side_of, learner, name, theta, batch, inner) for name in options.sides}
            found = interleaved(sides, options.repeats, base.device)
            exact = found["unrolled"].result if "unrolled" in found else None
            for name, measured in found.items():
                taken, predicted = (None, None) if measured.failed else states(learner, name, theta, batch, inner)
                with sides[name]() as run:
                    counted = bytes_of(base, theta, run) if not measured.failed else {"saved_bytes": None, "peak_bytes": None}
                near = exact is not None and measured.result is not None
                rows.append(
                    {
                        "side": name,
                        "K": steps,
                        **counted,
                        "state_bytes": taken,
                        "state_bytes_predicted": predicted,
                        "seconds": measured.median,
                        "spread": measured.spread,
                        "rel_grad_error": gradient_error(measured.result.theta, exact.theta) if near else None,
                        "failed": measured.failed,
                    }
                )
    return rows


def summary_of(rows: Sequence[Mapping[str, Any]], device: str) -> dict[str, Any]:
    """The aims, at the most steps against 2 (or the fewest that are more), and against first order at the most.

    The allocator's peak has the inner states in it, which grow with the steps by design: they are taken off.
    """

    def saved(side: str, steps: int) -> int | None:
        row = next((row for row in rows if (row["side"], row["K"]) == (side, steps)), None)
        if row is None or row["saved_bytes"] is None:
            return None
        return row["saved_bytes"] - ((row["state_bytes"] or 0) if device == "cuda" else 0)

    counts = sorted({row["K"] for row in rows})
    many, few = counts[-1], next((count for count in counts if count >= 2), counts[-1])
    most = saved("adjoint", many)
    aims = {
        "flat": {"over": [many, few], "ratio": _ratio(most, saved("adjoint", few)), "aim": FLAT},
        "near_first_order": {"over": [many, many], "ratio": _ratio(most, saved("first_order", many)), "aim": NEAR},
    }
    return {name: {**aim, "verdict": _verdict(aim["ratio"], aim["aim"])} for name, aim in aims.items()}


def _ratio(over: int | None, under: int | None) -> float | None:
    return over / under if over is not None and under else None


def _verdict(ratio: float | None, aim: float) -> str:
    return "not measured" if ratio is None else "met" if ratio <= aim else "missed"


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    found = parser(__doc__)
    found.set_defaults(repeats=1)
    found.add_argument("--steps", type=numbers, default=[1, 2, 4, 8, 16], help="inner steps K (1,2,4,8,16)")
    found.add_argument("--rule", choices=list(RULES), default="adam", help="the inner rule (adam)")
    found.add_argument("--tasks", type=int, default=4, help="T (4)")
    found.add_argument("--examples", type=int, default=8, help="of a task (8)")
    found.add_argument("--prefix", type=int, default=24, help="tokens that a task's examples share (24)")
    found.add_argument("--own", type=int, default=12, help="tokens of each example after them (12)")
    found.add_argument("--hvp", choices=HVPS, default="exact", help="how the adjoint's Hessian enters (exact: what training takes)")
    found.add_argument("--inner-states", choices=INNER_STATES, default="keep", help="where its states wait (keep)")
    found.add_argument("--sides", type=listed(SIDES), default=list(SIDES), help=f"of {', '.join(SIDES)} (all)")
    found.add_argument("--base", default="small", help="small (random), bundled, a hub id, or a folder")
    found.add_argument("--dtype", choices=list(DTYPES), default="fp32", help=f"of {', '.join(DTYPES)} (fp32)")
    return found.parse_args(arguments)


SIDES = ("adjoint", "unrolled", "first_order")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = options_of(arguments)
    device = begin(options)
    base = base_of(options.base, options.dtype, device)
    rows = measure(base, options)
    summary = summary_of(rows, device.type)
    columns = {key: key for key in ("side", "K", "saved_MB", "peak_MB", "states_MB", "predicted_MB", "seconds", "rel_grad_error")}
    show(f"exact MAML, {options.rule}, {options.hvp}; {base.spec.id}, {options.dtype}", columns, [_readable(row) for row in rows])
    _say(summary)
    about = {"base": base.spec.id, "dtype": options.dtype, "rule": options.rule, "hvp": options.hvp, "inner_states": options.inner_states}
    return document("memory", options, arguments, rows, repeats=options.repeats, tasks=options.tasks, summary=summary, **about)


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    bytes_of = {"saved_MB": "saved_bytes", "peak_MB": "peak_bytes", "states_MB": "state_bytes", "predicted_MB": "state_bytes_predicted"}
    return {**row, **{short: None if row[key] is None else row[key] / 1e6 for short, key in bytes_of.items()}}


def _say(summary: Mapping[str, Mapping[str, Any]]) -> None:
    flat, near = summary["flat"], summary["near_first_order"]
    for what, aim in (
        (f"the adjoint saves at K = {flat['over'][0]} over K = {flat['over'][1]}", flat),
        (f"the adjoint saves over first order at K = {near['over'][0]}", near),
    ):
        value = "-" if aim["ratio"] is None else f"{aim['ratio']:.2f} times"
        print(f"{what}: {value} (aim: at most {aim['aim']:g}): {aim['verdict']}")


if __name__ == "__main__":
    main()
