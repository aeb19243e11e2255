"""Publishing as a whole: a card made for its place, true figures, and nothing that must not be shown."""

import io
import json
import shutil
from pathlib import Path

import pytest
from hub import TOKEN
from huggingface_hub import ModelCard
from rich.console import Console

from headstart.adapter.adapted import AdaptedAdapter
from headstart.adapter.header import AdapterError
from headstart.adapter.hub import HubError
from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.evaluation.contenders import digest_in
from headstart.evaluation.report.schema import read_results, write_results
from headstart.evaluation.run import attach
from headstart.files import WriteError
from headstart.model.learner import Learner, LoraSpec
from headstart.publishing import publish
from headstart.shipped import shipped_adapters

RESULTS = Path("evaluation") / "results.json"


@pytest.fixture
def hub(hub, monkeypatch):
    """The hub, the token being at hand."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture
def folder(dense_base, random_phi, tmp_path):
    """A small adapter under real results, as if they were its own."""
    folder = tmp_path / "toy"
    with Learner(dense_base, LoraSpec(r=8, lora_alpha=8)) as learner:
        theta = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        MetaAdapter(theta, {}, learner.spec, Adaptation(steps=2), dense_base.spec, dense_base.fingerprint).save_pretrained(folder)
    results = read_results(shipped_adapters()["smollm2-135m-instruct-quickstart"] / RESULTS)
    results["protocol"]["adapters"][0]["sha256"] = digest_in(folder)
    write_results(results, tmp_path / "results.json")
    attach(folder, read_results(tmp_path / "results.json"))
    return folder


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def card_of(hub, name="me/toy"):
    return ModelCard(hub.files(name)["README.md"].decode())


def test_what_is_published_is_what_is_loaded_by_name(hub, folder, quiet):
    found = publish(folder, "me/toy", license="apache-2.0", tag="v1", console=quiet)
    assert found.address == f"{hub.url}/me/toy"
    assert found.files.keys() == hub.files("me/toy").keys()
    assert {name: len(content) for name, content in hub.files("me/toy").items()} == found.files
    own, fetched = MetaAdapter.from_pretrained(folder), MetaAdapter.from_pretrained("me/toy", revision="v1")
    assert all((own.theta[name] == fetched.theta[name]).all() for name in own.theta)
    assert hub.messages("me/toy") == ["Upload adapter"]


def test_adapting_what_was_fetched_gives_the_same_numbers(hub, folder, dense_base, quiet):
    publish(folder, "me/toy", license="apache-2.0", console=quiet)
    rows = [{"instruction": "Shout.", "input": f"word {n}", "output": f"WORD {n}"} for n in range(8)]

    def outcome(name):
        adapted = MetaAdapter.from_pretrained(name).adapt(rows[:6], instruction="Shout.", base=dense_base, steps=3)
        return adapted.phi, adapted.evaluate(rows[6:])

    (phi, metrics), (own, told) = outcome("me/toy"), outcome(folder)
    assert metrics == told
    assert all((phi[name] == own[name]).all() for name in own)


def test_the_card_is_made_for_its_place(hub, folder, quiet):
    publish(folder, "me/toy", license="apache-2.0", datasets=["you/data"], console=quiet)
    card = card_of(hub)
    data = card.data
    assert (data.base_model, data.library_name, data.license, data.datasets) == ("test/tiny", "peft", "apache-2.0", ["you/data"])
    assert {"headstart", "lora", "meta-learning"} <= set(data.tags)
    for words in (
        'PeftModel.from_pretrained(base, "me/toy", is_trainable=True)',
        "headstart adapt me/toy --data",
        '{"messages": [',
        "curves.png",
    ):
        assert words in card.text
    assert "THIS_FOLDER" not in card.text


def test_the_cards_metadata_holds_the_measured_numbers_with_their_intervals(hub, folder, quiet):
    publish(folder, "me/toy", license="apache-2.0", console=quiet)
    results = read_results(folder / RESULTS)
    step = str(results["protocol"]["primary"]["step"])
    told = {each.metric_name: each for each in card_of(hub).data.eval_results}
    for words, curve in {
        "accuracy of meta_adamw": results["summary"]["meta_adamw"],
        "accuracy of meta": results["summary"]["meta"],
        "accuracy difference meta_adamw-multitask": results["pairs"]["meta_adamw-multitask"],
    }.items():
        wanted = curve[step]["accuracy"]
        each = told[f"{words}, instructed, K = 8, step {step}"]
        assert (each.metric_value, each.metric_args["low"], each.metric_args["high"]) == (wanted["mean"], wanted["low"], wanted["high"])


def test_an_adapted_adapter_has_a_card_of_its_own_kind(hub, dense_base, random_phi, tmp_path, quiet):
    with Learner(dense_base, LoraSpec(r=8, lora_alpha=8)) as learner:
        phi = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        AdaptedAdapter(phi, learner.spec, dense_base, instruction="Shout.", labels=("yes", "no")).save_pretrained(tmp_path / "mine")
    publish(tmp_path / "mine", "me/mine", license="mit", console=quiet)
    text = card_of(hub, "me/mine").text
    assert 'PeftModel.from_pretrained(base, "me/mine")' in text
    assert "Shout." in text
    assert "yes, no" in text


def test_a_plain_folder_can_be_written_instead(hub, folder, tmp_path, quiet):
    found = publish(folder, folder=tmp_path / "out" / "toy", license="apache-2.0", console=quiet)
    files = {path.relative_to(found.address).as_posix(): path.stat().st_size for path in Path(found.address).rglob("*") if path.is_file()}
    assert files == found.files
    assert MetaAdapter.from_pretrained(found.address).theta
    assert not hub.requests


def test_a_folder_of_something_else_stays(folder, tmp_path, quiet):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("years of work")
    shutil.copytree(folder, folder / "control")
    before = contents(folder)
    for source, place in ((folder, tmp_path / "papers"), (folder, folder), (folder / "control", folder)):
        with pytest.raises(WriteError, match=f"{place.name}: is there already; name another place, or take it away first"):
            publish(source, folder=place, license="apache-2.0", console=quiet)
    assert contents(folder) == before
    assert (tmp_path / "papers" / "thesis.tex").exists()


def test_the_folder_that_one_stands_in_can_be_written(folder, tmp_path, quiet, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    publish(folder, folder=".", license="apache-2.0", console=quiet)
    assert "headstart adapt empty --data" in (tmp_path / "empty" / "README.md").read_text()


@pytest.mark.parametrize("option", [{"private": True}, {"revision": "next"}, {"tag": "v1"}])
def test_a_folder_has_no_options_of_a_repository(folder, tmp_path, quiet, option):
    with pytest.raises(HubError, match="a folder has no --private, --revision or --tag"):
        publish(folder, folder=tmp_path / "out", license="apache-2.0", console=quiet, **option)


@pytest.mark.parametrize(
    ("license", "datasets", "words"),
    [
        ("Apache 2.0", (), "--license 'Apache 2.0': no licence has such an identifier"),
        ("mit", ("squad", "/home/me/secret"), "--dataset /home/me/secret: Repo id must"),
    ],
)
def test_what_is_no_identifier_of_the_hub_is_refused(folder, tmp_path, quiet, license, datasets, words):
    with pytest.raises(HubError, match=words):
        publish(folder, folder=tmp_path / "out", license=license, datasets=datasets, console=quiet)


def test_anothers_adapter_keeps_its_card_and_is_told_the_rest(hub, folder, quiet):
    (folder / "headstart.json").unlink()
    shutil.rmtree(folder / "evaluation")
    (folder / "README.md").write_text("---\nbase_model: test/tiny\n---\n# Theirs\n")
    with pytest.raises(HubError, match="its card names no licence, or several"):
        publish(folder, "me/toy", console=quiet)
    publish(folder, "me/toy", license="mit", datasets=["you/data"], console=quiet)
    card = card_of(hub)
    assert (card.data.license, card.data.datasets, card.text.strip()) == ("mit", ["you/data"], "# Theirs")
    assert (card.data.base_model, card.data.library_name) == ("test/tiny", "peft")
    (folder / "README.md").unlink()
    with pytest.raises(HubError, match=f"{folder}/README.md: no such file; write a card"):
        publish(folder, "me/toy", license="mit", console=quiet)


def test_what_is_refused_is_named_by_where_it_lies(folder, tmp_path, quiet):
    """And not by where it was copied to."""
    (folder / "headstart.json").unlink()
    shutil.rmtree(folder / "evaluation")
    (folder / "README.md").write_text("---\nbase_model: test/other\n---\n")
    with pytest.raises(HubError, match=f"^{folder}/README.md: base_model is 'test/other'"):
        publish(folder, folder=tmp_path / "out", license="mit", console=quiet)


def test_a_full_disk_is_told(folder, tmp_path, quiet, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(WriteError, match="No space left on device; publishing copies the adapter first"):
        publish(folder, folder=tmp_path / "out", license="mit", console=quiet)


def test_pushing_from_python_leaves_figures_behind(hub, folder):
    """The results that they are from do not go along."""
    MetaAdapter.from_pretrained(folder).push_to_hub("me/toy")
    files = hub.files("me/toy")
    assert "evaluation" not in json.loads(files["headstart.json"])["record"]
    assert "## Evaluation" not in files["README.md"].decode()


def test_pages_are_made_of_the_results(hub, folder, quiet):
    (folder / "evaluation" / "report.md").write_text("accuracy 99.9%")
    (folder / "evaluation" / "report.html").write_text("<script>evil()</script>")
    publish(folder, "me/toy", license="apache-2.0", console=quiet)
    files = hub.files("me/toy")
    assert b"99.9%" not in files["evaluation/report.md"]
    assert b"evil" not in files["evaluation/report.html"]


@pytest.mark.parametrize("name", shipped_adapters())
def test_shipped_adapters_can_be_published(name, tmp_path, quiet):
    found = publish(name, folder=tmp_path / "out", license="apache-2.0", dry_run=True, console=quiet)
    assert {"adapter_model.safetensors", "README.md", "evaluation/results.json"} <= found.files.keys()


@pytest.mark.parametrize("broken", [b"---\na: [\n---\n", b"---\nlicense: \xff\n---\n"])
def test_a_card_that_cannot_be_read_is_told(folder, tmp_path, quiet, broken):
    (folder / "README.md").write_bytes(broken)
    with pytest.raises(HubError, match=r"README\.md: its metadata is not valid YAML"):
        publish(folder, folder=tmp_path / "out", console=quiet)


def test_a_rehearsal_writes_nothing(hub, folder, tmp_path, quiet):
    publish(folder, "me/toy", license="apache-2.0", dry_run=True, console=quiet)
    publish(folder, folder=tmp_path / "deep" / "out", license="apache-2.0", dry_run=True, console=quiet)
    assert not hub.repositories
    assert not (tmp_path / "deep").exists()


def test_paths_of_this_machine_stay_here(hub, folder, quiet):
    def tell(about):
        about["record"]["command"] = "headstart meta-train /home/someone/recipes/mine.yaml"
        about["record"]["recipe"] = {"suite": {"sources": [{"path": "/data/secret-customer/pool"}]}}
        about["record"]["chat_template"] = "{{ x }} /home/in/a/template"

    def tell_results(results):
        results["protocol"]["recipe"]["suite"]["sources"] = [{"path": "C:\\Users\\someone\\secret-customer\\pool"}]
        results["notes"].append("near /home/someone/notes, /no_think")

    edit(folder / "headstart.json", tell)
    edit(folder / RESULTS, tell_results)
    publish(folder, "me/toy", license="apache-2.0", console=quiet)
    everything = b"".join(hub.files("me/toy").values())
    assert b"/home/someone" not in everything
    assert b"secret-customer" not in everything
    about = json.loads(hub.files("me/toy")["headstart.json"])
    assert about["record"]["command"] == "headstart meta-train mine.yaml"
    assert about["base"]["source"] == "hub"
    assert about["record"]["chat_template"] == "{{ x }} /home/in/a/template"
    results = json.loads(hub.files("me/toy")[RESULTS.as_posix()])
    assert results["protocol"]["recipe"]["suite"]["sources"] == [{"path": "pool"}]
    assert results["notes"][-1] == "near notes, /no_think"


def spoil_figures(folder):
    edit(folder / "headstart.json", lambda about: about["record"]["evaluation"]["summary"]["meta"]["10"]["accuracy"].update(mean=0.99))


def other_adapter(folder):
    edit(folder / RESULTS, lambda results: results["protocol"]["adapters"][0].update(sha256="0" * 64))


def leak(folder):
    edit(folder / "headstart.json", lambda about: about["record"].update(command="HF_TOKEN=hf_" + "aB3" * 12 + " headstart meta-train"))


REFUSED = {
    "figures that are not in the results": (
        spoil_figures,
        r"record\.evaluation\.summary is not what .*results\.json says; evaluate it again",
    ),
    "results of another adapter": (other_adapter, "was measured on another adapter than the one beside it"),
    "a record that is none": (
        lambda folder: edit(folder / "headstart.json", lambda about: about["record"].update(evaluation=[1])),
        r"record\.evaluation: expected a section of keys",
    ),
    "a broken record": (
        lambda folder: edit(folder / "headstart.json", lambda about: about.update(record=7)),
        r"headstart\.json: record",
    ),
    "results that the record does not know": (
        lambda folder: edit(folder / "headstart.json", lambda about: about["record"].pop("evaluation")),
        r"results\.json: tells of an evaluation, and .*headstart\.json does not",
    ),
    "a record without its results": (lambda folder: (folder / RESULTS).unlink(), r"headstart\.json: tells of an evaluation"),
    "a token": (leak, r"headstart\.json: line \d+ holds a token of the Hugging Face hub; take it out"),
    "a file that is no report's": (
        lambda folder: (folder / "evaluation" / "x.pkl").write_bytes(b"\x80\x04"),
        r"x\.pkl: no file of a report, which are results\.json",
    ),
    "no licence": (lambda folder: None, r"toy: its card names no licence, or several; give --license"),
    "a local base": (
        lambda folder: [
            edit(folder / "adapter_config.json", lambda config: config.update(base_model_name_or_path="/home/me/base")),
            edit(folder / "headstart.json", lambda about: about["base"].update(id="/home/me/base")),
        ],
        "a path on this machine",
    ),
    "what engines refuse": (lambda folder: edit(folder / "adapter_config.json", lambda config: config.update(use_dora=True)), "use_dora"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_must_not_be_published_is_refused_before_the_hub_is_asked(hub, folder, quiet, what):
    spoil, words = REFUSED[what]
    spoil(folder)
    with pytest.raises(AdapterError, match=words):
        publish(folder, "me/toy", license=None if what == "no licence" else "apache-2.0", console=quiet)
    assert not hub.requests


def test_an_earlier_cards_licence_and_datasets_stay(hub, folder, tmp_path, quiet):
    first = publish(folder, folder=tmp_path / "copy", license="mit", datasets=["you/data"], console=quiet)
    publish(first.address, "me/toy", console=quiet)
    assert (card_of(hub).data.license, card_of(hub).data.datasets) == ("mit", ["you/data"])


@pytest.mark.parametrize("places", [{}, {"repo_id": "me/toy", "folder": "x"}])
def test_one_place_is_asked_for(folder, quiet, places):
    with pytest.raises(HubError, match="one of them"):
        publish(folder, console=quiet, **places)


def test_no_token_is_anywhere_in_what_is_said_and_written(hub, folder, tmp_path, capfd):
    """Whatever happens: done, rehearsed, refused, broken off."""
    said = io.StringIO()
    console = Console(file=said, width=200)
    errors = []
    publish(folder, "me/toy", license="apache-2.0", tag="v1", console=console)
    publish(folder, "me/toy", license="apache-2.0", dry_run=True, console=console)
    publish(folder, folder=tmp_path / "out", license="apache-2.0", console=console)
    for fault in (("POST", "/api/models/me/toy/commit/main", 500, TOKEN), ("GET", "/api/whoami-v2", 401, f"bad {TOKEN}")):
        hub.fail(*fault)
        shutil.copyfile(folder / "README.md", folder / "curves.png")
        with pytest.raises(HubError) as refused:
            publish(folder, "me/toy", license="apache-2.0", console=console)
        errors.append(str(refused.value))
    out, err = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN not in "".join([said.getvalue(), *errors, out, err])
    assert TOKEN.encode() not in written + b"".join(hub.files("me/toy").values())
