"""The picture of a run holds its losses, its phases and nothing else."""

import numpy as np
import pytest

from headstart.figures import DPI
from headstart.training.curves import plot_training, smooth, training_figure


def training_rows():
    rows = [{"step": step, "phase": "multitask" if step <= 40 else "fomaml", "loss": 3.0 - step / 50} for step in range(1, 101)]
    for step in (50, 100):
        rows.append({"step": step, "phase": "fomaml", "validation/loss_0": 2.0, "validation/loss_adapted": 1.5, "validation/gain": 0.5})
    return rows


def test_training_png_has_the_expected_size(tmp_path, png_size):
    path = tmp_path / "training.png"
    plot_training(training_rows(), path)
    assert png_size(path) == (9 * DPI, 4.6 * DPI)
    assert [file.name for file in tmp_path.iterdir()] == ["training.png"]


def test_training_figure_names_lines_and_phases(legend_names):
    figure = training_figure(training_rows())
    assert legend_names(figure) == ["training", "training, smoothed", "validation, step 0", "validation, adapted"]
    (axes,) = figure.axes
    assert {text.get_text(): text.get_position()[0] for text in axes.texts} == {"multitask": 1, "fomaml": 41}
    lines = {line.get_label(): line for line in axes.get_lines()}
    np.testing.assert_array_equal(lines["validation, adapted"].get_xdata(), [50, 100])
    np.testing.assert_array_equal(lines["validation, adapted"].get_ydata(), [1.5, 1.5])
    np.testing.assert_array_equal(lines["training"].get_xdata(), range(1, 41))


def test_training_figure_without_validation(legend_names):
    assert legend_names(training_figure([row for row in training_rows() if "loss" in row])) == ["training", "training, smoothed"]


def test_rows_repeated_by_a_resumed_run_are_drawn_once():
    rows = [*training_rows(), {"step": 3, "phase": "multitask", "loss": 9.0}]
    line = training_figure(rows).axes[0].get_lines()[0]
    np.testing.assert_array_equal(line.get_xdata(), range(1, 41))
    assert line.get_ydata()[2] == 9.0


def test_names_of_short_phases_do_not_share_a_row():
    rows = [{"step": step, "phase": "a" if step < 3 else "b" if step < 6 else "c", "loss": 1.0} for step in range(100)]
    heights = [text.get_position()[1] for text in training_figure(rows).axes[0].texts]
    assert heights[0] != heights[1] != heights[2]


def test_unusable_training_rows_raise():
    with pytest.raises(ValueError, match="no training row"):
        training_figure([])
    with pytest.raises(ValueError, match="step 1 lies in two phases"):
        training_figure([{"step": 1, "phase": phase, "loss": 1.0} for phase in ("multitask", "fomaml")])


def test_smoothing_is_a_centred_mean_that_skips_what_is_not_finite():
    np.testing.assert_array_equal(smooth(np.arange(10.0)), np.arange(10.0))
    values = np.zeros(20)
    values[10] = 3.0
    np.testing.assert_allclose(smooth(values)[8:13], [0, 1, 1, 1, 0])
    values[11] = np.nan
    np.testing.assert_allclose(smooth(values)[8:13], [0, 1, 1.5, 1.5, 0])
    np.testing.assert_allclose(smooth(np.full(60, 2.0)), 2.0)
