"""Weights of bins and tables of rings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearice.fourier import ring_sums
from clearice.losses.frc import frc
from clearice.losses.spectrum import auto_power, bin_shares, cross_power, rings_of

CPU = torch.device("cpu")


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 3))
def test_shares_are_those_of_the_full_spectrum(height: int, width: int, exponent: float) -> None:
    shares = bin_shares((height, width), CPU, torch.float64, exponent=exponent)
    assert abs(float(shares.sum()) - 1) < 1e-12
    power = torch.rand(height, width, dtype=torch.float64)
    full, half = torch.fft.fft2(power), torch.fft.rfft2(power)
    plain = bin_shares((height, width), CPU, torch.float64)
    found = (plain * half.abs().square()).sum() * height * width
    torch.testing.assert_close(found, full.abs().square().sum())


@given(st.integers(3, 24), st.integers(3, 24), st.integers(1, 12), st.booleans())
def test_ring_means_are_those_of_the_ring_sums(
    height: int, width: int, bins: int, corners: bool
) -> None:
    generator = torch.Generator().manual_seed(height * width)
    x, y = torch.randn(2, height, width, generator=generator, dtype=torch.float64)
    sums = ring_sums(x, y, bins, corners=corners)
    high = 0.75 if corners else 0.5
    if not corners and not (sums.count > 0).any():
        return
    rings = rings_of((height, width), CPU, torch.float64, bins=bins, low=0.0, high=high)
    spectra = [torch.fft.rfft2(image)[None, None] for image in (x, y)]
    held = sums.count > 0
    for found, total in (
        (rings.mean(cross_power(*spectra)), sums.cross),
        (rings.mean(auto_power(spectra[0])), sums.power_x),
    ):
        expected = total[held] / (sums.count[held] * height * width)
        torch.testing.assert_close(found[0, 0][held], expected, rtol=1e-9, atol=1e-12)
        assert (found[0, 0][~held] == 0).all()
    torch.testing.assert_close(rings.shares, sums.count / sums.count.sum())
    torch.testing.assert_close(rings.even_shares, held / held.double().sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_table_made_while_validating_serves_training(dtype: torch.dtype) -> None:
    bin_shares.cache_clear()
    rings_of.cache_clear()
    images = torch.randn(2, 2, 1, 14, 14, dtype=dtype)
    with torch.inference_mode():
        expected = frc(images[0], images[1], bins=4)
    prediction = images[0].clone().requires_grad_()
    value = frc(prediction, images[1], bins=4)
    (gradient,) = torch.autograd.grad(value.sum(), prediction)
    assert value.dtype == gradient.dtype == dtype
    assert torch.equal(value.detach(), expected)
    assert rings_of.cache_info().currsize == 1
