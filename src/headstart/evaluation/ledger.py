"""The ledger of looks at a test split: one line before every look, so that no look goes uncounted."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headstart.evaluation.errors import EvaluationError
from headstart.files import writing

FILE = "looks.jsonl"


def default_ledger() -> Path:
    """`$XDG_STATE_HOME/headstart/looks.jsonl`, by default under `~/.local/state`: one for all projects of a user."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "headstart" / FILE


def record_look(ledger: Path, look: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Append a look, with the time, and give all of the same suite's split so far, it among them.

    Args:
        ledger: the file, made if need be.
        look: `suite`, `revision` and `split` say at what; `adapters`, `arms` and `commit` with what.

    Raises:
        EvaluationError: the ledger holds something else.
        WriteError: it cannot be written.
    """
    earlier = read_looks(ledger)
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **look}
    with writing(ledger):
        ledger.parent.mkdir(parents=True, exist_ok=True)
        with ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    at = ("suite", "revision", "split")
    return [one for one in [*earlier, entry] if all(one.get(key) == look[key] for key in at)]


def read_looks(ledger: Path) -> list[dict[str, Any]]:
    """All looks in a ledger, the oldest first; none where there is no such file.

    Raises:
        EvaluationError: it cannot be read, or a line is no look.
    """
    if not ledger.exists():
        return []
    found = []
    try:
        lines = ledger.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{ledger}: the ledger of looks cannot be read: {error}; mend it, or name another with --ledger") from error
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or "split" not in entry:
            raise EvaluationError(f"{ledger}:{number}: not a look at a test split; mend the ledger, or name another with --ledger")
        found.append(entry)
    return found
