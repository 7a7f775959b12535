"""Atomic models (PDB, mmCIF, gzipped or not), through `gemmi`."""

from __future__ import annotations

from pathlib import Path

import gemmi
import torch

from clearice.errors import InputFileError
from clearice.types import AtomCloud


def read_atoms(path: Path) -> AtomCloud:
    """Read the heavy atoms of a model, centred on their mean; waters and ligands are left out.

    Args:
        path: PDB or mmCIF file, may end in `.gz`.

    Raises:
        InputFileError: The file is missing, unreadable or has no atoms.
    """
    if not path.is_file():
        raise InputFileError(path, "does not exist", "give 'barrel' or a PDB/mmCIF file")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError) as error:
        raise InputFileError(
            path, f"is no readable PDB or mmCIF file ({error})", "check the file"
        ) from None
    structure.setup_entities()  # a file without entity records has none until then
    structure.remove_ligands_and_waters()
    structure.remove_hydrogens()
    positions = (
        [atom.pos.tolist() for chain in structure[0] for residue in chain for atom in residue]
        if len(structure) > 0
        else []
    )
    if not positions:
        raise InputFileError(path, "has no polymer atoms", "give a PDB/mmCIF file of a protein")
    xyz = torch.tensor(positions, dtype=torch.float32)
    return AtomCloud(xyz - xyz.mean(0), path.name)
