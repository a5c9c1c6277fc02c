"""The wavelet transform, and the magnitudes of its bands."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from modeling.wavelets import WAVELET_FILTERS, detail_magnitudes, wavelet_bands
from tests.test_losses import pair


@pytest.mark.parametrize("wavelet", WAVELET_FILTERS)
def test_wavelet_is_shift_covariant_and_sees_no_constant(wavelet):
    image, _ = pair(1, 2, 32, 40)
    bands, shifted, raised = (
        torch.stack([band for level in wavelet_bands(picture, wavelet) for band in level])
        for picture in (image, image.roll((3, 5), (-2, -1)), image + 1)
    )
    torch.testing.assert_close(bands.roll((3, 5), (-2, -1)), shifted)
    torch.testing.assert_close(bands, raised)


@pytest.mark.parametrize("wavelet", WAVELET_FILTERS)
def test_wavelet_keeps_energy(wavelet):
    """One level of the undecimated transform is a tight frame: details and approximation hold the image's energy."""
    image, _ = pair(1, 1, 32, 32)
    image = image - image.mean()
    energies = [band.square().sum().item() for level in wavelet_bands(image, wavelet, levels=5) for band in level]
    assert sum(energies) == pytest.approx(image.square().sum().item(), rel=1e-9)  # 2^5 = 32: only the mean is left


@pytest.mark.parametrize("wavelet", WAVELET_FILTERS)
@pytest.mark.parametrize("size", [(23, 18), (5, 40), (1, 1)])
def test_magnitudes_of_wavelet_bands_are_what_the_bands_say(wavelet, size):
    image = pair(2, 3, *size)[0].requires_grad_()
    untouched = image.detach().clone()
    defined = []
    for level, bands in enumerate(wavelet_bands(image, wavelet)):
        block = [min(3 * 2**level, max(length // 2, 1)) for length in size]
        defined += [F.avg_pool2d(band.abs(), block) for band in bands]
    found = detail_magnitudes(image, wavelet, block_size=3)
    with torch.no_grad():
        unrecorded = detail_magnitudes(image, wavelet, block_size=3)
    torch.testing.assert_close(found, defined)
    torch.testing.assert_close(unrecorded, defined)
    assert torch.equal(image, untouched)
    totals = [sum((values * values.shape[-1]).square().sum() for values in each) for each in (found, defined)]
    gradients = [torch.autograd.grad(total, image, retain_graph=True)[0] for total in (*totals, totals[0])]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])  # what is kept for the way back survives it
