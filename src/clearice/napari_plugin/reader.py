"""Micrographs and movies as layers with their pixel size.

Source: napari's contract of readers (napari.org, "Plugin contributions"), and
alisterburt/napari-mrcfile-reader, whose order of rows is the same: the first of an MRC file on top.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clearice import io
from clearice.napari_plugin.layers import Array, LazyStack, contrast_of
from clearice.types import Movie

LayerData = tuple[Any, dict[str, Any], str]


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the function that reads these files; None for what clearice does not read.

    Args:
        path: One file, or several.
    """
    return read if all(io.is_movie_name(file) for file in _files(path)) else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Read files as one image layer each: micrographs at once, movies frame by frame.

    Rows and columns are scaled in Å/px, where the file says so.

    Raises:
        InputFileError: A file is missing, damaged or no grey image.
    """
    return [_layer(file) for file in _files(path)]


def _files(path: str | Sequence[str]) -> list[Path]:
    return [Path(path)] if isinstance(path, str) else [Path(file) for file in path]


def _layer(path: Path) -> LayerData:
    if io.image_shape(path)[0] > 1:
        movie, known = _open_movie(path)
        stack = LazyStack(movie.frames, movie.height, movie.width)
        size = movie.pixel_size_angstrom if known else None
        facts = {"dose_per_frame_e_per_A2": movie.dose_per_frame_e_per_A2}
        return stack, _describe(path, stack[0], size, 3, facts), "image"
    with warnings.catch_warnings():
        # The layer shows it: one without a pixel size is in pixels.
        warnings.simplefilter("ignore", io.PixelSizeFallback)
        micrograph = io.read_micrograph(path)
    size = None if micrograph.pixel_size_assumed else micrograph.pixel_size_angstrom
    pixels = micrograph.pixels.numpy()
    return pixels, _describe(path, pixels, size, 2, {}), "image"


def _open_movie(path: Path) -> tuple[Movie, bool]:
    """Open a movie, and tell whether the file has a pixel size."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", io.PixelSizeFallback)
        try:
            return io.open_movie(path), True
        except io.PixelSizeFallback:
            return io.open_movie(path, fallback_pixel_size_angstrom=1.0), False


def _describe(
    path: Path, image: Array, pixel_size_angstrom: float | None, ndim: int, facts: dict[str, Any]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": io.stem(path),
        "metadata": {"path": str(path), "pixel_size_angstrom": pixel_size_angstrom, **facts},
        "contrast_limits": contrast_of(image),
    }
    if pixel_size_angstrom is not None:
        described["scale"] = (1.0, pixel_size_angstrom, pixel_size_angstrom)[-ndim:]
        described["units"] = ("pixel", "angstrom", "angstrom")[-ndim:]
    return described
