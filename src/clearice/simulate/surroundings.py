"""What lies beside the particles: the edge of the carbon film, and contaminating ice.

Image contrast is linear in the potential, so it is made on a field of its own, wide enough that
nothing wraps around, and added to that of the particles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.config import SimulateConfig
from clearice.fourier import gaussian_lowpass, radial_filter
from clearice.simulate.imaging import MicrographPhysics, expected_image

# Amorphous carbon, 2 g/cm³: atoms/Å³, the integral of an atom's potential (V·Å³) and its width (Å),
# and the mean inner potential above that of the ice which the film replaces, V.
_CARBON_ATOMS_A3 = 0.1
_CARBON_VOLT_A3 = 120.0
_CARBON_SIGMA = 0.6
_CARBON_ABOVE_ICE_VOLT = 6.0
_CARBON_THICKNESS = 80.0
# Atoms keep their distance, so the film is smoother than random atoms at scales above this, Å.
_CARBON_ORDER = 4.0
_CARBON_SMOOTHNESS = 0.1
# Radius of the hole (a Quantifoil R1.2/1.3), and the width over which its rim thins out, Å.
_HOLE_RADIUS = 6000.0
_RIM = 25.0
# Crystals of ice on the surface: radius and thickness, Å; mean inner potential, V; rim, Å.
_CRYSTAL_RADII = (80.0, 260.0)
_CRYSTAL_THICKNESS = (150.0, 450.0)
_CRYSTAL_VOLT = 3.5
_CRYSTAL_RIM = 15.0
# Electrons that lost energy miss from the image; mean free paths, Å, at 300 kV.
_CARBON_PATH = 1700.0
_ICE_PATH = 3000.0
_MARGIN = 0.125

Field = Float[Tensor, "h w"]


@dataclass(frozen=True)
class Surroundings:
    """What is seen beside the particles.

    Attributes:
        contrast: To be added to the expected image.
        transmission: Factor on the intensity.
    """

    contrast: Field
    transmission: Field


def surroundings(
    config: SimulateConfig, physics: MicrographPhysics, seed: int, device: torch.device
) -> Surroundings:
    """Draw the carbon edge and the contamination of one micrograph.

    Args:
        config: The session; `carbon_share` and `contaminants` say how much there is.
        physics: Defocus and astigmatism.
        seed: Of this micrograph.
        device: Where to compute.
    """
    generator = torch.Generator().manual_seed(seed)
    margin = round(_MARGIN * config.size)
    wide = config.model_copy(update={"size": config.size + 2 * margin})
    inner = slice(margin, margin + config.size)
    potential = torch.zeros(wide.size, wide.size)
    path = torch.zeros(wide.size, wide.size)
    if config.carbon_share > 0:
        film = _film(wide, config, inner, generator)
        potential += film * _carbon(wide, generator)
        path += film * _CARBON_THICKNESS / _CARBON_PATH
    for _ in range(config.contaminants):
        thickness = _crystal(wide, generator)
        potential += _CRYSTAL_VOLT * thickness
        path += thickness / _ICE_PATH
    contrast = expected_image(potential.to(device), wide, physics) - 1
    return Surroundings(contrast[inner, inner], torch.exp(-path[inner, inner]).to(device))


def _axes(size: int) -> tuple[Float[Tensor, "h 1"], Float[Tensor, "1 w"]]:
    axis = torch.arange(size, dtype=torch.float32)
    return axis[:, None], axis[None, :]


def _film(
    wide: SimulateConfig, config: SimulateConfig, inner: slice, generator: torch.Generator
) -> Field:
    """Return where the film is (1) and where the hole (0): it covers a given share of the field."""
    angle = 2 * math.pi * torch.rand(1, generator=generator).item()
    radius = _HOLE_RADIUS / wide.pixel_size_angstrom
    y, x = _axes(wide.size)
    middle = wide.size / 2
    away = torch.hypot(y - middle + radius * math.sin(angle), x - middle + radius * math.cos(angle))
    seen = away[inner, inner].flatten().sort().values
    edge = seen[round((1 - config.carbon_share) * (len(seen) - 1))]
    return torch.sigmoid((away - edge) * wide.pixel_size_angstrom / _RIM)


def _carbon(config: SimulateConfig, generator: torch.Generator) -> Field:
    """Return the potential of the film above that of ice, V·Å: its mean, and its atoms."""
    pixel = config.pixel_size_angstrom
    atoms = torch.randn(config.size, config.size, generator=generator)
    spread = _CARBON_VOLT_A3 * math.sqrt(_CARBON_ATOMS_A3 * _CARBON_THICKNESS) / pixel

    def structure(f: Tensor) -> Tensor:
        k2 = (f / pixel).square()
        order = 1 - (1 - _CARBON_SMOOTHNESS) * torch.exp(-k2 * _CARBON_ORDER**2)
        return order.sqrt() * torch.exp(-2 * (math.pi * _CARBON_SIGMA) ** 2 * k2)

    return _CARBON_ABOVE_ICE_VOLT * _CARBON_THICKNESS + spread * radial_filter(atoms, structure)


def _crystal(config: SimulateConfig, generator: torch.Generator) -> Field:
    """Return the thickness of a rounded crystal of about six sides somewhere in the field, Å."""
    pixel = config.pixel_size_angstrom
    u = torch.rand(6, generator=generator).tolist()
    radius = _CRYSTAL_RADII[0] + (_CRYSTAL_RADII[1] - _CRYSTAL_RADII[0]) * u[2]
    height = _CRYSTAL_THICKNESS[0] + (_CRYSTAL_THICKNESS[1] - _CRYSTAL_THICKNESS[0]) * u[3]
    y, x = _axes(config.size)
    dy, dx = (y - u[0] * config.size) * pixel, (x - u[1] * config.size) * pixel
    angle = torch.atan2(dy, dx)
    outline = (
        1 + 0.06 * torch.cos(6 * angle + 6.28 * u[4]) + 0.12 * torch.cos(2 * angle + 6.28 * u[5])
    )
    inside = (1 - torch.hypot(dy, dx) / (radius * outline)).clamp(min=0)
    thickness = height * torch.sqrt((2 * inside - inside.square()).clamp(min=0))
    return gaussian_lowpass(thickness, _CRYSTAL_RIM / pixel)
