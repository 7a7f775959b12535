"""STAR files, held against an independent parser."""

from __future__ import annotations

import os
import re
from pathlib import Path

import gemmi
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clearice import io
from clearice.errors import InputFileError, OutputError
from clearice.io.star import read_star, write_star
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


@example("data_001.mrc", [(1.0, 2.0)])
@example("DATA_", [(1.0, 2.0)])
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


_REAL = [
    "20170629_00049_frameImage_autopick.star",
    "corrected_micrographs.star",
    "micrographs_ctf.star",
    "movie_frameImage.star",
    "relion31.star",
    "relion5.star",
]
_HEAD = "data_movies\n\nloop_\n_rlnMicrographMovieName #1\n_rlnOpticsGroup #2\n"


def _by_gemmi(path: Path) -> dict[str, dict[str, list[str]]]:
    blocks: dict[str, dict[str, list[str]]] = {}
    for block in gemmi.cif.read(str(path)):
        table = blocks[block.name.strip()] = {}
        for item in block:
            if item.loop is not None:
                values = [gemmi.cif.as_string(value) for value in item.loop.values]
                width = item.loop.width()
                for at, tag in enumerate(item.loop.tags):
                    table[tag[1:]] = values[at::width]
            elif item.pair is not None:
                table[item.pair[0][1:]] = [gemmi.cif.as_string(item.pair[1])]
    return blocks


@pytest.mark.parametrize("name", _REAL)
def test_real_files_read_as_an_independent_parser_reads_them(test_data: Path, name: str) -> None:
    path = test_data / "star" / name
    assert read_star(path) == _by_gemmi(path)


@pytest.mark.parametrize("name", _REAL)
def test_real_files_are_round_tripped(test_data: Path, tmp_path: Path, name: str) -> None:
    blocks = read_star(test_data / "star" / name)
    write_star(tmp_path / name, blocks)
    assert read_star(tmp_path / name) == blocks
    assert _by_gemmi(tmp_path / name) == blocks


def test_what_a_real_file_holds(test_data: Path) -> None:
    blocks = read_star(test_data / "star" / "relion5.star")
    assert list(blocks) == ["optics", "particles"]
    assert len(blocks["particles"]["rlnMicrographName"]) == 17
    zernike = blocks["optics"]["rlnOddZernike"][0]
    assert zernike.startswith("[0.0680480107376,")
    assert zernike.endswith("]")
    general = read_star(test_data / "star" / "movie_frameImage.star")["general"]
    assert general["rlnMicrographDoseRate"] == ["1.277000"]


@pytest.mark.parametrize(
    "name",
    ["data_001.tif", "_001.tif", "$x.tif", "Zoë/Å.tif", "o'brien.tif", "a#b.tif", "[1].tif", "a;b"],
)
def test_names_that_relion_writes_bare(tmp_path: Path, name: str) -> None:
    path = tmp_path / "movies.star"
    path.write_text(f"{_HEAD}x.tif 1 \n{name}            1 \n \n", encoding="utf-8")
    assert read_star(path)["movies"]["rlnMicrographMovieName"] == ["x.tif", name]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_endings_and_byte_order_marks(tmp_path: Path, end: str, mark: str) -> None:
    path = tmp_path / "movies.star"
    text = f"{mark}# version 30001\n\n{_HEAD}a.tif 1 # first\n'b c.tif' \"\""
    path.write_bytes(text.replace("\n", end).encode())
    table = read_star(path)["movies"]
    assert table == {"rlnMicrographMovieName": ["a.tif", "b c.tif"], "rlnOpticsGroup": ["1", ""]}


def test_bytes_that_are_no_utf8_name_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "movies.star"
    path.write_bytes(_HEAD.encode() + b"caf\xe9.tif 1\n")
    (name,) = read_star(path)["movies"]["rlnMicrographMovieName"]
    assert os.fsencode(name) == b"caf\xe9.tif"
    write_star(tmp_path / "again.star", read_star(path))
    assert read_star(tmp_path / "again.star") == read_star(path)


_VALUES = st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=12).filter(
    lambda value: not ("'" in value and '"' in value)
)


@given(st.lists(st.tuples(_VALUES, _VALUES, _VALUES), max_size=4))
def test_any_values_are_round_tripped(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("star") / "x.star"
    table = {label: [row[at] for row in rows] for at, label in enumerate(("rlnA", "rlnB", "rlnC"))}
    blocks = {"": table, "optics": {"rlnX": ["1"]}}
    write_star(path, blocks)
    assert read_star(path) == blocks


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{_HEAD}a.tif 1\nb.tif\n", "line 7 has 1 values for 2 columns"),
        (f"{_HEAD}a.tif 1\n{_HEAD}", "line 7 has a second block 'data_movies'"),
        (f"{_HEAD}a.tif 1\nloop_\n", "line 7 has a second table in one block"),
        ("data_\nloop_\n_rlnA\n_rlnA\n", "line 4 has a second column '_rlnA'"),
        ("data_general\n_rlnA\n", "line 2 has neither a label with its value nor 'loop_'"),
        ("hello\n", "line 1 has a value outside of any block"),
        ("# only a comment\n", "is no STAR file"),
        ("II*\0", "it is not text"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "x.star"
    path.write_text(text)
    with pytest.raises(InputFileError, match=re.escape(problem)) as caught:
        read_star(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"none\.star: does not exist"):
        read_star(tmp_path / "none.star")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "x.star"
    with pytest.raises(OutputError, match="differ in length"):
        write_star(path, {"": {"rlnA": ["1"], "rlnB": []}})
    for value in ("""'a' "b" c""", "two\nlines"):
        with pytest.raises(OutputError, match="cannot be a value"):
            write_star(path, {"": {"rlnA": [value]}})
    assert list(tmp_path.iterdir()) == []
