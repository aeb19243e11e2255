"""Adapters are found in folders, by shipped names and on the hub; what comes from elsewhere names no folder of this machine."""

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub import TOKEN
from huggingface_hub import constants
from rich.console import Console

from headstart.adapter.header import AdapterError
from headstart.adapter.hub import HubError
from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.adapter.places import adapter_folder, adapters_here, as_table
from headstart.adapter.publish import push_folder
from headstart.adapter.stored import read_adapter
from headstart.model.learner import Learner, LoraSpec
from headstart.shipped import shipped_adapters


@pytest.fixture
def meta(dense_base, random_phi):
    with Learner(dense_base, LoraSpec(r=8, lora_alpha=8)) as learner:
        theta = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        return MetaAdapter(theta, {}, learner.spec, Adaptation(steps=2), dense_base.spec, dense_base.fingerprint)


@pytest.fixture
def published(hub, meta, tmp_path):
    meta.save_pretrained(tmp_path / "runs" / "one" / "adapter")
    push_folder(tmp_path / "runs" / "one" / "adapter", "me/toy", token=TOKEN, tag="v1")
    return hub


@pytest.mark.parametrize("name", ["me/toy", "me/toy@main", "me/toy@v1"])
def test_a_name_on_the_hub_is_fetched(published, meta, name):
    found = MetaAdapter.from_pretrained(name)
    assert found.theta.keys() == meta.theta.keys()
    assert all((found.theta[key] == meta.theta[key]).all() for key in meta.theta)
    assert read_adapter(name).name == "toy"


def test_a_folder_comes_before_the_hub(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "toy").mkdir(parents=True)
    asked = len(published.requests)
    assert adapter_folder("me/toy") == Path("me/toy")
    with pytest.raises(AdapterError, match="me/toy: a folder here, which has no revisions"):
        adapter_folder("me/toy", "v1")
    assert len(published.requests) == asked


def test_nothing_but_an_adapters_files_is_fetched(published):
    files = {**published.files("me/toy"), "evil.py": b"print()", "pytorch_model.bin": b"PK", "sub/x.json": b"{}"}
    published.repositories["me/toy"].commit("main", "more", files)
    folder = adapter_folder("me/toy")
    assert not {"evil.py", "pytorch_model.bin", "sub"} & {path.name for path in folder.iterdir()}


def test_what_comes_from_elsewhere_names_no_folder_here(published, meta):
    """The base's source is where it lay on the machine that trained; taken at its word, it would be read from here."""
    assert meta.base.source not in ("hub", "bundled")
    assert MetaAdapter.from_pretrained("me/toy").base.source == "hub"
    assert read_adapter("me/toy").base.source == "hub"


@pytest.mark.parametrize(
    ("name", "words"),
    [("me/gone", "no such repository"), ("me/toy@v9", "no such repository or revision"), ("me/.toy", "is no name of a repository")],
)
def test_what_is_not_on_the_hub_is_told(published, name, words):
    with pytest.raises(HubError, match=words):
        adapter_folder(name)


def test_a_repository_without_an_adapter_is_told(published):
    published.make("me/other", {"README.md": b"x"})
    with pytest.raises(HubError, match=r"me/other: holds no adapter_config.json, so it is no PEFT adapter"):
        adapter_folder("me/other")


def test_what_is_in_the_cache_needs_no_network(published, monkeypatch):
    first = adapter_folder("me/toy")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert adapter_folder("me/toy") == first


@pytest.mark.parametrize("name", ["runs/one/adapter", "./gone", "/gone/away", "~/gone", "gone"])
def test_what_cannot_be_a_name_on_the_hub_is_not_asked_for(hub, name):
    with pytest.raises(AdapterError, match="there is no adapter folder"):
        adapter_folder(name)
    assert not hub.requests


def test_all_that_is_here_is_listed(published, tmp_path):
    adapter_folder("me/toy")
    found = {(each.origin, each.name): each for each in adapters_here(tmp_path)}
    assert {("cached", "me/toy"), ("here", "runs/one/adapter"), *(("shipped", name) for name in shipped_adapters())} == found.keys()
    cached = found["cached", "me/toy"]
    assert (cached.kind, cached.base) == ("meta_adapter", "test/tiny")
    assert cached.size == (tmp_path / "runs/one/adapter/adapter_model.safetensors").stat().st_size
    json.dumps([each.as_json() for each in found.values()])


def test_a_cached_version_is_listed_by_its_tag(published, tmp_path):
    adapter_folder("me/toy@v1")
    assert [each.name for each in adapters_here(tmp_path) if each.origin == "cached"] == ["me/toy@v1"]


def test_what_is_no_model_is_not_listed(hub, tmp_path):
    """Data sets lie in the same cache."""
    snapshot = tmp_path / "home" / "hub" / "datasets--me--toy" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "adapter_config.json").write_text("{}")
    assert [each.name for each in adapters_here(tmp_path) if each.origin == "cached"] == []


def test_a_file_in_the_caches_place_is_no_cache(hub, tmp_path):
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "hub").write_text("")
    assert [each.name for each in adapters_here(tmp_path) if each.origin == "cached"] == []


def test_a_strangers_words_move_no_cursor(hub, tmp_path):
    (tmp_path / "runs" / "x" / "adapter").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "\\u001b[31mx\\u0007"}')
    console = Console(file=io.StringIO(), width=200)
    console.print(as_table(adapters_here(tmp_path)))
    assert r"\x1b[31mx\x07" in console.file.getvalue()
    assert "\x1b" not in console.file.getvalue()


@pytest.mark.parametrize(
    ("name", "words"), [("", "the adapter's name is empty"), ("{}/file", "file: a file; give the folder that it lies in")]
)
def test_names_of_nothing_and_of_files_are_told(hub, tmp_path, name, words):
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterError, match=words):
        adapter_folder(name.format(tmp_path))


def test_a_hub_that_is_too_slow_is_told(published, monkeypatch):
    # of the client's module alone: the hub waits by the same function
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    published.delay = 0.3
    with pytest.raises(HubError, match=r"me/toy: .*cannot be reached, or the connection broke .*[Tt]imed? ?out"):
        adapter_folder("me/toy")
    published.delay = 0.0
    assert adapter_folder("me/toy").is_dir()


def test_a_broken_one_is_listed_as_such(hub, tmp_path):
    (tmp_path / "runs" / "two" / "adapter").mkdir(parents=True)
    (tmp_path / "runs" / "two" / "adapter" / "adapter_config.json").write_text("{")
    assert [each.kind for each in adapters_here(tmp_path) if each.origin == "here"] == ["broken"]
