"""Defect lists and maps, each against a mask drawn by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clearice import io
from clearice.errors import InputFileError
from clearice.io.defects import read_defects

_SHAPE = (8, 12)


def _text(folder: Path, text: str) -> Path:
    path = folder / "defects.txt"
    path.write_text(text, encoding="utf-8")
    return path


def _mask(*boxes: tuple[slice, slice]) -> torch.Tensor:
    mask = torch.zeros(_SHAPE, dtype=torch.bool)
    for box in boxes:
        mask[box] = True
    return mask


def test_boxes_count_from_the_first_row(tmp_path: Path) -> None:
    path = _text(tmp_path, "# x y w h\n2 1 3 2\n\n11 7 1 1  # the corner\n0 3 12 1\n")
    expected = _mask(
        (slice(1, 3), slice(2, 5)), (slice(7, 8), slice(11, 12)), (slice(3, 4), slice(0, 12))
    )
    assert torch.equal(read_defects(path, _SHAPE), expected)


def test_a_box_over_the_edge_is_cut(tmp_path: Path) -> None:
    path = _text(tmp_path, "10 6 5 5\n")
    expected = _mask((slice(6, 8), slice(10, 12)))
    assert torch.equal(read_defects(path, _SHAPE), expected)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1 2 3\n", "line 1: '1 2 3' is not 4 whole numbers"),
        ("0 0 1 1\n1 2 3 -4\n", "line 2: '1 2 3 -4' is not 4 whole numbers"),
        ("0 0 1.5 1\n", "line 1: '0 0 1.5 1' is not"),
        ("0 0 0 1\n", r"line 1: 0×1 px at \(0, 0\) are not in an image of 12×8 px"),
        ("\n12 0 1 1\n", r"line 2: 1×1 px at \(12, 0\) are not in an image"),
        ("\n# nothing\n", "lists no defects"),
        ("BadPixels 1\n", "line 1: '1' is not 2 whole numbers"),
        ("BadColumns\n", "line 1: '' is not 1 whole numbers"),
        ("BadColumns 12\n", r"line 1: 1×8 px at \(12, 0\) are not in an image"),
        ("PartialBadColumn 1 1 5 4\n", "line 1: 1×0 px"),
        ("BadSpots 1 2\n", "the entry 'BadSpots' is not known here; .*BadPixels, BadColumns"),
        ("WasScaled 1\nBadPixels 1 2\n", "coordinates that were scaled"),
        ("CameraSizeX 10\nCameraSizeY 8\nBadRows 2\n", "is for 10×8 px where the movie is 12×8"),
    ],
)
def test_a_list_that_cannot_be_used(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputFileError, match=problem):
        read_defects(_text(tmp_path, text), _SHAPE)


_CAMERA = """CameraSizeX 12
CameraSizeY 8
RotationAndFlip 1
WasScaled 0
K2Type 1
UsableArea 0 0 0 0
PartialBadColumn 9 2 0 3
PartialBadRow 7 1 4 6
BadPixels 1 2 3 4
BadColumns 0 11
BadRows 5
"""


def test_serialem_counts_rows_from_the_other_side(tmp_path: Path) -> None:
    from_above = _mask(
        (slice(0, 4), slice(9, 11)),
        (slice(7, 8), slice(4, 7)),
        (slice(2, 3), slice(1, 2)),
        (slice(4, 5), slice(3, 4)),
        (slice(0, 8), slice(0, 1)),
        (slice(0, 8), slice(11, 12)),
        (slice(5, 6), slice(0, 12)),
    )
    found = read_defects(_text(tmp_path, _CAMERA), _SHAPE)
    for row in range(8):
        assert torch.equal(found[7 - row], from_above[row])


def test_serialem_lists_are_doubled_for_super_resolution(tmp_path: Path) -> None:
    path = _text(tmp_path, _CAMERA)
    found = read_defects(path, (16, 24))
    once = read_defects(path, _SHAPE)
    for dy in (0, 1):
        for dx in (0, 1):
            assert torch.equal(found[dy::2, dx::2], once)


def test_what_lies_outside_the_usable_area_is_bad(tmp_path: Path) -> None:
    path = _text(tmp_path, "UsableArea 1 2 6 9\n")
    usable = read_defects(path, _SHAPE).logical_not().nonzero()
    assert usable.amin(0).tolist() == [1, 2]
    assert usable.amax(0).tolist() == [6, 9]
    assert len(usable) == 6 * 8


def test_a_map_is_bad_where_it_is_not_zero(tmp_path: Path, generator: torch.Generator) -> None:
    expected = torch.rand(_SHAPE, generator=generator) < 0.2
    path = tmp_path / "map.mrc"
    io.write_mrc(path, expected.int() * 3, None, dtype="int8")
    assert torch.equal(read_defects(path, _SHAPE), expected)
    doubled = read_defects(path, (16, 24))
    assert torch.equal(doubled[1::2, ::2], expected)
    with pytest.raises(InputFileError, match="is for 12×8 px where the movie is 13×8"):
        read_defects(path, (8, 13))


def test_files_that_are_not_there_or_not_readable(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="does not exist"):
        read_defects(tmp_path / "gone.txt", _SHAPE)
    path = tmp_path / "latin.txt"
    path.write_bytes(b"1 2 3 4 \xe9\n")
    with pytest.raises(InputFileError, match="neither text nor an image"):
        read_defects(path, _SHAPE)
