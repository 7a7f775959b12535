"""What stands in a micrograph beside particles: carbon, gold, dirt, crystals, uneven ice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.simulate.conditions import Draws

# Shares of micrographs.
_CARBON, _GOLD, _DIRT, _CRYSTALS, _ROUGH = 0.15, 0.04, 0.15, 0.06, 0.3
# Projected potential of a white amorphous texture, V·Å, times the root of the area of a pixel, Å.
_TEXTURE_CARBON: Final = 60.0
_TEXTURE_ICE: Final = 12.0
_LATTICE_ANGSTROM: Final = (3.4, 3.9)


@dataclass(frozen=True)
class Scenery:
    """What is added to particles.

    Attributes:
        potential: Projected potential beside that of the particles, V·Å.
        transmission: Share of the electrons that reaches each pixel.
    """

    potential: Float[Tensor, "n h w"]
    transmission: Float[Tensor, "n h w"]


def draw_scenery(
    pixel_size_angstrom: Float[Tensor, "n"],
    ice_gradient: Float[Tensor, "n"],
    draws: Draws,
    grain: Float[Tensor, "n h w"],
) -> Scenery:
    """Draw scenery.

    Args:
        pixel_size_angstrom: Å/px of each micrograph.
        ice_gradient: Largest relative change of intensity by the thickness of the ice.
        draws: What there is, and where, on the device of the rest.
        grain: White noise of variance 1, of which whatever is amorphous is made.
    """
    device, size = grain.device, grain.shape[-1]
    pixel = pixel_size_angstrom[:, None, None]
    axis = torch.linspace(-1, 1, size, device=device)
    y, x = axis[None, :, None], axis[None, None, :]
    grain = grain / pixel

    def uniform(low: float, high: float) -> Tensor:
        return draws.uniform(low, high)[:, None, None]

    def sometimes(share: float) -> Tensor:
        return draws.chance(share).float()[:, None, None]

    # Thickness of the ice, 0 to 1.
    slope_y, slope_x, bend = uniform(-1, 1), uniform(-1, 1), uniform(-1, 1)
    thickness = slope_y * y + slope_x * x + bend * (x * x + y * y)
    low, high = thickness.amin((1, 2), keepdim=True), thickness.amax((1, 2), keepdim=True)
    thickness = (thickness - low) / (high - low).clamp(min=1e-6)
    transmission = 1 - ice_gradient[:, None, None] * thickness
    potential = _TEXTURE_ICE * sometimes(_ROUGH) * uniform(0.3, 1.5) * grain

    # A hole's edge: the far side of a large circle or of a line.
    angle, offset, curve = uniform(0, 2 * math.pi), uniform(-0.3, 0.9), uniform(-0.4, 0.4)
    along = x * angle.cos() + y * angle.sin()
    across = y * angle.cos() - x * angle.sin()
    behind = along - offset + curve * across * across
    half_width = size * pixel / 2
    carbon = sometimes(_CARBON) * torch.sigmoid(behind * half_width / uniform(5, 30))
    potential = potential + _TEXTURE_CARBON * uniform(0.5, 2.0) * carbon * grain
    transmission = transmission * (1 - uniform(0.05, 0.25) * carbon)
    gold = sometimes(_GOLD) * torch.sigmoid(behind * half_width / uniform(5, 15))
    transmission = transmission * (1 - uniform(0.3, 0.8) * gold)
    potential = potential + 3 * _TEXTURE_CARBON * gold * grain

    # One clump of dirt or ice, thick in its middle.
    centre_y, centre_x, radius = uniform(-1.1, 1.1), uniform(-1.1, 1.1), uniform(100, 600)
    away = torch.hypot(y - centre_y, (x - centre_x) * uniform(0.6, 1.6)) * half_width / radius
    wobble = 1 + 0.2 * torch.sin(uniform(2, 6).round() * torch.atan2(y - centre_y, x - centre_x))
    clump = sometimes(_DIRT) * torch.sigmoid((1 - away / wobble) * uniform(4, 20))
    transmission = transmission * (1 - uniform(0.1, 0.5) * clump)
    potential = potential + _TEXTURE_CARBON * uniform(0.3, 2.0) * clump * grain

    # Crystals of ice: waves in a patch.
    spacing, direction = uniform(*_LATTICE_ANGSTROM), uniform(0, math.pi)
    path = (x * direction.cos() + y * direction.sin()) * half_width
    resolved = (spacing > 2 * pixel).float()
    wave = torch.cos(2 * math.pi * path / spacing) * resolved
    patch = sometimes(_CRYSTALS) * torch.sigmoid((1 - away) * uniform(4, 20))
    potential = potential + uniform(2, 30) * wave * patch
    return Scenery(potential, transmission)
