"""Gather runs and scores and fill the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from clearice import __version__, io
from clearice.config import read_settings
from clearice.errors import InputFileError
from clearice.report.figures import Line, line_figure
from clearice.report.pictures import crops
from clearice.train import CONFIG_NAME, METRICS_NAME, read_metrics

METHODS = {
    "raw": "raw",
    "gaussian_best": "best Gaussian",
    "wiener": "radial Wiener",
    "denoised": "clearice",
}


@dataclass(frozen=True)
class Table:
    """A table with a caption; the last row is clearice's own."""

    caption: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


@dataclass
class Section:
    """One block of the page."""

    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)
    edge_angstrom: float = 0.0
    code: str = ""


def render(sources: Sequence[Path], out: Path, title: str = "clearice report") -> Path:
    """Write one self-contained page about runs and scores.

    Args:
        sources: Folders of runs, and `scores.json` files.
        out: The HTML file.
        title: Of the page.

    Raises:
        InputFileError: A source is neither.
        OutputError: The page cannot be written.
    """
    sections: list[Section] = []
    for source in sources:
        sections += _run_sections(source) if source.is_dir() else _score_file(source)
    return fill_page("page.html.jinja", out, title=title, sections=sections)


def fill_page(template: str, out: Path, **values: Any) -> Path:
    """Write a page from one of the templates.

    Raises:
        OutputError: The page cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clearice", "report"), autoescape=True
    )
    page = environment.get_template(template).render(version=__version__, **values)
    io.ensure_folder(out.parent)
    io.write_text(out, page)
    return out


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputFileError(path, "does not exist", "give a run's folder or scores.json") from None
    except OSError as error:
        raise InputFileError(
            path, f"cannot be read ({error.strerror})", "give a run's folder or scores.json"
        ) from None
    except ValueError:
        raise InputFileError(
            path, "is not valid JSON", "give scores.json of 'clearice evaluate'"
        ) from None


def _score_file(path: Path) -> list[Section]:
    """Make sections of a score file: one set of scores, or several under their names."""
    values = _read_json(path)
    sets = {"": values} if _is_scores(values) else values if isinstance(values, dict) else {}
    sections = [_score_section(name, scores) for name, scores in sets.items() if _is_scores(scores)]
    if not sections:
        raise InputFileError(path, "holds no scores", "give scores.json of 'clearice evaluate'")
    return sections


# What `evaluate.score` always writes.
_SCORE_TYPES: dict[str, type | tuple[type, ...]] = {
    "micrographs": list,
    "pixel_size_angstrom": (int, float),
    "highpass_angstrom": (int, float),
    "gaussian_sigma_px": (int, float, type(None)),
    "curves": dict,
    "files": list,
}


def _is_scores(values: Any) -> bool:
    return isinstance(values, dict) and all(
        isinstance(values.get(key), kind) for key, kind in _SCORE_TYPES.items()
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _score_section(name: str, scores: dict[str, Any]) -> Section:
    count = len(set(scores["micrographs"]))
    both_ways = "each half against the other, " if len(scores["micrographs"]) > count else ""
    title = "Against the truth" if "truth" in scores else "Against independent data"
    section = Section(
        title if name in ("", "full_dose", "halves") else f"{title}: {name}",
        f"{count} held-out micrograph{'s' if count > 1 else ''}, {both_ways}"
        f"{scores['pixel_size_angstrom']:g} Å/px; scores after a high-pass at "
        f"1/{scores['highpass_angstrom']:g} Å.",
    )
    if "truth" in scores:
        section.tables.append(_truth_table(scores))
    if "reference" in scores:
        section.tables += _reference_tables(scores)
    section.figures = _curve_figures(scores["curves"])
    section.pictures, section.edge_angstrom = crops(scores["files"][0], scores["gaussian_sigma_px"])
    return section


def _truth_table(scores: dict[str, Any]) -> Table:
    truth = scores["truth"]
    labels = dict(METHODS)
    if scores["gaussian_sigma_px"] is not None:
        labels["gaussian_best"] += f" (σ = {scores['gaussian_sigma_px']:g} px)"
    if "oracle" in scores["wiener"]:
        labels["wiener"] += " (oracle)"
    rows = [
        (
            labels[method],
            [
                _number(truth["snr_db"][method]),
                _number(truth["psnr_db"][method]),
                _number(truth["ssim"][method], 3),
            ],
        )
        for method in METHODS
        if method in truth["snr_db"]
    ]
    return Table(
        "Mean over micrographs, against the noise-free signal",
        ["SNR, dB", "PSNR, dB", "SSIM"],
        rows,
    )


def _reference_tables(scores: dict[str, Any]) -> list[Table]:
    reference = scores["reference"]
    bands = reference["band_correlation"]
    rows = [
        (label, [_number(band[method], 3) for band in bands.values()])
        for method, label in METHODS.items()
        if all(method in band for band in bands.values())
    ]
    tables = [
        Table(
            "Correlation with the independent half, by resolution band (mean over micrographs)",
            [f"{band.replace('-', '–')} Å" for band in bands],
            rows,
        )
    ]
    rho = reference.get("correlation_with_truth")
    if rho is None:
        return tables
    rows = [
        (label, [_number(rho[method], 3)]) for method, label in METHODS.items() if method in rho
    ]
    tables.append(
        Table(
            "Correlation with the unknown truth, estimated from the halves "
            f"(raw halves correlate at {_number(reference['half_correlation'], 3)})",
            ["ρ"],
            rows,
        )
    )
    if reference.get("residual_noise") is not None:
        values = [_number(reference["residual_noise"], 3), _number(reference["bias"], 3)]
        tables.append(
            Table(
                "What is left and what is lost, as shares of the signal's variance",
                ["residual noise", "bias"],
                [("clearice", values)],
            )
        )
    return tables


def _curve_figures(curves: dict[str, Any]) -> list[tuple[str, str]]:
    x = curves["frequency_per_angstrom"]

    def line(key: str, label: str, colour: str, *, dashed: bool = False) -> list[Line]:
        return [Line(label, colour, x, curves[key], dashed)] if key in curves else []

    correlation = [
        *line("frc_raw", "raw half with other half", "raw"),
        *line("frc_denoised", "denoised half with other raw half", "denoised"),
        *line("correlation_with_truth_estimate", "ρ, with the unknown truth", "wiener"),
        *line("frc_denoised_halves", "both denoised: inflated, no quality", "other", dashed=True),
        *line("correlation_with_truth_raw", "raw with truth", "raw"),
        *line("correlation_with_truth_denoised", "denoised with truth", "denoised"),
    ]
    transfer = [
        *line("signal_transfer", "signal transfer, from halves", "denoised"),
        *line("signal_transfer_truth", "signal transfer, against truth", "denoised"),
    ]
    power = [
        *line("power_raw", "raw", "raw"),
        *line("power_denoised", "denoised", "denoised"),
    ]
    frequency = "spatial frequency, 1/Å"
    figures: list[tuple[str, list[Line], str, dict[str, Any]]] = [
        ("Fourier ring correlation", correlation, "correlation", {"y_limits": (-0.1, 1.05)}),
        (
            "How much of the true amplitude survives",
            transfer,
            "signal transfer",
            {"y_limits": (-0.1, 1.25)},
        ),
        ("Radial power spectra", power, "power a pixel", {"log_y": True}),
    ]
    return [
        (title, line_figure(lines, frequency, label, resolution_axis=True, **options))
        for title, lines, label, options in figures
        if lines
    ]


def _run_sections(run: Path) -> list[Section]:
    """Make the training section of a run's folder."""
    config, metrics = run / CONFIG_NAME, run / METRICS_NAME
    if not config.is_file() or not metrics.is_file():
        raise InputFileError(
            run,
            f"is no training run ({CONFIG_NAME} or {METRICS_NAME} is missing)",
            "check the folder",
        )
    records = read_metrics(metrics)
    section = Section("Training", code=config.read_text(encoding="utf-8"))
    blind = read_settings(config, {}).get("target") == "masked"
    if records:
        last = records[-1]
        section.text = (
            f"{last['step']} steps in {last['seconds']:.0f} s, "
            f"{last['patches_per_second']:.0f} patches a second at the end."
        )
        section.text += f" {_BLIND}" if blind else ""
        section.figures = _loss_figures(records)
    return [section]


_BLIND = (
    "Target: masked. Trained without halves, by blind spots (Noise2Void): it learnt less than "
    "Noise2Noise would, and nothing measured here proves what it shows."
)
# Without this the gap between the two curves looks like a fault.
_LOSS_LEVEL = "Its level is the noise of the targets, which may hold fewer frames in training."


def _loss_figures(records: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Draw each loss part, in training and on held-out micrographs."""
    steps = [record["step"] for record in records]
    held_out = [record for record in records if record["validation"]]
    figures = []
    for part in records[0]["parts"]:
        lines = [Line("training", "raw", steps, [r["parts"][part] for r in records])]
        if held_out:
            at = [r["step"] for r in held_out]
            values = [r["validation"]["parts"][part] for r in held_out]
            lines.append(Line("validation", "denoised", at, values))
        figures.append((f"Loss: {part}. {_LOSS_LEVEL}", line_figure(lines, "step", part)))
    if any(r["validation"]["snr_db"] is not None for r in held_out):
        at = [r["step"] for r in held_out]
        snr = [r["validation"]["snr_db"] for r in held_out]
        lines = [Line("validation, half dose in", "denoised", at, snr)]
        figures.append(("Estimated SNR on held-out halves", line_figure(lines, "step", "SNR, dB")))
    return figures
