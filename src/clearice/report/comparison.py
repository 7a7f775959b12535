"""The page of a comparison: ranked table, curves, and crops side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jaxtyping import Float
from torch import Tensor

from clearice.io import read_micrograph
from clearice.report.figures import INK, Line, line_figure
from clearice.report.layout import METHODS, Drawing, Section, Table, fill_page
from clearice.report.pictures import grey_levels, jpeg

# Okabe & Ito, then darker relatives of them.
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a6761d", "#7570b3")
_MOST_PICTURES = 24
_SUMMARY = ("snr_db", "rho", "psnr_db", "ssim")
# One filter is given the truth; the other learns from the halves or the reference.
_FILTERS = METHODS | {
    "wiener_oracle": "radial Wiener (oracle: given the truth)",
    "wiener": "radial Wiener (learnt from the data)",
}
_LAST = ("residual_noise", "bias", "seconds")

Row = dict[str, Any]
Results = dict[str, Any]


@dataclass(frozen=True)
class Gallery:
    """The same field of view, once for each variant."""

    title: str
    text: str
    pictures: list[tuple[str, str]]


def render_comparison(
    results: Results, folder: Path, out: Path, title: str = "clearice compare"
) -> Path:
    """Write one self-contained page about a comparison.

    Args:
        results: What `results.json` holds.
        folder: Of the comparison, with the crops of its cells.
        out: The HTML file.
        title: Of the page.

    Raises:
        OutputError: The page cannot be written.
    """
    sections = [_ranking(results), *_band_sections(results), _training(results)]
    return fill_page(
        "comparison.html.jinja",
        out,
        title=title,
        sections=sections,
        galleries=_galleries(results, folder),
        codes=_codes(results),
    )


def _ranking(results: Results) -> Section:
    about, rows = results["about"], results["variants"]
    columns = {column["key"]: column for column in results["columns"]}
    low, high = about["detail_angstrom"]
    fine = f"{low:g}-{high:g}"
    wanted = (*_SUMMARY, f"truth_frc_{fine}", f"frc_{fine}", f"transfer_{fine}", *_LAST)
    keys = [key for key in dict.fromkeys((results["ranked_by"], *wanted)) if key in columns]
    section = Section("Ranking", _summary(results))
    caption = (
        f"Ranked by {columns[results['ranked_by']]['label']}, {_better(columns, results)}; below "
        "the variants what plain filters do"
    )
    table = _table(results, keys, caption)
    table.columns.insert(0, "to the best")
    for row, (_, cells) in zip(rows, table.rows, strict=False):
        cells.insert(0, _distance(row, rows[0], columns[results["ranked_by"]]))
    for _, cells in table.rows[len(rows) :]:
        cells.insert(0, "")
    section.tables = [table, *_paired_table(results, keys)]
    section.figures = _figures(results)
    return section


def _paired_table(results: Results, keys: Sequence[str]) -> list[Table]:
    """Make the table of differences to the first variant of the grid, if there are others."""
    columns = {column["key"]: column for column in results["columns"]}
    first = results["reference"]
    rows = []
    for row in results["variants"]:
        means = {key: one["mean"] for key, one in row["against_first"].items()}
        spreads = {key: one["spread"] for key, one in row["against_first"].items()}
        cells = [_value(columns[key], means, spreads, sign="+") for key in keys]
        if row["name"] != first["name"] and means:
            rows.append((_title(row), cells))
    caption = f"Difference to “{first['label']}”, seed by seed: mean ± spread of the differences"
    return [Table(caption, [columns[key]["label"] for key in keys], rows)] if rows else []


def _title(row: Row) -> str:
    """Name a variant with its rank, or why it has none."""
    seeds = "" if row["n"] == row["asked"] else f" ({row['n']} of {row['asked']} seeds)"
    place = "bound:" if row["bound"] else f"{row['rank']}." if row["rank"] else "no rank:"
    return f"{place} {row['label']}{seeds}"


def _better(columns: dict[str, Any], results: Results) -> str:
    better = columns[results["ranked_by"]]["better"]
    return {"high": "higher is better", "low": "lower is better", "one": "1 is best"}[better]


def _summary(results: Results) -> str:
    about, rows = results["about"], results["variants"]
    seeds = max(row["asked"] for row in rows)
    count = len(about["micrographs"])
    text = (
        f"{len(rows)} variants, {seeds} seed{'s' if seeds > 1 else ''} each, trained on "
        f"{about['training_micrographs']} micrographs and scored on {count} held-out "
        f"{about['split']} micrograph{'s' if count > 1 else ''} at "
        f"{about['pixel_size_angstrom']:g} Å/px; {about['weights']} weights. "
        f"{_machines(results['contexts'])}."
    )
    if (sharing := max(results["sharing"])) > 1:
        unlike = " (not all alike)" if len(results["sharing"]) > 1 else ""
        text += (
            f" Up to {sharing} trainings shared a device{unlike}: their times are longer than "
            "alone."
        )
    if failures := len(about["failures"]):
        text += (
            f" Missing here, as they failed: {failures} training{'s' if failures > 1 else ''}. "
            "Variants that lack a seed have no rank."
        )
    return text


def _machines(contexts: Sequence[dict[str, Any]]) -> str:
    """Name all devices, and the versions if they differ."""
    devices = " and ".join(dict.fromkeys(context["device"] for context in contexts))
    others = [
        f"{key} {', '.join(sorted(found))}"
        for key in ("clearice", "torch", "python")
        if len(found := {str(context[key]) for context in contexts if key in context}) > 1
    ]
    return f"{devices}; not all with the same {'; '.join(others)}" if others else devices


def _distance(row: Row, best: Row, column: dict[str, Any]) -> str:
    """Return by how much a variant is off the best: of its distance from 1, where 1 is best."""
    if row is best and row["rank"]:
        return "best"
    if row["merit"]["mean"] is None or not best["rank"]:
        return "–"
    difference = row["merit"]["mean"] - best["merit"]["mean"]
    difference = difference if column["better"] == "high" else -difference
    text = f"{difference:+.{column['digits']}f}".replace("-", "−")
    return f"{text}\n≈\N{NO-BREAK SPACE}best" if row["like_best"] else text


def _table(results: Results, keys: Sequence[str], caption: str) -> Table:
    columns = {column["key"]: column for column in results["columns"]}
    rows = [
        (
            _title(row),
            [_value(columns[key], row["mean"], row["spread"]) for key in keys],
        )
        for row in results["variants"]
    ]
    for method, numbers in results["baselines"].items():
        cells = [_value(columns[key], numbers, {}) for key in keys]
        if any(cell != "–" for cell in cells):
            rows.append((_FILTERS[method], cells))
    return Table(caption, [columns[key]["label"] for key in keys], rows)


def _value(
    column: dict[str, Any], mean: dict[str, Any], spread: dict[str, Any], sign: str = "-"
) -> str:
    value, scatter = mean.get(column["key"]), spread.get(column["key"])
    if value is None:
        return "–"
    text = f"{value:{sign}.{column['digits']}f}".replace("-", "−")
    return text if scatter is None else f"{text}\n±\N{NO-BREAK SPACE}{scatter:.{column['digits']}f}"


_BAND_TABLES = (
    ("truth_frc", "Correlation with the truth, by resolution band"),
    ("frc", "Correlation with independent raw data, by resolution band"),
    ("transfer", "Signal transfer, by resolution band: how much of the true amplitude survives"),
)


def _band_sections(results: Results) -> list[Section]:
    section = Section("By resolution")
    for prefix, caption in _BAND_TABLES:
        keys = [c["key"] for c in results["columns"] if c["key"].startswith(f"{prefix}_")]
        if keys:
            table = _table(results, keys, caption)
            bands = [key.removeprefix(f"{prefix}_").replace("-", "–") for key in keys]
            section.tables.append(Table(caption, [f"{band} Å" for band in bands], table.rows))
    return [section] if section.tables else []


def _training(results: Results) -> Section:
    rows = []
    for row in results["variants"]:
        training = [seed["training"] for seed in row["seeds"]]
        parts = {
            name: statistics.fmean(one["parts"][name] for one in training)
            for name in training[0]["parts"]
            if all(name in one["parts"] for one in training)
        }
        cells = [f"{training[0]['parameters']:,}", f"{training[0]['steps']:,}"]
        cells += [
            f"{statistics.fmean(one['seconds'] for one in training):.1f}",
            ", ".join(f"{name} {value:.4g}" for name, value in parts.items()),
        ]
        rows.append((row["label"], cells))
    caption = "Means over seeds; losses without their weights, over the last interval of training"
    table = Table(caption, ["parameters", "steps", "seconds", "losses"], rows)
    return Section("Training", tables=[table])


_FREQUENCY = "spatial frequency, 1/Å"
_CORRELATIONS = (
    ("correlation_with_truth_denoised", "correlation_with_truth_raw", "FRC with the truth"),
    ("correlation_with_truth_estimate", None, "ρ, correlation with the truth from halves"),
    ("frc_denoised", "frc_raw", "FRC with the raw image that was not denoised"),
)
_TRANSFERS = (
    ("signal_transfer_truth", "Signal transfer, against the truth"),
    ("signal_transfer", "Signal transfer, from independent raw data"),
)


def _figures(results: Results) -> list[Drawing]:
    """Draw what there is of each kind, the best yardstick first."""
    figures = []
    limits: dict[str, Any] = {"y_limits": (-0.05, 1.05)}
    present = [c for c in _CORRELATIONS if any(c[0] in r["curves"] for r in results["variants"])]
    for key, raw, title in present[:2]:
        lines = _lines(results, key)
        if raw in results["curves"]:
            x = results["curves"]["frequency_per_angstrom"]
            lines.append(Line("raw", "raw", x, results["curves"][raw], dashed=True))
        figures.append(Drawing(title, _draw(lines, "correlation", **limits)))
    for key, *_ in present[:1]:
        reference = _reference(results)
        if reference and len(results["variants"]) > 1 and key in reference["curves"]:
            caption = f"The same, less that of “{reference['label']}”; far outliers leave the frame"
            lines = _differences(results, key, reference)
            svg = _draw(lines, "difference", y_limits=_common_range(lines))
            figures.append(Drawing(caption, svg))
    for key, title in _TRANSFERS:
        if any(key in row["curves"] for row in results["variants"]):
            lines = _lines(results, key)
            figures.append(Drawing(title, _draw(lines, "signal transfer", y_limits=(-0.05, 1.25))))
            break
    lines = _lines(results, "power_denoised")
    for key, label, colour in (("power_raw", "raw", "raw"), ("power_truth", "truth", INK)):
        if key in results["curves"]:
            x = results["curves"]["frequency_per_angstrom"]
            lines.append(Line(label, colour, x, results["curves"][key], dashed=True))
    figures.append(Drawing("Radial power spectra", _draw(lines, "power a pixel", log_y=True)))
    return figures


def _draw(lines: Sequence[Line], label: str, **options: Any) -> str:
    return line_figure(lines, _FREQUENCY, label, resolution_axis=True, **options)


def _reference(results: Results) -> Row | None:
    """Return the variant that stands first in the grid, unless all its trainings failed."""
    name = results["reference"]["name"]
    return next((row for row in results["variants"] if row["name"] == name), None)


def _coloured(results: Results) -> dict[str, str]:
    """Give the best variants, the first of the grid and the best bound a colour each."""
    rows = results["variants"]
    names = [row["name"] for row in rows]
    bounds = [row["name"] for row in rows if row["bound"]][:1]
    wanted = [name for name in (results["reference"]["name"], *bounds) if name in names]
    others = [name for name in names if name not in wanted][: len(_PALETTE) - len(wanted)]
    chosen = [name for name in names if name in wanted or name in others]
    return dict(zip(chosen, _PALETTE, strict=False))


def _lines(results: Results, key: str) -> list[Line]:
    colours = _coloured(results)
    rows = [row for row in results["variants"] if key in row["curves"]]
    # What has no colour is drawn first, beneath the others.
    rows.sort(key=lambda row: row["name"] in colours)
    return [
        Line(
            row["label"] if row["name"] in colours else "",
            colours.get(row["name"], "raw"),
            row["curves"]["frequency_per_angstrom"],
            row["curves"][key],
            thin=row["name"] not in colours,
        )
        for row in rows
    ]


def _differences(results: Results, key: str, reference: Row) -> list[Line]:
    base = reference["curves"][key]
    return [
        Line(
            line.label,
            line.colour,
            line.x,
            [None if a is None or b is None else a - b for a, b in zip(line.y, base, strict=True)],
            thin=line.thin,
        )
        for line in _lines(results, key)
    ]


def _common_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Return limits that hold three quarters of the curves, so that one bad loss hides nothing."""
    heights = sorted(max((abs(v) for v in line.y if v is not None), default=0.0) for line in lines)
    height = max(1.2 * heights[(3 * len(heights) - 1) // 4], 0.01)
    return -height, height


def _galleries(results: Results, folder: Path) -> list[Gallery]:
    rows = [row for row in results["variants"] if row["crops"]][:_MOST_PICTURES]
    low, high = results["about"]["detail_angstrom"]
    few = "" if len(rows) == len(results["variants"]) else f" The best {len(rows)} variants."
    seed = f"First seed of each variant, the middle of the first held-out micrograph.{few}"
    return [
        gallery
        for gallery in (
            _gallery(
                "Crops",
                f"{seed} Denoised crops and the truth at the same grey levels; raw at its own.",
                _read_crops(rows, folder, ""),
                shared=("truth",),
            ),
            _gallery(
                f"Fine detail: {low:g}–{high:g} Å only",
                f"{seed} Denoised crops at the same grey levels, so that a brighter texture is "
                "more amplitude, which may be signal or noise: compare it with the truth. Truth "
                "and raw at their own levels.",
                _read_crops(rows, folder, "-detail"),
                shared=(),
            ),
        )
        if gallery.pictures
    ]


def _read_crops(rows: Sequence[Row], folder: Path, suffix: str) -> dict[str, Float[Tensor, "h w"]]:
    """Return the crops that are there: raw, truth, then the variants under their labels."""
    crops: dict[str, Float[Tensor, "h w"]] = {}
    for row in rows:
        crop_folder = folder / "cells" / row["crops"] / "crops"
        for role in ("raw", "truth", "denoised"):
            label = row["label"] if role == "denoised" else role
            path = crop_folder / f"{role}{suffix}.mrc"
            if label not in crops and path.is_file():
                crops[label] = read_micrograph(path).pixels
    order = {"raw": 0, "truth": 1}
    return dict(sorted(crops.items(), key=lambda item: order.get(item[0], 2)))


def _gallery(
    title: str, text: str, crops: dict[str, Float[Tensor, "h w"]], shared: Sequence[str]
) -> Gallery:
    """Show all crops; those of variants, and of the roles in `shared`, at the same grey levels."""
    ranges = [grey_levels(crop) for label, crop in crops.items() if label not in ("raw", "truth")]
    if not ranges:
        return Gallery(title, text, [])
    levels = (
        statistics.median(low for low, _ in ranges),
        statistics.median(high for _, high in ranges),
    )
    pictures = [
        (label, jpeg(crop, None if label in {"raw", "truth"} - set(shared) else levels))
        for label, crop in crops.items()
    ]
    return Gallery(title, text, pictures)


def _codes(results: Results) -> list[tuple[str, str]]:
    def text(values: Any) -> str:
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    codes = [("grid", text(results["about"]["grid"]))]
    codes += [(row["label"], text(row["settings"])) for row in results["variants"]]
    failures = results["about"]["failures"]
    return codes + ([("what failed", "\n".join(failures))] if failures else [])
