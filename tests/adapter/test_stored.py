"""Adapters as they lie in folders: what each kind tells, what is refused, and that side by side each is what it is alone."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart.adapter.adapted import AdaptedAdapter
from headstart.adapter.header import AdapterError
from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.adapter.stored import read_adapter, together
from headstart.algorithms.inner import expand
from headstart.model.learner import Learner, LoraSpec
from headstart.model.sites import handing
from headstart.passes import passes_over
from headstart.tasks.episodes import Draw

IDS = torch.tensor([[5, 60, 200, 17, 90, 3, 250, 8]])
SHAPES = {
    "narrow, of another scale": LoraSpec(2, 6, ("q_proj", "down_proj")),
    "wide, elsewhere": LoraSpec(8, 4, ("v_proj", "up_proj")),
    "of one layer": LoraSpec(3, 9, ("q_proj",), (1,)),
    "all linear": LoraSpec(4, 8),
}


@pytest.fixture
def adapt(dense_base, random_phi):
    """Builds adapted adapters, random with B away from zero."""

    def build(lora=SHAPES["all linear"], seed=0, **told):
        with Learner(dense_base, lora) as learner:
            phi = {name: tensor[0] for name, tensor in random_phi(learner, 1, seed).items()}
            return AdaptedAdapter(phi, learner.spec, dense_base, **told)

    return build


@pytest.fixture
def stored(adapt, tmp_path):
    """Saves adapted adapters, and reads them."""

    def build(name, *arguments, **told):
        adapt(*arguments, **told).save_pretrained(tmp_path / name)
        return read_adapter(tmp_path / name)

    return build


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def logits_alone(base, one):
    with (
        Learner(base, one.lora) as learner,
        handing(learner.sites, {name: tensor[None] for name, tensor in one.phi.items()}),
        torch.no_grad(),
    ):
        return base.model(input_ids=IDS).logits[0]


def logits_together(base, adapters):
    phi, lora = together(adapters)
    with Learner(base, lora) as learner, handing(learner.sites, phi), torch.no_grad():
        return base.model(input_ids=IDS.expand(len(adapters), -1)).logits


def test_an_adapted_adapter_tells_all_that_it_was_saved_with(adapt, dense_base, tmp_path):
    told = {"instruction": "Say\nit.", "labels": ("a", "b"), "steps": 3, "history": (2.5, 1.25, 0.5), "max_length": 700}
    told |= {"base_variant_of": {"source": "x", "fingerprint": "0"}, "record": {"rows": 4, "name": "mine"}}
    one = adapt(**told)
    one.save_pretrained(tmp_path / "mine")
    found = read_adapter(tmp_path / "mine")
    assert {name: getattr(found, name) for name in told} == told
    assert (found.name, found.lora, found.base, found.fingerprint) == ("mine", one.lora, dense_base.spec, dense_base.fingerprint)
    assert found.phi.keys() == one.phi.keys()
    assert all(torch.equal(found.phi[name], one.phi[name]) for name in one.phi)


def test_a_meta_adapter_is_read_as_its_initialisation(adapt, dense_base, tmp_path):
    one = adapt()
    recipe = {"recipe": {"suite": {"max_length": 900}}}
    meta = MetaAdapter(one.phi, {}, one.lora, Adaptation(), dense_base.spec, dense_base.fingerprint, recipe)
    meta.save_pretrained(tmp_path / "meta")
    found = read_adapter(tmp_path / "meta")
    assert (found.name, found.lora, found.base, found.fingerprint) == ("meta", one.lora, dense_base.spec, dense_base.fingerprint)
    assert (found.instruction, found.labels, found.steps, found.max_length) == ("", (), 0, 900)
    assert all(torch.equal(found.phi[name], one.phi[name]) for name in one.phi)


def test_a_plain_peft_folder_tells_tensors_and_the_base_alone(adapt, tmp_path):
    one = adapt(instruction="Shout.", labels=("a", "b"), steps=3)
    one.save_pretrained(tmp_path / "plain")
    (tmp_path / "plain" / "headstart.json").unlink()
    config = tmp_path / "plain" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "revision": "v2"}))
    found = read_adapter(tmp_path / "plain")
    assert (found.name, found.lora, found.base.id, found.base.source) == ("plain", one.lora, "test/tiny", "hub")
    assert found.base.revision == "v2"
    assert (found.fingerprint, found.instruction, found.labels, found.steps) == (None, "", (), 0)
    assert all(torch.equal(found.phi[name], one.phi[name]) for name in one.phi)


def test_the_folder_one_is_in_has_a_name_too(stored, tmp_path, monkeypatch):
    stored("mine")
    monkeypatch.chdir(tmp_path / "mine")
    assert read_adapter(".").name == "mine"


def cut(folder):
    """Take the last byte of the weights away."""
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def drop_tensor(folder):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[1:]), path)


FAULTS = {
    "newer record": (lambda folder: edit(folder / "headstart.json", schema_version=99), "headstart.json: written by a newer headstart"),
    "version as text": (lambda folder: edit(folder / "headstart.json", schema_version="1"), "schema_version: expected a whole number"),
    "broken record": (lambda folder: (folder / "headstart.json").write_text("{"), "headstart.json: not valid JSON"),
    "another kind": (lambda folder: edit(folder / "headstart.json", kind="x"), "kind: expected meta_adapter"),
    "labels as text": (lambda folder: edit(folder / "headstart.json", labels="yes,no"), r"headstart\.json: labels"),
    "steps as text": (lambda folder: edit(folder / "headstart.json", steps="3"), r"headstart\.json: steps: expected a whole number"),
    "no base": (lambda folder: edit(folder / "headstart.json", base={}), r"base"),
    "another base": (
        lambda folder: edit(folder / "adapter_config.json", base_model_name_or_path="other/base"),
        "adapter_config.json names the base 'other/base', headstart.json 'test/tiny'; one was changed",
    ),
    "another alpha": (
        lambda folder: edit(folder / "adapter_config.json", lora_alpha=99),
        "lora_alpha is 99 in adapter_config.json and 8 in headstart.json; one was changed",
    ),
    "no plain LoRA": (lambda folder: edit(folder / "adapter_config.json", use_dora=True), "use_dora is set"),
    "no configuration": (lambda folder: (folder / "adapter_config.json").unlink(), r"adapter_config\.json: no such file"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), r"adapter_model\.safetensors: no such file"),
    "weights cut off": (cut, r"adapter_model\.safetensors: cut off"),
    "half a site": (drop_tensor, "alone; the file is incomplete"),
    "nothing at all": (shutil.rmtree, "there is no adapter folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_reading_raises_and_says_which_file(stored, tmp_path, fault):
    stored("mine")
    spoil, words = FAULTS[fault]
    spoil(tmp_path / "mine")
    with pytest.raises(AdapterError, match=words):
        read_adapter(tmp_path / "mine")


def test_only_its_own_base_is_accepted(stored, dense_base):
    one = stored("mine")
    one.require_base(dense_base)
    with pytest.raises(AdapterError, match="mine: the adapter belongs to other/base, not to test/tiny"):
        replace(one, base=replace(one.base, id="other/base")).require_base(dense_base, allow_variant=True)
    other = replace(one, fingerprint="0")
    with pytest.raises(AdapterError, match=r"mine: the adapter was made on weights of test/tiny.*--allow-base-variant"):
        other.require_base(dense_base)
    other.require_base(dense_base, allow_variant=True)
    replace(one, fingerprint=None).require_base(dense_base)


def test_tensors_that_do_not_fit_the_bases_layers_are_refused_by_name(stored, dense_base):
    """A plain adapter of a base with the same id but fewer layers, or other widths, has nothing else to be known by."""
    one = stored("mine")
    name = next(name for name in one.phi if name.endswith("lora_B"))
    with pytest.raises(AdapterError, match=rf"mine: .*'{name}' has shape None"):
        replace(one, phi={key: tensor for key, tensor in one.phi.items() if key != name}).require_base(dense_base)
    with pytest.raises(AdapterError, match=rf"'{name}' has shape \(3, 4\)"):
        replace(one, phi={**one.phi, name: torch.zeros(3, 4)}).require_base(dense_base)
    with pytest.raises(AdapterError, match=r"'x\.lora_A' has shape \(4, 64\).*ask for None"):
        replace(one, phi={**one.phi, "x.lora_A": torch.zeros(4, 64)}).require_base(dense_base)


def test_adapters_of_one_shape_are_stacked_to_the_bit(stored):
    adapters = [stored(f"a{seed}", SHAPES["all linear"], seed) for seed in range(3)]
    phi, lora = together(adapters)
    assert lora == adapters[0].lora
    for number, one in enumerate(adapters):
        assert phi.keys() == one.phi.keys()
        assert all(torch.equal(phi[name][number], one.phi[name]) for name in phi)


def test_adapters_of_any_shapes_give_side_by_side_what_each_gives_alone(stored, dense_base):
    adapters = [stored(f"a{seed}", lora, seed) for seed, lora in enumerate(SHAPES.values())]
    found = logits_together(dense_base, adapters)
    alone = [logits_alone(dense_base, one) for one in adapters]
    for own, wanted in zip(found, alone, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-5)
    bare = logits_alone(dense_base, replace(adapters[0], phi={name: tensor * 0 for name, tensor in adapters[0].phi.items()}))
    assert all(not torch.allclose(bare, own, atol=1e-2) for own in alone), "the adapters must matter for this to show anything"


@pytest.mark.parametrize("pair", [("narrow, of another scale", "wide, elsewhere"), ("of one layer", "all linear")])
def test_and_so_do_their_losses(stored, dense_base, toy_suite, pair):
    adapters = [stored(f"a{seed}", SHAPES[name], seed) for seed, name in enumerate(pair)]
    task = toy_suite.tasks["upper"]
    draw = Draw(task, (), task.examples[:4])
    phi, lora = together(adapters)
    with passes_over(dense_base, lora, 512) as passes:
        found = passes.losses(phi, [draw, draw])
    for one, own in zip(adapters, found, strict=True):
        with passes_over(dense_base, one.lora, 512) as passes:
            torch.testing.assert_close(own, passes.losses(expand(one.phi, 1), [draw])[0], rtol=1e-5, atol=1e-5)


def test_the_order_of_adapters_is_theirs(stored, dense_base):
    adapters = [stored(f"a{seed}", lora, seed) for seed, lora in enumerate(SHAPES.values())]
    forth, back = logits_together(dense_base, adapters), logits_together(dense_base, adapters[::-1])
    torch.testing.assert_close(forth, back.flip(0), rtol=1e-5, atol=1e-5)
