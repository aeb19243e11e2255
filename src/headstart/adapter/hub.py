"""Publishing an adapter folder to a model hub: looked at first, then uploaded in one commit."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from headstart.adapter.files import read_json
from headstart.adapter.header import AdapterError

NEEDED = ("adapter_config.json", "adapter_model.safetensors", "README.md")
PUBLISHED = (*NEEDED, "headstart.json", "rates.safetensors", "curves.png", "evaluation/*")
"""What belongs to an adapter; nothing else that lies in its folder is uploaded."""

NO_ANSWER: type[Exception] = HfHubHTTPError.__mro__[1]
"""What the hub's client raises where no answer comes: its HTTP library's own error, whichever library that is."""


class HubError(AdapterError):
    """An adapter cannot be published; the message says why, and how to mend it."""


def push_to_hub(save: Callable[[Path], None], repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish what `save` writes into a folder; see `push_folder`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / repo_id.rpartition("/")[2]
        save(folder)
        return push_folder(folder, repo_id, private=private, token=token)


def push_folder(folder: Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish an adapter folder to a repository, made if need be, in one commit; gives the repository's address.

    Args:
        folder: a plain PEFT adapter with a card.
        repo_id: `OWNER/NAME`.
        private: make it private where it is made.
        token: of the hub; the one that `hf auth login` stored where None.

    Raises:
        HubError: the folder, the name or the token will not do, or the hub refused; nothing was uploaded.
    """
    _require_publishable(folder)
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    try:
        validate_repo_id(repo_id)
        api.whoami()
        address = str(api.create_repo(repo_id, private=private, exist_ok=True))
        api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(PUBLISHED), commit_message="Upload adapter")
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is no name of a repository: {error}; give OWNER/NAME") from error
    except LocalTokenNotFoundError as error:
        raise HubError("there is no token of the model hub; run `hf auth login`, or give token=") from error
    except HfHubHTTPError as error:
        raise HubError(f"{repo_id}: {_refusal(error)}") from error
    except (NO_ANSWER, OSError) as error:
        raise HubError(f"the model hub at {constants.ENDPOINT} cannot be reached ({type(error).__name__}); look at the network") from error
    return address


def _require_publishable(folder: Path) -> None:
    """See that the files are there, and that the base is one that others can load."""
    lacking = next((name for name in NEEDED if not (folder / name).is_file()), None)
    if lacking:
        raise HubError(f"{folder / lacking}: no such file; only a saved adapter with its card can be published")
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    try:
        validate_repo_id(base or "")
        is_id = not Path(str(base)).exists()
    except HFValidationError:
        is_id = False
    if not is_id:
        raise HubError(
            f"{folder / 'adapter_config.json'}: base_model_name_or_path is {base!r}, which nobody else can load; it must be the base's id "
            "on the hub"
        )


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return "the hub does not know the token; run `hf auth login`, or give another token="
    if status == 403:
        return "the token may not write there; give OWNER/NAME of your own, and a token with write access"
    return f"the hub refused: {next(iter(str(error).strip().splitlines()), type(error).__name__)}"
