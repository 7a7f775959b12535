"""Prepare a data set: read, check, normalise, write; one bad file never stops the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.config import PrepareConfig
from clearice.data import Affine, DatasetWriter, Manifest, dose_weighted_mean
from clearice.errors import BatchError, DatasetError, InputFileError, PairingError, UserError
from clearice.prepare.dose import DoseRoles, PairStatistics, find_roles, pair_statistics
from clearice.prepare.pairs import HalfPair
from clearice.prepare.split import read_pair, split
from clearice.types import HalfSet

Progress = Callable[[int, int], None]
# As many pairs tell the doses apart as well as all do.
_LOOK_AT = 16


def _ignore(done: int, total: int) -> None:
    """Report nothing."""


def prepare_movies(
    movies: Sequence[Path],
    out: Path,
    config: PrepareConfig,
    truth: Path | None = None,
    progress: Progress = _ignore,
) -> Manifest:
    """Make a data set from movies.

    Args:
        movies: MRC stacks.
        out: Folder of the data set.
        config: Groups, splits and overrides.
        truth: Folder with a noise-free image of the same name for each movie (simulations).
        progress: Called with (movies done, movies in all).

    Raises:
        BatchError: Some movies could not be used; the data set holds the others.
        DatasetError: None could be used.
        PairingError: Two movies have the same name.
    """
    _refuse_duplicates(movies)

    def read(path: Path) -> HalfSet:
        return split(io.open_movie(path, config.pixel_size_angstrom), config.groups)

    job = _Job(out, config, truth, DoseRoles())
    for done, path in enumerate(movies):
        job.attempt(path, partial(read, path))
        progress(done + 1, len(movies))
    return job.finish(len(movies))


def prepare_pairs(
    pairs: Sequence[HalfPair],
    out: Path,
    config: PrepareConfig,
    truth: Path | None = None,
    progress: Progress = _ignore,
    say: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """Make a data set from ready half-sets.

    Args:
        pairs: The files, paired.
        out: Folder of the data set.
        config: Splits, dose ratio and overrides.
        truth: Folder with a noise-free image of the same name for each pair.
        progress: Called with (pairs done, pairs in all).
        say: Called with one line on what was recognised.

    Raises:
        BatchError: Some pairs could not be used; the data set holds the others.
        DatasetError: None could be used.
    """
    roles = _roles(pairs, config)
    say(roles.reason)
    job = _Job(out, config, truth, roles)
    ratio = 1 / roles.dose_ratio if roles.swapped else roles.dose_ratio

    def read(pair: HalfPair) -> HalfSet:
        half_set = read_pair(pair, config.pixel_size_angstrom, ratio)
        if roles.swapped:
            return _input_first(half_set)
        return on_one_scale(half_set) if roles.equal else half_set

    for done, pair in enumerate(pairs):
        job.attempt(pair.first, partial(read, pair))
        progress(done + 1, len(pairs))
    return job.finish(len(pairs))


def _refuse_duplicates(movies: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in movies:
        name = path.stem
        if name in seen:
            raise PairingError(f"{path} and {seen[name]} have the same name; rename one of them")
        seen[name] = path


def _roles(pairs: Sequence[HalfPair], config: PrepareConfig) -> DoseRoles:
    """Look at some pairs, spread over all; what cannot be read is reported when it is prepared."""
    looked: list[PairStatistics] = []
    for pair in pairs[:: -(-len(pairs) // _LOOK_AT)]:
        try:
            half_set = read_pair(pair, config.pixel_size_angstrom, 1.0)
        except UserError:
            continue
        looked.append(pair_statistics(half_set.groups, half_set.pixel_size_angstrom))
    return find_roles(looked, config.dose_ratio) if looked else DoseRoles()


class _Job:
    """One data set being written, with the failures so far."""

    def __init__(
        self, out: Path, config: PrepareConfig, truth: Path | None, roles: DoseRoles
    ) -> None:
        self._writer = DatasetWriter(out)
        self._out = out
        self._config = config
        self._truth = truth
        self._roles = roles
        self._pixel_size: float | None = None
        self._failures: list[str] = []

    def attempt(self, source: Path, read: Callable[[], HalfSet]) -> None:
        """Add one micrograph, or note why it could not be used."""
        try:
            half_set = read()
            self._check_pixel_size(source, half_set)
            self._add(half_set)
            self._pixel_size = self._pixel_size or half_set.pixel_size_angstrom
        except InputFileError as error:
            self._failures.append(str(error))

    def _check_pixel_size(self, source: Path, half_set: HalfSet) -> None:
        size = half_set.pixel_size_angstrom
        if self._pixel_size is not None and not io.same_pixel_size(size, self._pixel_size):
            raise InputFileError(
                source,
                f"has {size:g} Å/px where those before it have {self._pixel_size:g}",
                "prepare it apart, or give --pixel-size",
            )

    def _add(self, half_set: HalfSet) -> None:
        normalised, affine = normalise(half_set, self._roles)
        truth = None
        if self._truth is not None:
            path = self._truth / f"{half_set.name}.mrc"
            image = io.read_micrograph(path, half_set.pixel_size_angstrom).pixels
            truth = _normalised_truth(path, image, _full_dose(half_set, self._roles))
        self._writer.add(half_set, normalised, affine, truth)

    def finish(self, total: int) -> Manifest:
        """Write the manifest over what was done, then report what was not."""
        if self._pixel_size is None:
            raise DatasetError(
                f"{self._out}: no input could be used:\n  " + "\n  ".join(self._failures)
            )
        manifest = self._writer.finish(
            self._config,
            self._pixel_size,
            input_target=not self._roles.equal,
            dose_ratio=self._roles.dose_ratio,
            target_gain=self._roles.target_gain,
        )
        if self._failures:
            raise BatchError(self._failures, total)
        return manifest


def _input_first(half_set: HalfSet) -> HalfSet:
    """Return a pair with its two images exchanged."""
    return replace(
        half_set,
        groups=half_set.groups.flip(0),
        weights=half_set.weights[::-1],
        sources=half_set.sources[::-1],
    )


def on_one_scale(half_set: HalfSet) -> HalfSet:
    """Bring two halves of equal dose to the scale of their mean.

    Halves in counts are divided by their means, which makes a sum of 19 frames and one of 20, or a
    sum and a mean, comparable. Halves without counts (a mean near 0) must have one scale already.

    Raises:
        InputFileError: They have not.
    """
    means = half_set.groups.double().mean((1, 2))
    stds = half_set.groups.double().std((1, 2))
    if bool((means > 2 * stds).all()):
        factors = (means.mean() / means).float()
        return replace(half_set, groups=half_set.groups * factors[:, None, None])
    apart = abs(float(means[0] - means[1])) > 0.25 * float(stds.min())
    if apart or float(stds.max() / stds.min()) > 1.2:
        raise InputFileError(
            half_set.sources[1],
            f"differs in scale from {half_set.sources[0]} (mean and standard deviation "
            f"{means[1]:.3g}, {stds[1]:.3g} and {means[0]:.3g}, {stds[0]:.3g})",
            "export both halves in the same way, or give --dose-ratio if their doses differ",
        )
    return half_set


def normalise(half_set: HalfSet, roles: DoseRoles) -> tuple[Float[Tensor, "k h w"], Affine]:
    """Apply one affine, taken from the full-dose image, to all groups.

    Halves of unequal dose have no common scale that could be known: each gets its own affine, and
    the data set's `target_gain` says how their signals compare.

    Returns:
        The normalised groups, and the affine of the full dose (of the input, if doses differ).
    """
    if not roles.equal:
        affines = [Affine.of(group) for group in half_set.groups]
        pairs = zip(affines, half_set.groups, strict=True)
        return torch.stack([affine.apply(group) for affine, group in pairs]), affines[0]
    affine = Affine.of(_full_dose(half_set, roles))
    return affine.apply(half_set.groups), affine


def _full_dose(half_set: HalfSet, roles: DoseRoles) -> Float[Tensor, "h w"]:
    """Return the image that a network will be given: the mean of all groups, or the input."""
    if not roles.equal:
        return half_set.groups[0]
    return dose_weighted_mean(half_set.groups, half_set.weights)


def _normalised_truth(
    path: Path, truth: Float[Tensor, "h w"], full_dose: Float[Tensor, "h w"]
) -> Float[Tensor, "h w"]:
    """Bring the truth to the scale of the normalised groups.

    Truth is in counts of the whole exposure and groups are means of frames, so one factor between
    the two is fitted on their means, which counting noise hardly moves.
    """
    if truth.shape != full_dose.shape:
        raise InputFileError(path, "differs in shape from its movie", "give the matching truth")
    mean, expected = float(full_dose.double().mean()), float(truth.double().mean())
    if mean <= 0 or expected <= 0:
        raise InputFileError(
            path, "or its movie has a mean of 0 or less", "give both in counts, not normalised"
        )
    return Affine.of(full_dose).apply(truth * (mean / expected))
