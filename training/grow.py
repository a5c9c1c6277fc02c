"""Makes a trained network wider and deeper without changing what it computes, so that it can be trained on.

    python -m training.grow --model checkpoints/vit-unet-denoiser --output_dir runs/grown \\
        --model_config '{"hidden_sizes": [48, 96, 128, 160], "vit_projection_sizes": [160]}'
    python -m training.train training/recipes/denoiser_small.yaml --model runs/grown --dataset FOLDER

After Net2Net (Chen et al. 2016). Old channels keep their weights and take nothing from new ones; new channels see
everything from the start, and are heard as soon as training lets them. New residual blocks begin as the identity. The
ViT stays as it is.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor, nn

from modeling import ViTUNetConfig, ViTUNetForImageDenoising
from modeling.unet import ConvBlock, FeatureModulation, GatedBlock
from training.checkpoints import save_model

GROWING = ("hidden_sizes", "encoder_blocks", "bottleneck_blocks", "decoder_blocks", "vit_projection_sizes")


def grown(model: ViTUNetForImageDenoising, **changes) -> ViTUNetForImageDenoising:
    """The same function with larger sizes and more blocks: the fields of the config in `GROWING`.

    Raises `ValueError` where the larger network cannot hold the smaller one.
    """
    config = model.config
    if unknown := [name for name in changes if name not in GROWING]:
        raise ValueError(f"{unknown} cannot change what a network computes and leave it as it is: grow {GROWING}.")
    wider = tuple(changes.get("hidden_sizes", config.hidden_sizes)) != tuple(config.hidden_sizes)
    if wider and ("concat" in (config.skip_connection, config.vit_join) or config.block_type == "gated"):
        raise ValueError(
            "hidden_sizes cannot grow where features are joined by concatenation or normalised over channels "
            f"({config.skip_connection=}, {config.vit_join=}, {config.block_type=})."
        )
    if config.block_type == "double_conv" and any(name.endswith("blocks") for name in changes):
        raise ValueError("Blocks that are not residual cannot begin as the identity: their numbers cannot grow.")
    if len(changes.get("hidden_sizes", config.hidden_sizes)) != len(config.hidden_sizes):
        raise ValueError(f"hidden_sizes={changes['hidden_sizes']} must keep {len(config.hidden_sizes)} levels.")
    projection = changes.get("vit_projection_sizes", config.vit_projection_sizes)
    if len(projection) != len(config.vit_projection_sizes):
        raise ValueError(f"vit_projection_sizes={projection} must keep {len(config.vit_projection_sizes)} layers.")
    settings = config.to_dict()
    settings.pop("model_type")
    larger = ViTUNetForImageDenoising(ViTUNetConfig(**{**settings, **changes})).eval()
    small, large = dict(model.named_modules()), dict(larger.named_modules())
    if missing := [name for name, module in small.items() if type(module) is not type(large.get(name))]:
        raise ValueError(f"{changes} leave no place for {missing[:3]}: sizes and numbers of blocks can only grow.")
    halves = {id(module.projection) for module in large.values() if isinstance(module, FeatureModulation)}
    for name, layer in large.items():
        if name not in small and isinstance(layer, ConvBlock | GatedBlock):
            _silence(layer)
        elif name in small:
            pairs = zip(small[name].named_parameters(recurse=False), layer.parameters(recurse=False), strict=True)
            for (key, old), new in pairs:
                if any(before > after for before, after in zip(old.shape, new.shape, strict=True)):
                    raise ValueError(f"{name}.{key} would shrink from {tuple(old.shape)} to {tuple(new.shape)}.")
                # A modulation's outputs are scales and shifts, one half each.
                parts = 2 if id(layer) in halves else 1
                transposed = isinstance(layer, nn.ConvTranspose2d) and key == "weight"  # (C_in, C_out, k, k)
                for source, target in zip(old.chunk(parts), new.chunk(parts), strict=True):
                    _place(source, target, transposed)
    return larger


@torch.no_grad()
def _place(old: Tensor, new: Tensor, transposed: bool) -> None:
    """Old values into the corner of the new ones; old outputs take nothing from new inputs."""
    if old.ndim > 1:
        inputs, outputs = (0, 1) if transposed else (1, 0)
        new.narrow(outputs, 0, old.shape[outputs]).narrow(
            inputs, old.shape[inputs], new.shape[inputs] - old.shape[inputs]
        ).zero_()
    new[tuple(slice(side) for side in old.shape)] = old


@torch.no_grad()
def _silence(block: ConvBlock | GatedBlock) -> None:
    last = (block.conv2,) if isinstance(block, ConvBlock) else (block.reduce1, block.reduce2)
    for layer in last:
        layer.weight.zero_()
        layer.bias.zero_()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub id or folder")
    parser.add_argument("--model_config", required=True, type=json.loads, help="fields that change, JSON")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the new weights")
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    model = ViTUNetForImageDenoising.from_pretrained(arguments.model, dtype=torch.float32)
    larger = grown(model, **arguments.model_config)
    save_model(larger, arguments.output_dir)
    sizes = [sum(parameter.numel() for parameter in each.parameters()) / 1e6 for each in (model, larger)]
    print(f"{sizes[0]:.2f} -> {sizes[1]:.2f} million parameters, saved in {arguments.output_dir}")


if __name__ == "__main__":
    main()
