"""A folder of results that the next run goes on from, of any kind of micrographs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch

from clearice import io
from clearice.denoise.depth import warning_of
from clearice.denoise.network import Denoiser, describe_dose_mismatch, describe_mismatch
from clearice.denoise.outputs import picture
from clearice.denoise.pipeline import Lanes, Listed
from clearice.denoise.plan import Job, preview_of, remove_leftovers
from clearice.denoise.records import Ledger, Record, checksum_of
from clearice.denoise.work import Done, Outcome, Work, denoise_jobs, state_of
from clearice.denoise.workers import denoise_on_devices
from clearice.errors import BatchError, InputFileError, OutputError

Progress = Callable[[int, int], None]
Say = Callable[[str], None]
# Of each kind of warning; how many more there are is said at the end.
_LINES_OF_A_KIND = 3


def ignore(*_: object) -> None:
    """Report nothing."""


@final
class Batch:
    """Micrographs to denoise, what is current of them, and what became of each.

    Args:
        jobs: The micrographs.
        work: How they are read and written.
        out: Folder of the results.
        settings: That decide the results beside the inputs; None: nothing is current.
        say: Called with one line for each thing that the user should know.
        pixel_size_angstrom: Å/px; overrides lists and headers.
        dose_e_per_A2: Of each micrograph, e/Å², if it is known.
        previews: Pictures are written.
        force: Do all again.

    Raises:
        InputFileError: The records of earlier runs are damaged.
        OutputError: `out` cannot be written, or a result would overwrite an input.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        work: Work,
        out: Path,
        settings: Mapping[str, Any] | None,
        say: Say = ignore,
        *,
        pixel_size_angstrom: float | None = None,
        dose_e_per_A2: float | None = None,
        previews: bool = False,
        force: bool = False,
    ) -> None:
        self.failures: dict[Job, str] = {}
        self._jobs, self._work, self._out, self._say = jobs, work, out, say
        self._settings = {**(settings or {}), "pixel_size_angstrom": pixel_size_angstrom}
        self._pixel_size = pixel_size_angstrom
        self._dose = dose_e_per_A2
        self._previews = previews
        self._warned: Counter[str] = Counter()
        self._finished: set[Path] = set()
        self._keep_inputs()
        self._prepare_folders()
        self._ledger = Ledger(out, self._settings, [self._name(job) for job in jobs])
        everything = force or settings is None
        self._current = set() if everything else {job for job in jobs if self._is_current(job)}

    def run(
        self, denoiser: Denoiser, progress: Progress, devices: Sequence[torch.device] = ()
    ) -> list[Path]:
        """Denoise what is not current.

        Args:
            denoiser: The model.
            progress: Called with (micrographs done, micrographs in all).
            devices: Compute there, a process each, rather than where the denoiser is.

        Returns:
            The results that are there, in the order of the jobs.

        Raises:
            OutputError: A result cannot be written.
        """
        total = len(self._jobs)
        self._warn_of_dose(denoiser)

        def done(job: Job, outcome: Outcome) -> None:
            self._take(job, outcome, denoiser)
            progress(len(self._finished) + len(self.failures), total)

        try:
            if self._current:
                self._say(f"{len(self._current)} of {total} are done already")
                self._keep_current(denoiser)
                progress(len(self._finished) + len(self.failures), total)
            self._denoise(
                [job for job in self._jobs if job not in self._current], denoiser, devices, done
            )
        finally:
            self._ledger.write()
            self._summarise_warnings()
        self._ledger.write_csv()
        return [job.target for job in self._jobs if job.target in self._finished]

    def raise_failures(self) -> None:
        """Raise `BatchError` if some micrographs could not be denoised; the others were."""
        failed = [self.failures[job] for job in self._jobs if job in self.failures]
        if failed:
            raise BatchError(failed, len(self._jobs))

    def _denoise(
        self, jobs: Sequence[Job], denoiser: Denoiser, devices: Sequence[torch.device], done: Done
    ) -> None:
        if devices:
            denoise_on_devices(jobs, denoiser.recipe, self._work, devices, done, self._say)
        else:
            lanes = Lanes.of(denoiser.device)
            denoise_jobs(Listed(jobs), denoiser, self._work, done, lanes)

    def _keep_inputs(self) -> None:
        inputs = {path.resolve() for job in self._jobs for path in job.inputs}
        for path in (path for job in self._jobs for path in job.outputs):
            if path.resolve() in inputs:
                raise OutputError(f"{path}: would be overwritten; choose another --out")

    def _prepare_folders(self) -> None:
        io.ensure_folder(self._out)
        outputs = [path for job in self._jobs for path in job.outputs]
        previews = [preview_of(job.target, self._out) for job in self._jobs]
        used = outputs + previews if self._previews else outputs
        for folder in dict.fromkeys(path.parent for path in used):
            if folder != self._out:
                io.ensure_folder(folder)
        remove_leftovers(outputs + previews, self._out)

    def _name(self, job: Job) -> str:
        return job.target.relative_to(self._out).as_posix()

    def _is_current(self, job: Job) -> bool:
        earlier = self._ledger.earlier(self._name(job), job.outputs)
        if earlier is None:
            return False
        now = self._identity(job, *state_of(job))
        return all(getattr(earlier, field) == value for field, value in now.items())

    def _identity(self, job: Job, size: int, changed: int) -> dict[str, Any]:
        """Return what an earlier record must agree in for its result to be current."""
        pixel_size = self._pixel_size or job.source.pixel_size_angstrom
        counted = {**self._settings, "pixel_size_angstrom": pixel_size}
        if job.partner is not None:
            counted["partner"] = str(job.partner.absolute())
        return {
            "input": str(job.source.path.absolute()),
            "input_bytes": size,
            "input_mtime_ns": changed,
            "made_with": checksum_of(counted),
        }

    def _keep_current(self, denoiser: Denoiser) -> None:
        for job in self._jobs:
            if job not in self._current:
                continue
            earlier = self._ledger.earlier(self._name(job), job.outputs)
            assert earlier is not None
            try:
                self._restore_preview(job)
            except InputFileError as error:
                self._take(job, Outcome(error=str(error)), denoiser)
                continue
            self._ledger.add(replace(earlier, status="skipped"))
            self._finished.add(job.target)

    def _restore_preview(self, job: Job) -> None:
        preview = preview_of(job.target, self._out)
        if self._previews and not preview.exists():
            io.write_png(preview, picture(io.read_image(job.target)))

    def _take(self, job: Job, outcome: Outcome, denoiser: Denoiser) -> None:
        """Record what became of a micrograph."""
        name = self._name(job)
        identity = self._identity(job, outcome.input_bytes, outcome.input_mtime_ns)
        if outcome.error is not None:
            self.failures[job] = outcome.error
            record = Record(output=name, status="failed", error=outcome.error, **identity)
            self._ledger.add(record)
            return
        size = outcome.pixel_size_angstrom
        self._finished.add(job.target)
        self._ledger.add(
            Record(
                output=name,
                status="done",
                seconds=outcome.seconds,
                pixel_size_angstrom=None if outcome.pixel_size_assumed else size,
                output_bytes=outcome.output_bytes,
                out_of_depth=None if outcome.excess is None else round(outcome.excess, 3),
                **identity,
            )
        )
        self._warn(
            job, "have a pixel size far from the model's", describe_mismatch(denoiser.info, size)
        )
        if outcome.excess is not None:
            warning = warning_of(outcome.excess, outcome.excess_trait)
            self._warn(job, "are unlike what the model has seen", warning)

    def _warn(self, job: Job, kind: str, warning: str | None) -> None:
        """Tell of the first few of a kind, and count all."""
        if warning is None:
            return
        self._warned[kind] += 1
        if self._warned[kind] <= _LINES_OF_A_KIND:
            self._say(f"warning: {job.source.path}: {warning}")

    def _warn_of_dose(self, denoiser: Denoiser) -> None:
        if warning := describe_dose_mismatch(denoiser.info, self._dose):
            self._say(f"warning: {warning}")

    def _summarise_warnings(self) -> None:
        for kind, count in self._warned.items():
            if count > _LINES_OF_A_KIND:
                self._say(f"warning: {count - _LINES_OF_A_KIND} more {kind}")
