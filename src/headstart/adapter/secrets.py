"""What must not be published: what looks like a token or key of well-known services, the token at hand, and paths of this machine."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from headstart.adapter.hub import is_local

LIKE = {
    "a token of the Hugging Face hub": r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an API key (sk-...)": r"\bsk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google API key": r"\bAIza[A-Za-z0-9_-]{35}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^/\s:@\"]+:[^/\s:@\"]+@",
    "a bearer's token": r"(?i)\bbearer +(?=[A-Za-z_\-/+.]*[0-9])[A-Za-z0-9_\-/+.]{16,}",
    "a key or password": (
        r"(?i)\b[a-z_-]*(?:api[_-]?key|secret|passw(?:or)?d|(?:access|auth|hf)[_-]?token)(?:[_-][a-z]+)*"
        r"[\"']?\s*[=:]\s*[\"']?(?=[A-Za-z_\-/+.]*[0-9])[A-Za-z0-9_\-/+.]{12,}"
    ),
}
"""What it is -> a pattern of it, within one line."""

QUOTED = re.compile(r"(?P<quote>['\"])(?:/|~\w*[/\\]|[A-Za-z]:[/\\]|\\\\).*?(?P=quote)")
PATH = re.compile(r"(?<![\w./\\<~-])(?:file:/+|~\w*[/\\]|[A-Za-z]:[/\\]|\\\\|/(?!/))[^\s'\"`,;()\[\]{}<>]+")
"""Paths of this machine within a text: absolute, or in somebody's home; no address of the web, and nothing behind dots."""
VERBATIM = ("instruction", "labels", "user_turn", "chat_template", "chat_template_kwargs")
"""Keys of a record that are left as they are: the adapter goes by them to the letter."""


def secrets_in(path: Path, token: str | None = None) -> Iterator[str]:
    """What in a file looks like a secret, and where, without the secret itself; of safetensors their header is looked at.

    Args:
        path: the file.
        token: one that must not be in it, beside the one at hand.
    """
    own = [each for each in (token, get_token()) if each]
    for number, line in enumerate(_text(path).splitlines(), start=1):
        found = next((what for what, pattern in LIKE.items() if re.search(pattern, line)), None)
        if any(each in line for each in own):
            found = "your own token of the hub"
        if found:
            yield f"line {number} holds {found}"


def _text(path: Path) -> str:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little") if path.suffix == ".safetensors" else -1
        if length < 0:
            file.seek(0)
        return file.read(length).decode("utf-8", "replace")


def without_paths(value: Any) -> Any:
    """A JSON value with the last part alone of every path of this machine, but for what is `VERBATIM`."""
    if isinstance(value, str):
        if _is_whole_path(value):
            return _last_part(value)
        # whose own name may have spaces in it
        value = value.replace(f"{Path.home()}/", "~/")
        return PATH.sub(lambda found: _last_part(found[0]), QUOTED.sub(lambda found: _within_quotes(found[0]), value))
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    if isinstance(value, dict):
        return {without_paths(key): each if key in VERBATIM else without_paths(each) for key, each in value.items()}
    return value


def _is_whole_path(text: str) -> bool:
    """Whether a text is nothing but a path, which then may have white space in it."""
    return is_local(text) and not re.search(r"\n|://|[:,;] ", text) and len(re.findall(r"[^/\\]+", text)) > 2


def _within_quotes(text: str) -> str:
    return f"{text[0]}{_last_part(text[1:-1])}{text[-1]}"


def _last_part(path: str) -> str:
    """Of a path of some depth: `/no_think` is none."""
    parts = re.findall(r"[^/\\]+", path)
    return str(parts[-1] if len(parts) > 1 else path)
