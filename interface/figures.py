"""Figures as a paper would show them: titled panels with axes and colour bars, drawn without a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

INCH = 100  # dots
SPECTRUM_AXES = ("horizontal frequency (cycles per pixel)", "vertical frequency (cycles per pixel)")
HALF_BAND = (-0.5, 0.5, -0.5, 0.5)


@dataclass(frozen=True)
class Panel:
    """One image of a figure. Without a colour bar's label it is a picture, shown without axes."""

    title: str
    values: Tensor | np.ndarray  # (H, W), or (H, W, 3) in [0, 1]
    bar: str = ""
    colours: str = "gray"
    limits: tuple[float | None, float | None] = (None, None)
    extent: tuple[float, float, float, float] | None = None  # left, right, bottom, top
    axes: tuple[str, str] = ("", "")
    marks: Mapping[str, tuple[float, float]] | None = None  # label -> point
    contours: int = 0


def panels(items: Sequence[Panel], columns: int, size: float = 3.2) -> Image.Image:
    """Panels in rows of `columns`, each about `size` inches wide."""
    rows = -(-len(items) // columns)
    framed = any(item.bar for item in items)
    # Margins are fixed: a layout that measures its texts would draw every figure twice.
    figure = Figure(figsize=(size * columns, size * (0.85 if framed else 1.0) * rows), dpi=INCH)
    width, height = size * columns, figure.get_figheight()
    left, bottom, top, right = (0.5, 0.45, 0.3, 0.25) if framed else (0.05, 0.05, 0.42, 0.05)  # inches
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=0.3 if framed else 0.04,
        hspace=0.38 if framed else 0.18,
    )
    for index, item in enumerate(items):
        axis = figure.add_subplot(rows, columns, index + 1)
        values = np.asarray(item.values)
        drawn = axis.imshow(
            values,
            cmap=item.colours,
            vmin=item.limits[0],
            vmax=item.limits[1],
            extent=item.extent,
            interpolation="nearest",
            origin="lower" if item.contours else "upper",
        )
        axis.set_title(item.title, fontsize=9)
        if item.contours:
            axis.contour(values, item.contours, colors="white", linewidths=0.5, extent=item.extent, origin="lower")
        for label, point in (item.marks or {}).items():
            axis.plot(*point, "r+", markersize=8)
            axis.annotate(label, point, textcoords="offset points", xytext=(4, -11), color="red", fontsize=8)
        if item.bar:
            bar = figure.colorbar(drawn, ax=axis, shrink=0.8, fraction=0.05, pad=0.03)
            bar.set_label(item.bar, fontsize=7)
            bar.ax.tick_params(labelsize=7)
            axis.set_xlabel(item.axes[0], fontsize=7, labelpad=1)
            axis.set_ylabel(item.axes[1], fontsize=7, labelpad=1)
            axis.tick_params(labelsize=7)
        else:
            axis.set_axis_off()
    return rendered(figure)


def bars(groups: Sequence[str], series: Mapping[str, Sequence[float]], title: str, label: str) -> Image.Image:
    """A bar for each series in each group."""
    figure = Figure(figsize=(11, 3.4), dpi=INCH)
    axis = figure.add_axes((0.06, 0.17, 0.92, 0.73))
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        positions = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
        axis.bar(positions, values, width, label=name)
    axis.axhline(1.0, color="black", linewidth=0.6)
    axis.set_xticks(range(len(groups)), groups, fontsize=8, rotation=12)
    axis.set_ylabel(label, fontsize=8)
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, ncols=len(series))
    return rendered(figure)


def curve(values: Sequence[float], title: str, axes: tuple[str, str]) -> Image.Image:
    figure = Figure(figsize=(4.6, 3.2), dpi=INCH)
    axis = figure.add_axes((0.15, 0.16, 0.81, 0.73))
    axis.plot(np.asarray(values), linewidth=1.2)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(axes[0], fontsize=8)
    axis.set_ylabel(axes[1], fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    return rendered(figure)


def rendered(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def thinned(values: Tensor, longest: int = 256) -> Tensor:
    """Every n-th row and column of (H, W), so that a panel is not drawn from more values than it has dots."""
    step = max(1, -(-max(values.shape[-2:]) // longest))
    return values[..., ::step, ::step]
