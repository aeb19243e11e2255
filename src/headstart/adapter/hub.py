"""The model hub through its own client: the token, names, what the client raises in words that help, and fetching."""

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from headstart.adapter.header import AdapterError

CONFIG = "adapter_config.json"
NEEDED = (CONFIG, "adapter_model.safetensors", "README.md")
REPORT, REPORTED = "evaluation", ("results.json", "report.html", "report.md", "curves.png")
BELONGING = (*NEEDED, "headstart.json", "rates.safetensors", "curves.png", *(f"{REPORT}/{name}" for name in REPORTED))
"""What belongs to an adapter; nothing else in its folder is uploaded, or fetched."""

REFUSALS = {
    401: ("the hub does not accept the token", "run `hf auth login`, or give another token="),
    403: (
        "the token may not do that",
        "take one with the right access (to publish: write), and a name of your own account",
    ),
    404: ("no such repository or revision, or none that the token may see", "check the name and the token"),
    409: ("the repository changed meanwhile", "run it again"),
    412: ("the repository changed meanwhile", "run it again"),
    429: ("too many requests", "wait a while and run it again"),
}
"""HTTP status -> what happened, and how to mend it."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of this machine's disk."""

NO_XET = re.compile(r"404 Not Found.*/xet-write-token/", re.DOTALL)
"""In an error of the client of a hub that has files in whole alone, as many that are served elsewhere."""


class HubError(AdapterError):
    """The hub was not reached, or refused, or was asked for what it cannot give; the message says why, and how to mend it."""


def account(token: str | None = None) -> str:
    """The name of the account of a token, or of the one at hand.

    Raises:
        HubError: there is no token, or the hub does not accept it or cannot be reached.
    """
    with explained("the model hub", token):
        return str(HfApi(token=token_of(token)).whoami()["name"])


def with_owner(repo_id: str, token: str | None = None) -> str:
    """`OWNER/NAME` of what may be `NAME` in the token's own account; raises `HubError`."""
    require_name(repo_id)
    return repo_id if "/" in repo_id else f"{account(token)}/{repo_id}"


def holds(repo_id: str, ending: str, revision: str | None = None) -> bool:
    """Whether a model's repository has a file of that ending.

    Raises:
        HubError: there is no such repository, or the hub cannot be reached.
    """
    with explained(repo_id):
        files = HfApi().model_info(repo_id, revision=revision).siblings or []
        return any(file.rfilename.endswith(ending) for file in files)


def base_fault(base: Any) -> str | None:
    """Why others cannot load a base by this, or None."""
    if not isinstance(base, str):
        return "which does not say what the adapter belongs to"
    if is_local(base):
        return "a path on this machine, which nobody else has"
    try:
        validate_repo_id(base)
    except HFValidationError:
        return "which is no id on the hub"
    if Path(base).is_dir():
        return "a folder here, which nobody else has (if it is an id on the hub too, publish from a folder without one of that name)"
    return None


def is_local(text: str) -> bool:
    """Whether a text is an absolute path of some system, or one in a home folder."""
    return text.startswith(("~", "file:")) or PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()


def require_name(repo_id: str) -> None:
    """See that a repository could have this name; raises `HubError`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is no name of a repository ({one_line(error)}); give OWNER/NAME") from error


def token_of(given: str | None) -> str:
    """The token to use; the message never holds it."""
    token = get_token() if given is None else given
    if token is None:
        raise HubError("there is no token of the model hub; run `hf auth login`, or give token=")
    if not re.fullmatch(r"[!-~]+", token):
        # the client's own error would print it
        raise HubError("the token is empty, or holds spaces or other characters that no token has; copy it again")
    return token


def fetched(repo_id: str, revision: str | None = None) -> Path:
    """The folder of an adapter on the hub, downloaded where it is not here yet; nothing but an adapter's own files is.

    Args:
        repo_id: `OWNER/NAME`.
        revision: a branch, tag or commit; the main branch where None.

    Raises:
        HubError: there is no such repository or revision, it holds no adapter, or the hub cannot be reached and it is not here either.
    """
    require_name(repo_id)
    at = f"{repo_id}@{revision}" if revision else repo_id
    with explained(at):
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(BELONGING)))
    if not (folder / CONFIG).is_file():
        raise HubError(f"{at}: holds no {CONFIG}, so it is no PEFT adapter; check the name")
    return folder


@contextmanager
def explained(repo_id: str, token: str | None = None) -> Iterator[None]:
    """Turn whatever the hub's client raises inside into a `HubError`, in which no token stands."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        # so broad because the client hands on the errors of all that carries it: its HTTP library, its storage's, the system's
        message = f"{repo_id}: {_reason(error, repo_id)}"
        for each in filter(None, (token, get_token())):
            message = message.replace(each, "(the token)")
        # not `from error`, whose own text may hold what was just taken out
        raise HubError(message) from None


def _reason(error: Exception, repo_id: str) -> str:
    """What went wrong and how to mend it."""
    cause = _cause(error)
    if isinstance(cause, OfflineModeIsEnabled):
        return "not here yet, and the hub's client was told to stay offline; unset HF_HUB_OFFLINE"
    if isinstance(cause, GatedRepoError):
        return f"the repository is gated, and not open to the token; ask for access at {constants.ENDPOINT}/{repo_id}"
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        other = ("the hub fails", "try again later") if status >= 500 else ("the hub refused", "mend that and run it again")
        # of a repository that is not there, the hub says 401 to those without a token
        what, mend = REFUSALS.get(404 if isinstance(cause, RepositoryNotFoundError) else status, other)
        return f"{what} ({status}: {one_line(cause.server_message or cause)}); {mend}"
    if NO_XET.search(str(error)):
        return f"the hub at {constants.ENDPOINT} has no Xet storage; set HF_HUB_DISABLE_XET=1, and run it again"
    if isinstance(cause, OSError) and cause.errno in FULL:
        return f"{cause.filename or 'the disk'}: {cause.strerror}; make room, or set HF_HOME to a folder that can be written"
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return one_line(error)
    return (
        f"the hub at {constants.ENDPOINT} cannot be reached, or the connection broke ({type(error).__name__}: {one_line(error)}); "
        "check the network, the proxy and HF_ENDPOINT"
    )


def _cause(error: BaseException) -> BaseException:
    """What lies behind an error of the client's that says no more than that nothing was found here."""
    behind: BaseException | None = error
    while isinstance(behind, LocalEntryNotFoundError):
        behind = behind.__cause__ or behind.__context__
    return behind or error


def one_line(error: Exception | str) -> str:
    """What an error says, without line ends."""
    return " ".join(str(error).split())
