"""The training world: endless micrographs of all kinds with their truth, made on the device.

Nothing is stored: micrograph i of a world is made anew from (seed, i) whenever it is wanted. What
follows the optics, dose and detector is that of `imaging` and `movie`, for a batch of micrographs
that differ in all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch_ctf import calculate_ctf_2d

from clearice.fourier import frequency_grid, highpass
from clearice.seeds import derive_seed
from clearice.simulate.complexes import Complex, procedural_complex
from clearice.simulate.conditions import Conditions, Draws, draw_conditions
from clearice.simulate.imaging import critical_exposure, form_factor, interaction_constant
from clearice.simulate.scenery import draw_scenery
from clearice.simulate.specimen import random_rotations

# Changes whenever the same seed makes other micrographs.
VERSION: Final = 1
# Whole numbers, so that sums do not depend on the order of threads.
_SHARES: Final = 1 << 14
# Pixels above that size see no more than the coarse points of a complex, Å/px.
_COARSE_FROM: Final = 1.9
_MOST_POINTS: Final = 500_000
_MOST_CELLS: Final = 60
# Uniform numbers that conditions, and scenery, may take.
_DRAWS: Final = 64
_EMPTY, _CLUSTERED, _MIXED = 0.06, 0.12, 0.2
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


@dataclass(frozen=True)
class _Pool:
    """Points of all complexes in one tensor."""

    points: Float[Tensor, "all 3"]
    weights: Int[Tensor, "all"]
    first: Int[Tensor, "complexes"]
    count: Int[Tensor, "complexes"]

    @classmethod
    def of(cls, parts: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> _Pool:
        count = torch.tensor([len(points) for points, _ in parts])
        points = torch.cat([points for points, _ in parts]).to(device)
        weights = torch.cat([weights for _, weights in parts]).round().int().to(device)
        return cls(points, weights, count.cumsum(0) - count, count)


@dataclass(frozen=True)
class _Scene:
    """The particles of a micrograph.

    Attributes:
        which: Complex of each.
        centres: (row, column) of each, px.
        rotations: First two rows of its rotation.
        coarse: Whether coarse points are fine enough.
    """

    which: Int[Tensor, "m"]
    centres: Float[Tensor, "m 2"]
    rotations: Float[Tensor, "m 2 3"]
    coarse: bool


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
        with ThreadPoolExecutor() as pool:
            seeds = [derive_seed(seed, "world", index) for index in range(complexes)]
            self.complexes = [*pool.map(procedural_complex, seeds), *more]
            coarse = list(pool.map(Complex.coarse, self.complexes))
        fine = [(each.atoms, torch.ones(len(each.atoms))) for each in self.complexes]
        self._pools = _Pool.of(fine, device), _Pool.of(coarse, device)
        self._diameters = torch.tensor([each.diameter_angstrom for each in self.complexes])
        self._flat = torch.tensor([each.lies_flat for each in self.complexes])

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
            self._scene(pixel, size, layout)
            for pixel, layout in zip(pixel_sizes.tolist(), layouts, strict=True)
        ]
        there = conditions.to(self.device)
        grain = _stacked(
            noises, lambda noise: torch.randn(size, size, generator=noise, device=self.device)
        )
        scenery = draw_scenery(
            there.pixel_size_angstrom, there.ice_gradient, Draws(drawn[:, 1].to(self.device)), grain
        )
        optics = _Optics(there, size)
        image = optics.image(self._deposited(scenes, pixel_sizes, size), scenery.potential)
        expected = (image * scenery.transmission).clamp(min=0.0)
        noisy, clean = _detected(expected, there, optics, noises)
        mean = noisy.mean((1, 2), keepdim=True)
        std = noisy.std((1, 2), keepdim=True)
        particles = tuple(len(scene.which) for scene in scenes)
        return Views((noisy - mean) / std, (clean - mean) / std, there, particles)

    def _generator(self, purpose: str, number: int, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(derive_seed(self.seed, purpose, number))

    def _scene(self, pixel_size: float, size: int, generator: torch.Generator) -> _Scene:
        """Choose complexes, places and orientations of one micrograph."""
        coarse = pixel_size > _COARSE_FROM
        empty, clustered, mixed, fill, spread = torch.rand(5, generator=generator).tolist()
        chosen = torch.randint(
            len(self.complexes), (3 if mixed < _MIXED else 1,), generator=generator
        )
        spacing = float(self._diameters[chosen].max()) * (0.75 + 0.6 * spread) / pixel_size
        centres = _jittered(max(1, min(_MOST_CELLS, round(size / spacing))), size, generator)
        kept = torch.rand(len(centres), generator=generator) < 0.1 + 0.9 * fill
        centres = centres[kept] if empty > _EMPTY else centres[:0]
        if clustered < _CLUSTERED:
            centres = _clustered(centres, spacing, size, generator)
        which = chosen[torch.randint(len(chosen), (len(centres),), generator=generator)]
        points = self._pools[coarse].count[which].cumsum(0)
        which = which[points <= _MOST_POINTS]
        m = len(which)
        free = random_rotations(m, generator)[:, :2]
        rotations = torch.where(self._flat[which, None, None], _laid(m, generator), free)
        return _Scene(which, centres[:m], rotations, coarse)

    def _deposited(
        self, scenes: Sequence[_Scene], pixel_sizes: Float[Tensor, "n"], size: int
    ) -> Float[Tensor, "n h w"]:
        """Add the atoms of all particles to their micrographs."""
        grid = torch.zeros(len(scenes) * size * size, dtype=torch.int32, device=self.device)
        for coarse, pool in enumerate(self._pools):
            some = [i for i, scene in enumerate(scenes) if scene.coarse == bool(coarse)]
            particles = [len(scenes[i].which) for i in some]
            if sum(particles):
                base = torch.tensor(some).repeat_interleave(torch.tensor(particles))
                rotations = torch.cat([scenes[i].rotations for i in some])
                _add(
                    grid,
                    pool,
                    torch.cat([scenes[i].which for i in some]),
                    base * size * size,
                    rotations / pixel_sizes[base, None, None],
                    torch.cat([scenes[i].centres for i in some]),
                    size,
                )
        return grid.view(len(scenes), size, size).float() / _SHARES


def _add(
    grid: Int[Tensor, "all"],
    pool: _Pool,
    which: Int[Tensor, "m"],
    base: Int[Tensor, "m"],
    rotations: Float[Tensor, "m 2 3"],
    centres: Float[Tensor, "m 2"],
    size: int,
) -> None:
    """Add the points of particles, each spread over its four nearest pixels.

    Args:
        grid: Shares of atoms in the pixels of all micrographs, changed in place.
        pool: Points of the complexes.
        which: Complex of each particle.
        base: First pixel of its micrograph.
        rotations: From Å to px in (x, y).
        centres: (row, column), px.
        size: Edge of a micrograph, px.
    """
    device = grid.device
    counts = pool.count[which]
    total = int(counts.sum())
    before = pool.first[which] - (counts.cumsum(0) - counts)
    numbers = torch.arange(len(which), device=device)
    of = numbers.repeat_interleave(counts.to(device), output_size=total)
    index = torch.arange(total, device=device) + before.to(device)[of]
    points, weights = pool.points[index], pool.weights[index]
    turned = (rotations.to(device)[of] * points[:, None]).sum(2)
    where = turned.flip(1) + centres.to(device)[of]
    corner = where.floor()
    part = where - corner
    corner, start = corner.long(), base.to(device)[of]
    for dy in (0, 1):
        for dx in (0, 1):
            rows, columns = (corner[:, 0] + dy) % size, (corner[:, 1] + dx) % size
            share = (part[:, 0] if dy else 1 - part[:, 0]) * (part[:, 1] if dx else 1 - part[:, 1])
            shares = (share * _SHARES).round().int() * weights
            grid.index_add_(0, start + rows * size + columns, shares)


def _jittered(cells: int, size: int, generator: torch.Generator) -> Float[Tensor, "all 2"]:
    """Return a centre in each cell of a lattice, off its middle at random; in random order."""
    edge = size / cells
    steps = torch.arange(cells) + 0.5
    centres = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    off = torch.rand(len(centres), 2, generator=generator) - 0.5
    both = torch.rand(2, generator=generator) * size
    order = torch.randperm(len(centres), generator=generator)
    return ((centres + 0.8 * off) * edge + both)[order] % size


def _clustered(
    centres: Float[Tensor, "m 2"], spacing: float, size: int, generator: torch.Generator
) -> Float[Tensor, "m 2"]:
    """Gather particles around an eighth of them."""
    if len(centres) == 0:
        return centres
    about = centres[: -(-len(centres) // 8)]
    pick = torch.randint(len(about), (len(centres),), generator=generator)
    away = torch.randn(len(centres), 2, generator=generator) * spacing
    return (about[pick] + away) % size


def _laid(m: int, generator: torch.Generator) -> Float[Tensor, "m 2 3"]:
    """Return rotations (two rows each) that lay the z axis within 10° of the image's plane."""
    u = torch.rand(m, 3, generator=generator)
    about, turn = 2 * math.pi * u[:, 0], 2 * math.pi * u[:, 2]
    tilt = (u[:, 1] - 0.5) * math.radians(20)
    # First about z, then z is laid along x, then turned in the plane.
    rows = torch.stack(
        [
            torch.stack([tilt.sin() * about.cos(), -tilt.sin() * about.sin(), tilt.cos()], 1),
            torch.stack([about.sin(), about.cos(), torch.zeros(m)], 1),
        ],
        1,
    )
    c, s = turn.cos(), turn.sin()
    plane = torch.stack([torch.stack([c, -s], 1), torch.stack([s, c], 1)], 1)
    return plane @ rows


def _stacked(
    generators: Sequence[torch.Generator], draw: Callable[[torch.Generator], Tensor]
) -> Float[Tensor, "n ..."]:
    """Draw for each micrograph from its own generator."""
    return torch.stack([draw(generator) for generator in generators])


@final
class _Optics:
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
        lost = conditions.coincidence[:, None, None] * torch.exp(-(self.frequency / 0.1).square())
        self._noise = noise.exp() * (1 - lost).sqrt()

    def image(
        self, counts: Float[Tensor, "n h w"], beside: Float[Tensor, "n h w"]
    ) -> Float[Tensor, "n h w"]:
        """Return the expected intensity, 1 where there is nothing, from atoms and what is beside.

        Args:
            counts: Atoms in each pixel.
            beside: Further projected potential, V·Å.
        """
        k2 = (self.frequency / self.pixel).square()
        form = form_factor(k2) / (self._spread * self.pixel.square())
        spectrum = torch.fft.rfft2(counts) * form + torch.fft.rfft2(beside)
        given = self._conditions
        envelope = torch.exp(-given.b_factor_A2[:, None, None] / 4 * k2)
        # What the detector does to noise too comes when it has counted.
        mtf = torch.exp(given.mtf_at_nyquist.log()[:, None, None] * (2 * self.frequency).square())
        strength = 2 * given.contrast * _interaction(given.voltage_kv)
        response = strength[:, None, None] * self._ctf() * envelope * mtf * self._motion
        response = response * self._faded()
        response[..., 0, 0] = 0.0
        return 1 + torch.fft.irfft2(spectrum * response, s=(self._size, self._size))

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


def _detected(
    expected: Float[Tensor, "n h w"],
    conditions: Conditions,
    optics: _Optics,
    noises: Sequence[torch.Generator],
) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Count electrons; return the image with all that the detector adds, and what is expected."""
    _, height, width = expected.shape
    electrons = (conditions.dose_e_per_A2[:, None, None] * optics.pixel.square()) * expected

    def normal(rows: int, columns: int) -> Tensor:
        return _stacked(
            noises,
            lambda noise: torch.randn(rows, columns, generator=noise, device=expected.device),
        )

    gain = 1 + conditions.gain_residual[:, None, None] * normal(height, width)
    mean = electrons * gain.clamp(min=0)
    counted = torch.stack(
        [torch.poisson(each, generator=noise) for each, noise in zip(mean, noises, strict=True)]
    )
    spread = electrons.mean((1, 2), keepdim=True).sqrt()
    stripes = conditions.stripes[:, None, None] * spread
    counted = counted + stripes * (normal(height, 1) + normal(1, width))
    drawn = _stacked(
        noises, lambda noise: torch.rand(height, width, generator=noise, device=expected.device)
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
    cutoff = pixel_size_angstrom[:, None, None] / _HIGHPASS_ANGSTROM
    return highpass(clean, cutoff).square().mean((1, 2))
