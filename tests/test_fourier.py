"""Ring sums and filters against full-spectrum sums in numpy and against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from clearice import fourier
from tolerances import ABSOLUTE, RELATIVE

Array = np.ndarray[Any, np.dtype[np.float64]]

SHAPES = [(16, 16), (15, 15), (16, 15), (15, 16), (33, 20), (1, 8), (8, 1), (7, 2)]


def _noise(height: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(height, width, generator=generator, dtype=torch.float64)


def _radius(height: int, width: int) -> Array:
    fy, fx = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    return np.hypot(fy, fx)


def _brute_force(x: Tensor, y: Tensor, n_rings: int, n_all: int) -> dict[str, Array]:
    """Loop over rings of the full spectrum, each bin counted once."""
    fx, fy = np.fft.fft2(x.numpy()), np.fft.fft2(y.numpy())
    radius = _radius(*x.shape) * 2 * n_rings
    sums: dict[str, list[float]] = {"cross": [], "power_x": [], "power_y": [], "count": []}
    for ring in range(n_all):
        inside = (radius >= ring) & (radius < ring + 1)
        sums["cross"].append(float((fx * fy.conj())[inside].real.sum()))
        sums["power_x"].append(float((abs(fx) ** 2)[inside].sum()))
        sums["power_y"].append(float((abs(fy) ** 2)[inside].sum()))
        sums["count"].append(float(inside.sum()))
    return {name: np.array(values) for name, values in sums.items()}


def _assert_sums_agree(x: Tensor, y: Tensor, n_rings: int, *, corners: bool) -> None:
    found = fourier.ring_sums(x, y, n_rings, corners=corners)
    n_all = fourier.rings_to_corner(n_rings) if corners else n_rings
    for name, expected in _brute_force(x, y, n_rings, n_all).items():
        np.testing.assert_allclose(getattr(found, name).numpy(), expected, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_ring_sums_are_those_of_the_full_spectrum(height: int, width: int, corners: bool) -> None:
    _assert_sums_agree(_noise(height, width, 1), _noise(height, width, 2), 5, corners=corners)


@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 12), st.booleans())
def test_ring_sums_are_right_for_any_size(
    height: int, width: int, n_rings: int, corners: bool
) -> None:
    edges = _radius(height, width) * 2 * n_rings
    # Where a bin lies on the edge of a ring to the last digit, either ring is right.
    assume(not ((abs(edges - edges.round()) < 1e-9) & (edges != edges.round())).any())
    _assert_sums_agree(_noise(height, width, 3), _noise(height, width, 4), n_rings, corners=corners)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30))
def test_rings_to_the_corner_hold_every_pixel_and_all_power(
    height: int, width: int, n_rings: int
) -> None:
    image = _noise(height, width, 5)
    sums = fourier.ring_sums(image, image, n_rings, corners=True)
    pixels = height * width
    assert len(sums.count) == fourier.rings_to_corner(n_rings)
    assert float(sums.count.sum()) == pixels
    assert math.isclose(
        float(sums.power_x.sum()), pixels * float(image.square().sum()), rel_tol=1e-10
    )


@given(st.integers(1, 20), st.integers(1, 20))
def test_parseval_holds_with_the_half_spectrum_weights(height: int, width: int) -> None:
    image = _noise(height, width, 6)
    power = torch.fft.rfft2(image).abs().square()
    weights = fourier.half_spectrum_weights(width, image)
    assert math.isclose(
        float((power * weights).sum()), height * width * float(image.square().sum()), rel_tol=1e-10
    )


def test_half_spectrum_weights_follow_the_dtype() -> None:
    assert fourier.half_spectrum_weights(4, torch.zeros(1, dtype=torch.float64)).dtype == (
        torch.float64
    )
    assert fourier.half_spectrum_weights(4, torch.zeros(1)).tolist() == [1, 2, 1]
    assert fourier.half_spectrum_weights(5, torch.zeros(1)).tolist() == [1, 2, 2]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_frequency_grid_is_half_of_the_full_one(height: int, width: int) -> None:
    grid = fourier.frequency_grid(height, width, dtype=torch.float64)
    full = _radius(height, width)[:, : width // 2 + 1]
    np.testing.assert_allclose(grid.numpy(), full, atol=1e-15)


def test_ring_frequencies_are_the_middles_up_to_nyquist() -> None:
    middles = fourier.ring_frequencies(4)
    assert middles.tolist() == [0.0625, 0.1875, 0.3125, 0.4375]
    corners = fourier.ring_frequencies(4, corners=True)
    assert len(corners) == fourier.rings_to_corner(4)
    assert corners[:4].tolist() == middles.tolist()


def test_a_cosine_falls_in_the_ring_of_its_frequency() -> None:
    x = torch.arange(64, dtype=torch.float64)
    image = torch.cos(2 * math.pi * 10 / 64 * x).expand(64, 64)
    sums = fourier.ring_sums(image, image, 32)
    assert int(sums.power_x.argmax()) == 10
    assert math.isclose(float(sums.power_x[10]), float(sums.power_x.sum()), rel_tol=1e-10)


def test_adding_ring_sums_pools_images() -> None:
    pairs = [(_noise(12, 12, s), _noise(12, 12, s + 50)) for s in range(2)]
    first, second = (fourier.ring_sums(x, y, 6) for x, y in pairs)
    pooled = first + second
    for name in ("cross", "power_x", "power_y", "count"):
        torch.testing.assert_close(
            getattr(pooled, name), getattr(first, name) + getattr(second, name)
        )


def test_ring_sums_are_computed_in_float64_whatever_comes_in() -> None:
    image = _noise(16, 16, 7).float()
    assert fourier.ring_sums(image, image, 4).cross.dtype == torch.float64


def _cosine(cycles_y: int, cycles_x: int, size: int, dtype: torch.dtype) -> tuple[Tensor, "float"]:
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float64),) * 2, indexing="ij")
    image = torch.cos(2 * math.pi * (cycles_y * y + cycles_x * x) / size)
    return image.to(dtype), math.hypot(cycles_y, cycles_x) / size


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(st.integers(-10, 10), st.integers(0, 10), st.floats(0.1, 5))
def test_the_gaussian_lowpass_scales_a_cosine_by_its_transfer(
    dtype: torch.dtype, cycles_y: int, cycles_x: int, sigma_px: float
) -> None:
    image, frequency = _cosine(cycles_y, cycles_x, 24, dtype)
    expected = image * math.exp(-2 * math.pi**2 * sigma_px**2 * frequency**2)
    torch.testing.assert_close(
        fourier.gaussian_lowpass(image, sigma_px),
        expected,
        rtol=RELATIVE[dtype],
        atol=ABSOLUTE[dtype],
    )


def test_the_gaussian_lowpass_of_a_point_is_a_gaussian() -> None:
    image = torch.zeros(65, 65, dtype=torch.float64)
    image[32, 32] = 1.0
    sigma = 3.0
    axis = torch.arange(65, dtype=torch.float64) - 32
    one = torch.exp(-0.5 * (axis / sigma).square()) / (sigma * math.sqrt(2 * math.pi))
    torch.testing.assert_close(
        fourier.gaussian_lowpass(image, sigma), one[:, None] * one, rtol=0, atol=1e-8
    )


@given(st.integers(-10, 10), st.integers(0, 10), st.floats(0.01, 0.4))
def test_the_highpass_scales_a_cosine_by_its_transfer(
    cycles_y: int, cycles_x: int, cutoff: float
) -> None:
    image, frequency = _cosine(cycles_y, cycles_x, 24, torch.float64)
    expected = image * (1 - 2.0 ** (-((frequency / cutoff) ** 2)))
    torch.testing.assert_close(fourier.highpass(image, cutoff), expected, rtol=1e-9, atol=1e-9)


def test_the_highpass_removes_the_mean_and_halves_at_its_cutoff() -> None:
    constant = torch.full((20, 20), 7.0, dtype=torch.float64)
    assert float(fourier.highpass(constant, 0.1).abs().max()) < 1e-12
    image, frequency = _cosine(0, 5, 20, torch.float64)
    torch.testing.assert_close(fourier.highpass(image, frequency), image / 2)


def test_filters_treat_a_batch_as_single_images_and_leave_their_argument() -> None:
    batch = torch.stack([_noise(9, 12, s) for s in range(6)]).reshape(2, 3, 9, 12)
    before = batch.clone()
    filtered = fourier.gaussian_lowpass(batch, 1.5)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(filtered[i, j], fourier.gaussian_lowpass(batch[i, j], 1.5))
    assert torch.equal(batch, before)


@given(st.integers(2, 20), st.integers(2, 20), st.integers(-30, 30), st.integers(-30, 30))
def test_a_whole_pixel_shift_is_a_roll(height: int, width: int, down: int, right: int) -> None:
    image = _noise(height, width, 8)
    spectrum = fourier.shift_spectrum(torch.fft.rfft2(image), width, (down, right))
    shifted = torch.fft.irfft2(spectrum, s=(height, width))
    torch.testing.assert_close(shifted, torch.roll(image, (down, right), (0, 1)))


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_any_shift_keeps_the_power_of_white_noise(down: float, right: float) -> None:
    size = 64
    image = _noise(size, size, 9)
    spectrum = fourier.shift_spectrum(torch.fft.rfft2(image), size, (down, right))
    shifted = torch.fft.irfft2(spectrum, s=(size, size))
    # The Nyquist column of a real image cannot hold a fractional shift: one column in `size`.
    sums = [fourier.ring_sums(i, i, 8).power_x for i in (image, shifted)]
    torch.testing.assert_close(sums[1][:7], sums[0][:7], rtol=1e-9, atol=1e-9)
    lost = 1 - float(shifted.square().sum() / image.square().sum())
    assert -1e-9 <= lost < 2 / size


def test_a_fractional_shift_moves_a_smooth_image_by_that_much() -> None:
    x = torch.arange(32, dtype=torch.float64)
    image = torch.cos(2 * math.pi * 3 / 32 * x).expand(30, 32)
    spectrum = fourier.shift_spectrum(torch.fft.rfft2(image), 32, (0.0, 0.3))
    expected = torch.cos(2 * math.pi * 3 / 32 * (x - 0.3)).expand(30, 32)
    torch.testing.assert_close(torch.fft.irfft2(spectrum, s=(30, 32)), expected)


def _shift_keeping_power(image: Tensor, down: float, right: float) -> Tensor:
    spectrum = fourier.shift_keeping_power(torch.fft.rfft2(image), image.shape[1], (down, right))
    return torch.fft.irfft2(spectrum, s=tuple(image.shape))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(-30, 30), st.integers(-30, 30))
def test_a_whole_pixel_shift_that_keeps_power_is_a_roll(
    height: int, width: int, down: int, right: int
) -> None:
    image = _noise(height, width, 12)
    shifted = _shift_keeping_power(image, down, right)
    torch.testing.assert_close(shifted, torch.roll(image, (down, right), (0, 1)))


@given(st.integers(1, 20), st.integers(1, 20), st.floats(-5, 5), st.floats(-5, 5))
def test_a_shift_that_keeps_power_keeps_that_of_every_fourier_pixel(
    height: int, width: int, down: float, right: float
) -> None:
    image = _noise(height, width, 13)
    before = image.clone()
    shifted = _shift_keeping_power(image, down, right)
    # Through a real image and back: nothing was lost at the mirror columns either.
    torch.testing.assert_close(torch.fft.rfft2(shifted).abs(), torch.fft.rfft2(image).abs())
    torch.testing.assert_close(_shift_keeping_power(shifted, -down, -right), image)
    assert torch.equal(image, before)


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_both_shifts_agree_where_no_axis_is_even(down: float, right: float) -> None:
    spectrum = torch.fft.rfft2(_noise(15, 17, 14))
    torch.testing.assert_close(
        fourier.shift_keeping_power(spectrum, 17, (down, right)),
        fourier.shift_spectrum(spectrum, 17, (down, right)),
    )


def test_a_shift_that_keeps_power_is_as_precise_as_its_dtype_in_large_images() -> None:
    image = _noise(1024, 64, 15).float()
    shifted = _shift_keeping_power(image, 500.0, -31.0)
    torch.testing.assert_close(shifted, torch.roll(image, (500, -31), (0, 1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 18), (21, 21)])
def test_ring_gain_multiplies_each_ring_of_the_full_spectrum(height: int, width: int) -> None:
    image = _noise(height, width, 10)
    gain = torch.tensor([1.0, 0.5, 2.0, 0.0, 0.25], dtype=torch.float64)
    ring = np.minimum((_radius(height, width) * 10).astype(int), 4)
    expected = np.fft.ifft2(np.fft.fft2(image.numpy()) * gain.numpy()[ring]).real
    np.testing.assert_allclose(fourier.apply_ring_gain(image, gain).numpy(), expected, atol=1e-12)


def test_a_ring_gain_of_one_changes_nothing_and_keeps_the_dtype() -> None:
    image = _noise(17, 12, 11).float()
    out = fourier.apply_ring_gain(image, torch.ones(6, dtype=torch.float64))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, image)


@pytest.mark.parametrize("shape", [(64, 80), (65, 81)])
def test_stripes_lie_on_an_axis_and_nothing_beside_it_does(shape: tuple[int, int]) -> None:
    height, width = shape
    y, x = torch.arange(height)[:, None], torch.arange(width)[None, :]
    rows = torch.cos(2 * torch.pi * 20 * y / height).expand(shape)  # differ from row to row
    columns = torch.cos(2 * torch.pi * 20 * x / width).expand(shape)
    masks = fourier.stripe_masks(height, width, 1 / 8, (2, 5))
    for stripes, on in ((rows, 0), (columns, 2)):
        power = torch.fft.rfft2(stripes).abs().square()
        shares = [float(power[mask].sum() / power.sum()) for mask in masks]
        assert shares[on] > 0.49  # of the waves along the columns, half are mirrored
        assert sum(shares) - shares[on] < 1e-6
    assert not (masks[0] & masks[1]).any()
    assert not (masks[2] & masks[3]).any()
