"""Specimens: atoms from a file, or a barrel built from a seed."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.seeds import derive_seed
from clearice.types import AtomCloud

# Shape of the T. acidophilum 20S proteasome (Löwe et al. 1995): 113 Å wide, 148 Å long.
_RING_RADIUS = 37.0
_OUTER_RING_Z = 55.5
_INNER_RING_Z = 18.5
_CHAIN_SEMI_AXES = (18.0, 16.2, 18.0)  # radial, tangential, along the axis, Å
_FOLD = 7
# An α-helix: 1.5 Å and 100° a residue; packed helices stand about 10 Å apart.
_RISE = 1.5
_TURN = math.radians(100.0)
_HELIX_SPACING = 10.0
# Distance of an average residue's heavy atoms from the helix axis (4 backbone, 3–4 side chain).
_ATOM_RADII = (1.6, 2.3, 2.0, 3.3, 3.3, 4.2, 5.0)


def load_specimen(specimen: str, seed: int) -> AtomCloud:
    """Return the embedded barrel (`"barrel"`) or the atoms of a PDB/mmCIF file.

    Raises:
        InputFileError: The file is missing or has no atoms.
    """
    return barrel(seed) if specimen == "barrel" else io.read_atoms(Path(specimen))


def helix_bundle(
    generator: torch.Generator, semi_axes_angstrom: tuple[float, float, float] = _CHAIN_SEMI_AXES
) -> Float[Tensor, "atoms 3"]:
    """Fill a rounded box of protein size with parallel helices in a random direction."""
    reach = max(semi_axes_angstrom) * 1.5
    steps = torch.arange(-reach, reach, _RISE)
    n_side = math.ceil(reach / _HELIX_SPACING)
    rows, columns = torch.meshgrid(
        torch.arange(-n_side, n_side + 1.0), torch.arange(-n_side, n_side + 1.0), indexing="ij"
    )
    centres = _HELIX_SPACING * torch.stack(
        [(columns + 0.5 * (rows % 2)).flatten(), (rows * math.sqrt(3) / 2).flatten()], 1
    )
    centres = centres + torch.rand(2, generator=generator) * _HELIX_SPACING
    phase = torch.rand(len(centres), generator=generator) * 2 * math.pi
    shape = (len(centres), len(steps), len(_ATOM_RADII))
    angle = (
        phase[:, None, None]
        + torch.arange(len(steps))[None, :, None] * _TURN
        + 0.35 * torch.randn(shape, generator=generator)
    )
    radius = torch.tensor(_ATOM_RADII) * (1 + 0.15 * torch.randn(shape, generator=generator))
    along = steps[None, :, None] + 0.8 * torch.randn(shape, generator=generator)
    atoms = torch.stack(
        [
            centres[:, None, None, 0] + radius * torch.cos(angle),
            centres[:, None, None, 1] + radius * torch.sin(angle),
            along,
        ],
        -1,
    ).reshape(-1, 3)
    atoms = atoms @ random_rotations(1, generator)[0].T
    inside = ((atoms / torch.tensor(semi_axes_angstrom)).abs() ** 3).sum(1) <= 1
    return atoms[inside]


def barrel(seed: int = 0) -> AtomCloud:
    """Build a D7 barrel of about 700 kDa: four stacked rings of seven globular chains each.

    Outer rings hold one kind of chain and inner rings another (α7 β7 β7 α7); each chain is a bundle
    of helices of protein density, so the barrel has contrast at the size of the particle, of its
    chains and of secondary structure.

    Args:
        seed: Decides the two chains.

    Returns:
        Atoms centred on the origin, the seven-fold axis along z.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "barrel"))
    asymmetric = torch.cat(
        [
            helix_bundle(generator) + torch.tensor([_RING_RADIUS, 0.0, z])
            for z in (_OUTER_RING_Z, _INNER_RING_Z)
        ]
    )
    # Two-fold axis along x: (x, y, z) → (x, −y, −z).
    dimer = torch.cat([asymmetric, asymmetric * torch.tensor([1.0, -1.0, -1.0])])
    copies = []
    for k in range(_FOLD):
        angle = 2 * math.pi * k / _FOLD
        c, s = math.cos(angle), math.sin(angle)
        copies.append(dimer @ torch.tensor([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]))
    return AtomCloud(torch.cat(copies), f"D7 barrel, seed {seed}")


def random_rotations(n: int, generator: torch.Generator) -> Float[Tensor, "n 3 3"]:
    """Draw uniform rotations, as unit quaternions from a normal distribution."""
    q = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1)
    w, x, y, z = q.unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
