"""The 4-bit product against the dense one, in both directions and twice."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit

from headstart.model.base import load_base
from headstart.model.four_bit import linear_4bit


@pytest.fixture
def layer(tiny_spec):
    base = load_base(tiny_spec("nf4"), "cpu")
    return next(module for module in base.model.modules() if isinstance(module, Linear4bit))


def dense(layer):
    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()


def test_product_and_gradient_are_the_dense_ones(layer):
    x = torch.randn(2, 5, layer.in_features, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    own, wanted = linear_4bit(layer, x), y @ dense(layer).t()
    torch.testing.assert_close(own, wanted)
    probe = torch.randn_like(own)
    torch.testing.assert_close(torch.autograd.grad(own, x, probe), torch.autograd.grad(wanted, y, probe))


def test_second_derivative_is_right(layer):
    """Of |W x|^2: twice W^T W."""
    x, v = torch.randn(3, layer.in_features, requires_grad=True), torch.randn(3, layer.in_features)
    (gradient,) = torch.autograd.grad(linear_4bit(layer, x).square().sum(), x, create_graph=True)
    (product,) = torch.autograd.grad(gradient, x, v)
    weight = dense(layer)
    torch.testing.assert_close(product, 2 * v @ weight.t() @ weight)


def test_passes_without_gradients_leave_the_weights_alone(layer):
    before = dense(layer)
    with torch.no_grad():
        linear_4bit(layer, torch.randn(4, layer.in_features))
    assert torch.equal(dense(layer), before)


def test_stock_forward_no_longer_repacks(layer):
    before = dense(layer)
    with torch.no_grad():
        layer(torch.randn(4, layer.in_features))
    assert torch.equal(dense(layer), before)
