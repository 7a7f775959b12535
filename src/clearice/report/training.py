"""The section of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clearice.config import read_settings
from clearice.errors import InputFileError
from clearice.report.figures import Line, line_figure
from clearice.report.layout import Drawing, Section
from clearice.train import CONFIG_NAME, METRICS_NAME, read_metrics

_BLIND = (
    "Target: masked. Trained without halves, by blind spots (Noise2Void): it learnt less than "
    "Noise2Noise would, and nothing measured here proves what it shows."
)
_KEYS = {"step", "seconds", "patches_per_second", "parts", "validation"}
# Without this the gap between the two curves looks like a fault.
_LOSS_LEVEL = "Its level is the noise of the targets, which may hold fewer frames in training."


def run_section(run: Path) -> Section:
    """Show how a network was trained, from a run's folder.

    Raises:
        InputFileError: Its records are damaged.
    """
    config = run / CONFIG_NAME
    records = read_metrics(run / METRICS_NAME)
    section = Section("Training", code=config.read_text(encoding="utf-8"))
    blind = read_settings(config, {}).get("target") == "masked"
    if any(not isinstance(one, dict) or not one.keys() >= _KEYS for one in records):
        raise InputFileError(run / METRICS_NAME, "is damaged", "leave the run out, or train again")
    if records:
        last = records[-1]
        section.text = (
            f"{last['step']} steps in {last['seconds']:.0f} s, "
            f"{last['patches_per_second']:.0f} patches a second at the end."
        )
        section.text += f" {_BLIND}" if blind else ""
        section.figures = _loss_figures(records)
    return section


def _loss_figures(records: list[dict[str, Any]]) -> list[Drawing]:
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
        svg = line_figure(lines, "step", part)
        figures.append(Drawing(f"Loss: {part}. {_LOSS_LEVEL}", svg, ("loss",)))
    if any(r["validation"]["snr_db"] is not None for r in held_out):
        at = [r["step"] for r in held_out]
        snr = [r["validation"]["snr_db"] for r in held_out]
        lines = [Line("validation, half dose in", "denoised", at, snr)]
        svg = line_figure(lines, "step", "SNR, dB")
        figures.append(Drawing("Estimated SNR on held-out halves", svg, ("snr",)))
    return figures
