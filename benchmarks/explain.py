"""Time and memory of an activation map, by method and layer, beside pytorch-grad-cam's own EigenCAM.

    python -m benchmarks.explain --model checkpoints/vit-unet-denoiser --size 224

One column for time (median of `--repeats`, after a warm-up), one for the peak of what torch allocates (its profiler),
one for the peak of what NumPy and Python allocate (tracemalloc). The library's EigenCAM decomposes a matrix whose one
part is pixels x pixels: it runs on the same features where that part stays below `--library_gib`, and its size is
printed where not. Methods that run the network once for every channel run it for `--max_channels` of them. "All layers"
is one run for all of them: what a strip of every stage costs. Methods that run per channel have none.
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Callable
from functools import partial

import torch
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

from benchmarks.measuring import median_milliseconds, peak_mebibytes
from modeling import ViTUNetForImageDenoising
from modeling.explain import METHODS, activation_map, activation_maps, layer_names
from modeling.opened_network import OpenedNetwork
from modeling.principal_maps import principal_map

LIBRARY = "library's EigenCAM, map only"


def features_of(model: ViTUNetForImageDenoising, image: torch.Tensor, layer: str):
    """(1, C, h, w), as the library gets them."""
    seen = []
    with torch.no_grad():
        opened = OpenedNetwork(model, (layer,), None, None)
        opened.layers[layer].register_forward_hook(lambda identity, inputs, features: seen.append(features))
        opened(image)
    return seen[0].numpy()


def traced_mebibytes(step: Callable[[], object]) -> float:
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/vit-unet-denoiser")
    parser.add_argument("--size", type=int, default=224, help="side of the image, pixels")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--layers", nargs="+", default=None, help="default: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max_channels", type=int, default=8)
    parser.add_argument("--library_gib", type=float, default=1.0, help="largest matrix that the library may make")
    arguments = parser.parse_args()

    model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval()
    image = torch.rand(1, 3, arguments.size, arguments.size, generator=torch.Generator().manual_seed(0))
    print(f"{arguments.size}x{arguments.size} pixels, {torch.get_num_threads()} threads, {model.device}")
    print(f"{'method':<30}{'layer':<12}{'ms':>8}{'torch MiB':>11}{'NumPy MiB':>11}")

    def line(name: str, layer: str, step: Callable[[], object]) -> None:
        time = median_milliseconds(step, arguments.repeats)
        print(f"{name:<30}{layer:<12}{time:>8.0f}{peak_mebibytes(step):>11.1f}{traced_mebibytes(step):>11.1f}")

    layers = arguments.layers or layer_names(model)
    for method in arguments.methods:
        if not METHODS[method].runs_per_channel:
            line(METHODS[method].label, "all layers", partial(activation_maps, model, image, method, layers))
    for layer in layers:
        for method in arguments.methods:
            line(
                METHODS[method].label,
                layer,
                lambda method=method, layer=layer: activation_map(
                    model, image, method, layer, max_channels=arguments.max_channels
                ),
            )
        features = features_of(model, image, layer)
        line("EigenCAM, map only", layer, lambda features=features: principal_map(features[0]))
        cells = features.shape[-2] * features.shape[-1]
        matrix = cells**2 * features.itemsize / 2**30
        if matrix <= arguments.library_gib:
            line(LIBRARY, layer, lambda features=features: get_2d_projection(features))
        else:
            print(f"{LIBRARY:<30}{layer:<12}not run: a matrix of {cells} x {cells}, {matrix:.1f} GiB")


if __name__ == "__main__":
    main()
