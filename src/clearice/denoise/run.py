"""Denoise files into a folder that the next run goes on from; one bad file never stops the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.denoise.batch import Batch, Progress, Say, ignore
from clearice.denoise.lists import require_lists, write_lists
from clearice.denoise.network import Denoiser
from clearice.denoise.outputs import OutputOptions, save
from clearice.denoise.plan import Job, find_micrographs, plan_jobs
from clearice.denoise.work import Loaded

_DEFAULT_OPTIONS = OutputOptions()


def denoise_files(
    inputs: Sequence[Path],
    denoiser: Denoiser,
    out: Path,
    pixel_size_angstrom: float | None = None,
    progress: Progress = ignore,
    say: Say = ignore,
    *,
    options: OutputOptions = _DEFAULT_OPTIONS,
    settings: Mapping[str, Any] | None = None,
    dose_e_per_A2: float | None = None,
    devices: Sequence[torch.device] = (),
    force: bool = False,
) -> list[Path]:
    """Denoise micrographs into a folder, under the same names, headers kept.

    What is done is recorded in `denoise.json` and, at the end, in `denoise.csv`. The records let
    the same command go on where it was stopped.

    Args:
        inputs: Files with one image each, folders of them, whose sub-folders are kept, patterns,
            or one STAR list.
        denoiser: The model.
        out: Folder for the results.
        pixel_size_angstrom: Å/px; overrides lists and headers.
        progress: Called with (files done, files in all).
        say: Called with one line for each thing that the user should know.
        options: What is written.
        settings: Of `describe_run`, which tell whether an earlier result is current; without them
            all are done again.
        dose_e_per_A2: Of each micrograph, e/Å², if it is known.
        devices: Compute there, a process each, rather than where the denoiser is.
        force: Do all again.

    Returns:
        The results, also those that were there already.

    Raises:
        InputFileError: An input stands for nothing, or the records are damaged.
        OutputError: `out` cannot be written, or results would overwrite each other or their input.
        BatchError: Some files could not be denoised; the others were.
    """
    lists = require_lists(inputs)
    jobs = plan_jobs(find_micrographs(inputs, out), out, options.suffix)
    label = f"clearice: denoised ({denoiser.label})"
    if settings is not None:
        settings = {**settings, "format": options.format, "dtype": options.dtype}
    batch = Batch(
        jobs,
        FileWork(out, options, pixel_size_angstrom, label),
        out,
        settings,
        say,
        pixel_size_angstrom=pixel_size_angstrom,
        dose_e_per_A2=dose_e_per_A2,
        previews=options.previews,
        force=force,
    )
    results = batch.run(denoiser, progress, devices)
    for path in lists:
        write_lists(path, [job.target for job in jobs], set(results), out)
    batch.raise_failures()
    return results


@final
@dataclass(frozen=True)
class FileWork:
    """A micrograph from one file to one file.

    Attributes:
        out: Folder of the results.
        options: What is written.
        pixel_size_angstrom: Å/px; overrides lists and headers.
        label: Line for the files' headers.
    """

    out: Path
    options: OutputOptions
    pixel_size_angstrom: float | None
    label: str

    def load(self, job: Job) -> Loaded:
        """Read the micrograph."""
        size = self.pixel_size_angstrom or job.source.pixel_size_angstrom
        micrograph = io.read_micrograph(job.source.path, size)
        return Loaded(replace(micrograph, pixels=torch.empty(0, 0)), micrograph.pixels[None])

    def save(self, job: Job, loaded: Loaded, denoised: Float[Tensor, "k h w"]) -> None:
        """Write the result and its preview."""
        save(loaded.micrograph, denoised[0], job.target, self.out, self.options, self.label)
