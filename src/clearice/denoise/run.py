"""Denoise files into a folder that the next run goes on from; one bad file never stops the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clearice import io
from clearice.denoise.lists import require_lists, write_lists
from clearice.denoise.network import Denoiser, describe_mismatch
from clearice.denoise.outputs import OutputOptions, picture, save
from clearice.denoise.plan import Job, find_micrographs, plan_jobs, preview_of, remove_leftovers
from clearice.denoise.records import Ledger, Record, checksum_of
from clearice.errors import BatchError, InputFileError

Progress = Callable[[int, int], None]
Say = Callable[[str], None]
_DEFAULT_OPTIONS = OutputOptions()


def _ignore(*_: object) -> None:
    """Report nothing."""


def denoise_files(
    inputs: Sequence[Path],
    denoiser: Denoiser,
    out: Path,
    pixel_size_angstrom: float | None = None,
    progress: Progress = _ignore,
    say: Say = _ignore,
    *,
    options: OutputOptions = _DEFAULT_OPTIONS,
    settings: Mapping[str, Any] | None = None,
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
    run = _FileRun(denoiser, out, options, pixel_size_angstrom, say, settings, force, jobs)
    results = run.work(progress)
    for path in lists:
        write_lists(path, [job.target for job in jobs], set(results), out)
    if run.failures:
        raise BatchError(run.failures, len(jobs))
    return results


class _FileRun:
    """One batch: its jobs, what is current of them, and what became of each."""

    def __init__(
        self,
        denoiser: Denoiser,
        out: Path,
        options: OutputOptions,
        pixel_size_angstrom: float | None,
        say: Say,
        settings: Mapping[str, Any] | None,
        force: bool,
        jobs: Sequence[Job],
    ) -> None:
        self.failures: list[str] = []
        self._denoiser = denoiser
        self._out = out
        self._options = options
        self._pixel_size = pixel_size_angstrom
        self._say = say
        self._settings = {
            **(settings or {}),
            "format": options.format,
            "dtype": options.dtype,
            "pixel_size_angstrom": pixel_size_angstrom,
        }
        self._jobs = jobs
        self._prepare_folders()
        self._ledger = Ledger(out, self._settings, len(jobs))
        everything = force or settings is None
        self._current = set() if everything else {job for job in jobs if self._is_current(job)}

    def work(self, progress: Progress) -> list[Path]:
        """Do the jobs, and return the results that are there."""
        if self._current:
            self._say(f"{len(self._current)} of {len(self._jobs)} are done already")
        results: list[Path] = []
        try:
            for done, job in enumerate(self._jobs):
                record = self._do(job)
                self._ledger.add(record)
                if record.status != "failed":
                    results.append(job.target)
                progress(done + 1, len(self._jobs))
        finally:
            self._ledger.write()
        self._ledger.write_csv()
        return results

    def _prepare_folders(self) -> None:
        io.ensure_folder(self._out)
        outputs = [job.target for job in self._jobs]
        previews = [preview_of(target, self._out) for target in outputs]
        used = outputs + previews if self._options.previews else outputs
        for folder in dict.fromkeys(path.parent for path in used):
            if folder != self._out:
                io.ensure_folder(folder)
        remove_leftovers(outputs + previews, self._out)

    def _is_current(self, job: Job) -> bool:
        earlier = self._ledger.earlier(self._name(job))
        if earlier is None:
            return False
        now = self._identity(job)
        return all(getattr(earlier, field) == value for field, value in now.items())

    def _identity(self, job: Job) -> dict[str, Any]:
        """Return what an earlier record must agree in for its result to be current."""
        pixel_size = self._pixel_size or job.source.pixel_size_angstrom
        try:
            stat = job.source.path.stat()
            size, changed = stat.st_size, stat.st_mtime_ns
        except OSError:  # reading it will say why
            size, changed = 0, 0
        return {
            "input": str(job.source.path.absolute()),
            "input_bytes": size,
            "input_mtime_ns": changed,
            "made_with": checksum_of({**self._settings, "pixel_size_angstrom": pixel_size}),
        }

    def _name(self, job: Job) -> str:
        return job.target.relative_to(self._out).as_posix()

    def _do(self, job: Job) -> Record:
        start = time.monotonic()
        name = self._name(job)
        # Before it is read: a change from then on makes the result stale.
        identity = self._identity(job)
        try:
            if job in self._current:
                return self._keep(job)
            pixel_size = self._denoise(job)
        except InputFileError as error:
            self.failures.append(str(error))
            return Record(output=name, status="failed", error=str(error), **identity)
        return Record(
            output=name,
            status="done",
            seconds=round(time.monotonic() - start, 3),
            pixel_size_angstrom=pixel_size,
            output_bytes=job.target.stat().st_size,
            **identity,
        )

    def _keep(self, job: Job) -> Record:
        preview = preview_of(job.target, self._out)
        if self._options.previews and not preview.exists():
            io.write_png(preview, picture(io.read_image(job.target)))
        earlier = self._ledger.earlier(self._name(job))
        assert earlier is not None
        return replace(earlier, status="skipped")

    def _denoise(self, job: Job) -> float | None:
        """Write a result; return its pixel size, if it has one, Å/px."""
        denoiser, source = self._denoiser, job.source
        micrograph = io.read_micrograph(source.path, self._pixel_size or source.pixel_size_angstrom)
        warning = describe_mismatch(denoiser.info, micrograph.pixel_size_angstrom)
        if warning:
            self._say(f"warning: {micrograph.path}: {warning}")
        label = f"clearice: denoised ({denoiser.label})"
        denoised = denoiser(micrograph.pixels)
        save(micrograph, denoised, job.target, self._out, self._options, label)
        return None if micrograph.pixel_size_assumed else micrograph.pixel_size_angstrom
