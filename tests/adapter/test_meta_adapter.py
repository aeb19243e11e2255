"""The artefact: what stock PEFT makes of it, what loading refuses, what adapting does."""

import json
import shutil
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from safetensors.torch import load_file, save_file

from headstart.adapter.files import AdapterError
from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.model.base import load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.model.sites import handing

IDS = torch.tensor([[5, 60, 200, 17, 90, 3, 250, 8]])
RECORD = {"name": "toy", "suite": {"name": "toy", "training_tasks": 4}, "user_turn": "{instruction}\n{input}", "seed": 0, "machine": "here"}


@pytest.fixture
def meta(base, random_phi):
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner:
        theta = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        rates = {name: torch.tensor([0.01, 0.005]) for name in theta}
        return MetaAdapter(theta, rates, learner.spec, Adaptation(steps=2, learning_rate=0.01), base.spec, base.fingerprint, RECORD)


@pytest.fixture
def folder(meta, tmp_path):
    meta.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def own_logits(base, theta, lora):
    with Learner(base, lora) as learner, handing(learner.sites, {name: tensor[None] for name, tensor in theta.items()}), torch.no_grad():
        return base.model(input_ids=IDS).logits


def stock_logits(spec, folder):
    """By stock PEFT over bitsandbytes' own products."""
    model = load_base(spec, "cpu").model
    stock = PeftModel.from_pretrained(model, folder).eval()
    for module in stock.modules():
        if isinstance(module, Linear4bit):
            del module.forward
    with torch.no_grad():
        return stock(input_ids=IDS).logits


def test_stock_peft_gives_the_same_logits(base, meta, folder):
    own = own_logits(base, meta.theta, meta.lora)
    torch.testing.assert_close(stock_logits(base.spec, folder), own, rtol=1e-5, atol=1e-5)
    bare = own_logits(base, {name: torch.zeros_like(tensor) for name, tensor in meta.theta.items()}, meta.lora)
    assert not torch.allclose(own, bare, atol=1e-2), "the adapter must matter for this to show anything"


def test_round_trip_keeps_every_bit(meta, folder):
    loaded = MetaAdapter.from_pretrained(folder)
    for name in meta.theta:
        assert torch.equal(loaded.theta[name], meta.theta[name])
        assert torch.equal(loaded.rates[name], meta.rates[name])
    assert (loaded.lora, loaded.adaptation, loaded.base, loaded.fingerprint) == (meta.lora, meta.adaptation, meta.base, meta.fingerprint)
    assert dict(loaded.record) == RECORD


def test_it_is_frozen(meta):
    with pytest.raises(FrozenInstanceError):
        meta.theta = {}
    with pytest.raises(TypeError):
        meta.theta["x"] = torch.zeros(1)


def test_tensors_given_are_copied():
    tensor = torch.zeros(2, 2)
    meta = MetaAdapter({"a": tensor}, {}, LoraSpec(), Adaptation(), None, "")
    tensor += 1
    assert not meta.theta["a"].any()


def edit_json(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def drop_a_key(folder):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, path, metadata={"format": "pt"})
    (folder / "rates.safetensors").unlink()


FAULTS = {
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "safetensors only"),
    "broken weights": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"123"), "not a readable"),
    "no record": (lambda folder: (folder / "headstart.json").unlink(), "headstart.json: no such file"),
    "broken record": (lambda folder: (folder / "headstart.json").write_text("{"), "not valid JSON"),
    "newer record": (lambda folder: edit_json(folder / "headstart.json", schema_version=99), "newer headstart"),
    "record without a base": (lambda folder: edit_json(folder / "headstart.json", base={}), "incomplete"),
    "DoRA": (lambda folder: edit_json(folder / "adapter_config.json", use_dora=True), "use_dora"),
    "foreign rates": (lambda folder: save_file({"x": torch.zeros(1)}, folder / "rates.safetensors"), "rates.safetensors: does not fit"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_loading_raises_and_says_which_file(folder, fault):
    spoil, words = FAULTS[fault]
    spoil(folder)
    with pytest.raises(AdapterError, match=words):
        MetaAdapter.from_pretrained(folder)


def test_missing_tensors_are_refused_by_name(base, folder):
    drop_a_key(folder)
    with Learner(base, LoraSpec(r=4, lora_alpha=8)) as learner, pytest.raises(AdapterError, match="is missing"):
        MetaAdapter.from_pretrained(folder).initial(learner)


def test_another_rank_is_refused(base, meta):
    with Learner(base, LoraSpec(r=2)) as learner, pytest.raises(AdapterError, match="has shape"):
        meta.initial(learner)


def test_other_targets_are_refused(base, meta):
    with Learner(base, LoraSpec(r=4, target_modules=("q_proj",))) as learner, pytest.raises(AdapterError, match="surplus"):
        meta.initial(learner)


def test_another_base_is_refused(base, meta):
    with pytest.raises(AdapterError, match="belongs to"):
        replace(meta, base=replace(meta.base, id="other/base")).require_base(base)
    other = replace(meta, fingerprint="0" * 16)
    with pytest.raises(AdapterError, match="has other weights"):
        other.require_base(base)
    other.require_base(base, allow_variant=True)


def test_failing_to_save_leaves_the_old_folder(meta, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("headstart.adapter.meta_adapter.write_card", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        meta.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


def test_card_says_what_was_recorded(folder, meta):
    card = (folder / "README.md").read_text()
    assert f"base_model: {meta.base.id}" in card
    assert meta.fingerprint in card
    assert "4 instruction tasks of the suite `toy`" in card
    assert "More Information Needed" not in card


def test_adapting_no_steps_is_the_initialisation(base, meta, toy_suite):
    adapted = meta.adapt(toy_suite.tasks["upper"].examples[:4], instruction="Shout.", steps=0, base=base)
    assert all(torch.equal(adapted.phi[name], meta.theta[name]) for name in meta.theta)
    assert adapted.history == ()


def test_adapting_lowers_the_loss_and_repeats_to_the_bit(base, meta, toy_suite):
    examples = toy_suite.tasks["upper"].examples[:6]
    first, second = (meta.adapt(examples, instruction="Shout.", steps=8, base=base) for _ in range(2))
    assert first.history[-1] < first.history[0]
    assert all(torch.equal(first.phi[name], second.phi[name]) for name in first.phi)
    assert first.evaluate(examples).loss < meta.adapt(examples, instruction="Shout.", steps=0, base=base).evaluate(examples).loss


def test_adapted_adapter_is_a_plain_peft_adapter(base, meta, toy_suite, tmp_path):
    adapted = meta.adapt(toy_suite.tasks["upper"].examples[:4], instruction="Shout.", steps=2, base=base)
    adapted.save_pretrained(tmp_path / "adapted")
    torch.testing.assert_close(
        stock_logits(base.spec, tmp_path / "adapted"), own_logits(base, adapted.phi, meta.lora), rtol=1e-5, atol=1e-5
    )
    assert not (tmp_path / "adapted" / "rates.safetensors").exists()


def test_adapting_to_another_base_is_refused(base, meta, toy_suite):
    with pytest.raises(AdapterError, match="other weights"):
        replace(meta, fingerprint="0").adapt(toy_suite.tasks["upper"].examples[:4], base=base)


def test_a_saved_adapter_can_be_moved(folder, tmp_path):
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert MetaAdapter.from_pretrained(moved).theta
