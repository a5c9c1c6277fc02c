"""Figures as a paper would show them: titled panels with axes and colour bars, drawn without a window."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw
from torch import Tensor

INCH = 100  # dots
SPECTRUM_AXES = ("horizontal frequency (cycles per pixel)", "vertical frequency (cycles per pixel)")
HALF_BAND = (-0.5, 0.5, -0.5, 0.5)
Box = tuple[int, int, int, int]  # left, top, right, bottom in dots


@dataclass(frozen=True)
class Panel:
    """One image of a figure. Without a colour bar's label it is a picture, shown without axes."""

    title: str
    values: Tensor | np.ndarray | None  # (H, W)
    bar: str = ""
    colours: str = "gray"
    limits: tuple[float | None, float | None] = (None, None)
    extent: tuple[float, float, float, float] | None = None  # left, right, bottom, top; default: pixels
    axes: tuple[str, str] = ("", "")
    marks: tuple[tuple[str, float, float], ...] = ()  # label, x, y
    contours: int = 0  # number of levels whose borders are drawn

    def frame(self) -> Panel:
        """All of it but the values, with nothing left open: what its title, axes and colour bar look like."""
        values = np.asarray(self.values)
        found = values.min().item(), values.max().item()
        limits = tuple(given if given is not None else limit for given, limit in zip(self.limits, found, strict=True))
        height, width = values.shape
        return replace(self, values=None, limits=limits, extent=self.extent or (0, width, height, 0))


def panels(items: Sequence[Panel], columns: int, size: float = 3.2) -> Image.Image:
    """Panels in rows of `columns`, each about `size` inches wide."""
    frames = tuple(item.frame() for item in items)
    empty, boxes = _empty_panels(frames, columns, size)
    # A third of the bytes for the browser.
    picture = empty.convert("L") if all(frame.colours == "gray" for frame in frames) else empty.copy()
    for item, frame, box in zip(items, frames, boxes, strict=True):
        picture.paste(_coloured(np.asarray(item.values, dtype=np.float32), frame, box), box)
        _mark(ImageDraw.Draw(picture), frame, box)
    return picture


@lru_cache(maxsize=32)
def _empty_panels(frames: tuple[Panel, ...], columns: int, size: float) -> tuple[Image.Image, list[Box]]:
    """Titles, axes and colour bars, and the boxes that stay for the values.

    They take a hundred times longer to draw than the values do, and seldom change when a slider moves.
    """
    rows = -(-len(frames) // columns)
    framed = any(frame.bar for frame in frames)
    figure = Figure(figsize=(size * columns, size * (0.85 if framed else 1.0) * rows), dpi=INCH)
    width, height = size * columns, figure.get_figheight()
    # Margins are fixed: a layout that measures its texts would draw every figure twice.
    left, bottom, top, right = (0.5, 0.45, 0.3, 0.55) if framed else (0.05, 0.05, 0.25, 0.05)  # inches
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=0.3 if framed else 0.04,
        hspace=0.38 if framed else max(0.12, 0.3 / size),  # room for a title
    )
    axes = []
    for index, frame in enumerate(frames):
        axis = figure.add_subplot(rows, columns, index + 1)
        axes.append(axis)
        nothing = np.zeros((1, 1))
        drawn = axis.imshow(
            nothing, cmap=frame.colours, vmin=frame.limits[0], vmax=frame.limits[1], extent=frame.extent
        )
        axis.set_title(frame.title, fontsize=9)
        if not frame.bar:
            axis.set_axis_off()
            continue
        # Few ticks, and a label once per row and column: texts are most of what drawing costs.
        bar = figure.colorbar(drawn, ax=axis, shrink=0.8, fraction=0.05, pad=0.03, ticks=MaxNLocator(4))
        bar.set_label(frame.bar, fontsize=7)
        bar.ax.tick_params(labelsize=7)
        axis.tick_params(labelsize=7)
        axis.locator_params(nbins=4)
        if index + columns >= len(frames):
            axis.set_xlabel(frame.axes[0], fontsize=7, labelpad=1)
        if index % columns == 0:
            axis.set_ylabel(frame.axes[1], fontsize=7, labelpad=1)
    picture = rendered(figure)
    return picture, [_inside(axis, picture) for axis in axes]


def _inside(axis: Axes, picture: Image.Image) -> Box:
    """What the axis frames, without its lines."""
    (x0, y0), (x1, y1) = axis.get_window_extent().get_points()
    return round(x0) + 1, picture.height - round(y1) + 1, round(x1) - 1, picture.height - round(y0) - 1


def _coloured(values: np.ndarray, frame: Panel, box: Box) -> Image.Image:
    """The values in the frame's colours, as large as the box."""
    low, high = frame.limits
    size = (box[2] - box[0], box[3] - box[1])
    # Contours are borders between levels: drawn at the size at which they are seen.
    method = Image.Resampling.BILINEAR if frame.contours else Image.Resampling.NEAREST
    scaled = (np.asarray(Image.fromarray(values).resize(size, method)) - low) / max(high - low, 1e-12)
    if frame.colours == "gray" and not frame.contours:
        return Image.fromarray((scaled.clip(0, 1) * 255).round().astype(np.uint8))
    pixels = matplotlib.colormaps[frame.colours](scaled, bytes=True)[..., :3]
    if frame.contours:
        levels = np.floor(np.clip(scaled, 0, 1) * frame.contours)
        borders = (np.diff(levels, axis=0, append=levels[-1:]) != 0) | (
            np.diff(levels, axis=1, append=levels[:, -1:]) != 0
        )
        pixels[borders] = (pixels[borders].astype(np.uint16) + 255) // 2
    return Image.fromarray(pixels)


def _mark(draw: ImageDraw.ImageDraw, frame: Panel, box: Box) -> None:
    left, right, bottom, top = frame.extent
    for label, x, y in frame.marks:
        column = box[0] + (x - left) / (right - left) * (box[2] - box[0])
        row = box[1] + (y - top) / (bottom - top) * (box[3] - box[1])
        draw.line([(column - 4, row), (column + 4, row)], fill="red")
        draw.line([(column, row - 4), (column, row + 4)], fill="red")
        draw.text((column - 18, row + 4), label, fill="white")


def bars(
    groups: Sequence[str], series: Mapping[str, Sequence[float]], title: str, label: str, top: float
) -> Image.Image:
    """A bar for each series in each group, of values of at least 0; an arrow heads those that end beyond `top`."""
    empty, (left, upper, right, lower) = _empty_bars(tuple(groups), tuple(series), title, label, top)
    picture = empty.copy()
    draw = ImageDraw.Draw(picture)
    place = (right - left) / len(groups)  # dots for each group
    width = 0.8 * place / len(series)
    for index, (values, colour) in enumerate(zip(series.values(), _colours(len(series)), strict=True)):
        for group, value in enumerate(values):
            x = left + (group + 0.1) * place + index * width
            start, end = round(x), round(x + width) - 1
            y = lower - min(value / top, 1.0) * (lower - upper)
            if value > top:
                y += width / 2
                draw.polygon([(start, y), ((start + end) / 2, upper), (end, y)], fill=colour)
            if round(y) < lower:  # a bar of less than a dot is none
                draw.rectangle([start, round(y), end, lower - 1], fill=colour)
    return picture


def round_number_above(value: float) -> float:
    """The end of an axis or of a colour bar: one for many values, so that its frame is drawn once."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return next(power * step for step in (1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12) if power * step > value)


def _colours(count: int) -> list[tuple[int, int, int]]:
    return [tuple(int(part) for part in matplotlib.colormaps["tab10"](index, bytes=True)[:3]) for index in range(count)]


@lru_cache(maxsize=32)
def _empty_bars(
    groups: tuple[str, ...], names: tuple[str, ...], title: str, label: str, top: float
) -> tuple[Image.Image, Box]:
    """All but the bars, and the box in which they stand: like the frames of panels, seldom another one."""
    figure = Figure(figsize=(11, 3.4), dpi=INCH)
    axis = figure.add_axes((0.06, 0.17, 0.92, 0.73))
    for name, colour in zip(names, _colours(len(names)), strict=True):
        axis.bar([0], [0], label=name, color=[part / 255 for part in colour])
    axis.axhline(1.0, color="black", linewidth=0.6)
    axis.set_xlim(-0.5, len(groups) - 0.5)
    axis.set_ylim(0, top)
    axis.set_xticks(range(len(groups)), groups, fontsize=8, rotation=12)
    axis.set_ylabel(label, fontsize=8)
    axis.set_title(title, fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    # Where no bar reaches, nor the page's buttons.
    above = {"loc": "lower right", "bbox_to_anchor": (0.92, 1.0), "borderaxespad": 0.1}
    axis.legend(fontsize=8, ncols=len(names), frameon=False, **above)
    picture = rendered(figure)
    left, upper, right, lower = _inside(axis, picture)
    return picture, (left, upper, right, lower + 1)  # bars stand on the line


@dataclass(frozen=True)
class Chart:
    """Labelled curves over one axis."""

    title: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]  # label -> x, y
    axes: tuple[str, str]
    logarithmic: bool = False


def curve(values: Sequence[float], top: float, title: str, axes: tuple[str, str]) -> Image.Image:
    """One line through `values`, evenly spaced from 0 to 1 along the first axis, between 0 and `top`."""
    empty, box = _empty_chart(title, axes, top)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = 3  # drawn larger, because Pillow's lines have stairs
    values = np.asarray(values, dtype=np.float64)
    columns = np.linspace(0, scale * width - 1, len(values))
    rows = scale * height * (1 - values / top)
    line = Image.new("L", (scale * width, scale * height))
    ImageDraw.Draw(line).line(np.stack([columns, rows], 1).ravel().tolist(), fill=255, width=2 * scale)
    picture = empty.copy()
    picture.paste(_colours(1)[0], box, line.reduce(scale))
    return picture


@lru_cache(maxsize=32)
def _empty_chart(title: str, axes: tuple[str, str], top: float) -> tuple[Image.Image, Box]:
    """All but the line, and the box in which it stands."""
    figure = _charts([Chart(title, {"": ((0, 1), (0, 0))}, axes)], points=2, width=4.6)
    (axis,) = figure.axes
    axis.lines[0].remove()
    axis.set_xlim(0, 1)
    axis.set_ylim(0, top)
    picture = rendered(figure)
    return picture, _inside(axis, picture)


def charts(items: Sequence[Chart], points: int = 400, width: float = 4.6) -> Image.Image:
    """Charts side by side, each `width` inches wide; curves are drawn with at most so many points."""
    return rendered(_charts(items, points, width))


class MarkedChart:
    """A chart drawn once, on which a point is marked in a millisecond, so that it can follow a slider."""

    def __init__(self, chart: Chart, width: float = 7.6) -> None:
        figure = _charts([chart], points=400, width=width)
        self.picture = rendered(figure)
        axis = figure.axes[0]
        (self.left, self.bottom), (self.right, self.top) = axis.get_window_extent().get_points()
        self.to_dots = axis.transData.frozen()

    def marked(self, x: float, y: float) -> Image.Image:
        """With a dot at (x, y), at the chart's border if it lies outside."""
        column, row = self.to_dots.transform((x, y))
        column = min(max(column, self.left), self.right)
        row = self.picture.height - min(max(row, self.bottom), self.top)
        picture = self.picture.copy()
        ImageDraw.Draw(picture).circle((column, row), 7, fill="black", outline="white", width=2)
        return picture


def _charts(items: Sequence[Chart], points: int, width: float) -> Figure:
    height, foot = (
        (3.8, 1.06) if any(len(item.series) > 1 for item in items) else (3.2, 0.5)
    )  # inches; room for legends
    figure = Figure(figsize=(width * len(items), height), dpi=INCH)
    left, right = 0.6 / width, 0.18 / width  # margins, shares of a chart's width
    for index, item in enumerate(items):
        axis = figure.add_axes(
            ((index + left) / len(items), foot / height, (1 - left - right) / len(items), 1 - (foot + 0.3) / height)
        )
        for label, values in item.series.items():
            stride = -(-len(values[0]) // points)
            x, y = (np.asarray(part)[::-stride][::-1] for part in values)  # the newest is among them
            axis.plot(x, y, linewidth=1.2, label=label, marker="." if len(x) < 20 else "")
        if item.logarithmic and any(np.any(np.asarray(y) > 0) for _, y in item.series.values()):
            axis.set_yscale("log")
        axis.set_title(item.title, fontsize=9)
        axis.set_xlabel(item.axes[0], fontsize=8)
        axis.set_ylabel(item.axes[1], fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        if len(item.series) > 1:
            axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)  # hides no curve
    return figure


def rendered(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def thinned(values: Tensor, longest: int = 256) -> Tensor:
    """Every n-th row and column of (H, W), so that a panel is not drawn from more values than it has dots."""
    step = max(1, -(-max(values.shape[-2:]) // longest))
    return values[..., ::step, ::step]
