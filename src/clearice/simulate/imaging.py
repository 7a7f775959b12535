"""From atoms to the expected image: projection, weak phase, CTF, envelope, detector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch_ctf import calculate_ctf_2d

from clearice.config import SimulateConfig
from clearice.fourier import frequency_grid, radial_filter

# Integral of the potential of an average heavy atom with its hydrogens, and of the solvent that it
# displaces, V·Å³; solvent is smooth at the scale of a water molecule.
_ATOM_VOLT_A3 = 144.0
_SOLVENT_VOLT_A3 = 85.0
_ATOM_SIGMA = 0.6
_SOLVENT_SIGMA = 2.6


@dataclass(frozen=True)
class MicrographPhysics:
    """What differs between micrographs of one session.

    Attributes:
        defocus_angstrom: Mean underfocus, Å.
        astigmatism_angstrom: (U−V)/2, Å.
        astigmatism_angle_degrees: Direction of U, degrees.
    """

    defocus_angstrom: float
    astigmatism_angstrom: float
    astigmatism_angle_degrees: float


def interaction_constant(voltage_kv: float) -> float:
    """Return the phase per projected potential, rad/(V·Å): 6.526e-4 at 300 kV.

    Source: Kirkland, Advanced Computing in Electron Microscopy, eq. 5.6.
    """
    energy, rest = voltage_kv * 1e3, 510_998.95
    wavelength = 12.2642598 / math.sqrt(energy * (1 + energy / (2 * rest)))
    return 2 * math.pi / (wavelength * energy) * (rest + energy) / (2 * rest + energy)


# Atoms are added as whole numbers of this share, so that the sum does not depend on the order in
# which threads add, and a seed gives the same movie on any number of cores.
ATOM_SHARES = 1 << 24


def add_atoms(counts: Int[Tensor, "h w"], positions_px: Float[Tensor, "atoms 2"]) -> None:
    """Add atoms at (row, column) px to a periodic grid, each spread over its four nearest pixels.

    Args:
        counts: int64 grid in shares of an atom, changed in place (see `projected_potential`).
        positions_px: Where the atoms are.
    """
    height, width = counts.shape
    corner = positions_px.floor()
    fraction = positions_px - corner
    for dy in (0, 1):
        for dx in (0, 1):
            row = (corner[:, 0].long() + dy) % height
            column = (corner[:, 1].long() + dx) % width
            weight = (fraction[:, 0] if dy else 1 - fraction[:, 0]) * (
                fraction[:, 1] if dx else 1 - fraction[:, 1]
            )
            shares = (weight * ATOM_SHARES).round().long()
            counts.index_put_((row, column), shares, accumulate=True)


def projected_potential(
    counts: Int[Tensor, "n n"], pixel_size_angstrom: float
) -> Float[Tensor, "n n"]:
    """Turn atoms on a grid (see `add_atoms`) into their projected potential.

    The transfer of the spreading (sinc²) is divided out again; then each atom gets its own width
    and the hole that it leaves in the solvent.

    Args:
        counts: Shares of atoms in each pixel.
        pixel_size_angstrom: Å/px.

    Returns:
        Projected potential relative to the solvent, V·Å.
    """
    grid, size = counts.to(torch.float32) / ATOM_SHARES, counts.shape[0]
    spectrum = torch.fft.rfft2(grid)
    fy = torch.fft.fftfreq(size, device=grid.device)
    fx = torch.fft.rfftfreq(size, device=grid.device)
    spread = torch.sinc(fy).square()[:, None] * torch.sinc(fx).square()[None, :]
    k2 = (frequency_grid(size, size, device=grid.device) / pixel_size_angstrom).square()
    potential = torch.fft.irfft2(spectrum * form_factor(k2) / spread, s=(size, size))
    return potential / pixel_size_angstrom**2


def form_factor(k2_per_A2: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the transform of an atom's potential less that of its solvent, V·Å³.

    Args:
        k2_per_A2: Square of the spatial frequency, 1/Å².
    """
    form = _ATOM_VOLT_A3 * torch.exp(-2 * (math.pi * _ATOM_SIGMA) ** 2 * k2_per_A2)
    return form - _SOLVENT_VOLT_A3 * torch.exp(-2 * (math.pi * _SOLVENT_SIGMA) ** 2 * k2_per_A2)


def contrast_transfer(
    config: SimulateConfig, physics: MicrographPhysics, device: torch.device
) -> Float[Tensor, "h wf"]:
    """Return the CTF with its sign such that protein is dark at underfocus (negative at low k)."""
    ctf = calculate_ctf_2d(
        defocus=torch.tensor(physics.defocus_angstrom * 1e-4, device=device),
        astigmatism=physics.astigmatism_angstrom * 1e-4,
        astigmatism_angle=physics.astigmatism_angle_degrees,
        voltage=config.voltage_kv,
        spherical_aberration=config.spherical_aberration_mm,
        amplitude_contrast=config.amplitude_contrast,
        phase_shift=0.0,
        pixel_size=config.pixel_size_angstrom,
        image_shape=(config.size, config.size),
        rfft=True,
        fftshift=False,
    )
    return -ctf.to(torch.float32)


def critical_exposure(
    frequency_per_angstrom: Float[Tensor, "*shape"], voltage_kv: float
) -> Float[Tensor, "*shape"]:
    """Return the exposure after which a Fourier amplitude has fallen to 1/√e, e/Å².

    Source: Grant & Grigorieff 2015, eq. 3, measured at 300 kV; 0.8 of it at 200 kV, and in
    proportion in between.

    Args:
        frequency_per_angstrom: Spatial frequency, 1/Å; infinite exposure at 0.
        voltage_kv: Acceleration voltage, kV.
    """
    scale = 1 + 0.2 * (voltage_kv - 300) / 100
    return scale * (0.245 * frequency_per_angstrom.pow(-1.665) + 2.81)


def expected_image(
    potential: Float[Tensor, "h w"], config: SimulateConfig, physics: MicrographPhysics
) -> Float[Tensor, "h w"]:
    """Return the expected intensity relative to the mean dose: 1 + weak-phase contrast.

    I = 1 + F⁻¹[2 σ c · CTF · exp(−B k²/4) · MTF · F[V]], σ the interaction constant, c the
    empirical contrast factor.
    """
    strength = 2 * interaction_constant(config.voltage_kv) * config.contrast
    ctf = contrast_transfer(config, physics, potential.device)

    def response(f: Tensor) -> Tensor:
        envelope = torch.exp(-config.b_factor_A2 / 4 * (f / config.pixel_size_angstrom).square())
        mtf = torch.exp(math.log(config.mtf_at_nyquist) * (2 * f).square())
        return strength * ctf * envelope * mtf

    return 1 + radial_filter(potential, response)
