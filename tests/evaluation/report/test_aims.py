"""What an evaluation says of the project's aims, on summaries made by hand."""

import copy
from html.parser import HTMLParser

import pytest
from evaluation.report.synthetic import make_results
from hypothesis import given
from hypothesis import strategies as st

from headstart.evaluation.report.aims import AIMS, KEY, Aim, assess
from headstart.evaluation.report.page import report_html
from headstart.evaluation.report.schema import results_schema
from headstart.evaluation.report.tables import results_markdown

REGIMES = ("instructed", "house_rules")


def interval(mean, low, high, **more):
    return {"mean": mean, "low": low, "high": high, **more}


def steps(mean, low, high):
    return interval(mean, low, high, censored=0.0)


def make_setting(regime="instructed", k=16, *, pairs=None, summary=None, curves=None, target=("random", 50), multitask=20):
    """A setting with metrics of pairs and arms at step 10, and steps of arms that were measured to step 50."""
    arms = {arm: (summary or {}).get(arm, {}) for arm in {**(curves or {}), **(summary or {})}}
    return {
        "regime": regime,
        "k": k,
        "summary": {arm: {"0": {}, "10": metrics, "50": {}} for arm, metrics in arms.items()},
        "pairs": {pair: {"10": metrics} for pair, metrics in (pairs or {}).items()},
        "curves": curves or {},
        "target": {"arm": target[0], "step": target[1], "losses": {}} if target else None,
        "multitask_target": {"arm": "multitask", "step": multitask, "losses": {}} if multitask else None,
    }


def make_document(*settings, k=16, step=10):
    return {"protocol": {"primary": {"k": k, "step": step}}, "settings": list(settings)}


def standings(*settings, **primary):
    """Arm or pair and metric -> what is said of it in each regime."""
    return {
        (each.aim.of, each.aim.metric): [found.standing if found else None for found in each.findings.values()]
        for each in assess(make_document(*settings, **primary))
    }


def told(aim, mean, low, high, regime="instructed"):
    return aim.standing(interval(mean, low, high), regime)


@pytest.mark.parametrize(
    ("mean", "low", "high", "instructed", "house_rules"),
    [
        (0.035, 0.002, 0.07, "reached", "reached"),
        (0.015, 0.002, 0.04, "reached", "not decided"),
        (0.015, 0.002, 0.028, "reached", "not reached"),
        (0.01, 0.001, 0.02, "reached", "not reached"),
        (0.008, 0.002, 0.02, "not decided", "not reached"),
        (0.05, 0.0, 0.1, "not decided", "not decided"),
        (0.05, -0.01, 0.11, "not decided", "not decided"),
        (0.004, 0.001, 0.009, "not reached", "not reached"),
        (-0.02, -0.05, 0.03, "not decided", "not decided"),
        (-0.02, -0.03, -0.01, "not reached", "not reached"),
    ],
)
@pytest.mark.parametrize("pair", ["meta_adamw-multitask", "meta-multitask"])
def test_a_lead_is_reached_by_its_mean_where_the_interval_is_above_0(pair, mean, low, high, instructed, house_rules):
    settings = [make_setting(regime, pairs={pair: {"accuracy": interval(mean, low, high)}}) for regime in REGIMES]
    assert standings(*settings) == {(pair, "accuracy"): [instructed, house_rules]}


BOUNDS = [
    # of, metric, one that keeps to the bound, one about it, one that misses it
    ("meta-meta_adamw", "accuracy", (0.01, 0.0, 0.02), (0.01, -0.001, 0.02), (-0.01, -0.02, -0.001)),
    ("meta_adamw", "steps_to_target", (2, 1, 5), (5, 2, 10), (20, 10, 50)),
    ("meta", "steps_to_target", (5, 5, 5), (10, 5, 10), (10, 10, 10)),
    ("meta_adamw", "steps_to_multitask", (5, 2, 10), (10, 5, 20), (20, 20, 50)),
    ("meta", "steps_to_multitask", (10, 10, 10), (20, 10, 50), (50, 20, 50)),
    ("meta_adamw", "improved", (0.95, 0.9, 1.0), (0.95, 0.89, 1.0), (0.8, 0.7, 0.89)),
    ("meta", "improved", (1.0, 1.0, 1.0), (0.9, 0.8, 0.97), (0.5, 0.4, 0.6)),
    ("meta_adamw-multitask", "ece", (0.01, -0.01, 0.02), (0.01, -0.01, 0.03), (0.05, 0.03, 0.07)),
    ("meta-multitask", "ece", (-0.1, -0.2, -0.05), (0.03, 0.01, 0.05), (0.03, 0.021, 0.05)),
    ("meta_adamw-multitask", "drift", (-0.02, -0.04, 0.0), (-0.02, -0.04, 0.001), (0.02, 0.01, 0.03)),
]


@pytest.mark.parametrize(("of", "metric", "kept", "about", "missed"), BOUNDS, ids=[f"{bound[0]}-{bound[1]}" for bound in BOUNDS])
def test_other_aims_are_reached_by_the_whole_interval(of, metric, kept, about, missed):
    for numbers, standing in ((kept, "reached"), (about, "not decided"), (missed, "not reached")):
        if metric.startswith("steps"):
            setting = make_setting(curves={of: {metric: steps(*numbers)}})
        else:
            setting = make_setting(**{"pairs" if "-" in of else "summary": {of: {metric: interval(*numbers)}}})
        assert standings(setting) == {(of, metric): [standing]}


def test_every_aim_is_tested():
    leads = {("meta_adamw-multitask", "accuracy"), ("meta-multitask", "accuracy")}
    assert {(aim.of, aim.metric) for aim in AIMS if aim.lead} == leads
    assert {(aim.of, aim.metric) for aim in AIMS if not aim.lead} == {(of, metric) for of, metric, *_ in BOUNDS}


def test_the_last_bit_of_a_mean_decides_nothing():
    assert told(AIMS[0], 0.71 - 0.7, 0.001, 0.02) == "reached"
    assert 0.71 - 0.7 > 0.01
    assert told(AIMS[0], 0.01 - 1e-16, 0.001, 0.02) == "reached"
    assert told(AIMS[0], 0.02, 1e-17, 0.03) == "not decided"


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1), st.floats(-1, 1))
def test_at_least_is_at_most_turned_round(mean, below, above, bound):
    least, most = (
        Aim("meta-multitask", "accuracy", sense, {"instructed": sign * bound}) for sense, sign in (("at least", 1), ("at most", -1))
    )
    assert told(least, mean, mean - below, mean + above) == told(most, -mean, -mean - above, -mean + below)


@given(st.sampled_from(AIMS), st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_harder_bound_is_never_more_of_a_success(aim, mean, below, above):
    order = ["not reached", "not decided", "reached"]
    harder = 0.1 if aim.sense == "at least" else -0.1
    easy, hard = (Aim(aim.of, aim.metric, aim.sense, {"instructed": bound}, aim.lead) for bound in (0.0, harder))
    found = mean, mean - below, mean + above
    assert order.index(told(hard, *found)) <= order.index(told(easy, *found))


def test_the_primary_step_and_k_alone_are_looked_at():
    found, other = interval(0.05, 0.04, 0.06), interval(-0.05, -0.06, -0.04)
    settings = [make_setting(k=k, pairs={"meta-multitask": {"accuracy": own}}) for k, own in ((4, other), (16, found))]
    settings[1]["pairs"]["meta-multitask"]["5"] = {"accuracy": other}
    assert standings(*settings) == {("meta-multitask", "accuracy"): ["reached"]}
    assert standings(*settings, k=4) == standings(*settings, step=5) == {("meta-multitask", "accuracy"): ["not reached"]}
    assert standings(*settings, step=20) == standings(*settings, k=64) == {}


def test_what_was_not_measured_in_one_regime_is_empty_there_and_left_out_if_in_none():
    measured = make_setting("house_rules", summary={"meta": {"improved": interval(0.95, 0.92, 0.98)}})
    (row,) = assess(make_document(make_setting("instructed", summary={"meta": {}}), measured))
    assert row.findings["instructed"] is None
    assert row.findings["house_rules"].interval == interval(0.95, 0.92, 0.98)
    assert list(row.findings) == ["instructed", "house_rules"]
    assert assess(make_document(make_setting(), make_setting("house_rules"))) == []


@pytest.mark.parametrize(
    ("metric", "target", "multitask", "standing"),
    [
        ("steps_to_target", ("random", 50), 20, ["reached"]),
        ("steps_to_target", ("random", 10), 10, ["reached"]),
        ("steps_to_target", ("random", 5), 20, None),
        ("steps_to_target", None, 20, None),
        ("steps_to_multitask", ("random", 50), 20, ["reached"]),
        ("steps_to_multitask", ("random", 50), 10, None),
        ("steps_to_multitask", ("random", 50), None, None),
    ],
)
def test_steps_need_a_target_beyond_what_is_aimed_at(metric, target, multitask, standing):
    setting = make_setting(curves={"meta": {metric: steps(2, 1, 5)}}, target=target, multitask=multitask)
    assert standings(setting).get(("meta", metric)) == standing


def test_never_is_not_taken_for_the_last_step():
    """All of an arm's curves end at step 5 without getting there: its median counts as 5, which is no success."""
    setting = make_setting(curves={"meta": {"steps_to_target": interval(5, 5, 5, censored=1.0)}})
    assert standings(setting) == {("meta", "steps_to_target"): ["reached"]}
    setting["summary"]["meta"] = {"0": {}, "5": {}}
    assert standings(setting) == {}


@pytest.mark.parametrize(
    ("aim", "regimes", "words"),
    [
        (AIMS[0], REGIMES, "at least +1.0 points instructed, +3.0 points house rules, interval above 0"),
        (AIMS[0], REGIMES[1:], "at least +3.0 points, interval above 0"),
        (AIMS[2], REGIMES, "at least 0.0 points"),
        (AIMS[3], REGIMES, "at most 5.0"),
        (AIMS[7], REGIMES, "at least 90.0%"),
        (AIMS[9], REGIMES, "at most +2.0 points"),
    ],
)
def test_bounds_in_words(aim, regimes, words):
    assert aim.wanted(regimes) == words


def test_titles_name_the_target():
    curve = {"steps_to_target": steps(2, 1, 5), "steps_to_multitask": steps(2, 1, 5)}
    found = assess(make_document(make_setting(curves={"meta": curve}, target=("random", 10))))
    assert [row.title for row in found] == [
        "steps to random's loss at step 10",
        "steps to multitask's loss at step 20",
    ]


# In the reports.


@pytest.fixture(scope="module")
def made():
    return make_results()


@pytest.fixture
def results(made):
    results = copy.deepcopy(made)
    for setting, mean in zip(results["settings"], (0.012, 0.021), strict=True):
        setting["pairs"]["meta_adamw-multitask"]["10"]["accuracy"] = interval(mean, 0.002, 0.025)
        setting["pairs"]["meta_adamw-multitask"]["10"]["drift"] = interval(-0.01, -0.02, 0.001)
    del results["settings"][1]["curves"]["meta"]["steps_to_multitask"]
    return results


EXPECTED = {
    ("accuracy", "meta_adamw-multitask"): ["+1.2 [+0.2, +2.5]", "reached", "+2.1 [+0.2, +2.5]", "not reached"],
    ("steps to random's loss at step 50", "meta_adamw"): ["20.0 [10.0, 50.0]", "not reached"] * 2,
    ("steps to random's loss at step 50", "meta"): ["20.0 [10.0, 50.0]", "not reached"] * 2,
    ("steps to multitask's loss at step 20", "meta_adamw"): ["5.0 [2.0, 10.0]", "reached"] * 2,
    ("steps to multitask's loss at step 20", "meta"): ["5.0 [2.0, 10.0]", "reached", "-", ""],
    ("improved by adapting", "meta_adamw"): ["94.7% [90.5, 98.8]", "reached"] * 2,
    ("improved by adapting", "meta"): ["94.7% [90.5, 98.8]", "reached"] * 2,
    ("drift", "meta_adamw-multitask"): ["-1.00 [-2.00, +0.10]", "not decided"] * 2,
}
"""Title and name -> number and standing, instructed and under house rules."""


def test_markdown_tells_the_aims_behind_the_headline(results):
    markdown = results_markdown(results)
    assert markdown.index("### Aims") < markdown.index("### Instructed")
    assert f"At step 10, K = 16. {KEY}" in markdown
    lines = markdown.split("### Aims")[1].split("###")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert head == ["aim", "of", "wanted", "instructed", "house rules"]
    assert rows[0][2] == "at least +1.0 points instructed, +3.0 points house rules, interval above 0"
    cells = {key: [": ".join(filter(None, own[place : place + 2])) for place in (0, 2)] for key, own in EXPECTED.items()}
    assert {(row[0], row[1]): row[3:] for row in rows} == cells


def test_the_card_s_table_of_the_primary_setting_has_no_aims(results):
    assert "Aims" not in results_markdown(results, every=False)


class AimsTable(HTMLParser):
    """The rows of the page's section of aims, and the class of every cell with its text."""

    def __init__(self, html):
        super().__init__()
        self.within, self.rows, self.classes = False, [], {}
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag == "section":
            self.within = ("id", "aims") in attributes
        elif self.within and tag == "tr":
            self.rows.append([])
        elif self.within and tag in ("th", "td"):
            self.rows[-1].append("")
            self.kind = dict(attributes).get("class")

    def handle_data(self, data):
        if self.within and self.rows and data.strip():
            self.rows[-1][-1] += data.strip()
            self.classes[data.strip()] = self.kind

    def handle_endtag(self, tag):
        if tag == "section":
            self.within = False


def test_page_tells_the_aims_before_the_settings(results):
    html = report_html(results)
    assert html.index('<section id="aims">') < html.index('<section id="instructed-16">')
    assert '<a href="#aims">aims</a>' in html
    table = AimsTable(html)
    head, *rows = table.rows
    assert head == ["aim", "of", "wanted", "instructed", "house rules"]
    of_pairs = str.maketrans({"-": "−"})
    cells = {
        (title, of.replace("-", " − ")): ["–" if cell == "-" else cell.translate(of_pairs) for cell in own]
        for (title, of), own in EXPECTED.items()
    }
    assert {(row[0], row[1]): row[3:] for row in rows} == cells
    standing = {"reached": "reached", "not reached": "not-reached", "not decided": "not-decided"}
    assert {text: table.classes[text] for text in standing} == standing


def test_reports_without_a_measured_aim_have_no_such_section():
    results = make_results(arms=("zero_shot", "random"), tasks=3, draws=1)
    assert "Aims" not in results_markdown(results)
    html = report_html(results)
    assert 'id="aims"' not in html
    assert "#aims" not in html


def test_the_results_document_holds_no_aims():
    assert "aims" not in results_schema()["properties"]
    assert "aims" not in results_schema()["$defs"]["Setting"]["properties"]
