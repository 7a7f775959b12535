"""Coordinates in STAR files, read back by an independent parser."""

from __future__ import annotations

from pathlib import Path

import gemmi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearice import io
from clearice.types import ParticlePicks


def _read(path: Path) -> list[tuple[str, float, float]]:
    block = gemmi.cif.read(str(path)).find_block("particles")
    table = block.find("_rln", ["MicrographName", "CoordinateX", "CoordinateY"])
    return [(gemmi.cif.as_string(row[0]), float(row[1]), float(row[2])) for row in table]


def test_coordinates_are_read_back(tmp_path: Path) -> None:
    picks = [
        ParticlePicks("a.mrc", [(1.0, 2.5), (3.25, 4.125)]),
        ParticlePicks("none.mrc", []),
        ParticlePicks("b.mrc", [(1000.0004, -3.0)]),
    ]
    path = tmp_path / "particles.star"
    io.write_coordinates(path, picks)
    assert _read(path) == [
        ("a.mrc", 1.0, 2.5),
        ("a.mrc", 3.25, 4.125),
        ("b.mrc", 1000.0, -3.0),
    ]


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20).filter(
        lambda name: "'" not in name or '"' not in name
    ),
    st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=5),
)
def test_any_name_and_place_is_read_back_to_a_thousandth_of_a_pixel(
    tmp_path_factory: pytest.TempPathFactory, name: str, xy: list[tuple[float, float]]
) -> None:
    path = tmp_path_factory.mktemp("star") / "p.star"
    io.write_coordinates(path, [ParticlePicks(name, xy)])
    rows = _read(path)
    assert [row[0] for row in rows] == [name] * len(xy)
    for (_, x, y), expected in zip(rows, xy, strict=True):
        assert (x, y) == pytest.approx(expected, abs=6e-4)


def test_no_particles_make_a_file_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    io.write_coordinates(path, [ParticlePicks("a.mrc", [])])
    assert _read(path) == []


def test_a_plain_name_is_written_bare(tmp_path: Path) -> None:
    # Many programs read STAR by splitting at spaces: quotes would become part of the name.
    path = tmp_path / "p.star"
    io.write_coordinates(path, [ParticlePicks("mic_0000.mrc", [(1.0, 2.0)])])
    assert path.read_text().split()[-3:] == ["mic_0000.mrc", "1.000", "2.000"]
