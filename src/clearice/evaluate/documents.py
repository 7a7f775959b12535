"""What the files hold that evaluations leave behind."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clearice.evaluate.thresholds import Light

Positive = Annotated[float, Field(gt=0)]
# Of which there must be one at least.
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Part(BaseModel):
    """A piece of a file; what this version does not know is kept."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class Document(Part):
    """A file, and the model that its numbers are about.

    Attributes:
        model: File of the model; None if nothing says.
        model_sha256: Its checksum; None if nothing says.
    """

    clearice_version: str
    model: str | None = None
    model_sha256: str | None = None


class Number(Part):
    """A value, its 95 % interval (an end is None if nothing bounds it) and standard error."""

    value: float | None
    interval: tuple[float | None, float | None] | None
    standard_error: float | None = None


class EntryLine(Number):
    """A line of the card, see `entries.Entry`."""

    name: str
    unit: str
    light: Light
    line: str


class BandRow(Part):
    """What the card says of one band."""

    from_angstrom: Positive | None
    to_angstrom: Positive
    independent_pixels: float
    gain_above_1: bool
    correlation_with_truth: Number
    correlation_with_truth_raw: Number
    gain: Number
    signal_transfer: Number
    residual_noise: Number
    bias: Number
    naive_frc_denoised_halves: Number


class ShareRow(Part):
    """One sign of a fixed pattern."""

    value: float | None
    error: float | None
    limit: float
    conclusive: bool
    flagged: bool


class PatternRows(Part):
    """All signs of a fixed pattern."""

    flagged: bool
    between_micrographs: ShareRow
    near_nyquist: ShareRow
    row_means: ShareRow
    column_means: ShareRow


class LimitsRow(Part):
    """Limits of one light, see `thresholds.Limits`."""

    green: float
    red: float
    high_is_good: bool
    innocent: bool = False


class Word(Part):
    """What the test for invention says, in a card."""

    passed: bool
    failures: tuple[str, ...]
    measured_on: str


class CardDocument(Document):
    """`clearice evaluate card`."""

    kind: Literal["card"]
    micrographs: Names
    pixel_size_angstrom: Positive
    highpass_angstrom: Positive
    judged_to_angstrom: float | None
    entries: tuple[EntryLine, ...]
    bands: Annotated[tuple[BandRow, ...], Field(min_length=1)]
    pattern: PatternRows
    limits: dict[str, LimitsRow]
    hallucination: Word | None = None


class TrustRow(Part):
    """Summary of one map; size in px and Å/px are missing in older files."""

    name: str
    mean: float
    share_above_half: float
    share_below_tenth: float
    shape: tuple[int, int] | None = None
    pixel_size_angstrom: Positive | None = None


class TrustDocument(Document):
    """`clearice trust`."""

    method: str
    caveat: str | None = None
    window_fwhm_angstrom: float
    lowpass_angstrom: float
    highpass_angstrom: float
    micrographs: Annotated[tuple[TrustRow, ...], Field(min_length=1)]
    failures: tuple[str, ...]


class ProbeRow(Part):
    """What a model made of one kind of input that holds nothing."""

    power: float
    filter_power: float
    blobs: float
    correlation: float | None
    highest: float
    highest_of_gaussian: float


class HallucinationDocument(Document):
    """`clearice hallucinate`."""

    passed: bool
    failures: tuple[str, ...]
    measured_on: str
    micrographs: int
    unsupported: float
    unsupported_of_a_strange_specimen: float
    moves_along: float
    from_nothing: dict[str, ProbeRow]

    def word(self) -> Word:
        """Return what a card repeats."""
        return Word(passed=self.passed, failures=self.failures, measured_on=self.measured_on)


class PickingRules(Part):
    """How particles were picked and judged, see `picking.PickingSettings`."""

    diameter_angstrom: float
    bright: bool | None
    tolerance: float
    precision: float


class CurveRow(Part):
    """Precision against recall."""

    recall: tuple[float, ...]
    precision: tuple[float, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.recall) != len(self.precision):
            raise ValueError("recall and precision differ in length")
        return self


class PickingRow(Part):
    """What one version of the micrographs gave."""

    average_precision: float
    average_precision_95: tuple[float, float] | None
    recall_at_precision: float
    best_f1: float
    picks: int
    curve: CurveRow


class DifferenceRow(Part):
    """Average precision, denoised less another version."""

    difference: float
    interval_95: tuple[float, float] | None


class PickingDocument(Document):
    """`clearice evaluate picking`."""

    micrographs: Names
    pixel_size_angstrom: Positive
    settings: PickingRules
    particles: int
    best_lowpass: str
    methods: dict[str, PickingRow]
    denoised_minus: dict[str, DifferenceRow]

    @model_validator(mode="after")
    def _has_what_is_compared(self) -> Self:
        missing = {"raw", "denoised", self.best_lowpass} - self.methods.keys()
        if missing:
            raise ValueError(f"methods lacks {', '.join(sorted(missing))}")
        if "best_lowpass" not in self.denoised_minus:
            raise ValueError("denoised_minus lacks best_lowpass")
        return self


Values = dict[str, float | None]


class TruthScores(Part):
    """Scores against the truth, of each method."""

    snr_db: Values
    psnr_db: Values
    ssim: Values


class ReferenceScores(Part):
    """Scores against independent data, of each method."""

    band_correlation: Annotated[dict[str, Values], Field(min_length=1)]
    half_correlation: float | None = None
    correlation_with_truth: Values | None = None
    residual_noise: float | None = None
    bias: float | None = None


class ScoresDocument(Document):
    """`clearice evaluate`."""

    micrographs: Names
    pixel_size_angstrom: Positive
    highpass_angstrom: Positive
    gaussian_sigma_px: float | None
    wiener: str
    files: Annotated[tuple[dict[str, str | None], ...], Field(min_length=1)]
    curves: dict[str, tuple[float | None, ...]]
    truth: TruthScores | None = None
    reference: ReferenceScores | None = None

    @model_validator(mode="after")
    def _curves_fit(self) -> Self:
        lengths = {len(curve) for curve in self.curves.values()}
        if len(lengths) != 1 or not self.curves.get("frequency_per_angstrom"):
            raise ValueError("curves lacks frequency_per_angstrom, or they differ in length")
        return self
