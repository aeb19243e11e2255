"""The page holds the document's numbers, runs nothing that a name says, and works in a real browser."""

import copy
import re
import struct
from html.parser import HTMLParser

import pytest
from evaluation.report.browser import CHROMIUM, chromium
from evaluation.report.synthetic import make_results

from headstart.evaluation.report.page import amount, report_html
from headstart.evaluation.report.tables import headline

SIZES = [(width, scheme) for width in (400, 1400) for scheme in ("light", "dark")]
BAD = '<script>alert("x")</script><img src=x onerror=alert(1)>'


class Elements(HTMLParser):
    """All elements with their attributes, and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def made():
    return make_results()


@pytest.fixture
def results(made):
    return copy.deepcopy(made)


@pytest.fixture(scope="module")
def html(made):
    return report_html(made)


def spoilt(results):
    """The document with a script for every name and text in it."""
    if isinstance(results, dict):
        return {key: spoilt(value) for key, value in results.items()}
    if isinstance(results, list):
        return [spoilt(value) for value in results]
    return f"{results}{BAD}" if isinstance(results, str) else results


def test_page_asks_for_nothing_from_outside(html):
    elements = Elements(html).elements
    assert not [tag for tag, _ in elements if tag in ("link", "img", "iframe", "object", "embed", "image", "use")]
    assert all(attributes["href"].startswith("#") for _, attributes in elements if "href" in attributes)
    assert not [attributes for _, attributes in elements if "src" in attributes or "style" in attributes]
    assert "url(" not in html
    assert "@import" not in html
    policy = next(attributes["content"] for tag, attributes in elements if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_links_within_the_page_lead_somewhere(html):
    elements = Elements(html).elements
    anchors = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(set(anchors)) == len(anchors)
    assert {attributes["href"][1:] for _, attributes in elements if "href" in attributes} <= set(anchors)


def test_page_holds_what_the_document_says(results, html):
    text = Elements(html).text
    assert headline(results) in text
    protocol = results["protocol"]
    expected = [
        *results["notes"],
        *protocol["arms"].values(),
        *protocol["skipped"].values(),
        *protocol["tuning"]["tasks"],
        *results["tasks"],
        *(adapter["sha256"] for adapter in protocol["adapters"]),
        protocol["base"]["fingerprint"],
        protocol["machine"],
        protocol["commit"],
        "✓ 0.0005: 1.120",
        "23.0 TFLOP",
        "412.0 k",
        "131.5",
        "lora_alpha: 16",
        "1 look so far",
        "without tasks that have no headroom",
        "calibration error",
        "drift",
        "trained_on_nli",
        "loss of random at step 50, or its lowest if lower; steps to multitask: to its loss at step 20; never",
        "steps to target never steps to multitask never",
        "20.0 [10.0, 50.0] 25.0% 5.0 [2.0, 10.0] 10.0%",
    ]
    assert [wanted for wanted in expected if wanted not in text] == []
    for setting in results["settings"]:
        for curve in setting["summary"].values():
            for metrics in curve.values():
                loss = metrics["loss"]
                assert f"{loss['mean']:.3f} [{loss['low']:.3f}, {loss['high']:.3f}]" in text
    ahead = results["settings"][1]["pairs"]["meta_adamw-multitask"]["10"]["loss"]
    assert f"{ahead['mean']:+.3f} [{ahead['low']:+.3f}, {ahead['high']:+.3f}]".replace("-", "−") in text


def test_breakdown_holds_the_means_of_the_records(results, html):
    losses = [
        record["loss"]
        for record in results["records"]
        if (record["arm"], record["task"], record["regime"], record["step"]) == ("meta", "task_04", "instructed", 10)
    ]
    assert f'data-value="{sum(losses) / len(losses):.12f}'[:24] in html


def test_chosen_candidates_alone_are_marked(results):
    results["protocol"]["tuning"]["chosen"]["instructed/16"]["meta"]["5"] = 0.001
    html = report_html(results)
    chosen = re.findall(r'<span class="chip chosen">✓ ([\d.]+): ', html)
    assert len(chosen) == 2 * 4 * 3
    assert chosen.count("0.001") == 1


def test_names_and_texts_are_never_markup(results):
    for part in ("adapters", "base", "suite", "arms", "skipped", "measured", "recipe", "machine", "versions", "commit", "tier"):
        results["protocol"][part] = spoilt(results["protocol"][part])
    results["notes"], results["looks"] = spoilt(results["notes"]), spoilt(results["looks"])
    for setting in results["settings"]:
        setting["summary"][BAD] = setting["summary"]["meta"]
        setting["pairs"][f"{BAD}-random"] = setting["pairs"]["meta_adamw-random"]
        setting["sensitivity"][0]["name"] = BAD
    results["tasks"][BAD] = {**results["tasks"]["task_00"], "cluster": BAD}
    results["records"] += [{**record, "task": BAD} for record in results["records"] if record["task"] == "task_00"]
    elements = Elements(report_html(results)).elements
    assert [tag for tag, _ in elements].count("script") == 1
    assert not [tag for tag, _ in elements if tag == "img"]
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]


@pytest.mark.parametrize(
    "options",
    [
        {"arms": ("zero_shot", "random", "meta_adamw")},
        {"arms": ("meta_adamw",)},
        {"steps": (0,)},
        {"settings": [("house_rules", 4)]},
        {"metric": "loss"},
    ],
)
def test_lesser_documents_have_a_page_too(options):
    results = make_results(tasks=3, draws=1, **options)
    html = report_html(results)
    assert headline(results).replace("-", "−") in Elements(html).text.replace("-", "−")


def test_a_document_without_extras_has_a_page(results):
    results["protocol"] |= {
        "drift": None,
        "tier": None,
        "skipped": {},
        "commit": None,
        "base_variant_of": {"source": "hub", "fingerprint": "f00"},
    }
    results["protocol"]["tuning"] = {"tasks": [], "grids": {}, "chosen": {}}
    results |= {"looks": [], "notes": []}
    for setting in results["settings"]:
        setting |= {"curves": {}, "curve_pairs": {}, "target": None, "sensitivity": [], "pairs": {}}
    text = Elements(report_html(results)).text
    assert "None is recorded." in text
    assert "f00" in text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0, "0 "), (999, "999 "), (1000, "1.0 k"), (2.3e13, "23.0 T"), (4.5e18, "4500.0 P")]
)
def test_amounts_are_short(value, text):
    assert amount(value) == text


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def file(html, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_browser_shows_it_whole_and_without_a_complaint(page, file, width, scheme):
    page.open(file, width, scheme)
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.run("innerWidth") == width
    assert page.run("document.documentElement.scrollWidth") <= width
    overflowing = """[...document.querySelectorAll('main *')].filter(each => !each.closest('.scroll') &&
        each.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
    assert page.run(overflowing) == []
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    for event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
        assert page.told(event) == []
    assert [sent["request"]["url"] for sent in page.told("Network.requestWillBeSent")] == [file.as_uri()]


CONTRAST = """(() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(each => each / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const against = colour => { const [a, b] = [light(colour), ground].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
  const of = (selector, property) => [...document.querySelectorAll(selector)].map(each => against(getComputedStyle(each)[property]));
  return [Math.min(...of('p, h1, h2, a, dd, dt, td, summary', 'color')), Math.min(...of('.curve', 'stroke'))];
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_ground(page, file, scheme):
    page.open(file, 1400, scheme)
    text, lines = page.run(CONTRAST)
    assert text >= 4.5
    assert lines >= 3


TABLE = "document.querySelectorAll('table.sortable')[1]"
HEADER = f"{TABLE}.querySelectorAll('th[data-column]')[%d]"


def column(page, number):
    return page.run(f"[...{TABLE}.tBodies[0].rows].map(row => row.cells[{number}].dataset.value)")


def test_tables_sort_by_any_column_both_ways(page, file):
    page.open(file, 1400, "light")
    assert "task" in page.run(f"{HEADER % 0}.textContent")
    columns = page.run(f"{TABLE}.querySelectorAll('th[data-column]').length")
    assert columns == page.run(f"{TABLE}.tBodies[0].rows[0].cells.length") == 6 + 2 + 2 * 5
    for number in (0, 3, 6, 7, 12, columns - 1):
        before = column(page, number)
        key = str if number == 0 else float
        for direction, backwards in (("ascending", False), ("descending", True)):
            page.run(f"{HEADER % number}.querySelector('button').click()")
            assert column(page, number) == sorted(before, key=key, reverse=backwards)
            assert page.run(f"{HEADER % number}.getAttribute('aria-sort')") == direction
            others = f"[...{TABLE}.querySelectorAll('th[aria-sort]')].filter(each => each.getAttribute('aria-sort') !== 'none').length"
            assert page.run(others) == 1


def test_what_was_not_measured_stays_at_the_end(page, results, tmp_path):
    results["records"] = [record for record in results["records"] if (record["arm"], record["task"]) != ("meta", "task_05")]
    (tmp_path / "report.html").write_text(report_html(results), encoding="utf-8")
    page.open(tmp_path / "report.html", 1400, "light")
    for _ in range(2):
        page.run(f"{HEADER % 12}.querySelector('button').click()")
        found = column(page, 12)
        assert found[-1] == ""
        assert "" not in found[:-1]


def test_tables_sort_by_the_keyboard(page, file):
    page.open(file, 400, "light")
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.run(f"{HEADER % 5}.querySelector('button').focus()")
    page.press("Tab", 9)
    assert page.run(f"document.activeElement.closest('th') === {HEADER % 6}")
    page.press("Enter", 13)
    assert column(page, 6) == sorted(column(page, 6), key=float)
    assert page.run(f"{HEADER % 6}.getAttribute('aria-sort')") == "ascending"


def test_a_script_that_got_in_would_not_run(page, html, tmp_path):
    (tmp_path / "report.html").write_text(html.replace("</main>", "<script>document.title = 'broken in'</script></main>"), encoding="utf-8")
    page.open(tmp_path / "report.html", 400, "light")
    assert page.run("document.title") == "Evaluation of quickstart"
    assert "Content Security Policy" in page.told("Log.entryAdded")[0]["entry"]["text"]


def test_paper_is_light_and_unfolded(page, file):
    page.open(file, 1400, "dark")
    folded = "document.querySelectorAll('details:not([open])').length"
    before = page.run(folded)
    assert before > 0
    page.run(f"addEventListener('beforeprint', () => globalThis.onPaper = {folded})")
    page.call("Page.printToPDF", printBackground=False)
    assert page.run("onPaper") == 0
    assert page.run(folded) == before
    page.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_the_whole_page_can_be_pictured(page, file, tmp_path):
    page.open(file, 400, "light")
    page.picture(tmp_path / "page.png")
    width, height = struct.unpack(">II", (tmp_path / "page.png").read_bytes()[16:24])
    assert width <= 400
    assert height > 2000
