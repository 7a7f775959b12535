"""STAR files, through `gemmi`'s CIF writer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import gemmi

from clearice.io.atomic import write_text
from clearice.types import ParticlePicks


def write_coordinates(path: Path, picks: Sequence[ParticlePicks]) -> None:
    """Write particle centres as RELION coordinates (px from the first pixel, x along columns)."""
    document = gemmi.cif.Document()
    block = document.add_new_block("particles")
    loop = block.init_loop("_rln", ["MicrographName", "CoordinateX", "CoordinateY"])
    for pick in picks:
        # Quotes only where a name needs them: many STAR readers split lines at spaces.
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/@+-]*", pick.micrograph)
        name = pick.micrograph if plain else gemmi.cif.quote(pick.micrograph)
        for x, y in pick.xy:
            loop.add_row([name, f"{x:.3f}", f"{y:.3f}"])
    write_text(path, document.as_string())
