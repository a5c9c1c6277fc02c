"""Class-activation maps of the ViT and of every stage of the U-Net, on pytorch-grad-cam (`pip install grad-cam`).

The library wants a classifier whose layers give maps (B, C, h, w). A denoiser has no classes, and its ViT looks through
overlapping windows. So the network is opened at the layers to look at: a layer's features, blended over all windows
where it is one of the ViT's, pass through an `nn.Identity`, which the library takes for the layer, on their way to the
rest of the network. In place of a class there is a target: a number that is computed from what the network has seen and
restored.

- EigenCAM (Muhammad & Yeasin 2020) and KPCA-CAM (Karmani et al. 2024) show what varies most among the layer's features.
  They look at nothing behind the layer: **the target has no effect on them**.
- The gradient methods (`uses_gradient`) weigh the features by the target's gradient. Two of them divide by the sum of a
  channel's features, which may be about 0 where features have both signs: here it is the sum of their absolute values.
- Score-CAM and Ablation-CAM weigh each channel by what it does to the target, at one run of the network per channel.

As in the library, a map is cut off at 0 and scaled to [0, 1]. It is 0 everywhere where there is nothing to show: where
features are constant, or a target's gradient is 0.

**Sign.** A principal component is determined but for its sign. Here it is the one that points along the mean of the
features: bright is where the layer says more of what it says on average, as it is where the projection is not centred
(Muhammad & Yeasin). Features and negated features have one map. (The correlation with the norm of the features, which
seems as natural, changes its sign from image to image at stages whose features are about as strong at both ends.)
EigenGradCAM's correlates positively with the sum of gradient x features: bright is where features raise the target.

Letters in shapes: B images, C channels, H x W pixels, D the ViT's hidden size, h x w the cells of a layer, N = h w.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .modeling_vit_unet import ViTUNetForImageDenoising
from .opened_network import OpenedNetwork, Seen
from .principal_maps import enlarged, kernel_principal_map, principal_map
from .sharpness import sharpness_scores

HIGHEST_OCTAVE = (0.25, 0.5)  # cycles per pixel
TINY = np.finfo(np.float32).tiny  # makes 0 / 0 zero, and changes no other quotient


@dataclass(frozen=True)
class Target:
    """A number that takes the place of a class score.

    Args:
        label: as a page names it.
        score: what has been seen, a mask (H, W), a band of frequencies -> a tensor without extent.
        of_tokens: it is computed from the ViT's tokens, so that the U-Net has no part in it.
    """

    label: str
    score: Callable[[Seen, Tensor | None, tuple[float, float]], Tensor]
    of_tokens: bool = False


def _change(seen: Seen, region, band) -> Tensor:
    return (seen.restored - seen.noisy).square().mean()


def _region(seen: Seen, region: Tensor, band) -> Tensor:
    return ((seen.restored - seen.noisy).square().mean(0) * region).sum() / region.sum()


def _sharpness(seen: Seen, region, band) -> Tensor:
    return sharpness_scores(seen.restored[None]).mean()


def _band_energy(seen: Seen, region, band: tuple[float, float]) -> Tensor:
    """Mean power of the restored image between two radial frequencies, of the orthonormal transform."""
    power = torch.fft.fft2(seen.restored, norm="ortho").abs().square().mean(0)
    rows, columns = (torch.fft.fftfreq(side, device=power.device) for side in power.shape)
    radius = torch.hypot(rows[:, None], columns[None, :])
    inside = (radius >= band[0]) & (radius <= band[1])
    return (power * inside).sum() / inside.sum().clamp_min(1)


def _token_mean(seen: Seen, region, band) -> Tensor:
    return seen.tokens.mean()


def _token_norm(seen: Seen, region, band) -> Tensor:
    return seen.tokens.norm(dim=0).mean()


TARGETS: Mapping[str, Target] = {
    "restoration_change": Target("mean squared change", _change),
    "region": Target("mean squared change inside a region", _region),
    "sharpness": Target("local sharpness of the result", _sharpness),
    "band_energy": Target("energy of a frequency band of the result", _band_energy),
    "token_mean": Target("mean of the ViT's tokens", _token_mean, of_tokens=True),
    "token_norm": Target("norm of the ViT's tokens", _token_norm, of_tokens=True),
}


class _Own:
    """Leaves maps on the layers' own grids, which what enlarges them knows, and gives one for each layer."""

    def get_target_width_height(self, input_tensor):
        return None

    def compute_cam_per_layer(self, input_tensor, targets, eigen_smooth):
        # The library notes gradients as they come, which is not in the order of the layers where paths part.
        if self.uses_gradients:
            gradients = self.model.gradients
            self.activations_and_grads.gradients = [gradients[name] for name in self.model.layers]
        return super().compute_cam_per_layer(input_tensor, targets, eigen_smooth)

    def aggregate_multi_layers(self, cam_per_target_layer):
        return [maps[0, 0] for maps in cam_per_target_layer]  # (h, w) each


class _Principal(_Own):
    def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
        return np.stack([principal_map(features) for features in activations])


class _KernelPrincipal(_Own):
    def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
        return np.stack([kernel_principal_map(features) for features in activations])


class _PrincipalOfProduct(_Own):
    def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
        return np.stack([principal_map(product, product.sum(axis=0)) for product in grads * activations])


class _PlusPlus(_Own):
    """Grad-CAM++ (Chattopadhay et al. 2018): a channel weighs the sum of relu(g) / (2 + S g), S its sum of |features|.

    The weight depends on the unit of S g. It is the one in which the layer's largest |g| is 1, and S is 1 on the mean
    of the channels: then neither the target's scale, nor the features', nor the number of cells has a part in it.
    """

    def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
        sums = np.abs(activations).sum(axis=(2, 3), keepdims=True)  # (B, C, 1, 1)
        sums = sums / (sums.mean(axis=1, keepdims=True) + TINY)
        raising = np.maximum(grads, 0) / (np.abs(grads).max(axis=(1, 2, 3), keepdims=True) + TINY)
        return (raising / (2 + sums * raising)).sum(axis=(2, 3))


class _AxiomBased(_Own):
    """XGrad-CAM (Fu et al. 2020): a channel weighs the mean of its gradient, each cell counting by its |feature|.

    Where features are not negative that is as published. Features and negated features have one map.
    """

    def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
        sizes = np.abs(activations)
        return (grads * sizes).sum(axis=(2, 3)) / (sizes.sum(axis=(2, 3)) + TINY)


class _Score(_Own):
    """Score-CAM (Wang et al. 2020): the masks that channels are, weighed by how the target rates what they let through.

    Targets have units of their own, so the softmax is taken over standardised scores. Features may be negative
    here, so the map is the sum of the masks in [0, 1], not of the features.
    """

    def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
        opened, size = self.model, input_tensor.shape[-2:]
        (stride,) = opened.strides.values()
        self.activations_and_grads.release()  # it would keep the features of every run
        chosen = _channels_to_run(activations[0], self.max_channels)
        masks = [rescaled(torch.from_numpy(activations[0, channel])) for channel in chosen]

        def score(mask: Tensor) -> float:
            seen = opened(input_tensor * enlarged(mask, stride, size).to(input_tensor))[0]
            return targets[0](seen).item()

        scores = np.array([score(mask) for mask in masks])
        weights = np.exp((scores - scores.mean()) / (scores.std() or 1.0))
        return np.tensordot(weights, np.stack(masks), axes=1)[None]


class _Ablation(_Own):
    """Ablation-CAM (Desai & Ramaswamy 2020): by how much the target falls where a channel is set to 0.

    The library sets it to -1e7 where features may be negative, which says nothing of a network without classes.
    """

    def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
        opened = self.model
        self.activations_and_grads.release()

        def score(scale: Tensor) -> float:
            opened.scale = scale.to(input_tensor)
            return targets[0](opened(input_tensor)[0]).item()

        channels = torch.eye(activations.shape[1])[:, :, None, None]  # (C, C, 1, 1)
        whole = score(torch.ones(1))
        weights = np.zeros((1, len(channels)))
        for channel in _channels_to_run(activations[0], self.max_channels):
            weights[0, channel] = whole - score(1 - channels[channel])
        return weights


def _channels_to_run(features: np.ndarray, count: int | None) -> np.ndarray:
    """(C, h, w) -> the channels with the largest variance."""
    return np.argsort(-features.var(axis=(1, 2)), kind="stable")[:count]


@dataclass(frozen=True)
class Method:
    """A way from features to a map.

    Args:
        label: as the field writes it.
        library_class: its name in pytorch-grad-cam.
        adapted: what the denoiser needs to be otherwise.
        uses_gradient: of the target.
        uses_target: where not, the target has no effect.
        runs_per_channel: the network runs once for every channel of the layer: slow.
    """

    label: str
    library_class: str
    adapted: type = _Own
    uses_gradient: bool = True
    uses_target: bool = True
    runs_per_channel: bool = False


METHODS: Mapping[str, Method] = {
    "eigencam": Method("EigenCAM", "EigenCAM", _Principal, uses_gradient=False, uses_target=False),
    "kpca": Method("KPCA-CAM", "KPCA_CAM", _KernelPrincipal, uses_gradient=False, uses_target=False),
    "gradcam": Method("Grad-CAM", "GradCAM"),
    "gradcam++": Method("Grad-CAM++", "GradCAMPlusPlus", _PlusPlus),
    "xgradcam": Method("XGrad-CAM", "XGradCAM", _AxiomBased),
    "layercam": Method("LayerCAM", "LayerCAM"),
    "hirescam": Method("HiResCAM", "HiResCAM"),
    "eigengradcam": Method("EigenGradCAM", "EigenGradCAM", _PrincipalOfProduct),
    "scorecam": Method("Score-CAM", "ScoreCAM", _Score, uses_gradient=False, runs_per_channel=True),
    "ablationcam": Method("Ablation-CAM", "AblationCAM", _Ablation, uses_gradient=False, runs_per_channel=True),
}


def layer_names(model: ViTUNetForImageDenoising) -> list[str]:
    """The layers to look at, in the order of the network.

    `"vit.0"` ... are the ViT's layers and `"vit"` its final normalisation; `"encoder.0"` ... and `"decoder.0"` ... are
    the U-Net's levels, 0 the finest. A level without blocks has no features of its own, and is left out.
    """
    names = []
    if model.config.use_vit:
        names += [f"vit.{index}" for index in range(model.config.vit_config.num_hidden_layers)] + ["vit"]
    names += [f"encoder.{level}" for level, depth in enumerate(model.config.encoder_blocks) if depth]
    return [*names, "bottleneck", *(f"decoder.{level}" for level in reversed(range(len(model.config.decoder_blocks))))]


def activation_map(
    model: ViTUNetForImageDenoising,
    pixel_values: Tensor,
    method: str = "eigencam",
    layer: str = "vit",
    target: str = "restoration_change",
    **options,
) -> Tensor:
    """[`activation_maps`] of one layer, with its options: (H, W), float32 in [0, 1] on the CPU."""
    return activation_maps(model, pixel_values, method, (layer,), target, **options)[layer]


def activation_maps(
    model: ViTUNetForImageDenoising,
    pixel_values: Tensor,
    method: str = "eigencam",
    layers: Sequence[str] | None = None,
    target: str = "restoration_change",
    *,
    loss_weights: Mapping[str, float | Tensor] | None = None,
    high_frequency_emphasis: float | Tensor | None = None,
    noise_level: float | Tensor | None = None,
    region: Tensor | None = None,
    band: tuple[float, float] = HIGHEST_OCTAVE,
    max_channels: int | None = None,
) -> dict[str, Tensor]:
    """Where in an image layers respond, or where they matter to a target. One run of the network serves all of them.

    The model stays as it is: its gradients, its hooks and its mode are not touched, so that other threads may use it.

    Args:
        pixel_values: the noisy image (1, C, H, W) or (C, H, W), float in [0, 1], any size.
        method: one of `METHODS`. EigenCAM and KPCA-CAM take no notice of the target.
        layers: of [`layer_names`]. Default: all.
        target: one of `TARGETS`; those of tokens need one of the ViT's layers.
        loss_weights, high_frequency_emphasis: the controls, as the model's `forward` takes them. The contracting path
            and the ViT know nothing of them: there they act, and are checked, where the target looks at the result.
        noise_level: as the model's `forward` takes it.
        region: mask (H, W) of the target `"region"`: anything above 0 is inside, and values weigh.
        band: lowest and highest radial frequency of the target `"band_energy"`, in cycles per pixel.
        max_channels: Score-CAM and Ablation-CAM examine only so many channels, those with the largest variance
            over the image; the others weigh 0. Default: all.

    Returns:
        By layer: (H, W), float32 in [0, 1] on the CPU, bilinear between the centres of the layer's cells.

    Raises:
        ValueError: names the value and the remedy.
        ImportError: without pytorch-grad-cam.
    """
    names = layer_names(model)
    layers = names if layers is None else layers
    for value, known in ((method, METHODS), (target, TARGETS), *((layer, names) for layer in layers)):
        if value not in known:
            raise ValueError(f"{value!r} is not among {list(known)}: choose one of them.")
    row = METHODS[method]
    if max_channels is not None and max_channels < 1:
        raise ValueError(f"max_channels={max_channels} must be at least 1, or None for all.")
    with torch.inference_mode(False), torch.set_grad_enabled(row.uses_gradient):
        image = (pixel_values[None] if pixel_values.ndim == 3 else pixel_values).detach().clone()
        image = image.to(model.device, torch.float32)
        if image.ndim != 4 or len(image) != 1:
            raise ValueError(f"One image (C, H, W) or (1, C, H, W) is needed, got {tuple(pixel_values.shape)}.")
        if row.uses_target:
            region = _checked(target, layers, region, image, band)
        looks_at_result = row.uses_target and not TARGETS[target].of_tokens
        maps = {}
        for together in [(layer,) for layer in layers] if row.runs_per_channel else [tuple(layers)]:
            is_decoded = looks_at_result or any(layer.startswith(("bottleneck", "decoder")) for layer in together)
            controls = (loss_weights, high_frequency_emphasis) if is_decoded else None
            opened = OpenedNetwork(model, together, controls, noise_level)
            camera = _camera_class(row)(opened, list(opened.layers.values()))
            camera.max_channels = max_channels
            small = camera(image, [lambda seen: TARGETS[target].score(seen, region, band)])
            for layer, cells in zip(opened.layers, small, strict=True):
                maps[layer] = rescaled(enlarged(torch.from_numpy(cells), opened.strides[layer], image.shape[-2:]))
    return {layer: maps[layer] for layer in layers}


def _checked(target: str, layers: Sequence[str], region: Tensor | None, image: Tensor, band) -> Tensor | None:
    outside = [layer for layer in layers if not layer.startswith("vit")]
    if TARGETS[target].of_tokens and outside:
        raise ValueError(
            f"The target {target!r} does not depend on the layer {outside[0]!r}: choose one of the ViT's, or another "
            "target."
        )
    if not 0 <= band[0] < band[1]:
        raise ValueError(f"band={band} must be two frequencies in cycles per pixel, the lower one first.")
    if target != "region":
        return None
    if region is None or tuple(region.shape) != tuple(image.shape[-2:]) or not bool((region > 0).any()):
        given = "none" if region is None else f"one of shape {tuple(region.shape)}"
        raise ValueError(
            f"The target 'region' needs a mask of shape {tuple(image.shape[-2:])} that is not empty, got {given}."
        )
    return region.to(image).clamp_min(0)


def _camera_class(row: Method) -> type:
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise ImportError("Activation maps need pytorch-grad-cam: `pip install grad-cam`.") from error
    library_class = getattr(pytorch_grad_cam, row.library_class)
    return type(row.library_class, (row.adapted, library_class), {})


def rescaled(values: Tensor) -> Tensor:
    """Values -> [0, 1], their least and greatest; 0 where all are the same."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def filtered(activation: Tensor, low: float = 0.4, high: float = 0.9) -> Tensor:
    """Keeps what lies between two thresholds, rescaled to [0, 1]; the rest is 0 (first post, its thresholds).

    Raises `ValueError` unless 0 <= low < high <= 1.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"The thresholds {low} and {high} must satisfy 0 <= low < high <= 1.")
    kept = (activation >= low) & (activation <= high)
    result = torch.zeros_like(activation)
    if kept.any():
        result[kept] = rescaled(activation[kept])
    return result
