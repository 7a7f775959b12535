"""Procedural complexes: symmetry, density, and that a seed is all that decides them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearice.simulate import procedural_complex
from clearice.simulate.complexes import _disordered, polyhedral_group, strand_bundle
from clearice.simulate.specimen import helix_bundle


@pytest.mark.parametrize(("name", "order"), [("T", 12), ("O", 24), ("I", 60)])
def test_polyhedral_groups_are_rotations_and_closed(name: str, order: int) -> None:
    group = polyhedral_group(name)
    assert len(group) == order
    unit = torch.eye(3).expand(order, 3, 3)
    torch.testing.assert_close(group @ group.mT, unit, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(order), atol=1e-5, rtol=0)
    products = (group[:, None] @ group[None]).reshape(-1, 1, 9)
    nearest = (products - group.reshape(1, -1, 9)).norm(dim=2).amin(1)
    assert float(nearest.max()) < 1e-4


@pytest.mark.parametrize("fill", [helix_bundle, strand_bundle, _disordered])
def test_domains_have_the_density_of_protein(fill: object) -> None:
    axes = (18.0, 15.0, 21.0)
    atoms = fill(torch.Generator().manual_seed(0), axes)  # type: ignore[operator]
    # Of a superellipsoid of power 3, or of an ellipsoid.
    power = 2 if fill is _disordered else 3
    unit = (2 * math.gamma(1 + 1 / power)) ** 3 / math.gamma(1 + 3 / power)
    density = len(atoms) / (unit * math.prod(axes))
    assert 0.045 < density < 0.065  # heavy atoms in 1 Å³: 1.35 g/cm³, 14 Da each


@settings(max_examples=6)
@given(st.integers(0, 1000))
def test_a_seed_decides_a_complex(seed: int) -> None:
    one, other = procedural_complex(seed), procedural_complex(seed)
    assert torch.equal(one.atoms, other.atoms) and one.name == other.name
    assert 15 < one.diameter_angstrom < 1000
    assert 100 < len(one.atoms) < 400_000


def test_coarse_points_keep_atoms_and_centre() -> None:
    complex_ = procedural_complex(1)
    points, weights = complex_.coarse()
    assert float(weights.sum()) == len(complex_.atoms)
    assert len(points) < len(complex_.atoms) / 4
    centre = (points * weights[:, None]).sum(0) / weights.sum()
    torch.testing.assert_close(centre, complex_.atoms.mean(0), atol=1e-2, rtol=0)


def test_seeds_give_different_kinds() -> None:
    names = {procedural_complex(seed).name.split(",")[0] for seed in range(30)}
    assert len(names) >= 8
