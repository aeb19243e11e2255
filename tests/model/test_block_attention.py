"""Attention over blocks: exact against the dense mask, in every order of derivative, and sending nothing through the filling."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from headstart.algorithms.inner import gradients
from headstart.model import block_attention
from headstart.model.attention import visible, within
from headstart.model.block_attention import BLOCKS, BlockAttention, RowAttention
from headstart.model.learner import Learner, LoraSpec
from headstart.model.twins import compute
from headstart.tasks.planner import Planner
from headstart.tasks.rows import Rendered, build_rows

HEADS, KEY_HEADS, WIDTH = 6, 2, 8


def batch(layout="packed", planner=None):
    """Tasks of unlike prefixes and examples, so that rows and buckets are filled up."""
    generator = torch.Generator().manual_seed(0)

    def example(prefix, own):
        return [Rendered((*prefix, *torch.randint(9, 99, (own,), generator=generator).tolist()), len(prefix) + own - 1)]

    tasks = [[example(range(5), own) for own in (4, 9, 5)], [example(range(2), own) for own in (3, 3)], [example(range(6), 2)]]
    return build_rows(tasks, layout=layout, planner=planner)


ROWS = {"packed": batch(), "split": batch(planner=Planner(max_row_tokens=15)), "padded": batch("padded")}


@pytest.fixture(params=ROWS)
def rows(request):
    return ROWS[request.param]


def inputs(rows, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    size, length = rows.input_ids.shape
    return [
        torch.randn(size, length, heads, WIDTH, generator=generator, dtype=dtype).transpose(1, 2).requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]


def dense(rows, window, q, k, v):
    mask = visible(rows) if window is None else visible(rows) & within(rows, window)
    k, v = (x.repeat_interleave(HEADS // KEY_HEADS, 1) for x in (k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3).transpose(1, 2)


def twin(rows, window=None, attend=block_attention._by_products):
    return BlockAttention(RowAttention(rows.blocks, window), 0.3, attend)


def real(rows):
    return (rows.branch != -2)[:, :, None, None]


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("attend", ["_by_products", "_fused"])
def test_value_and_gradients_are_the_dense_masks(rows, window, attend):
    own = twin(rows, window, getattr(block_attention, attend))
    q, k, v = inputs(rows)
    wanted = dense(rows, window, q, k, v) * real(rows)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * real(rows)
    expected = torch.autograd.grad(wanted, (q, k, v), weight)
    for value in (own.plain(q, k, v), compute(own, q, k, v)) if attend == "_by_products" else (own.plain(q, k, v),):
        torch.testing.assert_close(value * real(rows), wanted)
        # filling may hold anything, but no gradient of it may reach a token
        torch.testing.assert_close(torch.autograd.grad(value, (q, k, v), weight), expected)


def test_fillings_own_gradient_is_nothing(rows):
    """Whatever comes back to the filling: it would be counted among the adapter's gradients."""
    q, k, v = inputs(rows)
    value = compute(twin(rows), q, k, v)
    for gradient in torch.autograd.grad(value, (q, k, v), torch.ones_like(value) * real(rows)):
        assert not gradient.transpose(1, 2)[(rows.branch == -2)].any()


def test_second_derivatives_by_hand_and_by_definition(rows):
    q, k, v = inputs(rows)
    probe = [torch.randn_like(x) for x in (q, k, v)]
    ways = (lambda *x: compute(twin(rows), *x), twin(rows).plain, lambda *x: dense(rows, None, *x))
    found = []
    for way in ways:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            first = torch.autograd.grad(((way(q, k, v) * real(rows)) ** 3).sum(), (q, k, v), create_graph=True)
            found.append(torch.autograd.grad(first, (q, k, v), probe))
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[2])


def test_forward_mode_is_reverse_mode(rows):
    q, k, v = inputs(rows)
    tangents = [torch.randn_like(x) for x in (q, k, v)]
    weight = torch.randn(twin(rows).plain(q, k, v).shape, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(x.detach(), t) for x, t in zip((q, k, v), tangents, strict=True)]
        pushed = torch.autograd.forward_ad.unpack_dual(compute(twin(rows), *duals)).tangent
    pulled = torch.autograd.grad(compute(twin(rows), q, k, v), (q, k, v), weight)
    expected = sum((a * b).sum() for a, b in zip(pulled, tangents, strict=True))
    # by hand, filling sends nothing back; forward, it is a copy of some token
    torch.testing.assert_close((pushed * weight * real(rows)).sum(), expected)


def test_nothing_as_large_as_a_rows_square_is_kept():
    rows = build_rows([[[Rendered((*range(4), 50 + i, *range(7)), 10)] for i in range(30)]])
    q, k, v = inputs(rows)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        compute(twin(rows), q, k, v)
    assert sum(saved) < HEADS * rows.input_ids.shape[1] ** 2


@pytest.mark.parametrize("wide", [False, True])
def test_wide_blocks_take_fused_attention_and_mean_the_same(dense_base, batcher, random_phi, episode, assert_same, monkeypatch, wide):
    rows = batcher(dense_base).batch(episode).query
    with Learner(dense_base, LoraSpec(r=4, lora_alpha=8)) as learner:
        phi = random_phi(learner, rows.tasks)
        wanted = gradients(learner.losses, phi, rows)
        calls = []
        fused = block_attention._fused
        monkeypatch.setattr(block_attention, "_fused", lambda *args: calls.append(1) or fused(*args))
        monkeypatch.setattr(block_attention, "KEPT_KEYS", 1 if wide else 768)
        found = gradients(learner.losses, phi, rows)
    assert bool(calls) == wide
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=0)
    assert_same(found[1], wanted[1])


@pytest.mark.parametrize(
    ("name", "taken"), [("llama", True), ("qwen3", True), ("mistral", True), ("gemma3_text", True), ("gpt2", True), ("gemma2", False)]
)
def test_bases_that_pytorchs_attention_serves_take_it(architecture, name, taken):
    """Gemma 2 caps its scores, which transformers computes eagerly."""
    assert (architecture(name).model.config._attn_implementation == BLOCKS) == taken


def test_a_pass_without_rows_is_the_models_own(dense_base):
    """As of stock PEFT on the same base, and of `generate`: with a mask for what is filled up."""
    ids, mask = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.no_grad():
        together = dense_base.model(input_ids=ids, attention_mask=mask).logits
        alone = dense_base.model(input_ids=ids[1:, :3]).logits
    torch.testing.assert_close(together[1:, :3], alone)


def test_what_blocks_do_not_have_is_refused(dense_base):
    rows = ROWS["packed"]
    q, k, v = inputs(rows)
    with pytest.raises(ValueError, match=r"no softcap; call model\.set_attn_implementation"):
        block_attention.attention(None, q, k, v, torch.zeros(1, 1, 1, 1), row_attention=[RowAttention(rows.blocks)], softcap=5.0)
