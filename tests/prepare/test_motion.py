"""Motion of simulated movies whose paths are known, and the parts it is found with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clearice.config import SimulateConfig
from clearice.fourier import frequency_grid, highpass
from clearice.prepare import motion
from clearice.prepare.alignment import FrameStack
from clearice.prepare.motion import Motion, alignment_band, estimate_shifts, shifted
from clearice.prepare.paths import Smoother
from clearice.simulate import barrel, movie, simulate_movie
from helpers import CPU, smooth_image

PIXEL = 1.315
SIZE, FRAMES = 384, 20
# Four times the dose of a movie, since the area is a hundredth of a micrograph's.
DOSE = 200.0


def decaying_path(extent_px: float, frames: int = FRAMES) -> Tensor:
    """Return positions that slow down, as beam-induced motion does, about their mean."""
    time = (torch.arange(frames, dtype=torch.float64) + 0.5) / frames
    distance = extent_px * (1 - torch.exp(-4 * time))
    path = distance[:, None] * torch.tensor([0.6, -0.8], dtype=torch.float64)
    return path - path.mean(0)


def frames_along(
    path: Tensor, monkeypatch: pytest.MonkeyPatch, size: int = SIZE, **settings: float
) -> tuple[Tensor, Tensor]:
    """Simulate a movie whose content moves along a path; return its frames and the truth."""
    steps = [(row, column) for row, column in path.tolist()]
    monkeypatch.setattr(movie, "_drift_path", lambda config, generator: steps)
    values = {"dose_e_per_A2": DOSE, "contrast": 0.6, **settings}
    config = SimulateConfig.model_validate(
        {"size": size, "frames": len(path), "pixel_size_angstrom": PIXEL, **values}
    )
    simulated = simulate_movie(barrel(), config, 0, CPU)
    return simulated.frames, simulated.truth


def align(frames: Tensor) -> Motion:
    """Estimate the motion of frames."""
    band = alignment_band(frames.shape[1], frames.shape[2], PIXEL)
    return estimate_shifts(torch.stack([band.spectrum(frame) for frame in frames]), band)


def error_px(found: Motion, path: Tensor) -> float:
    """Return the rms error of one coordinate, without the offset that nothing tells."""
    error = found.shifts_px + path - path.mean(0)
    return float(error.square().mean().sqrt())


def correlation(image: Tensor, truth: Tensor) -> float:
    """Correlate with the truth once the gradient of the ice is gone."""
    pair = torch.stack([highpass(i, PIXEL / 200).flatten() for i in (image, truth)])
    return float(torch.corrcoef(pair)[0, 1])


@pytest.mark.parametrize("extent_angstrom", [5.0, 20.0])
def test_shifts_are_right_and_half_sums_as_good_as_with_the_true_ones(
    extent_angstrom: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = decaying_path(extent_angstrom / PIXEL)
    frames, truth = frames_along(path, monkeypatch)
    found = align(frames)
    assert found.significant
    assert error_px(found, path) < 0.2
    assert found.shifts_px.mean(0).abs().max() < 1e-9
    even = range(0, FRAMES, 2)
    aligned = sum(shifted(frames[i], found.shifts_px[i]) for i in even)
    ideal = sum(shifted(frames[i], -path[i]) for i in even)
    assert isinstance(aligned, Tensor) and isinstance(ideal, Tensor)
    best = correlation(ideal, truth)
    assert correlation(aligned, truth) > 0.99 * best
    if extent_angstrom > 10:
        assert correlation(frames[::2].sum(0), truth) < 0.9 * best


def test_large_jumps_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    path = decaying_path(0.0)
    path[7:] += torch.tensor([25.0, -30.0], dtype=torch.float64)
    frames, _ = frames_along(path, monkeypatch)
    assert error_px(align(frames), path) < 0.25


def test_fast_steady_drift_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    path = torch.linspace(-40, 40, FRAMES, dtype=torch.float64)[:, None].expand(-1, 2)
    frames, _ = frames_along(path, monkeypatch)
    assert error_px(align(frames), path) < 0.2


def test_a_fixed_pattern_does_not_pin_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    path = decaying_path(8.0 / PIXEL)
    frames, _ = frames_along(path, monkeypatch, gain_residual=0.02, hot_pixels_per_million=100.0)
    # Rows and columns that read out alike, as strong as the counting noise of one of their pixels.
    frames += frames.mean().sqrt() * torch.randn(
        SIZE, 1, generator=torch.Generator().manual_seed(1)
    )
    frames += 3 * (torch.arange(SIZE) % 128 < 64)
    assert error_px(align(frames), path) < 0.2


def test_a_strong_pattern_is_discounted(monkeypatch: pytest.MonkeyPatch) -> None:
    path = decaying_path(8.0 / PIXEL)
    frames, _ = frames_along(path, monkeypatch, gain_residual=0.06)
    error = error_px(align(frames), path)
    monkeypatch.setattr(motion, "_pattern_power", lambda spectra: 0.0)
    blind = error_px(align(frames), path)
    assert error < 0.25
    assert blind > 2 * error


def test_frames_that_lie_on_each_other_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, _ = frames_along(decaying_path(0.0), monkeypatch, gain_residual=0.02)
    found = align(frames)
    assert not found.significant
    assert not found.shifts_px.any()
    assert "no motion" in found.reason


@pytest.mark.parametrize("pattern", [0.0, 0.05])
def test_noise_is_never_aligned(pattern: float, generator: torch.Generator) -> None:
    gain = 1 + pattern * torch.randn(128, 128, generator=generator)
    for _ in range(10):
        frames = torch.poisson((2.3 * gain).expand(12, -1, -1), generator=generator)
        found = align(frames)
        assert not found.significant
        assert not found.shifts_px.any()


def test_two_clear_frames_are_enough(generator: torch.Generator) -> None:
    image = smooth_image(generator, 256, 4.0)
    frames = torch.stack([image, torch.roll(image, (2, -5), (0, 1))])
    frames += torch.randn(frames.shape, generator=generator)
    found = align(frames)
    expected = torch.tensor([[1.0, -2.5], [-1.0, 2.5]], dtype=torch.float64)
    torch.testing.assert_close(found.shifts_px, expected, rtol=0, atol=0.1)
    assert found.margin_px in {(1, 3), (2, 3)}


def test_the_uncertainty_is_that_of_the_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    path = decaying_path(5.0)
    frames, _ = frames_along(path, monkeypatch, contrast=0.4)
    found = align(frames)
    assert found.uncertainty_px / 2 < error_px(found, path) < 2 * found.uncertainty_px


def test_other_shapes_are_aligned_in_their_own_pixels(generator: torch.Generator) -> None:
    image = smooth_image(generator, 256, 3.0)[:150]
    frames = torch.stack([torch.roll(image, (-2 * i, 3 * i), (0, 1)) for i in range(6)])
    found = align(frames + 0.5 * torch.randn(frames.shape, generator=generator))
    expected = torch.tensor([2.0, -3.0], dtype=torch.float64) * torch.arange(6)[:, None]
    torch.testing.assert_close(found.shifts_px, expected - expected.mean(0), rtol=0, atol=0.1)


def test_frames_too_small_to_align_are_left_alone() -> None:
    found = align(torch.rand(4, 16, 16))
    assert not found.significant
    assert found.shifts_px.shape == (4, 2)


def test_a_band_is_off_the_axes_and_within_its_resolutions() -> None:
    band = alignment_band(300, 400, PIXEL)
    rows, columns = (band.frequency * torch.tensor([300, 400])).round().abs().unbind(1)
    assert int(rows.min()) > 1
    assert int(columns.min()) > 1
    resolution = PIXEL / torch.linalg.vector_norm(band.frequency, dim=1)
    assert float(resolution.min()) >= 10 and float(resolution.max()) <= 300
    pattern = frequency_grid(300, 400).flatten()[band.index[len(band.frequency) :]]
    assert float(pattern.min()) > 0.35


def test_the_spectrum_of_a_band_is_the_fourier_transform(generator: torch.Generator) -> None:
    frame = torch.randn(64, 80, generator=generator)
    band = alignment_band(64, 80, PIXEL)
    flat = torch.fft.rfft2(frame).flatten() / math.sqrt(64 * 80)
    torch.testing.assert_close(band.spectrum(frame), flat[band.index], rtol=1e-4, atol=1e-4)


def test_hot_pixels_leave_no_trace_and_rare_events_all_of_theirs(
    generator: torch.Generator,
) -> None:
    band = alignment_band(128, 128, PIXEL)
    frame = torch.poisson(torch.full((128, 128), 2.0), generator=generator)
    hot = frame.clone()
    hot[10, 11] = 1e5
    change = band.spectrum(hot) - band.spectrum(frame)
    assert float(change.abs().max()) < 0.1  # of noise whose standard deviation is √2
    sparse = torch.poisson(torch.full((128, 128), 0.01), generator=generator).clamp(max=1)
    expected = torch.fft.rfft2(sparse).flatten()[band.index] / 128
    torch.testing.assert_close(band.spectrum(sparse), expected, rtol=1e-4, atol=1e-4)


def _stack(generator: torch.Generator, pattern: float = 0.1) -> FrameStack:
    spectra = torch.randn(5, 300, 2, generator=generator, dtype=torch.float64)
    frequency = torch.rand(300, 2, generator=generator, dtype=torch.float64) / 10
    ring = torch.randint(0, 48, (300,), generator=generator)
    return FrameStack(torch.view_as_complex(spectra), frequency, ring, pattern)


def test_the_score_is_the_slope_of_the_likelihood(generator: torch.Generator) -> None:
    stack = _stack(generator)
    path = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    power = stack.frame_power()
    powers = stack.powers(0.2 * power, power, 1e9)
    moving = path.clone().requires_grad_()
    evidence = stack.evidence(moving, torch.zeros_like(path), powers).sum()
    (slope,) = torch.autograd.grad(evidence, moving)
    torch.testing.assert_close(stack.score(path, stack.sums(path), powers), slope)


def test_powers_of_a_known_model_are_found(generator: torch.Generator) -> None:
    frames, n = 12, 40_000

    def noise(*shape: int) -> Tensor:
        values = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
        return torch.view_as_complex(values) / math.sqrt(2)

    frequency = torch.rand(n, 2, generator=generator, dtype=torch.float64) / 4
    ring = torch.zeros(n, dtype=torch.long)
    path = 5 * torch.randn(frames, 2, generator=generator, dtype=torch.float64)
    bare = FrameStack(noise(frames, n), frequency, ring, 0.0)
    moved = bare.phases(-path) * (0.3**0.5 * noise(n))
    spectra = moved + 0.2**0.5 * noise(n) + noise(frames, n)
    stack = FrameStack(spectra, frequency, ring, 0.2)
    powers = stack.powers_at(stack.sums(path), stack.frame_power())
    assert float(powers.signal[0]) == pytest.approx(0.3, abs=0.01)
    assert float(powers.noise[0]) == pytest.approx(1.0, abs=0.03)
    at_high = noise(frames, n) + 0.2**0.5 * noise(n)
    assert motion._pattern_power(at_high) == pytest.approx(0.2, abs=0.01)
    assert motion._pattern_power(noise(frames, n)) == 0.0


def test_smoothing_is_penalised_least_squares_and_keeps_straight_paths(
    generator: torch.Generator,
) -> None:
    smoother = Smoother.of(9)
    path = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    second = torch.tensor([[1.0, -2.0, 1.0]], dtype=torch.float64)
    penalty = torch.zeros(7, 9, dtype=torch.float64)
    for row in range(7):
        penalty[row, row : row + 3] = second
    system = torch.eye(9, dtype=torch.float64) + 3.0 * penalty.T @ penalty
    torch.testing.assert_close(smoother.smooth(path, 3.0), torch.linalg.solve(system, path))
    straight = torch.arange(9, dtype=torch.float64)[:, None] * torch.tensor([[1.0, -0.3]])
    torch.testing.assert_close(smoother.smooth(straight, 1e6), straight)
    few = path[:3]
    torch.testing.assert_close(Smoother.of(3).smooth(few, 1e6), few)


def test_stiffness_follows_the_roughness_of_the_path(generator: torch.Generator) -> None:
    smoother = Smoother.of(60)
    information = torch.ones(2, dtype=torch.float64)
    noise = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    walk = torch.randn(60, 2, generator=generator, dtype=torch.float64).cumsum(0).cumsum(0)
    assert smoother.stiffness(noise, information) > 1e4
    assert 0.1 < smoother.stiffness(walk + noise, information) < 10


def test_a_shifted_frame_keeps_white_noise_and_comes_back(generator: torch.Generator) -> None:
    frame = torch.randn(64, 66, generator=generator, dtype=torch.float64)
    shift = torch.tensor([2.3, -7.7], dtype=torch.float64)
    moved = shifted(frame, shift)
    torch.testing.assert_close(torch.fft.rfft2(moved).abs(), torch.fft.rfft2(frame).abs())
    torch.testing.assert_close(shifted(moved, -shift), frame)


@pytest.mark.gpu
def test_a_gpu_finds_the_same_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, _ = frames_along(decaying_path(8.0), monkeypatch)
    device = torch.device("cuda")
    band = alignment_band(SIZE, SIZE, PIXEL, device=device)
    spectra = torch.stack([band.spectrum(frame.to(device)) for frame in frames])
    found = estimate_shifts(spectra, band)
    torch.testing.assert_close(found.shifts_px, align(frames).shifts_px, rtol=0, atol=0.01)
