"""The 4-bit product against the dense one, in both directions and twice."""

import os
import subprocess
import sys

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit

from headstart.model.base import load_base
from headstart.model.frozen import product


@pytest.fixture
def layer(tiny_spec):
    base = load_base(tiny_spec("nf4"), "cpu")
    return next(module for module in base.model.modules() if isinstance(module, Linear4bit))


def dense(layer):
    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()


def test_product_and_gradient_are_the_dense_ones(layer):
    x = torch.randn(2, 5, layer.in_features, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    own, wanted = product(layer, x), y @ dense(layer).t()
    torch.testing.assert_close(own, wanted)
    probe = torch.randn_like(own)
    torch.testing.assert_close(torch.autograd.grad(own, x, probe), torch.autograd.grad(wanted, y, probe))


def test_second_derivative_is_right(layer):
    """Of |W x|^2: twice W^T W."""
    x, v = torch.randn(3, layer.in_features, requires_grad=True), torch.randn(3, layer.in_features)
    (gradient,) = torch.autograd.grad(product(layer, x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient, x, v)
    weight = dense(layer)
    torch.testing.assert_close(second, 2 * v @ weight.t() @ weight)


def test_passes_without_gradients_leave_the_weights_alone(layer):
    before = dense(layer)
    with torch.no_grad():
        product(layer, torch.randn(4, layer.in_features))
    assert torch.equal(dense(layer), before)


def test_stock_forward_no_longer_repacks(layer):
    before = dense(layer)
    with torch.no_grad():
        layer(torch.randn(4, layer.in_features))
    assert torch.equal(dense(layer), before)


def test_bitsandbytes_own_forward_agrees(layer):
    """What stock PEFT would have computed."""
    x = torch.randn(4, layer.in_features)
    torch.testing.assert_close(layer(x), Linear4bit.forward(layer, x), rtol=1e-5, atol=1e-5)


def test_no_dequantised_weight_is_saved(layer):
    """Of the tensors kept for the way back, under `create_graph` too, none has as many elements as the weight."""
    saved = []

    def note(tensor):
        saved.append(tensor.numel())
        return tensor

    x = torch.randn(3, layer.in_features, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        (gradient,) = torch.autograd.grad(product(layer, x).square().sum(), x, create_graph=True)
        gradient.square().sum()
    assert saved
    assert max(saved) < layer.in_features * layer.out_features


@pytest.mark.parametrize("module", ["model.base", "adapter.files", "training.run", "evaluation.run"])
def test_no_binary_is_fetched_from_the_hub(module, tmp_path):
    """With the package `kernels` there, bitsandbytes would fetch and run one when it is imported, by whomever."""
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    print('FETCHED')\n    raise ImportError\n")
    code = f"import headstart.{module}, sys; assert 'bitsandbytes' in sys.modules; import kernels; assert kernels.get_kernel"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "FETCHED" not in done.stdout
    assert "kernels" not in done.stderr
