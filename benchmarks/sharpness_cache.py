"""The window scores of 1,000 images: a plain loop over windows, all windows unfolded, and ours, in one run.

    python -m benchmarks.sharpness_cache

The first two are what the post "Denoising autoencoders, part 3" did one after the other. Each takes uint8 images and
gives sorted scores; the loop is timed on few images and scaled up. Memory is the peak of what torch allocates in a
call: for one image, and for two in ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measuring import median_milliseconds, peak_mebibytes
from modeling.sharpness import sorted_sharpness_scores

WINDOW = 16


def looped(image: Tensor) -> list[float]:
    """Window by window, channel by channel."""
    pixels, scores = image.float() / 255, []
    for top in range(0, pixels.shape[1] - WINDOW + 1, WINDOW // 2):
        for left in range(0, pixels.shape[2] - WINDOW + 1, WINDOW // 2):
            total = 0.0
            for channel in pixels:
                window = channel[top : top + WINDOW, left : left + WINDOW]
                total += (window[:, 1:] - window[:, :-1]).abs().sum().item()
                total += (window[1:] - window[:-1]).abs().sum().item()
                total += (window[1:, 1:] - window[:-1, :-1]).abs().sum().item()
                total += (window[1:, :-1] - window[:-1, 1:]).abs().sum().item()
            scores.append(total / len(pixels))
    return sorted(scores, reverse=True)


def unfolded(image: Tensor) -> list[float]:
    """All windows at once: the differences in each direction are four times the image."""
    return _unfolded(image).flatten().sort(descending=True).values.tolist()


def unfolded_one_by_one(image: Tensor) -> list[float]:
    """The post's version, which reads the scores out one at a time."""
    scores = _unfolded(image)
    rows, columns = scores.shape
    return sorted((scores[row, column].item() for row in range(rows) for column in range(columns)), reverse=True)


def _unfolded(image: Tensor) -> Tensor:
    windows = (image.float() / 255).unfold(1, WINDOW, WINDOW // 2).unfold(2, WINDOW, WINDOW // 2)
    right = (windows[..., :, :-1] - windows[..., :, 1:]).abs()
    down = (windows[..., :-1, :] - windows[..., 1:, :]).abs()
    diagonal = (windows[..., :-1, :-1] - windows[..., 1:, 1:]).abs()
    antidiagonal = (windows[..., :-1, 1:] - windows[..., 1:, :-1]).abs()
    return sum(differences.sum((-1, -2)) for differences in (right, down, diagonal, antidiagonal)).mean(0)


def ours_two_at_once(image: Tensor) -> list[float]:
    """As the cache has them; -> the scores of the first."""
    return sorted_sharpness_scores(torch.stack([image, image]).short(), WINDOW).div_(255).tolist()[0]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels; 224 as in the post")
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, arguments.side, arguments.side), generator=generator, dtype=torch.uint8)
    ways: dict[str, tuple[Callable[[Tensor], list[float]], int]] = {
        "loop over windows": (looped, 1),
        "unfolded, as in the post": (unfolded_one_by_one, arguments.repeats),
        "unfolded, read at once": (unfolded, arguments.repeats),
        "ours": (ours_two_at_once, arguments.repeats),
    }
    reference = torch.tensor(ours_two_at_once(image))
    print(f"{torch.get_num_threads()} threads, {arguments.side}x{arguments.side} images, windows of {WINDOW} pixels")
    print(f"{'':<26}{'s per 1,000 images':>20}{'times ours':>12}{'MiB':>8}{'times ours':>12}")
    figures = {}
    for name, (way, repeats) in ways.items():
        torch.testing.assert_close(torch.tensor(way(image)), reference, rtol=1e-4, atol=0)
        milliseconds = median_milliseconds(lambda way=way: way(image), repeats)
        images = 2 if way is ours_two_at_once else 1
        figures[name] = milliseconds / images, peak_mebibytes(lambda way=way: way(image))
    for name, (seconds, memory) in figures.items():
        ratios = seconds / figures["ours"][0], memory / figures["ours"][1]
        print(f"{name:<26}{seconds:>20.2f}{ratios[0]:>12.1f}{memory:>8.2f}{ratios[1]:>12.1f}")


if __name__ == "__main__":
    main()
