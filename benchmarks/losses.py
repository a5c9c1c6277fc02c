"""Each loss term, forward and backward, beside its straightforward version, in one run.

    python -m benchmarks.losses

Straightforward means what the posts do: `fft2`, `fftshift` and a mask over the full plane; windows unfolded; spectra of
unfolded tiles; a wavelet transform by convolution. Times are medians; memory is the peak of what the step allocates
beyond its inputs, by torch's profiler.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import median_milliseconds, peak_mebibytes
from modeling import LOSS_TERMS, TRAINABLE_TERMS, ViTUNetForImageDenoising
from modeling.losses import AMPLITUDE_SCALE, SHARPNESS_SCALE
from modeling.spectra import emphasis_map

SHAPES = [(16, 3, 96, 96), (16, 3, 224, 224), (1, 3, 2048, 2048)]
WINDOW = 16
WAVELET_WINDOW = 8


def plain_amplitude(prediction: Tensor, target: Tensor, power: int = 1) -> Tensor:
    spectra = [torch.fft.fftshift(torch.fft.fft2(image, norm="ortho"), dim=(-2, -1)) for image in (prediction, target)]
    difference = (spectra[0].abs() - spectra[1].abs()).abs() ** power
    mask = emphasis_map(*prediction.shape[-2:], 2.0).to(prediction)
    return (difference * mask).flatten(1).mean(1) * (AMPLITUDE_SCALE if power == 1 else 1.0)


def plain_windowed_amplitude(prediction: Tensor, target: Tensor) -> Tensor:
    hann = torch.sin(torch.pi * (torch.arange(WINDOW) + 0.5) / WINDOW).square()
    window = torch.outer(hann, hann)
    window = window / window.square().mean().sqrt()
    tiles = [
        image.unfold(2, WINDOW, WINDOW // 2).unfold(3, WINDOW, WINDOW // 2) * window for image in (prediction, target)
    ]
    spectra = [torch.fft.fftshift(torch.fft.fft2(tile, norm="ortho"), dim=(-2, -1)) for tile in tiles]
    mask = emphasis_map(WINDOW, WINDOW, 2.0).to(prediction)
    return AMPLITUDE_SCALE * ((spectra[0].abs() - spectra[1].abs()).abs() * mask).flatten(1).mean(1)


def plain_regional_sharpness(prediction: Tensor, target: Tensor) -> Tensor:
    def scores(image: Tensor) -> Tensor:
        windows = image.unfold(2, WINDOW, WINDOW // 2).unfold(3, WINDOW, WINDOW // 2)
        total = (windows[..., :, :-1] - windows[..., :, 1:]).abs().sum((-1, -2))
        total = total + (windows[..., :-1, :] - windows[..., 1:, :]).abs().sum((-1, -2))
        total = total + (windows[..., :-1, :-1] - windows[..., 1:, 1:]).abs().sum((-1, -2))
        total = total + (windows[..., :-1, 1:] - windows[..., 1:, :-1]).abs().sum((-1, -2))
        return total.mean(1).flatten(1).sort(1, descending=True).values

    return SHARPNESS_SCALE * (scores(prediction) - scores(target)).abs().mean(1)


def plain_wavelet(prediction: Tensor, target: Tensor, levels: int = 3) -> Tensor:
    """Haar bands by one dilated convolution a level, magnitudes by pooling whole windows at half overlap."""
    sides = torch.tensor([[0.5, 0.5], [0.5, -0.5]])
    kernels = torch.einsum("ai,bj->abij", sides, sides).reshape(4, 1, 2, 2)

    def magnitudes(image: Tensor) -> list[Tensor]:
        approximation, results = image.flatten(0, 1)[:, None], []
        for level in range(levels):
            step, side = 2**level, WAVELET_WINDOW * 2**level
            bands = F.conv2d(F.pad(approximation, (0, step, 0, step), mode="circular"), kernels, dilation=step)
            results.append(F.avg_pool2d(bands[:, 1:].abs(), side, side // 2).reshape(len(image), -1))
            approximation = bands[:, :1]
        return results

    pairs = zip(magnitudes(prediction), magnitudes(target), strict=True)
    return sum((a - b).abs().mean(1) for a, b in pairs) / levels


PLAIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pixel": lambda prediction, target: ((prediction - target) ** 2).mean((1, 2, 3)),
    "amplitude": plain_amplitude,
    "amplitude_squared": lambda prediction, target: plain_amplitude(prediction, target, 2),
    "windowed_amplitude": plain_windowed_amplitude,
    "regional_sharpness": plain_regional_sharpness,
    "wavelet": plain_wavelet,
}


def fast(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    term = LOSS_TERMS[name]
    emphasis = {"high_frequency_emphasis": 2.0} if term.emphasised else {}
    return lambda prediction, target: term.function(prediction, target, **emphasis)


def measured(function: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], repeats: int) -> tuple[float, float]:
    """-> median milliseconds of forward and backward, and the peak of the MiB allocated on the way."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(shape, generator=generator, requires_grad=True)
    target = torch.rand(shape, generator=generator)

    def step() -> None:
        prediction.grad = None
        function(prediction, target).mean().backward()

    return median_milliseconds(step, repeats), peak_mebibytes(step)


def share_of_a_training_step(path: str, batch_size: int, crop_size: int, repeats: int) -> tuple[float, float]:
    """-> milliseconds of all trainable terms together, and of a training step of a network with them."""
    model = ViTUNetForImageDenoising.from_pretrained(path).train().to(memory_format=torch.channels_last)
    images = torch.rand(batch_size, 3, crop_size, crop_size)
    noisy = images + 0.1 * torch.randn_like(images)
    weights = dict.fromkeys(TRAINABLE_TERMS, 1.0)

    def terms() -> None:
        prediction = noisy.clone().requires_grad_()
        sum(value.sum() for value in model.criterion.terms(prediction, images, 1.0).values()).backward()

    def whole() -> None:
        model.zero_grad()
        model(noisy.contiguous(memory_format=torch.channels_last), images, weights, 1.0).loss.backward()

    return median_milliseconds(terms, repeats), median_milliseconds(whole, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/vit-unet-denoiser", help="whose training step it is")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="only so many of the shapes, smallest first")
    arguments = parser.parse_args()

    print(f"{torch.get_num_threads()} threads; forward and backward; straightforward version / ours")
    for shape in SHAPES[: arguments.shapes]:
        print(f"\n{'x'.join(map(str, shape)):<22}{'ms':>16}{'ratio':>8}{'MiB':>16}{'ratio':>8}")
        for name, plain in PLAIN.items():
            (slow, large), (quick, small) = (measured(f, shape, arguments.repeats) for f in (plain, fast(name)))
            times, sizes = f"{slow:.1f} / {quick:.1f}", f"{large:.0f} / {small:.0f}"
            print(f"{name:<22}{times:>16}{slow / quick:>8.2f}{sizes:>16}{large / max(small, 1e-9):>8.2f}")
    terms, step = share_of_a_training_step(arguments.model, 8, 96, arguments.repeats)
    print(f"\nall terms at 8x3x96x96: {terms:.0f} ms of a training step of {step:.0f} ms, {100 * terms / step:.1f} %")


if __name__ == "__main__":
    main()
