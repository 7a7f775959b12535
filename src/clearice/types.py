"""Values that cross rooms: plain frozen records, no behaviour beyond what their fields imply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jaxtyping import Bool, Float
from torch import Tensor


class FrameSource(Protocol):
    """Frames of one movie, read from disk only when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Float[Tensor, "h w"]: ...


@dataclass(frozen=True)
class Movie:
    """Frames of the same field of view.

    Attributes:
        path: Where it came from.
        frames: Lazy frames, each of `height` × `width`, in counts.
        height: Rows, px.
        width: Columns, px.
        pixel_size_angstrom: Å/px.
        dose_per_frame_e_per_A2: e/Å² in each frame, where the file or its metadata say so.
        electron_events: Frames are rendered from electron events (EER), whose gain references
            divide, but for `.gain` files.
    """

    path: Path
    frames: FrameSource
    height: int
    width: int
    pixel_size_angstrom: float
    dose_per_frame_e_per_A2: float | None = None
    electron_events: bool = False


@dataclass(frozen=True)
class EventFractions:
    """How the electron events of an EER movie become frames.

    Attributes:
        frames_per_fraction: Raw frames summed into one frame; what is left over at the end is
            dropped, as RELION does. None: about 40 frames a movie.
        upsampling: 1 renders the physical pixel (4096²), 2 half of it (8192²).
    """

    frames_per_fraction: int | None = None
    upsampling: int = 1


@dataclass(frozen=True)
class InputItem:
    """One line of a list of inputs (STAR, .cs): a movie or micrograph, maybe with its halves.

    Attributes:
        path: The movie or micrograph.
        even: Sum of its even frames, if the list names one.
        odd: Sum of its odd frames.
        pixel_size_angstrom: Å/px, if the list says so; overrides the file.
        fallback_pixel_size_angstrom: Å/px to take where the file says nothing.
        dose_per_frame_e_per_A2: e/Å², if the list says so.
        gain: Gain reference, if the list names one.
    """

    path: Path
    even: Path | None = None
    odd: Path | None = None
    pixel_size_angstrom: float | None = None
    fallback_pixel_size_angstrom: float | None = None
    dose_per_frame_e_per_A2: float | None = None
    gain: Path | None = None


@dataclass(frozen=True)
class Micrograph:
    """One two-dimensional image.

    Attributes:
        path: Where it came from.
        pixels: Intensities, float32.
        pixel_size_angstrom: Å/px.
        pixel_size_assumed: The header has none, and 1 Å/px was taken.
    """

    path: Path
    pixels: Float[Tensor, "h w"]
    pixel_size_angstrom: float
    pixel_size_assumed: bool = False


@dataclass(frozen=True)
class HalfSet:
    """K images of one field of view with the same signal and independent noise.

    K is 1 where there are no halves.

    Attributes:
        name: Unique name of the micrograph, without folder or suffix.
        groups: Mean of each group of frames, so that all groups have the same signal scale.
        weights: Share of the total dose in each group; sums to 1.
        pixel_size_angstrom: Å/px.
        sources: The files it was made from.
    """

    name: str
    groups: Float[Tensor, "k h w"]
    weights: tuple[float, ...]
    pixel_size_angstrom: float
    sources: tuple[Path, ...]


@dataclass(frozen=True)
class PatchBatch:
    """Training pairs.

    Attributes:
        input: Normalised patches.
        target: The patches to predict from them.
        weight: Of each pair's error, 1 on average over the data; where a mask leaves few pixels
            to be counted, so much larger.
        target_halves: Two targets with independent noise, each the mean of half of the target's
            groups, where a loss asks for them.
        mask: Pixels whose error counts; None: all do.
        dose: log₂ of the dose of each input over that of what will be denoised, if it is known.
    """

    input: Float[Tensor, "n 1 h w"]
    target: Float[Tensor, "n 1 h w"]
    weight: Float[Tensor, "n"]
    target_halves: Float[Tensor, "n 2 h w"] | None = None
    mask: Bool[Tensor, "n 1 h w"] | None = None
    dose: Float[Tensor, "n"] | None = None


@dataclass(frozen=True)
class LossOutput:
    """A weighted loss and its parts, each a scalar tensor.

    Attributes:
        total: Sum of the weighted parts, with its graph.
        parts: Each loss without its weight.
        weighted: Each loss as it counts in the total.
    """

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]
    weighted: dict[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class AtomCloud:
    """Heavy atoms of one specimen, centred on the origin.

    Attributes:
        positions_angstrom: Coordinates, Å.
        name: What it is.
    """

    positions_angstrom: Float[Tensor, "atoms 3"]
    name: str


@dataclass(frozen=True)
class ParticlePicks:
    """Particle centres on one micrograph.

    Attributes:
        micrograph: Its name.
        xy: Rows of (x, y) in px from the first pixel, x along columns, y along rows.
        shape: Rows and columns of the micrograph that they are counted in, where it is known.
    """

    micrograph: str
    xy: Sequence[tuple[float, float]]
    shape: tuple[int, int] | None = None
