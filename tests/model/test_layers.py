"""Frozen lower layers are computed once for the same rows, and nothing but time tells."""

import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from headstart.adapter.meta_adapter import Adaptation
from headstart.algorithms.hvp import double_backward, forward_over_reverse
from headstart.algorithms.inner import gradients
from headstart.model.base import load_base
from headstart.model.layers import COMPILERS, KEY, CompileError
from headstart.model.learner import Learner, LoraSpec

UPPER = LoraSpec(r=4, lora_alpha=8, layers_to_transform=(1,))
EVERYWHERE = LoraSpec(r=4, lora_alpha=8)


@pytest.fixture
def rows(batcher, dense_base, episode):
    return batcher(dense_base).batch(episode).query


@contextmanager
def calls_of(layer):
    """Counts how often a layer computes its attention."""
    counted = []
    handle = layer.self_attn.register_forward_hook(lambda *_: counted.append(1)) if hasattr(layer, "self_attn") else None
    handle = handle or layer.attn.register_forward_hook(lambda *_: counted.append(1))
    yield counted
    handle.remove()


def layers(base):
    return base.model.model.layers if hasattr(base.model, "model") else base.model.transformer.h


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_reused_is_plain(architecture, random_phi, rows, name, gradient_checkpointing):
    """Three inner steps' gradients, the lower layer computed once and computed each time: the same bits."""
    base = architecture(name)
    with Learner(base, UPPER, gradient_checkpointing) as learner, calls_of(layers(base)[0]) as lower, calls_of(layers(base)[1]) as upper:
        steps = [random_phi(learner, rows.tasks, seed) for seed in range(3)]
        found = [gradients(learner.losses, phi, rows) for phi in steps]
        assert len(lower) == 1
        assert len(upper) == (6 if gradient_checkpointing else 3)
        for phi, (losses, gradient) in zip(steps, found, strict=True):
            rows.memo.pop(KEY)
            plain = gradients(learner.losses, phi, rows)
            assert torch.equal(losses, plain[0])
            assert all(torch.equal(gradient[name], plain[1][name]) for name in gradient)


def test_evaluations_reuse_too(dense_base, random_phi, rows):
    with Learner(dense_base, UPPER) as learner, calls_of(layers(dense_base)[0]) as lower:
        first = learner.scores(random_phi(learner, rows.tasks), rows)
        again = learner.scores(random_phi(learner, rows.tasks), rows)
        assert len(lower) == 1
    assert torch.equal(first.loss, again.loss)


def test_other_rows_are_computed(dense_base, batcher, random_phi, episode, rows):
    with Learner(dense_base, UPPER) as learner, calls_of(layers(dense_base)[0]) as lower:
        phi = random_phi(learner, rows.tasks)
        gradients(learner.losses, phi, rows)
        gradients(learner.losses, phi, batcher(dense_base).batch(episode).query)
        assert len(lower) == 2


def test_layers_that_do_not_adapt_are_reused_while_their_adapter_is_the_same(dense_base, random_phi, rows):
    """ANIL's inner loop: the lower layer has an adapter, which stays as it is over the steps; another one must be seen."""
    adapting = Adaptation(target_modules=r".*layers\.1\..*")
    with Learner(dense_base, EVERYWHERE) as learner, calls_of(layers(dense_base)[0]) as lower:
        phi = random_phi(learner, rows.tasks)
        names = adapting.adapting(phi)
        assert 0 < len(names) < len(phi)
        first = gradients(learner.losses, phi, rows, names)
        second = gradients(learner.losses, phi, rows, names)
        assert len(lower) == 1
        assert torch.equal(first[0], second[0])
        other = {name: tensor if name in names else tensor.clone() * 2 for name, tensor in phi.items()}
        changed = gradients(learner.losses, other, rows, names)
        assert len(lower) == 2
        assert not torch.equal(first[0], changed[0])
        for name in phi:
            phi[name].mul_(2.0 if name not in names else 1.0)
        assert torch.equal(gradients(learner.losses, phi, rows, names)[0], changed[0]), "written to in place: another adapter"
        gradients(learner.losses, phi, rows)
        assert len(lower) == 4, "a gradient of the lower layer is wanted"


def test_what_is_reused_is_not_counted(dense_base, random_phi, rows):
    with Learner(dense_base, UPPER) as learner:
        counted = []
        for _ in range(3):
            learner.flops = 0
            gradients(learner.losses, random_phi(learner, rows.tasks), rows)
            counted.append(learner.flops)
    assert counted[0] > counted[1] == counted[2]


def test_a_base_whose_layers_put_out_more_than_hidden_states_is_computed_whole(dense_base, random_phi, rows):
    """What else they put out is unknown, so it is not left out."""
    with Learner(dense_base, UPPER) as learner, calls_of(layers(dense_base)[0]) as lower:
        learner.layers.plain_outputs = False
        for _ in range(2):
            gradients(learner.losses, random_phi(learner, rows.tasks), rows)
        assert len(lower) == 2


@pytest.mark.parametrize("hvp", [forward_over_reverse, double_backward])
def test_reuse_in_second_order_is_plain(dense_base, random_phi, rows, hvp):
    with Learner(dense_base, UPPER) as learner, learner.second_order(), calls_of(layers(dense_base)[0]) as lower:
        phi, w = random_phi(learner, rows.tasks), random_phi(learner, rows.tasks, seed=1)
        first, again = (hvp(learner.losses, phi, rows, w) for _ in range(2))
        assert len(lower) == 1
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_another_learners_activations_are_not_taken_over(dense_base, tiny_spec, random_phi, rows):
    """Rows may go through two bases, as a dense one and its 4-bit self."""
    found = []
    for base in (dense_base, load_base(tiny_spec("nf4"), "cpu")):
        with Learner(base, UPPER) as learner:
            phi = random_phi(learner, rows.tasks)
            found.append(learner.losses(phi, rows))
            rows_anew = replace(rows)
            assert torch.equal(found[-1], learner.losses(phi, rows_anew))
    assert not torch.equal(*found)


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler")
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_compiled_is_plain(tiny_spec, random_phi, batcher, episode, assert_same, quantization):
    """Also for rows of another shape, without gradients, and in second order, which nothing compiled goes through."""
    base = load_base(tiny_spec(quantization), "cpu")
    batch = batcher(base).batch(episode)
    found = []
    for compiled in (False, True):
        with Learner(base, LoraSpec(r=4, lora_alpha=8), compiled=compiled) as learner:
            phi, w = random_phi(learner, len(episode)), random_phi(learner, len(episode), seed=1)
            firsts = [gradients(learner.losses, phi, rows) for rows in (batch.query, batch.support[0])]
            found.append((*firsts, learner.scores(phi, batch.query).loss, forward_over_reverse(learner.losses, phi, batch.query, w)))
            with learner.second_order():
                assert_same(double_backward(learner.losses, phi, batch.query, w), found[-1][3])
    for (losses, gradient), (wanted, other) in zip(found[1][:2], found[0][:2], strict=True):
        torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=0)
        assert_same(gradient, other)
    assert torch.equal(found[0][2], found[1][2])
    assert_same(found[1][3], found[0][3])


def test_without_a_compiler_nothing_is_begun(dense_base, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(CompileError, match=r"run\.compile: needs a C\+\+ compiler"):
        Learner(dense_base, UPPER, compiled=True)
    assert not any("forward" in vars(layer) for layer in layers(dense_base))
    assert type(dense_base.model.model.layers[1].self_attn.q_proj) is torch.nn.Linear
