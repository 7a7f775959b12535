"""The report card against closed forms, and against a truth that it does not see."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clearice import metrics
from clearice.evaluate import card, estimates, find_halves
from clearice.evaluate.bootstrap import Estimate, Resampled
from clearice.evaluate.card import Measurements, estimate_slots, make_card, measure_all
from clearice.evaluate.cases import Images
from clearice.evaluate.half_sums import HalfSums, measure
from clearice.evaluate.rows import Rows
from clearice.evaluate.slots import N_BANDS, TOTAL, band_edges, slots_of
from clearice.fourier import gaussian_lowpass
from half_files import Denoise, write_halves

Slots = list[list[Estimate]]


def _measured(folder: Path, denoise: Denoise, **how: float) -> Measurements:
    results = write_halves(folder, denoise, **how)  # type: ignore[arg-type]
    return measure_all(find_halves(results, truth=results / "truth"))


def _estimates(measured: Measurements, *functions: Callable[[HalfSums], Tensor]) -> Slots:
    return estimate_slots(Resampled.of(measured.sums, len(measured.names), 0), *functions)


def _noisier(extra: float, scale: float = 1.0) -> Denoise:
    generator = torch.Generator().manual_seed(77)
    return lambda raw: scale * (raw + extra * torch.randn(raw.shape, generator=generator))


@dataclass(frozen=True)
class _Values:
    """One number of each micrograph."""

    values: Tensor

    def weighted(self, weights: Tensor) -> _Values:
        return _Values(weights @ self.values)


def test_white_noise_in_closed_form(tmp_path: Path) -> None:
    noise, extra, scale = 0.8, 0.5, 0.6
    white = {"noise": noise, "sigma_px": 0.01, "micrographs": 8}
    measured = _measured(tmp_path, _noisier(extra, scale), **white)
    power = 1 + noise**2
    all_noise = noise**2 + extra**2
    expected = {
        estimates.truth_correlation: 1 / math.sqrt(power + extra**2),
        estimates.raw_correlation: 1 / math.sqrt(power),
        estimates.mean_correlation: 1 / math.sqrt(1 + all_noise / 2),
        estimates.gain: math.sqrt(power / (power + extra**2)),
        estimates.transfer: scale,
        estimates.residual_noise: scale**2 * all_noise,
        estimates.bias: (1 - scale) ** 2,
        estimates.error: scale**2 * all_noise + (1 - scale) ** 2,
        estimates.excess_removal: 1 / (power + extra**2) - scale,
        estimates.half_correlation: 1 / power,
        estimates.naive_correlation: 1 / (power + extra**2),
        estimates.residual_power: ((1 - scale) ** 2 * power + (scale * extra) ** 2) / noise**2,
        estimates.residual_correlation: (1 - scale)
        / math.sqrt((1 - scale) ** 2 * power + (scale * extra) ** 2),
    }
    for (function, value), slots in zip(
        expected.items(), _estimates(measured, *expected), strict=True
    ):
        whole = slots[TOTAL]
        assert whole.value == pytest.approx(value, abs=6 * whole.error), function.__name__
        assert whole.error < 0.03
        # Bands wide enough to hold many pixels.
        for band in slots[8:N_BANDS]:
            assert band.value == pytest.approx(value, abs=6 * band.error), function.__name__


@pytest.mark.parametrize("gradient", [0.0, 20.0])
def test_the_halves_tell_the_truth_in_every_band(tmp_path: Path, gradient: float) -> None:
    def denoise(raw: Tensor) -> Tensor:
        return torch.tanh(gaussian_lowpass(raw - 10, 1.0))

    measured = _measured(tmp_path, denoise, gradient=gradient)
    rho, true = _estimates(measured, estimates.truth_correlation, estimates.true_correlation)
    inside = 0
    for estimate, known in zip(rho[: TOTAL + 1], true[: TOTAL + 1], strict=True):
        inside += estimate.low <= known.value <= estimate.high
        if estimate.error <= 0.01:
            assert estimate.value == pytest.approx(known.value, abs=0.03)
    assert inside >= 0.9 * (TOTAL + 1)


def test_a_gradient_does_not_leak_into_fine_detail(tmp_path: Path) -> None:
    steep, even = (
        _measured(tmp_path / str(slope), lambda raw: raw, gradient=slope) for slope in (20.0, 0.0)
    )
    fine = slice(12, N_BANDS)
    floor = even.sums.raw.sum(0)[fine]
    for name in ("signal", "raw", "truth"):
        change = (getattr(steep.sums, name) - getattr(even.sums, name)).sum(0)[fine]
        assert (change.abs() < 0.02 * floor).all(), name
    # Without the window the jump between the edges would be much of the power.
    slope = 20 * torch.linspace(-1, 1, 96, dtype=torch.float64)[:, None].expand(-1, 96)
    jump = slots_of(96, 96, 1.5).sum(torch.fft.rfft2(slope).abs().square())[fine]
    assert (6 * jump > 0.1 * floor).any()


def test_intervals_cover_the_truth() -> None:
    generator = torch.Generator().manual_seed(5)
    size, micrographs, repeats = 48, 6, 16
    inside = total = 0
    for repeat in range(repeats):
        sums = Rows[HalfSums](micrographs)
        for _ in range(micrographs):
            signal = gaussian_lowpass(torch.randn(size, size, generator=generator), 1.0)
            even, odd = signal + 0.5 * torch.randn(2, size, size, generator=generator)
            denoised = [torch.tanh(gaussian_lowpass(raw, 0.8)) for raw in (even, odd)]
            sums.add(measure(Images(denoised[0], even, odd, signal, denoised[1], 1.5)).sums)
        stacked = sums.stacked()
        true = estimates.true_correlation(stacked.total())
        resampled = Resampled.of(stacked, micrographs, repeat)
        rows = resampled.estimate(estimates.truth_correlation, 1.0)
        # The first bands of so small an image hold no Fourier pixel.
        for band in range(3, TOTAL + 1):
            inside += rows[band].low <= float(true[band]) <= rows[band].high
            total += 1
    assert inside / total >= 0.93


@pytest.mark.parametrize("n", [3, 8, 30])
def test_the_interval_of_a_mean_is_students(n: int) -> None:
    quantile = {3: 4.303, 8: 2.365, 30: 2.045}[n]
    values = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    error = float(values.std()) / math.sqrt(n)
    found = Resampled.of(_Values(values), n, 1).estimate(lambda s: s.values[:, None] / n)[0]
    assert found.error == pytest.approx(error, rel=0.05)
    assert found.high - found.value == pytest.approx(quantile * error, rel=0.12)
    assert found.value - found.low == pytest.approx(quantile * error, rel=0.12)


def test_undefined_draws_widen_the_interval() -> None:
    values = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    resampled = Resampled.of(_Values(values), 3, 0)

    def inverse(sums: _Values) -> Tensor:
        return (1 / sums.values).where(sums.values > 0, torch.nan)[:, None]

    found = resampled.estimate(inverse)[0]
    assert found.low == -math.inf
    assert found.high == math.inf
    assert found.as_json()["interval"] is not None


def test_one_micrograph_has_no_interval(tmp_path: Path) -> None:
    results = write_halves(tmp_path, lambda raw: gaussian_lowpass(raw, 1.0), micrographs=1)
    values = card(results).values
    json.dumps(values, allow_nan=False)
    entries = {entry["name"]: entry for entry in values["entries"]}
    assert entries["correlation"]["interval"] is None
    assert entries["correlation"]["value"] > 0.5
    # Without an interval there is no claim.
    assert entries["gain"]["light"] != "green"
    assert not any(band["gain_above_1"] for band in values["bands"])


def test_a_radial_filter_gains_nothing_in_any_band(tmp_path: Path) -> None:
    measured = _measured(tmp_path, lambda raw: gaussian_lowpass(raw, 1.5), noise=0.5)
    values = make_card(measured).values
    assert values["total"]["gain"]["value"] == pytest.approx(1, abs=0.02)
    # The plain quotient of the same filter is above 1 where a band spans many of its responses.
    total = measured.sums.total()
    plain = estimates.naive_correlation(total) / estimates.half_correlation(total)
    assert float(plain[TOTAL]) > 1.1
    assert {e["name"]: e["light"] for e in values["entries"]}["gain"] != "green"


def test_a_gain_is_claimed_only_without_a_pattern(tmp_path: Path) -> None:
    size = 96
    wave = torch.linspace(0, 40, size).sin()[:, None] * torch.linspace(0, 30, size).cos()
    generator = torch.Generator().manual_seed(1)
    white = 0.4 * torch.randn(size, size, generator=generator)

    def knows_the_wave(raw: Tensor) -> Tensor:
        return ((raw - raw.mean()) * wave).sum() / wave.square().sum() * wave

    lights = {}
    for name, pattern in (("clean", torch.zeros(size, size)), ("pattern", white)):
        folder = write_halves(
            tmp_path / name,
            knows_the_wave,
            sigma_px=0.01,
            noise=2.0,
            size=size,
            pixel=2.6,
            pattern=lambda i, p=pattern: wave * (-1) ** i + p,  # type: ignore[misc]
        )
        values = card(folder).values
        lights[name] = {e["name"]: e["light"] for e in values["entries"]}
        assert values["total"]["gain"]["interval"][0] > 1.01
        claimed = [band["gain_above_1"] for band in values["bands"]]
        assert any(claimed) == (name == "clean")
    assert lights["clean"]["gain"] == "green"
    assert lights["pattern"]["gain"] == "amber"
    assert lights["pattern"]["fixed_pattern"] == "red"


def test_the_snr_is_that_of_the_correlation(tmp_path: Path) -> None:
    measured = _measured(tmp_path, lambda raw: gaussian_lowpass(raw, 1.0))
    entries = {entry.name: entry for entry in make_card(measured).entries}
    rho = entries["correlation"].estimate
    assert entries["snr_half_dose"].estimate.value == pytest.approx(metrics.snr_db(rho.value))
    # Two halves together know more than one.
    assert entries["full_dose"].estimate.value > entries["snr_half_dose"].estimate.value
    assert entries["correlation"].light == "green"
    true = estimates.true_correlation(measured.sums.total())[TOTAL]
    assert rho.low <= float(true) <= rho.high


def test_what_a_network_draws_by_itself_is_no_quality(tmp_path: Path) -> None:
    picture = 3 * gaussian_lowpass(
        torch.randn(96, 96, generator=torch.Generator().manual_seed(3)), 1.5
    )
    measured = _measured(tmp_path, lambda raw: picture + 0.1 * gaussian_lowpass(raw, 1.5))
    values = make_card(measured).values
    assert values["total"]["naive_frc_denoised_halves"]["value"] > 0.95
    true = float(estimates.true_correlation(measured.sums.total())[TOTAL])
    low, high = values["total"]["correlation_with_truth"]["interval"]
    assert low <= true <= high
    assert high < 0.4
    lights = {e["name"]: e["light"] for e in values["entries"]}
    assert lights["removed_power"] == "red"
    assert lights["correlation"] == "red"


def test_a_weak_specimen_is_judged_where_its_halves_share_a_signal(tmp_path: Path) -> None:
    def denoise(raw: Tensor) -> Tensor:
        return gaussian_lowpass(raw, 4.0)

    weak = {"noise": 9.0, "sigma_px": 6.0, "micrographs": 8, "size": 128, "pixel": 4.0}
    measured = _measured(tmp_path, denoise, **weak)
    assert measured.judged_to_angstrom > 20
    rho, true = _estimates(measured, estimates.truth_correlation, estimates.true_correlation)
    assert rho[TOTAL].low <= true[TOTAL].value <= rho[TOTAL].high
    assert rho[TOTAL].error < 0.1
    entries = {entry.name: entry for entry in make_card(measured).entries}
    assert f"to {measured.judged_to_angstrom:.3g} Å" in entries["snr_half_dose"].line


def test_bands_are_at_most_24_and_end_at_nyquist() -> None:
    edges = band_edges()
    assert len(edges) <= 25
    assert edges[0] == 0
    assert edges[-1] == 0.5
    assert (edges.diff() > 0).all()


def test_a_function_of_an_estimate() -> None:
    assert Estimate(1, 0, 2, 1).map(lambda v: 2 * v).high == 4
