"""The learner: adapters and rows in, one loss per task out."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd import forward_ad
from transformers.pytorch_utils import Conv1D

from headstart.model.attention import model_inputs, pairs
from headstart.model.base import Base
from headstart.model.flops import Order, pass_cost
from headstart.model.label_loss import LabelLoss
from headstart.model.layers import DecoderLayers
from headstart.model.sites import Phi, handing, install_sites, remove_sites
from headstart.model.targets import peft_targets, target_names
from headstart.model.twins import compute, differentiable_twice, in_forward_mode
from headstart.tasks.rows import Rendered, Rows, build_rows


@dataclass(frozen=True)
class LoraSpec:
    """The adapter's shape, in PEFT's names and meanings.

    Args:
        r: the rank.
        lora_alpha: the update is multiplied by `lora_alpha / r`.
        target_modules: `all-linear`, a regular expression over whole names, or suffixes.
        layers_to_transform: the numbers of the decoder layers to adapt; all where None.
        fan_in_fan_out: whether the targets keep their weights transposed, as GPT-2's `Conv1D` does.
    """

    r: int = 8
    lora_alpha: int = 16
    target_modules: str | tuple[str, ...] = "all-linear"
    layers_to_transform: tuple[int, ...] | None = None
    fan_in_fan_out: bool = False

    @property
    def scale(self) -> float:
        """What the low-rank update is multiplied by."""
        return self.lora_alpha / self.r


@dataclass(frozen=True)
class Scores:
    """How sequences were predicted; N sequences.

    Args:
        loss: `(T,)` each task's loss.
        log_likelihood: `(N,)` summed log-probability of the sequence's label tokens, its end token included.
        greedy: `(N,)` true where greedy decoding would write exactly the label tokens and stop.
    """

    loss: Tensor
    log_likelihood: Tensor
    greedy: Tensor


class Learner:
    """A frozen base with LoRA sites; holds no adapter of its own.

    Args:
        base: a loaded base; its target layers are replaced by sites until `close`.
        spec: rank, scale and targets.
        gradient_checkpointing: compute every decoder layer again on the way back instead of keeping its activations.
        compiled: fuse what stands between a layer's products by `torch.compile`, in gradients of first order.

    `flops` counts the operations of every pass so far, `tokens` the tokens that the base computed in them, filling included.

    Raises:
        TargetError: the targets do not fit the base.
        RematerialisationError: `gradient_checkpointing` on a base without decoder layers to compute again.
        CompileError: `compiled` on a base without decoder layers, or without a compiler.
    """

    def __init__(self, base: Base, spec: LoraSpec, gradient_checkpointing: bool = False, compiled: bool = False) -> None:
        self.base = base
        names = target_names(base.model, spec.target_modules, spec.layers_to_transform)
        targets, layers = peft_targets(base.model, names, spec.layers_to_transform)
        transposed = all(isinstance(base.model.get_submodule(name), Conv1D) for name in names)
        self.spec = replace(spec, target_modules=targets, layers_to_transform=layers, fan_in_fan_out=transposed)
        self.cost = pass_cost(base.model, names, spec.r)
        self.flops = self.tokens = 0
        self._twice = False
        self.sites = install_sites(base.model, names, spec.scale)
        try:
            self.layers = DecoderLayers(base.model, self.sites, gradient_checkpointing, compiled)
        except BaseException:
            remove_sites(base.model, self.sites)
            raise

    def __enter__(self) -> "Learner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the base its plain layers back; harmless if it has them."""
        self.layers.close()
        remove_sites(self.base.model, self.sites)

    @contextmanager
    def second_order(self) -> Iterator[None]:
        """For Hessian-vector products of losses: decoder layers are computed again, so that one layer's graph is alive at a time."""
        before, self._twice = self._twice, True
        try:
            with self.layers.computed_again():
                yield
        finally:
            self._twice = before

    @cached_property
    def forward_mode(self) -> bool:
        """Whether the losses' gradient can be differentiated in forward mode; tried once, on a row of two short examples."""
        ids = torch.arange(8) % self.base.model.config.get_text_config().vocab_size
        examples = [[Rendered(tuple(ids.tolist()), 6)], [Rendered(tuple(ids.flip(0).tolist()), 6)]]
        rows = build_rows([examples], layout="packed" if self.base.packs else "padded").to(self.base.device)
        phi = {name: tensor[None].requires_grad_() for name, tensor in self.fresh_adapter().items()}
        counted = self.flops, self.tokens
        try:
            # as products are computed: with layers computed again
            with self.second_order(), forward_ad.dual_level():
                duals = {name: forward_ad.make_dual(tensor, torch.ones_like(tensor)) for name, tensor in phi.items()}  # type: ignore[no-untyped-call]
                found = torch.autograd.grad(self.losses(duals, rows).sum(), list(phi.values()))
                return all(forward_ad.unpack_dual(each).tangent is not None for each in found)  # type: ignore[no-untyped-call]
        except NotImplementedError:
            # what PyTorch raises for an operation without a forward derivative, and for nothing else
            return False
        finally:
            self.flops, self.tokens = counted

    def shapes(self) -> dict[str, tuple[int, int]]:
        """The shape of every adapter tensor, without task axis: A `(r, d_in)`, B `(d_out, r)`."""
        shapes = {}
        for name, site in self.sites.items():
            shapes[f"{name}.lora_A"] = (self.spec.r, site.d_in)
            shapes[f"{name}.lora_B"] = (site.d_out, self.spec.r)
        return shapes

    def fresh_adapter(self, seed: int = 0) -> dict[str, Tensor]:
        """PEFT's default initialisation: A Kaiming-uniform with a = sqrt(5), B zero; float32, without task axis."""
        generator = torch.Generator().manual_seed(seed)
        adapter = {}
        for name, shape in self.shapes().items():
            tensor = torch.zeros(shape)
            if name.endswith("lora_A"):
                torch.nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
            adapter[name] = tensor.to(self.base.device)
        return adapter

    def losses(self, phi: Phi, rows: Rows) -> Tensor:
        """Each task's loss `(T,)`: the mean over its examples of the mean over their label tokens, in float32.

        `phi` holds A `(T, r, d_in)` and B `(T, d_out, r)` for every site; the result is differentiable in it.
        """
        nll = compute(LabelLoss(rows.targets), self._label_logits(phi, rows))
        return _by_task(nll, rows)

    @torch.no_grad()
    def scores(self, phi: Phi, rows: Rows) -> Scores:
        """Losses, and for each sequence its log-likelihood and whether greedy decoding writes it."""
        logits = self._label_logits(phi, rows)
        nll = compute(LabelLoss(rows.targets), logits)
        sequences = torch.zeros(len(rows.sequence_task), device=nll.device)
        wrong = (logits.argmax(-1) != rows.targets).float()
        return Scores(
            loss=_by_task(nll, rows),
            log_likelihood=sequences.index_add(0, rows.sequence, -nll),
            greedy=sequences.index_add(0, rows.sequence, wrong) == 0,
        )

    def _label_logits(self, phi: Phi, rows: Rows) -> Tensor:
        """Logits `(P, V)` at the positions that predict a label; the model's own head computes no others."""
        with handing(self.sites, _by_row(phi, rows)), self.layers.reusing(phi, rows) as skipped:
            order = self._order(phi)
            self.flops += self.cost.flops(rows, pairs(self.base.model, rows), order, skipped, self.layers.frozen(phi), self.layers.active)
            self.tokens += rows.tokens
            with differentiable_twice() if order == "tangent" else nullcontext():
                output = self.base.model(**model_inputs(self.base.model, rows), logits_to_keep=rows.predicts, use_cache=False)
        logits: Tensor = output.logits
        return logits

    def _order(self, phi: Phi) -> Order:
        if in_forward_mode(*phi.values()):
            return "tangent"
        if not torch.is_grad_enabled():
            return "value"
        return "double" if self._twice else "gradient"


def _by_task(nll: Tensor, rows: Rows) -> Tensor:
    """`(T,)` from each label token's loss `(P,)`."""
    return torch.zeros(rows.tasks, dtype=nll.dtype, device=nll.device).index_add(0, rows.task, nll * rows.weight.to(nll.dtype))


def _by_row(phi: Phi, rows: Rows) -> Phi:
    if rows.one_row_a_task:
        return phi
    # on the way back this adds rows up faster than indexing does
    return {name: tensor.index_select(0, rows.row_task) for name, tensor in phi.items()}
