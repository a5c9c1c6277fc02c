"""How long each control of the tab Loss lab takes, from a number entered to each of its figures, in Chromium.

python -m benchmarks.loss_lab_latency
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Iterable

import gradio as gr
import torch
from playwright.sync_api import Page, sync_playwright

from app import HOME
from benchmarks.latency import CHROMIUM_FLAGS
from interface.loss_lab_tab import build_loss_lab_tab

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
# An image's address, or what the table's second row says.
CONTENT = """figure => {
    const root = document.querySelector('#lab-' + figure), image = root.querySelector('img');
    if (image) return image.complete && image.naturalWidth > 0 ? image.src : null;
    return root.querySelectorAll('.virtual-row')[1].textContent;
}"""
CHANGED = f"([figure, before]) => {{ const now = ({CONTENT})(figure); return now && now !== before; }}"


def entered(page: Page, control: str, value: float, figures: tuple[str, ...]) -> dict[str, float]:
    """-> milliseconds by figure, in the order in which they are awaited."""
    before = {figure: page.evaluate(CONTENT, figure) for figure in figures}
    field = page.get_by_label(f"number input for {control}")
    field.fill(f"{value:g}")
    start = time.perf_counter()
    field.press("Enter")
    times = {}
    for figure in figures:
        page.wait_for_function(CHANGED, arg=[figure, before[figure]], polling=5)
        times[figure] = 1000 * (time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()

    with gr.Blocks(analytics_enabled=False) as app:
        with gr.Tab("Front"):
            gr.Markdown("Nothing is computed before the tab is opened.")
        with gr.Tab("Loss lab") as lab:
            build_loss_lab_tab(lab, HOME / "examples" / "ascent.png")
    app.launch(prevent_thread_lock=True, quiet=True, allowed_paths=[str(HOME / "examples")])
    print(f"ascent, 512x512, {torch.get_num_threads()} threads; milliseconds, median and worst of {arguments.repeats}")
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        page = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS).new_page()
        page.goto(app.local_url)
        page.get_by_role("tab", name="Loss lab", exact=True).click()
        for (tabs, control), (values, figures) in CONTROLS.items():
            for tab in tabs:
                page.get_by_role("tab", name=tab, exact=True).click()
            page.locator(f"#lab-{figures[-1]} img").wait_for()
            runs = []
            for value in list(values)[: arguments.repeats + 1]:
                page.wait_for_timeout(300)  # at rest
                runs.append(entered(page, control, value, figures))
            for figure in figures:
                times = [run[figure] for run in runs[1:]]  # the first draws the frames
                print(f"{control:<42}{figure:<10}{statistics.median(times):>7.0f}{max(times):>7.0f}", flush=True)
    app.close()


if __name__ == "__main__":
    main()
