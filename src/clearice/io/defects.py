"""Lists and maps of defective pixels, as MotionCor, RELION and SerialEM write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from clearice.errors import InputFileError
from clearice.io.images import read_image
from clearice.io.sections import reading, require_file

_TEXT_PROBE_BYTES = 4096
# SerialEM says more of the camera than where its defects are.
_NO_DEFECTS = (
    "CameraSizeX",
    "CameraSizeY",
    "FalconType",
    "K2Type",
    "NumToAvgSuperRes",
    "RotationAndFlip",
    "WasScaled",
)
# x, y, width, height
Box = tuple[int, int, int, int]
# Its number in the file, and its words.
Line = tuple[int, list[str]]


def read_defects(path: Path, shape: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Read which pixels are defective.

    Args:
        path: An MRC or TIFF map that is not 0 where a pixel is defective; or text with lines
            ``x y width height`` (px from the first pixel of the first row, as in MotionCor and
            RELION); or SerialEM's list for a camera (`BadPixels`, `BadColumns`, ...), which counts
            rows from the other side. A map or SerialEM's list may have half the movie's sampling.
        shape: Rows and columns of the movie.

    Returns:
        True where a pixel is defective.

    Raises:
        InputFileError: The file is missing, cannot be understood, or belongs to another camera.
    """
    require_file(path)
    with reading(path), path.open("rb") as handle:
        is_image = b"\0" in handle.read(_TEXT_PROBE_BYTES)
    if is_image:
        return _to_movie(path, read_image(path) != 0, shape)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputFileError(path, "is neither text nor an image", "check --defects") from None
    lines = [(n, line.split("#")[0].split()) for n, line in enumerate(text.splitlines(), 1)]
    lines = [(n, words) for n, words in lines if words]
    if not lines:
        raise InputFileError(path, "lists no defects", "leave --defects out")
    if any(re.match("[A-Za-z]", words[0]) for _, words in lines):
        return _to_movie(path, _camera_list(path, lines, shape), shape)
    return _boxes(path, lines, shape)


def _to_movie(
    path: Path, bad: Bool[Tensor, "h w"], shape: tuple[int, int]
) -> Bool[Tensor, "h2 w2"]:
    """Fit a map to the movie, or to one with half its pixel size."""
    own = tuple(bad.shape)
    if own == shape:
        return bad
    if (2 * own[0], 2 * own[1]) == shape:
        return bad.repeat_interleave(2, 0).repeat_interleave(2, 1)
    raise InputFileError(
        path,
        f"is for {own[1]}×{own[0]} px where the movie is {shape[1]}×{shape[0]}",
        "give the --defects of this camera",
    )


def _numbers(path: Path, line: int, words: list[str], group: int) -> list[list[int]]:
    """Return the numbers of a line, in groups."""
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) % group or min(numbers) < 0:
        raise InputFileError(
            path,
            f"line {line}: '{' '.join(words)}' is not {group} whole numbers from 0",
            "correct it, or leave --defects out",
        )
    return [numbers[k : k + group] for k in range(0, len(numbers), group)]


def _mark(path: Path, line: int, bad: Bool[Tensor, "h w"], box: Box) -> None:
    x, y, width, height = box
    if width < 1 or height < 1 or x >= bad.shape[1] or y >= bad.shape[0]:
        raise InputFileError(
            path,
            f"line {line}: {width}×{height} px at ({x}, {y}) are not in an image of "
            f"{bad.shape[1]}×{bad.shape[0]} px",
            "give the --defects of this camera",
        )
    bad[y : y + height, x : x + width] = True


def _boxes(path: Path, lines: list[Line], shape: tuple[int, int]) -> Bool[Tensor, "h w"]:
    bad = torch.zeros(shape, dtype=torch.bool)
    for n, words in lines:
        for x, y, width, height in _numbers(path, n, words, 4):
            _mark(path, n, bad, (x, y, width, height))
    return bad


def _camera_list(path: Path, lines: list[Line], movie: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Read SerialEM's list at the sampling of the camera.

    Source: IMOD `CorDefParseDefects`, and `CorDefFlipDefectsInY` for the order of rows.
    """
    stated = {words[0]: (n, words[1:]) for n, words in lines}
    if stated.get("WasScaled", (0, ["0"]))[1] != ["0"]:
        raise InputFileError(
            path, "has coordinates that were scaled (WasScaled)", "give the camera's own list"
        )

    def size(key: str, otherwise: int) -> int:
        n, words = stated.get(key, (0, [str(otherwise)]))
        return _numbers(path, n, words, 1)[0][0]

    bad = torch.zeros(size("CameraSizeY", movie[0]), size("CameraSizeX", movie[1])).bool()
    for n, (key, *words) in lines:
        if key in _NO_DEFECTS:
            continue
        if key not in _ENTRIES:
            raise InputFileError(
                path,
                f"line {n}: the entry '{key}' is not known here",
                f"give a defect map, or a list of {', '.join(_ENTRIES)}",
            )
        group, boxes_of = _ENTRIES[key]
        for numbers in _numbers(path, n, words, group):
            for box in boxes_of(numbers, bad.shape[1], bad.shape[0]):
                _mark(path, n, bad, box)
    return bad.flip(0)


def _outside(area: list[int], width: int, height: int) -> list[Box]:
    """Return what lies around a usable area (top, left, bottom, right); 0 leaves a side open."""
    top, left, bottom, right = area
    boxes = [(0, 0, width, top), (0, 0, left, height)]
    if bottom:
        boxes.append((0, bottom + 1, width, height - bottom - 1))
    if right:
        boxes.append((right + 1, 0, width - right - 1, height))
    return [box for box in boxes if box[2] > 0 and box[3] > 0]


# How many numbers make one of each entry, and which boxes these mean on a camera of that size.
_ENTRIES: dict[str, tuple[int, Callable[[list[int], int, int], list[Box]]]] = {
    "BadPixels": (2, lambda v, _width, _height: [(v[0], v[1], 1, 1)]),
    "BadColumns": (1, lambda v, _width, height: [(v[0], 0, 1, height)]),
    "BadRows": (1, lambda v, width, _height: [(0, v[0], width, 1)]),
    "PartialBadColumn": (4, lambda v, _width, _height: [(v[0], v[2], v[1], v[3] - v[2] + 1)]),
    "PartialBadRow": (4, lambda v, _width, _height: [(v[2], v[0], v[3] - v[2] + 1, v[1])]),
    "UsableArea": (4, _outside),
}
