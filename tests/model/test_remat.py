"""Rematerialised = plain, first and second order, and whatever is bound to the sites meanwhile."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import save_tiny_base
from torch.nn.attention import SDPBackend, sdpa_kernel

from headstart.algorithms.hvp import double_backward
from headstart.algorithms.inner import gradients
from headstart.model import learner as learner_module
from headstart.model.base import load_base
from headstart.model.layers import RematerialisationError
from headstart.model.learner import Learner, LoraSpec
from headstart.model.sites import handing
from headstart.tasks.rows import build_rows

SPEC = LoraSpec(r=4, lora_alpha=8)


@pytest.fixture
def architecture_of_layers(tiny_spec, tmp_path):
    """Loads a random Llama of so many layers."""

    def load(layers):
        folder = save_tiny_base(tmp_path / str(layers), layers=layers)
        return load_base(replace(tiny_spec(), source=str(folder)), "cpu")

    return load


@pytest.fixture
def rows(batcher, dense_base, episode):
    tasks = [[[one] for one in batcher(dense_base).renderer.render(draw.task.instruction, draw.query)] for draw in episode]
    return build_rows(tasks)


def first_order(base, again, random_phi, rows, spec=SPEC):
    with Learner(base, spec, gradient_checkpointing=again) as learner:
        return gradients(learner.losses, random_phi(learner, rows.tasks), rows)


def second_order(base, again, random_phi, rows):
    """The query gradient through one inner step, exactly."""
    with Learner(base, SPEC, gradient_checkpointing=again) as learner, sdpa_kernel(SDPBackend.MATH):
        theta = {name: tensor.requires_grad_() for name, tensor in random_phi(learner, rows.tasks).items()}
        inner = torch.autograd.grad(learner.losses(theta, rows).sum(), list(theta.values()), create_graph=True)
        phi = {name: tensor - 0.1 * gradient for (name, tensor), gradient in zip(theta.items(), inner, strict=True)}
        return dict(zip(theta, torch.autograd.grad(learner.losses(phi, rows).sum(), list(theta.values())), strict=True))


def test_first_order_is_plain(base, random_phi, rows, assert_same):
    plain, again = (first_order(base, choice, random_phi, rows) for choice in (False, True))
    assert torch.equal(plain[0], again[0])
    assert_same(again[1], plain[1], relative=1e-6)


def test_second_order_is_plain(base, random_phi, rows, assert_same):
    plain, again = (second_order(base, choice, random_phi, rows) for choice in (False, True))
    assert_same(again, plain)


def test_what_layers_hand_on_beside_their_outputs_keeps_its_gradient(dense_base, random_phi, rows, assert_same, monkeypatch):
    """As Gemma 3n's layers hand on keys and values: the second layer adds what the first has put into a dict."""
    layer = type(dense_base.model.model.layers[0])
    plain = layer.forward

    def forward(self, hidden, *args, shared, **kwargs):
        found = plain(self, hidden, *args, **kwargs)
        return found + shared["found"] if "found" in shared else shared.setdefault("found", found)

    monkeypatch.setattr(layer, "forward", forward)
    inputs = learner_module.model_inputs
    monkeypatch.setattr(learner_module, "model_inputs", lambda model, rows: {**inputs(model, rows), "shared": {}})
    kept, again = (first_order(dense_base, choice, random_phi, rows) for choice in (False, True))
    assert_same(again[1], kept[1], relative=1e-6)
    upper = replace(SPEC, layers_to_transform=(1,))
    with Learner(dense_base, upper) as learner:
        phi = random_phi(learner, rows.tasks)
        assert torch.equal(learner.losses(phi, rows), learner.losses(phi, rows)), "nothing is taken over"


@pytest.mark.parametrize("name", ["qwen3", "mistral", "gemma3_text", "gpt2", "falcon"])
def test_other_architectures(architecture, random_phi, rows, assert_same, name):
    base = architecture(name)
    plain, again = (first_order(base, choice, random_phi, rows) for choice in (False, True))
    assert_same(again[1], plain[1], relative=1e-6)


def test_an_adapter_bound_later_does_not_leak_into_the_backward_pass(dense_base, random_phi, rows, assert_same):
    """What recomputation sees is the adapter of its own pass, though another is bound by then."""
    with Learner(dense_base, SPEC, gradient_checkpointing=True) as learner:
        mine = {name: tensor.requires_grad_() for name, tensor in random_phi(learner, rows.tasks).items()}
        loss = learner.losses(mine, rows).sum()
        with handing(learner.sites, random_phi(learner, rows.tasks, seed=9)):
            found = torch.autograd.grad(loss, list(mine.values()))
    wanted = first_order(dense_base, False, random_phi, rows)[1]
    assert_same(dict(zip(mine, found, strict=True)), wanted, relative=1e-6)


def saved_bytes(base, again, random_phi, rows, spec=SPEC):
    total = 0

    def count(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with (
        Learner(base, spec, gradient_checkpointing=again) as learner,
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        phi = {name: tensor.requires_grad_() for name, tensor in random_phi(learner, rows.tasks).items()}
        learner.losses(phi, rows)
    return total


def test_activations_are_not_kept(dense_base, random_phi, rows):
    assert saved_bytes(dense_base, True, random_phi, rows) < 0.5 * saved_bytes(dense_base, False, random_phi, rows)


def test_second_order_keeps_one_layer_at_a_time(architecture_of_layers, random_phi, rows, monkeypatch):
    """Differentiated twice in reverse, six more layers take little more where one is alive at a time, and much more where all are."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    from bench_memory import LiveBytes

    most = {}
    for layers in (2, 8):
        base = architecture_of_layers(layers)
        for again in (False, True):
            with Learner(base, SPEC) as learner, learner.second_order() if again else nullcontext():
                phi, w = random_phi(learner, rows.tasks), random_phi(learner, rows.tasks, seed=1)
                with LiveBytes() as live:
                    double_backward(learner.losses, phi, rows, w)
            most[layers, again] = live.peak
    more = {again: most[8, again] - most[2, again] for again in (False, True)}
    assert more[True] < 0.25 * more[False]
    assert most[8, True] < 0.4 * most[8, False]


def test_layers_above_the_adapted_ones_are_not_kept_either(dense_base, random_phi, rows, assert_same):
    """Only the first layer carries sites; the second is on the way back to it."""
    spec = LoraSpec(r=4, lora_alpha=8, layers_to_transform=(0,))
    plain, again = (saved_bytes(dense_base, choice, random_phi, rows, spec) for choice in (False, True))
    assert again < 0.5 * plain
    first, second = (first_order(dense_base, choice, random_phi, rows, spec) for choice in (False, True))
    assert_same(second[1], first[1], relative=1e-6)


def test_a_site_without_an_adapter_still_refuses_to_run(dense_base):
    with Learner(dense_base, SPEC, gradient_checkpointing=True), pytest.raises(RuntimeError, match="without an adapter"):
        dense_base.model(input_ids=torch.tensor([[1, 2]]))


def test_recomputation_is_counted(dense_base, random_phi, rows):
    counted = []
    for again in (False, True):
        with Learner(dense_base, SPEC, gradient_checkpointing=again) as learner:
            gradients(learner.losses, random_phi(learner, rows.tasks), rows)
            counted.append(learner.flops)
    assert 1.25 < counted[1] / counted[0] < 1.6


def test_closing_keeps_activations_again(dense_base):
    layer = dense_base.model.model.layers[0]
    with Learner(dense_base, SPEC, gradient_checkpointing=True):
        assert "forward" in vars(layer)
    assert "forward" not in vars(layer)


def test_base_without_such_layers_is_refused(dense_base, monkeypatch):
    monkeypatch.setattr("headstart.model.layers.GradientCheckpointingLayer", torch.nn.Conv2d)
    with pytest.raises(RematerialisationError, match=r"run\.gradient_checkpointing: LlamaForCausalLM"):
        Learner(dense_base, SPEC, gradient_checkpointing=True)
