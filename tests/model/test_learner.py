"""Laws of the learner: the task axis, the layouts, label-only logits, the counted operations."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from headstart.algorithms.hvp import double_backward, forward_over_reverse
from headstart.algorithms.inner import gradients
from headstart.model.base import load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.tasks.planner import Planner
from headstart.tasks.rows import build_rows

RELATIVE = 1e-5


def assert_same(first, second):
    """Equal to 1e-5 of each tensor's own scale."""
    assert first.keys() == second.keys()
    for name in first:
        scale = float(second[name].abs().max())
        assert float((first[name] - second[name]).abs().max()) <= RELATIVE * scale + 1e-9, name


def rendered(batcher, episode):
    return [[[one] for one in batcher.renderer.render(draw.task.instruction, draw.query)] for draw in episode]


def one_by_one(learner, phi, rows_of_each):
    parts = [gradients(learner.losses, {name: t[i : i + 1] for name, t in phi.items()}, rows) for i, rows in enumerate(rows_of_each)]
    losses = torch.cat([losses for losses, _ in parts])
    return losses, {name: torch.cat([found[name] for _, found in parts]) for name in phi}


@pytest.mark.parametrize("evaluate_first", [False, True])
def test_tasks_together_equal_tasks_one_by_one(learner, batcher, random_phi, episode, evaluate_first):
    phi = random_phi(learner, len(episode))
    tasks = rendered(batcher(learner.base), episode)
    if evaluate_first:
        learner.scores(phi, build_rows(tasks))
    losses, found = gradients(learner.losses, phi, build_rows(tasks))
    alone, each = one_by_one(learner, phi, [build_rows([task]) for task in tasks])
    torch.testing.assert_close(losses, alone, rtol=RELATIVE, atol=0)
    assert_same(found, each)


def test_an_evaluation_pass_changes_no_gradient(learner, batcher, random_phi, episode):
    phi, rows = random_phi(learner, len(episode)), build_rows(rendered(batcher(learner.base), episode))
    before = gradients(learner.losses, phi, rows)[1]
    learner.scores(phi, rows)
    after = gradients(learner.losses, phi, rows)[1]
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("max_row_tokens", [1024, 120])
def test_packed_equals_padded(learner, batcher, random_phi, episode, max_row_tokens):
    phi, tasks = random_phi(learner, len(episode)), rendered(batcher(learner.base), episode)
    packed_rows = build_rows(tasks, layout="packed", planner=Planner(max_row_tokens=max_row_tokens))
    packed = gradients(learner.losses, phi, packed_rows)
    padded = gradients(learner.losses, phi, build_rows(tasks, layout="padded"))
    assert packed_rows.one_row_a_task == (max_row_tokens == 1024)
    torch.testing.assert_close(packed[0], padded[0], rtol=RELATIVE, atol=0)
    assert_same(packed[1], padded[1])


def test_packed_candidates_rank_as_padded_ones(learner, batcher, random_phi, labelled_draw):
    phi = random_phi(learner, 1)
    packed, padded = (batcher(learner.base, layout=layout).ranking_rows((labelled_draw,)) for layout in ("packed", "padded"))
    first, second = learner.scores(phi, packed), learner.scores(phi, padded)
    assert len(first.log_likelihood) == 2 * len(labelled_draw.query)
    torch.testing.assert_close(first.log_likelihood, second.log_likelihood, rtol=RELATIVE, atol=1e-5)
    torch.testing.assert_close(first.loss, second.loss, rtol=RELATIVE, atol=0)
    assert torch.equal(first.greedy, second.greedy)


def test_loss_is_mean_over_examples_of_mean_over_label_tokens(learner, batcher, random_phi, episode):
    """By the definition, with the full logits of every conversation alone."""
    phi, tasks = random_phi(learner, len(episode)), rendered(batcher(learner.base), episode)
    losses = learner.losses(phi, build_rows(tasks))
    for index, task in enumerate(tasks):
        mine = {name: tensor[index : index + 1] for name, tensor in phi.items()}
        wanted = torch.stack([plain_loss(learner, mine, one) for (one,) in task]).mean()
        torch.testing.assert_close(losses[index], wanted, rtol=RELATIVE, atol=0)


def plain_loss(learner, phi, one):
    from headstart.model.sites import handing

    ids = torch.tensor([one.ids])
    with handing(learner.sites, phi):
        logits = learner.base.model(input_ids=ids).logits[0]
    return torch.nn.functional.cross_entropy(logits[one.answer - 1 : -1], ids[0, one.answer :])


def test_greedy_and_log_likelihood_are_those_of_the_answer(learner, batcher, random_phi, episode):
    phi, rows = random_phi(learner, len(episode)), build_rows(rendered(batcher(learner.base), episode))
    scores = learner.scores(phi, rows)
    lengths = torch.bincount(rows.sequence)
    per_task = torch.zeros(rows.tasks).index_add(0, rows.sequence_task, -scores.log_likelihood / lengths) / len(episode[0].query)
    torch.testing.assert_close(scores.loss, per_task, rtol=RELATIVE, atol=0)
    assert not scores.greedy.any(), "a random model writes no answer"


def test_fresh_adapter_changes_nothing(learner, batcher, episode):
    rows = build_rows(rendered(batcher(learner.base), episode))
    fresh = {name: tensor.expand(len(episode), *tensor.shape) for name, tensor in learner.fresh_adapter().items()}
    nothing = {name: torch.zeros(len(episode), *shape) for name, shape in learner.shapes().items()}
    torch.testing.assert_close(learner.losses(fresh, rows), learner.losses(nothing, rows), rtol=0, atol=0)


def test_a_fresh_adapters_first_gradient_is_in_b_alone(learner, batcher, episode):
    """B is zero, so A's gradient is too: one first-order inner step would leave A untrained."""
    rows = build_rows(rendered(batcher(learner.base), episode))
    fresh = {name: tensor.expand(len(episode), *tensor.shape) for name, tensor in learner.fresh_adapter().items()}
    for name, gradient in gradients(learner.losses, fresh, rows)[1].items():
        assert bool(gradient.any()) == name.endswith("lora_B"), name


class Counted(TorchDispatchMode):
    """Counts the operations of products by PyTorch's own formulas, which lack `baddbmm` in place."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.baddbmm_.default:
            self.total += 2 * args[1].numel() * args[2].shape[2]
        elif func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize("layers", [None, (1,)])
def test_counted_operations_are_those_that_run(tiny_spec, batcher, random_phi, episode, layers):
    base = load_base(tiny_spec(), "cpu")
    # the fused kernel is counted differently on each device, so attention runs in its plain form
    base.model.set_attn_implementation("eager")
    rows = build_rows(rendered(batcher(base), episode), layout="padded")
    with Learner(base, LoraSpec(r=4, lora_alpha=8, layers_to_transform=layers)) as learner:
        phi = random_phi(learner, len(episode))
        with Counted() as forward, torch.no_grad():
            learner.losses(phi, rows)
        assert learner.flops == pytest.approx(forward.total, rel=0.02)
        learner.flops = 0
        with Counted() as both:
            gradients(learner.losses, phi, rows)
        # the gradient of the first adapted layer's input is wanted of nobody, nor are those of what q, k and v make of it
        spared = sum(
            2 * rows.tokens * site.d_in * (site.d_out + learner.spec.r)
            for name, site in learner.sites.items()
            if f"layers.{(layers or (0,))[0]}.self_attn" in name and not name.endswith("o_proj")
        )
        assert learner.flops == pytest.approx(both.total + spared, rel=0.02)


def test_counted_operations_of_an_inner_step_end_where_its_way_back_does(tiny_spec, batcher, random_phi, episode):
    """ANIL: the upper layer adapts; the lower one's outputs are taken over, and no gradient goes there."""
    base = load_base(tiny_spec(), "cpu")
    rows = build_rows(rendered(batcher(base), episode))
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner:
        phi = random_phi(learner, len(episode))
        upper = [name for name in phi if ".layers.1." in name]
        for _ in range(2):
            learner.flops = 0
            with Counted() as counted:
                gradients(learner.losses, phi, rows, upper)
            assert learner.flops == pytest.approx(counted.total, rel=0.09)


@pytest.mark.parametrize("attention", ["headstart_blocks", "eager"])
@pytest.mark.parametrize("layers", [None, (1,)])
@pytest.mark.parametrize(("hvp", "again"), [(forward_over_reverse, False), (forward_over_reverse, True), (double_backward, True)])
def test_counted_operations_of_second_order_are_those_that_run(tiny_spec, batcher, random_phi, episode, hvp, again, layers, attention):
    base = load_base(tiny_spec(), "cpu")
    base.model.set_attn_implementation(attention)
    rows = build_rows(rendered(batcher(base), episode))
    spec = LoraSpec(r=4, lora_alpha=8, layers_to_transform=layers)
    with Learner(base, spec) as learner, learner.second_order() if again else nullcontext():
        phi, w = random_phi(learner, len(episode)), random_phi(learner, len(episode), seed=1)
        with Counted() as counted:
            hvp(learner.losses, phi, rows, w)
        # PyTorch's checkpointing leaves out what follows the last tensor that it needs, which is most in a single layer
        assert learner.flops == pytest.approx(counted.total, rel=0.16 if layers else 0.12)


def test_closing_gives_the_plain_layers_back(dense_base):
    before = dict(dense_base.model.named_modules())
    with Learner(dense_base, LoraSpec()):
        assert dict(dense_base.model.named_modules()).keys() != before.keys()
    assert dict(dense_base.model.named_modules()) == before
