"""What all pictures share: size, type, colours, and writing a PNG file whole or not at all."""

import io
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from headstart.files import write_atomically

BLUE, VERMILLION = "#0072B2", "#D55E00"
DPI = 150
FONT_SIZE = 11


def write_png(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_atomically(Path(path), buffer.getvalue())


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure, in inches, drawn without a display."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def label(axes: Any, x_label: str, y_label: str) -> None:
    """Name the axes and take away what carries no data."""
    axes.set_xlabel(x_label, fontsize=FONT_SIZE)
    axes.set_ylabel(y_label, fontsize=FONT_SIZE)
    axes.tick_params(labelsize=FONT_SIZE - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
