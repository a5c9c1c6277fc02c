"""The Explain tab: where the ViT and the U-Net respond, as class-activation maps ("Denoising autoencoders, part 3")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import gradio as gr
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from interface.chooser import QUIET, Chooser
from interface.figures import INCH, Panel, panels, rendered
from interface.pictures import HOUR, PUT_AWAY, Photograph, Pictures, centre, on_page
from interface.sliders import slider
from modeling.explain import METHODS, TARGETS, filtered

# Noisy image, method, layers, target, and options by name -> maps (H, W) by layer.
Explain = Callable[..., dict[str, Tensor]]
MAX_SIDE = 224  # pixels, the posts' images: what is larger is cut to its centre, so that every control answers at once
KEPT_MAPS = 128  # of one image
MAX_CHANNELS = 8  # of methods that run the network once per channel
COLOURS = "inferno"
OVERLAY = 0.75  # opacity where a map is 1
STRIP_COLUMNS = 7
NETWORK_NOTE = (
    "Maps of the app's own network at its default loss (the pixel loss, as it ships), noise level unknown: "
    "the settings of the other tabs have no part in them."
)
Box = tuple[float, float, float]  # centre from the left, centre from the top, side: shares of the image's sides
Band = tuple[float, float]  # cycles per pixel


@dataclass
class Specimen:
    """A noisy image under examination, and the last maps made of it."""

    noisy: Tensor  # (3, H, W)
    explain: Explain
    key: str = ""  # of its photograph
    made: dict[tuple, Tensor] = field(default_factory=dict)

    def maps(self, method: str, layers: Sequence[str], target: str, box: Box, band: Band) -> dict[str, Tensor]:
        """By layer, (H, W) each."""
        keys = {layer: (method, layer, target, box, band) for layer in layers}
        # The figure and the strip are made in two threads.
        found = {layer: made for layer, key in keys.items() if (made := self.made.get(key)) is not None}
        missing = [layer for layer in layers if layer not in found]
        if missing:
            region = region_mask(self.noisy.shape[-2:], box) if target == "region" else None
            options = {"region": region, "band": band, "max_channels": MAX_CHANNELS}
            found |= self.explain(self.noisy, method, missing, target, **options)
        for layer, key in keys.items():
            self.made.pop(key, None)
            self.made[key] = found[layer]  # the newest stand last
        for key in list(self.made)[:-KEPT_MAPS]:
            self.made.pop(key, None)
        return {layer: found[layer] for layer in layers}


def region_edges(size: tuple[int, int], box: Box) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in pixels of the part of the box that lies in the image; at least one pixel."""
    edges = []
    for length, place in zip(size[::-1], box[:2], strict=True):
        first = min(max(round((place - box[2] / 2) * length), 0), length - 1)
        edges.append((first, max(first + 1, min(round((place + box[2] / 2) * length), length))))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def region_mask(size: tuple[int, int], box: Box) -> Tensor:
    """(H, W), 1 inside."""
    left, top, right, bottom = region_edges(size, box)
    mask = torch.zeros(size)
    mask[top:bottom, left:right] = 1
    return mask


def can_show(method: str, target: str, layer: str) -> bool:
    """Whether the layer has a part in the target, or the method does not ask."""
    return layer.startswith("vit") or not (METHODS[method].uses_target and TARGETS[target].of_tokens)


def explanation(method: str, target: str) -> str:
    """What one should know of the choice, Markdown."""
    row = METHODS[method]
    if not row.uses_target:
        return f"**The target has no effect on {row.label}**: it shows what varies most among the layer's features."
    sentences = []
    if row.runs_per_channel:
        sentences.append(
            f"{row.label} runs the network once for each channel: here, for the {MAX_CHANNELS} channels of the layer "
            "that vary most. The strip of all stages is left out."
        )
    if TARGETS[target].of_tokens:
        sentences.append("The ViT's tokens do not depend on the U-Net: only the ViT is shown.")
    return " ".join(sentences) or f"{row.label} shows where the layer's features raise the target."


def overlay(noisy: Tensor, activation: Tensor) -> np.ndarray:
    """The map's colours over the image, the stronger the higher -> (H, W, 3) in [0, 1]."""
    heat = matplotlib.colormaps[COLOURS](activation.numpy())[..., :3]
    opacity = OVERLAY * activation.numpy()[..., None]
    return (1 - opacity) * noisy.clamp(0, 1).permute(1, 2, 0).numpy() + opacity * heat


def map_figure(noisy: Tensor, maps: dict[str, Tensor], edges: tuple[int, int, int, int] | None) -> Image.Image:
    """A row for each map: the image, with the region framed where there is one, the map, the map over the image."""
    height, width = noisy.shape[-2:]
    figure = Figure(figsize=(10.2, 3.4 * len(maps)), dpi=INCH)
    top = 0.3 / figure.get_figheight()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - top, wspace=0.18, hspace=0.12)
    picture = noisy.clamp(0, 1).permute(1, 2, 0).numpy()
    for index, (label, activation) in enumerate(maps.items()):
        axes = [figure.add_subplot(len(maps), 3, 3 * index + column) for column in (1, 2, 3)]
        for axis, title in zip(axes, ("noisy image", f"{label}: map", f"{label}: over the image"), strict=True):
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
        axes[0].imshow(picture)
        drawn = axes[1].imshow(activation.numpy(), cmap=COLOURS, vmin=0, vmax=1)
        axes[2].imshow(overlay(noisy, activation))
        # Of its own, beside the panel, so that the three panels stay equally large.
        bar = figure.colorbar(drawn, cax=axes[1].inset_axes((1.02, 0.0, 0.035, 1.0)), ticks=MaxNLocator(5))
        bar.ax.tick_params(labelsize=7)
        if edges is not None:
            frame = Rectangle(edges[:2], edges[2] - edges[0], edges[3] - edges[1], fill=False, edgecolor="red")
            axes[0].add_patch(frame)
        for axis in axes:
            axis.set_xlim(-0.5, width - 0.5)
            axis.set_ylim(height - 0.5, -0.5)
    return rendered(figure)


def strip_figure(maps: dict[str, Tensor]) -> Image.Image:
    """All maps, small, in the order of the network."""
    items = [Panel(layer, activation, colours=COLOURS, limits=(0, 1)) for layer, activation in maps.items()]
    return panels(items, columns=min(STRIP_COLUMNS, len(items)), size=1.9)


def build_explain_tab(
    tab: gr.Tab,
    explain: Explain,
    layers: Sequence[str],
    examples: list[Path],
    elsewhere: gr.State | None = None,
) -> None:
    """Lays out the tab `tab`, inside whose context this is called. Nothing is computed before it is opened.

    Args:
        explain: noisy image (3, H, W), method, layers, target, and the options of `activation_maps` by name -> maps.
        layers: names of the layers, in the order of the network.
        examples: clean photographs to choose from.
        elsewhere: state with the `Photograph` of another tab, which is the first to be looked at.
    """
    files = Pictures()
    of_vit = [layer for layer in layers if layer.startswith("vit")]
    of_unet = [layer for layer in layers if not layer.startswith("vit")]
    picture = {"show_label": False, "format": "png", "interactive": False, "buttons": ["download"]}

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            info = f"The central {MAX_SIDE} x {MAX_SIDE} pixels are shown."
            chooser = Chooser(tab, examples, elsewhere, "explain", info)
            method = gr.Dropdown(
                [(row.label, name) for name, row in METHODS.items()],
                value="eigencam",
                label="Method",
                elem_id="explain-method",
            )
            target = gr.Dropdown(
                [(row.label, name) for name, row in TARGETS.items() if of_vit or not row.of_tokens],
                value="restoration_change",
                label="Target",
                interactive=False,
                elem_id="explain-target",
            )
            note = gr.Markdown(explanation("eigencam", "restoration_change"), elem_id="explain-note")
            with gr.Column(visible=False, elem_id="explain-region") as region_controls:
                box = [
                    slider(0, 1, value, step=0.01, label=label)
                    for label, value in (("Region: from the left", 0.5), ("from the top", 0.5), ("side", 0.25))
                ]
            with gr.Column(visible=False) as band_controls:
                band = [
                    slider(0, 0.7, value, step=0.01, label=label)
                    for label, value in (("Lowest frequency (cycles per pixel)", 0.25), ("Highest frequency", 0.5))
                ]
            with gr.Row():
                vit_layer = gr.Dropdown(
                    of_vit, value=of_vit[-1] if of_vit else None, label="Layer of the ViT", min_width=120,
                    visible=bool(of_vit),
                )  # fmt: skip
                unet_layer = gr.Dropdown(
                    of_unet, value=of_unet[-1], label="Stage of the U-Net", min_width=120, elem_id="explain-stage"
                )
            thresholds = gr.Checkbox(
                False, label="Keep what lies between two thresholds", elem_id="explain-filter",
                info="The rest becomes 0, and what is kept is stretched to [0, 1].",
            )  # fmt: skip
            with gr.Row():
                low = slider(0, 0.95, 0.4, step=0.05, label="Lower", min_width=120)
                high = slider(0.05, 1, 0.9, step=0.05, label="Upper", min_width=120)
        with gr.Column(scale=5):
            gr.Markdown(NETWORK_NOTE)
            figure = gr.Image(label="Activation maps", elem_id="explain-figure", **picture)
            strip = gr.Image(label="All stages", elem_id="explain-strip", **picture)
    specimen = gr.State(None, time_to_live=HOUR)
    # The photograph's key and the setting of what is shown: it is not made again when the tab is.
    in_figure, in_strip = gr.State(None), gr.State(None)

    def examined(photograph: Photograph | None, current: Specimen | None) -> Specimen | None:
        if photograph is None or (current is not None and current.key == photograph.key):
            return current
        return Specimen(centre(photograph.noisy, MAX_SIDE), explain, photograph.key)

    def shown(current: Specimen, chosen: Sequence[str], name: str, aim: str, is_filtered, lower, upper, *options):
        *place, lowest, highest = options
        frequencies = (min(lowest, highest), max(lowest, highest) + 0.01 * (lowest == highest))  # never empty
        able = [layer for layer in chosen if layer and can_show(name, aim, layer)]
        maps = current.maps(name, able, aim, tuple(place), frequencies)
        return {layer: filtered(value, lower, upper) if is_filtered else value for layer, value in maps.items()}

    @on_page
    def draw(photograph: Photograph | None, current: Specimen | None, before, first, second, *setting):
        """Writes photograph and specimen, too, which are kept for an hour from then on."""
        if current is None:
            if before is not None:
                raise ValueError(PUT_AWAY)
            return None, None, None, photograph
        asked = (current.key, first, second, *setting)
        if asked == before:
            return gr.skip(), asked, current, photograph
        name, aim = setting[:2]
        maps = {
            f"{'ViT' if layer in of_vit else 'U-Net'}, {layer}": activation
            for layer, activation in shown(current, (first, second), *setting).items()
        }
        acts = aim == "region" and METHODS[name].uses_target
        edges = region_edges(current.noisy.shape[-2:], tuple(setting[5:8])) if acts else None
        return files.file(map_figure(current.noisy, maps, edges)), asked, current, photograph

    @on_page
    def draw_strip(current: Specimen | None, before, *setting):
        name = setting[0]
        if current is None or METHODS[name].runs_per_channel:
            return gr.update(value=None, visible=False), None
        asked = (current.key, *setting)
        if asked == before:
            return gr.skip(), asked
        return gr.update(value=files.file(strip_figure(shown(current, layers, *setting))), visible=True), asked

    def explain_choice(name: str, aim: str):
        acts = METHODS[name].uses_target
        return (
            gr.update(interactive=acts),
            explanation(name, aim),
            gr.update(visible=acts and aim == "region"),
            gr.update(visible=acts and aim == "band_energy"),
        )

    setting = [method, target, thresholds, low, high, *box, *band]
    # Two queues, so that the figure never waits for a strip that is no longer wanted.
    of_figure = {**chooser.in_turn, "show_progress": "minimal"}
    of_strip = {**QUIET, "show_progress": "minimal", "concurrency_id": "explain_strip"}

    def draw_after(event: Callable):
        inputs = [chooser.seen, specimen, in_figure, vit_layer, unet_layer, *setting]
        drawn = event(draw, inputs, [figure, in_figure, specimen, chooser.seen], **of_figure)
        drawn.success(draw_strip, [specimen, in_strip, *setting], [strip, in_strip], **of_strip)

    for event in chooser.events:
        draw_after(event.success(examined, [chooser.seen, specimen], specimen, **chooser.in_turn).success)
    gr.on([method.input, target.input], explain_choice, [method, target],
          [target, note, region_controls, band_controls], **QUIET)  # fmt: skip
    draw_after(partial(gr.on, [control.input for control in (*setting, vit_layer, unet_layer)]))
