"""How a micrograph of the training world was taken: drawn at random, wider than practice is."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Anti-aliased or not, a detector's pixel is the unit of the network: sizes in Å vary instead.
PIXEL_SIZE_ANGSTROM: Final = (0.5, 3.0)
DOSE_E_PER_A2: Final = (0.7, 80.0)
DEFOCUS_ANGSTROM: Final = (3_000.0, 40_000.0)
_SHARE_OF_LOW_DOSE: Final = 0.25
_LOW_DOSE: Final = 6.0


@dataclass(frozen=True)
class Conditions:
    """One value a micrograph.

    Attributes:
        pixel_size_angstrom: Å/px.
        dose_e_per_A2: Of the whole exposure, e/Å².
        voltage_kv: kV.
        spherical_aberration_mm: Cs, mm.
        amplitude_contrast: Fraction.
        defocus_angstrom: Mean underfocus, Å.
        astigmatism_angstrom: (U−V)/2, Å.
        astigmatism_angle_degrees: Direction of U, degrees.
        phase_shift_degrees: Of a phase plate, else 0.
        b_factor_A2: Envelope exp(−B k²/4), Å².
        contrast: Empirical factor on the phase shift.
        mtf_at_nyquist: Detector transfer of the signal at 0.5 cycles/px.
        noise_at_nyquist: Transfer of the noise there; 1: white.
        noise_slope: Of the colour that any real noise has a little of: ln of its amplitude is
            slope cos 2πf + bend cos 4πf + wave cos 8πf, f in cycles/px.
        noise_bend: The same.
        noise_wave: The same.
        ice_noise: Potential of amorphous ice that moves while it is looked at, so that it is noise:
            of a white texture, V·Å, times the root of the area of a pixel, Å.
        coincidence: Share of the noise's power that is missing at the lowest frequencies.
        drift_angstrom: Motion that was not corrected, Å.
        drift_angle: Its direction, radians.
        gain_residual: Standard deviation of the uncorrected pixel gain, relative.
        stripes: Standard deviation of row and column offsets, in those of the noise.
        hot_pixels: Share of pixels.
        ice_gradient: Largest relative change of intensity.
        damage: 1: the signal fades with exposure, 0: it does not.
    """

    pixel_size_angstrom: Float[Tensor, "n"]
    dose_e_per_A2: Float[Tensor, "n"]
    voltage_kv: Float[Tensor, "n"]
    spherical_aberration_mm: Float[Tensor, "n"]
    amplitude_contrast: Float[Tensor, "n"]
    defocus_angstrom: Float[Tensor, "n"]
    astigmatism_angstrom: Float[Tensor, "n"]
    astigmatism_angle_degrees: Float[Tensor, "n"]
    phase_shift_degrees: Float[Tensor, "n"]
    b_factor_A2: Float[Tensor, "n"]
    contrast: Float[Tensor, "n"]
    mtf_at_nyquist: Float[Tensor, "n"]
    noise_at_nyquist: Float[Tensor, "n"]
    noise_slope: Float[Tensor, "n"]
    noise_bend: Float[Tensor, "n"]
    noise_wave: Float[Tensor, "n"]
    ice_noise: Float[Tensor, "n"]
    coincidence: Float[Tensor, "n"]
    drift_angstrom: Float[Tensor, "n"]
    drift_angle: Float[Tensor, "n"]
    gain_residual: Float[Tensor, "n"]
    stripes: Float[Tensor, "n"]
    hot_pixels: Float[Tensor, "n"]
    ice_gradient: Float[Tensor, "n"]
    damage: Float[Tensor, "n"]

    def to(self, device: torch.device) -> Conditions:
        """Return them on a device."""
        return Conditions(
            **{
                each.name: getattr(self, each.name).to(device, non_blocking=True)
                for each in fields(self)
            }
        )


@final
class Draws:
    """Uniform numbers that are used up column by column, a row a micrograph.

    So a micrograph gets the same ones whatever others are made beside it.

    Args:
        numbers: From 0 to 1.
    """

    def __init__(self, numbers: Float[Tensor, "n draws"]) -> None:
        self._columns = iter(numbers.unbind(1))

    def uniform(self, low: float, high: float) -> Float[Tensor, "n"]:
        """Return numbers from low to high."""
        return low + (high - low) * next(self._columns)

    def log_uniform(self, low: float, high: float) -> Float[Tensor, "n"]:
        """Return numbers whose logarithms are uniform."""
        return self.uniform(math.log(low), math.log(high)).exp()

    def chance(self, share: float) -> Bool[Tensor, "n"]:
        """Return what holds for a share of the micrographs."""
        return next(self._columns) < share

    def sometimes(
        self, share: float, value: Tensor | float, otherwise: Tensor | float = 0.0
    ) -> Float[Tensor, "n"]:
        """Return one value for a share of the micrographs, another for the rest."""
        chosen = self.chance(share)
        return torch.where(chosen, torch.as_tensor(value), torch.as_tensor(otherwise)).float()


def draw_conditions(draws: Draws) -> Conditions:
    """Draw how micrographs were taken.

    Args:
        draws: On the CPU.
    """
    uniform, log_uniform, sometimes = draws.uniform, draws.log_uniform, draws.sometimes
    low, high = DOSE_E_PER_A2
    dose = sometimes(_SHARE_OF_LOW_DOSE, log_uniform(low, _LOW_DOSE), log_uniform(_LOW_DOSE, high))
    phase = sometimes(0.07, uniform(40.0, 120.0))
    near, far = DEFOCUS_ANGSTROM
    defocus = torch.where(phase > 0, log_uniform(near, 12_000.0), log_uniform(5_000.0, far))
    return Conditions(
        pixel_size_angstrom=log_uniform(*PIXEL_SIZE_ANGSTROM),
        dose_e_per_A2=dose,
        voltage_kv=sometimes(0.25, 200.0, 300.0),
        spherical_aberration_mm=sometimes(0.2, uniform(0.01, 2.0), 2.7),
        amplitude_contrast=uniform(0.06, 0.2),
        defocus_angstrom=defocus,
        astigmatism_angstrom=sometimes(0.2, uniform(0.0, 1_500.0), uniform(0.0, 300.0)),
        astigmatism_angle_degrees=uniform(0.0, 180.0),
        phase_shift_degrees=phase,
        b_factor_A2=log_uniform(25.0, 300.0),
        contrast=log_uniform(0.25, 2.5),
        mtf_at_nyquist=uniform(0.15, 1.0),
        noise_at_nyquist=sometimes(0.35, uniform(0.25, 1.0), 1.0),
        noise_slope=sometimes(0.3, uniform(-0.3, 0.3), uniform(-0.08, 0.08)),
        noise_bend=sometimes(0.3, uniform(-0.15, 0.15), uniform(-0.04, 0.04)),
        noise_wave=uniform(-0.04, 0.04),
        ice_noise=sometimes(0.6, log_uniform(1.0, 25.0)),
        coincidence=sometimes(0.3, uniform(0.0, 0.3)),
        drift_angstrom=sometimes(0.3, log_uniform(0.3, 6.0)),
        drift_angle=uniform(0.0, math.pi),
        gain_residual=sometimes(0.4, log_uniform(0.001, 0.02)),
        stripes=sometimes(0.3, log_uniform(0.003, 0.1)),
        hot_pixels=sometimes(0.15, log_uniform(1e-6, 1e-4)),
        ice_gradient=uniform(0.0, 0.15),
        damage=sometimes(0.5, 1.0),
    )
