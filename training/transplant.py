"""Gives a trained network the sliders of another one of the same shape, and leaves what it does by default as it is.

    python -m training.transplant --model runs/longer/model --controls runs/denoiser_base/model --output_dir runs/mended
    python -m training.train training/recipes/sliders.yaml --model runs/mended --dataset FOLDER

For a network that was trained on from another one and no longer listens to its controls, or was never asked to. Every
modulation gets the other network's weights, which say how far each channel moves with the controls, and a bias that
makes up for the difference where the controls stand at their defaults. The two networks' channels still mean much the
same, so the sliders act at once, if too much or too little: the recipe above trains them to the point.
"""

from __future__ import annotations

import argparse

import torch

from modeling import ViTUNetForImageDenoising
from modeling.unet import FeatureModulation
from training.checkpoints import save_model


@torch.no_grad()
def transplant_controls(model: ViTUNetForImageDenoising, donor: ViTUNetForImageDenoising, gain: float = 1.0) -> None:
    """Changes `model` in place: its modulations move as those of `donor`, from where its own stand by default.

    They move `gain` times as far: a network that was trained on for the default alone follows them less.

    Raises `ValueError` where the two have other sizes, blocks or conditioned terms.
    """
    if model.condition is None or donor.condition is None:
        raise ValueError("Both networks must have conditioned_terms: there are no sliders to take, or to replace.")
    shapes = [
        {name: parameter.shape for name, parameter in network.named_parameters()} | {"terms": terms}
        for network in (model, donor)
        for terms in [tuple(network.config.conditioned_terms)]
    ]
    if shapes[0] != shapes[1]:
        different = sorted(
            name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
        )
        raise ValueError(f"The networks differ in {different[:3]}: sliders fit between networks of one shape only.")

    pixels = torch.zeros(1, model.config.num_channels, model.config.stride, model.config.stride, device=model.device)
    controls = model.control_input(pixels, pixels.shape[-2:])  # at their defaults
    before, after = model.condition(controls), donor.condition(controls)
    donated = dict(donor.named_modules())
    for name, module in model.named_modules():
        if isinstance(module, FeatureModulation):
            own, other = module.projection, donated[name].projection
            bias = own(before) - gain * (other(after) - other.bias[:, None, None])
            own.weight.copy_(gain * other.weight)
            own.bias.copy_(bias.flatten())
    model.condition.load_state_dict(donor.condition.state_dict())
    model.config.one_loss = donor.config.one_loss


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub id or folder")
    parser.add_argument("--controls", required=True, help="the network whose sliders it gets: Hub id or folder")
    parser.add_argument("--gain", type=float, default=1.0, help="how far they move, as a multiple of what they did")
    parser.add_argument("--output_dir", required=True)
    arguments = parser.parse_args(argv)
    model, donor = (
        ViTUNetForImageDenoising.from_pretrained(path, dtype=torch.float32).eval()
        for path in (arguments.model, arguments.controls)
    )
    transplant_controls(model, donor, arguments.gain)
    save_model(model, arguments.output_dir)
    print(f"Saved {arguments.output_dir}, with the sliders of {arguments.controls}")


if __name__ == "__main__":
    main()
