"""A GGUF LoRA holds what llama.cpp asks for: metadata, names, shapes, and rows of query and key projections in its order."""

import gguf
import numpy as np
import pytest
from bases import BASES, save_tiny
from safetensors.torch import load_file, save_file

from headstart.adapter.adapted import AdaptedAdapter
from headstart.adapter.gguf import ARCHITECTURES, by_neighbours, export_gguf
from headstart.adapter.header import AdapterError
from headstart.files import WriteError
from headstart.model.base import BaseSpec, load_base
from headstart.model.learner import Learner, LoraSpec


@pytest.fixture
def saved(architecture_folder, random_phi, tmp_path):
    """Saves a random adapter of rank 4 of an architecture."""

    def build(name, targets="all-linear"):
        base = load_base(BaseSpec(f"test/{name}", str(architecture_folder(name)), "none", "float32"), "cpu")
        with Learner(base, LoraSpec(4, 12, targets)) as learner:
            phi = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
            AdaptedAdapter(phi, learner.spec, base).save_pretrained(tmp_path / name)
        return tmp_path / name, base

    return build


def read(path):
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, {each.name: each.data for each in reader.tensors}


def rotated(x, position=3.0, halves=True):
    """Rotary embedding of one head's `(d, ...)` rows at a position, by halves as transformers does or by neighbours as llama.cpp."""
    d = len(x)
    angle = position * 10000.0 ** (-np.arange(d // 2) * 2 / d)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    out = np.empty_like(x)
    first, second = (slice(0, d // 2), slice(d // 2, d)) if halves else (slice(0, d, 2), slice(1, d, 2))
    out[first], out[second] = x[first] * cos - x[second] * sin, x[second] * cos + x[first] * sin
    return out


def test_neighbours_are_rotated_as_halves_were():
    """The permutation is right if rotating by neighbours behind it is rotating by halves before it, so that products of heads stay."""
    generator = np.random.default_rng(0)
    q, k = generator.normal(size=(3 * 8, 5)), generator.normal(size=(3 * 8, 5))
    for head in range(3):
        rows = slice(8 * head, 8 * head + 8)
        before = rotated(q[rows]).T @ rotated(k[rows], 1.0)
        behind = rotated(by_neighbours(q, 3)[rows], halves=False).T @ rotated(by_neighbours(k, 3)[rows], 1.0, halves=False)
        np.testing.assert_allclose(behind, before, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "arch", "permuted"),
    [
        ("llama", "llama", True),
        ("mistral", "llama", True),
        ("qwen3", "qwen3", False),
        ("gemma2", "gemma2", False),
        ("gemma3_text", "gemma3", False),
    ],
)
def test_a_file_holds_every_tensor_under_its_name(saved, tmp_path, name, arch, permuted):
    folder, _ = saved(name)
    fields, tensors = read(export_gguf(folder, tmp_path / "a.gguf"))
    assert fields["general.type"] == "adapter"
    assert fields["general.architecture"] == arch
    assert fields["adapter.type"] == "lora"
    assert fields["adapter.lora.alpha"] == 12.0
    assert fields["general.base_model.0.repo_url"].endswith(f"/test/{name}")
    own = {
        key.removeprefix("base_model.model.").removesuffix(".weight"): tensor.numpy()
        for key, tensor in load_file(folder / "adapter_model.safetensors").items()
    }
    short = {
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
    }
    heads = {"q_proj": 4, "k_proj": 2}
    assert len(tensors) == len(own) == 2 * 2 * len(short)
    for key, value in own.items():
        layer, kind, side = key.split(".")[2], key.split(".")[4], key.rpartition(".")[2]
        wanted = by_neighbours(value, heads[kind]) if permuted and side == "lora_B" and kind in heads else value
        np.testing.assert_array_equal(tensors[f"blk.{layer}.{short[kind]}.weight.{side.lower()}"], wanted)


def test_the_text_part_of_a_model_that_sees_has_the_names_of_the_text_model(random_phi, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    base = load_base(BaseSpec("test/gemma3", str(save_tiny(BASES["gemma-3-4b"], folder)), "none", "float32"), "cpu")
    with Learner(base, LoraSpec(4, 12, r"model\.language_model\..*_proj")) as learner:
        phi = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        AdaptedAdapter(phi, learner.spec, base).save_pretrained(tmp_path / "adapter")
    fields, tensors = read(export_gguf(tmp_path / "adapter", tmp_path / "a.gguf"))
    assert fields["general.architecture"] == "gemma3"
    assert "blk.1.attn_q.weight.lora_a" in tensors
    assert len(tensors) == len(phi)


def test_rows_that_are_no_heads_are_refused(saved, tmp_path, monkeypatch):
    folder, _ = saved("llama", ("q_proj",))
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor[:5] if "lora_B" in name else tensor for name, tensor in load_file(path).items()}, path)
    monkeypatch.setattr("headstart.adapter.gguf._require_fit", lambda *_: None)
    with pytest.raises(AdapterError, match="q_proj has 5 outputs, no multiple of two for each of the base's 4 heads"):
        export_gguf(folder, tmp_path / "a.gguf")


def test_numbers_can_take_half_the_room(saved, tmp_path):
    folder, _ = saved("llama")
    wide, narrow = export_gguf(folder, tmp_path / "wide.gguf"), export_gguf(folder, tmp_path / "narrow.gguf", precision="float16")
    assert narrow.stat().st_size < 0.7 * wide.stat().st_size
    for name, value in read(narrow)[1].items():
        assert value.dtype == np.float16
        np.testing.assert_allclose(value, read(wide)[1][name], atol=1e-3)


def test_every_architecture_is_one_of_ggufs():
    assert {each.arch for each in ARCHITECTURES.values()} <= set(gguf.MODEL_ARCH_NAMES.values())


@pytest.mark.parametrize(
    ("name", "words"), [("gpt2", "is not known here.*headstart merge"), ("cohere2", "Cohere2ForCausalLM is not known here")]
)
def test_an_unknown_architecture_is_refused(saved, tmp_path, name, words):
    folder, _ = saved(name)
    with pytest.raises(AdapterError, match=words):
        export_gguf(folder, tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


def test_the_ending_is_asked_for(saved, tmp_path):
    with pytest.raises(AdapterError, match=r"name it .*/a\.bin\.gguf"):
        export_gguf(tmp_path, tmp_path / "a.bin")


def test_the_ending_is_in_small_letters(saved, tmp_path):
    with pytest.raises(AdapterError, match=r"a\.GGUF: .*name it .*/a\.gguf"):
        export_gguf(tmp_path, tmp_path / "a.GGUF")


def test_nothing_is_written_over(saved, tmp_path):
    folder, _ = saved("llama")
    (tmp_path / "base.gguf").write_bytes(b"weights")
    with pytest.raises(WriteError, match=r"base\.gguf: is there already"):
        export_gguf(folder, tmp_path / "base.gguf")
    assert (tmp_path / "base.gguf").read_bytes() == b"weights"


@pytest.mark.parametrize(("name", "axis"), [("lora_A", 1), ("lora_B", 0)])
def test_tensors_of_other_layers_are_refused(saved, tmp_path, name, axis):
    folder, _ = saved("llama", ("q_proj",))
    path = folder / "adapter_model.safetensors"
    cut = {key: tensor.narrow(axis, 0, 8).contiguous() if name in key else tensor for key, tensor in load_file(path).items()}
    save_file(cut, path)
    with pytest.raises(AdapterError, match=rf"does not fit test/llama: .*q_proj\.{name} has shape .*, and the layer takes 64 there"):
        export_gguf(folder, tmp_path / "a.gguf")


def test_layers_that_the_base_lacks_are_refused(saved, tmp_path):
    folder, _ = saved("llama", ("q_proj",))
    path = folder / "adapter_model.safetensors"
    save_file({key.replace("layers.1.", "layers.7."): tensor for key, tensor in load_file(path).items()}, path)
    with pytest.raises(AdapterError, match=r"layers\.7.*, and there is no such layer"):
        export_gguf(folder, tmp_path / "a.gguf")


def test_numbers_too_large_are_refused(saved, tmp_path):
    folder, _ = saved("llama")
    path = folder / "adapter_model.safetensors"
    save_file({key: tensor * 1e6 for key, tensor in load_file(path).items()}, path)
    with pytest.raises(AdapterError, match="holds numbers too large for float16; export it in float32"):
        export_gguf(folder, tmp_path / "a.gguf", precision="float16")


def test_a_write_that_fails_leaves_nothing(saved, tmp_path, monkeypatch):
    folder, _ = saved("llama")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    (tmp_path / "out").mkdir()
    with pytest.raises(Exception, match=r"a\.gguf: cannot be written: No space left"):
        export_gguf(folder, tmp_path / "out" / "a.gguf")
    assert not list((tmp_path / "out").iterdir())
