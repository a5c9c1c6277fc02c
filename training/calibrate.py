"""Takes a constant stripe out of a trained network, and evens out the travel of its sliders.

    python -m training.calibrate --model runs/mine/model --dataset FOLDER --output runs/calibrated \
        --loss_strengths '{"regional_sharpness": 12, "wavelet": 2}'

A network that writes its pixels in blocks (`pixel_unshuffle`) has a bias for each place in a block. If they differ by a
twentieth of a grey level, no loss notices and no eye does, but the spectrum of every picture has the same sharp peaks.
What the errors on some noisy photographs have in common at each place is subtracted from these biases.

The longer a network was trained, the sooner a term has its way with a picture. The network is told what the loss
weighs, a weight over its term's strength: another strength is another travel of the slider, over the same pictures.
The larger the pixel term's share of every other weight, the sooner all sliders end.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor

from modeling import ViTUNetConfig, ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import photographs, read_photograph
from training.checkpoints import save_model

SIDE = 256  # pixels of each photograph, from its middle


@torch.inference_mode()
def stripe(model: ViTUNetForImageDenoising, images: list[Tensor], noise_levels: list[float]) -> Tensor:
    """The mean error at each place of a block, less its mean over the places: (C, u, u), u = `pixel_unshuffle`.

    Images are (C, H, W) in [0, 1], levels in units of that range; the model is blind, at its default loss.
    """
    period = model.config.pixel_unshuffle
    total = torch.zeros(model.config.num_channels, period, period, dtype=torch.float64)
    for index, clean in enumerate(images):
        height, width = (side - side % period for side in clean.shape[-2:])
        for level in noise_levels:
            restored = model(indexed_gaussian_noise(clean, level, index)[None].to(model.device)).reconstruction[0]
            error = (restored.cpu().double() - clean)[:, :height, :width]
            total += error.unflatten(2, (-1, period)).unflatten(1, (-1, period)).mean((1, 3))
    total /= len(images) * len(noise_levels)
    return total - total.mean((1, 2), keepdim=True)


@torch.no_grad()
def remove_stripe(model: ViTUNetForImageDenoising, pattern: Tensor) -> None:
    """Subtracts it from whatever the model will restore."""
    if model.config.pixel_unshuffle == 1:
        raise ValueError("This network has pixel_unshuffle=1: it writes pixel by pixel, and has no stripe to remove.")
    sign = 1 if model.config.residual else -1  # a residual network's output is subtracted from the image
    bias = model.decoder.output.bias
    bias += sign * pattern.flatten().to(bias)  # in the order of `PixelShuffle`: channel, row, column


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub id or folder")
    parser.add_argument("--dataset", required=True, help="folder of clean images that are not for testing")
    parser.add_argument("--output", required=True, help="folder for the calibrated model")
    parser.add_argument("--noise_level", type=float, nargs="+", default=[15, 25, 50], help="of 255")
    parser.add_argument("--loss_strengths", type=json.loads, help="of the saved config, JSON; default: as they are")
    parser.add_argument("--fidelity_share", type=float, help="of the saved config; default: as it is")
    parser.add_argument("--limit", type=int, default=100, help="so many images, spread over the folder")
    arguments = parser.parse_args(argv)

    model = ViTUNetForImageDenoising.from_pretrained(arguments.model, dtype=torch.float32).eval()
    model = model.to(memory_format=torch.channels_last)
    files = photographs(arguments.dataset)
    if arguments.limit < 1:
        parser.error(f"--limit {arguments.limit} must be at least 1.")
    count = min(arguments.limit, len(files))
    files = [files[index * len(files) // count] for index in range(count)]
    images = []
    for file in files:
        image = read_photograph(file)
        top, left = (max(0, (side - SIDE) // 2) // 2 * 2 for side in image.shape[-2:])
        images.append(image[:, top : top + SIDE, left : left + SIDE])
    levels = [level / 255 for level in arguments.noise_level]
    before = stripe(model, images, levels)
    remove_stripe(model, before)
    after = stripe(model, images, levels)
    for name in ("loss_strengths", "fidelity_share"):
        if (value := getattr(arguments, name)) is not None:
            setattr(model.config, name, getattr(ViTUNetConfig(**{name: value}), name))  # checked
    save_model(model, arguments.output)
    sizes = [255 * pattern.square().mean().sqrt().item() for pattern in (before, after)]
    print(f"{len(images)} images; stripe {sizes[0]:.4f} of 255 before, {sizes[1]:.4f} after (root mean square)")


if __name__ == "__main__":
    main()
