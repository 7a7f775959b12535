"""Bring the groups of a micrograph to one scale, and normalise them by one affine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.data import Affine, dose_weighted_mean
from clearice.errors import InputFileError
from clearice.prepare.dose import DoseRoles
from clearice.types import HalfSet


def input_first(half_set: HalfSet) -> HalfSet:
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


def arranged(half_set: HalfSet, roles: DoseRoles) -> HalfSet:
    """Put a pair in the order, and on the scale, that the doses of its images ask for.

    Raises:
        InputFileError: The doses are equal and the scales are not.
    """
    if roles.equal:
        return on_one_scale(half_set)
    return input_first(half_set) if roles.swapped else half_set


def normalise(half_set: HalfSet, roles: DoseRoles) -> tuple[Float[Tensor, "k h w"], Affine]:
    """Apply one affine, taken from the full-dose image, to all groups.

    Halves of unequal dose have no common scale that could be known: each gets its own affine, and
    the data set's `target_gain` says how their signals compare.

    Returns:
        The normalised groups, and the affine of the full dose (of the input, if doses differ).

    Raises:
        InputFileError: The image is constant, or too large to be added up.
    """
    if not roles.equal:
        affines = [Affine.of(group) for group in half_set.groups]
        _refuse_degenerate(half_set, affines)
        pairs = zip(affines, half_set.groups, strict=True)
        return torch.stack([affine.apply(group) for affine, group in pairs]), affines[0]
    affine = Affine.of(full_dose(half_set, roles))
    _refuse_degenerate(half_set, [affine])
    return affine.apply(half_set.groups), affine


def _refuse_degenerate(half_set: HalfSet, affines: Sequence[Affine]) -> None:
    for affine in affines:
        if not (math.isfinite(affine.mean) and 0 < affine.std < math.inf):
            raise InputFileError(
                half_set.sources[0],
                f"has no usable contrast (mean {affine.mean:g}, standard deviation {affine.std:g})",
                "leave it out",
            )


def full_dose(half_set: HalfSet, roles: DoseRoles) -> Float[Tensor, "h w"]:
    """Return the image that a network will be given: the mean of all groups, or the input."""
    if not roles.equal:
        return half_set.groups[0]
    return dose_weighted_mean(half_set.groups, half_set.weights)


def normalised_truth(
    path: Path, truth: Float[Tensor, "h w"], reference: Float[Tensor, "h w"]
) -> Float[Tensor, "h w"]:
    """Bring the truth to the scale of the normalised groups.

    Truth is in counts of the whole exposure and groups are means of frames, so one factor between
    the two is fitted on their means, which counting noise hardly moves.
    """
    if truth.shape != reference.shape:
        raise InputFileError(path, "differs in shape from its movie", "give the matching truth")
    mean, expected = float(reference.double().mean()), float(truth.double().mean())
    if mean <= 0 or expected <= 0:
        raise InputFileError(
            path, "or its movie has a mean of 0 or less", "give both in counts, not normalised"
        )
    return Affine.of(reference).apply(truth * (mean / expected))
