"""Exposure weights against an independent program, and what they do to groups of frames."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from clearice.fourier import frequency_grid
from clearice.prepare.exposure import exposure_weights
from clearice.prepare.split import split
from clearice.types import Movie

PIXEL = 1.2
FRAMES, GROUPS, DOSE = 40, 8, 1.3
SHAPE = (48, 64)


def _independent_program() -> ModuleType:
    """Load one file of torch-fourier-filter, whose package imports more than tests have."""
    pytest.importorskip("torch_grid_utils")
    package = importlib.util.find_spec("torch_fourier_filter")
    if package is None or package.origin is None:
        pytest.skip("torch-fourier-filter is not installed")
    path = Path(package.origin).with_name("dose_weight.py")
    found = importlib.util.spec_from_file_location("dose_weight", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("voltage", [300.0, 200.0])
def test_normalised_weights_are_those_of_torch_fourier_filter(
    voltage: float, generator: torch.Generator
) -> None:
    movie = torch.fft.rfft2(torch.randn(6, *SHAPE, generator=generator))
    expected = _independent_program().dose_weight_movie(
        movie, SHAPE, PIXEL, pre_exposure=4.0, dose_per_frame=DOSE, voltage=voltage
    )
    weights = torch.stack(exposure_weights(6, DOSE, SHAPE, PIXEL, voltage)[:])
    found = movie * weights / weights.square().sum(0).sqrt()
    # The program counts the dose up to the end of a frame and before the movie: both cancel.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_weights_are_one_at_zero_frequency_and_fall_with_frequency_and_exposure() -> None:
    weights = exposure_weights(FRAMES, DOSE, SHAPE, PIXEL, 300.0)
    assert len(weights) == FRAMES
    order = frequency_grid(*SHAPE).flatten().argsort()
    for index in (1, FRAMES // 2, FRAMES - 1):
        assert float(weights[index][0, 0]) == 1.0
        assert bool((weights[index].flatten()[order].diff() <= 1e-6).all())
        assert bool((weights[index] <= weights[index - 1]).all())
    assert torch.equal(weights[-1], weights[FRAMES - 1])
    with pytest.raises(IndexError):
        weights[FRAMES]


def _fading(spectrum: Tensor) -> Tensor:
    """Return frames of a signal that radiation damage fades, without noise."""
    faded = [spectrum * q for q in exposure_weights(FRAMES, DOSE, SHAPE, PIXEL, 300.0)]
    return torch.fft.irfft2(torch.stack(faded), s=SHAPE)


def _groups(frames: Tensor, *, weighted: bool) -> Tensor:
    movie = Movie(Path("movie.mrc"), list(frames), *SHAPE, PIXEL)
    weights = exposure_weights(len(frames), DOSE, SHAPE, PIXEL, 300.0) if weighted else None
    return split(movie, GROUPS, weights=weights).groups


def _signal(groups: Tensor, spectrum: Tensor, low: float, high: float) -> Tensor:
    """Return the amplitude of the signal in each group between two frequencies, 1/Å."""
    frequency = frequency_grid(*SHAPE) / PIXEL
    band = (frequency > low) & (frequency < high)
    found = torch.fft.rfft2(groups)[:, band]
    return (found * spectrum[band].conj()).real.sum(1) / spectrum[band].abs().square().sum()


def test_groups_differ_by_the_damage_of_one_frame_whether_weighted_or_not(
    generator: torch.Generator,
) -> None:
    spectrum = torch.fft.rfft2(10 + torch.randn(*SHAPE, generator=generator))
    frames = _fading(spectrum)
    band = (1 / 3.3, 1 / 2.8)
    plain, weighted = (_signal(_groups(frames, weighted=w), spectrum, *band) for w in (False, True))
    per_frame = float(exposure_weights(2, DOSE, (1, 1000), PIXEL, 300.0)[1][0, 400])  # 1/3 Å
    expected = per_frame ** torch.arange(GROUPS)
    torch.testing.assert_close(plain / plain[0], expected, rtol=0.05, atol=0)
    torch.testing.assert_close(weighted / weighted[0], expected, rtol=0.05, atol=0)
    assert per_frame == pytest.approx(0.861, abs=0.002)
    assert float(expected[-1]) == pytest.approx(0.35, abs=0.01)
    # Signal power over the same white noise, from weighing frames by what they show.
    gain = float((weighted / plain)[0] ** 2)
    assert gain == pytest.approx(3.0, abs=0.5)


def test_weighted_groups_keep_white_noise_of_the_same_power(generator: torch.Generator) -> None:
    noise = torch.randn(FRAMES, *SHAPE, generator=generator)
    plain, weighted = (_groups(noise, weighted=w) for w in (False, True))
    power = [torch.fft.rfft2(groups).abs().square().mean(0) for groups in (plain, weighted)]
    frequency = frequency_grid(*SHAPE)
    for low, high in ((0.0, 0.2), (0.2, 0.4), (0.4, 0.5)):
        band = (frequency > low) & (frequency <= high)
        ratio = float(power[1][band].mean() / power[0][band].mean())
        # Eight groups: the mean power of n Fourier pixels is uncertain by about 1/√(8 n).
        assert abs(ratio - 1) < 5 * (2 / (GROUPS * int(band.sum()))) ** 0.5
    torch.testing.assert_close(weighted.mean((1, 2)), plain.mean((1, 2)), rtol=0, atol=1e-5)
