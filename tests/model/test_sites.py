"""Our LoRA site against PEFT's, and what targets mean."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model

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
def test_forward_and_gradients_are_pefts(tiny_spec, random_phi, quantization, dtype, tolerance):
    spec = tiny_spec(quantization, dtype)
    base = load_base(spec, "cpu")
    ids = torch.randint(0, 256, (1, 20), generator=torch.Generator().manual_seed(1))
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner:
        adapter = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        phi = {name: tensor[None].requires_grad_() for name, tensor in adapter.items()}
        with handing(learner.sites, phi):
            own = learner.base.model(input_ids=ids).logits
            with torch.no_grad():
                evaluated = learner.base.model(input_ids=ids).logits
        own_gradients = torch.autograd.grad(own.float().logsumexp(-1).sum(), list(phi.values()))
    twin = peft_twin(spec, adapter)
    theirs = twin(input_ids=ids).logits
    theirs.float().logsumexp(-1).sum().backward()
    parameters = dict(twin.named_parameters())
    # an evaluation has PEFT's very bits; a training pass computes the update in the base's type, and rounds elsewhere
    torch.testing.assert_close(evaluated, theirs, rtol=tolerance, atol=tolerance)
    rounding = 1e-5 if dtype == "float32" else 2e-2
    assert float((own - theirs).float().square().mean().sqrt()) <= rounding * float(theirs.float().std())
    for name, gradient in zip(phi, own_gradients, strict=True):
        wanted = parameters[f"base_model.model.{name}.default.weight"].grad
        # in bf16 the two round in different places
        bound = (1e-4 if dtype == "float32" else 6e-2) * float(wanted.norm())
        assert float((gradient[0] - wanted).norm()) <= bound, name


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
