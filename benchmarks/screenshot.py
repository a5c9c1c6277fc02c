"""The picture of the app in the README: the tab Denoise with one slider moved, as Chromium draws it.

python -m benchmarks.screenshot --model checkpoints/vit-unet-denoiser --output docs/app.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

from app import EXAMPLES, build_app
from benchmarks.browser import chromium
from modeling import ViTUNetForImageDenoising

WIDTH, HEIGHT = 1300, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/vit-unet-denoiser")
    parser.add_argument("--term", default="regional_sharpness")
    parser.add_argument("--weight", type=float, default=0.6)
    parser.add_argument("--output", default="docs/app.jpg")
    arguments = parser.parse_args()

    app = build_app(ViTUNetForImageDenoising.from_pretrained(arguments.model).eval())
    app.launch(prevent_thread_lock=True, quiet=True, server_port=None, allowed_paths=[str(EXAMPLES[0].parent)])
    with chromium() as page:
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        page.goto(app.local_url)
        page.get_by_text("Price of your setting").wait_for()
        weight = page.locator(f"#weight-{arguments.term} input[type=number]")
        weight.fill(f"{arguments.weight:g}")
        weight.press("Enter")
        page.wait_for_timeout(5000)  # picture, measures and figures
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=arguments.output, type="jpeg", quality=85)
    app.close()
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
