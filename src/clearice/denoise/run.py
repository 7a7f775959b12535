"""Denoise files, or the micrographs of a data set; one bad file never stops the rest."""

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
from clearice.denoise.network import Denoiser, describe_mismatch
from clearice.errors import BatchError, DatasetError, InputFileError, OutputError
from clearice.types import Micrograph

Progress = Callable[[int, int], None]
Say = Callable[[str], None]


def _ignore(*_: object) -> None:
    """Report nothing."""


def denoise_files(
    micrographs: Sequence[Path],
    denoiser: Denoiser,
    out: Path,
    pixel_size_angstrom: float | None = None,
    progress: Progress = _ignore,
    say: Say = _ignore,
) -> list[Path]:
    """Denoise micrographs into a folder, under the same names, headers kept.

    Args:
        micrographs: Files with one image each; results are MRC files.
        denoiser: The model.
        out: Folder for the results.
        pixel_size_angstrom: Å/px; overrides the headers.
        progress: Called with (files done, files in all).
        say: Called with one line for each thing that the user should know.

    Returns:
        The files written.

    Raises:
        OutputError: `out` cannot be written, or results would overwrite each other or their input.
        BatchError: Some files could not be denoised; the others were.
    """
    io.ensure_folder(out)
    _refuse_collisions(micrographs, out)
    written: list[Path] = []
    failures: list[str] = []
    for done, path in enumerate(micrographs):
        try:
            micrograph = io.read_micrograph(path, pixel_size_angstrom)
            written.append(_denoise_file(micrograph, denoiser, out / output_name(path), say))
        except InputFileError as error:
            failures.append(str(error))
        progress(done + 1, len(micrographs))
    if failures:
        raise BatchError(failures, len(micrographs))
    return written


def output_name(micrograph: Path) -> str:
    """Return the name of the MRC file that a micrograph of any format is denoised to."""
    if micrograph.suffix.lower() in {".mrc", ".mrcs"}:
        return micrograph.name
    return f"{io.stem(micrograph)}.mrc"


def _refuse_collisions(micrographs: Sequence[Path], out: Path) -> None:
    seen: dict[str, Path] = {}
    for path in micrographs:
        name = output_name(path)
        if name in seen:
            raise OutputError(
                f"{path} and {seen[name]} would write the same file; denoise them apart"
            )
        seen[name] = path
        if (out / name).resolve() == path.resolve():
            raise OutputError(f"{path}: would be overwritten; choose another --out")


def _denoise_file(micrograph: Micrograph, denoiser: Denoiser, target: Path, say: Say) -> Path:
    warning = describe_mismatch(denoiser.info, micrograph.pixel_size_angstrom)
    if warning:
        say(f"warning: {micrograph.path}: {warning}")
    io.write_mrc(
        target,
        denoiser(micrograph.pixels),
        None if micrograph.pixel_size_assumed else micrograph.pixel_size_angstrom,
        like=micrograph.path,
        label=f"clearice: denoised ({denoiser.label})",
    )
    return target


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
