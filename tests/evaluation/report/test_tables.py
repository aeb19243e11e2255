"""The headline says what the interval allows, and the tables show the document's numbers."""

import copy

import pytest
from evaluation.report.synthetic import STEPS, make_results
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from headstart.evaluation.report.tables import headline, results_markdown, results_table, verdict
from headstart.evaluation.report.view import METRICS, all_steps, at, describe_design, primary_setting, sides

WHERE = "at step 10, K = 16, instructed (12 tasks in 4 clusters, 2 training seeds)."


@pytest.fixture(scope="module")
def made():
    return make_results()


@pytest.fixture
def results(made):
    return copy.deepcopy(made)


def shown(results, width=140):
    console = Console(width=width)
    with console.capture() as captured:
        console.print(results_table(results))
    return captured.get()


@pytest.mark.parametrize(
    ("metric", "mean", "low", "high", "sentence"),
    [
        ("accuracy", 0.012, 0.003, 0.021, "meta_adamw is ahead of multitask by 1.2 accuracy points [0.3, 2.1]"),
        ("accuracy", -0.012, -0.021, -0.003, "meta_adamw is behind multitask by 1.2 accuracy points [0.3, 2.1]"),
        ("loss", 0.05, 0.04, 0.06, "meta_adamw is behind multitask by 0.050 nats of loss [0.040, 0.060]"),
        ("loss", -0.05, -0.06, -0.04, "meta_adamw is ahead of multitask by 0.050 nats of loss [0.040, 0.060]"),
        (
            "accuracy",
            -0.002,
            -0.012,
            0.003,
            "Whether meta_adamw is ahead of multitask is not decided: the difference is -0.2 accuracy points [-1.2, 0.3]",
        ),
        (
            "accuracy",
            0.004,
            0.0,
            0.008,
            "Whether meta_adamw is ahead of multitask is not decided: the difference is 0.4 accuracy points [0.0, 0.8]",
        ),
    ],
)
def test_headline_follows_sign_and_interval(results, metric, mean, low, high, sentence):
    results["headline"] |= {"metric": metric, "mean": mean, "low": low, "high": high}
    assert headline(results) == f"{sentence} {WHERE}"


def test_headline_without_an_arm_says_which_is_missing_and_why():
    results = make_results(arms=("zero_shot", "random", "meta_adamw"), tasks=3, draws=1)
    assert results["headline"] is None
    sentence = "No headline: there is no accuracy of meta_adamw against multitask at step 10, K = 16, instructed; it lacks multitask"
    assert headline(results) == f"{sentence}."
    results["protocol"]["skipped"]["multitask"] = "no control"
    assert headline(results) == f"{sentence} (no control)."
    assert sentence in results_markdown(results)
    assert sentence in " ".join(shown(results).split())


def test_headline_of_a_step_that_was_not_measured_says_so(results):
    results["headline"] = None
    assert headline(results).endswith("; it was not measured there.")


@given(st.sampled_from(sorted(METRICS)), st.floats(-10, 10), st.floats(0, 10))
def test_a_verdict_turns_round_with_the_difference(metric, low, width):
    opposite = {"ahead of": "behind", "behind": "ahead of", "not decided": "not decided"}
    assert verdict(metric, -low - width, -low) == opposite[verdict(metric, low, low + width)]
    assert (verdict(metric, low, low + width) == "not decided") == (low <= 0 <= low + width)


def test_design_is_counted_from_the_settings_records(results):
    first, second = results["settings"]
    results["records"] = [record for record in results["records"] if record["regime"] == "instructed" or record["task"] == "task_00"]
    assert describe_design(results, first) == "12 tasks in 4 clusters, 2 training seeds"
    assert describe_design(results, second) == "1 task in 1 cluster, 2 training seeds"


def test_primary_setting_is_the_one_the_protocol_names(results):
    results["protocol"]["primary"]["regime"] = "house_rules"
    assert primary_setting(results) is results["settings"][1]
    results["protocol"]["primary"]["k"] = 256
    assert primary_setting(results) is results["settings"][0]


@pytest.mark.parametrize(
    ("pair", "arms", "expected"),
    [
        ("a-b", ["a", "b"], ("a", "b")),
        ("a-b-c", ["a-b", "c"], ("a-b", "c")),
        ("a-b-c", ["a", "b-c"], ("a", "b-c")),
        ("x-y", [], ("x", "y")),
    ],
)
def test_sides_of_a_pair_may_hold_dashes(pair, arms, expected):
    assert sides(pair, arms) == expected


def test_a_constant_arm_is_there_at_every_step(results):
    setting = results["settings"][0]
    level = setting["summary"]["zero_shot"]["0"]["loss"]
    assert at(setting["summary"]["zero_shot"], "loss", 10) == level
    assert at(setting["summary"]["meta"], "loss", 3) is None
    assert at(setting["summary"]["meta"], "gain", 0) is None
    assert all_steps(setting) == list(STEPS)


@pytest.mark.parametrize(
    ("metric", "value", "signed", "text"),
    [
        ("loss", -0.0001, True, "0.000"),
        ("loss", -0.0016, True, "-0.002"),
        ("accuracy", 0.1234, False, "12.3"),
        ("accuracy", 0.1234, True, "+12.3"),
        ("accuracy", 0.0, True, "0.0"),
        ("drift", 0.01234, False, "1.23"),
    ],
)
def test_numbers_never_say_minus_zero(metric, value, signed, text):
    assert METRICS[metric].number(value, signed) == text


def tables(markdown):
    """Every table's rows, its heading row first, as lists of cells."""
    found = []
    for before, line in zip(["", *markdown.splitlines()], markdown.splitlines(), strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_markdown_shows_every_number_of_every_setting(results):
    markdown = results_markdown(results)
    assert markdown.startswith(f"**{headline(results)}**\n")
    aims, *found = tables(markdown)
    assert aims[0][:3] == ["aim", "of", "wanted"]
    assert len(found) == 2 * 4
    assert all(len({len(row) for row in table}) == 1 for table in (aims, *found))
    for number, setting in enumerate(results["settings"]):
        main, others, whole, sensitivity = found[4 * number : 4 * number + 4]
        assert main[0] == ["metric", "arm", *(f"step {step}" for step in STEPS)]
        rows = {(row[0], row[1]): row[2:] for row in main[2:]}
        assert len(rows) == 2 * (5 + 3)
        loss = setting["summary"]["random"]["50"]["loss"]
        assert rows["loss", "random"][-1] == f"{loss['mean']:.3f} [{loss['low']:.3f}, {loss['high']:.3f}]"
        accuracy = setting["summary"]["zero_shot"]["0"]["accuracy"]
        percent = [f"{100 * accuracy[key]:.1f}" for key in ("mean", "low", "high")]
        assert rows["accuracy", "zero_shot"] == [f"{percent[0]}% [{percent[1]}, {percent[2]}]", *"------"]
        ahead = setting["pairs"]["meta_adamw-multitask"]["10"]["accuracy"]
        points = [f"{100 * ahead[key]:+.1f}" for key in ("mean", "low", "high")]
        assert rows["accuracy difference", "meta_adamw-multitask"][4] == f"{points[0]} [{points[1]}, {points[2]}]"
        assert {row[0] for row in others[2:]} >= {"invalid output", "calibration error", "gain from adapting", "drift"}
        assert next(row for row in others if row[:2] == ["gain from adapting", "meta"])[2] == "-"
        assert whole[0][3:] == ["steps to target", "steps to multitask"]
        assert next(row for row in whole if row[0] == "random")[3:] == ["20.0 [10.0, 50.0], 25% never", "5.0 [2.0, 10.0], 10% never"]
        assert next(row for row in whole if row[0] == "meta_adamw-random")[3:] == ["-", "-"]
        assert sensitivity[0][0] == "meta_adamw-multitask at step 10"
        left = setting["sensitivity"][1]["pairs"]["meta_adamw-multitask"]["loss"]
        assert sensitivity[3][:2] == ["without tasks that have no headroom (task_11)", "11"]
        assert sensitivity[3][2] == f"{left['mean']:+.3f} [{left['low']:+.3f}, {left['high']:+.3f}]"
    assert "### Instructed, K = 16" in markdown
    assert "### House rules, K = 16" in markdown
    assert "\n- fewer than 20 clusters (4): wide intervals\n" in markdown
    assert "1 look taken at this suite's test split." in markdown


def test_markdown_of_the_primary_setting_alone(results):
    results["protocol"]["primary"]["regime"] = "house_rules"
    markdown = results_markdown(results, every=False)
    assert "### House rules" in markdown
    assert "### Instructed" not in markdown
    assert len(tables(markdown)) == 4


def test_markdown_without_pairs_has_no_differences(results):
    for setting in results["settings"]:
        setting["pairs"], setting["curve_pairs"], setting["sensitivity"] = {}, {}, []
    assert not [row for table in tables(results_markdown(results)) for row in table if "difference" in row[0]]


def test_markdown_escapes_what_names_hold(results):
    setting = results["settings"][0]
    setting["summary"]["a|b"] = setting["summary"].pop("meta")
    setting["summary"]["<script>"] = setting["summary"].pop("random")
    markdown = results_markdown(results)
    assert "| a\\|b |" in markdown
    assert "| &lt;script> |" in markdown
    assert "<script" not in markdown


def test_rich_table_shows_headline_primary_setting_and_the_others(results):
    text = shown(results)
    assert headline(results)[:60] in text
    loss = results["settings"][0]["summary"]["random"]["50"]["loss"]["mean"]
    assert f"{loss:.3f}" in text
    blocks = ["\n loss ", "\n accuracy ", "\n loss difference", "\n accuracy difference", "fewer than 20 clusters", "house rules, K = 16"]
    places = [text.index(block) for block in blocks]
    assert places == sorted(places)
    ahead = results["settings"][1]["pairs"]["meta_adamw-multitask"]["10"]["accuracy"]["mean"]
    assert f"{100 * ahead:+.1f} [" in text


def test_rich_table_of_one_setting_speaks_of_no_other():
    assert "other settings" not in shown(make_results(settings=[("instructed", 8)], tasks=3, draws=1))


def test_rich_table_takes_names_as_text_and_does_not_cut_them(results):
    setting = results["settings"][0]
    setting["summary"]["[red]arm[/red]"] = setting["summary"].pop("meta")
    text = shown(results, width=60)
    assert "[red]arm[/red]" in text
    assert "meta_adamw-multitask" in text
