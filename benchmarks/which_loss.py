"""What each loss rewards and costs: a picture of each, and the rows of the README's table "Which loss?".

    python -m benchmarks.which_loss --model checkpoints/vit-unet-denoiser --output docs/losses

Every picture is the same crop of a noisy example at 3x zoom, restored with the whole weight on one term. The numbers
are means over all examples. The phase cannot be trained on: its picture keeps every phase of the clean image and gives
it the amplitudes of another example, which the phase loss takes for perfect.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from modeling import LOSS_TERMS, ViTUNetForImageDenoising, ViTUNetImageProcessor
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import photographs, read_photograph
from modeling.metrics import fourier_ring_correlation, octave_spectrum_error, psnr, sharpness_ratio

ZOOM = 3


def save_crop(image: Tensor, crop: tuple[int, int, int, int], path: Path) -> None:
    left, top, width, height = crop
    (picture,) = ViTUNetImageProcessor().post_process(image[None, :, top : top + height, left : left + width])
    picture.resize((ZOOM * width, ZOOM * height), Image.Resampling.NEAREST).save(path, optimize=True)
    print(f"wrote {path}")


def phases_of_one_amplitudes_of_another(image: Tensor, other: Tensor) -> Tensor:
    spectrum, amplitudes = torch.fft.rfft2(image), torch.fft.rfft2(other).abs()
    return torch.fft.irfft2(amplitudes * torch.exp(1j * spectrum.angle()), s=image.shape[-2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/vit-unet-denoiser")
    parser.add_argument("--dataset", default="examples", help="folder of clean images")
    parser.add_argument("--picture", default="examples/rock023.png", help="the one that is shown")
    parser.add_argument("--other", default="examples/casa-mila.png", help="of the same size, lends its amplitudes")
    parser.add_argument("--noise_level", type=float, default=25, help="of 255")
    parser.add_argument("--crop", type=int, nargs=4, default=(300, 250, 80, 80), metavar=("LEFT", "TOP", "W", "H"))
    parser.add_argument("--output", default="docs/losses")
    arguments = parser.parse_args()

    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval()
    settings = {name: ({name: 1.0}, 0.0) for name in model.config.conditioned_terms}
    emphasis = model.config.max_high_frequency_emphasis
    settings |= {f"{n}, g = {emphasis:g}": ({n: 1.0}, emphasis) for n in settings if LOSS_TERMS[n].emphasised}

    def measured(restored: Tensor, clean: Tensor) -> list[float]:
        octave = octave_spectrum_error(restored, clean, 1)[0], fourier_ring_correlation(restored, clean, 1)[0]
        return [psnr(restored, clean), sharpness_ratio(restored, clean), *octave]

    @torch.inference_mode()
    def restorations(clean: Tensor, seed: int) -> dict[str, Tensor]:
        encoded = model.encode(indexed_gaussian_noise(clean, arguments.noise_level / 255, seed)[None])
        return {name: model.decode(encoded, *setting)[0] for name, setting in settings.items()}

    clean = read_photograph(arguments.picture)
    pictures = {
        "clean": clean,
        "noisy": indexed_gaussian_noise(clean, arguments.noise_level / 255, 0),
        "phase": phases_of_one_amplitudes_of_another(clean, read_photograph(arguments.other)),
        **{name: image for name, image in restorations(clean, 0).items() if name in LOSS_TERMS},
    }
    for name, image in pictures.items():
        save_crop(image, arguments.crop, output / f"{name}.png")

    rows: dict[str, list[list[float]]] = {name: [] for name in settings}
    paths = photographs(arguments.dataset)
    for index, path in enumerate(paths):
        clean = read_photograph(path)
        for name, image in restorations(clean, index).items():
            rows[name].append(measured(image, clean))
    print(f"\nnoise level {arguments.noise_level:g}/255, {len(paths)} images of {arguments.dataset}")
    print(f"{'':<30}{'PSNR dB':>10}{'sharpness':>11}{'energy dB':>11}{'correlation':>13}")
    for name, values in rows.items():
        means = torch.tensor(values).mean(0).tolist()
        print(f"{name:<30}{means[0]:>10.2f}{means[1]:>11.3f}{means[2]:>11.2f}{means[3]:>13.3f}")


if __name__ == "__main__":
    main()
