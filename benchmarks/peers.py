"""Ours beside two rivals, CDnCNN-B (blind) and FFDNet (told the noise level): PSNR and time, in one run.

    python -m benchmarks.peers --model checkpoints/vit-unet-denoiser --peers FOLDER --datasets CBSD68 Kodak24

Their weights are not part of this project. FOLDER holds `cdncnn_blind.safetensors` and `ffdnet_color.safetensors`,
plain stacks of 3x3 convolutions with ReLU between them: `conv.I.weight` and `conv.I.bias` in order (Zhang et al. 2017,
2018). Noise is white, Gaussian, float and not clipped, seeded with the image's index; what comes out is clipped, not
rounded.

The rivals are functions of an image and a noise level too, for any command that takes such a function: with
`PEERS=FOLDER` in the environment, `benchmarks.peers:cdncnn_blind` and `benchmarks.peers:ffdnet_color`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from modeling import ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import photographs, read_photograph
from modeling.metrics import psnr
from modeling.self_ensemble import self_ensemble
from training.study import seconds_per_megapixel

Denoiser = Callable[[Tensor, float], Tensor]  # (3, H, W) and the noise level in [0, 1] -> (3, H, W)
REFERENCE = "CDnCNN-B"


def plain_stack(path: Path) -> nn.Sequential:
    """3x3 convolutions with padding 1 and ReLU between them. Raises `ValueError` where the file is not there."""
    if not path.is_file():
        raise ValueError(f"There is no {path.name} in {path.parent}: name the folder that holds the rivals' weights.")
    tensors = load_file(path)
    layers: list[nn.Module] = []
    for index in range(len(tensors) // 2):
        weight, bias = tensors[f"conv.{index}.weight"], tensors[f"conv.{index}.bias"]
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers += [layer, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1]).eval().to(memory_format=torch.channels_last)


class CDnCNN(nn.Module):
    """CDnCNN-B: the stack gives the noise. Blind: the noise level is taken, and ignored."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.stack = plain_stack(Path(folder) / "cdncnn_blind.safetensors")

    def forward(self, image: Tensor, noise_level: float) -> Tensor:
        return image - self.stack(channels_last(image[None]))[0]


class FFDNet(nn.Module):
    """The stack maps the image at half resolution, 12 planes and one that holds the noise level, to the clean one."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.stack = plain_stack(Path(folder) / "ffdnet_color.safetensors")

    def forward(self, image: Tensor, noise_level: float) -> Tensor:
        height, width = image.shape[-2:]
        padded = F.pad(image[None], (0, width % 2, 0, height % 2), mode="replicate")
        planes = F.pixel_unshuffle(padded, 2)  # (1, 12, H/2, W/2)
        level = planes.new_full((1, 1, *planes.shape[-2:]), noise_level)
        restored = self.stack(channels_last(torch.cat([planes, level], 1)))
        return F.pixel_shuffle(restored, 2)[0, :, :height, :width]


def channels_last(batch: Tensor) -> Tensor:
    return batch.contiguous(memory_format=torch.channels_last)


@lru_cache
def _from_environment(network: type[CDnCNN] | type[FFDNet]) -> CDnCNN | FFDNet:
    if "PEERS" not in os.environ:
        raise ValueError("PEERS is not set: put the folder with the rivals' weights into the environment.")
    return network(os.environ["PEERS"])


def cdncnn_blind(image: Tensor, noise_level: float) -> Tensor:
    return _from_environment(CDnCNN)(image, noise_level)


def ffdnet_color(image: Tensor, noise_level: float) -> Tensor:
    return _from_environment(FFDNet)(image, noise_level)


def ours(model: ViTUNetForImageDenoising, told: bool = False, eightfold: bool = False) -> Denoiser:
    """At the model's default loss; blind, or told the noise level; once, or the mean over eight symmetries."""

    def denoise(image: Tensor, noise_level: float) -> Tensor:
        def restore(batch: Tensor) -> Tensor:
            return model(channels_last(batch), noise_level=noise_level if told else None).reconstruction

        return (self_ensemble(restore, image[None]) if eightfold else restore(image[None]))[0]

    return denoise


def print_line(label: str, values: dict[str, float], decimals: int) -> None:
    print(f"{label:<36}" + "".join(f"{value:>12.{decimals}f}" for value in values.values()), flush=True)


@torch.inference_mode()
def main(argv: list[str] | None = None) -> dict[tuple[str, float], dict[str, float]]:
    """-> mean PSNR in dB by set and noise level, then by denoiser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/vit-unet-denoiser")
    parser.add_argument("--peers", required="PEERS" not in os.environ, default=os.environ.get("PEERS"))
    parser.add_argument("--datasets", nargs="*", default=[], help="folders of clean images; none: time alone")
    parser.add_argument("--noise_level", type=float, nargs="+", default=[15, 25, 50], help="of 255")
    parser.add_argument("--limit", type=int, default=None, help="only so many images of each set")
    parser.add_argument("--tell_noise_level", action="store_true", help="one more column: ours, told the level")
    parser.add_argument("--self_ensemble", action="store_true", help="one more column: ours, the mean of eight copies")
    parser.add_argument("--side", type=int, default=512, help="of the image that is timed, pixels; 0: PSNR alone")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(argv)

    model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval().to(memory_format=torch.channels_last)
    rivals = {REFERENCE: CDnCNN(arguments.peers), "FFDNet": FFDNet(arguments.peers)}
    denoisers: dict[str, Denoiser] = {"ours": ours(model), **rivals}
    if arguments.tell_noise_level:
        denoisers["ours, told"] = ours(model, told=True)
    if arguments.self_ensemble:
        denoisers["ours x 8"] = ours(model, eightfold=True)

    print(f"PSNR in dB, {torch.get_num_threads()} threads; ours and {REFERENCE} blind, FFDNet told the noise level")
    print(" " * 36 + "".join(f"{name:>12}" for name in denoisers))
    results = {}
    for folder in arguments.datasets:
        files = photographs(folder)[: arguments.limit]
        name = Path(folder).resolve().name
        for level in arguments.noise_level:
            totals = dict.fromkeys(denoisers, 0.0)
            for index, file in enumerate(files):
                clean = read_photograph(file)
                noisy = indexed_gaussian_noise(clean, level / 255, index)
                for each, denoise in denoisers.items():
                    totals[each] += psnr(denoise(noisy, level / 255), clean)
            results[name, level] = {each: total / len(files) for each, total in totals.items()}
            print_line(f"{name}, sigma {level:g} ({len(files)} images)", results[name, level], 3)
    networks = {"ours": model, **rivals}
    sizes = {name: sum(p.numel() for p in network.parameters()) / 1e6 for name, network in networks.items()}
    print_line("million parameters", sizes, 2)
    if arguments.side:
        restorers = {
            each: lambda image, denoise=denoise: denoise(image[0], 25 / 255) for each, denoise in denoisers.items()
        }
        seconds = seconds_per_megapixel(restorers, arguments.side, arguments.repeats)
        print_line(f"seconds per megapixel, {arguments.side}x{arguments.side}", seconds, 3)
        print_line(f"times {REFERENCE}'s", {name: value / seconds[REFERENCE] for name, value in seconds.items()}, 2)
    return results


if __name__ == "__main__":
    main()
