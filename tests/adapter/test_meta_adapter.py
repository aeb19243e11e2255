"""The artefact: what stock PEFT makes of it, what loading refuses, what adapting does."""

import json
import shutil
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from safetensors.torch import save_file

from headstart import shipped
from headstart.adapter.header import AdapterError
from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.files import WriteError
from headstart.model.base import load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.model.sites import handing
from headstart.tasks.task import Example, SuiteError

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


@pytest.fixture
def mixing(meta):
    """The adapter with rates that mix ranks."""
    draw = torch.Generator().manual_seed(4)
    return replace(meta, rates={name: rate[:, None, None] * torch.randn(4, 4, generator=draw) for name, rate in meta.rates.items()})


def test_rates_that_mix_ranks_round_trip_and_stock_peft_does_not_mind(base, mixing, tmp_path):
    mixing.save_pretrained(tmp_path / "mixing")
    loaded = MetaAdapter.from_pretrained(tmp_path / "mixing")
    assert all(torch.equal(loaded.rates[name], rate) for name, rate in mixing.rates.items())
    own = own_logits(base, mixing.theta, mixing.lora)
    torch.testing.assert_close(stock_logits(base.spec, tmp_path / "mixing"), own, rtol=1e-5, atol=1e-5)
    assert "times a learned matrix for every tensor that mixes ranks" in (tmp_path / "mixing" / "README.md").read_text()


@pytest.mark.parametrize(("said", "words"), [(False, r"rates are \(K,\)"), ("yes", "preconditioned: expected true or false")])
def test_a_record_that_does_not_say_so_is_refused(mixing, tmp_path, said, words):
    mixing.save_pretrained(tmp_path / "mixing")
    edit_json(tmp_path / "mixing" / "headstart.json", preconditioned=said)
    with pytest.raises(AdapterError, match=words):
        MetaAdapter.from_pretrained(tmp_path / "mixing")


def test_records_of_before_there_were_any_are_read(meta, folder):
    path = folder / "headstart.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "preconditioned"}))
    assert MetaAdapter.from_pretrained(folder).rates.keys() == meta.rates.keys()


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


def edit_part(folder, part, **changes):
    """Change keys inside a section of headstart.json; a key given as `...` goes."""
    path = folder / "headstart.json"
    content = json.loads(path.read_text())
    merged = {**content[part], **changes}
    edit_json(path, **{part: {key: value for key, value in merged.items() if value is not ...}})


FAULTS = {
    "no record": (lambda folder: (folder / "headstart.json").unlink(), "headstart.json: no such file; this is a plain PEFT adapter"),
    "broken record": (lambda folder: (folder / "headstart.json").write_text("{"), "headstart.json: not valid JSON"),
    "record that is a list": (lambda folder: (folder / "headstart.json").write_text("[]"), "headstart.json: expected a JSON object"),
    "newer record": (lambda folder: edit_json(folder / "headstart.json", schema_version=99), "newer headstart .schema 99.*upgrade"),
    "version as text": (lambda folder: edit_json(folder / "headstart.json", schema_version="1"), "schema_version: expected a whole number"),
    "adapted adapter": (lambda folder: edit_json(folder / "headstart.json", kind="adapted_adapter"), "give the meta-adapter it came from"),
    "another kind": (lambda folder: edit_json(folder / "headstart.json", kind="x"), "kind: expected meta_adapter, got the text 'x'"),
    "record without a base": (lambda folder: edit_json(folder / "headstart.json", base={}), "headstart.json: base.id: missing"),
    "base that is text": (lambda folder: edit_json(folder / "headstart.json", base="x"), "base: expected a section of keys"),
    "no fingerprint": (lambda folder: edit_part(folder, "base", fingerprint=...), r"base\.fingerprint: missing"),
    "empty fingerprint": (lambda folder: edit_part(folder, "base", fingerprint=""), r"base\.fingerprint"),
    "unknown quantisation": (lambda folder: edit_part(folder, "base", quantization="int8"), r"base\.quantization: expected none or nf4"),
    "unknown type": (lambda folder: edit_part(folder, "base", dtype="float8"), r"base\.dtype: expected float32, bfloat16 or float16"),
    "steps as text": (
        lambda folder: edit_part(folder, "adaptation", steps="3"),
        r"adaptation\.steps: expected a whole number, got the text",
    ),
    "rate of zero": (lambda folder: edit_part(folder, "adaptation", learning_rate=0), r"adaptation\.learning_rate: .*greater than 0"),
    "rate that is no number": (
        lambda folder: edit_part(folder, "adaptation", learning_rate=float("nan")),
        r"adaptation\.learning_rate",
    ),
    "unknown rule": (lambda folder: edit_part(folder, "adaptation", rule="lion"), r"adaptation\.rule: expected adam or sgd"),
    "no rule": (lambda folder: edit_part(folder, "adaptation", rule=...), r"adaptation\.rule: missing"),
    "another base in PEFT's file": (
        lambda folder: edit_json(folder / "adapter_config.json", base_model_name_or_path="other/base"),
        "adapter_config.json names the base 'other/base', headstart.json 'test/tiny'",
    ),
    "another alpha": (
        lambda folder: edit_json(folder / "adapter_config.json", lora_alpha=99),
        "lora_alpha is 99 in adapter_config.json and 8",
    ),
    "rates gone": (lambda folder: (folder / "rates.safetensors").unlink(), "rates.safetensors: missing, but headstart.json says"),
    "rates too many": (
        lambda folder: edit_json(folder / "headstart.json", learned_rates=False),
        "rates.safetensors: there, but headstart.json",
    ),
    "foreign rates": (lambda folder: save_file({"x": torch.ones(1)}, folder / "rates.safetensors"), "rates.safetensors: does not fit"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_loading_raises_and_says_which_file(folder, fault):
    spoil, words = FAULTS[fault]
    spoil(folder)
    with pytest.raises(AdapterError, match=words):
        MetaAdapter.from_pretrained(folder)


def test_a_tensor_too_few_or_too_many_is_refused_by_name(base, meta):
    name = next(iter(meta.theta))
    fewer = replace(meta, theta={key: tensor for key, tensor in meta.theta.items() if key != name})
    with Learner(base, meta.lora) as learner:
        with pytest.raises(AdapterError, match=f"{name}' is missing"):
            fewer.initial(learner)
        with pytest.raises(AdapterError, match=r"'x\.lora_A' is surplus"):
            replace(meta, theta={**meta.theta, "x.lora_A": torch.zeros(1)}).initial(learner)
        with pytest.raises(AdapterError, match=r"has shape \(1,\)"):
            replace(meta, theta={**meta.theta, name: torch.zeros(1)}).initial(learner)


@pytest.mark.parametrize("spec", [LoraSpec(r=2, lora_alpha=8), LoraSpec(r=4, lora_alpha=16)])
def test_another_rank_or_scale_is_refused(base, meta, spec):
    with Learner(base, spec) as learner, pytest.raises(AdapterError, match=r"rank and alpha \(4, 8\), the learner"):
        meta.initial(learner)


def test_other_targets_are_refused(base, meta):
    spec = LoraSpec(r=4, lora_alpha=8, target_modules=("q_proj",))
    with Learner(base, spec) as learner, pytest.raises(AdapterError, match=r"surplus.*its own targets are down_proj"):
        meta.initial(learner)


def test_nothing_is_moved_before_it_is_checked(base, meta, monkeypatch):
    with Learner(base, LoraSpec(r=4, lora_alpha=8, target_modules=("q_proj",))) as learner:
        monkeypatch.setattr(torch.Tensor, "to", lambda *_: pytest.fail("a tensor was moved"))
        with pytest.raises(AdapterError):
            meta.initial(learner)


def test_a_shipped_adapter_is_found_by_name_from_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "shipped_folder", lambda kind: tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert MetaAdapter.from_pretrained("adapter").theta.keys() == MetaAdapter.from_pretrained(folder).theta.keys()
    with pytest.raises(AdapterError, match=r"no adapter folder 'adaptor'.*did you mean 'adapter'\?; shipped: adapter"):
        MetaAdapter.from_pretrained("adaptor")


def test_an_existing_folder_comes_before_a_shipped_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "shipped_folder", lambda kind: tmp_path)
    (tmp_path / "elsewhere" / "adapter").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(AdapterError, match=r"adapter/headstart\.json: no such file"):
        MetaAdapter.from_pretrained("adapter")


def test_old_records_without_newer_keys_are_read(folder, meta):
    edit_part(folder, "base", revision=...)
    edit_part(folder, "adaptation", max_norm=..., eps_root=...)
    edit_part(folder, "lora", lora_alpha=...)
    assert MetaAdapter.from_pretrained(folder).adaptation == meta.adaptation


def test_another_base_is_refused(base, meta):
    with pytest.raises(AdapterError, match="belongs to"):
        replace(meta, base=replace(meta.base, id="other/base")).require_base(base)
    other = replace(meta, fingerprint="0" * 16)
    with pytest.raises(AdapterError, match="has other weights"):
        other.require_base(base)
    with pytest.raises(AdapterError, match="--allow-base-variant"):
        other.require_base(base)
    other.require_base(base, allow_variant=True)


def test_failing_to_save_leaves_the_old_folder(meta, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("headstart.adapter.meta_adapter.write_card", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(WriteError, match="adapter: cannot be written: disk full"):
        meta.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


def test_card_says_what_was_recorded(folder, meta):
    card = (folder / "README.md").read_text()
    assert f"base_model: {meta.base.id}" in card
    assert meta.fingerprint in card
    assert "4 instruction tasks of the suite `toy`" in card
    assert "More Information Needed" not in card
    assert "Training data" not in card


def test_card_says_what_data_and_which_command_it_came_of(meta, tmp_path):
    data = [{"licence": "MIT", "data_terms": "research use", "tasks": 3, "datasets": ["x", "y"]}]
    about = {"suite": {"name": "toy", "training_tasks": 3, "data": data}, "command": "headstart meta-train toy", "commit": "aaaaaaaaaaaa"}
    replace(meta, record={**meta.record, **about, "versions": {"headstart": "1.2"}}).save_pretrained(tmp_path / "told")
    card = (tmp_path / "told" / "README.md").read_text()
    assert "| MIT | research use | 3 | x, y |" in card
    assert "\n    headstart meta-train toy\n\nwith headstart 1.2 at commit `aaaaaaaaaaaa`." in card


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


def test_another_variant_of_the_base_is_recorded(base, meta, toy_suite, tmp_path):
    examples = toy_suite.tasks["upper"].examples[:4]
    meta.adapt(examples, steps=0, base=base).save_pretrained(tmp_path / "same")
    other = replace(meta, fingerprint="0" * 16)
    other.adapt(examples, steps=0, base=base, allow_base_variant=True).save_pretrained(tmp_path / "variant")
    about = {name: json.loads((tmp_path / name / "headstart.json").read_text()) for name in ("same", "variant")}
    assert about["same"]["base"]["fingerprint"] == about["variant"]["base"]["fingerprint"] == base.fingerprint
    assert about["same"]["base_variant_of"] is None
    assert about["variant"]["base_variant_of"] == {"source": base.spec.source, "fingerprint": "0" * 16}


def test_rows_that_cannot_be_rendered_are_refused_before_the_base_is_loaded(meta, monkeypatch):
    monkeypatch.setattr("headstart.adapting.single.load_base", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(SuiteError, match="take more than 512 tokens"):
        meta.adapt([Example("x" * 9000, "y")])


def test_adapting_to_another_base_is_refused(base, meta, toy_suite):
    with pytest.raises(AdapterError, match="other weights"):
        replace(meta, fingerprint="0").adapt(toy_suite.tasks["upper"].examples[:4], base=base)


def test_a_saved_adapter_can_be_moved(folder, tmp_path):
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert MetaAdapter.from_pretrained(moved).theta
