"""Comparisons by `clearice compare`, side by side, and what is kept of their cells."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from clearice import io, train
from clearice.config import CompareConfig, TrainConfig, load_config
from clearice.errors import BatchError, TrainingInterruptedError
from clearice.workflows.compare.variants import cells_of, variants_of

CURVES = (
    "frequency_per_angstrom",
    "correlation_with_truth_denoised",
    "signal_transfer_truth",
    "signal_transfer",
    "gain",
)


def start_comparison(
    dataset: Path, grid: dict[str, Any], out: Path, jobs_per_device: int
) -> subprocess.Popen[bytes]:
    """Start a comparison in a process of its own.

    Args:
        dataset: Data set.
        grid: What `clearice compare` is to train.
        out: Its folder; the grid is written beside it.
        jobs_per_device: Trainings that share a GPU.
    """
    io.ensure_folder(out)
    file = out.with_suffix(".yaml")
    io.write_text(file, yaml.safe_dump(grid))
    command = [sys.executable, "-m", "clearice", "compare", str(dataset), "--grid", str(file)]
    command += ["--out", str(out), "--jobs-per-device", str(jobs_per_device)]
    return subprocess.Popen(command)


def finish(
    running: dict[Path, subprocess.Popen[bytes]], began: float, limit: float | None
) -> dict[Path, list[str]]:
    """Wait for comparisons, and return by their folders which trainings failed.

    Args:
        running: By their folders.
        began: When the first was started, in seconds since the epoch.
        limit: When they are asked to stop, on the clock of `time.monotonic`.

    Raises:
        SystemExit: One broke down.
    """
    stopped = set()
    for folder, process in running.items():
        left = None if limit is None else max(1, limit - time.monotonic())
        try:
            process.wait(left)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            stopped.add(folder)
    codes = {folder: process.wait() for folder, process in running.items()}
    return {
        folder: failures_of(folder, code, began, stopped=folder in stopped)
        for folder, code in codes.items()
    }


def failures_of(out: Path, code: int, started: float, *, stopped: bool) -> list[str]:
    """Return which trainings of a comparison failed.

    Args:
        out: Its folder.
        code: Its exit status.
        started: When, in seconds since the epoch.
        stopped: It was asked to stop.

    Raises:
        SystemExit: It broke down otherwise, so that there is nothing to collect.
    """
    # Python ends by the signal itself where it comes before the program is ready for it.
    interrupted = code in {TrainingInterruptedError.exit_code, -signal.SIGINT}
    if code == 0 or (interrupted and stopped):
        return []
    results = out / "results.json"
    written = results.exists() and results.stat().st_mtime >= started
    failures: list[str] = json.loads(results.read_text())["about"]["failures"] if written else []
    if code != BatchError.exit_code or not failures:
        raise SystemExit(f"{out}: the comparison ended with code {code}")
    return failures


def done_cells(out: Path) -> list[Path]:
    """Return the score files of the cells of a grid; older grids may have left others."""
    grid = out.with_suffix(".yaml")
    compare = load_config(CompareConfig, grid, {})
    cells = cells_of(variants_of(compare, str(grid)), compare.seeds)
    wanted = {cell.name: _computed(cell.config.model_dump(mode="json")) for cell in cells}
    found = sorted((out / "cells").glob("*/scores.json"))
    settings = {path: json.loads(path.read_text())["settings"] for path in found}
    return [path for path in found if wanted.get(path.parent.name) == _computed(settings[path])]


def _computed(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that change what a training computes."""
    values = TrainConfig().model_dump(mode="json") | settings
    return {key: value for key, value in values.items() if key not in train.FREE_ON_RESUME}


def condense(cell: dict[str, Any], *, curves: bool) -> dict[str, Any]:
    """Keep of a cell what tables and curves are made from."""
    kept: dict[str, Any] = {
        "loss": cell["settings"]["loss"],
        "network": cell["settings"]["network"],
        "seed": cell["settings"]["seed"],
        "seconds": round(cell["training"]["seconds"], 1),
    }
    for name, values in cell["scores"].items():
        part = {key: values[key] for key in ("truth", "reference") if key in values}
        for entry in part.values():
            entry.pop("snr_db_per_micrograph", None)
        if curves and kept["seed"] == 0:
            part["curves"] = {
                key: values["curves"][key] for key in CURVES if key in values["curves"]
            }
        kept[name] = part
    return _rounded(kept)


def _rounded(value: Any) -> Any:
    """Keep four digits of every number."""
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
