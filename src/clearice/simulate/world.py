"""The training world: endless micrographs of all kinds with their truth, made on the device.

Nothing is stored: micrograph i of a world is made anew from (seed, i) whenever it is wanted. What
follows the optics, dose and detector is that of `imaging` and `movie`, for a batch of micrographs
that differ in all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.fourier import highpass
from clearice.seeds import derive_seed
from clearice.simulate.complexes import Complex
from clearice.simulate.conditions import Conditions, Draws, draw_conditions
from clearice.simulate.optics import Optics
from clearice.simulate.particles import Particles
from clearice.simulate.scenery import draw_scenery

# Changes whenever the same seed makes other micrographs.
VERSION: Final = 2
# Uniform numbers that conditions, and scenery, may take.
_DRAWS: Final = 64
_HOT_SIGMAS: Final = (5.0, 60.0)
_HIGHPASS_ANGSTROM: Final = 400.0


@dataclass(frozen=True)
class Views:
    """Micrographs, each normalised by its own noisy image.

    Attributes:
        noisy: What a microscope would have given.
        clean: What it would expect, without noise and without what the detector adds.
        conditions: How they were taken.
        particles: In each.
    """

    noisy: Float[Tensor, "n h w"]
    clean: Float[Tensor, "n h w"]
    conditions: Conditions
    particles: tuple[int, ...]


@final
class World:
    """Makes micrographs.

    Args:
        seed: Of the micrographs and of the complexes.
        device: Where to make them.
        complexes: How many procedural complexes there are to choose from.
        more: Further ones, such as from files.
    """

    def __init__(
        self,
        seed: int,
        device: torch.device,
        complexes: int = 256,
        more: Sequence[Complex] = (),
    ) -> None:
        self.seed, self.device = seed, device
        seeds = [derive_seed(seed, "world", index) for index in range(complexes)]
        self.particles = Particles(seeds, more, device)

    def views(self, first: int, n: int, size: int) -> Views:
        """Make micrographs number `first` to `first + n − 1`.

        Args:
            first: Number of the first.
            n: How many.
            size: Edge, px.
        """
        numbers = range(first, first + n)
        layouts = [self._generator("layout", i, torch.device("cpu")) for i in numbers]
        noises = [self._generator("noise", i, self.device) for i in numbers]
        drawn = torch.stack([torch.rand(2, _DRAWS, generator=layout) for layout in layouts])
        conditions = draw_conditions(Draws(drawn[:, 0]))
        pixel_sizes = conditions.pixel_size_angstrom
        scenes = [
            self.particles.scene(pixel, size, layout)
            for pixel, layout in zip(pixel_sizes.tolist(), layouts, strict=True)
        ]
        there = conditions.to(self.device)
        grain = _normal(noises, size, size)
        scenery = draw_scenery(
            there.pixel_size_angstrom, there.ice_gradient, Draws(drawn[:, 1].to(self.device)), grain
        )
        optics = Optics(there, size)
        image = optics.image(self.particles.deposited(scenes, pixel_sizes, size), scenery.potential)
        moving = _normal(noises, size, size) * there.ice_noise[:, None, None] / optics.pixel
        expected = (image * scenery.transmission).clamp(min=0.0)
        seen = ((image + optics.contrast(moving)) * scenery.transmission).clamp(min=0.0)
        noisy, clean = _detected(expected, seen, there, optics, noises)
        mean = noisy.mean((1, 2), keepdim=True)
        std = noisy.std((1, 2), keepdim=True)
        particles = tuple(len(scene.which) for scene in scenes)
        return Views((noisy - mean) / std, (clean - mean) / std, there, particles)

    def _generator(self, purpose: str, number: int, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(derive_seed(self.seed, purpose, number))


def _normal(
    noises: Sequence[torch.Generator], rows: int, columns: int
) -> Float[Tensor, "n rows columns"]:
    """Draw normal numbers for each micrograph from its own generator, where that is."""
    return torch.stack(
        [torch.randn(rows, columns, generator=noise, device=noise.device) for noise in noises]
    )


def _detected(
    expected: Float[Tensor, "n h w"],
    seen: Float[Tensor, "n h w"],
    conditions: Conditions,
    optics: Optics,
    noises: Sequence[torch.Generator],
) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Count electrons; return the image with all that the detector adds, and what is expected.

    Args:
        expected: Intensity relative to the dose.
        seen: The same with what moves.
        conditions: Dose and detector.
        optics: Of the same micrographs.
        noises: A generator for each.
    """
    _, height, width = expected.shape
    dose = conditions.dose_e_per_A2[:, None, None] * optics.pixel.square()
    electrons = dose * expected
    gain = 1 + conditions.gain_residual[:, None, None] * _normal(noises, height, width)
    mean = dose * seen * gain.clamp(min=0)
    counted = torch.stack(
        [torch.poisson(each, generator=noise) for each, noise in zip(mean, noises, strict=True)]
    )
    spread = electrons.mean((1, 2), keepdim=True).sqrt()
    stripes = conditions.stripes[:, None, None] * spread
    counted = counted + stripes * (_normal(noises, height, 1) + _normal(noises, 1, width))
    drawn = torch.stack(
        [torch.rand(height, width, generator=noise, device=noise.device) for noise in noises]
    )
    low, high = _HOT_SIGMAS
    share = conditions.hot_pixels[:, None, None]
    brightness = low + (high - low) * drawn / share.clamp(min=1e-9)
    counted = torch.where(drawn < share, counted + brightness * spread, counted)
    return optics.read(counted), optics.read(electrons)


def signal_power(
    clean: Float[Tensor, "n h w"], pixel_size_angstrom: Float[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """Return the variance of each clean image above 1/400 Å.

    Args:
        clean: Images.
        pixel_size_angstrom: Å/px of each.
    """
    return highpass(clean, highpass_cutoff(pixel_size_angstrom)).square().mean((1, 2))


def highpass_cutoff(pixel_size_angstrom: Float[Tensor, "n"]) -> Float[Tensor, "n 1 1"]:
    """Return 1/400 Å in cycles/px of each micrograph, for `fourier.highpass`."""
    return pixel_size_angstrom[:, None, None] / _HIGHPASS_ANGSTROM
