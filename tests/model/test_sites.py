"""Our LoRA site against PEFT's, and what targets mean."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from headstart.model.base import load_base
from headstart.model.four_bit import forbid_repacking
from headstart.model.learner import Learner, LoraSpec
from headstart.model.sites import TargetError, handing, peft_targets, target_names

CONFIG = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "task_type": "CAUSAL_LM"}


def peft_twin(spec, adapter):
    """Stock PEFT on a base of its own, with the same adapter."""
    base = load_base(spec, "cpu")
    model = get_peft_model(base.model, LoraConfig(**CONFIG, target_modules="all-linear"))
    forbid_repacking(model)
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
        own_gradients = torch.autograd.grad(own.float().logsumexp(-1).sum(), list(phi.values()))
    twin = peft_twin(spec, adapter)
    theirs = twin(input_ids=ids).logits
    theirs.float().logsumexp(-1).sum().backward()
    parameters = dict(twin.named_parameters())
    torch.testing.assert_close(own, theirs, rtol=tolerance, atol=tolerance)
    for name, gradient in zip(phi, own_gradients, strict=True):
        wanted = parameters[f"base_model.model.{name}.default.weight"].grad
        # in bf16 the two sum the same products in different orders going back
        bound = (1e-4 if dtype == "float32" else 3e-2) * float(wanted.abs().max())
        assert float((gradient[0] - wanted).abs().max()) <= bound, name


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), ("down_proj",), ("layers.0.self_attn.q_proj",), "o_proj"])
def test_targets_mean_what_peft_means(dense_base, targets):
    names = target_names(dense_base.model, targets)
    peft_says = targets if targets == "all-linear" else [targets] if isinstance(targets, str) else list(targets)
    twin = get_peft_model(copy.deepcopy(dense_base.model), LoraConfig(**CONFIG, target_modules=peft_says))
    adapted = {name.removeprefix("base_model.model.").split(".lora_A")[0] for name, _ in twin.named_parameters() if "lora_A" in name}
    assert set(names) == adapted


@pytest.mark.parametrize(
    ("targets", "words"),
    [(("q_proj", "query"), "'query' matches nothing"), (("lm_head",), "the output layer"), (("mlp",), "which is LlamaMLP")],
)
def test_targets_that_do_not_fit_are_refused_by_name(dense_base, targets, words):
    with pytest.raises(TargetError, match=words):
        target_names(dense_base.model, targets)


def test_saved_targets_are_suffixes_where_they_say_the_same(dense_base):
    everything = target_names(dense_base.model, "all-linear")
    assert peft_targets(dense_base.model, everything) == tuple(sorted({name.rsplit(".", 1)[-1] for name in everything}))
    one = target_names(dense_base.model, ("layers.0.self_attn.q_proj",))
    assert peft_targets(dense_base.model, one) == tuple(one)


def test_a_site_without_an_adapter_refuses_to_run(dense_base):
    with Learner(dense_base, LoraSpec()), pytest.raises(RuntimeError, match="without an adapter"):
        dense_base.model(input_ids=torch.tensor([[1, 2]]))
