"""The results document: what a campaign has measured, and how."""

from collections.abc import Mapping
from typing import Any

from headstart.evaluation.arms import ARMS, PROMPTED
from headstart.evaluation.campaign import Campaign
from headstart.evaluation.contenders import cost, unequal
from headstart.evaluation.design import PAIRS, PRIMARY_PAIR, primary_step
from headstart.evaluation.plan import Plan
from headstart.evaluation.report.schema import SCHEMA_VERSION
from headstart.evaluation.statistics import notes
from headstart.evaluation.summary import headroom, summarise
from headstart.evaluation.tuning import best, choose
from headstart.model.base import Base
from headstart.provenance import provenance

PRIMARY_METRIC = "accuracy"


def results_document(campaign: Campaign, base: Base, looks: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The results document of what a campaign has measured."""
    plan, facts = campaign.plan, campaign.plan.facts()
    pairs = [pair for pair in PAIRS if set(pair) <= set(plan.arms)]
    step = primary_step(plan.primary.protocol.steps)
    measured = [campaign.records(condition) for condition in plan.conditions]
    records = [record for own in measured for record in own]
    for name, has in headroom(records, facts, step).items():
        facts[name]["headroom"] = has
    found = [summarise(own, pairs, step, tasks=facts) for own in measured]
    primary = next(one for one in found if (one["regime"], one["k"]) == (plan.primary.setting.regime, plan.primary.setting.k))
    return {
        "schema_version": SCHEMA_VERSION,
        "protocol": _protocol(campaign, base, step, seconds),
        "headline": _headline(primary, step),
        "settings": found,
        "summary": primary["summary"],
        "pairs": primary["pairs"],
        "tasks": facts,
        "looks": looks,
        "notes": [*_notes(campaign), *notes(records)],
        "records": [record.to_json() for record in records],
    }


def _headline(primary: Mapping[str, Any], step: int) -> dict[str, Any] | None:
    """The primary pair's difference at the primary step, where both were measured."""
    pair = "-".join(PRIMARY_PAIR)
    interval = primary["pairs"].get(pair, {}).get(str(step), {}).get(PRIMARY_METRIC)
    if interval is None:
        return None
    return {"regime": primary["regime"], "k": primary["k"], "pair": pair, "metric": PRIMARY_METRIC, "step": step, **interval}


def _protocol(campaign: Campaign, base: Base, step: int, seconds: float) -> dict[str, Any]:
    """How the records were made."""
    plan, protocol = campaign.plan, campaign.plan.primary.protocol
    first, drift = plan.contenders[0], campaign.bench.drift
    names = dict.fromkeys(task.name for condition in plan.conditions for task in condition.measured)
    return {
        "adapters": [{"name": each.name, "seed": each.seed, "sha256": each.digests["meta"]} for each in plan.contenders],
        "base": {
            "id": base.spec.id,
            "source": base.spec.source,
            "fingerprint": base.fingerprint,
            "quantization": base.spec.quantization,
            "dtype": base.spec.dtype,
        },
        "base_variant_of": first.meta.variant(base),
        "suite": {
            "name": plan.suite.name,
            "revision": plan.suite.revision,
            "split": plan.wishes.split,
            "training_regime": plan.recipe.suite.regime,
        },
        "regimes": list(dict.fromkeys(condition.setting.regime for condition in plan.conditions)),
        "shots": sorted({condition.setting.k for condition in plan.conditions}),
        "query": protocol.query,
        "steps": list(protocol.steps),
        "horizons": list(protocol.horizons),
        "draws": protocol.draws,
        "seeds": plan.seeds,
        "tier": plan.wishes.tier,
        "primary": {
            "regime": protocol.setting.regime,
            "k": protocol.setting.k,
            "step": step,
            "pair": "-".join(PRIMARY_PAIR),
            "metric": PRIMARY_METRIC,
        },
        "arms": {name: ARMS[name] for name in plan.arms},
        "skipped": dict(plan.skipped),
        "measured": list(names),
        "tuning": _tuning(campaign),
        "cost": {"training": _training_cost(plan), "evaluation": campaign.spent()},
        "recipe": plan.recipe.model_dump(mode="json"),
        "drift": None if drift is None else {"tokens": drift.text.tokens, "sha256": drift.text.sha256},
        **provenance(),
        "seconds": round(seconds, 1),
    }


def _tuning(campaign: Campaign) -> dict[str, Any]:
    """Whose loss chose what."""
    grids = {condition.setting.key: campaign.grids(condition) for condition in campaign.plan.conditions}
    tasks = [name for condition in campaign.plan.conditions for name in condition.validation.names]
    return {
        "tasks": list(dict.fromkeys(tasks)),
        "grids": {
            key: {
                arm: {str(horizon): {f"{rate:g}": loss for rate, loss in sorted(found.items())} for horizon, found in grid.items()}
                for arm, grid in arms.items()
            }
            for key, arms in grids.items()
        },
        "chosen": {
            key: {arm: {str(horizon): float(f"{rate:g}") for horizon, rate in choose(grid).items()} for arm, grid in arms.items()}
            for key, arms in grids.items()
        },
    }


def _training_cost(plan: Plan) -> dict[str, dict[str, float]]:
    """What training took, of one seed: the mean over the seeds."""
    sides: dict[str, list[dict[str, float]]] = {}
    for contender in plan.contenders:
        sides.setdefault("meta", []).append(cost(contender.meta))
        for arm, control in contender.controls.items():
            sides.setdefault(arm, []).append(cost(control))
    return {arm: {key: sum(one[key] for one in found) / len(found) for key in found[0]} for arm, found in sides.items()}


def _notes(campaign: Campaign) -> list[str]:
    """What a reader should know of the records."""
    plan, found = campaign.plan, list(campaign.plan.notes)
    for contender in plan.contenders:
        found += unequal(contender, plan.arms)
    for condition in plan.conditions:
        for arm, grid in campaign.grids(condition).items():
            edges = [horizon for horizon, losses in grid.items() if len(losses) > 1 and best(losses) in (min(losses), max(losses))]
            found += [
                f"{condition.setting.key}, {arm}: the best candidate for {horizon} steps, {best(grid[horizon]):g}, lies at the edge of its "
                "widened grid"
                for horizon in edges
            ]
    for condition in plan.conditions:
        shown = [count for (key, _, _), count in campaign.kept.shown.items() if key == condition.setting.key]
        if PROMPTED in plan.arms and shown and min(shown) < condition.setting.k:
            found.append(
                f"{PROMPTED}, {condition.setting.key}: {sum(shown) / len(shown):.1f} of {condition.setting.k} examples fitted into a "
                f"prompt on average, {min(shown)} at least"
            )
    return found
