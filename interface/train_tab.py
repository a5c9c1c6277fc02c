"""The Train tab: one's own photographs, a loss, a training run, and what it is doing.

The run is a process and belongs to the app: a page that is closed or loaded again changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import gradio as gr
from PIL import Image

from interface.figures import Chart, charts
from interface.pictures import Pictures, on_page
from interface.sliders import preset_values, slider
from interface.training_run import ROOT, Run, Training, chosen_images, image_count
from modeling import LOSS_TERMS, PRESETS, TRAINABLE_TERMS

RECIPES = ROOT / "training" / "recipes"
FINE_TUNE, FRESH = "fine-tune", "fresh"
LEARNING_RATES = {FINE_TUNE: 3e-4, FRESH: 2e-3}  # of their recipes
BATCH_SIZE = 8
MAX_STEPS = 1_000_000
MAX_EMPHASIS = 4.0
SECONDS_BETWEEN_LOOKS = 2
NOTHING_YET = "No run yet: choose photographs, and press *Start*."


def run_arguments(
    start_from: str,
    network: str,
    one_loss: bool,
    loss_weights: Mapping[str, float],
    emphasis: float,
    steps: float | None,
    learning_rate: float | None,
    images: int,
    terms: Sequence[str] = TRAINABLE_TERMS,
    max_emphasis: float = MAX_EMPHASIS,
) -> tuple[Path, dict[str, object]]:
    """What the page asks for -> recipe, and fields of it for `training.train`.

    Args:
        start_from: `FINE_TUNE` or `FRESH`.
        network: Hub id or folder of the network to fine-tune.
        one_loss: train for the setting that follows, instead of for all settings of the sliders.
        loss_weights, emphasis: that setting.
        steps, learning_rate: of the run.
        images: how many there are.
        terms, max_emphasis: what the network to fine-tune can be trained for.

    Raises `ValueError`, which names the number and the remedy.
    """
    if steps is None or not 1 <= steps <= MAX_STEPS or steps % 1:
        raise ValueError(f"Steps = {steps}: give a whole number from 1 to {MAX_STEPS}.")
    if learning_rate is None or not math.isfinite(learning_rate) or not 0 < learning_rate <= 1:
        raise ValueError(f"Learning rate = {learning_rate}: give a number above 0 and up to 1, such as 0.0003.")
    steps = int(steps)
    arguments: dict[str, object] = {
        "max_steps": steps,
        "learning_rate": learning_rate,
        "batch_size": BATCH_SIZE,
        "warmup_steps": min(100, steps // 10),
        "validation_size": max(1, min(4, images // 5)),
        # Something to see every few seconds, and a thousand lines at most.
        "logging_steps": max(1, min(10, steps // 100), steps // 1000),
        "validation_steps": max(1, steps // 20),
        "strip_steps": max(1, steps // 20),
        "checkpoint_steps": max(1, steps // 10),
        "log_with": "none",
    }
    if start_from == FINE_TUNE:
        folder = Path(network)
        arguments["model"] = str(folder.resolve()) if folder.is_dir() else network
    if one_loss:
        weights = {name: weight for name, weight in loss_weights.items() if weight > 0}
        if not weights:
            raise ValueError("All loss weights are 0: give one of them a positive weight.")
        if start_from == FINE_TUNE and (unknown := [LOSS_TERMS[name].label for name in weights if name not in terms]):
            raise ValueError(f"This network does not know {unknown}: set them to 0, or start from a fresh network.")
        if start_from == FINE_TUNE and emphasis > max_emphasis:
            raise ValueError(
                f"This network takes an emphasis up to {max_emphasis:g}: lower it, or start from a fresh one."
            )
        arguments |= {"sample_losses": False, "loss_weights": weights, "high_frequency_emphasis": emphasis}
        if start_from == FRESH:
            arguments["model_config"] = {"conditioned_terms": []}  # no controls: they would mean nothing
    return RECIPES / ("finetune.yaml" if start_from == FINE_TUNE else "denoiser_small.yaml"), arguments


def seconds_left(run: Run) -> float:
    """At the pace of the last line; infinite before the first."""
    pace = next((line["images_per_second"] for line in reversed(run.lines) if "images_per_second" in line), 0.0)
    images = (run.max_steps - run.step) * int(run.arguments.get("batch_size", BATCH_SIZE))
    return images / pace if pace else math.inf


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def status(run: Run) -> str:
    """One or two sentences, Markdown."""
    place = f"step {run.step} of {run.max_steps}"
    saved = f"its checkpoint of step {run.saved_step}" if run.saved_step else "the beginning"
    sentence = {
        "running": f"{place}, {duration(seconds_left(run))} left." if run.step else "getting ready.",
        "stopping": f"stopping after {place}, and saving.",
        "stopped": f"stopped at {place}. *Go on* takes it up from {saved}.",
        "finished": f"finished after {place}. The tab *Denoise* offers the result under *Network*; it lies in "
        f"`{run.folder / 'model'}`.",
        "failed": f"failed: {run.log(1)}",
    }[run.state]
    unreadable = next((line["unreadable"] for line in reversed(run.lines) if line.get("unreadable")), 0)
    skipped = f" {unreadable:.0f} files cannot be decoded and are passed over." if unreadable else ""
    return f"**{run.folder.name}**: {sentence}{skipped}"


def progress_bar(run: Run) -> str:
    share = run.step / run.max_steps
    label = escape(f"{share:.0%} of run {run.folder.name}")
    return f'<progress value="{share:.4f}" max="1" aria-label="{label}" style="width: 100%"></progress>'


def run_charts(run: Run) -> Image.Image:
    """The raw loss terms of training, and PSNR on the images held out."""

    def series(names: Mapping[str, str]) -> dict[str, tuple[list[float], list[float]]]:
        found = {}
        for name, label in names.items():
            points = [(line["step"], line[name]) for line in run.lines if name in line]
            if points:
                found[label] = tuple(map(list, zip(*points, strict=True)))
        return found

    levels = {f"psnr_{level}": f"sigma {level}" for level in (15, 25, 50)}
    return charts(
        [
            Chart("Loss terms in training", series({name: name for name in TRAINABLE_TERMS}), ("step", "raw"), True),
            Chart("Images held out", series({"psnr": "PSNR", **levels}), ("step", "PSNR (dB)")),
        ]
    )


def build_train_tab(
    app: gr.Blocks,
    training: Training,
    network: str,
    has_sliders: bool,
    terms: Sequence[str] = TRAINABLE_TERMS,
    max_emphasis: float = MAX_EMPHASIS,
    own_machine: bool = True,
) -> None:
    """Lays out the tab.

    Args:
        app: the page, inside whose context this is called.
        training: the runs.
        network: Hub id or folder of the network that may be fine-tuned; empty if there is none.
        has_sliders: whether that network's loss can be chosen after training.
        terms, max_emphasis: what it can be trained for.
        own_machine: whether visitors may name folders of this machine.
    """
    pictures = Pictures()
    origins = [("the app's own network", FINE_TUNE)] if network else []
    origin = FINE_TUNE if network else FRESH
    sliders_stay = network and has_sliders

    with gr.Row():
        with gr.Column(scale=2):
            files = gr.File(
                label="Photographs (clean ones: noise is added)",
                file_count="multiple",
                file_types=["image"],
                height=170,
                elem_id="training-images",
            )
            folder = gr.Textbox(label="or a folder on this machine", elem_id="training-folder", visible=own_machine)
            start_from = gr.Radio([*origins, ("a fresh small network", FRESH)], value=origin, label="Start from")
            one_loss = gr.Checkbox(
                not sliders_stay,
                label="For one loss only",
                info="Otherwise it is trained for all of them, and sliders act on the result.",
                elem_id="one-loss",
            )
            with gr.Column(visible=not sliders_stay, elem_id="train-setting") as setting:
                preset = gr.Radio(list(PRESETS), value="mse", label="Loss")
                with gr.Row():  # wraps into pairs
                    weights = [
                        slider(
                            0,
                            1,
                            PRESETS["mse"].loss_weights.get(name, 0.0),
                            step=0.01,
                            label=LOSS_TERMS[name].label,
                            min_width=200,
                        )
                        for name in TRAINABLE_TERMS
                    ]
                emphasis = slider(0, MAX_EMPHASIS, 0, step=0.1, label="High-frequency emphasis")
            with gr.Row():
                steps = gr.Number(2000, label="Steps", elem_id="training-steps")
                learning_rate = gr.Number(LEARNING_RATES[origin], label="Learning rate", step=1e-4)
            with gr.Row():
                start = gr.Button("Start", variant="primary", min_width=90, elem_id="start-training")
                stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90, elem_id="stop-training")
                go_on = gr.Button("Go on", interactive=False, min_width=90, elem_id="resume-training")
        with gr.Column(scale=3):
            sentence = gr.Markdown(NOTHING_YET, elem_id="training-status")
            bar = gr.HTML()
            hidden = {"show_label": False, "format": "png", "interactive": False}  # a label would lie on the picture
            curves = gr.Image(label="Curves", elem_id="training-curves", **hidden)
            gr.Markdown("An image held out: noisy, restored, clean.")
            strip = gr.Image(label="An image held out", elem_id="strip", **hidden)
            with gr.Accordion("What the run prints", open=False):
                log = gr.Textbox(show_label=False, lines=8, max_lines=16, interactive=False)
    shown = gr.State(None)  # version of the run on this page
    view = [sentence, bar, curves, strip, log, start, stop, go_on, shown]

    def look(seen: tuple | None) -> list | dict:
        """What of the run is new on this page."""
        run = training.current()
        if run is None and seen is not None:  # its folder was deleted
            off = gr.update(interactive=False)
            return [NOTHING_YET, "", None, None, "", gr.update(interactive=True), off, off, None]
        if run is None or run.version == seen:
            return gr.skip()
        version = run.version  # before its parts are read: what comes in between is drawn again
        newest = run.strip
        on = run.state in ("running", "stopping")
        return [
            status(run),
            progress_bar(run),
            pictures.file(run_charts(run)) if run.lines else None,
            pictures.file(Image.open(newest), f"{run.folder.name}-{newest.stem}") if newest else None,
            run.log(),
            gr.update(interactive=not on),
            gr.update(interactive=run.state == "running"),
            gr.update(interactive=run.state in ("stopped", "failed")),
            version,
        ]

    @on_page
    def start_run(paths, folder_name, origin_name, only_one, steps_value, rate, g, *values) -> list | dict:
        if folder_name and not own_machine:
            raise ValueError("This page is open to others, who may not name folders of this machine: upload files.")
        images = chosen_images(paths, folder_name)
        recipe, arguments = run_arguments(
            origin_name,
            network,
            only_one,
            dict(zip(TRAINABLE_TERMS, values, strict=True)),
            g,
            steps_value,
            rate,
            image_count(images),
            terms,
            max_emphasis,
        )
        training.start(recipe, images, arguments)
        return look(None)

    @on_page
    def stop_run() -> list | dict:
        training.stop()
        return look(None)

    @on_page
    def resume_run() -> list | dict:
        training.go_on()
        return look(None)

    def set_out(name: str) -> tuple:
        only_one = name == FRESH or not has_sliders
        return LEARNING_RATES[name], only_one, gr.update(visible=only_one)

    private = {"show_progress": "hidden", "api_visibility": "private"}
    start_from.input(set_out, start_from, [learning_rate, one_loss, setting], **private)
    one_loss.input(lambda only_one: gr.update(visible=only_one), one_loss, setting, **private)
    preset.input(lambda name: preset_values(name, TRAINABLE_TERMS), preset, [*weights, emphasis], **private)
    asked = [files, folder, start_from, one_loss, steps, learning_rate, emphasis, *weights]
    start.click(start_run, asked, view, show_progress="hidden", api_name="train")
    stop.click(stop_run, None, view, show_progress="hidden", api_name="stop_training")
    go_on.click(resume_run, None, view, show_progress="hidden", api_name="resume_training")
    # The State of a page begins empty, and every page looks for itself: whoever loads it again sees the run.
    gr.on([app.load, gr.Timer(SECONDS_BETWEEN_LOOKS).tick], look, shown, view, **private)
