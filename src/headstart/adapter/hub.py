"""Publishing an adapter folder to a model hub: all that can be checked is checked first, then what belongs goes up in one commit."""

import json
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, constants, get_token, metadata_load
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from yaml import YAMLError

from headstart.adapter.files import read_json, read_peft
from headstart.adapter.header import AdapterError

NEEDED = ("adapter_config.json", "adapter_model.safetensors", "README.md")
PUBLISHED = (*NEEDED, "headstart.json", "rates.safetensors", "curves.png")
"""What belongs to an adapter, with what lies in `evaluation/` and is not hidden; nothing else in its folder is uploaded."""

COMMIT_MESSAGE = "Upload adapter"

REFUSALS = {
    401: ("the hub does not accept the token", "run `hf auth login`, or give another token="),
    403: ("the token may not write there", "choose a name of your own account, or take a token with write access"),
    404: ("no such repository or revision, or none that the token may see", "check the name and the token"),
    409: ("the repository changed meanwhile", "publish again"),
    412: ("the repository changed meanwhile", "publish again"),
    429: ("too many requests", "wait a while and publish again"),
}
"""HTTP status -> what happened, and how to mend it."""


class HubError(AdapterError):
    """An adapter cannot be published; the message says why, and how to mend it."""


class Publishable(ABC):
    """What can be saved as an adapter folder can be published."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder whole or not at all."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = COMMIT_MESSAGE,
    ) -> str:
        """Publish what `save_pretrained` writes; the arguments and what is raised are those of `push_folder`."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "adapter"
            self.save_pretrained(folder)
            return push_folder(folder, repo_id, private=private, token=token, revision=revision, commit_message=commit_message)


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
) -> str:
    """Publish an adapter folder to a repository, made if need be, in one commit; gives the repository's address.

    An earlier adapter there is replaced: of the files that belong to an adapter, those that this one lacks are deleted. Other files stay.

    Args:
        folder: a plain PEFT adapter with a card.
        repo_id: `OWNER/NAME`, or `NAME` in the token's own account.
        private: make it private where it is made; one that is there and public is refused.
        token: of the hub; the one of `HF_TOKEN` or `hf auth login` where None.
        revision: the branch, made if need be; the main one where None.
        commit_message: the commit's first line.

    Raises:
        HubError: the folder, the name or the token will not do, the hub refused, or it cannot be reached; nothing was committed.
    """
    files = _publishable(folder)
    _require_name(repo_id)
    with _explained(repo_id):
        api = HfApi(token=_token(token))
        account = api.whoami()["name"]
        repo_id = repo_id if "/" in repo_id else f"{account}/{repo_id}"
        # None leaves an organisation's own default in force
        address = str(api.create_repo(repo_id, private=private or None, exist_ok=True))
        if private and not api.model_info(repo_id).private:
            raise HubError(f"{repo_id}: there already, and public; make it private in its settings, or choose another name")
        if revision and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # not `upload_folder`, which may split what it uploads into several commits
        api.create_commit(repo_id, operations=_changes(api, repo_id, revision, files), commit_message=commit_message, revision=revision)
    return address


def account() -> str:
    """The name of the account whose token is at hand.

    Raises:
        HubError: there is no token, or the hub does not accept it or cannot be reached.
    """
    with _explained("the model hub"):
        return str(HfApi(token=_token(None)).whoami()["name"])


def holds(repo_id: str, ending: str, revision: str | None = None) -> bool:
    """Whether a model's repository has a file of that ending.

    Raises:
        HubError: there is no such repository, or the hub cannot be reached.
    """
    with _explained(repo_id):
        files = HfApi().model_info(repo_id, revision=revision).siblings or []
        return any(file.rfilename.endswith(ending) for file in files)


def _changes(
    api: HfApi, repo_id: str, revision: str | None, files: Mapping[str, Path]
) -> list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete]:
    """The files to add, and those of an earlier adapter to delete: learned rates left over would not fit this one."""
    stale = [name for name in api.list_repo_files(repo_id, revision=revision) if _belongs(name) and name not in files]
    added = (CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items())
    return [*added, *(CommitOperationDelete(path_in_repo=name) for name in stale)]


def _publishable(folder: Path) -> dict[str, Path]:
    """The files to upload, by their names in the repository, of a folder that others can use."""
    lacking = next((name for name in NEEDED if not (folder / name).is_file()), None)
    if lacking:
        raise HubError(f"{folder / lacking}: no such file; only a saved adapter with its card can be published")
    config = folder / "adapter_config.json"
    try:
        content = read_json(config)
        base = _hub_base(content.get("base_model_name_or_path"), config)
        read_peft(folder)
    except AdapterError as error:
        raise HubError(str(error)) from error
    local = next(((key, text) for key, value in content.items() for text in _texts(value) if _is_local(text)), None)
    if local:
        raise HubError(f"{config}: {local[0]} holds {local[1]!r}, a path on this machine; set it to null, or to what it is for others")
    _require_card_of(base, folder / "README.md")
    found = [*(folder / name for name in PUBLISHED), *sorted((folder / "evaluation").rglob("*"))]
    names = {path.relative_to(folder).as_posix(): path for path in found if path.is_file()}
    return {name: path for name, path in names.items() if _belongs(name)}


def _belongs(name: str) -> bool:
    """Whether a file, by its name in the repository, is one of an adapter's."""
    first, *others = name.split("/")
    return name in PUBLISHED or (first == "evaluation" and bool(others) and not any(part.startswith(".") for part in others))


def _hub_base(base: Any, config: Path) -> str:
    """See that the base is named by an id on the hub, which others can load."""
    fault = _base_fault(base)
    if fault:
        raise HubError(f"{config}: base_model_name_or_path is {base!r}, {fault}; set it to the base's id on the hub, OWNER/NAME")
    return str(base)


def _base_fault(base: Any) -> str | None:
    if not isinstance(base, str):
        return "which does not say what the adapter belongs to"
    if _is_local(base):
        return "a path on this machine, which nobody else has"
    try:
        validate_repo_id(base)
    except HFValidationError:
        return "which is no id on the hub"
    if Path(base).is_dir():
        return "a folder here, which nobody else has (if it is an id on the hub too, publish from a folder without one of that name)"
    return None


def _require_card_of(base: str, card: Path) -> None:
    """See that the card's metadata can be read and does not name another base, as PEFT's own card does after a local load."""
    try:
        told = (metadata_load(card) or {}).get("base_model", base)
    except (ValueError, YAMLError) as error:
        raise HubError(f"{card}: its metadata is not valid YAML ({_one_line(error)}); mend it") from error
    if told not in (base, [base]):
        raise HubError(f"{card}: base_model is {told!r} and adapter_config.json's base {base!r}; write the latter into both")


def _texts(value: Any) -> Iterator[str]:
    """Every text inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)


def _is_local(text: str) -> bool:
    """Whether a text is an absolute path of some system, or one in a home folder."""
    return text.startswith(("~", "file:")) or PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()


def _require_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is no name of a repository ({_one_line(error)}); give OWNER/NAME") from error


def _token(given: str | None) -> str:
    """The token to use; the message never holds it."""
    token = get_token() if given is None else given
    if token is None:
        raise HubError("there is no token of the model hub; run `hf auth login`, or give token=")
    if not re.fullmatch(r"[!-~]+", token):
        # the client's own error would print it
        raise HubError("the token is empty, or holds spaces or other characters that no token has; copy it again")
    return token


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turn whatever the hub's client raises inside into a `HubError`."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        # so broad because the client hands on the errors of all that carries it: its HTTP library, its storage's, the system's
        raise HubError(f"{repo_id}: {_reason(error, repo_id)}") from error


def _reason(error: Exception, repo_id: str) -> str:
    """What went wrong and how to mend it."""
    if isinstance(error, OfflineModeIsEnabled):
        return "the hub's client was told to stay offline; unset HF_HUB_OFFLINE"
    if isinstance(error, GatedRepoError):
        return f"the repository is gated, and not open to the token; ask for access at {constants.ENDPOINT}/{repo_id}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        other = ("the hub fails", "try again later") if status >= 500 else ("the hub refused", "mend that and publish again")
        what, mend = REFUSALS.get(status, other)
        return f"{what} ({status}: {_one_line(error.server_message or error)}); {mend}"
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return _one_line(error)
    return (
        f"the hub at {constants.ENDPOINT} cannot be reached, or the connection broke ({type(error).__name__}: {_one_line(error)}); "
        "check the network, the proxy and HF_ENDPOINT"
    )


def _one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())
