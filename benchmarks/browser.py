"""What a person waits for, measured inside the page itself, in Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what is measured without a browser needs no Playwright
    from playwright.sync_api import Page

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

# Moves a slider as its release does, and waits for each figure to change: a picture until it is decoded, the rest until
# its text is another one.
MOVE = """async ([slider, value, figures]) => {
    const look = figure => {
        const found = [...document.querySelectorAll(figure)].pop();
        if (!(found instanceof HTMLImageElement)) return found.textContent;
        return found.complete && found.naturalWidth > 0 ? found.src : null;
    };
    const before = figures.map(look), times = figures.map(() => null);
    const control = document.querySelector(slider), start = performance.now();
    control.value = value;
    for (const kind of ['input', 'pointerup']) control.dispatchEvent(new Event(kind, {bubbles: true}));
    while (times.includes(null)) {
        await new Promise(next => setTimeout(next, 4));
        figures.forEach((figure, index) => {
            const now = times[index] === null && look(figure);
            if (now && now !== before[index]) times[index] = performance.now() - start;
        });
        if (performance.now() - start > 30000) throw new Error(`No change of ${figures} within 30 seconds.`);
    }
    return times;
}"""


@contextmanager
def chromium() -> Iterator[Page]:
    """An empty page. Raises `FileNotFoundError` where there is no Chromium."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise FileNotFoundError("There is no Chromium: see `make chromium`.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser.new_page()
        browser.close()


def slider_moved(page: Page, slider: str, value: float, figures: Sequence[str]) -> list[float]:
    """Milliseconds from the release of a slider to the new content of each of the figures, all CSS selectors."""
    return page.evaluate(MOVE, [slider, value, list(figures)])
