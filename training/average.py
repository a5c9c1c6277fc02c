"""Averages the weights of networks of one shape, one of which was trained on from the other.

    python -m training.average --models runs/mended runs/sliders/model --shares 0.5 0.5 --output_dir runs/average

Between a network and what a gentle training made of it the loss is smooth, so an average stands between them in what it
does, or above both (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). Of networks that were trained
apart it is noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from modeling import ViTUNetForImageDenoising
from training.checkpoints import save_model

NOT_OF_THE_NETWORK = ("_name_or_path", "dtype", "custom_pipelines")  # what a config tells of files


@torch.no_grad()
def average(models: Sequence[ViTUNetForImageDenoising], shares: Sequence[float]) -> ViTUNetForImageDenoising:
    """The first model, changed in place: its weights and buffers are the weighted means of all.

    Raises `ValueError` where the models differ in a setting, or where the shares are not one for each and sum to 1.
    """
    if len(models) != len(shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"{list(shares)} must be one share for each of the {len(models)} models, and sum to 1.")
    settings = [{**model.config.to_dict(), **dict.fromkeys(NOT_OF_THE_NETWORK)} for model in models]
    different = sorted({name for other in settings for name in other if other[name] != settings[0].get(name)})
    if different:
        raise ValueError(f"The networks differ in {different}: only those of one config have an average.")
    states = [model.state_dict() for model in models]
    mean = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in states[0].items()}
    for state, share in zip(states, shares, strict=True):
        for name, value in state.items():
            mean[name] += share * value
    models[0].load_state_dict({name: value.to(states[0][name].dtype) for name, value in mean.items()})
    return models[0]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="Hub ids or folders")
    parser.add_argument("--shares", nargs="+", type=float, required=True, help="of each, which sum to 1")
    parser.add_argument("--output_dir", required=True)
    arguments = parser.parse_args(argv)
    models = [ViTUNetForImageDenoising.from_pretrained(path, dtype=torch.float32).eval() for path in arguments.models]
    save_model(average(models, arguments.shares), arguments.output_dir)
    print(f"Saved {arguments.output_dir}, the average of {len(models)} networks")


if __name__ == "__main__":
    main()
