"""What every cell is judged by, made once: truth or reference, and the scores of plain filters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from clearice import io
from clearice.data import Affine, Dataset, MicrographEntry, dose_weighted_mean, open_dataset
from clearice.workflows.compare.cell import Job, score_images

FOLDER = "held-out"
Bar = Callable[[str], AbstractContextManager[Callable[..., None]]]
_BASELINES_NAME = "baselines.json"


def write_yardsticks(about: dict[str, Any], out: Path) -> None:
    """Write the truth or reference that lies in the data set, in the micrographs' own units."""
    data = open_dataset(Path(about["dataset"]))
    for role in ("truth", "reference"):
        folder = out / FOLDER / role
        if about[role] != str(folder.resolve()):
            continue
        io.ensure_folder(folder)
        gain = 1.0 if role == "truth" else data.manifest.target_gain
        for entry in _held_out(data, about):
            image = data.truth(entry)[0] if role == "truth" else data.stack(entry)[1]
            io.write_mrc(
                folder / f"{entry.name}.mrc",
                Affine(entry.mean, entry.std).invert(image.float() * gain),
                about["pixel_size_angstrom"],
                label=f"clearice: {role}",
            )


def _held_out(data: Dataset, about: dict[str, Any]) -> list[MicrographEntry]:
    names = set(about["micrographs"])
    return [entry for entry in data.manifest.micrographs if entry.name in names]


def baseline_scores(job: Job, about: dict[str, Any], out: Path, bar: Bar) -> dict[str, Any]:
    """Score the raw images and what plain filters make of them, once in a comparison.

    Args:
        job: One that is scored by all that there is.
        about: Of the comparison.
        out: Its folder.
        bar: Makes a progress bar from a label.

    Raises:
        BatchError: Some micrographs cannot be scored.
    """
    path = out / FOLDER / _BASELINES_NAME
    depends = {"dataset_sha256": job.dataset_sha256} | {
        key: job.evaluation[key] for key in ("split", "truth", "reference", "halves")
    }
    known = _read(path)
    if known.get("depends") == depends:
        return known["scores"]
    images = out / FOLDER / "images"
    shutil.rmtree(images, ignore_errors=True)  # of a comparison that was killed
    _write_raw(about, images, halves=job.halves)
    with bar("baselines") as update:
        scores = score_images(job, images, baselines=True, progress=update)
    shutil.rmtree(images)
    io.write_json(path, {"depends": depends, "scores": scores})
    return scores


def _read(path: Path) -> dict[str, Any]:
    """Return what was scored before; what cannot be read is scored again."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _write_raw(about: dict[str, Any], images: Path, *, halves: bool) -> None:
    """Write what cells find beside their denoised images."""
    data = open_dataset(Path(about["dataset"]))
    for entry in _held_out(data, about):
        groups = entry.shape[0] if about["roles"] == "exchangeable" else 1
        members = {"raw": range(groups)}
        if halves:
            members |= {"raw_even": range(0, groups, 2), "raw_odd": range(1, groups, 2)}
        stack = data.stack(entry).float()
        for name, chosen in members.items():
            io.ensure_folder(images / name)
            raw = dose_weighted_mean(stack[list(chosen)], [entry.weights[i] for i in chosen])
            io.write_mrc(
                images / name / f"{entry.name}.mrc",
                Affine(entry.mean, entry.std).invert(raw),
                about["pixel_size_angstrom"],
            )
