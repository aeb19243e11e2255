"""`headstart publish`: an adapter with a true card, checked as a whole, goes to a model hub in one commit, or into a plain folder."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, metadata_save
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from rich.console import Console

from headstart.adapter.card import Publication
from headstart.adapter.files import read_json
from headstart.adapter.hub import CONFIG, REPORT, HubError, explained, with_owner
from headstart.adapter.lint import require_portable
from headstart.adapter.places import adapter_folder, name_of
from headstart.adapter.publish import ABOUT, belonging, card_metadata, publishable, push_folder, restate
from headstart.adapter.secrets import without_paths
from headstart.adapter.stored import read_adapter
from headstart.evaluation.contenders import digest_in
from headstart.evaluation.report.schema import Results, read_results
from headstart.evaluation.report.view import REGIMES
from headstart.evaluation.run import RESULTS, evaluation_record, write_report
from headstart.files import WriteError, in_words, require_free, require_writable, whole_folder
from headstart.progress import say

FIGURES = ("suite", "base_variant", "looks", "summary", "pairs")
"""Of a record of an evaluation, what is not words."""
SHOWN = ("meta_adamw", "meta")
"""Arms whose numbers the card's metadata tells: those that start from the adapter."""


@dataclass(frozen=True)
class Published:
    """What was published, or would be.

    Args:
        address: the repository's, or the folder.
        files: names in it -> bytes.
    """

    address: str
    files: Mapping[str, int]


def publish(
    adapter: str | Path,
    repo_id: str | None = None,
    *,
    folder: str | Path | None = None,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    dry_run: bool = False,
    token: str | None = None,
    console: Console | None = None,
) -> Published:
    """Publish an adapter with a card that is made for the place it goes to.

    Everything is checked before anything is sent: that every engine can use the adapter, that nothing in it is a secret or a path of this
    machine, that its figures are those of its `evaluation/results.json`, and that this was measured on it.

    Args:
        adapter: an adapter folder, or a shipped adapter's name.
        repo_id: `OWNER/NAME` on the hub, or `NAME` in the token's own account; made if need be.
        folder: a plain folder to write instead, whole or not at all; a new or an empty one.
        private: make the repository private where it is made; one that is there and public is refused.
        revision: the branch, made if need be; the main one where None.
        tag: a name for this version; one that is there already must hold the same.
        license: the adapter's licence, by the hub's identifier such as `apache-2.0`; the card's own where None.
        datasets: ids on the hub of what it was trained on; the card's own where none is given.
        dry_run: check all that can be checked, and change nothing.
        token: of the hub; the one of `HF_TOKEN` or `hf auth login` where None.
        console: prints.

    Returns:
        Where it is, and the files.

    Raises:
        AdapterError: the adapter cannot be used by all engines, or is broken.
        HubError: something must not be published, or the hub refused or cannot be reached; nothing was committed.
        EvaluationError: its results cannot be read.
        WriteError: the folder cannot be written.
    """
    if (repo_id is None) == (folder is None):
        raise HubError("give a repository, OWNER/NAME, or a folder to write, one of them")
    if folder is not None and (private or revision or tag):
        raise HubError("a folder has no --private, --revision or --tag; leave them out, or give a repository")
    _require_identifiers(license, datasets)
    console, source = console or Console(), adapter_folder(adapter)
    if folder is not None:
        require_free(Path(folder))
    if folder is not None and not dry_run:
        require_writable(Path(folder))
    place = Path(folder).absolute().name if folder is not None else with_owner(str(repo_id), token)
    with _scratch() as scratch:
        staged = scratch / name_of(source)
        with _naming(source, instead_of=staged):
            _stage(source, staged, Publication(place, license, datasets))
            files = publishable(staged, token)
        if folder is None:
            address = push_folder(staged, place, private=private, token=token, revision=revision, tag=tag, dry_run=dry_run)
        else:
            address = str(folder) if dry_run else _copied(files, Path(folder))
        sizes = {name: path.stat().st_size for name, path in files.items()}
    for name, size in sizes.items():
        say(console, f"{'would publish' if dry_run else 'published'} {name} ({in_words(size)})")
    say(console, f"{'nothing was changed; it would go to' if dry_run else 'it is at'} {address}")
    return Published(address, sizes)


def _require_identifiers(license: str | None, datasets: Sequence[str]) -> None:
    """See that licence and datasets could be the hub's identifiers."""
    if license is not None and not re.fullmatch(r"[a-z][a-z0-9.+-]*", license):
        raise HubError(f"--license {license!r}: no licence has such an identifier on the hub; give one like apache-2.0, or other")
    for each in datasets:
        with explained(f"--dataset {each}"):
            validate_repo_id(each)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for a while; a full disk is told as such."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
    except OSError as error:
        place = error.filename or tempfile.gettempdir()
        raise WriteError(f"{place}: {error.strerror or error}; publishing copies the adapter first, to where TMPDIR says") from error


@contextmanager
def _naming(place: Path, instead_of: Path) -> Iterator[None]:
    """Have errors name a place that the user knows."""
    try:
        yield
    except HubError as error:
        raise HubError(str(error).replace(str(instead_of), str(place))) from error


def _stage(source: Path, staged: Path, publication: Publication) -> None:
    """Copy what belongs to an adapter, with its card made anew; what another maker saved keeps its own, and is told the rest."""
    require_portable(source)
    for name, path in belonging(source).items():
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, staged / name)
    card = card_metadata(source / "README.md")
    datasets = publication.datasets or _texts_of(card.get("datasets"))
    to = replace(publication, license=publication.license or _one(card.get("license")), datasets=datasets)
    if to.license is None:
        raise HubError(
            f"{name_of(source)}: its card names no licence, or several; give --license, such as apache-2.0. The base's licence and the "
            "terms of the training data, which the card lists, bind whoever uses it too"
        )
    if not (staged / ABOUT).is_file():
        _tell_rest(staged, card, to)
        return
    # which raises where something of it is not as it should be
    read_adapter(source)
    about = {"record": {}, **read_json(staged / ABOUT)}
    results = _require_true_figures(source, about)
    if results:
        # the pages too, which may not be what the results say any more
        write_report(without_paths(results), staged / REPORT)
    restate(staged, about, replace(to, results=list(_index(results)) if results else ()))


def _tell_rest(staged: Path, card: Mapping[str, Any], to: Publication) -> None:
    """Add to the card of another maker's adapter what the hub goes by, where it does not say."""
    if not (staged / "README.md").is_file():
        raise HubError(f"{staged / 'README.md'}: no such file; write a card that says what the adapter is for, and how it is asked")
    base = read_json(staged / CONFIG).get("base_model_name_or_path")
    told = {"license": to.license, **({"datasets": list(to.datasets)} if to.datasets else {})}
    metadata_save(staged / "README.md", {"base_model": base, "library_name": "peft", **card, **told})


def _texts_of(value: Any) -> list[str]:
    """The texts of a card's entry that may be one or a list."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def _one(license: Any) -> str | None:
    """A card's licence, or the only one of its list."""
    if isinstance(license, list) and len(license) == 1:
        license = license[0]
    return license if isinstance(license, str) else None


def _require_true_figures(source: Path, about: dict[str, Any]) -> Results | None:
    """The results of an evaluation, if there was one; see that what the record says is what they say, and that they are of this adapter."""
    recorded, path = about["record"].get("evaluation"), source / "evaluation" / RESULTS
    if recorded is None and not path.exists():
        return None
    mend = "evaluate it again, which writes both"
    if recorded is None or not path.exists():
        here, lacking = (path, source / ABOUT) if recorded is None else (source / ABOUT, path)
        raise HubError(f"{here}: tells of an evaluation, and {lacking} does not; {mend}")
    results = read_results(path)
    true = json.loads(json.dumps(evaluation_record(results, about["base"]["quantization"])))
    told = recorded if isinstance(recorded, dict) else {}
    odd = next((key for key in FIGURES if told.get(key) != true[key]), None)
    if odd:
        raise HubError(f"{source / ABOUT}: record.evaluation.{odd} is not what {path} says; {mend}")
    if digest_in(source) not in {each["sha256"] for each in results["protocol"]["adapters"]}:
        raise HubError(f"{path}: was measured on another adapter than the one beside it; {mend}")
    # its words and tables are this version's
    about["record"]["evaluation"] = true
    return results


def _index(results: Results) -> Iterator[EvalResult]:
    """The accuracies at the primary step in every setting, and the headline's difference, for a card's model index."""
    suite, step = results["protocol"]["suite"], str(results["protocol"]["primary"]["step"])
    for setting in results["settings"]:
        curves = {**setting["summary"], **{name: setting["pairs"][name] for name in setting["pairs"] if name == _primary(results)}}
        where = f"{REGIMES[setting['regime']]}, K = {setting['k']}, step {step}"
        told = {**{name: f"accuracy of {name}" for name in SHOWN}, _primary(results): f"accuracy difference {_primary(results)}"}
        for name, words in told.items():
            found = curves.get(name, {}).get(step, {}).get("accuracy")
            if found:
                yield EvalResult(
                    task_type="text-generation",
                    dataset_type=suite["name"],
                    dataset_name=f"{suite['name']}, {suite['split']}",
                    dataset_split=suite["split"],
                    dataset_revision=suite["revision"],
                    metric_type="accuracy",
                    metric_name=f"{words}, {where}",
                    metric_value=found["mean"],
                    metric_args={"low": found["low"], "high": found["high"], "level": 0.95},
                )


def _primary(results: Results) -> str:
    return results["protocol"]["primary"]["pair"]


def _copied(files: Mapping[str, Path], folder: Path) -> str:
    with whole_folder(folder) as fresh:
        for name, path in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, fresh / name)
    return str(folder)
