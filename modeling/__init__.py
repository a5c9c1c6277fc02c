"""ViT + U-Net image denoiser on Hugging Face conventions.

Where to begin: `modeling_vit_unet.py` is the network, out of `unet.py` and `vit_features.py`, and
`configuration_vit_unet.py` its settings. `losses.py` is the table of loss terms, computed in `spectra.py`,
`sharpness.py` and `wavelets.py`; `loss_weights.py` turns what a slider says into what network and loss take.

Around it: `image_processing_vit_unet.py` and `image_files.py` read and write images, `pipeline_image_denoising.py` and
`cli.py` restore them, in tiles (`tiling.py`) or as a mean of eight views (`self_ensemble.py`). `degradations.py` makes
noise, `metrics.py` measures. `explain.py` draws activation maps, with `opened_network.py` and `principal_maps.py`.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageToImage
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_vit_unet import ViTUNetConfig
from .image_processing_vit_unet import ViTUNetImageProcessor
from .losses import LOSS_TERMS, PRESETS, TRAINABLE_TERMS
from .modeling_vit_unet import EncodedImage, ImageDenoisingOutput, ViTUNetForImageDenoising
from .pipeline_image_denoising import ImageDenoisingPipeline

# Auto classes find the denoiser where this package is imported ...
AutoConfig.register(ViTUNetConfig.model_type, ViTUNetConfig)
AutoImageProcessor.register(ViTUNetConfig, image_processor_classes={"torchvision": ViTUNetImageProcessor})
AutoModelForImageToImage.register(ViTUNetConfig, ViTUNetForImageDenoising)
PIPELINE_REGISTRY.register_pipeline(
    "image-denoising", pipeline_class=ImageDenoisingPipeline, pt_model=AutoModelForImageToImage, type="image"
)
# ... and, since `save_pretrained` copies the code beside the weights, with `trust_remote_code=True` where it is not.
ViTUNetConfig.register_for_auto_class()
ViTUNetImageProcessor.register_for_auto_class("AutoImageProcessor")
ViTUNetForImageDenoising.register_for_auto_class("AutoModelForImageToImage")

__all__ = [
    "LOSS_TERMS",
    "PRESETS",
    "TRAINABLE_TERMS",
    "EncodedImage",
    "ImageDenoisingOutput",
    "ImageDenoisingPipeline",
    "ViTUNetConfig",
    "ViTUNetForImageDenoising",
    "ViTUNetImageProcessor",
]
