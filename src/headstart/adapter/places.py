"""Where adapters lie: in a folder, shipped with the package under a name, or on a model hub; and which of them are here."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from rich.table import Table
from rich.text import Text

from headstart.adapter.files import read_json
from headstart.adapter.header import AdapterError
from headstart.adapter.hub import CONFIG, HubError, fetched
from headstart.files import in_words
from headstart.progress import printable
from headstart.shipped import by_name, shipped_adapters

Origin = Literal["shipped", "cached", "here"]
RUNS = ("runs/*/adapter", "adapted/*", "adapted/*/*")
"""Where runs and adaptations leave adapters, below the folder that one works in."""


@dataclass(frozen=True)
class Found:
    """An adapter that is here.

    Args:
        name: what commands take for it.
        origin: shipped with the package, in the hub client's cache, or below the working folder.
        folder: where it lies.
        kind: `meta_adapter`, `adapted_adapter`, or `peft` for one of another maker.
        base: the base's id.
        size: bytes of its weights.
    """

    name: str
    origin: Origin
    folder: Path
    kind: str
    base: str
    size: int

    def as_json(self) -> dict[str, Any]:
        """The parts under their names."""
        return {**asdict(self), "folder": str(self.folder)}


def adapter_folder(source: str | Path, revision: str | None = None) -> Path:
    """The folder of an adapter: an existing one, a shipped adapter's by its name, or one fetched from the hub.

    Args:
        source: a folder, a shipped name, or `OWNER/NAME` on the hub, perhaps with `@REVISION` behind it.
        revision: of the hub: a branch, tag or commit.

    Raises:
        AdapterError: there is none of that name.
    """
    folder = Path(source)
    if not str(source):
        raise AdapterError("the adapter's name is empty; give a folder, a shipped adapter's name, or OWNER/NAME on the hub")
    if folder.is_file():
        raise AdapterError(f"{source}: a file; give the folder that it lies in")
    if folder.is_dir():
        if revision:
            raise AdapterError(f"{source}: a folder here, which has no revisions; leave revision out")
        return folder
    if not on_hub(source):
        return by_name(str(source), shipped_adapters(), "adapter folder", AdapterError)
    name, _, behind = str(source).partition("@")
    if revision and behind and revision != behind:
        raise AdapterError(f"{source}: asks for {behind}, and revision for {revision}; give one of them")
    try:
        return fetched(name, revision or behind or None)
    except HubError as error:
        raise HubError(f"{error} (nor is there a folder {source} here)") from None


def on_hub(source: str | Path) -> bool:
    """Whether a name that is no folder here is meant as `OWNER/NAME` on the hub, perhaps with `@REVISION` behind it."""
    name = str(source).partition("@")[0]
    return isinstance(source, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def name_of(folder: Path) -> str:
    """What an adapter's folder is called: in the hub client's cache, where it is called by a hash, as the repository is."""
    own = folder.absolute()
    return own.parents[1].name.rpartition("--")[2] if own.parent.name == "snapshots" else own.name


def is_elsewheres(folder: Path) -> bool:
    """Whether a folder lies among what came from the hub or with the package, so that no path in its record is of this machine."""
    roots = (Path(constants.HF_HUB_CACHE), *(place.parent for place in shipped_adapters().values()))
    return any(root.resolve() in folder.resolve().parents for root in roots)


def adapters_here(below: Path) -> list[Found]:
    """All adapters that commands can be given without fetching anything: shipped, in the hub client's cache, below a folder."""
    return [*_shipped(), *_cached(), *_below(below)]


def _shipped() -> Iterator[Found]:
    for name, folder in shipped_adapters().items():
        yield _found(name, "shipped", folder)


def _cached() -> Iterator[Found]:
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError):
        # the latter where something else lies there
        return
    models = (each for each in repositories if each.repo_type == "model")
    for repository in sorted(models, key=lambda each: each.repo_id):
        for revision in sorted(repository.revisions, key=lambda each: each.commit_hash):
            if (revision.snapshot_path / CONFIG).is_file():
                known = next(iter(sorted(revision.refs)), revision.commit_hash)
                name = repository.repo_id if "main" in revision.refs else f"{repository.repo_id}@{known}"
                yield _found(name, "cached", revision.snapshot_path)


def _below(folder: Path) -> Iterator[Found]:
    for pattern in RUNS:
        for config in sorted(folder.glob(f"{pattern}/{CONFIG}")):
            yield _found(config.parent.relative_to(folder).as_posix(), "here", config.parent)


def _found(name: str, origin: Origin, folder: Path) -> Found:
    base, kind = "?", "peft"
    try:
        base = str(read_json(folder / CONFIG).get("base_model_name_or_path"))
        if (folder / "headstart.json").is_file():
            kind = str(read_json(folder / "headstart.json").get("kind"))
    except AdapterError:
        kind = "broken"
    weights = folder / "adapter_model.safetensors"
    return Found(name, origin, folder, kind, base, weights.stat().st_size if weights.exists() else 0)


def _shown(text: str) -> Text:
    """A text of a stranger's, without what would move a terminal's cursor or change its colours."""
    return Text(printable(text))


def as_table(adapters: Iterable[Found]) -> Table:
    """For a terminal."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("name", "", "kind", "base"):
        table.add_column(heading)
    table.add_column("weights", justify="right")
    for each in adapters:
        table.add_row(*map(_shown, (each.name, each.origin, each.kind, each.base, in_words(each.size))))
    return table
