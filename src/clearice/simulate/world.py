"""The training world: endless micrographs of all kinds with their truth, made on the device.

Nothing is stored: micrograph i of a world is made anew from (seed, i) whenever it is wanted. What
follows the optics, dose and detector is that of `imaging` and `movie`, for a batch of micrographs
that differ in all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from clearice.simulate.conditions import Conditions, draw_conditions
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
    first: tuple[int, ...]
    count: tuple[int, ...]

    @classmethod
    def of(cls, parts: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> _Pool:
        counts = [len(points) for points, _ in parts]
        starts = [0, *torch.tensor(counts).cumsum(0).tolist()][:-1]
        points = torch.cat([points for points, _ in parts]).to(device)
        weights = torch.cat([weights for _, weights in parts]).round().int().to(device)
        return cls(points, weights, tuple(starts), tuple(counts))


@dataclass(frozen=True)
class _Placed:
    """A particle of a scene."""

    scene: int
    which: int
    coarse: bool
    row: float
    column: float
    rotation: Float[Tensor, "3 3"]


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

    def views(self, first: int, n: int, size: int) -> Views:
        """Make micrographs number `first` to `first + n − 1`.

        Args:
            first: Number of the first.
            n: How many.
            size: Edge, px.
        """
        layout = torch.Generator().manual_seed(derive_seed(self.seed, "layout", first, n))
        texture = torch.Generator(self.device)
        texture.manual_seed(derive_seed(self.seed, "texture", first, n))
        drawn = draw_conditions(n, layout)
        placed = [each for scene in range(n) for each in self._scene(scene, drawn, size, layout)]
        conditions = drawn.to(self.device)
        counts = self._deposited(placed, drawn.pixel_size_angstrom, n, size)
        scenery = draw_scenery(
            conditions.pixel_size_angstrom, conditions.ice_gradient, size, layout, texture
        )
        optics = _Optics(conditions, size)
        image = optics.image(counts, scenery.potential)
        expected = (image * scenery.transmission).clamp(min=0.0)
        noisy, clean = _detected(expected, conditions, optics, texture)
        mean = noisy.mean((1, 2), keepdim=True)
        std = noisy.std((1, 2), keepdim=True)
        numbers = [each.scene for each in placed]
        particles = tuple(numbers.count(scene) for scene in range(n))
        return Views((noisy - mean) / std, (clean - mean) / std, conditions, particles)

    def _scene(
        self, scene: int, drawn: Conditions, size: int, generator: torch.Generator
    ) -> list[_Placed]:
        """Choose complexes, places and orientations of one micrograph."""
        pixel = float(drawn.pixel_size_angstrom[scene])
        empty, clustered, mixed, fill, spread = torch.rand(5, generator=generator).tolist()
        if empty < _EMPTY:
            return []
        kinds = 1 if mixed > _MIXED else 3
        chosen = torch.randint(len(self.complexes), (kinds,), generator=generator).tolist()
        coarse = pixel > _COARSE_FROM
        pool = self._pools[coarse]
        spacing = max(self.complexes[which].diameter_angstrom for which in chosen)
        spacing *= (0.75 + 0.6 * spread) / pixel
        cells = max(1, min(60, round(size / spacing)))
        centres = _jittered(cells, size, generator)
        keep = torch.rand(len(centres), generator=generator) < 0.1 + 0.9 * fill
        centres = centres[keep]
        if clustered < _CLUSTERED and len(centres) > 1:
            about = centres[: max(1, len(centres) // 8)]
            pick = torch.randint(len(about), (len(centres),), generator=generator)
            away = torch.randn(len(centres), 2, generator=generator) * spacing
            centres = (about[pick] + away) % size
        which = torch.randint(kinds, (len(centres),), generator=generator).tolist()
        turns = random_rotations(len(centres), generator) if len(centres) else torch.empty(0)
        placed, points = [], 0
        for (row, column), kind, rotation in zip(centres.tolist(), which, turns, strict=True):
            index = chosen[kind]
            points += pool.count[index]
            if points > _MOST_POINTS:
                break
            if self.complexes[index].lies_flat:
                rotation = _laid(generator)  # noqa: PLW2901
            placed.append(_Placed(scene, index, coarse, row, column, rotation))
        return placed

    def _deposited(
        self, placed: Sequence[_Placed], pixel_size: Float[Tensor, "n"], n: int, size: int
    ) -> Float[Tensor, "n h w"]:
        """Add the atoms of all particles to their micrographs."""
        grid = torch.zeros(n * size * size, dtype=torch.int32, device=self.device)
        for coarse in (False, True):
            some = [each for each in placed if each.coarse is coarse]
            if some:
                self._add(grid, self._pools[coarse], some, pixel_size, size)
        return grid.view(n, size, size).float() / _SHARES

    def _add(
        self,
        grid: Int[Tensor, "all"],
        pool: _Pool,
        placed: Sequence[_Placed],
        pixel_size: Float[Tensor, "n"],
        size: int,
    ) -> None:
        counts = torch.tensor([pool.count[each.which] for each in placed])
        starts = torch.tensor([pool.first[each.which] for each in placed])
        scenes = torch.tensor([each.scene for each in placed])
        turns = torch.stack([each.rotation[:2] for each in placed]) / pixel_size[scenes, None, None]
        centres = torch.tensor([[each.row, each.column] for each in placed])
        total = int(counts.sum())
        device = self.device
        of = torch.repeat_interleave(counts.to(device), output_size=total)
        ends = counts.cumsum(0)
        shift = (starts - (ends - counts)).to(device)
        index = torch.arange(total, device=device) + shift[of]
        points, weights = pool.points[index], pool.weights[index]
        turned = (turns.to(device)[of] @ points[:, :, None])[:, :, 0]
        where = turned.flip(1) + centres.to(device)[of]
        base = (scenes.to(device) * size * size)[of]
        corner = where.floor()
        part = where - corner
        corner = corner.long()
        for dy in (0, 1):
            for dx in (0, 1):
                rows, columns = (corner[:, 0] + dy) % size, (corner[:, 1] + dx) % size
                share = (part[:, 0] if dy else 1 - part[:, 0]) * (
                    part[:, 1] if dx else 1 - part[:, 1]
                )
                shares = (share * _SHARES).round().int() * weights
                grid.index_add_(0, base + rows * size + columns, shares)


def _jittered(cells: int, size: int, generator: torch.Generator) -> Float[Tensor, "all 2"]:
    """Return a centre in each cell of a lattice, off its middle at random; in random order."""
    edge = size / cells
    steps = torch.arange(cells) + 0.5
    centres = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    off = torch.rand(len(centres), 2, generator=generator) - 0.5
    both = torch.rand(2, generator=generator) * size
    order = torch.randperm(len(centres), generator=generator)
    return ((centres + 0.8 * off) * edge + both)[order] % size


def _laid(generator: torch.Generator) -> Float[Tensor, "3 3"]:
    """Return a rotation that leaves the z axis within some degrees of the plane of the image."""
    u = torch.rand(3, generator=generator).tolist()
    about, tilt, turn = 2 * math.pi * u[0], math.radians(90 + 20 * (u[1] - 0.5)), 2 * math.pi * u[2]

    def rotation(angle: float, i: int, j: int) -> Tensor:
        result = torch.eye(3)
        result[i, i] = result[j, j] = math.cos(angle)
        result[i, j], result[j, i] = -math.sin(angle), math.sin(angle)
        return result

    return rotation(turn, 0, 1) @ rotation(tilt, 0, 2) @ rotation(about, 0, 1)


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
    generator: torch.Generator,
) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Count electrons; return the image with all that the detector adds, and what is expected."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=expected.device)

    n, height, width = expected.shape
    electrons = (conditions.dose_e_per_A2[:, None, None] * optics.pixel.square()) * expected
    gain = 1 + conditions.gain_residual[:, None, None] * normal(n, height, width)
    counted = torch.poisson(electrons * gain.clamp(min=0), generator=generator)
    spread = electrons.mean((1, 2), keepdim=True).sqrt()
    stripes = conditions.stripes[:, None, None] * spread
    counted = counted + stripes * (normal(n, height, 1) + normal(n, 1, width))
    drawn = torch.rand(n, height, width, generator=generator, device=expected.device)
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
