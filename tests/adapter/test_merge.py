"""A merged model is the adapter on its base, by its logits, and is loaded by transformers alone."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from headstart.adapter.adapted import AdaptedAdapter
from headstart.adapter.header import AdapterError
from headstart.adapter.merge import difference, merge
from headstart.files import WriteError
from headstart.model.base import BaseSpec, load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.model.sites import handing

IDS = torch.tensor([[5, 60, 200, 17, 90, 3, 250, 8]])


@pytest.fixture
def saved(random_phi, tmp_path):
    """Saves a random adapter on a base, and gives its folder and its logits."""

    def build(base, targets="all-linear", size=1.0):
        with Learner(base, LoraSpec(4, 8, targets)) as learner:
            phi = {name: tensor[0] * size for name, tensor in random_phi(learner, 1).items()}
            AdaptedAdapter(phi, learner.spec, base, instruction="Shout.").save_pretrained(tmp_path / "adapter")
            with handing(learner.sites, {name: tensor[None] for name, tensor in phi.items()}), torch.no_grad():
                return tmp_path / "adapter", base.model(input_ids=IDS).logits.float()

    return build


def logits(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=IDS).logits.float()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_a_merged_model_is_the_adapter_on_its_base(saved, architecture_folder, tmp_path, quiet, name):
    base = load_base(BaseSpec(f"test/{name}", str(architecture_folder(name)), "none", "float32"), "cpu")
    folder, expected = saved(base)
    merged = merge(folder, tmp_path / "merged", console=quiet)
    assert merged.onto == "original"
    torch.testing.assert_close(logits(merged.folder), expected, rtol=1e-4, atol=1e-4)
    assert merged.difference.largest < 1e-4 * merged.difference.spread + 1e-4
    assert merged.difference.same_token == 1.0
    assert merged.difference.divergence == pytest.approx(0, abs=1e-6)


def test_onto_dequantised_weights_it_is_what_was_trained_and_onto_the_original_ones_it_is_not(saved, tiny_spec, tmp_path, quiet):
    base = load_base(tiny_spec("nf4", "float32"), "cpu")
    folder, expected = saved(base)
    rounded = merge(folder, tmp_path / "rounded", console=quiet)
    original = merge(folder, tmp_path / "original", onto="original", console=quiet)
    assert (rounded.onto, original.onto) == ("dequantized", "original")
    torch.testing.assert_close(logits(rounded.folder), expected, rtol=1e-3, atol=1e-3)
    assert original.difference.largest > 10 * rounded.difference.largest
    assert not torch.allclose(logits(original.folder), expected, atol=1e-2)


def test_what_is_saved_needs_nothing_else(saved, tiny_spec, tmp_path, quiet):
    folder, _ = saved(load_base(tiny_spec("nf4", "float32"), "cpu"))
    merge(folder, tmp_path / "merged", max_shard_size="100KB", console=quiet)
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "tokenizer.json", "README.md", "headstart.json", "model.safetensors.index.json"} <= files
    assert len([name for name in files if name.endswith(".safetensors")]) > 1
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    about = json.loads((tmp_path / "merged" / "headstart.json").read_text())
    assert (about["kind"], about["onto"], about["adapter"]) == ("merged_model", "dequantized", "adapter")
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "logits differ by at most" in card
    assert "base_model: test/tiny" in card


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_another_type_can_be_asked_for(saved, dense_base, tmp_path, quiet, dtype):
    folder, _ = saved(dense_base)
    merged = merge(folder, tmp_path / "merged", dtype=dtype, console=quiet)
    assert AutoModelForCausalLM.from_pretrained(merged.folder, dtype="auto").dtype == getattr(torch, dtype)
    assert 0 < merged.difference.largest < merged.difference.spread


def test_anothers_adapter_was_trained_on_weights_as_they_are(saved, dense_base, tiny_folder, tmp_path, quiet):
    """It does not say; 4-bit weights are taken where the user says so."""
    folder, expected = saved(dense_base)
    (folder / "headstart.json").unlink()
    merged = merge(folder, tmp_path / "merged", base_source=str(tiny_folder), dtype="float32", console=quiet)
    assert merged.onto == "original"
    torch.testing.assert_close(logits(merged.folder), expected, rtol=1e-4, atol=1e-4)
    assert "quantised" not in (tmp_path / "merged" / "README.md").read_text()
    rounded = merge(folder, tmp_path / "rounded", onto="dequantized", base_source=str(tiny_folder), dtype="float32", console=quiet)
    assert not torch.allclose(logits(rounded.folder), expected, atol=1e-2)


def test_nothing_is_written_over(saved, dense_base, tmp_path, quiet):
    folder, _ = saved(dense_base)
    with pytest.raises(WriteError, match="adapter: is there already; name another place"):
        merge(folder, folder, console=quiet)
    assert (folder / "adapter_model.safetensors").exists()


def test_a_size_is_a_number_of_bytes(saved, dense_base, tmp_path, quiet):
    folder, _ = saved(dense_base)
    with pytest.raises(AdapterError, match="--max-shard-size '5 potatoes': give a number of bytes in words, such as 5GB"):
        merge(folder, tmp_path / "merged", max_shard_size="5 potatoes", console=quiet)


def test_there_must_be_something_to_dequantise(saved, dense_base, tmp_path, quiet):
    folder, _ = saved(dense_base)
    with pytest.raises(AdapterError, match="its base was not quantised, so nothing can be dequantised"):
        merge(folder, tmp_path / "merged", onto="dequantized", console=quiet)
    assert not (tmp_path / "merged").exists()


def test_numbers_that_do_not_fit_the_type_are_refused(saved, dense_base, tmp_path, quiet):
    folder, _ = saved(dense_base, size=1e4)
    with pytest.raises(AdapterError, match=r"adapter: merged, model\.layers\.0.* holds numbers too large for torch.float16"):
        merge(folder, tmp_path / "merged", dtype="float16", console=quiet)
    assert not (tmp_path / "merged").exists()


def test_differences_are_what_they_say():
    first = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    second = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    found = difference(first, second)
    p = torch.softmax(first[1], 0)
    assert (found.largest, found.same_token, found.tokens) == (2.0, 0.5, 2)
    assert found.spread == pytest.approx(float(first.std()))
    assert found.divergence == pytest.approx(float(p @ (p.log() - torch.softmax(second[1], 0).log())) / 2)
