"""Atomic models: polymer heavy atoms, centred, whatever the container."""

from __future__ import annotations

import gzip
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from clearice import io
from clearice.errors import InputFileError


def _atom(serial: int, name: str, residue: str, number: int, xyz: tuple[float, ...]) -> str:
    record = "HETATM" if residue in {"HOH", "ATP"} else "ATOM"
    place = "".join(f"{value:8.3f}" for value in xyz)
    start = f"{record:<6}{serial:>5} {name:<4} {residue:>3} A{number:>4}    {place}"
    return f"{start}{1.0:6.2f}{20.0:6.2f}          {name.strip()[0]:>2}"


HEAVY = [(1.0, 2.0, 3.0), (2.5, 2.0, 3.0), (3.0, 3.5, 3.0), (4.0, 4.5, 3.5), (5.0, 4.0, 4.5)]
PDB = "\n".join(
    [
        _atom(1, " N", "ALA", 1, HEAVY[0]),
        _atom(2, " CA", "ALA", 1, HEAVY[1]),
        _atom(3, " HA", "ALA", 1, (2.5, 1.0, 3.0)),
        _atom(4, " C", "ALA", 1, HEAVY[2]),
        _atom(5, " N", "GLY", 2, HEAVY[3]),
        _atom(6, " CA", "GLY", 2, HEAVY[4]),
        "TER",
        _atom(7, " PA", "ATP", 3, (50.0, 50.0, 50.0)),
        _atom(8, " O", "HOH", 4, (60.0, 60.0, 60.0)),
        "END",
        "",
    ]
)


def _assert_is_the_little_model(path: Path) -> None:
    cloud = io.read_atoms(path)
    expected = np.array(HEAVY) - np.mean(HEAVY, axis=0)
    np.testing.assert_allclose(cloud.positions_angstrom.numpy(), expected, atol=1e-5)
    assert cloud.name == path.name


def test_a_pdb_file_gives_its_polymer_heavy_atoms(tmp_path: Path) -> None:
    path = tmp_path / "x.pdb"
    path.write_text(PDB)
    _assert_is_the_little_model(path)


def test_a_pdb_file_without_ter_records_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pdb"
    path.write_text(PDB.replace("TER\n", ""))
    _assert_is_the_little_model(path)


def test_a_gzipped_pdb_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pdb.gz"
    path.write_bytes(gzip.compress(PDB.encode()))
    _assert_is_the_little_model(path)


def test_an_mmcif_file_gives_the_same_atoms(tmp_path: Path) -> None:
    structure = gemmi.read_pdb_string(PDB)
    structure.setup_entities()
    path = tmp_path / "x.cif"
    structure.make_mmcif_document().write_file(str(path))
    _assert_is_the_little_model(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.pdb", b""),
        ("x.pdb", b"no atoms here\n"),
        ("x.pdb", PDB.split("TER")[1].encode()),
        ("x.cif", b"data_x\n"),
        ("x.cif", b"loop_ _a\n1 2\nnot cif"),
        ("x.pdb.gz", b"this is not gzip"),
        ("x.mrc", bytes(2048)),
    ],
)
def test_a_file_without_a_model_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputFileError) as error:
        io.read_atoms(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert ";" in message


def test_a_missing_file_names_the_embedded_specimen(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"none\.pdb: does not exist; .*barrel"):
        io.read_atoms(tmp_path / "none.pdb")


def test_the_proteasome_is_whole(test_data: Path) -> None:
    # Every one of its 46,228 atoms is a heavy atom of the protein: none may be lost.
    cloud = io.read_atoms(test_data / "3j9i.pdb.gz")
    xyz = cloud.positions_angstrom
    assert xyz.shape == (46_228, 3)
    assert float(xyz.mean(0).abs().max()) < 1e-3
    assert torch.isfinite(xyz).all()
    # A seven-fold particle spreads equally in both directions across its axis.
    wide = xyz.double()
    across, other, along = torch.linalg.eigvalsh(wide.T @ wide / len(wide)).sqrt().tolist()
    assert across == pytest.approx(other, rel=1e-3)
    # A rod of 148 Å has a standard deviation of 148/√12 = 43 Å.
    assert along == pytest.approx(148 / 12**0.5, rel=0.05)
