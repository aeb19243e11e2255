"""Our LoRA site against PEFT's, and what targets mean."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model

from headstart.model import sites
from headstart.model.base import load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.model.sites import handing

CONFIG = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "task_type": "CAUSAL_LM"}


def peft_twin(spec, adapter):
    """Stock PEFT on a base of its own, with the same adapter."""
    base = load_base(spec, "cpu")
    model = get_peft_model(base.model, LoraConfig(**CONFIG, target_modules="all-linear"))
    for module in model.modules():
        if isinstance(module, Linear4bit):
            del module.forward  # back to bitsandbytes' own
    state = {f"base_model.model.{name}.default.weight": tensor for name, tensor in adapter.items()}
    _, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    return model.eval()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.0)])
def test_forward_and_gradients_are_pefts(tiny_spec, random_phi, monkeypatch, quantization, dtype, tolerance):
    spec = tiny_spec(quantization, dtype)
    base = load_base(spec, "cpu")
    ids = torch.randint(0, 256, (1, 20), generator=torch.Generator().manual_seed(1))
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner:
        adapter = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        with monkeypatch.context() as patch:
            patch.setattr(sites, "compute", lambda twin, *inputs: twin.plain(*inputs))
            own, own_gradients = forth_and_back(learner, adapter, ids)
        with handing(learner.sites, {name: tensor[None] for name, tensor in adapter.items()}), torch.no_grad():
            evaluated = learner.base.model(input_ids=ids).logits
        by_hand, by_hand_gradients = forth_and_back(learner, adapter, ids)
    twin = peft_twin(spec, adapter)
    theirs = twin(input_ids=ids).logits
    theirs.float().logsumexp(-1).sum().backward()
    parameters = dict(twin.named_parameters())
    torch.testing.assert_close(own, theirs, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(evaluated, theirs, rtol=tolerance, atol=tolerance)
    for name, gradient in own_gradients.items():
        wanted = parameters[f"base_model.model.{name}.default.weight"].grad
        # in bf16 the two sum the same products in different orders going back
        bound = (1e-4 if dtype == "float32" else 3e-2) * float(wanted.abs().max())
        assert float((gradient - wanted).abs().max()) <= bound, name
    if dtype == "bfloat16":
        return
    # by hand nothing is rounded that is not in float32
    torch.testing.assert_close(by_hand, theirs, rtol=tolerance, atol=tolerance)
    for name, gradient in by_hand_gradients.items():
        wanted = parameters[f"base_model.model.{name}.default.weight"].grad
        assert float((gradient - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max()), name


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_by_hand_is_no_further_from_float32_than_peft(tiny_spec, random_phi, quantization):
    """Of a bfloat16 base: what is computed by hand rounds elsewhere, and no more by half over all tensors together."""
    ids = torch.randint(0, 256, (1, 20), generator=torch.Generator().manual_seed(1))
    found = {}
    for dtype in ("float32", "bfloat16"):
        with Learner(load_base(tiny_spec(quantization, dtype), "cpu"), LoraSpec(r=4, lora_alpha=8)) as learner:
            adapter = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
            found[dtype] = forth_and_back(learner, adapter, ids)[1]
    twin = peft_twin(tiny_spec(quantization, "bfloat16"), adapter)
    twin(input_ids=ids).logits.float().logsumexp(-1).sum().backward()
    theirs = {name: dict(twin.named_parameters())[f"base_model.model.{name}.default.weight"].grad for name in adapter}

    def error(gradients):
        wanted = found["float32"]
        return float(torch.stack([(gradients[name] - wanted[name]).norm() for name in wanted]).norm())

    assert 0 < error(found["bfloat16"]) <= 1.5 * error(theirs)


def forth_and_back(learner, adapter, ids):
    """Logits, and the gradients of some function of them in the adapter."""
    phi = {name: tensor[None].requires_grad_() for name, tensor in adapter.items()}
    with handing(learner.sites, phi):
        logits = learner.base.model(input_ids=ids).logits
    found = torch.autograd.grad(logits.float().logsumexp(-1).sum(), list(phi.values()))
    return logits, {name: gradient[0] for name, gradient in zip(phi, found, strict=True)}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("name", ["qwen3", "mistral", "gemma3_text", "gpt2"])
def test_other_architectures_are_adapted_as_peft_adapts_them(architecture, random_phi, name, quantization):
    base = architecture(name, quantization)
    ids = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(1))
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner, torch.no_grad():
        adapter = random_phi(learner, 1)
        with handing(learner.sites, adapter):
            own = learner.base.model(input_ids=ids).logits
    twin = peft_twin(base.spec, {name: tensor[0] for name, tensor in adapter.items()})
    torch.testing.assert_close(own, twin(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_a_site_without_an_adapter_refuses_to_run(dense_base):
    with Learner(dense_base, LoraSpec()), pytest.raises(RuntimeError, match="without an adapter"):
        dense_base.model(input_ids=torch.tensor([[1, 2]]))
