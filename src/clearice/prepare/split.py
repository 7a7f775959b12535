"""Movies and pairs as half-sets: group means of the same field of view."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.errors import InputFileError
from clearice.prepare.pairs import HalfPair
from clearice.types import HalfSet, Movie


def split(movie: Movie, groups: int) -> HalfSet:
    """Average interleaved frames: group g holds frames g, g + K, g + 2K, …

    Interleaving gives every group the same mix of early and late frames, so that they differ in
    noise alone; with K even, the even groups together are the even frames.

    Args:
        movie: At least `groups` frames.
        groups: K ≥ 2.

    Raises:
        InputFileError: The movie has fewer frames than groups, or a frame cannot be used.
    """
    n_frames = len(movie.frames)
    if n_frames < groups:
        raise InputFileError(
            movie.path,
            f"has {n_frames} frames, too few for {groups} groups",
            f"use --groups {max(2, n_frames)} or less",
        )
    sums = torch.zeros(groups, movie.height, movie.width)
    counts = [len(range(g, n_frames, groups)) for g in range(groups)]
    for index in range(n_frames):
        sums[index % groups] += movie.frames[index]
    means = sums / torch.tensor(counts, dtype=torch.float32)[:, None, None]
    if any(_is_constant(mean) for mean in means):
        raise InputFileError(movie.path, "is constant", "leave it out")
    return HalfSet(
        name=movie.path.stem,
        groups=means,
        weights=tuple(count / n_frames for count in counts),
        pixel_size_angstrom=movie.pixel_size_angstrom,
        sources=(movie.path,),
    )


def _is_constant(image: Float[Tensor, "h w"]) -> bool:
    return bool(image.min() == image.max())


def read_pair(pair: HalfPair, pixel_size_angstrom: float | None, dose_ratio: float) -> HalfSet:
    """Read two ready half-sets.

    Args:
        pair: The files.
        pixel_size_angstrom: Å/px; overrides the headers.
        dose_ratio: Dose of the second over that of the first.

    Raises:
        InputFileError: A file cannot be used, or the two differ in shape or pixel size.
    """
    first = io.read_micrograph(pair.first, pixel_size_angstrom)
    second = io.read_micrograph(pair.second, pixel_size_angstrom)
    if first.pixels.shape != second.pixels.shape:
        shapes = " and ".join("×".join(map(str, m.pixels.shape)) for m in (first, second))
        raise InputFileError(
            pair.second, f"differs in shape from {pair.first} ({shapes} px)", "check the pairing"
        )
    if not io.same_pixel_size(first.pixel_size_angstrom, second.pixel_size_angstrom):
        raise InputFileError(
            pair.second,
            f"differs in pixel size from {pair.first} ({second.pixel_size_angstrom:g} and "
            f"{first.pixel_size_angstrom:g} Å)",
            "check the pairing, or give --pixel-size",
        )
    return HalfSet(
        name=pair.name,
        groups=torch.stack([first.pixels, second.pixels]),
        weights=(1 / (1 + dose_ratio), dose_ratio / (1 + dose_ratio)),
        pixel_size_angstrom=first.pixel_size_angstrom,
        sources=(pair.first, pair.second),
    )
