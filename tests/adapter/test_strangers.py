"""Adapters from strangers are data: whatever their files hold, loading gives an adapter or an error that a user can read."""

import ast
import json
import os
import re
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from headstart.adapter import files
from headstart.adapter.gguf import export_gguf
from headstart.adapter.header import AdapterError, read_header
from headstart.adapter.lint import lint
from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.adapter.stored import read_adapter
from headstart.errors import HeadstartError
from headstart.model.learner import Learner, LoraSpec
from headstart.publishing import publish
from headstart.shipped import shipped_adapters

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FUZZED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Files(dict):
    """Contents by names, which a failing example does not print."""

    def __repr__(self):
        return f"Files({', '.join(self)})"


def record():
    """All that anything goes by, as training records it."""
    about = json.loads((shipped_adapters()["smollm2-135m-instruct-general"] / "headstart.json").read_text())["record"]
    suite = {**about["suite"], "splits": {"meta_train": ["a"], "meta_test": ["b"]}, "data": about["suite"]["data"][:2]}
    search = {"trials": [{"seed": 1}, {"seed": 2}], "chosen": 1, "losses": [2.0, 1.0]}
    whole = {**about, "suite": suite, "search": search, "control_of": {"name": "x", "sha256": "0a"}}
    return {key: value for key, value in whole.items() if key != "evaluation"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_spec):
    """A whole adapter's files by their names."""
    import torch

    from headstart.model.base import load_base

    base = load_base(tiny_spec(), "cpu")
    folder = tmp_path_factory.mktemp("stranger") / "adapter"
    with Learner(base, LoraSpec(r=8, lora_alpha=8)) as learner:
        theta = learner.fresh_adapter()
        rates = {name: torch.tensor([0.1]) for name in theta}
        MetaAdapter(theta, rates, learner.spec, Adaptation(steps=1), base.spec, base.fingerprint, record()).save_pretrained(folder)
    return Files((path.name, path.read_bytes()) for path in folder.iterdir())


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(saved, tmp_path):
    """Writes the adapter, some files changed."""

    def build(**changed):
        for name, content in {**saved, **changed}.items():
            (tmp_path / name).write_bytes(content)
        return tmp_path

    return build


def load(folder):
    """Load in every way, and hand on; errors of ours are fine, which name the place of what cannot be read, and nothing else is."""
    for read in (MetaAdapter.from_pretrained, read_adapter, lint):
        refused(read, folder)
    exported = folder / "x.gguf"
    for use in (
        lambda: publish(folder, folder=folder / "out", license="mit", dry_run=True, console=Console(quiet=True)),
        lambda: export_gguf(folder, exported),
    ):
        with suppress(HeadstartError):
            use()
    exported.unlink(missing_ok=True)


def refused(read, place):
    """The message of the error that reading raises, which names the place; None where it is read."""
    try:
        read(place)
    except AdapterError as error:
        message = str(error)
    else:
        return None
    assert str(place) in message
    return message


@FUZZED
@given(
    content=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), JSON, max_size=3),
    data=st.binary(max_size=64),
    length=st.none() | st.integers(0, 2**64 - 1),
)
def test_any_header_is_read_or_refused(tmp_path, content, data, length):
    raw = json.dumps(content).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    if refused(read_header, path) is None:
        assert sum(entry.stop - entry.start for entry in read_header(path).values()) == path.stat().st_size - 8 - len(raw)


@FUZZED
@given(content=st.binary(max_size=200))
def test_any_bytes_as_weights_are_refused(folder, content):
    load(folder(**{"adapter_model.safetensors": content}))


@FUZZED
@given(data=st.data())
@pytest.mark.parametrize("name", ["adapter_config.json", "headstart.json"])
def test_any_value_anywhere_in_the_json_is_read_or_refused(folder, saved, name, data):
    content = json.loads(saved[name])
    place = content
    key = data.draw(st.sampled_from(sorted(content)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    if data.draw(st.booleans()):
        place[key] = data.draw(JSON)
    else:
        del place[key]
    load(folder(**{name: json.dumps(content).encode()}))


@FUZZED
@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
@pytest.mark.parametrize("name", ["adapter_config.json", "headstart.json", "adapter_model.safetensors", "rates.safetensors"])
def test_any_byte_may_be_another(folder, saved, name, position, value):
    content = bytearray(saved[name])
    content[position % min(len(content), 4000)] = value
    load(folder(**{name: bytes(content)}))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", '{"r": 1e999}', '"\\ud800"', "\ufeff{}", ""])
@pytest.mark.parametrize("name", ["adapter_config.json", "headstart.json"])
def test_hostile_json_is_refused(folder, name, text):
    place = folder(**{name: text.encode("utf-8", "surrogatepass")})
    with pytest.raises(AdapterError, match=name):
        MetaAdapter.from_pretrained(place)


def test_a_header_of_huge_tensors_allocates_nothing(folder, monkeypatch):
    """What a header claims is held against the file before any of it is believed."""
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    entry = {"dtype": "F32", "shape": [8, 2**40], "data_offsets": [0, 8 * 2**40 * 4]}
    raw = json.dumps({name: entry}).encode()
    place = folder(**{"adapter_model.safetensors": struct.pack("<Q", len(raw)) + raw})
    monkeypatch.setattr(files, "load_file", lambda path: pytest.fail("tensors were made"))
    with pytest.raises(AdapterError, match="cut off"):
        MetaAdapter.from_pretrained(place)


@pytest.mark.parametrize("name", ["adapter_config.json", "headstart.json", "adapter_model.safetensors", "rates.safetensors"])
def test_what_is_no_file_is_not_read(folder, name):
    """A pipe has no end, and neither has a device that a link leads to."""
    place = folder()
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (place / name).unlink()
        make(place / name)
        with pytest.raises(AdapterError, match=rf"{name}: no regular file"):
            MetaAdapter.from_pretrained(place)


def test_json_of_any_size_is_not_read(folder):
    place = folder()
    os.truncate(place / "adapter_config.json", files.LARGEST + 1)
    with pytest.raises(AdapterError, match=r"adapter_config\.json: has \d+ bytes, more than any such file"):
        MetaAdapter.from_pretrained(place)


def test_what_cannot_be_used_as_json_is_not_repeated(folder, saved):
    content = json.loads(saved["headstart.json"])
    for _ in range(300):
        content = {**content, "record": {"secret words": content.get("record")}}
    place = folder(**{"headstart.json": json.dumps(content).encode()})
    with pytest.raises(AdapterError) as refused:
        MetaAdapter.from_pretrained(place)
    assert "secret words" not in str(refused.value)


def change(saved, **changes):
    content = json.loads(saved["headstart.json"])
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = content
        for key in parents:
            place = place[key]
        place[last] = value
    return json.dumps(content).encode()


def test_a_revision_is_no_code(folder, saved, tmp_path, quiet):
    """It stands in the code by which a card says how to load the base."""
    evil = 'x"); __import__("os").system("evil") #'
    config = {**json.loads(saved["adapter_config.json"]), "revision": evil}
    place = folder(**{"headstart.json": change(saved, base__revision=evil)})
    with pytest.raises(AdapterError, match=r"names the base's revision None, headstart\.json 'x"):
        MetaAdapter.from_pretrained(place)
    (place / "adapter_config.json").write_text(json.dumps(config))
    card = Path(publish(place, folder=tmp_path / "out", license="mit", console=quiet).address, "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("base = ") and "evil" in line][:1]
    (call,) = ast.parse(line).body
    assert [each.value.value for each in call.value.keywords if each.arg == "revision"] == [evil]


def test_words_in_a_card_are_no_markup(folder, saved, tmp_path, quiet):
    evil = "x\r\n\n# Heading\n<img src=x onerror=alert(1)> `</code>` | [y](javascript:z) {{ 7 * 7 }}"
    about = change(
        saved,
        base__fingerprint=evil,
        record__name=evil,
        record__machine=evil,
        record__command=evil,
        record__user_turn=evil,
        record__suite__name=evil,
        record__versions={"headstart": evil},
        record__commit=evil,
        record__suite__data=[{"licence": evil, "data_terms": evil, "tasks": 1, "datasets": [evil]}],
        record__phases=[{"algorithm": evil, "steps": 1}],
    )
    place = folder(**{"headstart.json": about})
    card = Path(publish(place, folder=tmp_path / "out", license="mit", console=quiet).address, "README.md").read_text()
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---", 2)[2])
    assert "onerror" in html
    assert not re.search(r'<img src=x|<h1>Heading|href="javascript', html)
    assert "{{ 7 * 7 }}" in card
