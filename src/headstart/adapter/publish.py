"""Publishing an adapter folder to a model hub: all that can be checked is checked first, then what belongs goes up in one commit."""

import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, metadata_load
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash
from yaml import YAMLError

from headstart.adapter.card import Publication, write_adapted_card, write_card
from headstart.adapter.files import read_json, read_peft
from headstart.adapter.header import AdapterError
from headstart.adapter.hub import (
    BELONGING,
    NEEDED,
    REPORT,
    REPORTED,
    HubError,
    base_fault,
    explained,
    is_local,
    one_line,
    token_of,
    with_owner,
)
from headstart.adapter.secrets import secrets_in, without_paths
from headstart.files import write_json

ABOUT = "headstart.json"
COMMIT_MESSAGE = "Upload adapter"
TAG = re.compile(r"(?![-/.])(?!.*(?:\.\.|@\{|//|/\.))[^\s~^:?*\[\\\x00-\x1f\x7f]+(?<!\.lock)(?<![/.])")
"""What git takes for a tag's name."""


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
        tag: str | None = None,
        commit_message: str = COMMIT_MESSAGE,
    ) -> str:
        """Publish what `save_pretrained` writes; the arguments and what is raised are those of `push_folder`.

        `headstart.publish` does the same to a folder, and takes a licence and an evaluation where there is one; here figures stay behind.
        """
        repo_id = with_owner(repo_id, token)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "adapter"
            self.save_pretrained(folder)
            about = read_json(folder / ABOUT)
            # its figures go up with the results that they are from, or not at all
            about["record"].pop("evaluation", None)
            restate(folder, about, Publication(repo_id))
            return push_folder(folder, repo_id, private=private, token=token, revision=revision, tag=tag, commit_message=commit_message)


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    tag: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
    dry_run: bool = False,
) -> str:
    """Publish an adapter folder to a repository, made if need be, in one commit; gives the repository's address.

    An earlier adapter there is replaced: of the files that belong to an adapter, those that this one lacks are deleted. Other files stay.
    Where it was cut short, the same again does what is missing: a large file that has arrived is not sent again, and a commit that
    changes nothing is not made.

    Args:
        folder: a plain PEFT adapter with a card.
        repo_id: `OWNER/NAME`, or `NAME` in the token's own account.
        private: make it private where it is made; one that is there and public is refused.
        token: of the hub; the one of `HF_TOKEN` or `hf auth login` where None.
        revision: the branch, made if need be; the main one where None.
        tag: a name for this version; one that is there already must hold the same.
        commit_message: the commit's first line.
        dry_run: check all that can be checked, and change nothing.

    Raises:
        HubError: the folder, the name, the tag or the token will not do, the hub refused, or it cannot be reached. Nothing was committed,
            unless it is the tag alone that the hub refused.
    """
    files = publishable(folder, token)
    if tag is not None and not TAG.fullmatch(tag):
        raise HubError(f"{tag!r} is no name of a tag, which has no spaces and none of ~^:?*[\\; take one like v1.0")
    repo_id = with_owner(repo_id, token)
    with explained(repo_id, token):
        api = HfApi(token=token_of(token))
        _require_writer(api, repo_id)
        _require_room_for(api, repo_id, private, revision, tag, files)
        if dry_run:
            return f"{api.endpoint}/{repo_id}"
        # None leaves an organisation's own default in force
        address = str(api.create_repo(repo_id, private=private or None, exist_ok=True))
        if revision and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # not `upload_folder`, which may split what it uploads into several commits
        there = api.model_info(repo_id, revision=revision)
        commit = api.create_commit(
            repo_id,
            operations=_changes([each.rfilename for each in there.siblings or ()], files),
            commit_message=commit_message,
            revision=revision,
            parent_commit=there.sha,
        )
        if tag:
            api.create_tag(repo_id, tag=tag, revision=commit.oid, exist_ok=True)
    return address


def _require_writer(api: HfApi, repo_id: str) -> None:
    """See that the token writes for the repository's owner; of a fine-grained one the hub alone knows."""
    account = api.whoami()
    owner = repo_id.partition("/")[0]
    own = [account["name"], *(each["name"] for each in account.get("orgs") or ())]
    role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise HubError(f"{repo_id}: the token of {own[0]} reads only; take one with write access")
    if role != "fineGrained" and owner.casefold() not in map(str.casefold, own):
        raise HubError(f"{repo_id}: the token is of {own[0]}, who does not write for {owner}; choose a name under {', '.join(own)}")


def _require_room_for(api: HfApi, repo_id: str, private: bool, revision: str | None, tag: str | None, files: Mapping[str, Path]) -> None:
    """See that a repository that is there is as private as asked for, and that a tag that is there holds the same."""
    if tag is not None and tag in ("main", revision):
        raise HubError(f"{tag!r} is the branch's name, and cannot be the tag's too; choose another tag")
    if not api.repo_exists(repo_id):
        return
    if private and not api.model_info(repo_id).private:
        raise HubError(f"{repo_id}: there already, and public; make it private in its settings, or choose another name")
    if tag is None:
        return
    refs = api.list_repo_refs(repo_id)
    if tag in {each.name for each in refs.branches}:
        raise HubError(f"{repo_id}: {tag!r} is a branch's name there, and cannot be a tag's too; choose another tag")
    if tag in {each.name for each in refs.tags} and not _holds_same(api, repo_id, tag, files):
        raise HubError(f"{repo_id}: has a tag {tag!r} already, of another version; choose another tag, or delete that one")


def _changes(there: Iterable[str], files: Mapping[str, Path]) -> list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete]:
    """The files to add, and those of an earlier adapter to delete: learned rates left over would not fit this one."""
    stale = [name for name in there if name in BELONGING and name not in files]
    added = (CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items())
    return [*added, *(CommitOperationDelete(path_in_repo=name) for name in stale)]


def _holds_same(api: HfApi, repo_id: str, revision: str, files: Mapping[str, Path]) -> bool:
    """Whether the adapter's files at a revision are these, by their hashes."""
    tree = api.list_repo_tree(repo_id, revision=revision, recursive=True)
    there = {each.path: each for each in tree if isinstance(each, RepoFile) and each.path in BELONGING}
    return there.keys() == files.keys() and all(_same(there[name], path.read_bytes()) for name, path in files.items())


def _same(there: RepoFile, content: bytes) -> bool:
    return there.lfs.sha256 == sha256(content).hexdigest() if there.lfs else there.blob_id == git_hash(content)


def publishable(folder: Path, token: str | None = None) -> dict[str, Path]:
    """The files to upload, by their names in the repository, of a folder that others can use.

    Raises:
        HubError: others cannot, or a file must not be shown: it holds a secret, or lies elsewhere.
    """
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
    local = next(((key, text) for key, value in content.items() for text in _texts(value) if is_local(text)), None)
    if local:
        raise HubError(f"{config}: {local[0]} holds {local[1]!r}, a path on this machine; set it to null, or to what it is for others")
    _require_card_of(base, folder / "README.md")
    files = belonging(folder)
    # the card last, which is made of the others
    for name, path in sorted(files.items(), key=lambda each: each[0] == "README.md"):
        secret = next(secrets_in(path, token), None)
        if secret:
            raise HubError(f"{name}: {secret}; take it out, and revoke it if it was ever shown to anyone")
    return files


def belonging(folder: Path) -> dict[str, Path]:
    """The files of an adapter folder that belong to the adapter, by their names in a repository.

    Raises:
        HubError: there is a file in `evaluation/` that is none of a report's, or one that lies elsewhere and is linked.
    """
    others = (path for path in (folder / REPORT).rglob("*") if path.is_file() and not path.name.startswith("."))
    odd = next((path for path in others if path.relative_to(folder).as_posix() not in BELONGING), None)
    if odd:
        raise HubError(f"{odd}: no file of a report, which are {', '.join(REPORTED)}, so it would not go up; take it out of the folder")
    files = {name: folder / name for name in BELONGING if (folder / name).is_file()}
    linked = next((path for path in files.values() if not _lies_in(path, folder)), None)
    if linked:
        raise HubError(f"{linked}: a link to {linked.resolve()}, outside the folder; copy here what is meant to be published")
    return files


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a file is the folder's own, or that of the hub client's cache which the folder is part of."""
    roots = [folder, *([folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [])]
    return any(path.resolve().is_relative_to(root.resolve()) for root in roots)


def restate(folder: Path, about: dict[str, Any], to: Publication) -> dict[str, Any]:
    """Write the record and the card of a saved adapter anew for the place it goes to, without paths of this machine.

    Args:
        folder: of the adapter.
        about: the content of its `headstart.json`.
        to: the place.

    Returns:
        The record as it is published.
    """
    told = without_paths(about)
    if told["base"]["source"] not in ("hub", "bundled"):
        told["base"]["source"] = "hub"
    write_json(folder / ABOUT, told)
    write = write_adapted_card if told["kind"] == "adapted_adapter" else write_card
    write(folder, told, to)
    return dict(told)


def _hub_base(base: Any, config: Path) -> str:
    """See that the base is named by an id on the hub, which others can load."""
    fault = base_fault(base)
    if fault:
        raise HubError(f"{config}: base_model_name_or_path is {base!r}, {fault}; set it to the base's id on the hub, OWNER/NAME")
    return str(base)


def _require_card_of(base: str, card: Path) -> None:
    """See that the card's metadata can be read and does not name another base, as PEFT's own card does after a local load."""
    told = card_metadata(card).get("base_model", base)
    if told not in (base, [base]):
        raise HubError(f"{card}: base_model is {told!r} and adapter_config.json's base {base!r}; write the latter into both")


def card_metadata(card: Path) -> dict[str, Any]:
    """The metadata of a card; none where there is no card.

    Raises:
        HubError: it cannot be read.
    """
    try:
        return (metadata_load(card) or {}) if card.is_file() else {}
    except (ValueError, YAMLError) as error:
        raise HubError(f"{card}: its metadata is not valid YAML ({one_line(error)}); mend it") from error


def _texts(value: Any) -> Iterator[str]:
    """Every text inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)
