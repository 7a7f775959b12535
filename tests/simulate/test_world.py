"""The training world: each micrograph from its number alone, physics as in single simulations."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from clearice.config import SimulateConfig
from clearice.simulate import MicrographPhysics, World, expected_image, projected_potential
from clearice.simulate.conditions import (
    DOSE_E_PER_A2,
    PIXEL_SIZE_ANGSTROM,
    Conditions,
    Draws,
    draw_conditions,
)
from clearice.simulate.imaging import ATOM_SHARES, add_atoms
from clearice.simulate.optics import Optics
from clearice.simulate.particles import SHARES, add_points, laid
from clearice.simulate.scenery import draw_scenery
from clearice.simulate.world import _detected, signal_power
from helpers import CPU


@pytest.fixture(scope="module")
def world() -> World:
    return World(0, CPU, 4)


def plain(n: int, **changed: float) -> Conditions:
    """Return conditions without anything unusual."""
    values = dict.fromkeys((each.name for each in fields(Conditions)), 0.0)
    values |= {
        "pixel_size_angstrom": 1.3,
        "dose_e_per_A2": 20.0,
        "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7,
        "amplitude_contrast": 0.07,
        "defocus_angstrom": 15_000.0,
        "b_factor_A2": 80.0,
        "contrast": 0.4,
        "mtf_at_nyquist": 0.5,
        "noise_at_nyquist": 1.0,
        **changed,
    }
    return Conditions(**{name: torch.full((n,), value) for name, value in values.items()})


def test_a_micrograph_is_the_same_whatever_is_made_beside_it(world: World) -> None:
    together, alone = world.views(5, 3, 64), world.views(6, 1, 64)
    assert torch.equal(together.noisy[1], alone.noisy[0])
    assert torch.equal(together.clean[1], alone.clean[0])
    assert not torch.equal(together.noisy[0], together.noisy[1])


def test_another_world_has_other_micrographs(world: World) -> None:
    other = World(1, CPU, 1)
    assert not torch.equal(world.views(0, 1, 64).noisy, other.views(0, 1, 64).noisy)


def test_views_are_normalised_and_finite(world: World) -> None:
    views = world.views(0, 12, 64)
    torch.testing.assert_close(views.noisy.mean((1, 2)), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(views.noisy.std((1, 2)), torch.ones(12), atol=1e-4, rtol=0)
    assert bool(views.clean.isfinite().all())
    assert max(views.particles) > 0


def test_conditions_stay_within_what_the_model_says_it_has_seen() -> None:
    drawn = draw_conditions(Draws(torch.rand(500, 64, generator=torch.Generator().manual_seed(0))))
    for values, (low, high) in (
        (drawn.pixel_size_angstrom, PIXEL_SIZE_ANGSTROM),
        (drawn.dose_e_per_A2, DOSE_E_PER_A2),
    ):
        assert low <= float(values.min()) and float(values.max()) <= high * 1.0001
        assert float(values.max() / values.min()) > 0.8 * high / low
    assert set(drawn.voltage_kv.tolist()) == {200.0, 300.0}


def test_the_optics_are_those_of_a_single_simulation() -> None:
    size, places = 64, torch.tensor([[20.0, 30.5], [41.25, 8.75], [63.5, 63.9]])
    counts = torch.zeros(size, size, dtype=torch.int64)
    add_atoms(counts, places)
    config = SimulateConfig(size=size, pixel_size_angstrom=1.3)
    physics = MicrographPhysics(15_000.0, 250.0, 33.0)
    wanted = expected_image(projected_potential(counts, 1.3), config, physics)
    given = plain(2, astigmatism_angstrom=250.0, astigmatism_angle_degrees=33.0)
    grid = (counts.float() / ATOM_SHARES).expand(2, size, size)
    found = Optics(given, size).image(grid, torch.zeros(2, size, size))
    # The mean, which is not contrast, is left out of the world's images.
    torch.testing.assert_close(found[1], wanted - wanted.mean() + 1, atol=2e-5, rtol=0)


def test_points_land_where_single_atoms_would() -> None:
    world = World(3, CPU, 1)
    pool, size = world.particles.pools[0], 96
    atoms = pool.points * 0.2
    grid = torch.zeros(2 * size * size, dtype=torch.int32)
    turn = torch.eye(3)[:2]
    which, base = torch.tensor([0]), torch.tensor([size * size])
    add_points(grid, pool, which, base, turn[None] * 0.2, torch.tensor([[10.0, 50.0]]), size)
    counts = torch.zeros(size, size, dtype=torch.int64)
    add_atoms(counts, atoms[:, :2].flip(1) + torch.tensor([10.0, 50.0]))
    found = grid.view(2, size, size)[1].float() / SHARES
    assert int(grid.view(2, -1)[0].abs().sum()) == 0
    torch.testing.assert_close(found, counts.float() / ATOM_SHARES, atol=5e-3, rtol=2e-3)


def _counted(given: Conditions, size: int = 128) -> tuple[Tensor, Tensor]:
    n = len(given.dose_e_per_A2)
    noises = [torch.Generator().manual_seed(i) for i in range(n)]
    expected = torch.ones(n, size, size)
    return _detected(expected, expected, given, Optics(given, size), noises)


def test_noise_is_that_of_counted_electrons() -> None:
    noisy, clean = _counted(plain(2, dose_e_per_A2=5.0))
    electrons = 5.0 * 1.3**2
    torch.testing.assert_close(clean, torch.full_like(clean, electrons), rtol=1e-5, atol=0)
    sigmas = 5 * electrons / math.sqrt(noisy.numel() / 2)
    assert abs(float((noisy - clean).square().mean()) - electrons) < sigmas


def test_what_a_detector_adds_is_not_in_the_target() -> None:
    noisy, clean = _counted(plain(1, stripes=0.5, gain_residual=0.05, hot_pixels=1e-3))
    assert float(clean.std()) < 1e-3
    noise = noisy[0] - clean[0]
    rows, columns = noise.mean(1).std(), noise.mean(0).std()
    # Rows and columns of white noise would vary by σ/√128.
    assert min(float(rows), float(columns)) > 2 * float(noise.std()) / math.sqrt(128)
    assert float(noise.max()) > 6 * float(noise.std())


def test_noise_of_an_integrating_detector_falls_with_frequency() -> None:
    noisy, clean = _counted(plain(2, noise_at_nyquist=0.3))
    power = torch.fft.rfft2(noisy - clean).abs().square().mean(0)
    assert float(power[:4, 2:6].mean()) > 5 * float(power[60:68, 58:64].mean())


def test_noise_has_a_colour_of_its_own() -> None:
    noisy, clean = _counted(plain(2, noise_slope=0.2))
    power = torch.fft.rfft2(noisy - clean).abs().square().mean(0)
    low, high = power[:10, 2:10].mean(), power[56:72, 56:64].mean()
    # cos 2πf goes from 1 to −1, and on in the corner; of the power twice the logarithm.
    assert math.log(float(low / high)) == pytest.approx(0.8, abs=0.25)


def test_moving_ice_is_noise_and_not_signal() -> None:
    given = plain(1, dose_e_per_A2=1000.0)
    optics = Optics(given, 128)
    texture = 200 * torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(0))
    ice = optics.contrast(texture)
    noise = torch.Generator().manual_seed(1)
    still = torch.ones(1, 128, 128)
    noisy, clean = _detected(still, still + ice, given, optics, [noise])
    assert float(clean.std()) < 1e-2
    seen = torch.corrcoef(torch.stack([(noisy - clean).flatten(), ice.flatten()]))[0, 1]
    assert float(seen) > 0.3


def test_filaments_lie_in_the_plane() -> None:
    rotations = laid(50, torch.Generator().manual_seed(0))
    unit = torch.eye(2).expand(50, 2, 2)
    torch.testing.assert_close(rotations @ rotations.mT, unit, atol=1e-5, rtol=0)
    assert float(rotations[:, :, 2].norm(dim=1).min()) > math.cos(math.radians(10.1))


def test_scenery_leaves_no_more_electrons_than_there_were() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = Draws(torch.rand(40, 64, generator=generator))
    grain = torch.randn(40, 32, 32, generator=generator)
    scenery = draw_scenery(torch.full((40,), 1.5), torch.full((40,), 0.1), draws, grain)
    assert float(scenery.transmission.min()) >= 0
    assert float(scenery.transmission.max()) <= 1
    assert float(scenery.transmission.amin((1, 2)).max()) > 0.8  # most fields are clear
    assert bool(scenery.potential.isfinite().all())


def test_signal_power_leaves_out_what_is_slow() -> None:
    axis = torch.arange(64.0)
    fast = torch.sin(2 * math.pi * axis * 8 / 64).expand(64, 64)
    slow = torch.sin(2 * math.pi * axis * 1 / 64).expand(64, 64)
    power = signal_power(torch.stack([fast, slow]), torch.tensor([1.0, 20.0]))
    assert float(power[0]) == pytest.approx(0.5, rel=0.01)
    # A wave of 1,280 Å: 1 − exp(−(400/1280)² ln 2) of its amplitude is left.
    left = 1 - math.exp(-((400 / 1280) ** 2) * math.log(2))
    assert float(power[1]) == pytest.approx(0.5 * left**2, rel=0.01)


def test_damage_takes_fine_detail() -> None:
    size = 64
    counts = torch.zeros(1, size, size)
    counts[0, 32, 32] = 1.0
    given = plain(1, dose_e_per_A2=60.0)
    whole = Optics(given, size).image(counts, torch.zeros_like(counts))
    faded = Optics(replace(given, damage=torch.ones(1)), size).image(
        counts, torch.zeros_like(counts)
    )
    ratio = torch.fft.rfft2(faded - 1).abs() / torch.fft.rfft2(whole - 1).abs().clamp(min=1e-12)
    assert float(ratio[0, 0, 2]) > 0.6
    assert float(ratio[0, 0, 28]) < 0.5
