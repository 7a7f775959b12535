"""Particle coordinates from each format, written by hand and real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearice import io
from clearice.errors import InputFileError
from clearice.types import ParticlePicks


def _refused(path: Path, micrographs: list[str]) -> str:
    with pytest.raises(InputFileError) as caught:
        io.read_coordinates(path, micrographs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_simulate_writes_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "particles.star"
    picks = [ParticlePicks("a.mrc", [(1.5, 2.25), (3.0, 4.0)]), ParticlePicks("b.mrc", [(5, 6)])]
    io.write_coordinates(path, picks)
    found = io.read_coordinates(path, ["b", "a", "c"])
    assert found["a"].xy == [(1.5, 2.25), (3.0, 4.0)]
    assert found["b"].xy == [(5.0, 6.0)]
    assert "c" not in found


def test_boxes_are_given_by_a_corner(tmp_path: Path) -> None:
    (tmp_path / "mic1.box").write_text("10\t20\t64\t32\t-0\n\n100.5 200 64 64 0.25\n")
    (tmp_path / "mic12.box").write_text("")
    found = io.read_coordinates(tmp_path, ["mic1", "mic12"])
    assert found["mic1"].xy == [(42.0, 36.0), (132.5, 232.0)]
    assert found["mic12"].xy == []  # looked at, and empty


def test_files_belong_to_the_micrograph_with_the_longest_name_that_fits(tmp_path: Path) -> None:
    for name, x in (("mic_1_autopick", 1), ("mic_autopick", 2)):
        (tmp_path / f"{name}.star").write_text(
            f"data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n{x} 9\n"
        )
    found = io.read_coordinates(tmp_path, ["mic", "mic_1"])
    assert {name: picks.xy for name, picks in found.items()} == {"mic_1": [(1, 9)], "mic": [(2, 9)]}


def _particles(**fields: Any) -> np.ndarray[Any, Any]:
    kinds = {
        "location/micrograph_path": "S40",
        "location/micrograph_shape": ("<u4", (2,)),
        "location/center_x_frac": "<f4",
        "location/center_y_frac": "<f4",
    }
    table = np.zeros(2, dtype=[("uid", "<u8"), *((k, v) for k, v in kinds.items() if k in fields)])
    table["uid"] = [7, 3]
    for name, values in fields.items():
        table[name] = values
    return table


LOCATION: dict[str, Any] = {
    "location/micrograph_path": [b">J2/motion/mic_patch.mrc"] * 2,
    "location/micrograph_shape": [(100, 400)] * 2,  # rows, columns
    "location/center_x_frac": [0.25, 0.5],
    "location/center_y_frac": [0.75, 0.5],
}


def test_fractions_of_cryosparc_are_of_columns_and_rows(tmp_path: Path) -> None:
    io.write_cs(tmp_path / "picked.cs", _particles(**LOCATION))
    picks = io.read_coordinates(tmp_path / "picked.cs", ["mic_patch"])["mic_patch"]
    assert picks.xy == [(100.0, 75.0), (200.0, 50.0)]
    assert picks.shape == (100, 400)


def test_positions_are_taken_from_the_passthrough_file(tmp_path: Path) -> None:
    io.write_cs(tmp_path / "particles.cs", _particles())
    assert "passthrough" in _refused(tmp_path / "particles.cs", ["mic_patch"])
    turned = _particles(**LOCATION)[::-1].copy()
    io.write_cs(tmp_path / "passthrough_particles.cs", turned)
    picks = io.read_coordinates(tmp_path / "particles.cs", ["mic_patch"])["mic_patch"]
    assert picks.xy == [(100.0, 75.0), (200.0, 50.0)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "1 2", "is no STAR, .cs or .box file"),
        ("a.box", "1 2 3\n", "line 1 is no box"),
        ("a.box", "1 2 3 x\n", "line 1 has 'x' where a number should be"),
        ("a.box", "1 2 nan 3\n", "line 1 has 'nan'"),
        ("a.box", "1 2 64 64 -1\n", "marks filaments"),
        ("a.star", "data_\nloop_\n_rlnMicrographName\na.mrc\n", "has no particle coordinates"),
        ("a.star", "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 y\n", "row 1 has 'y'"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path, name: str, text: str, expected: str
) -> None:
    (tmp_path / name).write_text(text)
    assert expected in _refused(tmp_path / name, ["a"])


def test_names_that_do_not_fit_are_said(tmp_path: Path) -> None:
    io.write_coordinates(tmp_path / "p.star", [ParticlePicks("x/a.mrc", [(1, 2)])])
    assert "has particles of x/a.mrc, but not of b" in _refused(tmp_path / "p.star", ["b"])
    both = [ParticlePicks("x/a.mrc", [(1, 2)]), ParticlePicks("y/a.mrc", [(1, 2)])]
    io.write_coordinates(tmp_path / "q.star", both)
    assert "has particles of a, as x/a.mrc has" in _refused(tmp_path / "q.star", ["a"])
    (tmp_path / "empty").mkdir()
    assert "holds no .star or .box files" in _refused(tmp_path / "empty", ["a"])
    assert "does not exist" in _refused(tmp_path / "none.box", ["a"])


def test_real_files(test_data: Path) -> None:
    star = test_data / "star"
    name = "20170629_00049_frameImage"
    found = io.read_coordinates(star / f"{name}_autopick.star", [name, "another"])
    assert found[name].xy[0] == (462.817657, 203.188232)
    first = io.read_star(star / "relion31.star")["particles"]
    micrograph = io.stem(Path(first["rlnMicrographName"][0]))
    picks = io.read_coordinates(star / "relion31.star", [micrograph])[micrograph]
    assert picks.xy[0] == (float(first["rlnCoordinateX"][0]), float(first["rlnCoordinateY"][0]))
    # This one was exported without the passthrough file that has the positions.
    message = _refused(star / "cryosparc_P12_J24_001_particles.cs", ["a"])
    assert "has no positions of particles" in message
