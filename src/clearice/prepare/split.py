"""Movies and pairs as half-sets: group means of the same field of view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from clearice import io
from clearice.errors import InputFileError
from clearice.prepare.motion import shifted_spectrum
from clearice.prepare.pairs import HalfPair
from clearice.types import HalfSet, Movie

Correction = Callable[[Float[Tensor, "h w"]], Float[Tensor, "h w"]]


def corrected_frames(movie: Movie, correct: Correction) -> Iterator[Float[Tensor, "h w"]]:
    """Yield corrected frames in order, while a thread reads the next one."""
    with ThreadPoolExecutor(1, thread_name_prefix="frames") as reader:
        coming = reader.submit(movie.frames.__getitem__, 0)
        for index in range(len(movie.frames)):
            frame = coming.result()
            if index + 1 < len(movie.frames):
                coming = reader.submit(movie.frames.__getitem__, index + 1)
            yield correct(frame)


def split(
    movie: Movie,
    groups: int,
    *,
    name: str | None = None,
    correct: Correction = lambda frame: frame,
    shifts_px: Float[Tensor, "t 2"] | None = None,
    weights: Sequence[Float[Tensor, "h wf"]] | None = None,
) -> HalfSet:
    """Average interleaved frames: group g holds frames g, g + K, g + 2K, …

    Interleaving gives every group the same mix of early and late frames, so that they differ in
    noise alone; with K even, the even groups together are the even frames. Frames are read once,
    and only the K groups are held.

    Args:
        movie: At least `groups` frames.
        groups: K ≥ 2.
        name: Of the half-set; None: of the movie's file.
        correct: Applied to each frame first; may move it to another device.
        shifts_px: (rows, columns) by which each frame is shifted, px.
        weights: Fourier weight of each frame, 1 at zero frequency; each group is divided by the
            mean weight of its frames in quadrature, which keeps its noise white.

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
    frames = corrected_frames(movie, correct)
    if shifts_px is None and weights is None:
        means = _plain_means(frames, groups, n_frames)
    else:
        shifts = torch.zeros(n_frames, 2) if shifts_px is None else shifts_px
        means = _fourier_means(frames, groups, shifts, weights)
    means = means.cpu()
    if any(_is_constant(mean) for mean in means):
        raise InputFileError(movie.path, "is constant", "leave it out")
    return HalfSet(
        name=io.stem(movie.path) if name is None else name,
        groups=means,
        weights=tuple(count / n_frames for count in _counts(groups, n_frames)),
        pixel_size_angstrom=movie.pixel_size_angstrom,
        sources=(movie.path,),
    )


def _counts(groups: int, n_frames: int) -> list[int]:
    return [len(range(group, n_frames, groups)) for group in range(groups)]


def _plain_means(
    frames: Iterator[Float[Tensor, "h w"]], groups: int, n_frames: int
) -> Float[Tensor, "k h w"]:
    sums: list[Tensor] = []
    for index, frame in enumerate(frames):
        if index < groups:
            sums.append(frame.float().clone())
        else:
            sums[index % groups] += frame
    counts = _counts(groups, n_frames)
    return torch.stack([total.div_(count) for total, count in zip(sums, counts, strict=True)])


def _fourier_means(
    frames: Iterator[Float[Tensor, "h w"]],
    groups: int,
    shifts_px: Float[Tensor, "t 2"],
    weights: Sequence[Float[Tensor, "h wf"]] | None,
) -> Float[Tensor, "k h w"]:
    """Shift and weigh in Fourier space, where K inverse transforms serve all frames."""
    sums: list[Complex[Tensor, "h wf"]] = []
    width = 0
    for index, (frame, shift) in enumerate(zip(frames, shifts_px, strict=True)):
        width = frame.shape[1]
        spectrum = shifted_spectrum(frame, shift)
        if weights is not None:
            spectrum *= weights[index]
        if index < groups:
            sums.append(spectrum)
        else:
            sums[index % groups] += spectrum
    images = []
    for group in range(groups):
        members = range(group, len(shifts_px), groups)
        mean = sums[group] / len(members)
        if weights is not None:
            power = reduce(add, (weights[index].square() for index in members))
            mean /= (power / len(members)).sqrt()
        images.append(torch.fft.irfft2(mean, s=(len(mean), width)))
        sums[group] = images[-1]
    return torch.stack(images)


def _is_constant(image: Float[Tensor, "h w"]) -> bool:
    return bool(image.min() == image.max())


def read_pair(pair: HalfPair, pixel_size_angstrom: float | None, dose_ratio: float) -> HalfSet:
    """Read two ready half-sets.

    Args:
        pair: The files.
        pixel_size_angstrom: Å/px; overrides the pair's own and the headers.
        dose_ratio: Dose of the second over that of the first.

    Raises:
        InputFileError: A file cannot be used, or the two differ in shape or pixel size.
    """
    size = pair.pixel_size_angstrom if pixel_size_angstrom is None else pixel_size_angstrom
    first = io.read_micrograph(pair.first, size)
    second = io.read_micrograph(pair.second, size)
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
