"""The embedded barrel: mass, size, symmetry, and rotations that are rotations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clearice.errors import InputFileError
from clearice.simulate import barrel, load_specimen
from clearice.simulate.specimen import random_rotations

# Heavy atoms of protein in a kilodalton.
ATOMS_PER_KDA = 66


@pytest.fixture(scope="module")
def atoms() -> Tensor:
    return barrel(0).positions_angstrom


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_barrel_has_the_mass_and_size_of_a_proteasome(seed: int) -> None:
    xyz = barrel(seed).positions_angstrom
    assert 600 < len(xyz) / ATOMS_PER_KDA < 800
    across = 2 * float(xyz[:, :2].norm(dim=1).max())
    along = float(xyz[:, 2].max() - xyz[:, 2].min())
    assert 100 < across < 120
    assert 140 < along < 155
    assert float(xyz.mean(0).abs().max()) < 0.1


def _nearest(points: Tensor, cloud: Tensor) -> Tensor:
    return torch.cdist(points, cloud, compute_mode="donot_use_mm_for_euclid_dist").amin(1)


def _about_z(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@pytest.mark.parametrize("steps", [1, 3])
def test_the_barrel_has_a_sevenfold_axis(atoms: Tensor, steps: int) -> None:
    sample = atoms[::97] @ _about_z(2 * math.pi * steps / 7).T
    assert float(_nearest(sample, atoms).max()) < 1e-2


def test_the_barrel_has_a_twofold_axis_across(atoms: Tensor) -> None:
    sample = atoms[::97] * torch.tensor([1.0, -1.0, -1.0])
    assert float(_nearest(sample, atoms).max()) < 1e-2


@pytest.mark.parametrize("angle", [2 * math.pi / 14, 2 * math.pi / 6, 0.2])
def test_the_barrel_has_no_other_axis_along_z(atoms: Tensor, angle: float) -> None:
    sample = atoms[::97] @ _about_z(angle).T
    assert float(_nearest(sample, atoms).median()) > 0.1


def test_atoms_stand_no_denser_than_in_protein(atoms: Tensor) -> None:
    # About 0.06 heavy atoms in Å³ of protein; a sphere of 8 Å inside a chain is full or nearly so.
    centres = atoms[::997]
    within = (torch.cdist(centres, atoms) < 8).sum(1) / (4 / 3 * math.pi * 8**3)
    assert 0.03 < float(within.median()) < 0.09


def test_the_barrel_follows_its_seed_and_not_the_global_state(atoms: Tensor) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = barrel(0)
    assert torch.equal(again.positions_angstrom, atoms)
    assert torch.equal(torch.get_rng_state(), before)
    other = barrel(1)
    assert other.name != again.name
    assert other.positions_angstrom.shape != atoms.shape or not torch.allclose(
        other.positions_angstrom, atoms
    )


def test_rotations_are_proper(generator: torch.Generator) -> None:
    rotations = random_rotations(50, generator)
    eye = torch.eye(3).expand(50, 3, 3)
    torch.testing.assert_close(rotations @ rotations.mT, eye, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(50), rtol=0, atol=1e-5)


def test_rotations_are_uniform(generator: torch.Generator) -> None:
    n = 4000
    rotations = random_rotations(n, generator)
    # Each entry of a uniform rotation is a coordinate of a uniform direction: mean 0, variance 1/3,
    # and variance of its square 1/5 − 1/9 = 4/45.
    assert float(rotations.mean(0).abs().max()) < 5 / math.sqrt(3 * n)
    assert float((rotations.square().mean(0) - 1 / 3).abs().max()) < 5 * math.sqrt(4 / 45 / n)
    # The trace has mean 0 and variance 1 (it is the character of the vector representation).
    trace = rotations.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(trace.mean())) < 5 / math.sqrt(n)


def test_a_specimen_is_the_barrel_or_a_file(tmp_path: Path, atoms: Tensor) -> None:
    assert torch.equal(load_specimen("barrel", 0).positions_angstrom, atoms)
    with pytest.raises(InputFileError, match=r"none\.pdb"):
        load_specimen(str(tmp_path / "none.pdb"), 0)
