"""What a slider buys beside what anyone can do without it, at matched sharpness.

    python -m benchmarks.tradeoff --model checkpoints/vit-unet-denoiser --dataset FOLDER --noise_level 50 \
        --terms regional_sharpness wavelet --plot docs/tradeoff.png

The rivals start from the same network's result for the pixel loss alone: a share of the noisy input blended back, and
an unsharp mask. `--interpolate A B` adds a third: networks between two that were trained for one loss each, weight by
weight (Wang et al. 2019, "Deep network interpolation").

One line per setting: fidelity (PSNR), perceptual fidelity (HaarPSI), local sharpness (ratio to the truth), and energy
and correlation with the truth above a quarter cycle per pixel. Detail raises both of the last two; noise raises the
energy alone. Then each way at the same sharpness, read off the lines between its settings.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator

import numpy as np
import piq
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from interface.figures import Chart, charts
from modeling import ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import photographs, read_photograph
from modeling.metrics import fourier_ring_correlation, octave_spectrum_error, psnr, sharpness_ratio

STOPS = tuple(step / 10 for step in range(1, 11))
BLENDS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16)
UNSHARP = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5)
UNSHARP_SIGMA = 1.0  # pixels
INTERPOLATIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
MATCHED = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0)  # sharpness ratios
COLUMNS = ("PSNR dB", "HaarPSI", "sharpness", "energy dB", "correlation")
Curves = dict[str, dict[str, np.ndarray]]  # way -> setting -> mean of each column


def blended(restored: Tensor, noisy: Tensor, share: float) -> Tensor:
    return (1 - share) * restored + share * noisy


def unsharp(restored: Tensor, amount: float) -> Tensor:
    return restored + amount * (restored - gaussian_blur(restored, [7, 7], [UNSHARP_SIGMA] * 2))


def interpolated(first: str, second: str) -> dict[str, ViTUNetForImageDenoising]:
    """Networks on the straight line between two of one architecture, by their place on it; their losses go along."""
    ends = [ViTUNetForImageDenoising.from_pretrained(name).eval() for name in (first, second)]
    weights = [end.state_dict() for end in ends]
    if {name: value.shape for name, value in weights[0].items()} != {n: v.shape for n, v in weights[1].items()}:
        raise ValueError(f"--interpolate {first} {second}: the two networks differ in architecture.")
    terms = {term for end in ends for term in end.config.loss_weights}
    losses = [
        {term: end.config.loss_weights.get(term, 0.0) / sum(end.config.loss_weights.values()) for term in terms}
        for end in ends
    ]
    emphasis = [end.config.high_frequency_emphasis for end in ends]
    networks = {}
    for share in INTERPOLATIONS:
        config = copy.deepcopy(ends[0].config)
        config.loss_weights = {term: (1 - share) * losses[0][term] + share * losses[1][term] for term in terms}
        config.high_frequency_emphasis = (1 - share) * emphasis[0] + share * emphasis[1]
        network = ViTUNetForImageDenoising(config).eval()
        network.load_state_dict({name: value.lerp(weights[1][name], share) for name, value in weights[0].items()})
        networks[f"{share:g}"] = network.to(memory_format=torch.channels_last)
    return networks


def measured(prediction: Tensor, target: Tensor) -> list[float]:
    clipped = prediction.clamp(0, 1)
    return [
        psnr(prediction, target),
        piq.haarpsi(clipped[None], target[None], data_range=1.0).item(),
        sharpness_ratio(prediction, target),
        octave_spectrum_error(prediction, target, 1)[0],
        fourier_ring_correlation(prediction, target, 1)[0],
    ]


def results(
    model: ViTUNetForImageDenoising, between: dict[str, ViTUNetForImageDenoising], noisy: Tensor, terms: list[str]
) -> Iterator[tuple[str, str, Tensor]]:
    """-> way, setting, restored image."""
    encoded = model.encode(noisy[None].to(memory_format=torch.channels_last))
    corner = model.decode(encoded, {"pixel": 1.0})[0].clamp(0, 1)
    ways: dict[str, tuple[tuple[float, ...], Callable[[float], Tensor]]] = {
        f"slider {term}": (STOPS, lambda stop, term=term: model.decode(encoded, {"pixel": 1 - stop, term: stop})[0])
        for term in terms
    }
    ways["input blended back"] = (BLENDS, lambda share: blended(corner, noisy, share))
    ways["unsharp mask"] = (UNSHARP, lambda amount: unsharp(corner, amount))
    for way, (settings, restored) in ways.items():
        yield way, "0", corner
        for setting in settings:
            yield way, f"{setting:g}", restored(setting)
    for share, network in between.items():
        yield "weights interpolated", share, network(noisy[None]).reconstruction[0]


def at_sharpness(curve: dict[str, np.ndarray], ratio: float) -> np.ndarray | None:
    """The columns where the curve first reaches a sharpness, between two settings; `None` where it never does."""
    points = np.stack(list(curve.values()))
    sharpness = points[:, COLUMNS.index("sharpness")]
    for before, after, low, high in zip(points, points[1:], sharpness, sharpness[1:], strict=False):
        if low <= ratio <= high:
            return before + (after - before) * (ratio - low) / max(high - low, 1e-9)
    return None


def print_curves(curves: Curves) -> None:
    print(f"{'':<44}" + "".join(f"{column:>13}" for column in COLUMNS))
    for way, settings in curves.items():
        for setting, values in settings.items():
            print(f"{f'{way}, {setting}':<44}" + _cells(values))
    for ratio in MATCHED:
        print(f"\nat sharpness {ratio:g}")
        for way, settings in curves.items():
            values = at_sharpness(settings, ratio)
            print(f"{way:<44}" + ("     beyond its curve" if values is None else _cells(values)))


def _cells(values: np.ndarray) -> str:
    return "".join(f"{value:>13.{decimals}f}" for value, decimals in zip(values, (3, 4, 3, 2, 3), strict=True))


def draw(curves: Curves, title: str, path: str) -> None:
    column = {
        name: {way: [row[index] for row in settings.values()] for way, settings in curves.items()}
        for index, name in enumerate(COLUMNS)
    }

    def chart(what: str, x: str, y: str, axes: tuple[str, str]) -> Chart:
        return Chart(f"{what}, {title}", {way: (column[x][way], column[y][way]) for way in curves}, axes)

    charts(
        [
            chart("Fidelity", "sharpness", "PSNR dB", ("sharpness ratio (1 is the truth's)", "PSNR (dB)")),
            chart("Perceived fidelity", "PSNR dB", "HaarPSI", ("PSNR (dB)", "HaarPSI")),
            chart(
                "Detail or noise", "sharpness", "correlation", ("sharpness ratio", "correlation above 1/4 cycle/pixel")
            ),
        ]
    ).save(path)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/vit-unet-denoiser")
    parser.add_argument("--dataset", required=True, help="folder of clean images")
    parser.add_argument("--noise_level", type=float, default=50, help="of 255")
    parser.add_argument("--terms", nargs="+", default=["regional_sharpness", "wavelet"])
    parser.add_argument("--interpolate", nargs=2, metavar=("A", "B"), help="two networks trained for one loss each")
    parser.add_argument("--limit", type=int, default=None, help="only so many images")
    parser.add_argument("--plot", help="PNG file to draw the curves in")
    arguments = parser.parse_args()

    model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval().to(memory_format=torch.channels_last)
    between = interpolated(*arguments.interpolate) if arguments.interpolate else {}
    files = photographs(arguments.dataset)[: arguments.limit]
    curves: Curves = {}
    for index, file in enumerate(files):
        clean = read_photograph(file)
        noisy = indexed_gaussian_noise(clean, arguments.noise_level / 255, index)
        for way, setting, restored in results(model, between, noisy, arguments.terms):
            settings = curves.setdefault(way, {})
            settings[setting] = settings.get(setting, 0.0) + np.array(measured(restored, clean)) / len(files)
    print(f"noise level {arguments.noise_level:g}/255, {len(files)} images of {arguments.dataset}")
    print_curves(curves)
    if arguments.plot:
        draw(curves, f"sigma {arguments.noise_level:g}", arguments.plot)


if __name__ == "__main__":
    main()
