"""How long each control of the tab Loss lab takes, from the release of its slider to each of its figures, in Chromium.

python -m benchmarks.loss_lab_latency
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable

import gradio as gr
import torch

from app import HOME
from benchmarks.browser import chromium, slider_moved
from interface.loss_lab_tab import build_loss_lab_tab
from modeling.memory import keep_freed_memory

FIGURES = ("pictures", "spectra", "chart", "surfaces", "rings", "scores", "sorted")
CONTENTS = {figure: f"#lab-{figure} img" for figure in FIGURES} | {"table": "#lab-table .virtual-row:nth-child(2)"}
# Inner tabs, control -> values to enter, figures that answer.
PSNR, EMPHASIS = "PSNR (dB)", "High-frequency emphasis g"
PSNRS, EMPHASES = [20 + 0.5 * k for k in range(30)], [0.1 * k for k in range(1, 31)]
CONTROLS: dict[tuple[tuple[str, ...], str], tuple[Iterable[float], tuple[str, ...]]] = {
    (("Distortions", "Pictures"), PSNR): (PSNRS, ("pictures",)),
    (("Distortions", "Spectra"), PSNR): (PSNRS, ("spectra",)),
    (("Distortions", "Spectra"), EMPHASIS): (EMPHASES, ("spectra",)),
    (("Distortions", "Losses"), PSNR): (PSNRS[::-1], ("table", "chart")),
    (("Distortions", "Losses"), EMPHASIS): (EMPHASES[::-1], ("table", "chart")),
    (("Loss surfaces",), "Weight of the phase"): ([0.05 * k for k in range(1, 21)], ("surfaces",)),
    (("Ring",), "Thickness (pixels)"): (range(2, 32), ("rings",)),
    (("Ring",), "Blur kernel (pixels; sigma is a fifth)"): (range(3, 31, 2), ("rings",)),
    (("Sharpness map",), "Window (pixels)"): (range(4, 64, 2), ("scores", "sorted")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()

    keep_freed_memory()  # as the app does
    with gr.Blocks(analytics_enabled=False) as app:
        with gr.Tab("Front"):
            gr.Markdown("Nothing is computed before the tab is opened.")
        with gr.Tab("Loss lab") as lab:
            build_loss_lab_tab(lab, HOME / "examples" / "ascent.png")
    app.launch(prevent_thread_lock=True, quiet=True, allowed_paths=[str(HOME / "examples")])
    print(f"ascent, 512x512, {torch.get_num_threads()} threads; milliseconds, median and worst of {arguments.repeats}")
    with chromium() as page:
        page.goto(app.local_url)
        page.get_by_role("tab", name="Loss lab", exact=True).click()
        for (tabs, control), (values, figures) in CONTROLS.items():
            for tab in tabs:
                page.get_by_role("tab", name=tab, exact=True).click()
            page.locator(CONTENTS[figures[-1]]).wait_for()
            runs = []
            for value in list(values)[: arguments.repeats + 1]:
                page.wait_for_timeout(300)  # at rest
                slider = f"input[aria-label='range slider for {control}']"
                runs.append(slider_moved(page, slider, value, [CONTENTS[figure] for figure in figures]))
            for figure, times in zip(figures, zip(*runs[1:], strict=True), strict=True):  # the first draws the frames
                print(f"{control:<42}{figure:<10}{statistics.median(times):>7.0f}{max(times):>7.0f}", flush=True)
    app.close()


if __name__ == "__main__":
    main()
