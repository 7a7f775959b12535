"""What denoising does to Thon rings: the CTF fitted to raw and to denoised micrographs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from clearice import __version__, io
from clearice.errors import ConfigError, InputFileError
from clearice.evaluate.cases import Case, load
from clearice.evaluate.score import Scores
from clearice.evaluate.thon import (
    BANDS_ANGSTROM,
    COARSEST_ANGSTROM,
    Optics,
    RingPower,
    ThonFit,
    fit_ctf,
    ring_power,
    visibility,
)

WARNING: Final = (
    "estimate the CTF from raw micrographs: a network shapes the power of each frequency, and may "
    "have learnt the rings of those that it was trained on"
)
# Fewer rings than this hold no Thon ring to be fitted.
_FEWEST_RINGS: Final = 24


def score_ctf(
    cases: Sequence[Case],
    optics: Optics,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Fit the CTF to raw and denoised micrographs, and measure their Thon rings by band.

    Rings of both are measured at the defocus of the raw micrograph.

    Args:
        cases: Denoised and raw micrographs.
        optics: Of the microscope.
        progress: Called with (micrographs done, micrographs in all).

    Raises:
        ConfigError: A micrograph has no raw version.
        InputFileError: No micrograph can be used; the error is that of the first.
    """
    if not cases or any(case.raw is None for case in cases):
        raise ConfigError("the CTF of denoised micrographs is compared with the raw; give --raw")
    rows: list[dict[str, Any]] = []
    failures: list[InputFileError] = []
    for done, case in enumerate(cases, 1):
        try:
            rows.append({"micrograph": io.stem(case.denoised)} | _measure(case, optics))
        except InputFileError as error:
            failures.append(error)
        progress(done, len(cases))
    if not rows:
        raise failures[0]
    values = {
        "kind": "ctf",
        "clearice_version": __version__,
        "warning": WARNING,
        "optics": asdict(optics),
        **_summary(rows),
        "micrographs": rows,
    }
    return Scores(values, tuple(map(str, failures)))


def _measure(case: Case, optics: Optics) -> dict[str, Any]:
    images = load(case)
    assert images.raw is not None
    pixel = images.pixel_size_angstrom
    if images.pixel_size_assumed:
        raise InputFileError(
            case.denoised,
            "has no pixel size in its header, without which there is no CTF",
            "write it there, or denoise again with --pixel-size",
        )
    raw, denoised = (ring_power(image, pixel) for image in (images.raw, images.denoised))
    if len(raw.frequency) < _FEWEST_RINGS:
        raise InputFileError(
            case.denoised,
            f"resolves too little between {COARSEST_ANGSTROM:g} Å and its finest detail "
            f"({2 * pixel:g} Å) for a CTF",
            "give larger micrographs, or of finer pixels",
        )
    fit = fit_ctf(raw, optics)
    told = {"raw": raw, "denoised": denoised}
    return {
        "pixel_size_angstrom": pixel,
        **{name: _fit_json(fit_ctf(rings, optics)) for name, rings in told.items()},
        "bands": _bands(told, optics, fit.defocus_angstrom) if fit.found else None,
    }


def _fit_json(fit: ThonFit) -> dict[str, Any]:
    return asdict(fit) | {"found": fit.found}


def _bands(rings: dict[str, RingPower], optics: Optics, defocus: float) -> dict[str, Any]:
    """Return the Thon rings of each version in each band, by its limits in Å."""
    found = {name: visibility(power, optics, defocus) for name, power in rings.items()}
    return {
        f"{coarse:g}-{fine:g}": {
            name: asdict(of[coarse, fine]) for name, of in found.items() if (coarse, fine) in of
        }
        for coarse, fine in BANDS_ANGSTROM
        if (coarse, fine) in found["raw"]
    }


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the micrographs in which the raw shows rings."""
    fitted = [row for row in rows if row["raw"]["found"]]
    both = [row for row in fitted if row["denoised"]["found"]]
    shifts = [
        abs(row["denoised"]["defocus_angstrom"] - row["raw"]["defocus_angstrom"]) for row in both
    ]
    bands = {band for row in fitted for band in row["bands"]}
    ordered = [f"{a:g}-{b:g}" for a, b in BANDS_ANGSTROM if f"{a:g}-{b:g}" in bands]
    return {
        "fitted_raw": len(fitted),
        "fitted_both": len(both),
        "median_defocus_difference_angstrom": statistics.median(shifts) if shifts else None,
        "largest_defocus_difference_angstrom": max(shifts, default=None),
        "bands": {
            band: {
                version: {
                    key: statistics.median(
                        row["bands"][band][version][key] for row in fitted if band in row["bands"]
                    )
                    for key in ("modulation", "correlation")
                }
                for version in ("raw", "denoised")
            }
            for band in ordered
        },
        "resolution_angstrom": {
            version: _median(row[version]["resolution_angstrom"] for row in fitted)
            for version in ("raw", "denoised")
        },
    }


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
