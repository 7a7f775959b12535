"""Amplitudes measured on held-out micrographs: the gain that known networks need."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clearice.checkpoint import Calibration, ModelInfo
from clearice.data import Affine, Dataset, DatasetWriter, open_dataset
from clearice.denoise.network import restore_amplitude
from clearice.fourier import RingSums, radial_filter, ring_frequencies, ring_sums
from clearice.metrics import AmplitudeSums, amplitude_gain, frc, signal_significance
from clearice.train import calibrate as room
from clearice.types import HalfSet
from helpers import CPU, PIXEL_SIZE, model_info, prepare_config

_SIZE, _RINGS = 256, 64
# Signals fill the spectrum evenly up to 0.3 cycles/px: rings that pool no others reach 0.22.
_CUTOFF, _FLAT = 0.3, 28
_N_SIGMA = 4.0


class _Filter(nn.Module):
    """A linear denoiser: a function of frequency alone."""

    def __init__(self, response: Callable[[Tensor], Tensor] | float) -> None:
        super().__init__()
        self._response = response

    def forward(self, x: Tensor) -> Tensor:
        if callable(self._response):
            return radial_filter(x, self._response)
        return self._response * x


def _signal(generator: torch.Generator, power: float) -> Tensor:
    white = torch.randn(_SIZE, _SIZE, generator=generator)
    return power**0.5 * radial_filter(white, lambda f: torch.sigmoid((_CUTOFF - f) / 0.005))


def _write(
    folder: Path,
    power: float,
    *,
    weights: tuple[float, ...] = (0.25,) * 4,
    noise: float = 1.0,
    micrographs: int = 4,
    disturb: Callable[[Tensor, int], Tensor] = lambda groups, index: groups,
    target_gain: float | None = None,
    seed: int = 5,
) -> tuple[Dataset, list[Tensor]]:
    """Write signals in white noise whose power is `noise` at full dose.

    With `target_gain` the groups are an input and a target of other scale.
    """
    generator = torch.Generator().manual_seed(seed)
    writer, truths = DatasetWriter(folder), []
    for index in range(micrographs):
        signal = _signal(generator, power)
        each = [
            signal + (noise / w) ** 0.5 * torch.randn(signal.shape, generator=generator)
            for w in weights
        ]
        groups = disturb(torch.stack(each), index)
        if target_gain is not None:
            groups = torch.stack([groups[0], groups[1] / target_gain])
        half_set = HalfSet(f"m{index}", groups, weights, PIXEL_SIZE, ())
        writer.add(half_set, groups, Affine(0.0, 1.0))
        truths.append(signal)
    writer.finish(
        prepare_config(),
        PIXEL_SIZE,
        input_target=target_gain is not None,
        dose_ratio=1.0,
        target_gain=target_gain or 1.0,
    )
    return open_dataset(folder), truths


def _measure(dataset: Dataset, network: nn.Module, info: ModelInfo | None = None) -> Calibration:
    entries = dataset.manifest.micrographs
    return room.measure(network, info or model_info(), dataset, entries, CPU)


def _known_gain(response: float, power: float, noise: float, input_noise: float) -> float:
    """Return min(√(P_S/P_D), 2 C/P_D) of a constant response, not below 1."""
    output = response**2 * (power + min(noise, input_noise))
    full = response**2 * (power + noise)
    return max(1.0, min(math.sqrt(power / full), 2 * response * power / output))


def _near(gain: tuple[float, ...], expected: float, relative: float, first: int = 4) -> None:
    measured = torch.tensor(gain)[first:_FLAT]
    torch.testing.assert_close(measured, torch.full_like(measured, expected), rtol=relative, atol=0)


def _first_with_evidence(power: float) -> int:
    """Return the first ring with pixels enough to show a signal of so much power."""
    return 4 if power > 1 else 12


@pytest.mark.parametrize(("power", "response"), [(4.0, 0.8), (2.25, 0.5), (4.0, 0.1), (0.3, 0.23)])
def test_a_known_filter_needs_a_known_gain(tmp_path: Path, power: float, response: float) -> None:
    dataset, _ = _write(tmp_path, power)
    calibration = _measure(dataset, _Filter(response))
    expected = _known_gain(response, power, 1.0, 4 / 3)
    assert expected > 1.05
    # √ halves the error of the power, which is that of the halves' correlation.
    tolerance = 0.03 + 0.04 / power
    _near(calibration.gain, expected, tolerance, _first_with_evidence(power))
    assert calibration.micrographs == 4
    rho = math.sqrt(power / (power + 4 / 3))
    for measured, known in ((calibration.transfer, response), (calibration.correlation, rho)):
        values = torch.tensor(measured[_first_with_evidence(power) : _FLAT])
        torch.testing.assert_close(
            values, torch.full_like(values, known), rtol=2 * tolerance, atol=0
        )


def test_a_wiener_filter_needs_one_over_its_correlation(tmp_path: Path) -> None:
    power = 1.5
    dataset, _ = _write(tmp_path, power)
    wiener = power / (power + 1)  # ρ² at full dose
    _near(_measure(dataset, _Filter(wiener)).gain, wiener**-0.5, 0.04)


def test_below_a_correlation_of_one_half_twice_the_wiener_filter_is_the_limit(
    tmp_path: Path,
) -> None:
    power = 0.25
    dataset, _ = _write(tmp_path, power, micrographs=8)
    wiener = power / (power + 1)
    assert wiener**-0.5 > 2.2
    _near(_measure(dataset, _Filter(wiener)).gain, 2.0, 0.12, _first_with_evidence(power))


@pytest.mark.parametrize(
    "weights", [(0.5, 0.5), (0.25,) * 4, (0.4, 0.3, 0.2, 0.1), (0.1,) * 10, (0.2, 0.5, 0.3)]
)
def test_the_gain_is_that_of_the_full_dose_for_any_groups(
    tmp_path: Path, weights: tuple[float, ...]
) -> None:
    dataset, _ = _write(tmp_path, 2.0, weights=weights)
    _near(_measure(dataset, _Filter(0.5)).gain, 2 * math.sqrt(2 / 3), 0.05)


def test_of_unequal_pairs_the_input_is_calibrated_on_its_own_scale(tmp_path: Path) -> None:
    # Input with the noise 3, target with 0.5; the network gives the target's scale.
    dataset, _ = _write(tmp_path, 3.0, weights=(1 / 6, 1.0), noise=0.5, target_gain=0.2)
    info = replace(model_info(), output_gain=0.2)
    calibration = _measure(dataset, _Filter(0.4 / 0.2), info)
    _near(calibration.gain, _known_gain(0.4, 3.0, 3.0, 3.0), 0.05)
    transfer = torch.tensor(calibration.transfer[4:_FLAT])
    torch.testing.assert_close(transfer, torch.full_like(transfer, 0.4), rtol=0.1, atol=0)


def test_an_output_with_more_power_than_the_signal_is_lowered(tmp_path: Path) -> None:
    dataset, _ = _write(tmp_path, 4.0)
    _near(_measure(dataset, _Filter(3.0)).gain, math.sqrt(4 / 45), 0.05)


@pytest.mark.parametrize("response", [1e-3, 0.03])
def test_noise_alone_is_not_raised(tmp_path: Path, response: float) -> None:
    dataset, _ = _write(tmp_path, 0.0)
    gain = torch.tensor(_measure(dataset, _Filter(response)).gain)
    assert float((gain == 1).double().mean()) > 0.8
    assert float(gain.max()) < 1.2


def test_noise_that_is_let_through_is_lowered(tmp_path: Path) -> None:
    dataset, _ = _write(tmp_path, 0.0)
    gain = torch.tensor(_measure(dataset, _Filter(1.0)).gain)
    assert float(gain[4:].max()) < 0.4
    assert float(gain.min()) >= 0.1


def test_rings_that_the_network_lost_are_left(tmp_path: Path) -> None:
    dataset, _ = _write(tmp_path, 4.0)
    unrelated = torch.randn(_SIZE, _SIZE, generator=torch.Generator().manual_seed(8))

    class Inventor(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.01 * unrelated.expand_as(x)

    gain = torch.tensor(_measure(dataset, Inventor()).gain)
    assert float((gain - 1).abs().max()) < 0.5
    silent = _measure(dataset, _Filter(0.0))
    assert silent.gain == (1.0,) * _RINGS


def test_a_fixed_pattern_is_not_taken_for_signal(tmp_path: Path) -> None:
    pattern = 0.3 * torch.randn(_SIZE, _SIZE, generator=torch.Generator().manual_seed(2))
    network = _Filter(0.1)
    clean, _ = _write(tmp_path / "clean", 4.0)
    spoilt, _ = _write(tmp_path / "spoilt", 4.0, disturb=lambda groups, index: groups + pattern)
    gain = torch.tensor(_measure(spoilt, network).gain)
    # The pattern's power is 0.09, that of the output 0.01: without a limit it would be raised.
    assert float((gain[54:] - 1).abs().max()) < 0.02
    assert float(gain[:_FLAT].min()) > 1.5
    assert bool((gain[4:_FLAT] < 1.05 * torch.tensor(_measure(clean, network).gain)[4:_FLAT]).all())


def test_offsets_of_rows_and_columns_do_not_count(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = 5 * torch.randn(_SIZE, 1, generator=generator)
    columns = 5 * torch.randn(1, _SIZE, generator=generator)
    network = _Filter(0.5)
    clean, _ = _write(tmp_path / "clean", 2.0)
    spoilt, _ = _write(tmp_path / "spoilt", 2.0, disturb=lambda groups, _: groups + rows + columns)
    expected = torch.tensor(_measure(clean, network).gain)
    torch.testing.assert_close(
        torch.tensor(_measure(spoilt, network).gain)[2:], expected[2:], rtol=0.03, atol=0
    )


def test_a_gradient_across_the_image_does_not_leak_into_fine_rings(tmp_path: Path) -> None:
    axis = torch.arange(_SIZE) / _SIZE
    ramp = 30 * axis[:, None] * axis
    network = _Filter(0.5)
    clean, _ = _write(tmp_path / "clean", 2.0)
    tilted, _ = _write(tmp_path / "tilted", 2.0, disturb=lambda groups, _: groups + ramp)
    expected = torch.tensor(_measure(clean, network).gain)
    torch.testing.assert_close(
        torch.tensor(_measure(tilted, network).gain)[8:], expected[8:], rtol=0.03, atol=0
    )


def test_restoring_gives_the_power_of_the_signal_and_leaves_every_correlation(
    tmp_path: Path,
) -> None:
    power = 1.5
    dataset, truths = _write(tmp_path, power, micrographs=6)
    network = _Filter(lambda f: 0.5 * torch.exp(-4 * f))
    gain = torch.tensor(_measure(dataset, network).gain)
    before = after = None
    for entry, truth in zip(dataset.manifest.micrographs, truths, strict=True):
        denoised = network(dataset.stack(entry).float().mean(0))
        restored = restore_amplitude(denoised, gain)
        one, other = ring_sums(denoised, truth, 128), ring_sums(restored, truth, 128)
        before = one if before is None else before + one
        after = other if after is None else after + other
    assert before is not None
    assert after is not None
    flat = slice(8, 2 * _FLAT)
    torch.testing.assert_close(frc(after)[flat], frc(before)[flat], rtol=0, atol=5e-3)
    ratio = (after.power_x / after.power_y)[flat]
    # Each ring's own noise moves its power by 1/√pixels of the half-spectrum.
    sigma = (2 / after.count[flat]).sqrt()
    assert bool(((ratio - 1).abs() < _N_SIGMA * sigma + 0.05).all())
    assert float((before.power_x / before.power_y)[flat].max()) < 0.8


def test_significance_of_noise_is_a_standard_normal(tmp_path: Path) -> None:
    values = []
    for seed, weights in enumerate([(0.25,) * 4, (0.125,) * 8, (0.5, 0.5), (0.6, 0.3, 0.1)]):
        dataset, _ = _write(tmp_path / str(seed), 0.0, weights=weights, seed=seed)
        for entry in dataset.manifest.micrographs:
            window = (slice(0, _SIZE), slice(0, _SIZE))
            full, pairs = room._views(dataset, entry, window, CPU)
            values.append(signal_significance(room._sums(full, pairs, lambda x, _: x, _RINGS)))
    score = torch.stack(values)[:, 2:]
    # Neighbouring rings share pixels: an image has about ten independent values.
    independent = 10 * len(score)
    assert float(score.mean().abs()) < _N_SIGMA / math.sqrt(independent)
    spread = float(score.square().mean())
    assert abs(spread - 1) < _N_SIGMA * math.sqrt(2 / independent)


def _exact_sums(signal: Tensor, noise: float, response: Tensor, pixels: Tensor) -> AmplitudeSums:
    """Return the expected sums of a linear network at one dose."""
    total, cross = (signal + noise) * pixels, signal * pixels
    return AmplitudeSums(
        RingSums(cross, total, total, pixels),
        RingSums(response * cross, response.square() * total, total, pixels),
        response.square() * total,
    )


def test_the_gain_of_expected_sums() -> None:
    middles = ring_frequencies(_RINGS)
    signal = torch.where(middles < 0.25, 1.0, 0.0).double()
    response = torch.full_like(signal, 0.25)
    gain = amplitude_gain(_exact_sums(signal, 1.0, response, 1e8 * middles))
    low = gain[:20]
    torch.testing.assert_close(low, torch.full_like(low, math.sqrt(1 / (2 / 16))))
    # Where the signal has ended the pooled rings have less and less of it.
    assert torch.equal(gain, gain.cummin(0).values)
    assert float(gain[50:].max()) <= 1


def test_less_evidence_never_gives_more_gain() -> None:
    middles = ring_frequencies(_RINGS)
    signal, response = torch.exp(-20 * middles), 0.3 * torch.exp(-10 * middles)
    gains = [
        amplitude_gain(_exact_sums(signal, 1.0, response, pixels * middles))
        for pixels in (1e1, 1e3, 1e5, 1e7, 1e9)
    ]
    for fewer, more in pairwise(gains):
        assert bool(((fewer - 1).abs() <= (more - 1).abs() + 1e-9).all())
    assert float((gains[0] - 1).abs().max()) == 0
    assert float(gains[-1].max()) > 1.2


def test_gains_do_not_depend_on_the_scale_of_the_data() -> None:
    middles = ring_frequencies(_RINGS)
    sums = _exact_sums(torch.exp(-20 * middles), 1.0, torch.exp(-10 * middles), 1e5 * middles)

    def scaled(part: RingSums) -> RingSums:
        return replace(part.map(lambda values: 7 * values), count=part.count)

    other = AmplitudeSums(scaled(sums.raw), scaled(sums.denoised), 7 * sums.output)
    torch.testing.assert_close(amplitude_gain(other), amplitude_gain(sums))
    twice = sums + sums
    torch.testing.assert_close(twice.output, 2 * sums.output)
    torch.testing.assert_close(twice.raw.count, 2 * sums.raw.count)


def test_crops_say_what_whole_images_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, _ = _write(tmp_path, 2.0)
    whole = _measure(dataset, _Filter(0.5))
    monkeypatch.setattr(room, "_CROP_PX", 128)
    cut = _measure(dataset, _Filter(0.5))
    assert len(cut.gain) == len(whole.gain) == _RINGS
    assert cut.gain != whole.gain
    _near(cut.gain, 2 * math.sqrt(2 / 3), 0.06)
    monkeypatch.setattr(room, "_MOST_CROPS", 4)
    few = _measure(dataset, _Filter(0.5))
    assert few.micrographs == 4
    assert few.gain != cut.gain


def test_crops_lie_everywhere_and_are_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evenly spaced crops of a square grid would all lie at the left edge."""
    dataset, _ = _write(tmp_path, 1.0)
    monkeypatch.setattr(room, "_CROP_PX", 32)
    monkeypatch.setattr(room, "_MOST_CROPS", 32)
    entries = dataset.manifest.micrographs
    chosen = room._chosen(entries)
    assert chosen == room._chosen(entries)
    assert len({(entry.name, str(window)) for entry, window in chosen}) == 32
    assert len({window[1].start for _, window in chosen}) > 4
    assert len({window[0].start for _, window in chosen}) > 4
    assert {sum(e.name == entry.name for e, _ in chosen) for entry in entries} == {8}
    monkeypatch.setattr(room, "_MOST_CROPS", 10_000)
    assert len(room._chosen(entries)) == 4 * 64


@pytest.mark.parametrize(
    ("gain", "words"),
    [((1.0, 0.9, 2.5, 1.0), "up to 2.50 times, at 4.8 Å"), ((1.0, 0.5), "prove nothing that")],
)
def test_the_user_is_told_what_can_be_raised(gain: tuple[float, ...], words: str) -> None:
    line = room._summary(Calibration(gain, (None,) * len(gain), (None,) * len(gain), 2), 1.5)
    assert line.startswith("amplitudes calibrated on held-out micrographs (2): ")
    assert words in line


@pytest.mark.gpu
def test_a_gpu_measures_the_same(tmp_path: Path) -> None:
    dataset, _ = _write(tmp_path, 2.0)
    entries, network = dataset.manifest.micrographs, _Filter(0.5)
    on_gpu = room.measure(network, model_info(), dataset, entries, torch.device("cuda"))
    expected = _measure(dataset, network)
    torch.testing.assert_close(
        torch.tensor(on_gpu.gain), torch.tensor(expected.gain), rtol=1e-4, atol=0
    )
