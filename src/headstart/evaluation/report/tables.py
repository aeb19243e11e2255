"""The results document in words: its headline, as Markdown, and as a table for the terminal."""

from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headstart.evaluation.report.aims import KEY, Assessed, assess
from headstart.evaluation.report.schema import CurveSummary, Headline, MetricName, Metrics, Results, Sensitivity, Setting
from headstart.evaluation.report.view import (
    CURVE_METRICS,
    MAIN,
    METRICS,
    OTHERS,
    REGIMES,
    TARGETS,
    CurveMetric,
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


def headline(results: Results) -> str:
    """The primary comparison in one sentence, worded as its interval allows."""
    found = results["headline"]
    if found is None:
        return _no_headline(results)
    setting = primary_setting(results)
    first, second = sides(found["pair"], list(results["summary"]))
    where = f"at step {found['step']}, K = {found['k']}, {REGIMES[found['regime']]} ({describe_design(results, setting)})"
    standing = verdict(found["metric"], found["low"], found["high"])
    metric = METRICS[found["metric"]]
    if standing == "not decided":
        return (
            f"Whether {first} is ahead of {second} is not decided: the difference is {_size(found, 1)} {metric.points} "
            f"{_range(found, 1)} {where}."
        )
    # told as a positive amount, whichever side has it
    sign = 1 if found["low"] > 0 else -1
    return f"{first} is {standing} {second} by {_size(found, sign)} {metric.points} {_range(found, sign)} {where}."


def verdict(metric: str, low: float, high: float) -> str:
    """What an interval of a difference says of its first side: "ahead of", "behind", or "not decided" where it holds 0."""
    if low <= 0 <= high:
        return "not decided"
    return "ahead of" if (low > 0) == (METRICS[metric].better > 0) else "behind"


def _size(found: Headline, sign: int) -> str:
    return METRICS[found["metric"]].number(sign * found["mean"])


def _range(found: Headline, sign: int) -> str:
    low, high = sorted((sign * found["low"], sign * found["high"]))
    metric = METRICS[found["metric"]]
    return f"[{metric.number(low)}, {metric.number(high)}]"


def _no_headline(results: Results) -> str:
    primary = results["protocol"]["primary"]
    skipped = results["protocol"]["skipped"]
    names = sides(primary["pair"], [*results["summary"], *skipped])
    missing = [f"{name} ({skipped[name]})" if name in skipped else name for name in names if name not in results["summary"]]
    why = f"it lacks {' and '.join(missing)}" if missing else "it was not measured there"
    where = f"at step {primary['step']}, K = {primary['k']}, {REGIMES[primary['regime']]}"
    return f"No headline: there is no {METRICS[primary['metric']].title} of {names[0]} against {names[1]} {where}; {why}."


def results_markdown(results: Results, *, every: bool = True) -> str:
    """The document in GitHub's Markdown: the headline, aims and tables for every setting or the primary one alone, notes and looks.

    Aims are the project's, of all settings of the primary K; the primary one alone is told without them.
    """
    lines = [f"**{_plain(headline(results))}**", "", _key(results)]
    if every:
        lines += _aims_markdown(results)
    for setting in results["settings"] if every else [primary_setting(results)]:
        lines += _setting_markdown(results, setting)
    if results["notes"]:
        lines += ["", *(f"- {_plain(note)}" for note in results["notes"])]
    if results["looks"]:
        lines += ["", f"{count(len(results['looks']), 'look')} taken at this suite's test split."]
    return "\n".join(lines) + "\n"


def _key(results: Results) -> str:
    lacking = sorted(name for name, facts in results["tasks"].items() if not facts["headroom"])
    headroom = f" No headroom, as no arm beats the commonest answer: {_plain(', '.join(lacking))}." if lacking else ""
    return f"Mean [95% interval]; a difference is first minus second, of shares in points.{headroom}"


def _aims_markdown(results: Results) -> Iterator[str]:
    assessed, primary = assess(results), results["protocol"]["primary"]
    if assessed:
        yield from ("", "### Aims", "", f"At step {primary['step']}, K = {primary['k']}. {KEY}", "")
        head = ["aim", "of", "wanted", *(REGIMES[regime] for regime in assessed[0].findings)]
        yield from _markdown_table(head, 3, [_aim_row(each) for each in assessed])


def _aim_row(assessed: Assessed) -> list[str]:
    metric, signed = METRICS[assessed.aim.metric], assessed.aim.paired
    found = assessed.findings.values()
    cells = [f"{metric.interval(each.interval, signed)}: {each.standing}" if each else "-" for each in found]
    return [assessed.title, assessed.aim.of, assessed.wanted, *cells]


def _setting_markdown(results: Results, setting: Setting) -> Iterator[str]:
    yield from ("", f"### {setting_title(setting)[0].upper()}{setting_title(setting)[1:]}", "", f"{describe_design(results, setting)}.", "")
    steps = all_steps(setting)
    head = ["metric", "arm", *(f"step {step}" for step in steps)]
    yield from _markdown_table(head, 2, _blocks(setting, MAIN, steps))
    others = list(_blocks(setting, OTHERS, steps))
    if others:
        yield ""
        yield from _markdown_table(head, 2, others)
    if setting["curves"]:
        yield ""
        yield from _markdown_table(["whole curve", *(METRICS[metric].title for metric in CURVE_METRICS)], 1, _curve_rows(setting))
    primary = results["protocol"]["primary"]
    if rows := list(_sensitivity_rows(setting, primary["pair"])):
        yield ""
        head = [f"{primary['pair']} at step {primary['step']}", "tasks", *(f"{METRICS[metric].title} difference" for metric in MAIN)]
        yield from _markdown_table(head, 1, rows)


def _markdown_table(head: Sequence[str], names: int, rows: Iterator[list[str]] | Sequence[list[str]]) -> Iterator[str]:
    """A table whose first columns hold names, and whose others hold numbers."""
    yield _markdown_row(head)
    yield _markdown_row(["---" if column < names else "---:" for column in range(len(head))])
    yield from map(_markdown_row, rows)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """One line that is no markup."""
    return " ".join(text.split()).replace("<", "&lt;")


def _blocks(setting: Setting, metrics: Sequence[MetricName], steps: Sequence[int]) -> Iterator[list[str]]:
    """Rows of every arm, then of every pair, metric by metric: title, name, and a cell for each step."""
    for curves, signed in ((setting["summary"], False), (setting["pairs"], True)):
        for metric in metrics:
            title = f"{METRICS[metric].title} difference" if signed else METRICS[metric].title
            for each in series(curves, metric):
                yield [title, each.name, *_cells(each, metric, steps, signed, " ")]


def _cells(each: Series, metric: MetricName, steps: Sequence[int], signed: bool, separator: str) -> list[str]:
    """`mean [low, high]` at each step, or a dash where it was not measured."""
    return [METRICS[metric].interval(each.intervals[step], signed, separator) if step in each.intervals else "-" for step in steps]


def _curve_rows(setting: Setting) -> Iterator[list[str]]:
    for curves, signed in ((setting["curves"], False), (setting["curve_pairs"], True)):
        for name, numbers in curves.items():
            yield [name, *(_curve_cell(numbers, metric, signed) for metric in CURVE_METRICS)]


def _curve_cell(numbers: CurveSummary, metric: CurveMetric, signed: bool) -> str:
    """`mean [low, high]`, with the share that never gets there, or a dash where it was not measured."""
    if metric not in numbers:
        return "-"
    censored = numbers[metric]["censored"] if metric in TARGETS else 0.0
    return METRICS[metric].interval(numbers[metric], signed) + (f", {censored:.0%} never" if censored >= 0.005 else "")


def _sensitivity_rows(setting: Setting, pair: str) -> Iterator[list[str]]:
    for row in setting["sensitivity"]:
        if pair in row["pairs"]:
            yield [_name_of(row), str(row["tasks"]), *_main_cells(row["pairs"][pair])]


def _name_of(row: Sensitivity) -> str:
    return f"{row['name']} ({', '.join(row['left_out'])})" if 0 < len(row["left_out"]) <= 3 else row["name"]


def _main_cells(metrics: Metrics) -> list[str]:
    return [METRICS[metric].interval(metrics[metric], signed=True) if metric in metrics else "-" for metric in MAIN]


def results_table(results: Results) -> RenderableType:
    """For a terminal: the headline, the primary setting's loss and accuracy by step, and the pairs of the other settings."""
    parts: list[RenderableType] = [Text(headline(results), style="bold"), Text(), _primary_table(results)]
    if len(results["settings"]) > 1:
        parts += [Text(), _settings_table(results)]
    return Group(*parts)


def _primary_table(results: Results) -> Table:
    setting = primary_setting(results)
    notes = Text("\n".join(results["notes"])) if results["notes"] else None
    title = Text(f"{setting_title(setting)}: {describe_design(results, setting)}; mean and 95% interval")
    table = Table(title=title, caption=notes, box=SIMPLE_HEAD, show_edge=False)
    table.add_column("step", no_wrap=True, overflow="fold")
    steps = all_steps(setting)
    for step in steps:
        table.add_column(str(step), justify="right")
    for curves, signed in ((setting["summary"], False), (setting["pairs"], True)):
        for metric in MAIN:
            _add_block(table, curves, metric, steps, signed)
    return table


def _add_block(table: Table, curves: Mapping[str, Mapping[str, Metrics]], metric: MetricName, steps: Sequence[int], signed: bool) -> None:
    """A titled block of rows, of differences where `signed`."""
    rows = series(curves, metric)
    if not rows:
        return
    table.add_section()
    table.add_row(Text(f"{METRICS[metric].title} difference" if signed else METRICS[metric].title, style="bold"))
    for each in rows:
        table.add_row(Text(each.name), *map(Text, _cells(each, metric, steps, signed, "\n")))


def _settings_table(results: Results) -> Table:
    """Every other setting's pairs at the primary step."""
    step = results["protocol"]["primary"]["step"]
    table = Table(title=Text(f"the other settings at step {step}: differences and 95% intervals"), box=SIMPLE_HEAD, show_edge=False)
    for column in ("setting", "pair"):
        table.add_column(column, overflow="fold")
    for metric in MAIN:
        table.add_column(METRICS[metric].title, justify="right")
    for setting in results["settings"]:
        if setting is not primary_setting(results):
            for pair, curve in setting["pairs"].items():
                found = [(METRICS[metric], at(curve, metric, step)) for metric in MAIN]
                cells = [metric.interval(value, signed=True) if value else "-" for metric, value in found]
                table.add_row(Text(setting_title(setting)), Text(pair), *map(Text, cells))
    return table
