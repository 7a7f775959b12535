"""Scores on images whose signal, noise and filter are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clearice import fourier, metrics

SIZE = 256
RINGS = 16
N_SIGMA = 5.0


def _white(generator: torch.Generator, size: int = SIZE) -> Tensor:
    return torch.randn(size, size, generator=generator, dtype=torch.float64)


class _Halves:
    """Signal with a power spectrum that falls with frequency, in two independent noises."""

    def __init__(self, generator: torch.Generator, noise: float = 0.7) -> None:
        self.signal = fourier.radial_filter(_white(generator), lambda f: torch.exp(-2 * f))
        self.even = self.signal + noise * _white(generator)
        self.odd = self.signal + noise * _white(generator)
        middles = fourier.ring_frequencies(RINGS)
        self.snr = torch.exp(-4 * middles) / noise**2
        self.raw = fourier.ring_sums(self.even, self.odd, RINGS)


@pytest.fixture
def halves(generator: torch.Generator) -> _Halves:
    return _Halves(generator)


def _error(sums: fourier.RingSums) -> Tensor:
    """Standard error of a ring correlation of independent noise."""
    return 1 / sums.count.sqrt()


def test_frc_of_an_image_with_itself_is_one(generator: torch.Generator) -> None:
    image = _white(generator)
    ones = torch.ones(RINGS, dtype=torch.float64)
    torch.testing.assert_close(metrics.frc(fourier.ring_sums(image, image, RINGS)), ones)
    torch.testing.assert_close(metrics.frc(fourier.ring_sums(image, -3 * image, RINGS)), -ones)


def test_frc_of_independent_noise_is_zero_within_its_error(generator: torch.Generator) -> None:
    sums = fourier.ring_sums(_white(generator), _white(generator), RINGS)
    deviations = metrics.frc(sums) / _error(sums)
    assert float(deviations.abs().max()) < N_SIGMA
    # And not far too small either: the mean square of a standard normal is 1 ± √(2/n).
    assert 0.1 < float(deviations.square().mean()) < 1 + N_SIGMA * math.sqrt(2 / RINGS)


def test_frc_of_halves_is_snr_over_one_plus_snr(halves: _Halves) -> None:
    expected = halves.snr / (1 + halves.snr)
    difference = (metrics.frc(halves.raw) - expected)[1:]
    assert float((difference / _error(halves.raw)[1:]).abs().max()) < N_SIGMA


def test_frc_of_an_empty_ring_is_zero() -> None:
    image = torch.zeros(8, 8)
    assert metrics.frc(fourier.ring_sums(image, image, 4)).tolist() == [0.0] * 4


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_frc_does_not_depend_on_scale(a: float, b: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = _white(generator, 16), _white(generator, 16)
    torch.testing.assert_close(
        metrics.frc(fourier.ring_sums(a * x, b * y, 4)), metrics.frc(fourier.ring_sums(x, y, 4))
    )


def test_a_radial_filter_keeps_the_truth_correlation_and_gains_nothing(halves: _Halves) -> None:
    gain = torch.linspace(1.0, 0.1, RINGS, dtype=torch.float64)
    denoised = fourier.apply_ring_gain(halves.even, gain)
    sums = fourier.ring_sums(denoised, halves.odd, RINGS)
    truth = metrics.frc(fourier.ring_sums(denoised, halves.signal, RINGS))
    rho = metrics.truth_correlation(sums, halves.raw)
    # d√FRC = dFRC / (2√FRC), and the true correlation fluctuates with the noise as well.
    error = _error(sums) * (1 + 1 / (2 * metrics.frc(halves.raw).sqrt()))
    assert float(((rho - truth) / error)[1:].abs().max()) < N_SIGMA
    ones = torch.ones(RINGS, dtype=torch.float64)
    torch.testing.assert_close(metrics.correlation_gain(sums, halves.raw), ones)
    torch.testing.assert_close(metrics.signal_transfer(sums, halves.raw), gain)


def test_a_smooth_radial_filter_never_gains(halves: _Halves) -> None:
    denoised = fourier.gaussian_lowpass(halves.even, 1.0)
    sums = fourier.ring_sums(denoised, halves.odd, RINGS)
    assert float((metrics.correlation_gain(sums, halves.raw) - _error(sums)).max()) <= 1.0
    middles = fourier.ring_frequencies(RINGS)
    transfer = metrics.signal_transfer(sums, halves.raw)
    # Within a ring the filter is not constant: compare it with its ends.
    edges = 1 / (4 * RINGS)
    upper, lower = (torch.exp(-2 * math.pi**2 * (middles + s * edges) ** 2) for s in (-1, 1))
    slack = N_SIGMA * _error(sums)
    assert bool(((transfer < upper + slack) & (transfer > lower - slack))[1:].all())


def test_the_truth_itself_correlates_fully_and_exceeds_every_filter(halves: _Halves) -> None:
    sums = fourier.ring_sums(halves.signal, halves.odd, RINGS)
    rho = metrics.truth_correlation(sums, halves.raw)
    error = _error(sums) / metrics.frc(halves.raw)
    assert float(((rho - 1) / error)[1:].abs().max()) < N_SIGMA
    gain = metrics.correlation_gain(sums, halves.raw)
    assert float((gain[1:] - 1 / metrics.frc(halves.raw).sqrt()[1:]).abs().max()) < 0.15
    assert float(gain[1:].min()) > 1


def test_ratios_are_nan_where_the_raw_halves_do_not_correlate() -> None:
    values = torch.tensor([1.0, 1.0], dtype=torch.float64)
    raw = fourier.RingSums(torch.tensor([0.5, -0.1], dtype=torch.float64), values, values, values)
    for score in (metrics.truth_correlation, metrics.correlation_gain, metrics.signal_transfer):
        first, second = score(raw, raw).tolist()
        assert math.isfinite(first)
        assert math.isnan(second)


def test_the_wiener_gain_is_that_of_signal_and_noise(halves: _Halves) -> None:
    expected = halves.snr / (1 + halves.snr)
    difference = (metrics.wiener_gain(halves.raw) - expected)[1:]
    assert float((difference / _error(halves.raw)[1:]).abs().max()) < N_SIGMA


def test_the_wiener_gain_is_never_negative_and_zero_without_power() -> None:
    cross = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    power = torch.tensor([1.0, 0.0, 4.0], dtype=torch.float64)
    sums = fourier.RingSums(cross, power, power, power)
    assert metrics.wiener_gain(sums).tolist() == [0.0, 0.0, 0.5]


def test_the_wiener_filter_beats_every_scaling_of_it(halves: _Halves) -> None:
    gain = metrics.wiener_gain(halves.raw)
    errors = [
        float((fourier.apply_ring_gain(halves.even, gain * s) - halves.signal).square().mean())
        for s in (0.8, 1.0, 1.25)
    ]
    assert min(errors) == errors[1]


@given(st.integers(1, 40), st.integers(1, 40))
def test_pooling_keeps_every_sum(n_rings: int, n_bands: int) -> None:
    values = torch.arange(1.0, n_rings + 1, dtype=torch.float64)
    pooled = metrics.pool(fourier.RingSums(values, 2 * values, 3 * values, values), n_bands)
    assert len(pooled.cross) <= n_bands
    assert float(pooled.cross.sum()) == float(values.sum())
    assert pooled.power_x.tolist() == (2 * pooled.cross).tolist()
    assert pooled.power_y.tolist() == (3 * pooled.cross).tolist()


def test_pooling_adds_neighbours() -> None:
    values = torch.arange(5, dtype=torch.float64)
    sums = fourier.RingSums(values, values, values, values)
    assert metrics.pool(sums, 2).cross.tolist() == [3.0, 7.0]


def test_moments_are_those_of_numpy_and_pool(generator: torch.Generator) -> None:
    x, y = 3 + _white(generator, 20), 1e3 + _white(generator, 20)
    y = y + 0.5 * x
    moments = metrics.Moments.of(x, y)
    expected = np.corrcoef(x.flatten().numpy(), y.flatten().numpy())[0, 1]
    assert math.isclose(moments.correlation, expected, rel_tol=1e-10)

    other = metrics.Moments.of(-x, y)
    pooled = moments + other
    assert pooled.count == 800
    assert abs(pooled.correlation) < 1e-12


def test_moments_of_a_constant_image_correlate_with_nothing() -> None:
    constant = torch.full((4, 4), 2.0)
    assert metrics.Moments.of(constant, torch.arange(16.0).reshape(4, 4)).correlation == 0.0


def test_moments_survive_a_large_offset_in_float32(generator: torch.Generator) -> None:
    x = _white(generator, 64)
    shifted = (x + 1e4).float()
    found = metrics.Moments.of(shifted, shifted)
    assert math.isclose(found.correlation, 1.0, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("correlation", "expected"),
    [(0.0, 0.0), (math.sqrt(0.9), 10.0), (-math.sqrt(0.9), 10.0), (math.sqrt(0.99), 20.0)],
)
def test_snr_in_decibels(correlation: float, expected: float) -> None:
    assert math.isclose(metrics.snr_db(correlation), expected, abs_tol=1e-9)


def test_snr_of_a_perfect_image_is_finite() -> None:
    assert math.isfinite(metrics.snr_db(1.0))
    assert metrics.snr_db(1.0 + 1e-12) > 100


def test_snr_is_that_of_signal_and_noise(generator: torch.Generator) -> None:
    # Pearson r² = S/(S+N), so the score is 10 log10(1 + S/N).
    signal, noise = _white(generator), 2 * _white(generator)
    score = metrics.snr_db(metrics.Moments.of(signal + noise, signal).correlation)
    assert math.isclose(score, 10 * math.log10(1 + 1 / 4), abs_tol=0.05)


def test_psnr_closed_form(generator: torch.Generator) -> None:
    truth = _white(generator, 128)
    noise = _white(generator, 128)
    # Noise without mean and orthogonal to the truth, so the best fit leaves it as it is.
    noise = noise - noise.mean()
    centred = truth - truth.mean()
    noise = noise - centred * (noise * centred).sum() / centred.square().sum()
    noise_power, power = float(noise.square().mean()), float(centred.square().mean())
    error = noise_power * power / (power + noise_power)
    span = float(truth.max() - truth.min())
    assert math.isclose(
        metrics.psnr_db(truth + noise, truth), 10 * math.log10(span**2 / error), rel_tol=1e-9
    )


@given(st.floats(0.01, 100) | st.floats(-100, -0.01), st.floats(-1e3, 1e3))
def test_image_scores_do_not_depend_on_scale_and_offset(scale: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(2)
    truth = _white(generator, 24)
    image = truth + 0.5 * _white(generator, 24)
    changed = scale * image + offset
    assert math.isclose(
        metrics.psnr_db(changed, truth), metrics.psnr_db(image, truth), rel_tol=1e-6
    )
    assert math.isclose(metrics.ssim(changed, truth), metrics.ssim(image, truth), rel_tol=1e-6)


def test_the_truth_scores_best(generator: torch.Generator) -> None:
    truth = _white(generator, 32)
    assert metrics.psnr_db(truth, truth) == pytest.approx(120)  # capped, so that scores stay finite
    assert math.isclose(metrics.ssim(truth, truth), 1.0, abs_tol=1e-9)
    assert metrics.ssim(_white(generator, 32), truth) < 0.2


def _reference_ssim(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Wang et al. 2004 as written: an 11 px Gaussian window of 1.5 px, where it fits whole."""
    offsets = np.arange(11) - 5
    line = np.exp(-0.5 * (offsets / 1.5) ** 2)
    window = np.outer(line, line) / line.sum() ** 2

    def mean(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        views = np.lib.stride_tricks.sliding_window_view(image, (11, 11))
        return np.einsum("ijkl,kl->ij", views, window)

    span = y.max() - y.min()
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    top = (2 * mx * my + c1) * (2 * cxy + c2)
    return float((top / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def _similar_pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    truth = fourier.gaussian_lowpass(_white(generator, 48), 2.0)
    return metrics.fit_affine(truth + 0.1 * _white(generator, 48), truth), truth


def test_ssim_is_that_of_its_paper(generator: torch.Generator) -> None:
    image, truth = _similar_pair(generator)
    expected = _reference_ssim(image.numpy(), truth.numpy())
    assert 0.1 < expected < 0.95
    assert math.isclose(metrics.ssim(image, truth), expected, abs_tol=1e-6)


def test_ssim_is_that_of_scikit_image(generator: torch.Generator) -> None:
    skimage = pytest.importorskip("skimage.metrics")
    image, truth = _similar_pair(generator)
    _, full = skimage.structural_similarity(
        image.numpy(),
        truth.numpy(),
        data_range=float(truth.max() - truth.min()),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert math.isclose(metrics.ssim(image, truth), full[5:-5, 5:-5].mean(), abs_tol=1e-6)


def test_the_affine_fit_is_least_squares(generator: torch.Generator) -> None:
    image = _white(generator, 32)
    reference = 2.5 * image - 4 + _white(generator, 32)
    slope, offset = np.polyfit(image.flatten().numpy(), reference.flatten().numpy(), 1)
    torch.testing.assert_close(metrics.fit_affine(image, reference), slope * image + offset)


def test_the_affine_fit_of_a_constant_is_the_mean_of_the_reference() -> None:
    reference = torch.arange(16.0).reshape(4, 4)
    fitted = metrics.fit_affine(torch.full((4, 4), 3.0), reference)
    assert fitted.dtype == torch.float32
    assert bool((fitted == 7.5).all())


def test_highpassed_cuts_at_a_distance_in_angstrom() -> None:
    # 100 px of 2 Å hold two waves of 100 Å: half of it stays at a cutoff of 100 Å.
    x = torch.arange(100, dtype=torch.float64)
    image = torch.cos(2 * math.pi * 2 * x / 100).expand(100, 100)
    torch.testing.assert_close(metrics.highpassed(image, 2.0, 100.0), image / 2)
    assert float(metrics.highpassed(image + 50, 2.0).mean().abs()) < 1e-9


@pytest.mark.parametrize(
    ("x", "y", "samples", "equal"),
    [
        (1.6, 1.7, 4000, True),
        (1.6, 17.0, 4000, False),
        (17.0, 1.6, 4000, False),
        (1.6, 2.2, 4000, False),  # twice the signal-to-noise ratio
        (1.1, 1.4, 4000, False),
        (1.1, 1.4, 40, True),  # by chance, on so few pixels
        (math.inf, math.inf, 40, True),
        (0.0, 2.0, 40, False),
    ],
)
def test_doses_are_told_apart_by_what_stands_above_the_noise(
    x: float, y: float, samples: float, equal: bool
) -> None:
    assert metrics.Colours(x, y, samples).equal_dose is equal


def test_colours_of_white_noise_are_one(generator: torch.Generator) -> None:
    size, pixel_size = 512, 1.5
    one, other = _white(generator, size), _white(generator, size)
    seen = metrics.colours(fourier.ring_sums(one, other, size // 2), size // 2, pixel_size)
    for colour in (seen.x, seen.y):
        assert abs(colour - 1) < 5 / math.sqrt(seen.samples)
