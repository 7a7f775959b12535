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

# A Wiener filter that is given the truth is another one than that which learns from the data.
BASELINES = ("raw", "gaussian_best", "wiener_oracle", "wiener")
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


def check_possible(key: str, about: dict[str, Any], *, halves: bool) -> None:
    """Refuse a column that this comparison cannot have, whatever its trainings give.

    Args:
        key: The column.
        about: Of the comparison: truth, reference, pixel size.
        halves: Some variant is scored by its halves.

    Raises:
        UnknownNameError: There is no such column.
        ConfigError: What it needs is not there.
    """
    check_column(key)
    finest = 2 * about["pixel_size_angstrom"]
    bands = [f"{low}-{high}" for low, high in BANDS_ANGSTROM if low > finest]
    known = {"seconds"}
    if about["truth"] is not None:
        known |= {"snr_db", "psnr_db", "ssim", *(f"truth_frc_{band}" for band in bands)}
    if halves:
        known |= {"rho", "residual_noise", "bias"}
    if halves or about["reference"] is not None:
        known |= {f"frc_{band}" for band in bands}
    if halves or about["reference"] is not None or about["truth"] is not None:
        known |= {f"transfer_{band}" for band in bands}
    if key not in known:
        names = ", ".join(name for name in COLUMNS if name in known)
        raise ConfigError(f"no variant can have '{key}' to be ranked by; --rank-by one of: {names}")


def numbers_of(scores: dict[str, Any], method: str) -> Numbers:
    """Return the numbers of one method (`denoised`, or a baseline) from all sets of scores."""
    numbers: Numbers = {}
    for values in scores.values():
        name = _name_in(values, method)
        if "truth" in values:
            numbers |= _truth_numbers(values["truth"], name)
        if "reference" in values:
            numbers = _reference_numbers(values["reference"], name) | numbers
    if "pairs" in scores:  # ρ needs halves of equal dose, and the data set says they are not
        numbers.pop("rho", None)
    return {key: numbers[key] for key in COLUMNS if key in numbers}


def _name_in(values: dict[str, Any], method: str) -> str:
    """Return what a set of scores calls a method; nothing is found under an empty name."""
    if not method.startswith("wiener"):
        return method
    oracle = "oracle" in values.get("wiener", "")
    return "wiener" if oracle == (method == "wiener_oracle") else ""


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
    cells: Sequence[tuple[Cell, dict[str, Any]]],
    grid: Sequence[Cell],
    about: dict[str, Any],
    rank_by: str | None,
    baselines: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Put all cells together.

    Args:
        cells: Those that are done, each with what its `scores.json` holds.
        grid: All cells that were asked for, in their order.
        about: What holds for all.
        rank_by: A column, or None for the best yardstick there is.
        baselines: Sets of scores of the plain filters; None: those beside the scores of the cells.

    Raises:
        ConfigError: No variant has a number in the column to rank by.
    """
    variants = list({cell.variant.name: cell.variant for cell in grid}.values())
    rows = []
    for order, variant in enumerate(variants):
        done = [(cell, values) for cell, values in cells if cell.variant.name == variant.name]
        asked = sum(cell.variant.name == variant.name for cell in grid)
        if done:
            rows.append({"order": order, "asked": asked} | _row(variant, done))
    first = next((row for row in rows if row["order"] == 0), None)
    for row in rows:
        row["against_first"] = {} if first is None else _paired(row, first)
    column = _ranking_column(rows, rank_by)
    _rank(rows, column)
    scores = [values["scores"] for _, values in cells]
    plain = [*([baselines] if baselines else []), *scores]
    filters = {method: _first_numbers(plain, method) for method in BASELINES}
    used = [key for key in COLUMNS if any(row["mean"].get(key) is not None for row in rows)]
    return {
        "format": "clearice-comparison",
        "version": 1,
        "context": cells[0][1]["context"],
        "contexts": _distinct(values["context"] for _, values in cells),
        "sharing": sorted({values["training"].get("sharing", 1) for _, values in cells}),
        "about": about,
        "reference": {"name": variants[0].name, "label": variants[0].label},
        "ranked_by": column.key,
        "columns": [asdict(COLUMNS[key]) for key in used],
        "baselines": {name: numbers for name, numbers in filters.items() if numbers},
        "curves": _baseline_curves(scores),
        "variants": rows,
    }


def _distinct(contexts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the devices and versions that were used, whatever the day."""
    found: list[dict[str, Any]] = []
    for context in contexts:
        lasting = {key: value for key, value in context.items() if key != "date"}
        if lasting not in found:
            found.append(lasting)
    return found


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
    series = {key: _series(seeds, key) for key in keys}
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


def _series(seeds: Iterable[dict[str, Any]], key: str) -> list[float]:
    values = (seed["metrics"].get(key) for seed in seeds)
    return [value for value in values if value is not None]


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

    What lacks a seed is judged on other samples than the rest, and has no rank. Clean targets are
    no user's choice: beside noisy ones they are a bound, and do not compete.
    """
    noisy = any(row["settings"]["target"] == "noisy" for row in rows)
    for row in rows:
        merits = [column.merit(value) for value in _series(row["seeds"], column.key)]
        row["merit"] = {
            "mean": statistics.fmean(merits) if merits else None,
            "spread": _spread(merits),
        }
        row["bound"] = noisy and row["settings"]["target"] == "clean"
        row["complete"] = len(merits) == row["asked"]

    def place(row: dict[str, Any]) -> tuple[bool, bool, float]:
        mean = row["merit"]["mean"]
        return row["bound"], not row["complete"], math.inf if mean is None else -mean

    rows.sort(key=place)
    best = rows[0]
    for rank, row in enumerate(rows, 1):
        ranked = row["complete"] and not row["bound"]
        row["rank"] = rank if ranked else None
        row["like_best"] = _alike(row["merit"], best["merit"]) if ranked and rank > 1 else None


def _alike(one: dict[str, Any], best: dict[str, Any]) -> bool | None:
    """Tell whether two means differ by less than their difference scatters; None: unknown."""
    if one["spread"] is None or best["spread"] is None:
        return None
    difference = abs(one["mean"] - best["mean"])
    return bool(difference <= math.hypot(one["spread"], best["spread"]))
