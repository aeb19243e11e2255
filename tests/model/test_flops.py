"""Counted operations are those that PyTorch's own counter sees, to the last one.

The counter is told the one product that it has no formula for, `baddbmm` in place. In a gradient the learner counts a little
that is not computed: going back, every layer is reckoned to pass something on to its input, and nobody wants that of the first.
Dequantising 4-bit weights is no product, so that 4-bit and dense bases count alike. Fused attention, which takes over where
blocks have more than some hundreds of keys, is left out, as PyTorch counts its kernels differently on each device.
"""

from contextlib import nullcontext

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from headstart.algorithms.inner import gradients
from headstart.model.base import load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.tasks.planner import Planner
from headstart.tasks.rows import build_rows

LORA = LoraSpec(r=4, lora_alpha=8)
LAYOUTS = {"packed": ("packed", 1024), "packed, tasks over several rows": ("packed", 120), "padded": ("padded", 1024)}


def _baddbmm(_, left, right, **__):
    return 2 * left[0] * left[1] * left[2] * right[2]


class OneModule(nullcontext):
    """All is counted in one: the counter's own way of telling modules apart bears no gradient that is taken within another."""

    parents = frozenset({"Global"})


def counted(compute):
    """The operations of what is computed, by PyTorch's counter."""
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: _baddbmm})
    counter.mod_tracker = OneModule()
    with counter:
        compute()
    return counter.get_total_flops()


def unwanted(learner, rows, layer):
    """Of the way back: the gradient of a layer's input, which is q's, k's and v's, through the frozen weights and the factor A."""
    first = [site for name, site in learner.sites.items() if f"layers.{layer}.self_attn" in name and not name.endswith("o_proj")]
    assert len(first) == 3
    return sum(2 * rows.tokens * site.d_in * (site.d_out + learner.spec.r) for site in first)


@pytest.fixture(params=LAYOUTS)
def rows(request, tiny_spec, batcher, episode):
    layout, most = LAYOUTS[request.param]
    renderer = batcher(load_base(tiny_spec(), "cpu")).renderer
    tasks = [[[one] for one in renderer.render(draw.task.instruction, draw.query)] for draw in episode]
    return build_rows(tasks, layout=layout, planner=Planner(max_row_tokens=most))


def test_a_pass_without_gradients(base, rows, random_phi):
    with Learner(base, LORA) as learner, torch.no_grad():
        phi = random_phi(learner, rows.tasks)
        assert counted(lambda: learner.losses(phi, rows)) == learner.flops


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_a_gradient(base, rows, random_phi, again):
    with Learner(base, LORA, gradient_checkpointing=again) as learner:
        phi = random_phi(learner, rows.tasks)
        assert counted(lambda: gradients(learner.losses, phi, rows)) == learner.flops - unwanted(learner, rows, 0)


def test_a_gradient_where_only_the_upper_layer_is_adapted(base, rows, random_phi):
    """What stands below is computed forth, once, and then taken over."""
    spec = LoraSpec(r=4, lora_alpha=8, layers_to_transform=(1,))
    with Learner(base, spec) as learner:
        phi = random_phi(learner, rows.tasks)
        for _ in range(2):
            learner.flops = 0
            assert counted(lambda: gradients(learner.losses, phi, rows)) == learner.flops - unwanted(learner, rows, 1)


def test_four_bit_counts_as_dense(tiny_spec, rows, random_phi):
    found = []
    for quantization in ("none", "nf4"):
        with Learner(load_base(tiny_spec(quantization), "cpu"), LORA) as learner:
            phi = random_phi(learner, rows.tasks)
            found.append((counted(lambda: gradients(learner.losses, phi, rows)), learner.flops))  # noqa: B023
    assert found[0] == found[1]


def test_tokens_are_those_of_the_rows_in_every_pass(dense_base, rows, random_phi):
    with Learner(dense_base, LORA) as learner:
        phi = random_phi(learner, rows.tasks)
        learner.scores(phi, rows)
        gradients(learner.losses, phi, rows)
        assert learner.tokens == 2 * rows.tokens
        assert learner.forward_mode
        assert learner.tokens == 2 * rows.tokens, "what is tried at load is no work"
