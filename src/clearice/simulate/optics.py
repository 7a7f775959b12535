"""Transfer functions of many micrographs at once, which differ in all of them."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch_ctf import calculate_ctf_2d

from clearice.fourier import frequency_grid
from clearice.simulate.conditions import Conditions
from clearice.simulate.imaging import critical_exposure, form_factor, interaction_constant


@final
class Optics:
    """Transfer functions of a batch of micrographs.

    Args:
        conditions: On the device.
        size: Edge, px.
    """

    def __init__(self, conditions: Conditions, size: int) -> None:
        device = conditions.pixel_size_angstrom.device
        self._size = size
        self._conditions = conditions
        self.pixel = conditions.pixel_size_angstrom[:, None, None]
        self.frequency = frequency_grid(size, size, device=device)[None]
        fy = torch.fft.fftfreq(size, device=device)[None, :, None]
        fx = torch.fft.rfftfreq(size, device=device)[None, None, :]
        self._spread = torch.sinc(fy).square() * torch.sinc(fx).square()
        angle = conditions.drift_angle[:, None, None]
        along = fx * angle.cos() + fy * angle.sin()
        drift = conditions.drift_angstrom[:, None, None] / self.pixel
        self._motion = torch.sinc(along * drift)
        noise = conditions.noise_at_nyquist.log()[:, None, None] * (2 * self.frequency).square()
        turn = 2 * math.pi * self.frequency
        terms = (conditions.noise_slope, 1), (conditions.noise_bend, 2), (conditions.noise_wave, 4)
        noise = noise + sum(size[:, None, None] * (n * turn).cos() for size, n in terms)
        lost = conditions.coincidence[:, None, None] * torch.exp(-(self.frequency / 0.1).square())
        self._noise = noise.exp() * (1 - lost).sqrt()
        self._k2 = (self.frequency / self.pixel).square()
        self._response = self._responses()

    def image(
        self, counts: Float[Tensor, "n h w"], beside: Float[Tensor, "n h w"]
    ) -> Float[Tensor, "n h w"]:
        """Return the expected intensity, 1 where there is nothing, from atoms and what is beside.

        Args:
            counts: Atoms in each pixel.
            beside: Further projected potential, V·Å.
        """
        form = form_factor(self._k2) / (self._spread * self.pixel.square())
        return 1 + self._imaged(torch.fft.rfft2(counts) * form + torch.fft.rfft2(beside))

    def contrast(self, potential: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
        """Return what a projected potential (V·Å) adds to the expected intensity."""
        return self._imaged(torch.fft.rfft2(potential))

    def _imaged(self, spectrum: Complex[Tensor, "n h wf"]) -> Float[Tensor, "n h w"]:
        return torch.fft.irfft2(spectrum * self._response, s=(self._size, self._size))

    def _responses(self) -> Float[Tensor, "n h wf"]:
        given = self._conditions
        envelope = torch.exp(-given.b_factor_A2[:, None, None] / 4 * self._k2)
        # What the detector does to noise too comes when it has counted.
        mtf = torch.exp(given.mtf_at_nyquist.log()[:, None, None] * (2 * self.frequency).square())
        strength = 2 * given.contrast * _interaction(given.voltage_kv)
        response = strength[:, None, None] * self._ctf() * envelope * mtf * self._motion
        response = response * self._faded()
        response[..., 0, 0] = 0.0
        return response

    def read(self, electrons: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
        """Return what the detector makes of the electrons that it met."""
        spectrum = torch.fft.rfft2(electrons) * self._noise
        return torch.fft.irfft2(spectrum, s=(self._size, self._size))

    def _ctf(self) -> Float[Tensor, "n h wf"]:
        given = self._conditions
        ctf = calculate_ctf_2d(
            defocus=given.defocus_angstrom * 1e-4,
            astigmatism=given.astigmatism_angstrom * 1e-4,
            astigmatism_angle=given.astigmatism_angle_degrees,
            voltage=given.voltage_kv,
            spherical_aberration=given.spherical_aberration_mm,
            amplitude_contrast=given.amplitude_contrast,
            phase_shift=given.phase_shift_degrees,
            pixel_size=given.pixel_size_angstrom,
            image_shape=(self._size, self._size),
            rfft=True,
            fftshift=False,
        )
        return -ctf.float()

    def _faded(self) -> Float[Tensor, "n h wf"]:
        """Return which share of each amplitude is left, on average over the exposure."""
        given = self._conditions
        lifetime = critical_exposure(self.frequency / self.pixel, 300.0).clamp(max=1e6)
        ratio = given.dose_e_per_A2[:, None, None] / (2 * lifetime)
        left = (1 - torch.exp(-ratio)) / ratio.clamp(min=1e-6)
        return torch.where(given.damage[:, None, None] > 0, left, torch.ones_like(left))


def _interaction(voltage_kv: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    high, low = interaction_constant(300.0), interaction_constant(200.0)
    return torch.where(voltage_kv > 250, high, low)
