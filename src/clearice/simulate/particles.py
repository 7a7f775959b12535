"""Particles of many micrographs at once: which, where, and their atoms on the pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearice.simulate.complexes import Complex, procedural_complex
from clearice.simulate.specimen import random_rotations

# Whole numbers, so that sums do not depend on the order of threads.
SHARES: Final = 1 << 14
# Pixels above that size see no more than the coarse points of a complex, Å/px.
_COARSE_FROM: Final = 1.9
_MOST_POINTS: Final = 500_000
_MOST_CELLS: Final = 60
_EMPTY, _CLUSTERED, _MIXED = 0.06, 0.12, 0.2


@dataclass(frozen=True)
class Pool:
    """Points of all complexes in one tensor."""

    points: Float[Tensor, "all 3"]
    weights: Int[Tensor, "all"]
    first: Int[Tensor, "complexes"]
    count: Int[Tensor, "complexes"]

    @classmethod
    def of(cls, parts: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> Pool:
        count = torch.tensor([len(points) for points, _ in parts])
        points = torch.cat([points for points, _ in parts]).to(device)
        weights = torch.cat([weights for _, weights in parts]).round().int().to(device)
        return cls(points, weights, count.cumsum(0) - count, count)


@dataclass(frozen=True)
class Scene:
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
class Particles:
    """The complexes of a world.

    Args:
        seeds: Of procedural ones.
        more: Further ones.
        device: Where their atoms are added up.
    """

    def __init__(self, seeds: Sequence[int], more: Sequence[Complex], device: torch.device) -> None:
        self._device = device
        with ThreadPoolExecutor() as pool:
            self.complexes = [*pool.map(procedural_complex, seeds), *more]
            coarse = list(pool.map(Complex.coarse, self.complexes))
        fine = [(each.atoms, torch.ones(len(each.atoms))) for each in self.complexes]
        self.pools = Pool.of(fine, device), Pool.of(coarse, device)
        self._diameters = torch.tensor([each.diameter_angstrom for each in self.complexes])
        self._flat = torch.tensor([each.lies_flat for each in self.complexes])

    def scene(self, pixel_size: float, size: int, generator: torch.Generator) -> Scene:
        """Choose complexes, places and orientations of one micrograph.

        Args:
            pixel_size: Å/px.
            size: Edge, px.
            generator: On the CPU.
        """
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
        points = self.pools[coarse].count[which].cumsum(0)
        which = which[points <= _MOST_POINTS]
        m = len(which)
        free = random_rotations(m, generator)[:, :2]
        rotations = torch.where(self._flat[which, None, None], laid(m, generator), free)
        return Scene(which, centres[:m], rotations, coarse)

    def deposited(
        self, scenes: Sequence[Scene], pixel_sizes: Float[Tensor, "n"], size: int
    ) -> Float[Tensor, "n h w"]:
        """Add the atoms of all particles to their micrographs.

        Args:
            scenes: The particles of each.
            pixel_sizes: Å/px of each.
            size: Edge, px.

        Returns:
            Atoms in each pixel.
        """
        grid = torch.zeros(len(scenes) * size * size, dtype=torch.int32, device=self._device)
        for coarse, pool in enumerate(self.pools):
            some = [i for i, scene in enumerate(scenes) if scene.coarse == bool(coarse)]
            particles = [len(scenes[i].which) for i in some]
            if sum(particles):
                base = torch.tensor(some).repeat_interleave(torch.tensor(particles))
                rotations = torch.cat([scenes[i].rotations for i in some])
                add_points(
                    grid,
                    pool,
                    torch.cat([scenes[i].which for i in some]),
                    base * size * size,
                    rotations / pixel_sizes[base, None, None],
                    torch.cat([scenes[i].centres for i in some]),
                    size,
                )
        return grid.view(len(scenes), size, size).float() / SHARES


def add_points(
    grid: Int[Tensor, "all"],
    pool: Pool,
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
            shares = (share * SHARES).round().int() * weights
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


def laid(m: int, generator: torch.Generator) -> Float[Tensor, "m 2 3"]:
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
