"""What targets mean, and what they refuse."""

import copy

import pytest
from peft import LoraConfig, get_peft_model

from headstart.model.learner import Learner, LoraSpec
from headstart.model.targets import TargetError, peft_targets, target_names

CASES = [
    ("llama", "all-linear", None),
    ("llama", ["q_proj", "v_proj"], None),
    ("llama", ["down_proj"], None),
    ("llama", ["layers.0.self_attn.q_proj"], None),
    ("llama", r".*layers\.1\..*_proj", None),
    ("llama", ["q_proj", "o_proj"], [1]),
    ("qwen3", ["gate_proj", "up_proj"], [0]),
    ("mistral", "all-linear", None),
    ("gemma3_text", "all-linear", None),
    ("gpt2", "all-linear", None),
    ("gpt2", ["c_attn", "c_fc"], None),
    ("gpt2", ["c_proj"], [1]),
]


@pytest.mark.parametrize(("name", "targets", "layers"), CASES)
def test_targets_mean_what_peft_means(architecture, name, targets, layers):
    model = architecture(name).model
    twin = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=targets, layers_to_transform=layers, task_type="CAUSAL_LM"))
    adapted = {name.removeprefix("base_model.model.").split(".lora_A")[0] for name, _ in twin.named_parameters() if "lora_A" in name}
    assert set(target_names(model, targets, layers)) == adapted


@pytest.mark.parametrize(("name", "targets", "layers"), [*CASES, ("llama", "all-linear", [1])])
def test_saved_targets_mean_the_same_layers(architecture, name, targets, layers):
    model = architecture(name).model
    names = target_names(model, targets, layers)
    saved, saved_layers = peft_targets(model, names, layers)
    assert target_names(model, saved, saved_layers) == names


def test_saved_targets_are_suffixes_where_they_say_the_same(dense_base):
    names = target_names(dense_base.model, "all-linear", [1])
    assert peft_targets(dense_base.model, names, [1]) == (
        ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
        (1,),
    )
    one = target_names(dense_base.model, ["layers.0.self_attn.q_proj"])
    assert peft_targets(dense_base.model, one) == (tuple(one), None)


@pytest.mark.parametrize(
    ("targets", "layers", "words"),
    [
        (("q_proj", "query"), None, "'query' matches nothing in this base; its linear layers end in down_proj, "),
        ("q_proj", None, r"write \[q_proj\] for a suffix"),
        (("lm_head",), None, "'lm_head' matches lm_head, which is the output layer"),
        (("mlp",), None, "which is LlamaMLP"),
        (r".*layers\.0\..*", None, "only inner linear layers"),
        ("*.q_proj", None, "is no regular expression"),
        (".*q_proj", (0,), "names its layers itself"),
        ("all-linear", (0, 7), "no targeted layer is in decoder layer 7"),
    ],
)
def test_targets_that_do_not_fit_are_refused_by_name(dense_base, targets, layers, words):
    with pytest.raises(TargetError, match=words):
        target_names(dense_base.model, targets, layers)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"], ["experts"], r".*gate_up_proj"])
def test_experts_are_refused_by_name(architecture, targets):
    """PEFT would adapt only the dense layers that match, in silence."""
    with pytest.raises(TargetError, match=r"experts' weights, model\.layers\.0\.mlp\.experts\.\w+ \(4, \d+, \d+\) and [13] more"):
        target_names(architecture("mixtral").model, targets)


def test_dense_layers_beside_experts_can_be_adapted(architecture):
    assert len(target_names(architecture("mixtral").model, ["q_proj", "v_proj"])) == 4


@pytest.mark.parametrize(("name", "quantization", "transposed"), [("gpt2", "none", True), ("gpt2", "nf4", False), ("llama", "none", False)])
def test_transposed_weights_are_recorded_as_peft_records_them(architecture, name, quantization, transposed):
    with Learner(architecture(name, quantization), LoraSpec()) as learner:
        assert learner.spec.fan_in_fan_out == transposed
