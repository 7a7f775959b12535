"""Counting statistics, independence of frames, and what each option of a movie does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clearice.config import SimulateConfig
from clearice.simulate import SimulatedMovie, barrel, simulate_movie
from clearice.simulate.imaging import critical_exposure
from clearice.simulate.movie import place_particles
from clearice.types import AtomCloud

CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
N_SIGMA = 5.0

# A ball of 20,000 atoms and 30 Å radius: heavy enough to be seen, quick to place.
_BALL = torch.nn.functional.normalize(
    torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)), dim=1
) * (30 * torch.rand(20_000, 1, generator=torch.Generator().manual_seed(1)) ** (1 / 3))


def _ball(device: torch.device = CPU) -> AtomCloud:
    return AtomCloud(_BALL.to(device), "ball")


def _config(**changes: Any) -> SimulateConfig:
    """Return a small session: 128 px of 2 Å, 4 frames, about 53 counts a pixel and frame."""
    values = {
        "size": 128,
        "frames": 4,
        "pixel_size_angstrom": 2.0,
        "particle_spacing_angstrom": 70.0,
        "ice_gradient": 0.0,
    }
    return SimulateConfig.model_validate({**values, **changes})


def _movie(index: int = 0, **changes: Any) -> SimulatedMovie:
    return simulate_movie(_ball(), _config(**changes), index, CPU)


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    return float((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt())


def test_frames_are_whole_counts_with_the_configured_dose() -> None:
    movie = _movie(particle_fill=0.0)
    assert movie.frames.shape == (4, 128, 128)
    assert torch.equal(movie.frames, movie.frames.round())
    assert float(movie.frames.min()) >= 0
    rate = 53.0 * 4 / 4
    mean = float(movie.frames.double().mean())
    assert abs(mean - rate) < N_SIGMA * math.sqrt(rate / movie.frames.numel())


def test_the_truth_is_the_expectation_of_the_sum() -> None:
    movie = _movie()
    total = movie.frames.double().sum(0)
    truth = movie.truth.double()
    z = (total - truth) / truth.sqrt()
    pixels = z.numel()
    assert abs(float(z.mean())) < N_SIGMA / math.sqrt(pixels)
    # The square of a standardised Poisson count has variance 2 + 1/mean.
    spread = math.sqrt((2 + 1 / float(truth.min())) / pixels)
    assert abs(float(z.square().mean()) - 1) < N_SIGMA * spread
    # What is left holds no trace of the particles.
    assert abs(_correlation(total - truth, truth)) < N_SIGMA / math.sqrt(pixels)
    assert float(truth.std()) > 1


def test_the_mean_of_the_truth_follows_from_the_atoms() -> None:
    config = _config()
    movie = _movie()
    # At zero frequency the CTF is minus the amplitude contrast.
    volts = (144 - 85) * len(_BALL) * len(movie.xy_px) / (128 * 2.0) ** 2
    relative = 1 - 2 * 6.526e-4 * config.contrast * config.amplitude_contrast * volts
    assert float(movie.truth.double().mean()) == pytest.approx(53.0 * 4 * relative, rel=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dose", [172.0, 8.0])
def test_the_variance_of_counts_is_their_mean(device: str, dose: float) -> None:
    config = _config(particle_fill=0.0, pixel_size_angstrom=1.0, dose_e_per_A2=dose)
    frames = simulate_movie(_ball(torch.device(device)), config, 0, torch.device(device)).frames
    rate = dose / 4
    counts = frames.double().flatten()
    dispersion = float(counts.var() / counts.mean())
    assert abs(dispersion - 1) < N_SIGMA * math.sqrt((2 + 1 / rate) / len(counts))
    assert abs(float(counts.mean()) - rate) < N_SIGMA * math.sqrt(rate / len(counts))


@pytest.mark.parametrize("device", DEVICES)
def test_frames_and_halves_have_independent_noise(device: str) -> None:
    # Near 43 counts, consecutive draws of one generator can repeat themselves on CUDA.
    size = 256
    config = _config(
        size=size, frames=8, particle_fill=0.0, pixel_size_angstrom=1.0, dose_e_per_A2=8 * 43.0
    )
    where = torch.device(device)
    movies = [simulate_movie(_ball(where), config, index, where) for index in range(2)]
    error = 1 / size
    for movie in movies:
        noise = movie.frames - movie.truth / 8
        for i in range(8):
            for j in range(i):
                assert abs(_correlation(noise[i], noise[j])) < N_SIGMA * error, (i, j)
        assert abs(_correlation(noise[0::2].sum(0), noise[1::2].sum(0))) < N_SIGMA * error
    for first, second in zip(movies[0].frames, movies[1].frames, strict=True):
        assert abs(_correlation(first, second)) < N_SIGMA * error


@pytest.mark.gpu
def test_the_gpu_simulates_the_same_truth_as_the_cpu() -> None:
    cuda = torch.device("cuda")
    config = _config()
    here, there = (
        simulate_movie(_ball(), config, 0, CPU),
        simulate_movie(_ball(cuda), config, 0, cuda),
    )
    assert torch.equal(here.xy_px, there.xy_px)
    torch.testing.assert_close(here.truth, there.truth, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("device", DEVICES)
def test_noise_of_halves_with_particles_is_independent(device: str) -> None:
    where = torch.device(device)
    movie = simulate_movie(_ball(where), _config(frames=8), 0, where)
    noise = movie.frames - movie.truth / 8
    halves = noise[0::2].sum(0), noise[1::2].sum(0)
    assert abs(_correlation(*halves)) < N_SIGMA / 128
    raw = movie.frames[0::2].sum(0), movie.frames[1::2].sum(0)
    assert _correlation(*raw) > 2 * N_SIGMA / 128


def test_the_same_seed_and_index_give_the_same_movie() -> None:
    first, again = _movie(3, seed=5), _movie(3, seed=5)
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.truth, again.truth)
    assert torch.equal(first.xy_px, again.xy_px)
    assert first.physics == again.physics
    for other in (_movie(4, seed=5), _movie(3, seed=6)):
        assert other.physics != first.physics
        assert other.xy_px.shape != first.xy_px.shape or not torch.equal(other.xy_px, first.xy_px)
        assert abs(_correlation(other.frames[0], first.frames[0])) < 0.5


def test_the_barrel_gives_the_same_movie_to_the_last_bit() -> None:
    # Tens of thousands of atoms are summed: in threads, the order must not matter.
    config = _config(pixel_size_angstrom=4.0, particle_spacing_angstrom=185.0)
    specimen = barrel(0)
    first = simulate_movie(specimen, config, 0, CPU)
    for _ in range(10):
        again = simulate_movie(specimen, config, 0, CPU)
        assert torch.equal(again.truth, first.truth)
        assert torch.equal(again.frames, first.frames)


def test_a_movie_neither_needs_nor_changes_the_global_random_state() -> None:
    torch.manual_seed(1)
    first = _movie().frames
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(_movie().frames, first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fill", [0.2, 0.7])
def test_particles_keep_their_distance_and_their_number(fill: float) -> None:
    config = _config(size=512, particle_fill=fill, particle_spacing_angstrom=100.0)
    xy = place_particles(config, torch.Generator().manual_seed(1))
    assert float(xy.min()) >= 0
    assert float(xy.max()) < 512
    away = (xy[:, None] - xy[None]).abs()
    away = torch.minimum(away, 512 - away)
    distance = away.square().sum(-1).sqrt() + 1e9 * torch.eye(len(xy))
    assert float(distance.min()) >= 50
    # Random packing of equal discs jams at 0.547 of the area.
    assert len(xy) == round(fill * 0.547 * 512**2 / (math.pi * 25**2))


def test_no_fill_means_no_particles_and_an_even_truth() -> None:
    movie = _movie(particle_fill=0.0)
    assert movie.xy_px.shape == (0, 2)
    assert float(movie.truth.std()) < 1e-3


def test_particles_are_where_their_coordinates_say() -> None:
    movie = _movie(particle_fill=0.05, dose_e_per_A2=1000.0, contrast=2.0)
    assert movie.xy_px.shape == (1, 2)
    x, y = movie.xy_px[0].tolist()
    # The ball is dark against its surroundings; its mean over a disc is lowest at its centre.
    axis = torch.arange(128.0)
    wave = torch.fft.fftfreq(128)
    ball = torch.exp(-0.5 * ((wave[:, None] ** 2 + wave[None] ** 2) * (2 * math.pi * 8) ** 2))
    smooth = torch.fft.ifft2(torch.fft.fft2(movie.truth) * ball).real
    lowest = int(smooth.argmin())
    row, column = axis[lowest // 128], axis[lowest % 128]
    assert abs((float(row) - y + 64) % 128 - 64) < 3
    assert abs((float(column) - x + 64) % 128 - 64) < 3


def test_defocus_and_astigmatism_stay_in_their_ranges() -> None:
    drawn = [
        _movie(i, size=64, frames=2, defocus_min_angstrom=1e4, defocus_max_angstrom=2e4).physics
        for i in range(30)
    ]
    defocus = [p.defocus_angstrom for p in drawn]
    assert 1e4 <= min(defocus) < 1.3e4
    assert 1.7e4 < max(defocus) <= 2e4
    assert all(0 <= p.astigmatism_angstrom <= 200 for p in drawn)
    assert all(0 <= p.astigmatism_angle_degrees <= 180 for p in drawn)


def test_the_ice_gradient_dims_by_at_most_its_value() -> None:
    plain, ice = (_movie(particle_fill=0.0, ice_gradient=g).truth for g in (0.0, 0.3))
    ratio = ice / plain
    assert float(ratio.max()) == pytest.approx(1.0, abs=1e-4)
    assert float(ratio.min()) == pytest.approx(0.7, abs=1e-4)
    steps = torch.cat([ratio.diff(dim=0).flatten(), ratio.diff(dim=1).flatten()])
    assert float(steps.abs().max()) < 0.02


def _offset(first: Tensor, second: Tensor) -> tuple[int, int]:
    """Return the shift in px that takes the first image to the second, by cross-correlation."""
    size = first.shape[0]
    spectrum = (
        torch.fft.rfft2(second - second.mean()) * torch.fft.rfft2(first - first.mean()).conj()
    )
    peak = int(torch.fft.irfft2(spectrum, s=(size, size)).argmax())
    rows, columns = divmod(peak, size)
    return (rows + size // 2) % size - size // 2, (columns + size // 2) % size - size // 2


@pytest.mark.parametrize("drift", [0.0, 40.0])
def test_drift_moves_the_specimen_from_frame_to_frame(drift: float) -> None:
    movie = _movie(drift_angstrom=drift, dose_e_per_A2=1000.0, contrast=5.0)
    offset = math.hypot(*_offset(movie.frames[0], movie.frames[-1]))

    def travelled(time: float) -> float:
        return drift / 2.0 * (1 - math.exp(-4 * time)) / (1 - math.exp(-4))

    assert abs(offset - (travelled(7 / 8) - travelled(1 / 8))) < 1.5
    # The truth does not move: it stands at the mean place of the frames.
    steps = [_offset(movie.truth, frame) for frame in movie.frames]
    for axis in (0, 1):
        assert abs(sum(step[axis] for step in steps) / 4) < 1


def _residual(movie: SimulatedMovie) -> Tensor:
    return (movie.frames.sum(0) / movie.truth - 1).double()


def test_a_gain_residual_is_the_same_in_every_movie_of_a_session() -> None:
    first, second = (_movie(i, gain_residual=0.1, dose_e_per_A2=1000.0) for i in (0, 1))
    counts = 1000.0 * 4
    expected = 0.1**2 + 1 / counts
    variance = float(_residual(first).var())
    assert abs(variance / expected - 1) < N_SIGMA * math.sqrt(2 / 128**2) + 0.02
    reliability = 0.1**2 / expected
    assert abs(_correlation(_residual(first), _residual(second)) - reliability) < 0.05
    plain = [_movie(i, dose_e_per_A2=1000.0) for i in (0, 1)]
    assert abs(_correlation(_residual(plain[0]), _residual(plain[1]))) < N_SIGMA / 128
    torch.testing.assert_close(first.truth, plain[0].truth)


def test_another_session_has_another_gain() -> None:
    first, second = (_movie(seed=s, gain_residual=0.1, dose_e_per_A2=1000.0) for s in (0, 1))
    assert abs(_correlation(_residual(first), _residual(second))) < N_SIGMA / 128


def test_hot_pixels_add_counts_at_the_same_places_in_every_frame() -> None:
    fraction = 0.01
    movies = [
        _movie(i, hot_pixels_per_million=fraction * 1e6, particle_fill=0.0, dose_e_per_A2=1.0)
        for i in (0, 1)
    ]
    # One count in a pixel and frame otherwise: 40 in four frames are hot.
    hot = [movie.frames.sum(0) > 40 for movie in movies]
    assert torch.equal(hot[0], hot[1])
    expected = fraction * 128**2
    assert abs(int(hot[0].sum()) - expected) < N_SIGMA * math.sqrt(expected)
    extra = float(movies[0].frames[:, hot[0]].mean()) - 1
    assert abs(extra - 20) < N_SIGMA * math.sqrt(21 / (4 * expected))
    assert float(movies[0].truth.max()) < 5


def test_damage_fades_each_frame_by_its_exposure() -> None:
    frequency = torch.tensor([0.0, 1 / 20, 1 / 3], dtype=torch.float64)
    expected = [math.inf, 0.245 * 20**1.665 + 2.81, 0.245 * 3**1.665 + 2.81]
    assert critical_exposure(frequency, 300.0).tolist() == pytest.approx(expected)
    torch.testing.assert_close(
        critical_exposure(frequency[1:], 200.0), 0.8 * critical_exposure(frequency[1:], 300.0)
    )


def test_damage_weakens_late_frames_and_leaves_the_mean() -> None:
    plain, damaged = (
        simulate_movie(
            _ball(),
            SimulateConfig(
                micrographs=1, size=256, frames=8, contrast=2.0, radiation_damage=damage
            ),
            0,
            CPU,
        )
        for damage in (False, True)
    )
    truth = plain.truth - plain.truth.mean()

    def signal(frames: torch.Tensor) -> float:
        mean = frames.mean(0)
        return float(((mean - mean.mean()) * truth).sum() / truth.square().sum())

    first, last = slice(0, 4), slice(4, 8)
    assert torch.equal(plain.truth, damaged.truth)
    assert signal(damaged.frames[last]) < signal(damaged.frames[first])
    assert signal(damaged.frames[last]) < signal(plain.frames[last])
    noise = math.sqrt(float(plain.frames.mean()) / plain.frames.numel())
    assert abs(float(plain.frames.mean() - damaged.frames.mean())) < 5 * math.sqrt(2) * noise
