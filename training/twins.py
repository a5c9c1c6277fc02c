"""The price of conditioning: one network for every loss beside networks trained for one loss each.

    python -m training.twins training/studies/twins.yaml --dataset FOLDER --test OTHER_FOLDER --noise_level 25 50

The first variant of the study is the conditioned network; every other one, a twin, has the same architecture, samples
and steps, but its one loss fixed. On images that none has seen, the conditioned network is set to each twin's loss.
Objective is the twin's own: the weighted sum of logarithms, so that a difference of 0.01 is one per cent of the terms.
Each network is one run with one seed; the price stands beside its standard error over the images.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from modeling import ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import photographs, read_photograph
from modeling.metrics import psnr, sharpness_ratio
from training.study import Study


@torch.inference_mode()
def measured(model: ViTUNetForImageDenoising, settings: dict, files: list, level: float) -> dict[str, Tensor]:
    """PSNR in dB, sharpness ratio and objective by setting: (images, 3)."""
    rows = {name: [] for name in settings}
    for index, file in enumerate(files):
        clean = read_photograph(file)
        noisy = indexed_gaussian_noise(clean, level / 255, index)
        encoded = model.encode(noisy[None].to(memory_format=torch.channels_last))
        for name, (loss_weights, emphasis) in settings.items():
            restored = model.decode(encoded, loss_weights, emphasis)
            loss, _ = model.weighted_loss(restored, clean[None], loss_weights, emphasis)
            rows[name].append([psnr(restored[0], clean), sharpness_ratio(restored[0], clean), loss.item()])
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}


def main(argv: list[str] | None = None) -> list[tuple[float, str, Tensor, Tensor]]:
    """-> noise level, twin, its figures (images, 3), and those of the conditioned network at its loss."""
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
    if networks[conditioned].config.loss_balance != "log":
        raise ValueError("The price in per cent needs loss_balance: log in the study's model_config.")
    settings = {
        name: (networks[name].config.loss_weights, networks[name].config.high_frequency_emphasis) for name in twins
    }
    files = photographs(arguments.test)[: arguments.limit]

    rows = []
    print(f"{len(files)} images; each pair: twin, conditioned network at the twin's loss")
    head = f"{'sigma':<7}{'twin':<22}{'PSNR dB':>18}{'difference':>20}"
    print(f"{head}{'sharpness ratio':>18}{'objective':>20}{'price %':>19}")
    for level in arguments.noise_level:
        shared = measured(networks[conditioned], settings, files, level)
        for name in twins:
            own, ours = measured(networks[name], {name: settings[name]}, files, level)[name], shared[name]
            rows.append((level, name, own, ours))
            (twin_psnr, twin_ratio, twin_loss), (psnr_here, ratio, loss) = own.mean(0).tolist(), ours.mean(0).tolist()
            difference, _, price = (ours - own).mean(0).tolist()
            error, _, price_error = ((ours - own).std(0) / len(files) ** 0.5).tolist()
            print(f"{level:<7g}{name:<22}{twin_psnr:>9.3f}{psnr_here:>9.3f}{difference:>+11.3f} +-{error:.3f}", end="")
            print(f"{twin_ratio:>11.3f}{ratio:>9.3f}{twin_loss:>10.3f}{loss:>10.3f}", end="")
            print(f"{100 * price:>+10.2f} +- {100 * price_error:.2f}")
    return rows


if __name__ == "__main__":
    main()
