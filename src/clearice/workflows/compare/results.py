"""From the scores of all cells to one ranked table: mean and spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from clearice.errors import ConfigError, UnknownNameError
from clearice.evaluate.score import BANDS_ANGSTROM
from clearice.workflows.compare.variants import Cell, Variant, settings_of

BASELINES = ("raw", "gaussian_best", "wiener")
Numbers = dict[str, float | None]


@dataclass(frozen=True)
class Column:
    """One number of each variant.

    Attributes:
        key: Its name in `results.json`.
        label: Its heading.
        digits: Behind the point.
        better: Which values are better: high, low, near one.
    """

    key: str
    label: str
    digits: int
    better: Literal["high", "low", "one"] = "high"

    def merit(self, value: float) -> float:
        """Return a number that is higher for a better value."""
        if self.better == "one":
            return -abs(value - 1)
        return -value if self.better == "low" else value


def _columns() -> dict[str, Column]:
    bands = [f"{low}-{high}" for low, high in BANDS_ANGSTROM]
    columns = [
        Column("snr_db", "SNR, dB", 3),
        Column("rho", "ρ", 4),
        Column("psnr_db", "PSNR, dB", 2),
        Column("ssim", "SSIM", 4),
        *(Column(f"truth_frc_{b}", f"FRC with truth, {b.replace('-', '–')} Å", 4) for b in bands),
        *(Column(f"frc_{b}", f"cross-FRC, {b.replace('-', '–')} Å", 4) for b in bands),
        *(
            Column(f"transfer_{b}", f"signal transfer, {b.replace('-', '–')} Å", 3, "one")
            for b in bands
        ),
        Column("residual_noise", "residual noise", 4, "low"),
        Column("bias", "bias", 4, "low"),
        Column("seconds", "training, s", 1, "low"),
    ]
    return {column.key: column for column in columns}


COLUMNS = _columns()
# The yardsticks to rank by, best first.
_RANKING = ("snr_db", "rho", "frc_300-15")


def check_column(key: str) -> Column:
    """Return a column.

    Raises:
        UnknownNameError: There is none of this name.
    """
    if key not in COLUMNS:
        raise UnknownNameError("column", key, COLUMNS)
    return COLUMNS[key]


def numbers_of(scores: dict[str, Any], method: str) -> Numbers:
    """Return the numbers of one method (`denoised`, or a baseline) from all sets of scores."""
    numbers: Numbers = {}
    for values in scores.values():
        if "truth" in values:
            numbers |= _truth_numbers(values["truth"], method)
        if "reference" in values:
            numbers = _reference_numbers(values["reference"], method) | numbers
    if "pairs" in scores:  # ρ needs halves of equal dose, and the data set says they are not
        numbers.pop("rho", None)
    return {key: numbers[key] for key in COLUMNS if key in numbers}


def _truth_numbers(truth: dict[str, Any], method: str) -> Numbers:
    numbers = {key: truth[key].get(method) for key in ("snr_db", "psnr_db", "ssim")}
    numbers |= _by_band("truth_frc", truth["band_correlation"], method)
    if method == "denoised":
        numbers |= _prefixed("transfer", truth.get("band_signal_transfer", {}))
    return numbers


def _reference_numbers(reference: dict[str, Any], method: str) -> Numbers:
    numbers: Numbers = {"rho": (reference.get("correlation_with_truth") or {}).get(method)}
    numbers |= _by_band("frc", reference["band_correlation"], method)
    if method == "denoised":
        numbers |= _prefixed("transfer", reference.get("band_signal_transfer", {}))
        numbers |= {key: reference.get(key) for key in ("residual_noise", "bias")}
    return numbers


def _by_band(prefix: str, bands: dict[str, dict[str, float]], method: str) -> Numbers:
    return _prefixed(prefix, {band: row.get(method) for band, row in bands.items()})


def _prefixed(prefix: str, values: dict[str, float | None]) -> Numbers:
    return {f"{prefix}_{band}": value for band, value in values.items()}


def gather(
    cells: Sequence[tuple[Cell, dict[str, Any]]], about: dict[str, Any], rank_by: str | None
) -> dict[str, Any]:
    """Put all cells together.

    Args:
        cells: Each with what its `scores.json` holds.
        about: What holds for all.
        rank_by: A column, or None for the best yardstick there is.

    Raises:
        ConfigError: No variant has a number in the column to rank by.
    """
    variants = {cell.variant.name: cell.variant for cell, _ in cells}
    rows = [
        {"order": order}
        | _row(variant, [(c, v) for c, v in cells if c.variant.name == variant.name])
        for order, variant in enumerate(variants.values())
    ]
    for row in rows:
        row["against_first"] = _paired(row, rows[0])
    column = _ranking_column(rows, rank_by)
    _rank(rows, column)
    first = cells[0][1]
    baselines = {}
    for method in BASELINES:
        baselines[method] = _first_numbers([values["scores"] for _, values in cells], method)
    used = [key for key in COLUMNS if any(row["mean"].get(key) is not None for row in rows)]
    return {
        "format": "clearice-comparison",
        "version": 1,
        "context": first["context"],
        "about": about,
        "ranked_by": column.key,
        "columns": [asdict(COLUMNS[key]) for key in used],
        "baselines": {name: numbers for name, numbers in baselines.items() if numbers},
        "curves": _baseline_curves([values["scores"] for _, values in cells]),
        "variants": rows,
    }


def _first_numbers(all_scores: Iterable[dict[str, Any]], method: str) -> Numbers:
    """Return a baseline's numbers, which are the same in all cells that have them."""
    numbers: Numbers = {}
    for scores in all_scores:
        found = numbers_of(scores, method)
        numbers |= {k: v for k, v in found.items() if numbers.get(k) is None and v is not None}
    return numbers


def _row(variant: Variant, cells: Sequence[tuple[Cell, dict[str, Any]]]) -> dict[str, Any]:
    seeds = []
    for cell, values in cells:
        training = values["training"]
        numbers = numbers_of(values["scores"], "denoised") | {"seconds": training["seconds"]}
        seeds.append(
            {"seed": cell.seed, "cell": cell.name, "metrics": numbers, "training": training}
        )
    keys = [key for key in COLUMNS if any(seed["metrics"].get(key) is not None for seed in seeds)]
    series = {
        key: [s["metrics"][key] for s in seeds if s["metrics"][key] is not None] for key in keys
    }
    return {
        "name": variant.name,
        "label": variant.label,
        "settings": settings_of(variant.config),
        "n": len(seeds),
        "mean": {key: statistics.fmean(values) for key, values in series.items()},
        "spread": {key: _spread(values) for key, values in series.items()},
        "curves": _mean_curves([_curves(values["scores"]) for _, values in cells]),
        "crops": next((cell.name for cell, values in cells if values["evaluation"]["crops"]), None),
        "seeds": seeds,
    }


def _paired(row: dict[str, Any], first: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return mean and spread of the differences to the first variant of the grid, seed by seed.

    A seed draws the same patches for all variants, so much of its scatter is common to them.
    """
    others = {seed["seed"]: seed["metrics"] for seed in first["seeds"]}
    paired: dict[str, dict[str, float | None]] = {}
    for key in row["mean"]:
        differences = [
            seed["metrics"][key] - others[seed["seed"]][key]
            for seed in row["seeds"]
            if seed["metrics"].get(key) is not None
            and others.get(seed["seed"], {}).get(key) is not None
        ]
        if differences:
            paired[key] = {"mean": statistics.fmean(differences), "spread": _spread(differences)}
    return paired


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _curves(scores: dict[str, Any]) -> dict[str, list[float | None]]:
    """Merge the curves of all sets of scores; those of the full dose come first."""
    merged: dict[str, list[float | None]] = {}
    for values in sorted(scores.values(), key=lambda v: "truth" in v):
        merged |= values["curves"]
    return merged


def _mean_curves(
    curves: Sequence[dict[str, list[float | None]]],
) -> dict[str, list[float | None]]:
    keys = [key for key in curves[0] if all(key in one for one in curves)]
    return {
        key: [_mean(points) for points in zip(*(c[key] for c in curves), strict=True)]
        for key in keys
    }


def _mean(values: Iterable[float | None]) -> float | None:
    given = list(values)
    known = [value for value in given if value is not None]
    return statistics.fmean(known) if len(known) == len(given) else None


_BASELINE_CURVES = (
    "frequency_per_angstrom",
    "frc_raw",
    "correlation_with_truth_raw",
    "power_raw",
    "power_truth",
)


def _baseline_curves(all_scores: Iterable[dict[str, Any]]) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}
    for scores in all_scores:
        found = _curves(scores) | found
    return {key: found[key] for key in _BASELINE_CURVES if key in found}


def _ranking_column(rows: Sequence[dict[str, Any]], rank_by: str | None) -> Column:
    keys = _RANKING if rank_by is None else (check_column(rank_by).key,)
    for key in keys:
        if any(row["mean"].get(key) is not None for row in rows):
            return COLUMNS[key]
    known = sorted({key for row in rows for key in row["mean"]})
    raise ConfigError(
        f"no variant has '{keys[0]}' to be ranked by; --rank-by one of: {', '.join(known)}"
    )


def _rank(rows: list[dict[str, Any]], column: Column) -> None:
    """Sort best first, and mark what the spread over seeds cannot tell from the best.

    Clean targets are no user's choice: beside noisy ones they are a bound, and do not compete.
    """

    def merit(row: dict[str, Any]) -> float:
        value = row["mean"].get(column.key)
        return -math.inf if value is None else column.merit(value)

    noisy = any(row["settings"]["target"] == "noisy" for row in rows)
    for row in rows:
        row["bound"] = noisy and row["settings"]["target"] == "clean"
    rows.sort(key=lambda row: (row["bound"], -merit(row)))
    best = rows[0]
    for rank, row in enumerate(rows, 1):
        ranked = not row["bound"] and merit(row) > -math.inf
        row["rank"] = rank if ranked else None
        row["like_best"] = _alike(row, best, column.key) if ranked and row is not best else None


def _alike(row: dict[str, Any], best: dict[str, Any], key: str) -> bool | None:
    """Tell whether two means differ by less than their difference scatters; None: unknown."""
    spreads = [one["spread"].get(key) for one in (row, best)]
    if any(spread is None for spread in spreads):
        return None
    difference = abs(row["mean"][key] - best["mean"][key])
    return bool(difference <= math.hypot(*spreads))
