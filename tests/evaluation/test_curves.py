"""The pictures hold the numbers and names they should, differ without colour, and are written whole."""

import numpy as np
import pytest

from headstart.evaluation.curves import evaluation_figure, plot_evaluation
from headstart.evaluation.report import build_results
from headstart.evaluation.statistics import Record
from headstart.figures import DPI

STEPS = (0, 1, 2, 5, 10)
ARMS = ("zero_shot", "icl", "random", "eva", "multitask", "multitask_rates", "meta_adamw", "meta")


@pytest.fixture
def results():
    records = []
    for number, arm in enumerate(ARMS):
        for step in STEPS if number > 1 else STEPS[:1]:
            for t in range(4):
                loss = 2.0 + 0.3 * t - 0.02 * number * step
                records.append(Record(arm, f"t{t}", f"c{t // 2}", f"d{t}", 0, 0, 16, step, loss, 0.1 * number))
    return build_results(records, [], {}, resamples=50)


def test_evaluation_png_has_the_expected_size_and_no_leftovers(results, tmp_path, png_size):
    path = tmp_path / "evaluation" / "curves.png"
    plot_evaluation(results, path)
    assert png_size(path) == (11 * DPI, 4.6 * DPI)
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]


def test_evaluation_legend_names_every_arm_in_the_order_of_the_lines(results, legend_names):
    assert legend_names(evaluation_figure(results)) == list(reversed(ARMS))


def test_evaluation_panels_hold_the_summary(results):
    loss, accuracy = evaluation_figure(results).axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("query loss", "accuracy")
    for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(step) for step in STEPS]
        lines = {line.get_label(): line for line in axes.get_lines()}
        expected = [results["summary"]["meta"][str(step)][metric]["mean"] for step in STEPS]
        np.testing.assert_allclose(lines["meta"].get_ydata(), expected)
        assert len(axes.collections) == len(ARMS)
    band = loss.collections[ARMS.index("meta")].get_paths()[0].vertices
    for position, step in enumerate(STEPS):
        interval = results["summary"]["meta"][str(step)]["loss"]
        edge = band[band[:, 0] == position, 1]
        assert interval["low"] < interval["mean"] < interval["high"]
        assert (edge.min(), edge.max()) == pytest.approx((interval["low"], interval["high"]))


def test_arms_that_do_not_adapt_are_level_lines_marked_once(results):
    line = evaluation_figure(results).axes[0].get_lines()[0]
    assert len(line.get_ydata()) == len(STEPS)
    assert len(set(line.get_ydata())) == 1
    assert line.get_markevery() == [0]


def test_arms_differ_without_colour(results):
    lines = evaluation_figure(results).axes[0].get_lines()
    assert len({(str(line.get_linestyle()), line.get_marker()) for line in lines}) == len(ARMS)
    assert len({line.get_marker() for line in lines}) == len(ARMS)
    assert len({line.get_linestyle() for line in lines}) >= 4
    assert len({line.get_color() for line in lines}) == len(ARMS)


def test_title_gives_tasks_clusters_and_shots(results):
    assert evaluation_figure(results).get_suptitle().startswith("4 tasks in 2 clusters, K = 16")


def test_nothing_leaves_the_evaluation_canvas(results):
    figure = evaluation_figure(results)
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    boxes = [figure.legends[0].get_window_extent(), *(axes.get_tightbbox() for axes in figure.axes)]
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    assert not boxes[0].overlaps(boxes[2])
    assert not boxes[1].overlaps(boxes[2])


def test_empty_summary_raises(results):
    with pytest.raises(ValueError, match="no arms"):
        evaluation_figure({**results, "summary": {}})
