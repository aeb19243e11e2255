"""Exact second order on a real learner: the adjoint is one unrolled graph, however its products are computed."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from headstart.algorithms.adjoint import adjoint
from headstart.algorithms.hvp import double_backward, finite_difference, forward_over_reverse
from headstart.algorithms.inner import expand, gradients, walk
from headstart.algorithms.rules import Adam, Sgd
from headstart.algorithms.types import InnerLoop
from headstart.algorithms.unrolled import unrolled
from headstart.model.base import BaseSpec, load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.recipe import MamlPhase
from headstart.training.inner import hessian

STEPS = 3
RULES = {"sgd": (Sgd(None), 0.02, 1e-5), "clipped": (Sgd(1.0), 0.05, 1e-5), "adam": (Adam(eps_root=1e-4), 0.01, 1e-4)}


def distance(found, wanted):
    """The norm of the difference over all tensors, as a share of the norm of what is wanted."""
    apart = sum(float((found[name] - wanted[name]).double().square().sum()) for name in wanted)
    return (apart / sum(float(each.double().square().sum()) for each in wanted.values())) ** 0.5


@pytest.fixture
def case(learner, batcher, random_phi, episode):
    """A warm initialisation, packed rows, and the inner loop of a rule; ANIL by a part of the names."""
    theta = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
    batch = batcher(learner.base, layout="packed").batch(episode)

    def build(rule, adapting=""):
        names = [name for name in theta if adapting in name]
        return theta, batch, InnerLoop(rule[0], STEPS, {name: torch.full((STEPS,), rule[1]) for name in names})

    return build


@pytest.mark.parametrize("forward_mode", [True, False], ids=["forward over reverse", "double backward"])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "rematerialised"])
def test_bases_under_pytorchs_attention_too(base, batcher, random_phi, episode, forward_mode, again, monkeypatch):
    """Its fused kernels have no second derivative in either mode, also where layers are computed again long after the pass."""
    base.model.set_attn_implementation("sdpa")
    with Learner(base, LoraSpec(r=4, lora_alpha=8), again) as learner:
        assert learner.forward_mode
        monkeypatch.setattr(Learner, "forward_mode", forward_mode)
        theta = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        batch = batcher(base).batch(episode)
        inner = InnerLoop(Sgd(1.0), STEPS, {name: torch.full((STEPS,), 0.05) for name in theta})
        found = adjoint(learner.losses, theta, batch, replace(inner, hvp=hessian(MamlPhase(algorithm="maml", steps=1), learner)))
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner:
        wanted = reference(learner, (theta, batch, inner))
    assert distance(found.theta, wanted.theta) < 1e-5


def reference(learner, case):
    """One graph through everything, kept whole."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return unrolled(learner.losses, *case)


@pytest.mark.parametrize("forward_mode", [True, False], ids=["forward over reverse", "double backward"])
@pytest.mark.parametrize("rule", RULES)
def test_adjoint_is_one_unrolled_graph(learner, case, rule, forward_mode, monkeypatch):
    monkeypatch.setattr(type(learner), "forward_mode", forward_mode)
    given = case(RULES[rule])
    wanted = reference(learner, given)
    found = adjoint(learner.losses, *given[:2], replace(given[2], hvp=hessian(MamlPhase(algorithm="maml", steps=1), learner)))
    assert distance(found.theta, wanted.theta) < RULES[rule][2]
    assert distance(found.log_rates, wanted.log_rates) < RULES[rule][2]


@pytest.mark.parametrize("forward_mode", [True, False], ids=["forward over reverse", "double backward"])
def test_where_some_sites_adapt_the_others_get_their_mixed_terms(learner, case, forward_mode, monkeypatch):
    monkeypatch.setattr(type(learner), "forward_mode", forward_mode)
    given = case(RULES["sgd"], "layers.1.")
    wanted = reference(learner, given)
    found = adjoint(learner.losses, *given[:2], replace(given[2], hvp=hessian(MamlPhase(algorithm="maml", steps=1), learner)))
    first = adjoint(learner.losses, *given[:2], replace(given[2], second_order=0.0))
    below = {name for name in wanted.theta if "layers.0." in name}
    pick = [{name: each.theta[name] for name in below} for each in (found, first, wanted)]
    assert distance(pick[0], pick[2]) < 1e-5
    assert distance(pick[1], pick[2]) > 1e-3


def test_finite_differences_come_near(learner, case):
    given = case(RULES["sgd"])
    wanted = reference(learner, given)
    found = adjoint(learner.losses, *given[:2], replace(given[2], hvp=finite_difference))
    first = adjoint(learner.losses, *given[:2], replace(given[2], second_order=0.0))
    assert distance(found.theta, wanted.theta) < min(5e-3, 0.1 * distance(first.theta, wanted.theta))


def in_float64(base):
    """The base with all that it computes in float64; 4-bit weights are dequantised to it."""
    for tensor in (*base.model.parameters(), *base.model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.double()
    return base


def directional(losses, theta, batch, inner, direction, rate_direction, h):
    """The derivative of the adapted query loss along a direction in theta and log rates: by five points, so that its error is of h^4."""

    def value(s):
        moved = {name: tensor + s * direction[name] for name, tensor in theta.items()}
        rates = {name: (rate.log() + s * rate_direction[name]).exp() for name, rate in inner.rates.items()}
        steps = list(walk(losses, expand(moved, batch.tasks), batch.support, inner.rule, rates, inner.steps))
        with torch.no_grad():
            return float(losses(steps[-1].phi, batch.query).mean())

    return (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("rule", RULES)
def test_meta_gradient_is_that_of_finite_differences_in_float64(architecture, batcher, episode, rule, quantization, layout):
    """Of GPT-NeoX, which computes nothing in float32 that depends on the adapter, unlike Llama's norms."""
    base = in_float64(architecture("gpt_neox", quantization))
    batch = batcher(base, layout=layout).batch(episode)
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner:
        generator = torch.Generator().manual_seed(0)

        def draw(shapes, size):
            return {name: size * torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}

        theta = draw(learner.shapes(), 0.1)
        own, rate, _ = RULES[rule]
        inner = InnerLoop(own, STEPS, {name: torch.full((STEPS,), rate, dtype=torch.float64) for name in theta})
        found = adjoint(learner.losses, theta, batch, replace(inner, hvp=hessian(MamlPhase(algorithm="maml", steps=1), learner)))
        for move_theta, move_rates in ((1.0, 0.0), (0.0, 1.0)):
            direction, rate_direction = draw(learner.shapes(), move_theta), draw(dict.fromkeys(theta, (STEPS,)), move_rates)
            # adam turns within the root of its eps_root
            h = 1e-5 if rule == "adam" else 2e-4
            wanted = directional(learner.losses, theta, batch, inner, direction, rate_direction, h)
            products = [found.theta[name] * direction[name] for name in theta]
            products += [found.log_rates[name] * rate_direction[name] for name in theta]
            along = sum(float(each.sum()) for each in products)
            # what the sum would be if its terms had signs by chance: some directions nearly cancel
            scale = sum(float(each.square().sum()) for each in products) ** 0.5
            assert abs(along - wanted) <= 1e-8 * max(abs(wanted), scale)


@pytest.mark.parametrize("again", [False, True], ids=["kept", "rematerialised"])
@pytest.mark.parametrize("forward_mode", [True, False], ids=["forward over reverse", "double backward"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_layout_pieces_and_rematerialisation_change_nothing(base, batcher, random_phi, episode, forward_mode, layout, again, monkeypatch):
    """All tasks packed together and kept, against each task by itself."""
    monkeypatch.setattr(Learner, "forward_mode", forward_mode)

    def mean(pieces, layout, again):
        with Learner(base, LoraSpec(r=4, lora_alpha=8), again) as learner:
            theta = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
            hvp = hessian(MamlPhase(algorithm="maml", steps=1), learner)
            inner = InnerLoop(Sgd(1.0), STEPS, {name: torch.full((STEPS,), 0.05) for name in theta}, hvp=hvp)
            parts = [adjoint(learner.losses, theta, batcher(base, layout=layout).batch(piece), inner) for piece in pieces]
        return [{name: sum(getattr(part, kind)[name] for part in parts) / len(parts) for name in theta} for kind in ("theta", "log_rates")]

    found, wanted = mean([(draw,) for draw in episode], layout, again), mean([episode], "packed", False)
    assert distance(found[0], wanted[0]) < 1e-5
    assert distance(found[1], wanted[1]) < 1e-5


def test_upper_layers_alone(base, batcher, random_phi, episode):
    """The frozen layers below are computed once, and the adjoint is still one unrolled graph."""
    with Learner(base, LoraSpec(r=4, lora_alpha=8, layers_to_transform=(1,))) as learner:
        theta = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        batch = batcher(base, layout="packed").batch(episode)
        inner = InnerLoop(Sgd(1.0), STEPS, {name: torch.full((STEPS,), 0.05) for name in theta})
        wanted = reference(learner, (theta, batch, inner))
        found = adjoint(learner.losses, theta, batch, replace(inner, hvp=hessian(MamlPhase(algorithm="maml", steps=1), learner)))
    assert distance(found.theta, wanted.theta) < 1e-5


def test_a_base_without_forward_mode_takes_double_backward(tiny_folder, tmp_path, batcher, random_phi, episode):
    """Mish's backward has no forward derivative in PyTorch, and nothing of ours in its place."""
    folder = tmp_path / "mish"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "mish"}))
    base = load_base(BaseSpec(id="test/mish", source=str(folder), quantization="none", dtype="float32"), "cpu")
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner:
        assert not learner.forward_mode
        theta = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        batch = batcher(base).batch(episode)
        inner = InnerLoop(Sgd(1.0), STEPS, {name: torch.full((STEPS,), 0.05) for name in theta})
        wanted = reference(learner, (theta, batch, inner))
        found = adjoint(learner.losses, theta, batch, replace(inner, hvp=hessian(MamlPhase(algorithm="maml", steps=1), learner)))
    assert distance(found.theta, wanted.theta) < 1e-5


@pytest.mark.parametrize("hvp", [None, forward_over_reverse, double_backward])
def test_no_dequantised_weight_is_among_what_a_learner_saves(tiny_spec, batcher, random_phi, episode, hvp):
    """In a gradient and in both exact products, over the whole model: zero tensors of the shape of a 4-bit layer's weights."""
    base = load_base(tiny_spec("nf4"), "cpu")
    rows, shapes = batcher(base).batch(episode).query, []
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner:
        phi, w = random_phi(learner, rows.tasks), random_phi(learner, rows.tasks, seed=1)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: shapes.append(tuple(tensor.shape)) or tensor, lambda tensor: tensor):
            gradients(learner.losses, phi, rows) if hvp is None else hvp(learner.losses, phi, rows, w)
        weights = {(site.d_out, site.d_in) for site in learner.sites.values()}
    assert len(shapes) > 100
    assert not [shape for shape in shapes if shape in weights or shape[::-1] in weights]
