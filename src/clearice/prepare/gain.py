"""Gain references: read, turned, fitted to the movie, checked against its frames, applied."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from clearice import io
from clearice.errors import ConfigError, InputFileError
from clearice.prepare.defects import DefectMap

GainMode = Literal["auto", "multiply", "divide"]
Verdict = Literal["right", "other orientation", "wrong sense", "already corrected", "cannot tell"]

# Each orientation of the square once, in the simplest numbers that give it.
_ORIENTATIONS = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (1, 1), (1, 2))
_LARGEST_DEAD_SHARE = 0.1
_BOX = 15
# Detectors of any size are told apart well enough by their middle.
_LARGEST_SIDE = 4096
_SIGMAS = 6.0
# Imperfect references leave a trace of themselves: less than this share of one counts as none.
_TRACE = 0.25


@dataclass(frozen=True)
class GainReference:
    """The factor by which the counts of each pixel are multiplied.

    Attributes:
        multiplier: Factors as turned and fitted; 0 marks a dead pixel.
        path: The file.
        rotation: Quarter turns that were applied, as MotionCor's -RotGain.
        flip: Mirroring that was applied after them, as MotionCor's -FlipGain.
        divides: The file holds sensitivities, of which the factors are the inverse.
    """

    multiplier: Float[Tensor, "h w"]
    path: Path
    rotation: int = 0
    flip: int = 0
    divides: bool = False

    @property
    def dead(self) -> Bool[Tensor, "h w"]:
        """Pixels that no factor can correct."""
        return self.multiplier == 0

    @property
    def sensitivity(self) -> Float[Tensor, "h w"]:
        """Counts for one electron, up to a factor; 0 where the pixel is dead."""
        return _inverse(self.multiplier)

    def to(self, device: torch.device) -> GainReference:
        """Return the same reference on another device."""
        return replace(self, multiplier=self.multiplier.to(device))


def _inverse(values: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    return torch.where(values > 0, 1 / values, 0.0)


def orient(image: Float[Tensor, "h w"], rotation: int, flip: int) -> Float[Tensor, "h2 w2"]:
    """Turn, then mirror, an image as MotionCor and RELION do gain references.

    Both turn counter-clockwise with the first row at the bottom, as MRC files are drawn; with the
    first row on top, as matrices are printed, it is clockwise.

    Args:
        image: Any image; row 0 is the first of the MRC file.
        rotation: Quarter turns, 0 to 3 (MotionCor -RotGain, RELION --gain_rot).
        flip: 0 none, 1 upside down, 2 left to right (MotionCor -FlipGain, RELION --gain_flip).

    Source: RELION `ImageOp::rotate90`, `flipY`, `flipX`; MotionCor3 `G90Rotate2D`, `GFlip2D`.
    """
    turned = torch.rot90(image, -rotation, (0, 1))
    return turned.flip(flip - 1) if flip else turned


def _unorient(image: Float[Tensor, "h w"], rotation: int, flip: int) -> Float[Tensor, "h2 w2"]:
    return torch.rot90(image.flip(flip - 1) if flip else image, rotation, (0, 1))


def load_gain(
    path: Path,
    *,
    mode: GainMode = "auto",
    rotation: int = 0,
    flip: int = 0,
    electron_events: bool = False,
) -> GainReference:
    """Read a gain reference.

    Args:
        path: MRC, TIFF or `.gain` file.
        mode: Whether counts are multiplied with its values or divided by them. `auto` multiplies,
            except that for electron events it divides by anything but a `.gain` file, as RELION.
        rotation: Quarter turns, see `orient`.
        flip: Mirroring, see `orient`.
        electron_events: The movies are EER.

    Raises:
        InputFileError: The file is missing, damaged, or no gain reference.
        ConfigError: `rotation` or `flip` is out of range.
    """
    if rotation not in range(4):
        raise ConfigError(f"--gain-rotation {rotation}: must be 0, 1, 2 or 3 quarter turns")
    if flip not in range(3):
        raise ConfigError(f"--gain-flip {flip}: must be 0 (none), 1 (up-down) or 2 (left-right)")
    values = io.read_image(path)
    _refuse_what_is_no_gain(path, values)
    auto_divides = electron_events and path.suffix.lower() != ".gain"
    divides = mode == "divide" or (mode == "auto" and auto_divides)
    multiplier = values[values > 0].mean() * _inverse(values) if divides else values
    return GainReference(orient(multiplier, rotation, flip), path, rotation, flip, divides)


def _refuse_what_is_no_gain(path: Path, values: Float[Tensor, "h w"]) -> None:
    n_negative = int((values < 0).sum())
    if n_negative:
        raise InputFileError(
            path, f"has {n_negative} negative pixels, so it is no gain reference", "check --gain"
        )
    dead = int((values == 0).sum()) / values.numel()
    if dead > _LARGEST_DEAD_SHARE:
        raise InputFileError(
            path, f"has {dead:.0%} zeros, so it is no gain reference", "check --gain"
        )


def fit_gain(gain: GainReference, movie: Path, height: int, width: int) -> GainReference:
    """Bring a gain reference to the sampling of a movie: the same, half or twice its own.

    Args:
        gain: As loaded.
        movie: For the message.
        height: Rows of its frames.
        width: Columns of its frames.

    Raises:
        InputFileError: The sizes do not belong together.
    """
    own = tuple(gain.multiplier.shape)
    if own == (height, width):
        return gain
    if own == (2 * height, 2 * width):
        return replace(gain, multiplier=_binned(gain.multiplier))
    if (2 * own[0], 2 * own[1]) == (height, width):
        repeated = gain.multiplier.repeat_interleave(2, 0).repeat_interleave(2, 1)
        return replace(gain, multiplier=repeated)
    lies_across = own[0] * height == own[1] * width and height != width
    raise InputFileError(
        gain.path,
        f"is {own[1]}×{own[0]} px where the movie {movie} is {width}×{height}",
        "turn it with --gain-rotation" if lies_across else "give the right --gain",
    )


def _binned(multiplier: Float[Tensor, "h w"]) -> Float[Tensor, "h2 w2"]:
    """Bin two-fold: counts of four pixels add up, so it is their sensitivities that are averaged.

    One dead pixel spoils all four, for nobody knows what it counted.
    """
    sensitivity = avg_pool2d(_inverse(multiplier)[None], 2)[0]
    spoilt = max_pool2d((multiplier == 0).to(multiplier)[None], 2)[0] > 0
    return torch.where(spoilt, 0.0, _inverse(sensitivity))


def correct(
    frame: Float[Tensor, "h w"], gain: GainReference | None, defects: DefectMap | None
) -> Float[Tensor, "h w"]:
    """Apply the gain reference, then replace the defective pixels.

    Args:
        frame: Raw counts.
        gain: Fitted to the frame, on its device.
        defects: Of the frame's shape, on its device; `gain.dead` must be among them.
    """
    corrected = frame if gain is None else frame * gain.multiplier
    return corrected if defects is None else defects.repair(corrected)


@dataclass(frozen=True)
class GainCheck:
    """Whether raw frames carry the pattern that a gain reference is meant to remove.

    Attributes:
        verdict: What was found.
        correlation: Between the frames and the sensitivity as given, after local mean removal.
        expected: What the right reference would have on frames that are not corrected yet.
        rotation: Of the orientation that correlates most.
        flip: Of the same.
        best: Its correlation; below 0 if the reference is applied in the wrong sense.
        sigmas: The same over its standard error, 1/√pixels.
    """

    verdict: Verdict
    correlation: float
    expected: float
    rotation: int
    flip: int
    best: float
    sigmas: float

    @property
    def text(self) -> str:
        """One line for the user."""
        seen = (
            f"correlation {self.correlation:.3f} as given, {self.best:.3f} for --gain-rotation "
            f"{self.rotation} --gain-flip {self.flip} ({self.sigmas:.0f} σ), "
            f"{self.expected:.3f} expected"
        )
        return f"gain reference: {self.verdict} ({seen})"


def check_gain(mean_raw_frame: Float[Tensor, "h w"], gain: GainReference) -> GainCheck:
    """Compare all orientations of a gain reference with the mean of raw frames.

    Raw counts are proportional to dose times sensitivity. Dose varies slowly, so what is left
    after division by the local mean is the relative sensitivity plus noise.

    Args:
        mean_raw_frame: Mean of as many uncorrected frames as there are, of one or more movies.
        gain: Fitted to them.
    """
    frame, sensitivity = _middle(mean_raw_frame), _middle(gain.sensitivity)
    alive = sensitivity > 0
    sensitivity = torch.where(alive, sensitivity, sensitivity[alive].mean())
    data, spread = _standardised(_deviation(frame))
    pattern, modulation = _standardised(_deviation(sensitivity))
    if spread == 0 or modulation == 0 or float(frame.mean()) <= 0:
        return GainCheck("cannot tell", 0.0, 0.0, gain.rotation, gain.flip, 0.0, 0.0)
    original = _unorient(pattern, gain.rotation, gain.flip)
    found = {(gain.rotation, gain.flip): _correlation(data, pattern)}
    for rotation, flip in _ORIENTATIONS:
        turned = orient(original, rotation, flip)
        if turned.shape == data.shape:
            found.setdefault((rotation, flip), _correlation(data, turned))
    return _judge(found, gain, min(1.0, modulation / spread), data.numel())


def _judge(
    found: dict[tuple[int, int], float], gain: GainReference, expected: float, pixels: int
) -> GainCheck:
    error = 1 / math.sqrt(pixels)
    given = (gain.rotation, gain.flip)
    # A symmetric pattern fits in several orientations: the given one then stands.
    best = max(found, key=lambda at: abs(found[at]) + (_SIGMAS * error if at == given else 0))
    top = found[best]
    verdict: Verdict = "right" if top > 0 else "wrong sense"
    if abs(top) <= max(_SIGMAS * error, _TRACE * expected):
        verdict = "already corrected" if expected > 2 * _SIGMAS * error else "cannot tell"
    elif best != given:
        verdict = "other orientation"
    return GainCheck(verdict, found[given], expected, *best, top, abs(top) / error)


def require_right_gain(check: GainCheck, gain: GainReference) -> None:
    """Stop on a reference that is beyond doubt applied wrongly.

    Raises:
        InputFileError: Another orientation or the opposite sense fits; or the frames carry no trace
            of it, so that it would print its own pattern on them.
    """
    opposite = f"--gain-mode {'multiply' if gain.divides else 'divide'}"
    turn = f"--gain-rotation {check.rotation} --gain-flip {check.flip}"
    if check.verdict == "wrong sense":
        raise InputFileError(
            gain.path, f"is applied in the wrong sense ({check.text})", f"use {opposite}"
        )
    if check.verdict == "other orientation":
        way_out = turn if check.best > 0 else f"{turn} {opposite}"
        raise InputFileError(
            gain.path, f"is turned wrongly ({check.text})", f"other orientation fits: {way_out}"
        )
    if check.verdict == "already corrected":
        raise InputFileError(
            gain.path,
            f"leaves no trace in the frames ({check.text})",
            "leave --gain out if they are corrected already, or give that of their session",
        )


def _middle(image: Float[Tensor, "h w"]) -> Float[Tensor, "h2 w2"]:
    """Cut the same from opposite sides, so that turning and mirroring stay exact."""
    top, left = (max(0, (side - _LARGEST_SIDE + 1) // 2) for side in image.shape)
    return image[top : image.shape[0] - top, left : image.shape[1] - left]


def _deviation(image: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Return the relative deviation from the local mean, with outliers drawn in."""
    margin = _BOX // 2
    rows = avg_pool2d(image[None], (_BOX, 1), 1, (margin, 0), count_include_pad=False)
    local = avg_pool2d(rows, (1, _BOX), 1, (0, margin), count_include_pad=False)[0]
    deviation = torch.where(local > 0, image / local - 1, 0.0)
    for _ in range(6):  # one hot pixel can hold more power than all others: draw it in by steps
        bound = 8 * float(deviation.std())
        deviation = deviation.clamp(-bound, bound)
    return deviation


def _standardised(image: Float[Tensor, "h w"]) -> tuple[Float[Tensor, "h w"], float]:
    spread = float(image.std(correction=0))
    return (image - image.mean()) / (spread or 1.0), spread


def _correlation(x: Float[Tensor, "h w"], y: Float[Tensor, "h w"]) -> float:
    return float((x * y).mean())
