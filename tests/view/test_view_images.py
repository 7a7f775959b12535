"""What is shown is what the file holds: compared with plain sums and transforms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from clearice.view import images
from clearice.view.images import Look, level_count, picture, power_spectrum, radial_profile, tile

PLAIN = Look(even=False)


def _grey(image: np.ndarray) -> np.ndarray:
    """Return grey levels as documented, by numpy."""
    low, high = np.quantile(image, [0.005, 0.995])
    return np.clip(255 * ((image - (low + high) / 2) / (2 * (high - low)) + 0.5), 0, 255).round()


def test_levels_are_means_of_squares_with_the_top_row_first(generator: torch.Generator) -> None:
    pixels = torch.randn(768, 1024, generator=generator) + 50
    upright = pixels.numpy().astype(np.float64)[::-1]
    assert level_count(768, 1024) == 2
    for level, edge in ((0, 1), (1, 2), (2, 4)):
        means = upright.reshape(768 // edge, edge, 1024 // edge, edge).mean((1, 3))
        # Percentiles are those of a sample.
        assert np.abs(picture(pixels, 1.0, PLAIN, level).numpy() - _grey(means)).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (513, 40), (1025, 2049), (600, 1300)])
def test_every_pixel_is_in_one_tile_of_each_level(height: int, width: int) -> None:
    pixels = torch.arange(height * width).float().view(height, width)
    levels = [picture(pixels, 1.0, PLAIN, level) for level in range(level_count(height, width))]
    assert max(levels[-1].shape) <= 512 < max(height, width, 513)
    for level, image in enumerate(levels):
        assert image.shape == (-(-height // 2**level), -(-width // 2**level))
        rows, columns = (-(-length // 512) for length in image.shape)
        strips = [torch.cat([tile(image, r, c) for c in range(columns)], 1) for r in range(rows)]
        assert torch.equal(torch.cat(strips), image)
    assert tile(levels[0], -(-height // 512), 0).numel() == 0


def test_the_micrograph_is_left_as_it_is(generator: torch.Generator) -> None:
    pixels = torch.randn(600, 70, generator=generator)
    before = pixels.clone()
    for level in (0, 1):
        picture(pixels, 1.0, Look(True, 10), level)
    assert torch.equal(pixels, before)


def test_grey_64_to_191_is_the_range_between_the_percentiles(generator: torch.Generator) -> None:
    grey = images.to_grey(torch.randn(400, 400, generator=generator)).float()
    assert ((grey < 63.5).float().mean() - 0.005).abs() < 1e-3
    assert ((grey > 191.5).float().mean() - 0.005).abs() < 1e-3


def test_a_gradient_of_the_ice_is_taken_away_and_particles_stay() -> None:
    y, x = torch.meshgrid(torch.arange(800.0), torch.arange(600.0), indexing="ij")
    particles = torch.cos(2 * math.pi * x / 40)
    image = particles + 5 * torch.cos(math.pi * y / 800) + 0.01 * x + 7
    rest = image - images.background(image)
    assert (rest - particles).std() < 0.15 * particles.std()
    assert rest.mean().abs() < 0.1


@pytest.mark.parametrize("resolution", [10, 20])
def test_half_of_the_amplitude_passes_at_the_low_pass(resolution: float) -> None:
    x = torch.arange(512.0)
    wave = torch.cos(2 * math.pi * x * 1.28 / resolution).expand(512, 512)
    middle = images._lowpass(wave, resolution / 1.28)[128:384, 128:384]
    assert float(middle.std() / wave[128:384, 128:384].std()) == pytest.approx(0.5, abs=0.005)


def test_filters_of_means_are_means_of_what_is_filtered(generator: torch.Generator) -> None:
    pixels = torch.randn(1024, 1024, generator=generator)
    pixels += torch.linspace(0, 20, 1024)[:, None]
    look = Look(True, 20)
    evened = pixels.flip(0) - images.background(pixels.flip(0))
    smooth = images._lowpass(evened, 20.0)
    expected = smooth.view(256, 4, 256, 4).mean((1, 3))
    shown = picture(pixels, 1.0, look, 2).float()
    assert torch.corrcoef(torch.stack([expected.flatten(), shown.flatten()]))[0, 1] > 0.99


def test_a_lowpass_wider_than_the_image_is_no_failure() -> None:
    assert picture(torch.rand(3, 5), 0.5, Look(True, 40), 0).shape == (3, 5)


def test_white_noise_has_its_variance_at_every_frequency(generator: torch.Generator) -> None:
    power = power_spectrum(3 * torch.randn(900, 1100, generator=generator) + 100)
    assert power.shape == (256, 256)
    profile = radial_profile(power)
    for value in profile["log_power"][2:]:
        assert 10**value == pytest.approx(9, rel=0.15)
    assert profile["frequency"][0] == pytest.approx(0.25 / 128)


def test_a_wave_is_a_peak_at_its_frequency() -> None:
    y, x = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
    power = power_spectrum(torch.cos(2 * math.pi * (x * 30 + y * 11) / 256))
    row, column = divmod(int(power.argmax()), 256)
    assert {(row, column), (256 - row, 256 - column)} == {(139, 158), (117, 98)}


def _direct_spectrum(image: Tensor, edge: int) -> np.ndarray:
    window = np.outer(*[0.5 - 0.5 * np.cos(2 * np.pi * np.arange(edge) / edge)] * 2)
    pixels, total, count = image.numpy().astype(np.float64), np.zeros((edge, edge)), 0
    for top in range(0, pixels.shape[0] - edge + 1, edge // 2):
        for left in range(0, pixels.shape[1] - edge + 1, edge // 2):
            square = pixels[top : top + edge, left : left + edge]
            total += np.abs(np.fft.fft2((square - square.mean()) * window)) ** 2
            count += 1
    return np.fft.fftshift(total) / count / (window**2).sum()


def test_the_spectrum_equals_a_direct_computation(generator: torch.Generator) -> None:
    image = torch.randn(400, 700, generator=generator)
    power = power_spectrum(image).numpy()
    assert np.allclose(power, _direct_spectrum(image, 256), rtol=1e-3)
    picture = images.spectrum_picture(torch.from_numpy(power))
    assert picture[:: -1 if False else 1].shape == (256, 256)


def test_small_micrographs_have_a_spectrum(generator: torch.Generator) -> None:
    assert power_spectrum(torch.randn(9, 40, generator=generator)).shape == (8, 8)
