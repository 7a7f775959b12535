"""Procedural complexes: particles of many sizes, shapes and symmetries, each from a seed.

They have what a network can learn of particles whoever they are: atoms at the density of protein,
helices and strands, domains, subunits that touch, copies around axes, thin and thick filaments,
bilayers. None is a copy of a known structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.seeds import derive_seed
from clearice.simulate.specimen import helix_bundle, random_rotations
from clearice.simulate.symmetry import closed_group, icosahedral_turns

# Protein: 1.35 g/cm³, 14 Da for each heavy atom with its hydrogens.
_ATOMS_PER_A3: Final = 0.058
# β-strands: 3.3 Å a residue, 4.8 Å apart in a sheet, sheets 10 Å apart.
_STRAND_RISE: Final = 3.3
_STRAND_SPACING: Final = 4.8
_SHEET_SPACING: Final = 10.0
_ATOMS_A_RESIDUE: Final = 8
_MOST_ATOMS: Final = 90_000
# Points of a coarse copy stand for the atoms of a cell of that edge, Å.
_CELL: Final = 5.0
# Of a bilayer: half the distance of its leaflets, Å; atoms on 1 Å² of a leaflet's head groups.
_LEAFLET: Final = 19.0
_HEAD_ATOMS_PER_A2: Final = 0.12
# Of detergent or lipid around the part of a protein that stands in a membrane.
_BELT_DENSITY: Final = 0.7 * _ATOMS_PER_A3


@dataclass(frozen=True)
class Complex:
    """A particle.

    Attributes:
        atoms: Positions, Å, centred on the origin.
        lies_flat: Its z axis lies in the plane of the ice.
        name: What it is.
    """

    atoms: Float[Tensor, "atoms 3"]
    lies_flat: bool
    name: str

    @property
    def diameter_angstrom(self) -> float:
        """Twice the distance from the axis, or the centre, within which 98 % of its atoms are."""
        flat = self.atoms[:, :2] if self.lies_flat else self.atoms
        return 2 * float(flat.norm(dim=1).quantile(0.98))

    def coarse(self) -> tuple[Float[Tensor, "points 3"], Float[Tensor, "points"]]:
        """Return fewer points, and how many atoms each stands for: enough beyond 4 Å or so."""
        cells = (self.atoms / _CELL).floor().long()
        cells = cells - cells.min(0).values
        span = cells.max(0).values + 1
        key = (cells[:, 0] * span[1] + cells[:, 1]) * span[2] + cells[:, 2]
        _, cell, count = torch.unique(key, return_inverse=True, return_counts=True)
        sums = torch.zeros(len(count), 3).index_add_(0, cell, self.atoms)
        return sums / count[:, None], count.float()


def procedural_complex(seed: int) -> Complex:
    """Build one of endlessly many complexes.

    Args:
        seed: Decides all of it.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "complex"))
    kind = float(torch.rand(1, generator=generator))
    if kind < 0.06:
        return _vesicle(generator, seed)
    if kind < 0.16:
        return _filament(generator, seed)
    if kind < 0.20:
        return _coil(generator, seed)
    return _assembly(generator, seed)


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator))


def _log_uniform(generator: torch.Generator, low: float, high: float) -> float:
    return math.exp(_uniform(generator, math.log(low), math.log(high)))


def _whole(generator: torch.Generator, low: int, high: int) -> int:
    """Return a whole number from low to high."""
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def _direction(generator: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)


def strand_bundle(
    generator: torch.Generator, semi_axes: tuple[float, float, float]
) -> Float[Tensor, "atoms 3"]:
    """Fill a rounded box with stacked sheets of strands, at the density of protein.

    Args:
        generator: Decides the strands.
        semi_axes: Half the edges of the box, Å.
    """
    reach = max(semi_axes) * 1.5
    along = torch.arange(-reach, reach, _STRAND_RISE)
    in_sheet = torch.arange(-reach, reach, _STRAND_SPACING)
    sheets = torch.arange(-reach, reach, _SHEET_SPACING)
    grid = torch.stack(torch.meshgrid(sheets, in_sheet, along, indexing="ij"), -1).reshape(-1, 3)
    spread = torch.tensor([2.6, 1.0, 1.0])
    shape = (len(grid), _ATOMS_A_RESIDUE, 3)
    atoms = (grid[:, None] + spread * torch.randn(shape, generator=generator)).reshape(-1, 3)
    # Sheets twist along their strands.
    turn = math.radians(_uniform(generator, -1.0, 1.0)) * atoms[:, 2]
    x, y = atoms[:, 0].clone(), atoms[:, 1].clone()
    atoms[:, 0], atoms[:, 1] = x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()
    atoms = atoms @ random_rotations(1, generator)[0].T
    return atoms[((atoms / torch.tensor(semi_axes)).abs() ** 3).sum(1) <= 1]


def _disordered(
    generator: torch.Generator, semi_axes: tuple[float, float, float]
) -> Float[Tensor, "atoms 3"]:
    """Fill an ellipsoid with atoms at random."""
    count = int(_ATOMS_PER_A3 * 8 * math.prod(semi_axes))
    unit = 2 * torch.rand(count, 3, generator=generator) - 1
    return unit[unit.square().sum(1) <= 1] * torch.tensor(semi_axes)


_DOMAINS: Final[tuple[Callable[..., Tensor], ...]] = (
    helix_bundle,
    helix_bundle,
    strand_bundle,
    _disordered,
)


def _subunit(generator: torch.Generator, size: float) -> Float[Tensor, "atoms 3"]:
    """Build one to three domains that touch, centred.

    Args:
        generator: Decides the domains.
        size: Half the length of a domain's edge, Å.
    """
    parts, centre, reach = [], torch.zeros(3), 0.0
    for _ in range(_whole(generator, 1, 3)):
        a, b, c = (size * _uniform(generator, 0.7, 1.3) for _ in range(3))
        domain = _DOMAINS[_whole(generator, 0, len(_DOMAINS) - 1)](generator, (a, b, c))
        if reach:
            centre = centre + _direction(generator) * 0.85 * (reach + (a + b + c) / 3)
        reach = (a + b + c) / 3
        parts.append(domain + centre)
    atoms = torch.cat(parts)
    return atoms - atoms.mean(0)


def _about_z(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


@cache
def polyhedral_group(name: str) -> Float[Tensor, "n 3 3"]:
    """Return the rotations of a polyhedral group: T (12), O (24) or I (60)."""
    if name == "I":
        return closed_group(icosahedral_turns())
    third = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    return closed_group([third.double(), (half if name == "T" else quarter).double()])


def _symmetry(generator: torch.Generator) -> tuple[str, Float[Tensor, "copies 3 3"]]:
    """Draw a point group."""
    kind = float(torch.rand(1, generator=generator))
    if kind < 0.3:
        return "C1", torch.eye(3)[None]
    if kind < 0.85:
        fold = _whole(generator, 2, 9)
        ring = [_about_z(2 * math.pi * k / fold) for k in range(fold)]
        if kind < 0.6:
            return f"C{fold}", torch.stack(ring)
        flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
        return f"D{fold}", torch.stack([*ring, *(r @ flip for r in ring)])
    name = "TOI"[_whole(generator, 0, 2)]
    return name, polyhedral_group(name)


def _assembly(generator: torch.Generator, seed: int) -> Complex:
    """Put copies of one or two subunits around the axes of a point group, so that they touch."""
    name, rotations = _symmetry(generator)
    copies = len(rotations)
    largest = (_MOST_ATOMS / (copies * 2 * 8 * _ATOMS_PER_A3)) ** (1 / 3)
    low, high = (12.0, 34.0) if copies == 1 else (9.0, 26.0)
    size = min(_log_uniform(generator, low, high), largest)
    atoms = torch.cat(
        [
            _touching(_subunit(generator, size), rotations, generator)
            for _ in range(_whole(generator, 1, 2))
        ]
    )
    if name[0] == "C" and float(torch.rand(1, generator=generator)) < 0.25:
        atoms = torch.cat([atoms, _belt(atoms, generator)])
        name += " in a belt"
    return Complex(atoms - atoms.mean(0), False, f"{name}, seed {seed}")


def _touching(
    subunit: Float[Tensor, "atoms 3"],
    rotations: Float[Tensor, "copies 3 3"],
    generator: torch.Generator,
) -> Float[Tensor, "all 3"]:
    """Place copies of a subunit as far from the centre as lets neighbours touch."""
    if len(rotations) == 1:
        return subunit + _direction(generator) * float(subunit.norm(dim=1).mean())
    towards = _direction(generator)
    places = rotations @ towards
    apart = torch.cdist(places, places)
    nearest = max(float(apart[apart > 1e-3].min()) if bool((apart > 1e-3).any()) else 2.0, 0.25)
    reach = float(subunit.norm(dim=1).mean())
    distance = _uniform(generator, 1.7, 2.3) * reach / nearest
    placed = subunit + towards * distance
    return torch.einsum("gij,aj->gai", rotations, placed).reshape(-1, 3)


def _belt(atoms: Float[Tensor, "atoms 3"], generator: torch.Generator) -> Float[Tensor, "belt 3"]:
    """Return detergent around the waist of a protein."""
    middle = _uniform(generator, -0.3, 0.3) * float(atoms[:, 2].std())
    waist = atoms[(atoms[:, 2] - middle).abs() < 15]
    radius = float(waist[:, :2].norm(dim=1).quantile(0.9)) if len(waist) > 20 else 25.0
    inner, outer = radius * 0.9, radius + _uniform(generator, 12.0, 25.0)
    count = int(_BELT_DENSITY * math.pi * (outer**2 - inner**2) * 36)
    r = (inner**2 + (outer**2 - inner**2) * torch.rand(count, generator=generator)).sqrt()
    angle = 2 * math.pi * torch.rand(count, generator=generator)
    z = middle + 36 * (torch.rand(count, generator=generator) - 0.5)
    return torch.stack([r * angle.cos(), r * angle.sin(), z], 1)


def _filament(generator: torch.Generator, seed: int) -> Complex:
    """Build a helical assembly along z."""
    size = _log_uniform(generator, 8.0, 22.0)
    subunit = _subunit(generator, size)
    radius = size * _uniform(generator, 0.0, 3.0)
    # About one neighbour's distance along the helix, whatever its radius.
    twist = _uniform(generator, 0.1, math.pi)
    rise = max(2.2 * size - radius * twist, 0.3 * size) * _uniform(generator, 0.5, 1.0)
    length = _uniform(generator, 400.0, 900.0)
    copies = max(3, min(int(length / rise), _MOST_ATOMS // len(subunit)))
    placed = subunit + torch.tensor([radius, 0.0, 0.0])
    parts = [
        placed @ _about_z(k * twist).T + torch.tensor([0.0, 0.0, k * rise]) for k in range(copies)
    ]
    atoms = torch.cat(parts)
    return Complex(atoms - atoms.mean(0), True, f"filament, seed {seed}")


def _coil(generator: torch.Generator, seed: int) -> Complex:
    """Build a chain that wanders: nucleic acid or a protein that is not folded."""
    steps = _whole(generator, 40, 300)
    turns = torch.randn(steps, 3, generator=generator)
    smooth = 2 * _whole(generator, 1, 12) + 1
    kernel = torch.ones(1, 1, smooth) / smooth
    turns = torch.nn.functional.conv1d(turns.T[:, None], kernel, padding="same")[:, 0].T
    path = (7.0 * torch.nn.functional.normalize(turns, dim=1)).cumsum(0)
    shape = (steps, 40, 3)
    atoms = path[:, None] + 6.0 * torch.nn.functional.normalize(
        torch.randn(shape, generator=generator), dim=2
    ) * torch.rand((steps, 40, 1), generator=generator).pow(1 / 3)
    atoms = atoms.reshape(-1, 3)
    return Complex(atoms - atoms.mean(0), False, f"coil, seed {seed}")


def _vesicle(generator: torch.Generator, seed: int) -> Complex:
    """Build a closed bilayer; what counts of it are the head groups of its two leaflets."""
    radius = _log_uniform(generator, 60.0, 240.0)
    leaflets = []
    for side in (radius - _LEAFLET, radius + _LEAFLET):
        count = int(_HEAD_ATOMS_PER_A2 * 4 * math.pi * side**2)
        count = min(count, _MOST_ATOMS)
        directions = torch.nn.functional.normalize(
            torch.randn(count, 3, generator=generator), dim=1
        )
        depth = side + 3.0 * torch.randn(count, 1, generator=generator)
        leaflets.append(directions * depth)
    stretch = torch.tensor([_uniform(generator, 0.8, 1.25) for _ in range(3)])
    return Complex(torch.cat(leaflets) * stretch, False, f"vesicle, seed {seed}")
