"""`dataset.json`: what a data-set folder holds."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from clearice.config import Config

MANIFEST_NAME = "dataset.json"


class Split(StrEnum):
    """What a micrograph is for; whole micrographs, never patches, are assigned."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class MicrographEntry(Config):
    """One micrograph: a stack of K normalised group means; K = 1 where there are no halves."""

    name: str = Field(description="unique name")
    file: str = Field(description="stack, relative to the data set")
    truth: str | None = Field(None, description="noise-free image, relative to the data set")
    shape: tuple[int, int, int] = Field(description="groups, rows, columns")
    split: Split
    mean: float = Field(description="of the full-dose image, original units")
    std: float = Field(gt=0, description="of the full-dose image, original units")
    weights: tuple[float, ...] = Field(description="share of the dose in each group, sums to 1")
    sources: tuple[str, ...] = Field(description="file names it was made from")
    sha256: str = Field(description="checksum of the stack")
    truth_sha256: str | None = Field(None, description="checksum of the noise-free image")
    pixel_size_angstrom: float | None = Field(None, description="Å/px")
    shifts_px: tuple[tuple[float, float], ...] | None = Field(
        None, description="(rows, columns) by which the content of each frame had moved, px"
    )
    motion: str | None = Field(None, description="what was found of it, in words")
    dose_e_per_A2: float | None = Field(None, description="total dose, e/Å², if known")
    hot_pixels: int | None = Field(
        0, description="pixels replaced for standing out; none: too many to be defects"
    )
    checks: dict[str, Any] | None = Field(None, description="what was measured on the halves")


class Manifest(Config):
    """The whole data set."""

    format: Literal["clearice-dataset"] = "clearice-dataset"
    version: Literal[1] = 1
    clearice_version: str
    pixel_size_angstrom: float = Field(gt=0, description="Å/px")
    dose_e_per_A2: float | None = Field(None, description="total dose, e/Å², if known")
    roles: Literal["exchangeable", "input-target", "single"] = Field(
        description="`exchangeable`: any group may be input or target; `input-target`: group 0 has "
        "the lower dose and is always the input, group 1 always the target; `single`: there is one "
        "image of each micrograph, and no halves"
    )
    dose_ratio: float = Field(1.0, gt=0, description="dose of the target over that of the input")
    target_gain: float = Field(
        1.0, gt=0, description="signal scale of the normalised input over that of the target"
    )
    micrographs: tuple[MicrographEntry, ...]
    prepared: dict[str, Any] = Field(
        default_factory=dict, description="the settings that made it, for the record"
    )
    checks: tuple[dict[str, Any], ...] = Field((), description="integrity checks, over all")
    fixed_pattern: dict[str, Any] | None = Field(
        None, description="what --fix-pattern found and removed"
    )
