"""Writing files and folders whole or not at all; where they lie, and what they take."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from headstart.errors import HeadstartError


class WriteError(HeadstartError):
    """A file or folder cannot be written; the message says which one and what the system said."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors inside into a `WriteError` that names the path and the reason, such as a full disk."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
    except SafetensorError as error:
        # safetensors wraps the system's errors in its own
        raise WriteError(f"{path}: cannot be written: {error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in its own folder (made if need be), then rename it into place; raises `WriteError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all; raises `ValueError` on NaN and infinity, which JSON does not have."""
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def require_writable(folder: Path) -> None:
    """See that a folder to come can be written, before the work that is to fill it; makes its parent, and leaves nothing else.

    Raises:
        WriteError: it cannot.
    """
    with writing(folder):
        folder = Path(os.path.abspath(folder))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-"):
            pass


def require_free(place: Path) -> None:
    """See that nothing would be written over: no file or folder is at a place, but for an empty folder; raises `WriteError`."""
    with writing(place):
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise WriteError(f"{place}: is there already; name another place, or take it away first")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Write a folder under a temporary name and put it in place, over an older one, only once it is complete; raises `WriteError`."""
    with writing(folder):
        # so that `.` has a name too
        folder = Path(os.path.abspath(folder))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            fresh = Path(scratch) / "new"
            fresh.mkdir()
            yield fresh
            old = Path(scratch) / "old"
            if folder.exists():
                folder.rename(old)
            try:
                fresh.rename(folder)
            except BaseException:
                # also when interrupted: the old one would go with the scratch folder
                if old.exists() and not folder.exists():
                    old.rename(folder)
                raise


def as_seen(path: Path) -> Path:
    """A path as from the working folder, where it lies below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def in_words(count: int) -> str:
    """Bytes in words."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def digest_of_files(paths: Iterable[Path]) -> str:
    """The sha256 of what some files hold, one after another; those that are not there hold nothing."""
    found = hashlib.sha256()
    for path in paths:
        if path.exists():
            found.update(path.read_bytes())
    return found.hexdigest()


def cache_folder() -> Path:
    """Where headstart keeps what can be made again: `$XDG_CACHE_HOME/headstart`, by default `~/.cache/headstart`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headstart"
