"""The evaluation as one page, which asks for nothing from outside: light and dark, for screens and for paper."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from headstart.evaluation.report.aims import KEY, assess
from headstart.evaluation.report.breakdown import by_cluster, by_task, step_of
from headstart.evaluation.report.charts import FOREST_WIDTH, HEIGHT, LEFT, RIGHT, WIDTH, Forest, curve_panel, forest
from headstart.evaluation.report.schema import Interval, MetricName, Metrics, Results, Setting, StepsToTarget
from headstart.evaluation.report.tables import headline
from headstart.evaluation.report.view import (
    CURVE_METRICS,
    MAIN,
    METRICS,
    OTHERS,
    REGIMES,
    TARGETS,
    Series,
    all_steps,
    at,
    count,
    describe_design,
    primary_setting,
    series,
    setting_title,
    sides,
)

MINUS = "\N{MINUS SIGN}"
FACTORS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def report_html(results: Results) -> str:
    """The whole document but its records: one page with everything in it."""
    style, script, template = (_beside(name) for name in ("page.css", "page.js", "page.html.jinja"))
    names = ", ".join(dict.fromkeys(adapter["name"] for adapter in results["protocol"]["adapters"]))
    page = _environment().from_string(template)
    return page.render(
        title=f"Evaluation of {names}",
        headline=_minus(headline(results)),
        results=results,
        protocol=results["protocol"],
        style=style,
        script=script,
        policy=_policy(style, script),
        forests=_headline_forests(results),
        pair=_pair_title(results["protocol"]["primary"]["pair"], list(_looks(results))),
        aims=_aims(results),
        sections=[_section(results, setting, _looks(results)) for setting in results["settings"]],
        recipe=yaml.safe_dump(results["protocol"]["recipe"], sort_keys=False, allow_unicode=True),
    )


def _environment() -> Environment:
    # everything that a document says goes through autoescape
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    box = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "forest": FOREST_WIDTH}
    made.globals.update(count=count, metrics=METRICS, box=box)
    made.filters.update(interval=_interval, signed=_signed, number=_number, amount=amount, cell=_cell, minus=_minus)
    return made


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """A content security policy under which nothing is loaded, and no script or style but the page's own counts."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"


def _looks(results: Results) -> dict[str, int]:
    """Every arm's number, which gives it the same colour, dash and mark in every picture."""
    arms = dict.fromkeys(arm for setting in results["settings"] for arm in setting["summary"])
    return {arm: number for number, arm in enumerate(arms)}


def _headline_forests(results: Results) -> list[Forest]:
    """The primary pair at the primary step in every setting, the headline's metric first."""
    primary = results["protocol"]["primary"]
    first, second = sides(primary["pair"], list(_looks(results)))
    drawn = []
    for metric in dict.fromkeys((primary["metric"], *MAIN)):
        found = [
            (setting_title(setting), at(setting["pairs"].get(primary["pair"], {}), metric, primary["step"]))
            for setting in results["settings"]
        ]
        named = [(name, interval) for name, interval in found if interval]
        drawn += [forest(named, metric, first, second)] if named else []
    return drawn


def _aims(results: Results) -> dict[str, Any]:
    """All that the template shows of the aims."""
    assessed = assess(results)
    return {
        "rows": [(each, _pair_title(each.aim.of, list(_looks(results))) if each.aim.paired else each.aim.of) for each in assessed],
        "regimes": [REGIMES[regime] for regime in assessed[0].findings] if assessed else [],
        "key": KEY,
    }


def _section(results: Results, setting: Setting, looks: Mapping[str, int]) -> dict[str, Any]:
    """All that the template shows of a setting."""
    arms = list(setting["summary"])
    step = step_of(setting, results["protocol"]["primary"]["step"])
    tasks = by_task(results, setting, step)
    primary = results["protocol"]["primary"]["pair"]
    return {
        "title": setting_title(setting),
        "anchor": f"{setting['regime']}-{setting['k']}",
        "primary": setting is primary_setting(results),
        "design": describe_design(results, setting),
        "setting": setting,
        "steps": all_steps(setting),
        "panels": [curve_panel(setting, metric, looks) for metric in MAIN],
        "main": _blocks(setting, MAIN),
        "others": _blocks(setting, OTHERS),
        "pairs": {pair: _pair_title(pair, arms) for pair in setting["pairs"]},
        "curves": [(name, True, numbers) for name, numbers in setting["curves"].items()],
        "curve_pairs": [(_pair_title(pair, arms), False, numbers) for pair, numbers in setting["curve_pairs"].items()],
        "curve_metrics": CURVE_METRICS,
        "targets": TARGETS,
        "sensitivity": _sensitivity_forests(setting, primary, arms),
        "arms": arms,
        "step": step,
        "pair": sides(primary, arms) if primary in setting["pairs"] else None,
        "breakdowns": [("By cluster", by_cluster(results, tasks), False), ("By task", tasks, True)],
    }


def _blocks(setting: Setting, metrics: Sequence[MetricName]) -> list[tuple[str, bool, list[tuple[str, Series]]]]:
    """Titled rows of a table over steps: of arms, then of pairs, whose values carry their signs."""
    arms = list(setting["summary"])
    of_arms = [(metric, False, [(each.name, each) for each in series(setting["summary"], metric)]) for metric in metrics]
    of_pairs = [(metric, True, [(_pair_title(each.name, arms), each) for each in series(setting["pairs"], metric)]) for metric in metrics]
    return [(metric, signed, rows) for metric, signed, rows in of_arms + of_pairs if rows]


def _pair_title(pair: str, arms: Sequence[str]) -> str:
    return f" {MINUS} ".join(sides(pair, arms))


def _sensitivity_forests(setting: Setting, pair: str, arms: Sequence[str]) -> list[Forest]:
    """The primary pair with tasks left out, drawn, where more than one row is there."""
    rows = [(f"{row['name']}: {count(row['tasks'], 'task')}", row["pairs"][pair]) for row in setting["sensitivity"] if pair in row["pairs"]]
    if len(rows) < 2:
        return []
    return [forest(_having(rows, metric), metric, *sides(pair, arms)) for metric in reversed(MAIN) if _having(rows, metric)]


def _having(rows: list[tuple[str, Metrics]], metric: MetricName) -> list[tuple[str, Interval]]:
    return [(name, metrics[metric]) for name, metrics in rows if metric in metrics]


def _minus(text: str) -> str:
    """With a true minus sign before digits."""
    return re.sub(r"(?<!\w)-(?=\d)", MINUS, text)


def _interval(found: Interval | StepsToTarget, metric: str, signed: bool = False) -> str:
    return _minus(METRICS[metric].interval(found, signed))


def _signed(value: float, metric: str) -> str:
    return _minus(METRICS[metric].number(value, signed=True))


def _number(value: float, metric: str) -> str:
    return METRICS[metric].number(value)


def amount(value: float | None) -> str:
    """A count in short, such as "23.0 T"; a dash where it is not known."""
    if value is None:
        return "–"
    return next((f"{value / factor:.1f} {prefix}" for factor, prefix in FACTORS if value >= factor), f"{value:g} ")


def _cell(value: object) -> str:
    """Any JSON value in a table's cell."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
