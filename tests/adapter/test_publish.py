"""Publishing: what goes up, what is refused before anything does, and what fetching gives back; against a hub on the loopback interface."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub import TOKEN, serving
from huggingface_hub import constants, snapshot_download
from peft import PeftModel

from headstart.adapter.adapted import AdaptedAdapter
from headstart.adapter.hub import HubError
from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.adapter.publish import Publishable, push_folder
from headstart.model.base import load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.model.sites import handing

IDS = torch.tensor([[5, 60, 200, 17, 90, 3, 250, 8]])
SAVED = {"adapter_config.json", "adapter_model.safetensors", "headstart.json", "rates.safetensors", "README.md"}


@pytest.fixture
def meta(dense_base, random_phi):
    with Learner(dense_base, LoraSpec(r=4, lora_alpha=8)) as learner:
        theta = {name: tensor[0] for name, tensor in random_phi(learner, 1).items()}
        rates = {name: torch.tensor([0.01, 0.005]) for name in theta}
        return MetaAdapter(theta, rates, learner.spec, Adaptation(steps=2), dense_base.spec, dense_base.fingerprint)


@pytest.fixture
def folder(meta, tmp_path):
    meta.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def unhurried(monkeypatch):
    """The client waits longer and longer between its attempts; here it does not."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_adapter(fetched, own):
    """But for where the base lies, which is this machine's own affair."""
    for kind in ("theta", "rates"):
        found, wanted = getattr(fetched, kind), getattr(own, kind)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (fetched.lora, fetched.adaptation, fetched.fingerprint) == (own.lora, own.adaptation, own.fingerprint)
    assert fetched.base == replace(own.base, source="hub")


def assert_nothing_uploaded(hub):
    assert not hub.uploaded
    assert all(not hub.messages(name, branch) for name, repository in hub.repositories.items() for branch in repository.branches)


# what goes up


def test_what_is_fetched_is_what_was_published(hub, meta, folder):
    assert push_folder(folder, "me/toy", token=TOKEN) == f"{hub.url}/me/toy"
    assert hub.files("me/toy") == contents(folder)
    assert set(hub.files("me/toy")) == SAVED
    assert hub.messages("me/toy") == ["Upload adapter"]
    fetched = snapshot_download("me/toy")
    assert_same_adapter(MetaAdapter.from_pretrained(fetched), meta)


def test_stock_peft_loads_it_by_its_name(hub, dense_base, meta, folder):
    push_folder(folder, "me/toy", token=TOKEN)
    shutil.rmtree(folder)
    phi = {name: tensor[None] for name, tensor in meta.theta.items()}
    with Learner(dense_base, meta.lora) as learner, handing(learner.sites, phi), torch.no_grad():
        own = dense_base.model(input_ids=IDS).logits
    model = load_base(dense_base.spec, "cpu").model
    with torch.no_grad():
        bare = model(input_ids=IDS).logits
        stock = PeftModel.from_pretrained(model, "me/toy").eval()(input_ids=IDS).logits
    torch.testing.assert_close(stock, own, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(bare, own, atol=1e-2), "the adapter must matter for this to show anything"
    assert ("GET", "/me/toy/resolve/main/adapter_model.safetensors") in hub.requests


def test_only_what_belongs_to_an_adapter_goes_up(hub, folder):
    extra = ("curves.png", "evaluation/results.json", "evaluation/curves.png")
    foreign = ("notes.txt", ".secret", ".git/config", "checkpoints/step-1.safetensors", "optimizer.pt", "sub/README.md", "evaluation/.env")
    for name in (*extra, *foreign):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    push_folder(folder, "me/toy", token=TOKEN)
    assert set(hub.files("me/toy")) == {*SAVED, *extra}
    assert not any(name.encode() in hub.uploaded.values() for name in foreign)


def test_a_second_push_replaces_the_adapter_and_leaves_other_files(hub, meta, folder):
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "results.json").write_text("{}")
    push_folder(folder, "me/toy", token=TOKEN)
    hub.repositories["me/toy"].commit("main", "by hand", {**hub.files("me/toy"), "LICENSE": b"mine", "evaluation.md": b"mine"})
    other = replace(meta, theta={name: tensor + 1 for name, tensor in meta.theta.items()}, rates={})
    other.push_to_hub("me/toy", token=TOKEN, commit_message="Better")
    # rates of the first, left over, would not fit the second
    assert set(hub.files("me/toy")) == {*SAVED, "LICENSE", "evaluation.md"} - {"rates.safetensors"}
    assert hub.messages("me/toy") == ["Upload adapter", "by hand", "Better"]
    assert_same_adapter(MetaAdapter.from_pretrained(snapshot_download("me/toy")), other)


def test_the_same_again_makes_no_commit(hub, folder):
    for _ in range(2):
        assert push_folder(folder, "me/toy", token=TOKEN) == f"{hub.url}/me/toy"
    assert hub.messages("me/toy") == ["Upload adapter"]


def test_a_fetched_adapter_can_be_published_again(hub, folder):
    push_folder(folder, "me/toy", token=TOKEN)
    fetched = Path(snapshot_download("me/toy"))
    assert (fetched / "README.md").is_symlink(), "the client's cache, where a folder holds links to files elsewhere"
    push_folder(fetched, "me/copy", token=TOKEN)
    assert hub.files("me/copy") == hub.files("me/toy")


def test_a_branch_is_made_and_the_main_one_left(hub, folder):
    (folder / "curves.png").write_bytes(b"of the first")
    push_folder(folder, "me/toy", token=TOKEN, revision="seed/1", commit_message="first")
    (folder / "curves.png").unlink()
    push_folder(folder, "me/toy", token=TOKEN, revision="seed/1", commit_message="second")
    assert hub.messages("me/toy", "seed/1") == ["first", "second"]
    assert hub.files("me/toy", "seed/1") == contents(folder)
    assert not hub.files("me/toy")


def test_a_name_alone_is_of_the_tokens_account(hub, folder):
    assert push_folder(folder, "toy", token=TOKEN) == f"{hub.url}/me/toy"
    assert set(hub.files("me/toy")) == SAVED


@pytest.mark.parametrize("private", [True, False])
def test_private_is_private(hub, folder, private):
    push_folder(folder, "me/toy", token=TOKEN, private=private)
    push_folder(folder, "me/toy", token=TOKEN, private=private)
    assert hub.repositories["me/toy"].private is private


def test_what_is_to_be_private_does_not_go_into_a_public_repository(hub, folder):
    hub.make("me/toy")
    with pytest.raises(HubError, match="me/toy: there already, and public; make it private in its settings"):
        push_folder(folder, "me/toy", token=TOKEN, private=True)
    assert_nothing_uploaded(hub)


def test_saving_goes_through_a_folder_that_does_not_stay(hub, meta):
    seen = []

    class Saved(Publishable):
        def save_pretrained(self, folder):
            assert not folder.exists()
            seen.append(folder)
            meta.save_pretrained(folder)

    assert Saved().push_to_hub("me/toy", token=TOKEN) == f"{hub.url}/me/toy"
    assert set(hub.files("me/toy")) == SAVED
    assert not seen[0].parent.exists()


def test_a_meta_adapter_publishes_itself(hub, meta):
    assert meta.push_to_hub("me/toy", private=True, token=TOKEN) == f"{hub.url}/me/toy"
    assert set(hub.files("me/toy")) == SAVED
    assert hub.repositories["me/toy"].private
    assert_same_adapter(MetaAdapter.from_pretrained(snapshot_download("me/toy", token=TOKEN)), meta)


def test_an_adapted_adapter_publishes_itself(hub, dense_base, meta):
    adapted = AdaptedAdapter(meta.theta, meta.lora, dense_base, instruction="Shout.", labels=("yes", "no"), steps=2, history=(2.0, 1.0))
    assert adapted.push_to_hub("me/toy", private=True, token=TOKEN) == f"{hub.url}/me/toy"
    assert set(hub.files("me/toy")) == SAVED - {"rates.safetensors"}
    assert hub.repositories["me/toy"].private
    fetched = AdaptedAdapter.from_pretrained(snapshot_download("me/toy", token=TOKEN), base=dense_base)
    assert fetched.phi.keys() == adapted.phi.keys()
    assert all(torch.equal(fetched.phi[name], adapted.phi[name]) for name in adapted.phi)
    assert fetched.about() == adapted.about()


def test_the_environment_is_heeded(hub, folder, tmp_path):
    """The client reads it when it is imported, so this takes a process of its own."""
    program = (
        "import sys, pathlib; from headstart.adapter.publish import push_folder; print(push_folder(pathlib.Path(sys.argv[1]), 'me/toy'))"
    )
    told = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "its"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", program, folder], env={**os.environ, **told}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{hub.url}/me/toy"
    assert hub.files("me/toy") == contents(folder)


# versions, and going on


def test_a_tag_names_what_was_committed(hub, meta, folder):
    push_folder(folder, "me/toy", token=TOKEN, tag="v1")
    first = hub.files("me/toy")
    replace(meta, rates={}).push_to_hub("me/toy", token=TOKEN, tag="v2")
    assert hub.files("me/toy", "v1") == first
    assert set(hub.files("me/toy", "v2")) == SAVED - {"rates.safetensors"}
    assert MetaAdapter.from_pretrained("me/toy", revision="v1").rates.keys() == meta.rates.keys()
    assert not MetaAdapter.from_pretrained("me/toy@v2").rates


def test_a_tag_stays_with_its_version(hub, meta, folder):
    for _ in range(2):
        push_folder(folder, "me/toy", token=TOKEN, tag="v1")
    assert hub.messages("me/toy") == ["Upload adapter"]
    with pytest.raises(HubError, match="me/toy: has a tag 'v1' already, of another version; choose another tag"):
        replace(meta, rates={}).push_to_hub("me/toy", token=TOKEN, tag="v1")
    assert hub.messages("me/toy") == ["Upload adapter"]


def test_a_rehearsal_checks_all_and_changes_nothing(hub, folder):
    assert push_folder(folder, "me/toy", token=TOKEN, dry_run=True) == f"{hub.url}/me/toy"
    assert not hub.repositories
    hub.make("me/toy")
    with pytest.raises(HubError, match="there already, and public"):
        push_folder(folder, "me/toy", token=TOKEN, private=True, dry_run=True)
    with pytest.raises(HubError, match="does not write for you"):
        push_folder(folder, "you/toy", token=TOKEN, dry_run=True)
    assert {method for method, _ in hub.requests} == {"GET"}
    assert_nothing_uploaded(hub)


CUTS = {
    "while a large file goes up": ("PUT", "/large/.*"),
    "while the commit goes up": ("POST", "/api/models/me/toy/commit/main"),
    "while a large file is announced": ("POST", r"/me/toy\.git/info/lfs/objects/batch"),
}


@pytest.mark.parametrize("when", CUTS)
def test_a_connection_that_is_cut_leaves_nothing_half_published(hub, folder, unhurried, when):
    """The client tries again a few times by itself; here the connection breaks every time, until it does not."""
    hub.cuts.append(CUTS[when])
    with pytest.raises(HubError, match=r"me/toy: the hub at .* cannot be reached, or the connection broke"):
        push_folder(folder, "me/toy", token=TOKEN, tag="v1")
    assert hub.files("me/toy") == {}
    assert not hub.repositories["me/toy"].tags
    hub.cuts.clear()
    push_folder(folder, "me/toy", token=TOKEN, tag="v1")
    assert hub.files("me/toy") == hub.files("me/toy", "v1") == contents(folder)
    assert hub.messages("me/toy") == ["Upload adapter"]


def test_a_hub_without_xet_is_told_of(hub, folder, unhurried, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(HubError, match=r"me/toy: the hub at .* has no Xet storage; set HF_HUB_DISABLE_XET=1, and run it again"):
        push_folder(folder, "me/toy", token=TOKEN)
    assert hub.files("me/toy") == {}


def test_what_arrived_is_not_sent_again(hub, folder):
    hub.fail("POST", "/api/models/me/toy/commit/main", 500, "internal")
    with pytest.raises(HubError, match=r"the hub fails .500: internal.; try again later"):
        push_folder(folder, "me/toy", token=TOKEN)
    assert hub.files("me/toy") == {}
    sent = [path for method, path in hub.requests if method == "PUT"]
    assert sent
    hub.faults.clear()
    push_folder(folder, "me/toy", token=TOKEN)
    assert hub.files("me/toy") == contents(folder)
    assert [path for method, path in hub.requests if method == "PUT"] == sent


def test_a_cut_behind_the_commit_leaves_a_version_that_gets_its_tag_later(hub, folder, unhurried):
    hub.cuts.append(("POST", "/api/models/me/toy/tag/.*"))
    with pytest.raises(HubError, match="the connection broke"):
        push_folder(folder, "me/toy", token=TOKEN, tag="v1")
    assert hub.files("me/toy") == contents(folder)
    hub.cuts.clear()
    push_folder(folder, "me/toy", token=TOKEN, tag="v1")
    assert hub.messages("me/toy") == ["Upload adapter"]
    assert hub.files("me/toy", "v1") == contents(folder)


def test_a_slow_hub_is_waited_for(hub, folder):
    hub.delay = 0.2
    push_folder(folder, "me/toy", token=TOKEN)
    assert hub.files("me/toy") == contents(folder)


@pytest.mark.parametrize("tag", ["v 1", "", "-v", "a..b", "v.lock", "x~1", "main"])
def test_a_tag_that_is_none_is_refused_before_anything_goes_up(hub, folder, tag):
    with pytest.raises(HubError, match="tag"):
        push_folder(folder, "me/toy", token=TOKEN, tag=tag)
    assert not hub.repositories


def test_a_tag_of_a_branchs_name_is_refused(hub, folder):
    push_folder(folder, "me/toy", token=TOKEN, revision="next")
    with pytest.raises(HubError, match="'next' is a branch's name there"):
        push_folder(folder, "me/toy", token=TOKEN, tag="next")


def test_a_token_that_reads_only_is_told_at_once(hub, folder):
    hub.role = "read"
    with pytest.raises(HubError, match="reads only; take one with write access"):
        push_folder(folder, "me/toy", token=TOKEN, dry_run=True)


def test_a_fine_grained_token_need_not_say_whom_it_writes_for(hub, folder):
    hub.role, hub.organisations = "fineGrained", None
    push_folder(folder, "me/toy", token=TOKEN)
    with pytest.raises(HubError, match="the token may not do that"):
        push_folder(folder, "team/toy", token=TOKEN)


def test_what_changed_meanwhile_is_not_written_over(hub, folder):
    """Another commit between the look at what is there and ours."""
    hub.make("me/toy")
    hub.before_commit = lambda: hub.repositories["me/toy"].commit("main", "meanwhile", {"rates.safetensors": b"theirs"})
    with pytest.raises(HubError, match=r"changed meanwhile .412.*run it again"):
        push_folder(folder, "me/toy", token=TOKEN)
    assert hub.messages("me/toy") == ["meanwhile"]
    hub.before_commit = None
    push_folder(folder, "me/toy", token=TOKEN)
    assert hub.files("me/toy") == contents(folder)


@pytest.mark.parametrize("name", ["README.md", "curves.png", "evaluation/results.json", "evaluation"])
def test_nothing_outside_the_folder_goes_up(hub, folder, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "results.json").write_text("{}")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    if name == "README.md":
        (outside / "README.md").write_text("---\nbase_model: test/tiny\n---\n")
    (folder / name).symlink_to(outside if name == "evaluation" else outside / ("README.md" if name == "README.md" else "results.json"))
    with pytest.raises(HubError, match=r"a link to .*outside the folder"):
        push_folder(folder, "me/toy", token=TOKEN)
    assert not hub.requests


def test_no_space_left_is_told_as_such(hub, folder, monkeypatch):
    push_folder(folder, "me/toy", token=TOKEN)
    full = OSError(28, "No space left on device", "/cache/x")

    def fail(*_, **__):
        raise full

    monkeypatch.setattr("headstart.adapter.hub.snapshot_download", fail)
    with pytest.raises(HubError, match="/cache/x: No space left on device; make room"):
        MetaAdapter.from_pretrained("me/toy")


# what is refused before the hub is asked anything

FOLDERS = {
    "no configuration": (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json: no such file"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors: no such file"),
    "no card": (lambda folder: (folder / "README.md").unlink(), "README.md: no such file"),
    "weights cut off": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes()[:-4]),
        "adapter_model.safetensors: cut off",
    ),
    "no plain LoRA": (lambda folder: edit(folder / "adapter_config.json", use_dora=True), "use_dora is set"),
    "configuration that is no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "not valid JSON"),
    "a path elsewhere": (
        lambda folder: edit(folder / "adapter_config.json", corda_config={"cache_file": "/home/someone/cache"}),
        "corda_config holds '/home/someone/cache', a path on this machine",
    ),
    "card of another base": (
        lambda folder: (folder / "README.md").write_text("---\nbase_model: /home/someone/base\n---\n"),
        "README.md: base_model is '/home/someone/base' and adapter_config.json's base 'test/tiny'",
    ),
    "card without valid metadata": (lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"), "not valid YAML"),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_folder_that_others_cannot_use_is_refused(hub, folder, fault):
    spoil, words = FOLDERS[fault]
    spoil(folder)
    with pytest.raises(HubError, match=words):
        push_folder(folder, "me/toy", token=TOKEN)
    assert not hub.requests


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (None, "is None, which does not say what the adapter belongs to"),
        ("", "is '', which is no id on the hub"),
        ("/home/someone/models/base", "a path on this machine"),
        ("~/models/base", "a path on this machine"),
        (r"C:\models\base", "a path on this machine"),
        ("./base", "which is no id on the hub"),
        ("../base", "which is no id on the hub"),
        ("a/b/c", "which is no id on the hub"),
        ("models/base", "a folder here, which nobody else has"),
        ("base", "a folder here, which nobody else has"),
    ],
)
def test_a_base_that_others_cannot_load_is_refused(hub, folder, tmp_path, monkeypatch, base, words):
    (tmp_path / "here" / "models" / "base").mkdir(parents=True)
    (tmp_path / "here" / "base").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    edit(folder / "adapter_config.json", base_model_name_or_path=base)
    with pytest.raises(HubError) as refused:
        push_folder(folder, "me/toy", token=TOKEN)
    assert words in str(refused.value)
    assert "adapter_config.json: base_model_name_or_path is" in str(refused.value)
    assert not hub.requests


@pytest.mark.parametrize("name", ["", "a/b/c", "me/.toy", "me/to--y", "me/toy.git", "me/my toy", "https://huggingface.co/me/toy", "../toy"])
def test_a_name_that_is_none_is_refused(hub, folder, name):
    with pytest.raises(HubError, match=r"is no name of a repository .*; give OWNER/NAME"):
        push_folder(folder, name, token=TOKEN)
    assert not hub.requests


def test_without_a_token_nothing_is_asked(hub, folder):
    with pytest.raises(HubError, match=r"no token.*hf auth login.*token="):
        push_folder(folder, "me/toy")
    assert not hub.requests


@pytest.mark.parametrize("token", ["", "hf_mine\nhf_other", "hf_mine ", "hf_mïne"])
def test_a_token_that_is_none_is_refused_and_not_shown(hub, folder, token):
    with pytest.raises(HubError, match="copy it again") as refused:
        push_folder(folder, "me/toy", token=token)
    assert "hf_m" not in str(refused.value)
    assert not hub.requests


# what the hub refuses


@pytest.mark.parametrize("where", ["variable", "file"])
def test_a_stored_token_is_used(hub, folder, tmp_path, monkeypatch, where):
    if where == "file":
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "token").write_text(f"{TOKEN}\n")
    else:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    push_folder(folder, "me/toy")
    assert set(hub.files("me/toy")) == SAVED


def test_a_token_that_is_not_accepted_ends_it_at_once(hub, folder):
    with pytest.raises(HubError, match=r"the hub does not accept the token \(401: .*hf auth login.*token=") as refused:
        push_folder(folder, "me/toy", token="hf_other")
    assert "hf_other" not in str(refused.value)
    assert hub.requests == [("GET", "/api/whoami-v2")]


def test_another_account_is_refused(hub, folder):
    with pytest.raises(HubError, match=r"you/toy: the token is of me, who does not write for you; choose a name under me"):
        push_folder(folder, "you/toy", token=TOKEN)
    assert hub.requests == [("GET", "/api/whoami-v2")]


def test_anothers_repository_is_refused(hub, folder):
    hub.make("you/toy", {"README.md": b"theirs"})
    hub.organisations.append("you")
    with pytest.raises(HubError, match=r"the token may not do that .403: .*no write access to you/toy.*publish: write"):
        push_folder(folder, "you/toy", token=TOKEN)
    assert_nothing_uploaded(hub)
    assert hub.files("you/toy") == {"README.md": b"theirs"}


PREUPLOAD, COMMIT = "/api/models/me/toy/preupload/main", "/api/models/me/toy/commit/main"
ANSWERS = {
    "gated": (
        ("GET", "/api/models/me/toy", 403, "ask first", "GatedRepo"),
        "gated, and not open to the token; ask for access at http.*/me/toy",
    ),
    "gone": (("POST", PREUPLOAD, 404, "gone", "RepoNotFound"), "no such repository or revision.*404: gone.*check the name"),
    "no branch": (("POST", PREUPLOAD, 404, "no main", "RevisionNotFound"), "no such repository or revision.*404: no main"),
    "read only": (("POST", PREUPLOAD, 403, "read-only token"), "may not do that .403: read-only token.*publish: write"),
    "card refused": (("POST", "/api/validate-yaml", 400, "", None, {"errors": [{"message": "bad licence"}]}), "README.md. - bad licence"),
    "storage refused": (("PUT", "/large/.*", 403, "expired"), "connection broke .RuntimeError: Error while uploading"),
    "changed meanwhile": (("POST", COMMIT, 412, "a commit has happened since"), "changed meanwhile .412: a commit has.*run it again"),
    "conflict": (("POST", COMMIT, 409, "another commit is under way"), "changed meanwhile .409: another commit.*run it again"),
    "too often": (("POST", "/api/repos/create", 429, "slow down"), "too many requests .429: .*wait a while"),
    "failing": (("POST", COMMIT, 500, "internal"), "the hub fails .500: internal.; try again later"),
    "quota": (("POST", "/api/repos/create", 413, "no space left"), "the hub refused .413: no space left"),
    "another page": (("GET", "/api/whoami-v2", 200, "", None, b"<html>Please log in"), "cannot be reached, .*JSONDecodeError.*the proxy"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_the_hub_refuses_is_said_and_nothing_is_committed(hub, folder, answer):
    fault, words = ANSWERS[answer]
    hub.fail(*fault)
    with pytest.raises(HubError, match=f"^me/toy: .*{words}"):
        push_folder(folder, "me/toy", token=TOKEN)
    assert not any(hub.messages(name) for name in hub.repositories)


def test_no_network(hub, folder, monkeypatch):
    with serving() as gone:
        pass
    monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    with pytest.raises(HubError, match=f"me/toy: the hub at {gone.url} cannot be reached.*ConnectError.*check the network"):
        push_folder(folder, "me/toy", token=TOKEN)


def test_offline(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="told to stay offline; unset HF_HUB_OFFLINE"):
        push_folder(folder, "me/toy", token=TOKEN)
    assert not hub.requests
