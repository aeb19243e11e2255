"""PEFT's files: a plain LoRA is read, anything else is refused by file, tensor and key, and before tensors are made."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart.adapter import files
from headstart.adapter.files import read_peft, read_rates, write_peft
from headstart.adapter.header import AdapterError
from headstart.model.learner import LoraSpec

LORA = LoraSpec(4, 8, ("k_proj", "q_proj"))
THETA = {
    f"layers.{layer}.attn.{site}.lora_{side}": torch.randn(*shape)
    for layer in (0, 1)
    for site in LORA.target_modules
    for side, shape in (("A", (4, 6)), ("B", (10, 4)))
}
FIRST = "base_model.model.layers.0.attn.k_proj.lora_A.weight"


@pytest.fixture
def folder(tmp_path):
    write_peft(tmp_path, THETA, LORA, "some/base", None)
    return tmp_path


def test_what_is_written_is_read(folder):
    theta, lora, base = read_peft(folder)
    assert (lora, base) == (LORA, ("some/base", None))
    assert theta.keys() == THETA.keys()
    assert all(torch.equal(theta[name], THETA[name]) for name in THETA)


def test_the_same_adapter_is_the_same_bytes(tmp_path):
    """PEFT keeps targets as a set, whose order is another in every process."""
    names = tuple(f"layer_{number}" for number in reversed(range(12)))
    write_peft(tmp_path, {}, LoraSpec(4, 8, names), "some/base", None)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == sorted(names)


def config(**changes):
    """Change keys of the configuration; a key given as `...` goes."""

    def spoil(folder):
        path = folder / "adapter_config.json"
        content = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return spoil


def weights(change):
    """Change the tensors in place."""

    def spoil(folder):
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def pickled(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def rename(name):
    return weights(lambda tensors: tensors.update({name: tensors.pop(FIRST)}))


REFUSED_BEFORE_TENSORS = {
    "no configuration": (lambda folder: (folder / "adapter_config.json").unlink(), r"adapter_config\.json: no such file"),
    "broken configuration": (lambda folder: (folder / "adapter_config.json").write_text("{"), r"adapter_config\.json: not valid JSON"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), r"adapter_model\.safetensors: no such file"),
    "pickled weights": (pickled, r"pickle \(adapter_model\.bin\).*save it again: PeftModel"),
    "broken weights": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"123"), "not a safetensors file, or cut off"),
    "rank as text": (config(r="4"), r"adapter_config\.json: r: expected a whole number, got the text '4'"),
    "rank as truth": (config(r=True), "r: expected a whole number, got true"),
    "rank zero": (config(r=0), "r: expected a number of at least 1"),
    "no rank": (config(r=...), "r: missing"),
    "half an alpha": (config(lora_alpha=8.5), "lora_alpha: expected a whole number"),
    "an alpha of many digits": (config(lora_alpha=10**400), "lora_alpha: expected a number of at most 100000"),
    "no tensors": (weights(lambda tensors: tensors.clear()), "holds no tensors, so it adapts nothing"),
    "no alpha": (config(lora_alpha=...), "lora_alpha: missing"),
    "no targets": (config(target_modules=...), "target_modules: missing"),
    "empty targets": (config(target_modules=[]), "target_modules: an empty list"),
    "targets as a pattern": (config(target_modules=".*proj"), r"target_modules: expected a list, got the text '\.\*proj'"),
    "no base": (config(base_model_name_or_path=None), "base_model_name_or_path: expected text"),
    "biases": (config(bias="all"), "bias: expected none, got the text 'all'"),
    "another method": (config(peft_type="IA3"), "peft_type: expected LORA, got the text 'IA3'"),
    "initialisation that changes the base": (config(init_lora_weights="pissa"), "init_lora_weights is 'pissa'.*convert it"),
    **{key: (config(**{key: {"x": 1}}), f"{key} is set") for key in files.UNSUPPORTED},
    "another rank": (config(r=8), r"k_proj\.lora_A has shape \(4, 6\), which is not of rank r = 8"),
    "target without tensors": (config(target_modules=["k_proj", "q_proj", "v_proj"]), "no tensor for 'v_proj'"),
    "tensors without target": (config(target_modules=["q_proj"]), r"'layers\.0\.attn\.k_proj' is none of"),
    "targets are suffixes of whole names": (config(target_modules=["proj"]), "is none of"),
    "A alone": (weights(lambda tensors: tensors.pop(FIRST.replace("lora_A", "lora_B"))), r"'layers\.0\.attn\.k_proj' has lora_A alone"),
    "three axes": (weights(lambda tensors: tensors.update({FIRST: torch.zeros(4, 3, 2)})), r"lora_A has shape \(4, 3, 2\)"),
    "foreign key": (weights(lambda tensors: tensors.update(x=torch.zeros(1))), "'x' is no tensor of a plain LoRA"),
    "embedding": (rename("base_model.model.embed.lora_embedding_A"), "is no tensor of a plain LoRA"),
    "magnitudes": (rename(FIRST.replace("lora_A.weight", "lora_magnitude_vector")), "is no tensor of a plain LoRA"),
    "whole numbers": (weights(lambda tensors: tensors.update({FIRST: torch.zeros(4, 6, dtype=torch.int64)})), "of type 'I64'"),
}


@pytest.mark.parametrize("fault", REFUSED_BEFORE_TENSORS)
def test_what_is_no_plain_lora_is_refused_before_tensors_are_made(folder, fault, monkeypatch):
    spoil, words = REFUSED_BEFORE_TENSORS[fault]
    spoil(folder)
    monkeypatch.setattr(files, "load_file", lambda path: pytest.fail("tensors were made"))
    with pytest.raises(AdapterError, match=words) as caught:
        read_peft(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_refused_by_name(folder, value):
    weights(lambda tensors: tensors[FIRST].view(-1)[3:4].fill_(value))(folder)
    with pytest.raises(AdapterError, match=r"k_proj\.lora_A\.weight' holds NaN or infinity"):
        read_peft(folder)


def test_dropout_of_another_trainer_does_no_harm(folder):
    config(lora_dropout=0.1, init_lora_weights="gaussian")(folder)
    assert read_peft(folder)[1] == LORA


@pytest.mark.parametrize("change", [{"exclude_modules": ["vision"]}, {"layers_pattern": "layers", "layers_to_transform": [0, 1]}])
def test_what_narrows_the_targets_leaves_the_layers_that_have_tensors(folder, change):
    config(target_modules=["q_proj", "k_proj", "vision"], **change)(folder)
    theta, lora, _ = read_peft(folder)
    assert theta.keys() == THETA.keys()
    assert lora.target_modules == tuple(sorted({name.rpartition(".")[0] for name in THETA}))
    assert lora.layers_to_transform is None


def test_a_whole_number_may_be_written_with_a_point(folder):
    config(lora_alpha=8.0)(folder)
    assert read_peft(folder)[1] == LORA


def test_the_bases_revision_is_read(folder):
    config(revision="v2")(folder)
    assert read_peft(folder)[2] == ("some/base", "v2")


def test_a_pickle_beside_safetensors_is_not_looked_at(folder):
    (folder / "adapter_model.bin").write_bytes(b"never read")
    assert read_peft(folder)[0].keys() == THETA.keys()


@pytest.mark.parametrize("change", [{}, {"extra": torch.ones(2)}])
def test_rates_are_read_if_they_fit(tmp_path, change):
    path = tmp_path / "rates.safetensors"
    rates = {name: torch.tensor([1e-3, 2e-3]) for name in ("a", "b")}
    save_file({**rates, **change}, path)
    if not change:
        assert {name: rate.tolist() for name, rate in read_rates(path, rates).items()} == {n: r.tolist() for n, r in rates.items()}
        return
    with pytest.raises(AdapterError, match="'extra' is in the rates alone"):
        read_rates(path, rates)


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({"a": [1.0]}, "'b' is without rates"),
        ({"a": [1.0], "b": [1.0, 2.0]}, r"has shape \(\d,\); rates are \(K,\), .* K the same"),
        ({"a": [1.0], "b": [[1.0]]}, r"'b' has shape \(1, 1\)"),
        ({"a": [], "b": []}, r"'a' has shape \(0,\)"),
        ({"a": [1.0], "b": [0.0]}, "'b' has a rate that is not positive"),
        ({"a": [1.0], "b": [-1.0]}, "'b' has a rate that is not positive"),
        ({"a": [1.0], "b": [float("nan")]}, "'b' holds NaN or infinity"),
    ],
)
def test_rates_that_do_not_fit_are_refused(tmp_path, rates, words):
    path = tmp_path / "rates.safetensors"
    save_file({name: torch.tensor(rate) for name, rate in rates.items()}, path)
    with pytest.raises(AdapterError, match=words):
        read_rates(path, ["a", "b"])


def test_rates_that_mix_ranks_are_read_if_they_fit(tmp_path):
    path = tmp_path / "rates.safetensors"
    rates = {name: torch.randn(2, 3, 3) for name in ("a", "b")}
    save_file(rates, path)
    found = read_rates(path, rates, 3)
    assert all(torch.equal(found[name], rate) for name, rate in rates.items()), "an entry may be of any sign"
    for rank, shape in ((4, r"\(K, 4, 4\)"), (None, r"\(K,\)")):
        with pytest.raises(AdapterError, match=rf"'a' has shape \(2, 3, 3\); rates are {shape}, one for each step"):
            read_rates(path, rates, rank)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (torch.ones(2), r"'b' has shape \(2,\); rates are \(K, 3, 3\)"),
        (torch.ones(1, 3, 3), r"has shape \(\d, 3, 3\); rates are \(K, 3, 3\), .* K the same"),
        (torch.ones(0, 3, 3), r"'b' has shape \(0, 3, 3\)"),
        (torch.stack([torch.eye(3), torch.zeros(3, 3)]), "'b' has a rate that is a matrix of zeros"),
        (torch.full((2, 3, 3), float("inf")), "'b' holds NaN or infinity"),
    ],
)
def test_rates_that_mix_ranks_and_do_not_fit_are_refused(tmp_path, change, words):
    path = tmp_path / "rates.safetensors"
    save_file({"a": torch.ones(2, 3, 3), "b": change}, path)
    with pytest.raises(AdapterError, match=words):
        read_rates(path, ["a", "b"], 3)


def test_cut_off_rates_are_refused(tmp_path):
    path = tmp_path / "rates.safetensors"
    save_file({"a": torch.ones(4)}, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(AdapterError, match=r"rates\.safetensors: cut off"):
        read_rates(path, ["a"])
