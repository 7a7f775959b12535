"""The report card: what held-out halves say of a model without any truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import __version__, io
from clearice.errors import ConfigError, InputFileError, PairingError
from clearice.evaluate import estimates
from clearice.evaluate.artefacts import Artefacts
from clearice.evaluate.bootstrap import Estimate, Resampled
from clearice.evaluate.cases import Case, load, match_cases
from clearice.evaluate.documents import HallucinationDocument, Word
from clearice.evaluate.entries import (
    Entry,
    artefact_entries,
    invention_entry,
    naive_entry,
    pattern_entry,
    sum_entries,
    whiteness_entry,
)
from clearice.evaluate.half_sums import HalfSums, measure
from clearice.evaluate.pattern import Pattern, Shared, find_pattern
from clearice.evaluate.reading import made_by, read_document
from clearice.evaluate.rows import Rows
from clearice.evaluate.slots import (
    FAST,
    HIGHPASS_ANGSTROM,
    N_BANDS,
    N_SLOTS,
    TOTAL,
    band_edges,
)
from clearice.evaluate.thresholds import LIMITS

# Beyond this ratio of the noise the halves hardly are equal, and stand for no one dose.
_UNEQUAL_NOISE = 1.5
# The signal is summed over all frequencies if it is that many standard errors above 0, or else up
# to the last band in which it is: one of 24 is, by chance, once in 200 times.
_TOTAL_SIGMAS, _BAND_SIGMAS = 5.0, 3.5


@dataclass(frozen=True)
class Measurements:
    """What all micrographs gave, from which every number of the card follows.

    Attributes:
        names: Of the micrographs.
        pixel_size_angstrom: Å/px.
        judged_to_angstrom: Finest detail in the sums over all frequencies; 0 if they have no end.
        sums: Of each micrograph.
        artefacts: Of each micrograph.
        count: Independent pixels in each slot, of all micrographs.
        pattern: What they share.
        failures: One message for each micrograph that could not be used.
    """

    names: tuple[str, ...]
    pixel_size_angstrom: float
    judged_to_angstrom: float
    sums: HalfSums
    artefacts: Artefacts
    count: Float[Tensor, "slots"]
    pattern: Pattern
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """The report card.

    Attributes:
        entries: Its lines.
        values: All of it, ready to be written as JSON.
        failures: One message for each micrograph that could not be used.
    """

    entries: tuple[Entry, ...]
    values: dict[str, Any]
    failures: tuple[str, ...] = ()


def card(
    results: Path,
    *,
    tile: int | None = None,
    seed: int = 0,
    hallucination: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Card:
    """Judge a model by the halves of micrographs that it was not trained on.

    Args:
        results: What `clearice denoise DATASET --halves` wrote.
        tile: Edge of the tiles that were denoised, px, to look for seams.
        seed: Of the resampling.
        hallucination: What `clearice hallucinate` wrote about the same model, to be repeated.
        progress: Called with (micrographs done, micrographs in all).

    Raises:
        ConfigError: `tile` is not positive.
        InputFileError: There are no halves, no micrograph can be used, or `hallucination` is of
            another kind or about another model.
        PairingError: A half has no partner.
    """
    if tile is not None and tile < 1:
        raise ConfigError(f"--tile {tile}: must be at least 1 px")
    cases = find_halves(results)
    model = made_by(results)
    word = None if hallucination is None else _word_about(hallucination, results, model)
    measurements = measure_all(cases, tile=tile, progress=progress)
    return make_card(measurements, seed, model=model, word=word)


def _word_about(path: Path, results: Path, model: Mapping[str, str | None]) -> Word:
    """Read what the test for invention says of the model that made some results."""
    document = read_document(path, HallucinationDocument)
    checksums = (document.model_sha256, model["model_sha256"])
    if None not in checksums and checksums[0] != checksums[1]:
        raise InputFileError(
            path,
            f"is about another model ({document.model}) than {results} ({model['model']})",
            "run 'clearice hallucinate' on that one",
        )
    return document.word()


def find_halves(results: Path, method: str = "denoised", truth: Path | None = None) -> list[Case]:
    """Match the four images of each micrograph, each once.

    Args:
        results: What `clearice denoise DATASET --halves` wrote.
        method: Folders `METHOD_even` and `METHOD_odd` hold the images to judge.
        truth: Folder of noise-free images of the same names.

    Raises:
        InputFileError: A folder is missing or empty.
        PairingError: A half has no partner.
    """
    for name in (f"{method}_even", f"{method}_odd", "raw_even", "raw_odd"):
        if not (results / name).is_dir():
            raise InputFileError(
                results,
                f"holds no halves: {name}/ is missing",
                "write them with clearice denoise DATASET --halves",
            )
    cases = match_cases(
        results / f"{method}_even",
        results / "raw_even",
        reference=results / "raw_odd",
        truth=truth,
        denoised_other=results / f"{method}_odd",
    )
    extra = {path.name for path in (results / f"{method}_odd").glob("*.mrc")}
    extra -= {case.denoised.name for case in cases}
    if extra:
        names = ", ".join(sorted(extra)[:10])
        raise PairingError(f"{results}: no even half for {names}; denoise with --halves again")
    return cases


def measure_all(
    cases: Sequence[Case],
    *,
    tile: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measurements:
    """Measure micrographs one after the other; in memory are one of them and four spectra.

    Raises:
        InputFileError: None can be used; the error is that of the first.
    """
    shared = Shared()
    sums, artefacts = Rows[HalfSums](len(cases)), Rows[Artefacts](len(cases))
    names: list[str] = []
    errors: list[InputFileError] = []
    count = torch.zeros(N_SLOTS, dtype=torch.float64)
    pixel_size = 0.0
    for done, case in enumerate(cases):
        try:
            images = load(case)
            pixel_size = pixel_size or images.pixel_size_angstrom
            _refuse_other_pixels(case, images.pixel_size_angstrom, pixel_size)
            measured = measure(images, tile)
        except InputFileError as error:
            errors.append(error)
        else:
            shared.add(measured)
            sums.add(measured.sums)
            artefacts.add(measured.artefacts)
            names.append(case.denoised.stem)
            count += measured.slots.count
        progress(done + 1, len(cases))
    if not len(sums):
        raise errors[0]
    stacked = sums.stacked()
    last = _last_band(stacked.total(), count)
    return Measurements(
        tuple(names),
        pixel_size,
        0.0 if last is None else float(pixel_size / band_edges()[last + 1]),
        stacked if last is None else stacked.up_to(last),
        artefacts.stacked(),
        count,
        find_pattern(stacked.total(), count, shared, pixel_size),
        tuple(map(str, errors)),
    )


def _last_band(total: HalfSums, count: Float[Tensor, "slots"]) -> int | None:
    """Return the finest band with a signal, if the signal of all frequencies drowns in the noise.

    None if it does not, or no band has any.
    """
    sigmas = total.signal / total.raw * count.sqrt()
    if sigmas[TOTAL] >= _TOTAL_SIGMAS:
        return None
    seen = (sigmas[:N_BANDS] >= _BAND_SIGMAS).nonzero()
    return int(seen[-1]) if len(seen) else None


def _refuse_other_pixels(case: Case, pixel_size: float, first: float) -> None:
    if not io.same_pixel_size(pixel_size, first):
        raise InputFileError(
            case.denoised,
            f"has {pixel_size:g} Å/px where those before it have {first:g}",
            "judge it apart",
        )


def estimate_slots(
    sums: Resampled[HalfSums], *functions: Callable[[HalfSums], Tensor]
) -> list[list[Estimate]]:
    """Return each function of the sums in every slot, with intervals over micrographs."""
    correlations = estimates.CORRELATIONS
    return [sums.estimate(f, 1.0 if f in correlations else math.inf) for f in functions]


def make_card(
    measurements: Measurements,
    seed: int = 0,
    *,
    model: Mapping[str, str | None] | None = None,
    word: Word | None = None,
) -> Card:
    """Turn measurements into a card.

    Args:
        measurements: Of all micrographs.
        seed: Of the resampling.
        model: Which model they are about, if it is known.
        word: Of the test for invention.
    """
    names = list(estimates.BY_BAND)
    sums = Resampled.of(measurements.sums, len(measurements.names), seed)
    artefacts = Resampled.of(measurements.artefacts, len(measurements.names), seed)
    rows = estimate_slots(sums, *estimates.BY_BAND.values())
    by_slot = dict(zip(names, rows, strict=True))
    total = measurements.sums.total()
    ratio = float((total.raw + total.unbalance)[FAST] / (total.raw - total.unbalance)[FAST])
    unequal = max(ratio, 1 / ratio) > _UNEQUAL_NOISE
    scope = "a half of the dose (the halves' noise differs)" if unequal else "half of the dose"
    if measurements.judged_to_angstrom:
        scope += f", to {measurements.judged_to_angstrom:.3g} Å (finer signal drowns in the noise)"
    entries = [
        *([] if word is None else [invention_entry(word)]),
        *sum_entries(sums, by_slot, measurements.pattern, scope),
        whiteness_entry(by_slot, measurements.pixel_size_angstrom),
        *artefact_entries(artefacts),
        pattern_entry(measurements.pattern),
        naive_entry(by_slot),
    ]
    pattern = measurements.pattern
    values: dict[str, Any] = {
        "kind": "card",
        "clearice_version": __version__,
        **(model or {}),
        "micrographs": list(measurements.names),
        "pixel_size_angstrom": measurements.pixel_size_angstrom,
        "highpass_angstrom": HIGHPASS_ANGSTROM,
        "judged_to_angstrom": measurements.judged_to_angstrom or None,
        "dose": "half; see the entry full_dose",
        "noise_ratio_of_the_halves": ratio,
        "hallucination": None if word is None else word.model_dump(mode="json"),
        "entries": [entry.as_json() for entry in entries],
        "total": {name: by_slot[name][TOTAL].as_json() for name in names},
        "bands": _bands(measurements, by_slot),
        "pattern": {
            "flagged": pattern.flagged,
            "leakage": pattern.leakage,
            **{name: {**vars(s), "flagged": s.flagged} for name, s in pattern.shares.items()},
        },
        "limits": {name: vars(limits) for name, limits in LIMITS.items()},
    }
    return Card(tuple(entries), without_nan(values), measurements.failures)


def _bands(measurements: Measurements, by_slot: dict[str, list[Estimate]]) -> list[dict[str, Any]]:
    """Return all estimates by band, in Å; bands without a Fourier pixel are left out."""
    resolution = measurements.pixel_size_angstrom / band_edges()
    bands = []
    for band in range(N_BANDS):
        if measurements.count[band] == 0:
            continue
        row: dict[str, Any] = {
            "from_angstrom": float(resolution[band]),
            "to_angstrom": float(resolution[band + 1]),
            "independent_pixels": round(float(measurements.count[band])),
        }
        gain = by_slot["gain"][band]
        row |= {name: values[band].as_json() for name, values in by_slot.items()}
        row["gain_above_1"] = gain.low > LIMITS["gain"].green and not measurements.pattern.flagged
        bands.append(row)
    return bands


def without_nan(value: Any) -> Any:
    """Replace what JSON cannot hold by None."""
    match value:
        case dict():
            return {key: without_nan(item) for key, item in value.items()}
        case list():
            return [without_nan(item) for item in value]
        case float():
            return value if abs(value) < float("inf") else None
        case _:
            return value
