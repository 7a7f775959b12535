"""One movie: particles in ice, their expected image, and the electrons that are counted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearice.config import SimulateConfig
from clearice.fourier import frequency_grid, shift_spectrum
from clearice.seeds import derive_seed
from clearice.simulate.imaging import (
    MicrographPhysics,
    add_atoms,
    critical_exposure,
    expected_image,
    projected_potential,
)
from clearice.simulate.specimen import random_rotations
from clearice.simulate.surroundings import surroundings
from clearice.types import AtomCloud

# Densest random sequential packing of equal discs (Feder 1980).
_JAMMING_COVERAGE = 0.547


@dataclass(frozen=True)
class SimulatedMovie:
    """A movie with all that is known about it.

    Attributes:
        frames: Counts of each frame.
        truth: Expected counts of the whole exposure, without gain errors, drift or damage.
        xy_px: Particle centres (x along columns, y along rows), px.
        physics: Defocus and astigmatism.
    """

    frames: Float[Tensor, "k h w"]
    truth: Float[Tensor, "h w"]
    xy_px: Float[Tensor, "n 2"]
    physics: MicrographPhysics


def place_particles(config: SimulateConfig, generator: torch.Generator) -> Float[Tensor, "n 2"]:
    """Place particle centres at random, none nearer to another than the configured spacing (px)."""
    spacing = config.particle_spacing_angstrom / config.pixel_size_angstrom
    densest = _JAMMING_COVERAGE * config.size**2 / (math.pi * (spacing / 2) ** 2)
    wanted = max(1, round(config.particle_fill * densest)) if config.particle_fill > 0 else 0
    placed = torch.empty(0, 2)
    for candidate in torch.rand(200 * wanted, 2, generator=generator) * config.size:
        if len(placed) == wanted:
            break
        away = (placed - candidate).abs()
        away = torch.minimum(away, config.size - away)  # the field is periodic
        if len(placed) == 0 or away.square().sum(1).min() >= spacing**2:
            placed = torch.cat([placed, candidate[None]])
    return placed


def _draw_physics(config: SimulateConfig, generator: torch.Generator) -> MicrographPhysics:
    u = torch.rand(3, generator=generator).tolist()
    span = config.defocus_max_angstrom - config.defocus_min_angstrom
    return MicrographPhysics(
        defocus_angstrom=config.defocus_min_angstrom + span * u[0],
        astigmatism_angstrom=config.astigmatism_angstrom * u[1],
        astigmatism_angle_degrees=180 * u[2],
    )


def _ice_transmission(
    config: SimulateConfig, generator: torch.Generator, device: torch.device
) -> Float[Tensor, "h w"]:
    """Return a smooth intensity factor between 1 − ice_gradient and 1."""
    tilt = torch.randn(2, generator=generator).tolist()
    bend = torch.randn(1, generator=generator).item()
    axis = torch.linspace(-1, 1, config.size, device=device)
    y, x = axis[:, None], axis[None, :]
    thickness = tilt[0] * y + tilt[1] * x + bend * (x * x + y * y)
    thickness = (thickness - thickness.min()) / (thickness.max() - thickness.min())
    return 1 - config.ice_gradient * thickness


def _gain(
    config: SimulateConfig, seed: int, device: torch.device
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Return the pixel gain that is left, and what hot pixels add a frame: the same all session."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "detector"))
    shape = (config.size, config.size)
    gain = 1 + config.gain_residual * torch.randn(shape, generator=generator)
    hot = torch.rand(shape, generator=generator) < config.hot_pixels_per_million * 1e-6
    return gain.clamp(min=0.0).to(device), (20.0 * hot).to(device)


def _drift_path(config: SimulateConfig, generator: torch.Generator) -> list[tuple[float, float]]:
    """Return (rows, columns) px of each frame: fast at first, as beam-induced motion is."""
    angle = 2 * math.pi * torch.rand(1, generator=generator).item()
    total = config.drift_angstrom / config.pixel_size_angstrom
    times = [(i + 0.5) / config.frames for i in range(config.frames)]
    travelled = [total * (1 - math.exp(-4 * t)) / (1 - math.exp(-4)) for t in times]
    middle = sum(travelled) / len(travelled)
    return [((d - middle) * math.sin(angle), (d - middle) * math.cos(angle)) for d in travelled]


def _atoms_on_grid(
    specimen: AtomCloud, xy_px: Tensor, config: SimulateConfig, generator: torch.Generator
) -> Int[Tensor, "h w"]:
    """Put the specimen at each centre, in a random orientation."""
    positions = specimen.positions_angstrom / config.pixel_size_angstrom
    counts = torch.zeros(config.size, config.size, dtype=torch.int64, device=positions.device)
    rotations = random_rotations(len(xy_px), generator).to(positions.device)
    for rotation, centre in zip(rotations, xy_px.to(positions.device), strict=True):
        xy = positions @ rotation[:2].T + centre
        add_atoms(counts, xy.flip(1))
    return counts


def simulate_movie(
    specimen: AtomCloud, config: SimulateConfig, index: int, device: torch.device
) -> SimulatedMovie:
    """Simulate one movie.

    Every random draw has a seed of its own, derived from the session's seed, the index of the
    movie and what it is for; each frame too, so that any split into halves is independent.

    Args:
        specimen: Atoms of the particle.
        config: The session.
        index: Number of the movie in the session.
        device: Where to compute.
    """
    layout = torch.Generator().manual_seed(derive_seed(config.seed, "layout", index))
    physics = _draw_physics(config, layout)
    centres = place_particles(config, layout)
    specimen = AtomCloud(specimen.positions_angstrom.to(device), specimen.name)
    atoms = _atoms_on_grid(specimen, centres, config, layout)
    potential = projected_potential(atoms, config.pixel_size_angstrom)
    ice = _ice_transmission(config, layout, device)
    gain, hot = _gain(config, config.seed, device)
    dose_per_frame = config.dose_e_per_A2 * config.pixel_size_angstrom**2 / config.frames
    image = expected_image(potential, config, physics)
    if config.carbon_share > 0 or config.contaminants > 0:
        seed = derive_seed(config.seed, "surroundings", index)
        around = surroundings(config, physics, seed, device)
        image, ice = image + around.contrast, ice * around.transmission
    spectrum = torch.fft.rfft2(image)
    lifetime = critical_exposure(
        frequency_grid(config.size, config.size, device=device) / config.pixel_size_angstrom,
        config.voltage_kv,
    )
    frames = torch.empty(config.frames, config.size, config.size)
    for frame, shift in enumerate(_drift_path(config, layout)):
        seen = spectrum
        if config.radiation_damage:
            exposure = config.dose_e_per_A2 * (frame + 0.5) / config.frames
            seen = spectrum * torch.exp(-exposure / (2 * lifetime))
        moved = torch.fft.irfft2(
            shift_spectrum(seen, config.size, shift), s=(config.size, config.size)
        )
        expected = dose_per_frame * moved * ice * gain + hot
        counting = torch.Generator(device).manual_seed(
            derive_seed(config.seed, "counts", index, frame)
        )
        frames[frame] = torch.poisson(expected.clamp(min=0), generator=counting).cpu()
    still = torch.fft.irfft2(spectrum, s=(config.size, config.size))
    truth = config.dose_e_per_A2 * config.pixel_size_angstrom**2 * still * ice
    return SimulatedMovie(frames, truth.cpu(), centres, physics)
