"""Looking at a suite: every row of every task, once; what was found is kept by content, so that looking again is immediate."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from headstart.bases import BaseSpec, tokenizer_folder
from headstart.checking.findings import Findings
from headstart.files import WriteError, cache_folder, write_json
from headstart.tasks.episodes import NOTHING_REDRAWN, Redrawn
from headstart.tasks.problems import NOWHERE, Place, Problem
from headstart.tasks.reading.opening import open_source
from headstart.tasks.reading.source import Source
from headstart.tasks.regimes import Regime
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import SuiteError

TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
NONE_NAMED = "none named"
BARS = 8
"""Bars of the histogram of lengths, up to the limit."""


@dataclass(frozen=True)
class Look:
    """What is looked at, and how.

    Args:
        specs: the sources.
        base: whose tokenizer and template render.
        regime: as in a recipe.
        max_length: the most tokens of an example.
        needed: the fewest examples of a task.
        seed: of the regime.
        redrawn: what training draws anew at each step.
    """

    specs: tuple[SourceSpec, ...]
    base: BaseSpec
    regime: Regime = "instructed"
    max_length: int = 512
    needed: int = 2
    seed: int = 0
    redrawn: Redrawn = NOTHING_REDRAWN


def look_at_suite(look: Look, findings: Findings) -> None:
    """Add what is wrong with a suite, and its sizes, to findings."""
    opening, sources = Findings("", "suite"), list[tuple[SourceSpec, Source]]()
    for spec in look.specs:
        with opening.noting():
            sources.append((spec, open_source(spec, opening.add)))
    if len(sources) < len(look.specs):
        for problem in opening.problems:
            findings.add(problem)
        return
    with findings.noting():
        kept = cache_folder() / "checks" / f"{_key(look, sources)}.json"
        found = _known(kept)
        if not found:
            found = _looked(look, sources, opening.problems)
            # a check that cannot be kept is made again
            with suppress(WriteError):
                write_json(kept, found)
        for told in found["problems"]:
            findings.add(_problem(told))
        findings.facts |= found["facts"]


def _known(kept: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _key(look: Look, sources: Sequence[tuple[SourceSpec, Source]]) -> str:
    """A digest of all that decides what is found; it takes neither torch nor transformers, which take seconds to import."""
    folder = tokenizer_folder(look.base)
    files = sorted(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern))
    texts = [path.read_bytes() for path in files]
    code = [path.read_bytes() for package in ("tasks", "checking") for path in sorted((Path(__file__).parents[1] / package).rglob("*.py"))]
    decides = [
        [(asdict(spec), source.revision) for spec, source in sources],
        [look.base.chat_template_kwargs, look.regime, look.seed, look.max_length, look.needed, asdict(look.redrawn)],
        [version(library) for library in ("tokenizers", "transformers")],
        # such a template writes another text every day
        date.today().isoformat() if any(b"strftime_now" in text for text in texts) else "",
    ]
    digest = hashlib.sha256(json.dumps(decides).encode())
    for content in [*texts, *code]:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:24]


def _problem(found: Mapping[str, Any]) -> Problem:
    place = Place(found["file"] or "", found["row"], found["unit"]) if found["file"] or found["row"] is not None else NOWHERE
    return Problem(found["text"], place, found["column"], found["level"])


def _looked(look: Look, sources: Sequence[tuple[SourceSpec, Source]], opening: Sequence[Problem]) -> dict[str, Any]:
    from headstart.bases import load_tokenizer
    from headstart.tasks.prepare import Plan, leave_out_long, nothing_to_redraw, prepare
    from headstart.tasks.render import Renderer
    from headstart.tasks.store import read_store

    findings = Findings("", "suite", list(opening))
    tokenizer = load_tokenizer(look.base)
    # what is wrong with the data is found again as long as it is the same; a full disk is not
    with findings.noting(SuiteError):
        renderer = Renderer(tokenizer, look.max_length, look.base.chat_template_kwargs)
        plan = Plan.made(sources, look.regime, renderer, look.seed, look.redrawn)
        sizes = _Sizes(look)
        suite, notes = read_store(prepare(plan, renderer, findings.add, sizes.add))
        sizes.split_of |= {name: split for split, names in suite.splits.items() for name in names}
        for problem in [*sizes.problems(), *(Problem(note, level="note") for note in [*renderer.notes, *notes])]:
            findings.add(problem)
        findings.facts |= {"suite": {"name": suite.name, "revision": suite.revision, "regime": look.regime}, **sizes.facts()}
        with findings.noting():
            kept, left = leave_out_long(suite, renderer, look.needed)
            for note in [*left, *nothing_to_redraw(kept, look.redrawn)]:
                findings.add(Problem(note, level="note"))
    told = findings.as_json()
    return {"problems": told["problems"], "facts": told["facts"]}


class _Sized(NamedTuple):
    """What is kept of a task; `examples` is how many it has."""

    name: str
    cluster: str
    licence: str
    data_terms: str
    language: str
    examples: int


@dataclass
class _Sizes:
    """Counts tasks and their examples as they are prepared, without keeping any."""

    look: Look
    split_of: dict[str, str] = field(default_factory=dict)
    tasks: list[_Sized] = field(default_factory=list)
    lengths: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        from headstart.checking.duplicates import Twins

        self.twins = Twins(self.split_of)

    def add(self, read: Any, lengths: Sequence[int]) -> None:
        """Take a task and its examples' lengths."""
        task = read.task
        self.tasks.append(_Sized(task.name, task.cluster, task.licence, task.data_terms, task.language, len(task.examples)))
        self.lengths.update(lengths)
        self.twins.add(read)

    def problems(self) -> list[Problem]:
        """What the tasks together have wrong."""
        bare = [task.name for task in self.tasks if not task.licence]
        told = f"{len(bare)} of {len(self.tasks)} tasks name no licence ({', '.join(bare[:3])}{', ...' * (len(bare) > 3)})"
        licences = (
            [Problem(f"{told}; say under which terms they may be trained on (`licence` in tasks.json)", level="warning")] if bare else []
        )
        return [*licences, *self._shared_clusters(), *self.twins.problems()]

    def _shared_clusters(self) -> list[Problem]:
        splits: dict[str, set[str]] = {}
        for task in self.tasks:
            splits.setdefault(task.cluster, set()).add(self.split_of.get(task.name, ""))
        held = {"meta_train", "meta_validation", "meta_test"}
        mixed = {cluster: sorted(found & held) for cluster, found in splits.items() if len(found & held) > 1}
        return [
            Problem(f"the cluster {cluster!r} is in {' and '.join(found)}, so that kind of task is not held out", level="warning")
            for cluster, found in mixed.items()
        ]

    def facts(self) -> dict[str, Any]:
        """Sizes by split, lengths, licences and languages, and the terms of the underlying data where any are named."""
        splits: dict[str, dict[str, Any]] = {}
        for task in self.tasks:
            part = splits.setdefault(self.split_of.get(task.name, "in no split"), {"tasks": 0, "clusters": set(), "examples": 0})
            part["tasks"], part["examples"] = part["tasks"] + 1, part["examples"] + task.examples
            part["clusters"].add(task.cluster)
        terms = Counter(task.data_terms or NONE_NAMED for task in self.tasks)
        return {
            "splits": {split: {**part, "clusters": len(part["clusters"])} for split, part in splits.items()},
            "lengths": length_facts(self.lengths, self.look.max_length),
            "licences": dict(Counter(task.licence or NONE_NAMED for task in self.tasks)),
            **({"data_terms": dict(terms)} if terms.keys() - {NONE_NAMED} else {}),
            "languages": dict(Counter(task.language or NONE_NAMED for task in self.tasks)),
        }


def length_facts(lengths: Mapping[int, int], limit: int) -> dict[str, Any]:
    """Examples by their length in tokens: a histogram up to the longest or the limit, how many are over it, the median and the longest.

    Args:
        lengths: length -> examples.
        limit: the most tokens of an example.
    """
    total, longest = sum(lengths.values()), max(lengths, default=0)
    top = min(limit, max(longest, BARS))
    edges = [round(top * bar / BARS) for bar in range(BARS + 1)]
    bars = [sum(count for length, count in lengths.items() if low < length <= high) for low, high in pairwise(edges)]
    passed, median = 0, 0
    for length in sorted(lengths):
        passed += lengths[length]
        if passed * 2 >= total:
            median = length
            break
    return {
        "limit": limit,
        "edges": edges,
        "examples": bars,
        "over": sum(count for length, count in lengths.items() if length > limit),
        "median": median,
        "longest": longest,
        "tokens": sum(length * count for length, count in lengths.items()),
    }
