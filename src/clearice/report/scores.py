"""The sections of scores against the truth, or against independent data."""

from __future__ import annotations

from typing import Any

from clearice.report.figures import Line, line_figure
from clearice.report.layout import METHODS, Drawing, Section, Table, number
from clearice.report.pictures import CROP_PX, crops


def score_section(name: str, scores: dict[str, Any], edge_px: int = CROP_PX) -> Section:
    """Show one set of scores.

    Args:
        name: Of the set; empty if it is the only one.
        scores: From `evaluate.score`.
        edge_px: Of its crops.
    """
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
    section.pictures, section.edge_angstrom = crops(
        scores["files"][0], scores["gaussian_sigma_px"], edge_px
    )
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
                number(truth["snr_db"][method]),
                number(truth["psnr_db"][method]),
                number(truth["ssim"][method], 3),
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
        (label, [number(band[method], 3) for band in bands.values()])
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
    rows = [(label, [number(rho[method], 3)]) for method, label in METHODS.items() if method in rho]
    tables.append(
        Table(
            "Correlation with the unknown truth, estimated from the halves "
            f"(raw halves correlate at {number(reference['half_correlation'], 3)})",
            ["ρ"],
            rows,
        )
    )
    if reference.get("residual_noise") is not None:
        values = [number(reference["residual_noise"], 3), number(reference["bias"], 3)]
        tables.append(
            Table(
                "What is left and what is lost, as shares of the signal's variance",
                ["residual noise", "bias"],
                [("clearice", values)],
            )
        )
    return tables


def _curve_figures(curves: dict[str, Any]) -> list[Drawing]:
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
    figures: list[tuple[str, list[Line], str, dict[str, Any], tuple[str, ...]]] = [
        (
            "Fourier ring correlation",
            correlation,
            "correlation",
            {"y_limits": (-0.1, 1.05)},
            ("frc", "rho", "naive_frc"),
        ),
        (
            "How much of the true amplitude survives",
            transfer,
            "signal transfer",
            {"y_limits": (-0.1, 1.25)},
            ("signal_transfer",),
        ),
        ("Radial power spectra", power, "power a pixel", {"log_y": True}, ("power_spectrum",)),
    ]
    return [
        Drawing(
            title,
            line_figure(lines, frequency, label, resolution_axis=True, **options),
            terms,
        )
        for title, lines, label, options, terms in figures
        if lines
    ]
