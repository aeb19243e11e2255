"""What engines refuse or get wrong in silence is found, by the engine, and what is saved here is taken by all of them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart.adapter.adapted import AdaptedAdapter
from headstart.adapter.header import AdapterError
from headstart.adapter.lint import ENGINES, lint, require_portable
from headstart.model.learner import Learner, LoraSpec
from headstart.shipped import shipped_adapters


@pytest.fixture
def folder(dense_base, random_phi, tmp_path):
    """A saved adapter of rank 8 on all linear layers."""

    def build(spec=None):
        with Learner(dense_base, spec or LoraSpec(r=8, lora_alpha=16)) as learner:
            phi = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
            AdaptedAdapter(phi, learner.spec, dense_base).save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return build


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def found(folder, engine=None):
    """Level and text of each problem, for one engine or all."""
    return [(problem.level, problem.text) for problem in lint(folder, [engine] if engine else ENGINES).problems]


def test_what_is_saved_here_is_taken_by_all(folder):
    assert found(folder()) == []
    require_portable(folder())


@pytest.mark.parametrize("name", shipped_adapters())
def test_shipped_adapters_have_no_errors(name):
    assert not lint(name).errors


# key, value, the engines that refuse it or get it wrong, words
ERRORS = [
    ("use_dora", True, ("vllm", "sglang", "llama.cpp"), "train a plain LoRA"),
    ("use_rslora", True, ("sglang", "llama.cpp"), r"set it to false and multiply every lora_B by 2\.82843"),
    ("rank_pattern", {"q_proj": 4}, ("sglang",), "train at one rank"),
    ("alpha_pattern", {"q_proj": 4}, ("sglang", "llama.cpp"), "fold it into lora_B"),
    ("bias", "all", ("vllm", "sglang", "llama.cpp"), "train with bias none"),
    ("lora_bias", True, ("vllm", "sglang", "llama.cpp"), "train without it"),
    ("modules_to_save", ["lm_head"], ("vllm", "sglang", "llama.cpp"), "whole layers"),
    ("trainable_token_indices", [3], ("vllm", "sglang", "llama.cpp"), "new tokens"),
    ("target_parameters", ["experts.down_proj"], ("sglang", "llama.cpp"), "target linear layers"),
    ("init_lora_weights", "pissa", ENGINES, "changed the base's own weights"),
    ("init_lora_weights", "olora", ENGINES, "path_initial_model_for_weight_conversion"),
    ("use_qalora", True, ENGINES, "this is no plain LoRA"),
    ("alora_invocation_tokens", [1, 2], ENGINES, "this is no plain LoRA"),
    ("target_modules", r".*_proj", ("sglang",), r"write \[down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj\]"),
    ("target_modules", ["q_proj"], ("peft",), "dropped in silence; add its suffix"),
]


@pytest.mark.parametrize(("key", "value", "engines", "words"), ERRORS, ids=lambda each: str(each)[:24])
def test_an_error_is_told_of_the_engines_that_have_it(folder, key, value, engines, words):
    place = folder()
    edit(place, **{key: value})
    for engine in ENGINES:
        errors = [text for level, text in found(place, engine) if level == "error" and key in text]
        assert len(errors) == (engine in engines), engine
        assert all(text.startswith(f"{engine}: ") for text in errors)
    with pytest.raises(AdapterError, match=words):
        require_portable(place)


# what engines take with an option, or some of their versions
WARNINGS = [
    ({"rank_pattern": {"q_proj": 4}}, "vllm", "before 0.32"),
    ({"alpha_pattern": {"q_proj": 4}}, "vllm", "before 0.32"),
    ({"base_model_name_or_path": None}, "llama.cpp", "write the base's id on the hub"),
    ({"base_model_name_or_path": "/home/me/base"}, "peft", "a path on this machine"),
]


@pytest.mark.parametrize(("changes", "engine", "words"), WARNINGS)
def test_a_warning_is_no_error(folder, changes, engine, words):
    place = folder()
    edit(place, **changes)
    assert [level for level, text in found(place, engine) if words in text] == ["warning"]


@pytest.mark.parametrize(("rank", "odd"), [(1, True), (8, False), (16, False), (24, True), (32, False), (64, False)])
def test_odd_ranks_are_told(folder, rank, odd):
    problems = [(level, "ranks that all are used with" in text) for level, text in found(folder(LoraSpec(rank, rank)), "sglang")]
    assert problems == ([("warning", True)] if odd else [])


@pytest.mark.parametrize(
    ("rank", "level", "words"), [(16, None, ""), (17, "warning", "--max-lora-rank 32"), (64, "warning", "--max-lora-rank 64")]
)
def test_vllm_is_told_its_largest_rank(folder, rank, level, words):
    problems = [(level, text) for level, text in found(folder(LoraSpec(rank, rank)), "vllm") if "max-lora-rank" in text]
    assert [each for each, _ in problems] == ([level] if level else [])
    assert all(words in text for _, text in problems)


def test_a_rank_beyond_vllms_largest_is_an_error(folder):
    place = folder()
    edit(place, r=513)
    told = [each for each in found(place, "vllm") if "r is 513" in each[1]]
    assert told == [("error", "vllm: r is 513, more than its largest --max-lora-rank, 512; train at a smaller rank")]


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("q_proj",), "q_proj is adapted without v_proj"),
        (("q_proj", "v_proj"), None),
        (("k_proj", "o_proj"), "k_proj is adapted without q_proj"),
        (("up_proj",), "up_proj is adapted without gate_proj"),
        (("gate_proj",), None),
    ],
)
def test_sglang_wants_projections_together(folder, targets, words):
    place = folder(LoraSpec(8, 8, targets))
    for engine, level in (("sglang", "error"), (None, "warning")):
        problems = found(place, engine)
        assert [each for each, text in problems if words and words in text] == ([level] if words else [])
        assert bool(problems) == bool(words)
    require_portable(place)


def test_sglang_wants_them_together_in_every_block(folder):
    place = folder(LoraSpec(8, 8, ("q_proj", "v_proj")))
    change(place, lambda tensors: {name: tensor for name, tensor in tensors.items() if ".0.self_attn.v_proj" not in name})
    assert any("q_proj is adapted without v_proj in model.layers.0" in text for _, text in found(place, "sglang"))


@pytest.mark.parametrize("key", ["modules_to_save", "trainable_token_indices", "bias"])
def test_tensors_that_are_no_loras_are_not_strays(folder, key):
    """PEFT loads what it saved itself."""
    place = folder()
    edit(place, **{key: "all" if key == "bias" else ["norm"]})
    change(place, lambda tensors: {**tensors, "base_model.model.model.norm.weight": torch.ones(64)})
    assert found(place, "peft") == []


def test_all_linear_is_a_target(folder):
    place = folder()
    edit(place, target_modules="all-linear")
    assert found(place) == []


# what is wrong with the tensors, the engines that mind, words
SPOILT = {
    "another rank": (
        lambda tensors: {name: other_rank(name, tensor) for name, tensor in tensors.items()},
        ("vllm", "sglang", "peft"),
        "of rank r = 8",
    ),
    "half": (lambda tensors: dict(list(tensors.items())[1:]), ("llama.cpp", "peft"), "one of lora_A and lora_B alone"),
    "the adapter's name": (
        lambda tensors: {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()},
        ("vllm", "llama.cpp"),
        "does not end in lora_A.weight",
    ),
}


SPOILT |= {
    "no part of a LoRA": (
        lambda tensors: {**tensors, "base_model.model.model.embed_tokens.weight": torch.ones(8, 8)},
        ("vllm", "sglang", "llama.cpp"),
        "is no part of a LoRA",
    ),
    "a target without tensors": (
        lambda tensors: {name: tensor for name, tensor in tensors.items() if "down_proj" not in name},
        ("peft",),
        "no tensor is of 'down_proj', one of target_modules",
    ),
}


def other_rank(name, tensor):
    return tensor[:4].contiguous() if ".lora_A" in name else tensor[:, :4].contiguous()


def change(folder, how):
    path = folder / "adapter_model.safetensors"
    save_file(how(load_file(path)), path)


@pytest.mark.parametrize("what", SPOILT)
def test_tensors_that_do_not_fit_are_errors(folder, what):
    how, engines, words = SPOILT[what]
    place = folder()
    change(place, how)
    for engine in ENGINES:
        assert [level for level, text in found(place, engine) if words in text] == (["error"] if engine in engines else []), engine


@pytest.mark.parametrize(("key", "engines"), [("lora_alpha", ("vllm", "sglang", "llama.cpp")), ("target_modules", ("vllm", "sglang"))])
def test_keys_that_are_asked_for(folder, key, engines):
    place = folder()
    path = place / "adapter_config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))
    for engine in ENGINES:
        assert any(f"{key} is missing" in text for _, text in found(place, engine)) == (engine in engines), engine


def test_tensors_without_pefts_prefix_are_told(folder):
    place = folder()
    path = place / "adapter_model.safetensors"
    save_file({name.removeprefix("base_model.model."): tensor for name, tensor in load_file(path).items()}, path)
    assert any(level == "error" and "does not begin with base_model.model." in text for level, text in found(place, "peft"))


def test_other_weights_in_the_folder_are_told_of_sglang(folder):
    place = folder()
    save_file({"x": torch.zeros(1)}, place / "rates.safetensors")
    (place / "added_tokens.json").write_text("{}")
    assert [level for level, _ in found(place)] == ["warning", "warning"]
    assert [level for level, _ in found(place, "sglang")] == ["error", "error"]
    assert found(place, "vllm") == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "not valid JSON"),
        (lambda folder: edit(folder, peft_type="IA3"), "peft_type is 'IA3'"),
        (lambda folder: edit(folder, r=10**400), "r: "),
        (lambda folder: edit(folder, lora_alpha=float("nan")), "lora_alpha is no finite number"),
        (lambda folder: edit(folder, r="8"), "r: expected a whole number, got the text '8'"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "not a safetensors file"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no such file"),
        (lambda folder: change(folder, lambda tensors: {}), "holds no tensors of a LoRA"),
        (lambda folder: change(folder, lambda tensors: {name: tensor / 0 for name, tensor in tensors.items()}), "holds NaN or infinity"),
    ],
)
def test_what_cannot_be_read_is_a_finding(folder, spoil, words):
    place = folder()
    spoil(place)
    (problem,) = lint(place).problems
    assert problem.level == "error"
    assert words in problem.text


def test_there_must_be_an_adapter(tmp_path):
    with pytest.raises(AdapterError, match="there is no adapter folder"):
        lint(str(tmp_path / "gone" / "away" / "x"))
