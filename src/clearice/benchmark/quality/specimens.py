"""Specimens of the quality benchmark, of different size and shape, each built from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.seeds import derive_seed
from clearice.simulate.specimen import barrel, helix_bundle
from clearice.simulate.symmetry import closed_group, icosahedral_turns
from clearice.types import AtomCloud

Atoms = Float[Tensor, "atoms 3"]


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed("quality", "specimen", name))


def tetramer() -> AtomCloud:
    """Build a small D2 tetramer, about 85 Å wide."""
    generator = _generator("tetramer")
    subunit = helix_bundle(generator, (19.0, 17.0, 21.0)) + torch.tensor([16.0, 13.0, 21.0])
    turns = ((1.0, 1.0, 1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, -1.0, -1.0))
    return AtomCloud(torch.cat([subunit * torch.tensor(turn) for turn in turns]), "D2 tetramer")


def tripod() -> AtomCloud:
    """Build three lobes around a thin middle, without symmetry, about 150 Å wide: an antibody."""
    generator = _generator("tripod")
    angles = (0.0, math.radians(105), math.radians(230))
    lobes = []
    for angle in angles:
        centre = 44.0 * torch.tensor([math.cos(angle), math.sin(angle), 0.0])
        centre[2] = 10 * torch.randn(1, generator=generator).item()
        lobes.append(helix_bundle(generator, (31.0, 19.0, 21.0)) + centre)
    return AtomCloud(_centred(torch.cat(lobes)), "three lobes")


def filament() -> AtomCloud:
    """Build a short filament: a helix of twelve subunits, 27.6 Å and −166.7° each, as of actin."""
    subunit = helix_bundle(_generator("filament"), (22.0, 16.0, 27.0)) + torch.tensor([17.0, 0, 0])
    copies = []
    for step in range(12):
        angle = math.radians(-166.7) * step
        turn = torch.tensor(
            [
                [math.cos(angle), -math.sin(angle), 0.0],
                [math.sin(angle), math.cos(angle), 0.0],
                [0.0, 0.0, 1.0],
            ]
        )
        copies.append(subunit @ turn.T + torch.tensor([0.0, 0.0, 27.6 * step]))
    return AtomCloud(_centred(torch.cat(copies)), "filament of twelve subunits")


def capsid() -> AtomCloud:
    """Build an icosahedral shell of sixty subunits, about 280 Å wide, hollow."""
    generator = _generator("capsid")
    subunit = helix_bundle(generator, (22.0, 24.0, 18.0)) + torch.tensor([62.0, 38.0, 98.0])
    return AtomCloud(
        torch.cat([subunit @ turn.T for turn in closed_group(icosahedral_turns())]),
        "icosahedral shell",
    )


def aggregate() -> AtomCloud:
    """Build a large dense complex without symmetry, about 240 Å wide: of a ribosome's size."""
    generator = _generator("aggregate")
    lobes: list[tuple[Atoms, Atoms]] = []
    while len(lobes) < 48:
        centre = 200 * (torch.rand(3, generator=generator) - 0.5)
        if (centre / torch.tensor([95.0, 80.0, 100.0])).square().sum() > 1:
            continue
        if lobes and min(float((c - centre).norm()) for c, _ in lobes) < 26:
            continue
        lobes.append((centre, helix_bundle(generator, (18.0, 15.0, 20.0))))
    return AtomCloud(_centred(torch.cat([c + atoms for c, atoms in lobes])), "large complex")


def _centred(atoms: Atoms) -> Atoms:
    return atoms - atoms.mean(0)


SPECIMENS: Final[dict[str, Callable[[], AtomCloud]]] = {
    "aggregate": aggregate,
    "barrel": lambda: barrel(derive_seed("quality", "specimen", "barrel")),
    "capsid": capsid,
    "filament": filament,
    "tetramer": tetramer,
    "tripod": tripod,
}
