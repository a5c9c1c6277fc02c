"""The price of conditioning: one network for every loss beside networks trained for one loss each.

    python -m training.twins training/studies/twins.yaml --dataset FOLDER --test OTHER_FOLDER --noise_level 25 50

The first variant of the study is the conditioned network; every other one, a twin, has the same architecture, samples
and steps, but its one loss fixed. On images that none has seen, the conditioned network is set to each twin's loss.
Objective is the twin's own: the weighted sum of logarithms, so that a difference of 0.01 is one per cent of the terms.
"""

from __future__ import annotations

import argparse

import torch

from modeling import ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import photographs, read_photograph
from modeling.metrics import psnr, sharpness_ratio
from training.study import Study


@torch.inference_mode()
def measured(model: ViTUNetForImageDenoising, settings: dict, files: list, level: float) -> dict[str, list[float]]:
    """PSNR in dB, sharpness ratio and objective by setting, each a mean over the images."""
    totals = {name: [0.0, 0.0, 0.0] for name in settings}
    for index, file in enumerate(files):
        clean = read_photograph(file)
        noisy = indexed_gaussian_noise(clean, level / 255, index)
        encoded = model.encode(noisy[None].to(memory_format=torch.channels_last))
        for name, (loss_weights, emphasis) in settings.items():
            restored = model.decode(encoded, loss_weights, emphasis)
            loss, _ = model.weighted_loss(restored, clean[None], loss_weights, emphasis)
            values = psnr(restored[0], clean), sharpness_ratio(restored[0], clean), loss.item()
            totals[name] = [total + value for total, value in zip(totals[name], values, strict=True)]
    return {name: [total / len(files) for total in sums] for name, sums in totals.items()}


def main(argv: list[str] | None = None) -> list[tuple[float, str, list[float], list[float]]]:
    """-> noise level, twin, the twin's figures, the conditioned network's at the twin's setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="YAML file; its first variant is the conditioned network")
    parser.add_argument("--dataset", required=True, help="images to train on, as in training.train")
    parser.add_argument("--test", required=True, help="folder of clean images to compare on")
    parser.add_argument("--noise_level", type=float, nargs="+", default=[25, 50], help="of 255")
    parser.add_argument("--limit", type=int, default=None, help="only so many images")
    arguments = parser.parse_args(argv)

    study = Study.read(arguments.study)
    networks = {}
    for name in study.variants:
        model = ViTUNetForImageDenoising.from_pretrained(study.train(name, arguments.dataset)).eval()
        networks[name] = model.to(memory_format=torch.channels_last)
    conditioned, *twins = networks
    settings = {
        name: (networks[name].config.loss_weights, networks[name].config.high_frequency_emphasis) for name in twins
    }
    files = photographs(arguments.test)[: arguments.limit]

    rows = []
    print(f"{len(files)} images; each pair: twin, conditioned network at the twin's loss")
    head = f"{'sigma':<7}{'twin':<24}{'PSNR dB':>18}{'difference':>12}"
    print(f"{head}{'sharpness ratio':>18}{'objective':>20}{'price %':>9}")
    for level in arguments.noise_level:
        shared = measured(networks[conditioned], settings, files, level)
        for name in twins:
            own, ours = measured(networks[name], {name: settings[name]}, files, level)[name], shared[name]
            rows.append((level, name, own, ours))
            print(f"{level:<7g}{name:<24}{own[0]:>9.3f}{ours[0]:>9.3f}{ours[0] - own[0]:>+12.3f}", end="")
            print(f"{own[1]:>9.3f}{ours[1]:>9.3f}{own[2]:>10.3f}{ours[2]:>10.3f}{100 * (ours[2] - own[2]):>+9.2f}")
    return rows


if __name__ == "__main__":
    main()
