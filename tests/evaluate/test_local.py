"""Local moments against closed forms and direct sums."""

from __future__ import annotations

import math

import pytest
import torch

from clearice.evaluate.local import (
    band_limited,
    band_transfer,
    bin_factor,
    enlarge,
    interpolated,
    local_mean,
    local_r2,
    window_pixels,
)


def test_both_cut_offs_are_at_half_of_the_amplitude() -> None:
    assert float(band_transfer(torch.tensor(1 / 20.0, dtype=torch.float64))) == pytest.approx(
        0.5 * (1 - 2 ** -((400 / 20) ** 2))
    )
    assert float(band_transfer(torch.tensor(1 / 400.0, dtype=torch.float64))) == pytest.approx(
        0.5 * 2 ** -((20 / 400) ** 2)
    )


@pytest.mark.parametrize("wavelength", [40.0, 100.0])
@pytest.mark.parametrize(("pixel", "length"), [(5.0, 401), (1.3, 1203)])
def test_a_wave_passes_with_the_transfer_of_its_frequency(
    wavelength: float, pixel: float, length: int
) -> None:
    def wave(x: torch.Tensor) -> torch.Tensor:
        return torch.cos(2 * math.pi * x * pixel / wavelength).expand(300, -1)

    factor = bin_factor(pixel)
    passed = band_limited(wave(torch.arange(length, dtype=torch.float64)), pixel)
    assert passed.shape == (-(-300 // factor), -(-length // factor))
    # Blocks count at their middle.
    middles = torch.arange(passed.shape[1], dtype=torch.float64) * factor + (factor - 1) / 2
    expected = float(band_transfer(torch.tensor(1 / wavelength))) * wave(middles)[: len(passed)]
    inside = slice(passed.shape[1] * 2 // 5, passed.shape[1] * 3 // 5)
    assert float((passed - expected)[:, inside].abs().max()) < 2e-2


def test_a_gradient_of_the_ice_leaves_no_more_at_the_edges_than_its_bend_there() -> None:
    gradient = torch.linspace(0, 100, 300).expand(280, -1)
    assert float(band_limited(gradient, 5.0).abs().max()) < 10


def test_the_window_is_a_gaussian_of_150_angstrom() -> None:
    point = torch.zeros(200, 160, dtype=torch.float64)
    point[100, 80] = 1
    around = local_mean(point, 5.0)
    assert float(around.sum()) == pytest.approx(1)
    assert float(around[100, 80 + 15] / around[100, 80]) == pytest.approx(0.5, rel=1e-6)
    assert float(1 / around.square().sum()) == pytest.approx(window_pixels(5.0), rel=1e-3)


def test_a_constant_is_its_own_local_mean_up_to_the_edges() -> None:
    constant = torch.full((50, 40), 3.0, dtype=torch.float64)
    torch.testing.assert_close(local_mean(constant, 5.0), constant)


@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
def test_the_local_correlation_of_fields_with_a_known_one(
    r: float, generator: torch.Generator
) -> None:
    one, other = torch.randn(2, 300, 300, generator=generator)
    x = band_limited(one, 5.0)
    y = band_limited(r * one + math.sqrt(1 - r * r) * other, 5.0)
    # Chance adds (1 − r²)/n, n the independent samples in a window: some 100.
    assert float(local_r2(x, y, 5.0).mean()) == pytest.approx(r * r, abs=0.03)
    torch.testing.assert_close(local_r2(x, y, 5.0), local_r2(y, -2 * x, 5.0))


def test_empty_places_correlate_with_nothing() -> None:
    zero = torch.zeros(20, 20, dtype=torch.float64)
    assert float(local_r2(zero, zero, 5.0).max()) == 0


def test_binning_and_back_keep_size_and_place() -> None:
    assert (bin_factor(1.315), bin_factor(3.4), bin_factor(10.0)) == (5, 1, 1)
    wave = torch.cos(torch.arange(203) / 20).expand(101, -1)
    small = band_limited(wave, 1.315)
    assert small.shape == (21, 41)
    assert enlarge(small, (101, 203), 5).shape == (101, 203)


def test_a_broken_line_goes_through_its_knots() -> None:
    knots, heights = (0.0, 1.0, 3.0), (2.0, 4.0, 0.0)
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 9.0])
    expected = torch.tensor([2.0, 2.0, 3.0, 4.0, 2.0, 0.0, 0.0])
    torch.testing.assert_close(interpolated(values, knots, heights), expected)
