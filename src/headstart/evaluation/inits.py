"""PEFT's other initialisations: where an arm of an evaluation can start instead of at a fresh LoRA, made by PEFT's own code."""

# before peft, which imports bitsandbytes its own way
import headstart.model  # noqa: F401

# isort: split
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import cast

import torch
from peft import LoraConfig
from peft.tuners.lora.config import EvaConfig
from peft.tuners.lora.eva import SVDHook, prepare_layer_inputs_fn_language_modeling
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn

from headstart.algorithms.inner import expand
from headstart.bases import BaseSpec
from headstart.batches import Batcher
from headstart.evaluation.errors import EvaluationError
from headstart.model.base import DTYPES
from headstart.model.frozen import weight
from headstart.model.learner import Learner, LoraSpec
from headstart.model.sites import LoraSite
from headstart.tasks.blocks import PADDING
from headstart.tasks.episodes import Draw, Episode
from headstart.tasks.rows import Rows

Start = Callable[[Episode], dict[str, Tensor]]
"""The adapters `(T, ...)` of an episode's tasks before their first step."""


@dataclass(frozen=True)
class Init:
    """One of PEFT's values of `init_lora_weights`.

    Args:
        name: the value.
        told: what it is, in one line.
        needs_examples: whether it looks at a task's support examples, so that every task starts elsewhere.
        alters_base: whether it takes out of the base's weights what it puts into the adapter.
    """

    name: str
    told: str
    needs_examples: bool = False
    alters_base: bool = False


INITS = {
    init.name: init
    for init in (
        Init(
            "eva",
            "A of the leading principal components of what each layer is fed on the task's support examples, B zero (arXiv 2410.07170)",
            needs_examples=True,
        ),
        Init("gaussian", "A normal with standard deviation 1/r, B zero"),
        Init("orthogonal", "A and B random and orthogonal to each other, so that neither is zero but their product is"),
        Init(
            "pissa",
            "A and B of the r largest singular values of each weight, which the base is left without (arXiv 2404.02948)",
            alters_base=True,
        ),
        Init("pissa_niter_16", "as pissa, the singular values by 16 rounds of subspace iteration", alters_base=True),
        Init(
            "olora",
            "A and B of the first r columns and rows of each weight's QR factors, which the base is left without (arXiv 2406.01775)",
            alters_base=True,
        ),
    )
}

LEFT_OUT = {
    "corda": "it alters the base by a task's examples, and the tasks of an evaluation share one base",
    "lora_ga": "it alters the base by a task's gradients, and the tasks of an evaluation share one base",
    "loftq": "it puts a quantisation of its own in the base's place, so that its arm would adapt another base than the others",
    "mica": "it holds B fixed, and arms adapt both factors",
}
"""What else PEFT has -> why there is no arm of it."""

TAU = EvaConfig().tau
"""PEFT's default: EVA is done when no component's cosine with the one of the fit before is below it."""
MOST_FITS = 20
"""Components settle in two or three fits of the same examples; those of nothing but rounding need not, and PEFT would go on for ever."""


def require_init(name: str, spec: BaseSpec, lora: LoraSpec) -> None:
    """See that adapting can start from an initialisation, before anything is loaded.

    Raises:
        EvaluationError: there is none of this name, or it is not for such a base or rank.
    """
    if name in LEFT_OUT:
        raise EvaluationError(f"arm {name!r}: PEFT's {name} is left out, since {LEFT_OUT[name]}; there are {', '.join(INITS)}")
    if name not in INITS:
        raise EvaluationError(f"unknown initialisation {name!r}; there are {', '.join(INITS)}")
    if INITS[name].alters_base and spec.quantization != "none":
        raise EvaluationError(
            f"arm {name!r}: it rewrites the base's weights, which {spec.quantization} ones cannot be without being rounded anew; "
            "leave it out, or evaluate on a dense base (--quantization none)"
        )
    if name == "orthogonal" and lora.r % 2:
        raise EvaluationError(f"arm 'orthogonal': it needs an even rank, and the adapter's is {lora.r}; leave it out")


@contextmanager
def initialised(name: str, learner: Learner, batcher: Batcher, seed: int) -> Iterator[Start]:
    """Inside, the base is as the initialisation wants it; gives the adapters that an episode's tasks start from.

    Where weights are altered, they are so for every pass inside, whosever adapter it has, and have their own bits again afterwards.
    A pass made inside is to be gone back inside: the way back takes the weights anew.

    Args:
        name: as in `INITS`.
        learner: holds the base; adapters are made for its sites, in float32, with PEFT's rounding to the base's type.
        batcher: lays out support examples for an initialisation that looks at them.
        seed: of what is random; `eva`, `pissa` and `olora` have nothing random.

    Raises:
        EvaluationError: as `require_init`; or the rank is too large for the base's layers or, when called, for a task's examples.
    """
    require_init(name, learner.base.spec, learner.spec)
    _require_rank(name, learner)
    if INITS[name].needs_examples:
        yield partial(_by_examples, learner, batcher)
        return
    with _restoring(learner) if INITS[name].alters_base else nullcontext():
        adapter = _by_weights(name, learner, seed)
        yield lambda episode: expand(adapter, len(episode))


def _require_rank(name: str, learner: Learner) -> None:
    """A factorisation has no more components than a layer is wide; EVA's looks at twice as many as it keeps."""
    init, r = INITS[name], learner.spec.r
    narrowest = min(min(site.d_in, site.d_out) if init.alters_base else site.d_in for site in learner.sites.values())
    most = narrowest if init.alters_base else narrowest // 2
    if (init.alters_base or init.needs_examples) and r > most:
        raise EvaluationError(f"arm {name!r}: the base's layers allow a rank of at most {most}, and the adapter's is {r}; leave it out")


@contextmanager
def _restoring(learner: Learner) -> Iterator[None]:
    """Give the sites' weights their own bits back afterwards; these wait in the host's memory."""
    weights = [cast(Tensor, site.base.weight) for site in learner.sites.values()]
    kept = [each.detach().to("cpu", copy=True) for each in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for each, own in zip(weights, kept, strict=True):
                each.copy_(own)


@torch.no_grad()
def _by_weights(name: str, learner: Learner, seed: int) -> dict[str, Tensor]:
    """The adapter, without task axis, that PEFT makes of each layer alone; alters the base where the initialisation does."""
    config = LoraConfig(r=learner.spec.r, lora_alpha=learner.spec.lora_alpha, init_lora_weights=name)
    adapter = {}
    with torch.random.fork_rng([learner.base.device] if learner.base.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for site_name, site in learner.sites.items():
            plain = _stand_in(site, DTYPES[learner.base.spec.dtype], INITS[name].alters_base)
            made = PeftLinear(plain, "default", config=config, r=config.r, lora_alpha=config.lora_alpha)
            if INITS[name].alters_base:
                weight(site.base, plain.weight.dtype).copy_(plain.weight)
            for part in ("lora_A", "lora_B"):
                adapter[f"{site_name}.{part}"] = getattr(made, part)["default"].weight.detach().float()
    return adapter


def _stand_in(site: LoraSite, dtype: torch.dtype, looked_at: bool) -> nn.Linear:
    """A plain layer for PEFT to work on, whichever way the site's own keeps its weights; those are copied only where they matter."""
    plain = nn.Linear(site.d_in, site.d_out, bias=False, device="meta", dtype=dtype)
    own = cast(Tensor, site.base.weight)
    content = weight(site.base, dtype).clone() if looked_at else torch.empty(site.d_out, site.d_in, dtype=dtype, device=own.device)
    plain.weight = nn.Parameter(content, requires_grad=False)
    return plain


def _by_examples(learner: Learner, batcher: Batcher, episode: Episode) -> dict[str, Tensor]:
    """EVA's adapters `(T, ...)`; tasks are looked at one by one, so that none depends on its company."""
    each = [_eva(learner, batcher, draw) for draw in episode]
    return {name: torch.stack([adapter[name] for adapter in each]) for name in each[0]}


@torch.no_grad()
def _eva(learner: Learner, batcher: Batcher, draw: Draw) -> dict[str, Tensor]:
    """One task's adapter, without task axis, of a pass over its support examples, each in a row of its own."""
    support = replace(draw, query=tuple(chain.from_iterable(draw.support)))
    rows = replace(batcher, layout="padded").query_rows((support,))
    zero = {name: torch.zeros(1, *shape, device=learner.base.device) for name, shape in learner.shapes().items()}
    watch = _Watch(learner.spec.r, _places(rows, draw, learner.spec.r), len(rows.input_ids))
    handles = [site.register_forward_hook(partial(watch, name)) for name, site in learner.sites.items()]
    try:
        learner.losses(zero, rows)
    finally:
        for handle in handles:
            handle.remove()
    return {name: watch.found.get(name, tensor[0]) for name, tensor in zero.items()}


def _places(rows: Rows, draw: Draw, r: int) -> Tensor:
    """`(N, 2)`, row and column of the tokens whose activations EVA looks at.

    Those of the answers, as PEFT's default has it; where they are too few, all, as PEFT advises then.
    """
    needed = 2 * r  # PEFT's decomposition takes in twice as many components as it keeps
    answers = rows.predicts.roll(1, 1).nonzero()
    if len(answers) >= needed:
        return answers
    places = (rows.branch != PADDING).nonzero()
    if len(places) < needed:
        raise EvaluationError(
            f"arm 'eva': the {len(rows.input_ids)} support examples of task {draw.task.name!r} have {len(places)} tokens, and rank {r} "
            f"needs {needed}; evaluate with more shots, or leave it out"
        )
    return places


@dataclass
class _Watch:
    """Decomposes what sites are fed in one pass; sites in a row that are fed the very same tensor share what was found.

    Args:
        r: components to keep.
        places: `(N, 2)`, as `_places`.
        rows: R.

    `found` holds `SITE.lora_A`, `(r, d_in)`.
    """

    r: int
    places: Tensor
    rows: int
    found: dict[str, Tensor] = field(default_factory=dict)
    fed: Tensor | None = None
    components: Tensor = field(init=False)

    def __call__(self, name: str, site: LoraSite, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if inputs[0] is not self.fed:
            self.fed = inputs[0]
            self.components = _components(self.fed.reshape(self.rows, -1, site.d_in), self.places, self.r)
        self.found[f"{name}.lora_A"] = self.components


def _components(x: Tensor, places: Tensor, r: int) -> Tensor:
    """`(r, d_in)`: PEFT's incremental decomposition of `x (R, L, d_in)` at some places, over and over until it has settled."""
    fit = SVDHook(
        name="",
        n_components=r,
        sim_thresh=TAU,
        prepare_layer_inputs_fn=prepare_layer_inputs_fn_language_modeling,
        gather_distributed_inputs=False,
    )
    fit.model_input = places
    with _one_thread():
        for _ in range(MOST_FITS):
            fit(None, (x,), None)
            if torch.all(fit.converged):
                break
    # from the second fit on PEFT works in float64
    components: Tensor = fit.svd.components_.float()
    return components


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products this small are computed before they are shared out, and twenty times as slowly where others want the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
