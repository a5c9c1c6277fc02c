"""What a slider buys beside what anyone can do without it: blending the input back, and unsharp masking.

    python -m benchmarks.tradeoff --model checkpoints/vit-unet-denoiser --dataset FOLDER --noise_level 50

One line per setting: fidelity (PSNR), local sharpness (ratio to the truth), and energy and correlation with the truth
above a quarter cycle per pixel. Detail raises both of the last two; noise raises the energy alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from modeling import ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import photographs, read_photograph
from modeling.metrics import fourier_ring_correlation, octave_spectrum_error, psnr, sharpness_ratio

STOPS = (0.25, 0.5, 0.75, 1.0)
BLENDS = (0.02, 0.05, 0.08, 0.12)
UNSHARP = (0.1, 0.2, 0.35, 0.5)
UNSHARP_SIGMA = 1.0  # pixels


def blended(share: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda restored, noisy: (1 - share) * restored + share * noisy


def unsharp(amount: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda restored, noisy: restored + amount * (restored - gaussian_blur(restored, [7, 7], [UNSHARP_SIGMA] * 2))


def measured(prediction: Tensor, target: Tensor) -> list[float]:
    return [
        psnr(prediction, target),
        sharpness_ratio(prediction, target),
        octave_spectrum_error(prediction, target, 1)[0],
        fourier_ring_correlation(prediction, target, 1)[0],
    ]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/vit-unet-denoiser")
    parser.add_argument("--dataset", required=True, help="folder of clean images")
    parser.add_argument("--noise_level", type=float, default=50, help="of 255")
    parser.add_argument("--terms", nargs="+", default=["regional_sharpness"])
    parser.add_argument("--limit", type=int, default=None, help="only so many images")
    arguments = parser.parse_args()

    model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval().to(memory_format=torch.channels_last)
    files = photographs(arguments.dataset)[: arguments.limit]
    totals: dict[str, list[float]] = {}

    for index, file in enumerate(files):
        clean = read_photograph(file)
        noisy = indexed_gaussian_noise(clean, arguments.noise_level / 255, index)
        encoded = model.encode(noisy[None])
        corner = model.decode(encoded, {"pixel": 1.0})[0].clamp(0, 1)
        results = {"pixel loss alone": corner}
        for term in arguments.terms:
            for stop in STOPS:
                results[f"{term} {stop:g}"] = model.decode(encoded, {"pixel": 1 - stop, term: stop})[0]
        results |= {f"blend {100 * share:g} % of the input back": blended(share)(corner, noisy) for share in BLENDS}
        results |= {f"unsharp mask, amount {amount:g}": unsharp(amount)(corner, noisy) for amount in UNSHARP}
        for name, result in results.items():
            values = measured(result, clean)
            totals[name] = [a + b for a, b in zip(totals.get(name, [0.0] * len(values)), values, strict=True)]

    print(f"noise level {arguments.noise_level:g}/255, {len(files)} images")
    print(f"{'':<36}{'PSNR dB':>9}{'sharpness':>11}{'energy dB':>11}{'correlation':>13}")
    for name, sums in totals.items():
        decibels, sharpness, energy, correlation = (value / len(files) for value in sums)
        print(f"{name:<36}{decibels:>9.3f}{sharpness:>11.3f}{energy:>11.2f}{correlation:>13.3f}")


if __name__ == "__main__":
    main()
