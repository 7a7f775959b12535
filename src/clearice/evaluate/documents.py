"""The files that evaluations leave behind, read back: of a known kind and whole, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from clearice.errors import InputFileError
from clearice.evaluate.thresholds import Light

RECORDS_NAME: Final = "denoise.json"


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

    from_angstrom: float | None
    to_angstrom: float
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
    micrographs: tuple[str, ...]
    pixel_size_angstrom: float
    highpass_angstrom: float
    judged_to_angstrom: float | None
    entries: tuple[EntryLine, ...]
    bands: tuple[BandRow, ...]
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
    pixel_size_angstrom: float | None = None


class TrustDocument(Document):
    """`clearice trust`."""

    method: str
    caveat: str | None = None
    window_fwhm_angstrom: float
    lowpass_angstrom: float
    highpass_angstrom: float
    micrographs: tuple[TrustRow, ...]
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

    micrographs: tuple[str, ...]
    pixel_size_angstrom: float
    settings: PickingRules
    particles: int
    best_lowpass: str
    methods: dict[str, PickingRow]
    denoised_minus: dict[str, DifferenceRow]


KINDS: Final[dict[str, type[Document]]] = {
    "card": CardDocument,
    "trust": TrustDocument,
    "hallucination": HallucinationDocument,
    "picking": PickingDocument,
}
COMMANDS: Final = {
    "card": "clearice evaluate card",
    "trust": "clearice trust",
    "hallucination": "clearice hallucinate",
    "picking": "clearice evaluate picking",
}
# Files of the first versions do not say their kind.
_SIGNS: Final = {
    "trust": {"window_fwhm_angstrom", "method"},
    "hallucination": {"passed", "from_nothing"},
    "picking": {"methods", "denoised_minus"},
}
AnyDocument = TypeVar("AnyDocument", bound=Document)


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        remedy: What to give in its place, for the message.

    Raises:
        InputFileError: It is missing, unreadable or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputFileError(path, "does not exist", remedy) from None
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror})", remedy) from None
    except (ValueError, RecursionError):
        raise InputFileError(path, "is not valid JSON", remedy) from None


def kind_of(values: Any) -> str | None:
    """Return what kind of file values are from: what they say, or else what they hold."""
    if not isinstance(values, dict):
        return None
    kind = values.get("kind")
    if isinstance(kind, str):
        return kind
    return next((name for name, signs in _SIGNS.items() if signs <= values.keys()), None)


def parse(path: Path, kind: str, values: Any) -> Document:
    """Check the values of a file.

    Args:
        path: The file, for messages.
        kind: A key of `KINDS`.
        values: What the file holds.

    Raises:
        InputFileError: Something is missing or of another type.
    """
    try:
        return KINDS[kind].model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputFileError(
            path,
            f"is no whole {kind} file of this version ({where}: {first['msg']})",
            f"make it again with '{COMMANDS[kind]}'",
        ) from None


def read_document(path: Path, wanted: type[AnyDocument]) -> AnyDocument:
    """Read a file that must be of one kind.

    Raises:
        InputFileError: It is missing, damaged or of another kind.
    """
    kind = next(name for name, document in KINDS.items() if document is wanted)
    remedy = f"give what '{COMMANDS[kind]}' wrote"
    values = read_json(path, remedy)
    if kind_of(values) != kind:
        raise InputFileError(path, f"is no {kind} file", remedy)
    document = parse(path, kind, values)
    assert isinstance(document, wanted)
    return document


def made_by(folder: Path) -> dict[str, str | None]:
    """Return `model` and `model_sha256` of results, as the records beside them say.

    Args:
        folder: That `clearice denoise` wrote, or one of the parts (`denoised_even` ...) in it.

    Raises:
        InputFileError: The records are damaged.
    """
    path = folder / RECORDS_NAME
    if not path.is_file() and folder.name.startswith("denoised"):
        path = folder.parent / RECORDS_NAME
    if not path.is_file():
        return {"model": None, "model_sha256": None}
    remedy = "delete it, or denoise again"
    values = read_json(path, remedy)
    settings = values.get("settings") if isinstance(values, dict) else None
    if not isinstance(settings, dict):
        raise InputFileError(path, "is damaged", remedy)
    return {name: settings.get(name) for name in ("model", "model_sha256")}
