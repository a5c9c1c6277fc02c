"""How long a slider move takes, from its release to the new picture.

    python -m benchmarks.latency --model checkpoints/vit-unet-denoiser --size 512

Three views of the same path: the network alone, the whole answer of a running app as its own client sees it (decode,
lossless compression, transfer), and, where Chromium is at hand, a real browser until the new picture is drawn. With
`--peers FOLDER` (see `benchmarks.peers`) the time of CDnCNN-B for the same image stands beside.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from gradio_client import Client, handle_file
from PIL import Image

from app import EXAMPLES, build_app
from benchmarks.browser import chromium, slider_moved
from benchmarks.peers import REFERENCE, CDnCNN
from interface.restorer import Restorer
from modeling import ViTUNetForImageDenoising
from modeling.memory import keep_freed_memory


def milliseconds(action: Callable[[int], object], repeats: int) -> list[float]:
    """Times `action(0)`, which warms up, and then `action(1)` ... ; -> the times of the latter."""
    times = []
    for index in range(repeats + 1):
        start = time.perf_counter()
        action(index)
        times.append(1000 * (time.perf_counter() - start))
    return times[1:]


def test_image(size: int) -> torch.Tensor:
    """(1, 3, size, size)"""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def network(model: ViTUNetForImageDenoising, size: int, repeats: int) -> dict[str, list[float]]:
    image = test_image(size).to(model.device, memory_format=torch.channels_last)
    sharpen = "regional_sharpness" in model.config.conditioned_terms
    with torch.inference_mode():
        encoded = model.encode(image)
        weights = [{"pixel": 1.0, "regional_sharpness": i / repeats} if sharpen else None for i in range(repeats + 1)]
        times = {
            "network: encode (once per photograph)": milliseconds(lambda _: model.encode(image), repeats),
            "network: decode (every move), float32": milliseconds(lambda i: model.decode(encoded, weights[i]), repeats),
        }
    restorer, noisy = Restorer(model), image[0].cpu().contiguous()
    label = f"network: a move in the app, {'bf16' if restorer.in_bf16 else 'float32'}"
    return times | {label: milliseconds(lambda i: restorer(noisy, weights[i]), repeats)}


def client(url: str, photograph: Path, controls: int, repeats: int) -> list[float]:
    """The app's answer to a slider move, file on disk included."""
    visitor = Client(url, verbose=False)
    visitor.predict(handle_file(photograph), api_name="/open")
    visitor.predict(50, api_name="/add_noise")

    def move(index: int):
        weights = [1.0, *[0.0] * (controls - 2), index / (repeats + 1)]
        return visitor.predict(*weights, 0.0, True, 25, api_name="/denoise")

    return milliseconds(move, repeats)


def browser(url: str, photograph: Path, repeats: int) -> dict[str, list[float]]:
    """From the release of a slider to the load of the new picture, in Chromium.

    Moves from rest, when measures and figures stand; and each as soon as the picture of the last one is there.
    """
    picture, slider = "#before-after img", "#weight-regional_sharpness input[type=range]"
    with chromium() as page:
        page.goto(url)
        page.locator(picture).last.wait_for()
        page.locator("#photograph").get_by_label("Remove Image").click()
        page.locator("#photograph input[type=file]").set_input_files(photograph)
        page.wait_for_timeout(3000)
        noise = page.get_by_label("Add noise").first  # measures and figures need a clean reference
        noise.fill("50")
        noise.press("Enter")
        page.get_by_text("Price of your setting").wait_for()
        page.wait_for_timeout(3000)

        def moves(rest: float) -> Iterator[float]:
            for index in range(repeats + 1):
                page.wait_for_timeout(1000 * rest)
                (duration,) = slider_moved(page, slider, (index + 1) / (repeats + 2), [picture])
                if index:
                    yield duration

        return {"from rest": list(moves(1.0)), "one after another": list(moves(0.0))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/vit-unet-denoiser")
    parser.add_argument("--size", type=int, default=512, help="side of the photograph, pixels")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--peers", help="folder with the weights of CDnCNN-B")
    arguments = parser.parse_args()

    keep_freed_memory()  # as the app does
    model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval().to(memory_format=torch.channels_last)
    results = network(model, arguments.size, arguments.repeats)
    if arguments.peers:
        rival, noisy = CDnCNN(arguments.peers), test_image(arguments.size)[0]
        with torch.inference_mode():
            results[f"{REFERENCE}, whole"] = milliseconds(lambda _: rival(noisy, 0.1), max(arguments.repeats // 4, 1))
    with tempfile.TemporaryDirectory() as folder:
        photograph = Path(folder) / "photograph.png"
        Image.open(EXAMPLES[0]).crop((0, 0, arguments.size, arguments.size)).save(photograph)
        app = build_app(model)
        app.launch(prevent_thread_lock=True, quiet=True, server_port=None, allowed_paths=[str(EXAMPLES[0].parent)])
        controls = len(model.config.steerable_terms)
        results["app: slider release to file at the client"] = client(
            app.local_url, photograph, controls, arguments.repeats
        )
        with suppress(FileNotFoundError):
            for name, times in browser(app.local_url, photograph, arguments.repeats).items():
                results[f"app: release to picture in Chromium, {name}"] = times
        app.close()

    print(f"{arguments.size}x{arguments.size} pixels, {torch.get_num_threads()} threads, {model.device}")
    print(f"{'':<54}{'median ms':>10}{'worst ms':>10}")
    for name, times in results.items():
        print(f"{name:<54}{statistics.median(times):>10.0f}{max(times):>10.0f}")


if __name__ == "__main__":
    main()
