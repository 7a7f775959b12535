"""Denoise the micrographs of a data set; one damaged stack never stops the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clearice import io
from clearice.data import (
    Affine,
    Dataset,
    MicrographEntry,
    Split,
    dose_weighted_mean,
    open_dataset,
)
from clearice.denoise.network import Denoiser
from clearice.errors import BatchError, DatasetError, InputFileError

Progress = Callable[[int, int], None]


def _ignore(*_: object) -> None:
    """Report nothing."""


def denoise_dataset(
    folder: Path,
    denoiser: Denoiser,
    out: Path,
    split: Split,
    *,
    halves: bool = False,
    progress: Progress = _ignore,
) -> list[Path]:
    """Denoise the full-dose micrographs of a data set (the inputs, where doses differ).

    Args:
        folder: The data set.
        denoiser: The model.
        out: Folder for `denoised/` and `raw/`.
        split: Which micrographs.
        halves: Also the even and odd halves, into `denoised_even/`, `raw_even/` and so on.
        progress: Called with (micrographs done, micrographs in all).

    Returns:
        The denoised full-dose files.

    Raises:
        DatasetError: The data set has no such micrographs, or no exchangeable halves.
        BatchError: Some stacks are missing or damaged; the others were denoised.
    """
    dataset = open_dataset(folder)
    entries = dataset.entries(split)
    if not entries:
        raise DatasetError(f"{folder}: has no {split.value} micrographs; choose another --split")
    exchangeable = dataset.manifest.roles == "exchangeable"
    if halves and not exchangeable:
        single = dataset.manifest.roles == "single"
        why = "it has single micrographs and no halves" if single else "its halves differ in dose"
        raise DatasetError(f"{folder}: {why}; denoise without --halves")
    parts = ("", "_even", "_odd") if halves else ("",)
    for part in parts:
        io.ensure_folder(out / f"denoised{part}")
        io.ensure_folder(out / f"raw{part}")
    failures: list[str] = []
    for done, entry in enumerate(entries):
        try:
            _denoise_entry(dataset, entry, denoiser, out, parts, exchangeable=exchangeable)
        except InputFileError as error:
            failures.append(str(error))
        progress(done + 1, len(entries))
    if failures:
        raise BatchError(failures, len(entries))
    return [out / "denoised" / f"{entry.name}.mrc" for entry in entries]


def _denoise_entry(
    dataset: Dataset,
    entry: MicrographEntry,
    denoiser: Denoiser,
    out: Path,
    parts: Sequence[str],
    *,
    exchangeable: bool,
) -> None:
    stack = dataset.stack(entry).float()
    affine = Affine(entry.mean, entry.std)
    groups = entry.shape[0]
    members = {
        "": range(groups if exchangeable else 1),
        "_even": range(0, groups, 2),
        "_odd": range(1, groups, 2),
    }
    for part in parts:
        chosen = members[part]
        weights = [entry.weights[i] for i in chosen]
        raw = dose_weighted_mean(stack[list(chosen)], weights)
        share = sum(weights) if part else 1.0
        denoised = denoiser.normalised(raw, share).cpu() * denoiser.info.output_gain
        how = {"raw": "", "denoised": f" ({denoiser.label})"}
        for kind, image in (("raw", raw), ("denoised", denoised)):
            io.write_mrc(
                out / f"{kind}{part}" / f"{entry.name}.mrc",
                affine.invert(image),
                dataset.manifest.pixel_size_angstrom,
                label=f"clearice: {kind}{part.replace('_', ' ')}{how[kind]}",
            )
