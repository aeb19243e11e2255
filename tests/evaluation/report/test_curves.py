"""The pictures hold the numbers and names they should, differ without colour, and are written whole."""

import numpy as np
import pytest
from evaluation.report.synthetic import CONSTANT, make_results

from headstart.evaluation.report.curves import evaluation_figure, plot_evaluation
from headstart.figures import DPI

STEPS = (0, 1, 2, 5, 10)
ARMS = ("zero_shot", "icl", "random", "eva", "multitask", "multitask_rates", "meta_adamw", "meta")


@pytest.fixture(scope="module")
def results():
    return make_results(arms=ARMS, steps=STEPS, tasks=6, draws=1)


def test_evaluation_png_has_the_expected_size_and_no_leftovers(results, tmp_path, png_size):
    path = tmp_path / "evaluation" / "curves.png"
    plot_evaluation(results, path)
    assert png_size(path) == (11 * DPI, 4.6 * DPI)
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]


def test_every_setting_has_a_row_of_its_own(results, tmp_path, png_size):
    plot_evaluation(results, tmp_path / "all.png", every=True)
    assert png_size(tmp_path / "all.png") == (11 * DPI, 2 * 4.6 * DPI)
    figure = evaluation_figure(results, every=True)
    design = "6 tasks in 2 clusters, 2 training seeds"
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["instructed, K = 16", design, "house rules, K = 16", design]
    for row, setting in enumerate(results["settings"]):
        line = next(line for line in figure.axes[2 * row].get_lines() if line.get_label() == "meta")
        np.testing.assert_allclose(line.get_ydata(), [setting["summary"]["meta"][str(step)]["loss"]["mean"] for step in STEPS])


def test_evaluation_legend_names_every_arm_in_the_order_of_the_lines(results, legend_names):
    figure = evaluation_figure(results)
    ends = {line.get_label(): line.get_ydata()[-1] for line in figure.axes[1].get_lines()}
    assert legend_names(figure) == sorted(ends, key=lambda arm: -ends[arm])
    assert set(ends) == set(ARMS)


def test_evaluation_panels_hold_the_summary(results):
    loss, accuracy = evaluation_figure(results).axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("query loss", "accuracy, %")
    for axes, metric, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(step) for step in STEPS]
        lines = {line.get_label(): line for line in axes.get_lines()}
        expected = [scale * results["summary"]["meta"][str(step)][metric]["mean"] for step in STEPS]
        np.testing.assert_allclose(lines["meta"].get_ydata(), expected)
        assert len(axes.collections) == len(ARMS)
    band = loss.collections[ARMS.index("meta")].get_paths()[0].vertices
    for position, step in enumerate(STEPS):
        interval = results["summary"]["meta"][str(step)]["loss"]
        edge = band[band[:, 0] == position, 1]
        assert interval["low"] < interval["mean"] < interval["high"]
        assert (edge.min(), edge.max()) == pytest.approx((interval["low"], interval["high"]))


@pytest.mark.parametrize("arm", CONSTANT)
def test_arms_that_do_not_adapt_are_level_lines_marked_once(results, arm):
    line = evaluation_figure(results).axes[0].get_lines()[ARMS.index(arm)]
    assert len(line.get_ydata()) == len(STEPS)
    assert len(set(line.get_ydata())) == 1
    assert line.get_markevery() == [0]


def test_arms_differ_without_colour(results):
    lines = evaluation_figure(results).axes[0].get_lines()
    assert len({(str(line.get_linestyle()), line.get_marker()) for line in lines}) == len(ARMS)
    assert len({line.get_marker() for line in lines}) == len(ARMS)
    assert len({line.get_linestyle() for line in lines}) >= 4
    assert len({line.get_color() for line in lines}) == len(ARMS)


def test_title_gives_tasks_clusters_seeds_and_shots(results):
    title = evaluation_figure(results).get_suptitle()
    assert title == "6 tasks in 2 clusters, 2 training seeds, instructed, K = 16; shaded: 95% interval"


@pytest.mark.parametrize("every", [False, True])
def test_nothing_leaves_the_evaluation_canvas(results, every):
    figure = evaluation_figure(results, every=every)
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    legend, *panels = [figure.legends[0].get_window_extent(), *(axes.get_tightbbox() for axes in figure.axes)]
    for box in (legend, *panels):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    assert not any(legend.overlaps(box) for box in panels)
    assert not any(one.overlaps(other) for number, one in enumerate(panels) for other in panels[:number])


def test_a_document_without_arms_raises(results):
    with pytest.raises(ValueError, match="no arms"):
        evaluation_figure({**results, "settings": [{**results["settings"][0], "summary": {}}]})
