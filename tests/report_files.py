"""Small files of every kind that a report takes, as the commands write them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearice import io
from clearice.evaluate import card
from clearice.evaluate.invented import ICE, LIMITS
from clearice.evaluate.overlay import overlay
from clearice.fourier import gaussian_lowpass
from half_files import write_halves

SHA = {name: name[0] * 64 for name in ("apple", "pear")}
INPUTS = ("white noise", "noise of the data", ICE, "scrambled phases")


def about(model: str | None) -> dict[str, Any]:
    """Return what a file says of its model."""
    return {
        "clearice_version": "0.0",
        "model": model and f"{model}/best.safetensors",
        "model_sha256": model and SHA[model],
    }


def lowpassed(raw: Tensor) -> Tensor:
    """Denoise as a filter does, which draws nothing."""
    return gaussian_lowpass(raw, 1.0)


def write_card(
    path: Path,
    model: str | None = "apple",
    hallucination: Path | None = None,
    micrographs: int = 4,
) -> Path:
    """Write the card of a low-pass, which is neither good nor bad."""
    results = write_halves(path.parent / f"{path.stem}-halves", lowpassed, micrographs=micrographs)
    if model is not None:
        io.write_json(results / "denoise.json", {"settings": about(model)})
    io.write_json(path, card(results, hallucination=hallucination).values)
    return path


def write_trust(folder: Path, model: str | None = "apple", count: int = 2) -> Path:
    """Write what `trust` leaves behind."""
    io.ensure_folder(folder / "previews")
    ramp = torch.linspace(0, 1, 64).expand(64, -1)
    for index in range(count):
        picture = overlay(torch.rand(64, 64, generator=torch.Generator().manual_seed(index)), ramp)
        io.write_png(folder / "previews" / f"mic{index}.png", picture)
    row = {"mean": 0.5, "share_above_half": 0.49, "share_below_tenth": 0.1}
    told = {
        "kind": "trust",
        **about(model),
        "method": "halves",
        "window_fwhm_angstrom": 150.0,
        "lowpass_angstrom": 20.0,
        "highpass_angstrom": 400.0,
        "micrographs": [
            {"name": f"mic{i}", "shape": [128, 128], "pixel_size_angstrom": 2.5, **row}
            for i in range(count)
        ],
        "evidence": [],
        "failures": [],
    }
    io.write_json(folder / "trust.json", told)
    return folder


def write_hallucination(
    folder: Path, model: str | None = "apple", failures: tuple[str, ...] = ()
) -> Path:
    """Write what `hallucinate` leaves behind."""
    io.ensure_folder(folder)
    probe = {
        "power": 0.12,
        "filter_power": 0.34,
        "blobs": 0.01,
        "correlation": -0.02,
        "excess_kurtosis": 1.0,
        "highest": 9.0,
        "highest_of_gaussian": 4.5,
    }
    told = {
        "kind": "hallucination",
        **about(model),
        "network": "unet-small",
        "measured_on": "simulated specimen",
        "micrographs": 3,
        "passed": not failures,
        "failures": list(failures),
        "limits": LIMITS,
        "unsupported": 0.6 if failures else 0.05,
        "moves_along": 0.95,
        "from_nothing": dict.fromkeys(INPUTS, probe),
        "unsupported_of_a_strange_specimen": 0.07,
    }
    io.write_json(folder / "hallucination.json", told)
    panels = [torch.full((20, 24), 60 + 30 * i, dtype=torch.uint8) for i in range(5)]
    gap = torch.full((20, 4), 255, dtype=torch.uint8)
    io.write_png(
        folder / "hallucination.png",
        torch.cat([part for panel in panels for part in (panel, gap)], 1),
    )
    return folder


def write_picking(path: Path, model: str | None = "apple", difference: float = 0.1) -> Path:
    """Write what `evaluate picking` leaves behind."""

    def method(precision: float) -> dict[str, Any]:
        return {
            "average_precision": precision,
            "average_precision_95": [precision - 0.05, precision + 0.05],
            "recall_at_precision": 0.6,
            "best_f1": 0.7,
            "picks": 9,
            "average_precision_of_each": [precision],
            "curve": {"recall": [0.0, 0.5, 1.0], "precision": [1.0, 0.9, 0.4]},
        }

    versions = {"raw": 0.6, "low-pass 3 Å": 0.65, "low-pass 30 Å": 0.7, "denoised": 0.7}
    versions["denoised"] += difference
    told = {
        "kind": "picking",
        **about(model),
        "micrographs": ["mic0", "mic1"],
        "without_coordinates": [],
        "pixel_size_angstrom": 2.5,
        "settings": {
            "diameter_angstrom": 150,
            "bright": False,
            "tolerance": 0.25,
            "precision": 0.8,
        },
        "particles": 40,
        "best_lowpass": "low-pass 30 Å",
        "methods": {name: method(value) for name, value in versions.items()},
        "denoised_minus": {
            "raw": {"difference": difference + 0.1, "interval_95": [difference, difference + 0.2]},
            "best_lowpass": {
                "difference": difference,
                "interval_95": [difference - 0.05, difference + 0.05],
            },
        },
    }
    io.write_json(path, told)
    return path


def card_values(light: str = "green", **lights: str) -> dict[str, Any]:
    """Return a card of made-up numbers, all of one light but those given by name."""
    number = {"value": 0.5, "interval": [0.4, 0.6], "standard_error": 0.05}
    names = ("correlation", "gain", "error", "removed_power", "fixed_pattern")
    open_end = {"value": 0.1, "interval": [None, 0.6], "standard_error": None}
    unknown = {"value": None, "interval": None, "standard_error": None}
    share = {"value": 0.0, "error": 0.1, "limit": 0.1, "conclusive": True, "flagged": False}
    keys = (
        "correlation_with_truth",
        "correlation_with_truth_raw",
        "gain",
        "signal_transfer",
        "residual_noise",
        "bias",
        "naive_frc_denoised_halves",
    )
    edges = [math.inf, 40.0, 20.0, 10.0]
    return {
        "kind": "card",
        **about("apple"),
        "micrographs": ["mic0", "mic1"],
        "pixel_size_angstrom": 2.5,
        "highpass_angstrom": 400.0,
        "judged_to_angstrom": None,
        "hallucination": None,
        "entries": [
            {**number, "name": name, "unit": "", "light": lights.get(name, light), "line": "said"}
            for name in names
        ],
        "total": {},
        "bands": [
            {
                "from_angstrom": None if start == math.inf else start,
                "to_angstrom": end,
                "independent_pixels": 100,
                "gain_above_1": True,
                **dict.fromkeys(keys, values),
            }
            for start, end, values in zip(
                edges, edges[1:], (number, open_end, unknown), strict=False
            )
        ],
        "pattern": {
            "flagged": False,
            "between_micrographs": share,
            "near_nyquist": share,
            "row_means": share,
            "column_means": share,
        },
        "limits": {"gain": {"green": 1.01, "red": 0.95, "high_is_good": True, "innocent": False}},
    }
