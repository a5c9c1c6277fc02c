"""Growing: the same function, more parameters, and all of them learn."""

from __future__ import annotations

import pytest
import torch

from modeling import ViTUNetForImageDenoising
from tests.conftest import TINY_HYBRID, randomised, tiny_config
from training.grow import grown, main

WIDER = {"hidden_sizes": (12, 20, 32), "vit_projection_sizes": (32,)}
DEEPER = {"encoder_blocks": (2, 1, 3), "decoder_blocks": (1, 2), "bottleneck_blocks": 2}


@pytest.mark.parametrize("block_type", ["residual", "gated"])
@pytest.mark.parametrize("changes", [WIDER, DEEPER, WIDER | DEEPER])
def test_the_function_stays(changes, block_type):
    torch.manual_seed(0)
    model = randomised(ViTUNetForImageDenoising(tiny_config(block_type=block_type)))
    if block_type == "gated" and "hidden_sizes" in changes:
        with pytest.raises(ValueError, match="normalised over channels"):
            grown(model, **changes)
        return
    larger = grown(model, **changes)
    noisy, setting = torch.rand(1, 3, 40, 33), {"loss_weights": {"pixel": 0.4, "wavelet": 0.6}}
    torch.testing.assert_close(larger(noisy, **setting).reconstruction, model(noisy, **setting).reconstruction)
    assert larger.num_parameters() > model.num_parameters()


def test_what_is_new_learns(model):
    larger = grown(model, **WIDER, **DEEPER).train()
    larger(torch.rand(2, 3, 32, 32), labels=torch.rand(2, 3, 32, 32)).loss.backward()
    old = dict(model.named_parameters())
    for name, parameter in larger.named_parameters():
        if name not in old and name.endswith("conv2.weight"):
            assert parameter.grad.abs().sum() > 0, name
        if name in old and parameter.shape != old[name].shape and name.endswith("conv1.weight"):
            fresh = parameter.grad[:, old[name].shape[1] :]  # what is done with new inputs
            assert not fresh.numel() or fresh.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_sizes": (4, 16, 24)}, "would shrink"),
        ({"hidden_sizes": (8, 16, 24, 32)}, "must keep 3 levels"),
        ({"vit_projection_sizes": (24, 24)}, "must keep 1 layers"),
        ({"use_vit": False}, "grow"),
        ({"pixel_unshuffle": 4}, "grow"),
    ],
)
def test_what_does_not_fit_is_refused(model, changes, message):
    with pytest.raises(ValueError, match=message):
        grown(model, **changes)


def test_the_posts_network_grows(tmp_path):
    model = randomised(ViTUNetForImageDenoising(ViTUNetForImageDenoising.config_class.hybrid_vit_base(**TINY_HYBRID)))
    for changes, message in (
        ({"bottleneck_blocks": 2}, "not residual"),
        ({"hidden_sizes": (8, 8, 16, 32)}, "concatenation"),
    ):
        with pytest.raises(ValueError, match=message):
            grown(model, **changes)
    model.save_pretrained(tmp_path / "small")
    fields = '{"vit_projection_sizes": [40, 32]}'
    main(["--model", str(tmp_path / "small"), "--model_config", fields, "--output_dir", str(tmp_path / "large")])
    larger = ViTUNetForImageDenoising.from_pretrained(tmp_path / "large")
    noisy = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(larger(noisy).reconstruction, model(noisy).reconstruction)
