"""Twins: by hand = by definition, and which of them runs."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from transformers.pytorch_utils import Conv1D

from headstart.model import twins
from headstart.model.base import load_base
from headstart.model.label_loss import LabelLoss
from headstart.model.sites import LINEAR, LoraProduct
from headstart.model.twins import compute, differentiable_twice, to_be_differentiated


def lora(layer, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    inputs = draw(3, 5, 6), draw(3, 2, 6), draw(3, 4, 2)
    return LoraProduct(layer.to(dtype).requires_grad_(False), 0.7), [each.requires_grad_() for each in inputs]


def label_loss(dtype=torch.float64):
    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()
    return LabelLoss(torch.arange(7)), [logits]


CASES = {"dense": lambda: lora(nn.Linear(6, 4)), "conv1d": lambda: lora(Conv1D(4, 6)), "label_loss": label_loss}


@pytest.fixture(params=CASES)
def case(request):
    torch.manual_seed(0)
    return CASES[request.param]()


def test_value_and_gradients_by_hand(case):
    twin, inputs = case
    own, wanted = compute(twin, *inputs), twin.plain(*inputs)
    torch.testing.assert_close(own, wanted)
    probe = torch.randn_like(own)
    torch.testing.assert_close(torch.autograd.grad(own, inputs, probe), torch.autograd.grad(wanted, inputs, probe))


def test_gradients_that_nobody_wants_are_not_computed(case):
    twin, inputs = case
    inputs[0].requires_grad_(len(inputs) == 1)
    own = compute(twin, *inputs)
    wanted = [each for each in inputs if each.requires_grad]
    torch.testing.assert_close(
        torch.autograd.grad(own, wanted, torch.ones_like(own)), torch.autograd.grad(twin.plain(*inputs), wanted, torch.ones_like(own))
    )


def test_gradgradcheck(case):
    twin, inputs = case
    assert torch.autograd.gradcheck(lambda *each: compute(twin, *each), inputs)
    assert torch.autograd.gradgradcheck(lambda *each: compute(twin, *each), inputs)


def test_forward_over_reverse_is_reverse_over_reverse(case):
    twin, inputs = case
    tangents = [torch.randn_like(each) for each in inputs]
    first = torch.autograd.grad(compute(twin, *inputs).square().sum(), inputs, create_graph=True)
    wanted = torch.autograd.grad(first, inputs, tangents)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(each, tangent) for each, tangent in zip(inputs, tangents, strict=True)]
        found = torch.autograd.grad(compute(twin, *duals).square().sum(), inputs)
        torch.testing.assert_close(tuple(forward_ad.unpack_dual(each).tangent for each in found), wanted)


class Told:
    """Says which of the two ran."""

    def plain(self, x):
        return x * 0 + 1

    def forward(self, x):
        return x * 0 + 2, ()

    def backward(self, grad, inputs, kept, needed):
        return (grad * 0,)


def test_which_runs():
    x = torch.ones(1, requires_grad=True)
    assert float(compute(Told(), x)) == 2
    with differentiable_twice():
        assert float(compute(Told(), x)) == 1
    with torch.no_grad():
        assert float(compute(Told(), x)) == 1, "an evaluation is by the definition"
        with to_be_differentiated():
            assert float(compute(Told(), x)) == 2, "a pass that is computed again has the values it will have then"
    assert float(compute(Told(), x.detach())) == 1
    with forward_ad.dual_level():
        assert float(compute(Told(), forward_ad.make_dual(x, x.detach()))) == 1
    assert not twins._twice.get()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_of_an_adapter_too_small_for_the_bases_type_is_seen(dtype):
    """Half a spacing of the type and less: with rounded factors nothing would change."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 4).to(dtype).requires_grad_(False)
    x = torch.randn(1, 9, 64).to(dtype).requires_grad_()
    a, b = torch.randn(1, 2, 64), torch.randn(1, 4, 2)
    rounded = a.to(dtype).float()
    step = rounded.abs() * torch.finfo(dtype).eps / 8
    assert torch.equal((rounded + step).to(dtype), rounded.to(dtype))
    product = LoraProduct(layer, 1.0)
    low, moved = (product.forward(x, each, b)[1][0] for each in (rounded, rounded + 64 * step))
    assert not torch.equal(low, moved)
    exact = torch.bmm(x.float(), a.mT)
    kept = product.forward(x, a, b)[1][0].float()
    assert float((kept - exact).norm() / exact.norm()) < torch.finfo(dtype).eps


def test_neither_wide_logits_nor_their_softmax_are_kept():
    logits = torch.randn(64, 500).bfloat16().requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append((t.dtype, t.numel())) or t, lambda t: t):
        compute(LabelLoss(torch.zeros(64, dtype=torch.long)), logits)
    assert [dtype for dtype, size in saved if size >= logits.numel()] == [torch.bfloat16]


def test_label_losses_in_pieces_are_those_at_once(monkeypatch):
    twin, (logits,) = label_loss(torch.float32)
    found = []
    for chunk in (1, 30, 1 << 20):
        monkeypatch.setattr("headstart.model.label_loss.CHUNK", chunk)
        value = compute(twin, logits)
        found.append((value, torch.autograd.grad(value, logits, torch.arange(7.0))[0]))
    for value, gradient in found[1:]:
        assert torch.equal(value, found[0][0])
        assert torch.equal(gradient, found[0][1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_four_bit_by_hand_is_the_definition(tiny_spec, dtype):
    base = load_base(tiny_spec("nf4"), "cpu")
    layer = next(module for module in base.model.modules() if isinstance(module, LINEAR) and "4bit" in type(module).__name__)
    exact = getattr(torch, dtype)
    inputs = [
        torch.randn(*shape, dtype=exact, requires_grad=True)
        for shape in ((2, 5, layer.in_features), (2, 3, layer.in_features), (2, layer.out_features, 3))
    ]
    twin = LoraProduct(layer, 0.5)
    own, wanted = compute(twin, *inputs), twin.plain(*inputs)
    torch.testing.assert_close(own, wanted)
    torch.testing.assert_close(torch.autograd.grad(own.square().sum(), inputs), torch.autograd.grad(wanted.square().sum(), inputs))
