"""What looks like a secret is found by its line, and never shown."""

import pytest
import torch
from safetensors.torch import save_file

from headstart.adapter.secrets import LIKE, secrets_in, without_paths

# put together here, so that no scanner takes this file for a leak
SECRETS = {
    "a token of the Hugging Face hub": "hf_" + "aB3" * 12,
    "a GitHub token": "ghp_" + "x9Y" * 12,
    "a GitLab token": "glpat-" + "x9Y-" * 6,
    "a bearer's token": "Authorization: Bearer " + "a1B2" * 6,
    "an API key (sk-...)": "sk-" + "proj-" + "a1B2" * 6,
    "an AWS access key": "AKIA" + "ABCDEFGH12345678",
    "a Google API key": "AIza" + "b" * 35,
    "a Slack token": "xoxb-" + "1234567890-abc",
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a JSON web token": "eyJ" + "hbGciOiJIUzI1" + ".eyJ" + "zdWIiOiIxMjM0" + ".sig",
    "a password in an address": "https://me:" + "hunter2" + "@example.org/x",
    "a key or password": "WANDB_API_KEY=" + "0123456789abcdef" * 2,
}


def test_every_kind_is_tried():
    assert SECRETS.keys() == LIKE.keys()


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_is_found_and_not_shown(tmp_path, what):
    path = tmp_path / "x.json"
    path.write_text(f'{{\n "command": "run {SECRETS[what]}"\n}}\n')
    assert list(secrets_in(path)) == [f"line 2 holds {what}"]


@pytest.mark.parametrize(
    "text",
    ['"api_key": "{}"', '"password": "{}"', '{{"WANDB_API_KEY": "{}"}}', "aws_secret_access_key = {}", "'access-token': '{}'", "PASSWD={}"],
)
def test_keys_of_json_and_others_are_known(tmp_path, text):
    (tmp_path / "x.json").write_text(text.format("0123abcd" * 2))
    assert list(secrets_in(tmp_path / "x.json")) == ["line 1 holds a key or password"]


def test_the_header_of_weights_is_looked_at(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"by": SECRETS["a GitHub token"]})
    assert list(secrets_in(tmp_path / "x.safetensors")) == ["line 1 holds a GitHub token"]


def test_a_token_that_was_given_is_looked_for(tmp_path):
    (tmp_path / "x.md").write_text("a given-one b")
    assert list(secrets_in(tmp_path / "x.md", "given-one")) == ["line 1 holds your own token of the hub"]


@pytest.mark.parametrize(
    ("said", "published"),
    [
        ("base.source=/home/me/base --x '/a/b c'", "base.source=base --x 'b c'"),
        ("~/runs/x, file:///a/b, C:\\Users\\me and \\\\host\\share", "x, b, me and share"),
        ("/home/John Doe/secret customer/pool", "pool"),
        ("C:\\Users\\John Doe\\pool", "pool"),
        ("data:/home/me/customer/x", "data:x"),
        ("https://huggingface.co/a/b ../pool a/b and/or 1/2 </s></s> /no_think / ~", None),
    ],
)
def test_paths_are_cut_down_to_their_last_part(said, published):
    assert without_paths({"a": [said], "labels": [said]}) == {"a": [published or said], "labels": [said]}


def test_names_of_keys_have_paths_too():
    assert without_paths({"files": {"/home/me/secret customer/x": 3}}) == {"files": {"x": 3}}


def test_ones_own_home_may_have_spaces(monkeypatch):
    monkeypatch.setenv("HOME", "/home/John Doe")
    assert without_paths("see /home/John Doe/x.jsonl") == "see x.jsonl"


def test_the_token_at_hand_is_found_whatever_it_looks_like(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "odd-token")
    (tmp_path / "x.md").write_text("a\nb odd-token c\n")
    assert list(secrets_in(tmp_path / "x.md")) == ["line 2 holds your own token of the hub"]


@pytest.mark.parametrize(
    "text",
    [
        "tokens: 625579",
        '"fingerprint": "c74975afe81b902a"',
        "sha256 " + "0a" * 32,
        "https://huggingface.co/me/toy",
        "`hf auth login`, or token=",
        "Secret: classification, password: incorrect-login, sk-learn-based-classification",
    ],
)
def test_what_is_none_is_left_alone(tmp_path, text):
    (tmp_path / "x.md").write_text(text)
    assert not list(secrets_in(tmp_path / "x.md"))
