"""A whole evaluation: from adapter folders to a results document, its report and the adapters' cards."""

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from headstart.adapter.card import write_card
from headstart.adapter.files import read_json
from headstart.adapter.places import name_of
from headstart.evaluation.campaign import Campaign
from headstart.evaluation.contenders import Contender, read_contenders
from headstart.evaluation.design import TEST
from headstart.evaluation.document import results_document
from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.kept import Kept
from headstart.evaluation.ledger import default_ledger, record_look
from headstart.evaluation.plan import Plan, Quantization, Wishes, require_positions
from headstart.evaluation.report.curves import plot_evaluation
from headstart.evaluation.report.page import report_html
from headstart.evaluation.report.schema import Results, read_results, write_results
from headstart.evaluation.report.tables import headline, results_markdown, results_table
from headstart.files import WriteError, as_seen, require_writable, whole_folder, write_atomically, write_json
from headstart.interrupt import interruptible
from headstart.model.base import Base, load_base
from headstart.progress import meter, say
from headstart.provenance import commit, machine, provenance

RESULTS = "results.json"


def evaluate(
    adapters: str | Path | Sequence[str | Path],
    *,
    suite: str | None = None,
    split: str = "meta_validation",
    tier: Literal["quick", "standard", "full"] | None = None,
    arms: Sequence[str] | None = None,
    shots: int | Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    draws: int | None = None,
    seeds: Sequence[int] | None = None,
    final: bool = False,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    base_source: str | None = None,
    quantization: Quantization | None = None,
    allow_base_variant: bool = False,
    ledger: str | Path | None = None,
    console: Console | None = None,
) -> Results:
    """Compare a meta-adapter with its baselines on tasks whose kinds it never saw; `docs/evaluation.md` is the protocol.

    Every arm's rates are tuned alike on tasks of `meta_validation`, which are then left out of what is measured. What was measured
    is kept as it goes: the same call goes on where it was stopped, and with another arm does that arm alone. Writes `results.json`,
    `report.html`, `report.md` and `curves.png`.

    Args:
        adapters: an adapter folder or a shipped adapter's name, or several, which count as training seeds of one recipe; the
            controls of a run are looked for beside its adapter and within its folder.
        suite: `builtin`, a folder or a dataset's id; the one they were trained on where None.
        split: the split to measure on.
        tier: fixes tasks, draws, query examples, steps and shots; the recipe's evaluation section does where None.
        arms: names of `headstart.evaluation.arms.ARMS`; the usual ones that can be run where None.
        shots: K, or several.
        steps: adaptation steps to measure after.
        draws: support draws a task.
        seeds: the training seeds that take part; all where None.
        final: `meta_test` is meant to be looked at; the look is written into the ledger first.
        output: where to write; where None, into `evaluation/` beside the first adapter, and into all adapters' cards too; a shipped
            adapter stays as it is, and `evaluated/NAME` takes its results.
        overrides: `evaluation.a=value`, over the evaluation section of the recipe the adapters were trained by.
        base_source: where the base's weights come from: `hub`, `bundled` or a folder; what the adapter says where None.
        quantization: how the base is loaded; as in training where None.
        allow_base_variant: accept other weights of the same base; the results say which.
        ledger: the file of looks at test splits; one for all of a user's projects where None.
        console: prints progress and the table.

    Returns:
        The results document (`docs/results.schema.json`): `summary[arm][step][metric]` and `pairs["first-second"][step][metric]`
        hold `mean`, `low` and `high` of the primary setting, `settings` those of all; `records` holds every measurement.

    Raises:
        EvaluationError, AdapterError, SuiteError, BaseError: the arms, the adapters, the suite or the base cannot be used;
            raised before any adapting, but for arms whose initialisation does not fit the rank or a task's examples.
        WriteError: the results cannot be written there, or would replace a look at the test split by another; raised before any
            adapting.
        Stopped: SIGINT or SIGTERM came; what was measured is kept.
    """
    console, started = console or Console(), time.monotonic()
    sources = [adapters] if isinstance(adapters, str | Path) else list(adapters)
    options = {"arms": [arms] if isinstance(arms, str) else arms, "support": shots, "steps": steps, "draws": draws}
    wishes = Wishes(suite, split, tier, _given(options), overrides, base_source, quantization, final)
    contenders = read_contenders(sources, seeds)
    plan = Plan.make(contenders, wishes)
    attached = output is None and all(Path(source).is_dir() for source in sources)
    target = Path(output) if output else _beside(contenders[0], attached)
    require_writable(target)
    require_no_final(target, split)
    base = load_base(plan.base)
    for contender in contenders:
        contender.meta.require_base(base, allow_base_variant)
    require_positions(plan, base)
    say(console, plan.headline(), *(f"without {name}: {why}" for name, why in plan.skipped.items()))
    with (
        interruptible() as interrupt,
        Kept.open(_identity(plan, base)) as kept,
        Campaign.open(plan, base, kept, interrupt) as campaign,
    ):
        say(console, campaign.told())
        looks = record_look(Path(ledger) if ledger else default_ledger(), _look(plan)) if split == TEST else []
        with meter("evaluate", console, 100, done=campaign.done / campaign.whole) as progress:
            campaign.run(progress)
        found = results_document(campaign, base, looks, time.monotonic() - started)
    results = write_report(found, target)
    for contender in contenders if attached else ():
        attach(contender.folder, results)
    console.print(results_table(results))
    say(console, f"wrote {as_seen(target)}: results.json, report.html, report.md, curves.png")
    return results


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of the evaluation section a user named, as JSON would have it."""
    return {key: value if isinstance(value, int) else list(value) for key, value in options.items() if value is not None}


def _beside(contender: Contender, attached: bool) -> Path:
    """Where results go that no folder was named for: beside the adapter, or for one that stays as it is into the working folder."""
    return contender.folder.resolve().parent / "evaluation" if attached else Path("evaluated") / name_of(contender.folder)


def require_no_final(target: Path, split: str) -> None:
    """See that no development run writes over a look that counted.

    Raises:
        WriteError: the folder holds one.
    """
    if split == TEST or not (target / RESULTS).exists():
        return
    with suppress(EvaluationError):
        # what an earlier version wrote is no look that this one could read
        if read_results(target / RESULTS)["protocol"]["suite"]["split"] == TEST:
            raise WriteError(f"{target / RESULTS}: cannot be written: it holds a look at {TEST}; name another folder with --output")


def _look(plan: Plan) -> dict[str, Any]:
    """What the ledger says of a look."""
    return {
        "suite": plan.suite.name,
        "revision": plan.suite.revision,
        "split": plan.wishes.split,
        "adapters": [contender.digests["meta"] for contender in plan.contenders],
        "arms": list(plan.arms),
        "settings": [condition.setting.key for condition in plan.conditions],
        "commit": commit(),
    }


def _identity(plan: Plan, base: Base) -> dict[str, Any]:
    """All that decides what is measured, the arms apart."""
    decisive = plan.section.model_dump(mode="json", exclude={"arms"})
    return {
        "adapters": [(contender.seed, contender.digests["meta"]) for contender in plan.contenders],
        "base": [base.spec.id, base.fingerprint, base.spec.quantization, base.spec.dtype, str(base.device)],
        "suite": [plan.suite.name, plan.suite.revision, plan.wishes.split],
        "section": decisive,
        "tasks": [(each.setting.key, [task.name for task in each.measured], each.validation.names) for each in plan.conditions],
        "rows": plan.recipe.suite.model_dump(mode="json", include={"layout", "max_length", "max_row_tokens", "task_micro_batch"}),
        "rendering": plan.renderer.key,
        "machine": machine(),
        "versions": provenance()["versions"],
    }


def write_report(results: Mapping[str, Any], folder: Path) -> Results:
    """Write `results.json`, checked against its schema, and what is made of it."""
    checked = write_results(results, folder / RESULTS)
    write_atomically(folder / "report.html", report_html(checked).encode())
    write_atomically(folder / "report.md", results_markdown(checked).encode())
    plot_evaluation(checked, folder / "curves.png")
    return checked


def attach(folder: Path, results: Results) -> None:
    """Put the results into an adapter's folder and card."""
    with whole_folder(folder) as fresh:
        shutil.copytree(folder, fresh, dirs_exist_ok=True)
        about = read_json(fresh / "headstart.json")
        about["record"]["evaluation"] = evaluation_record(results, about["base"]["quantization"])
        write_json(fresh / "headstart.json", about)
        write_report(results, fresh / "evaluation")
        write_card(fresh, about)


def evaluation_record(results: Results, quantization: str) -> dict[str, Any]:
    """What an adapter's record, and its card, say of results.

    Args:
        results: the document.
        quantization: under which the adapter was trained.
    """
    protocol = results["protocol"]
    other = protocol["base_variant_of"] or protocol["base"]["quantization"] != quantization
    return {
        "suite": protocol["suite"],
        "base_variant": protocol["base"] if other else None,
        "headline": headline(results),
        "looks": len(results["looks"]),
        "summary": results["summary"],
        "pairs": results["pairs"],
        "table": results_markdown(results, every=False),
    }
