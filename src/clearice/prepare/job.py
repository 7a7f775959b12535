"""One data set being written: micrographs side by side, and what could not be used."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import __version__, io
from clearice.config import PrepareConfig
from clearice.data import DatasetWriter, Manifest, MicrographEntry, Split, assign_splits
from clearice.devices import available_memory_bytes, processors
from clearice.errors import BatchError, DatasetError, InputFileError, OutputError
from clearice.prepare.checks import (
    CheckResult,
    MicrographChecks,
    check_micrograph,
    format_table,
    summarise,
)
from clearice.prepare.dose import DoseRoles
from clearice.prepare.movies import PreparedMicrograph
from clearice.prepare.pattern import PatternSource
from clearice.prepare.pattern_fix import fix_pattern
from clearice.prepare.scale import full_dose, normalise, normalised_truth

Progress = Callable[[int, int], None]
# These decide what a data set is for, not what is in its stacks.
_NOT_IN_STACKS = {
    "validation_fraction",
    "test_fraction",
    "seed",
    "fix_pattern",
}


@dataclass(frozen=True)
class Task:
    """One micrograph to be made.

    Attributes:
        name: Of the micrograph.
        sources: The files it is made from; the first is named in errors.
        read: Returns its groups, and what was done to them.
        detail: What else decides how it is made.
    """

    name: str
    sources: tuple[Path, ...]
    read: Callable[[], PreparedMicrograph]
    detail: str = ""


class Job:
    """Makes micrographs side by side, writes them, and reports once all is done.

    Args:
        out: Folder of the data set.
        config: Splits and overrides.
        truth: Folder with a noise-free image of the same name for each micrograph.
        roles: Which group may be input, which target.
        say: Called with one line for each thing that the user should know.
    """

    def __init__(
        self,
        out: Path,
        config: PrepareConfig,
        truth: Path | None,
        roles: DoseRoles,
        say: Callable[[str], None],
    ) -> None:
        self._writer = DatasetWriter(out)
        self._out = out
        self._config = config
        self._truth = truth
        self._roles = roles
        self._say = say
        self._checks: dict[str, MicrographChecks] = {}
        self._sources: dict[str, Path] = {}
        self.failures: list[str] = []

    def run(
        self,
        tasks: Sequence[Task],
        workers: int | None,
        bytes_each: Callable[[], int],
        progress: Progress,
    ) -> None:
        """Make all micrographs; one that fails does not stop the others.

        Args:
            tasks: One a micrograph.
            workers: Micrographs made at a time; None chooses.
            bytes_each: Measures what one needs of main memory at its peak, if that must be known.
            progress: Called with (micrographs done, micrographs in all).

        Raises:
            OutputError: The data set cannot be written; what was done is kept for the next try.
        """
        if workers is None:
            workers = default_workers(bytes_each(), available_memory_bytes())
        self._refuse_inputs_inside(tasks)
        self._sources.update((task.name, task.sources[0]) for task in tasks)
        with _shared_processors(workers), ThreadPoolExecutor(workers) as pool:
            try:
                coming = [pool.submit(self._attempt, task) for task in tasks]
                taken = 0
                for done, future in enumerate(coming):
                    message, reused = future.result()
                    taken += reused
                    if message is not None:
                        self.failures.append(message)
                    progress(done + 1, len(tasks))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._say_motion()
        unsure = sum(entry.hot_pixels is None for entry in self._writer.entries)
        if unsure:
            self._say(
                f"{unsure} micrographs: more pixels stand out than can be hot, or there are too "
                "few counts to tell; none was replaced (--defects can name them)"
            )
        if taken:
            self._say(f"{taken} micrographs were there already, from a preparation that stopped")

    def _say_motion(self) -> None:
        looked = [entry for entry in self._writer.entries if entry.motion is not None]
        if looked:
            still = sum(entry.shifts_px is None for entry in looked)
            self._say(
                f"motion: undone in {len(looked) - still} movies; {still} had none beyond its "
                "uncertainty and were left as they are"
            )

    def _refuse_inputs_inside(self, tasks: Sequence[Task]) -> None:
        """Refuse to read from where stacks are written to."""
        folders = {path.parent for task in tasks for path in task.sources}
        if self._truth is not None:
            folders.add(self._truth)
        out = self._out.resolve()
        for folder in sorted(folders):
            if folder.resolve().parent == out and folder.name in {"stacks", "truth", "corrected"}:
                raise OutputError(
                    f"{folder}: inputs lie where the data set would be written; choose another "
                    "--out"
                )

    def _attempt(self, task: Task) -> tuple[str | None, bool]:
        """Make one micrograph; returns why it could not be used, and whether it was there."""
        try:
            key = self._key(task)
            entry = self._writer.reuse(task.name, key)
            if entry is not None:
                self._look_again(entry, self._writer.stack(entry))
                return None, True
            self._add(task.read(), key)
        except InputFileError as error:
            return str(error), False
        except torch.OutOfMemoryError:
            return (
                f"{task.sources[0]}: needs more memory than the GPU has free; use fewer --workers, "
                "or --device cpu"
            ), False
        return None, False

    def _add(self, made: PreparedMicrograph, key: str) -> None:
        half_set = made.half_set
        normalised, affine = normalise(half_set, self._roles)
        truth = None
        if self._truth is not None:
            path = self._truth / f"{half_set.name}.mrc"
            image = io.read_micrograph(path, half_set.pixel_size_angstrom).pixels
            truth = normalised_truth(path, image, full_dose(half_set, self._roles))
        checks = self._look(
            half_set.name,
            normalised,
            half_set.weights,
            half_set.pixel_size_angstrom,
            made.dose_e_per_A2,
        )
        self._writer.add(
            half_set,
            normalised,
            affine,
            truth,
            key=key,
            shifts_px=made.moved_px,
            hot_pixels=made.hot_pixels,
            motion=made.motion,
            dose_e_per_A2=made.dose_e_per_A2,
            checks=checks,
        )

    def _look(
        self,
        name: str,
        groups: Float[Tensor, "k h w"],
        weights: tuple[float, ...],
        pixel_size_angstrom: float,
        dose_e_per_A2: float | None,
    ) -> dict[str, Any]:
        """Measure what is judged once all are there; return it for the record."""
        as_written = groups.half().float()  # so that a resumed run finds the same
        checks = check_micrograph(name, as_written, weights, pixel_size_angstrom, dose_e_per_A2)
        self._checks[name] = checks
        return checks.as_json()

    def _look_again(self, entry: MicrographEntry, groups: Float[Tensor, "k h w"]) -> dict[str, Any]:
        size = _pixel_size(entry)
        return self._look(entry.name, groups, entry.weights, size, entry.dose_e_per_A2)

    def _key(self, task: Task) -> str:
        """Return what identifies the stack that a task makes: its inputs and how they are used."""
        paths = list(task.sources)
        if self._truth is not None:
            paths.append(self._truth / f"{task.name}.mrc")
        paths += [path for path in (self._config.gain, self._config.defects) if path is not None]
        seen = []
        for path in paths:
            if not path.is_file():
                raise InputFileError(path, "does not exist", "check the path")
            state = path.stat()
            seen.append([str(path.resolve()), state.st_size, state.st_mtime_ns])
        settings = self._config.model_dump(mode="json", exclude=_NOT_IN_STACKS)
        what = json.dumps([__version__, seen, settings, repr(self._roles), task.detail])
        return hashlib.sha256(what.encode()).hexdigest()

    def finish(self, total: int, progress: Progress) -> Manifest:
        """Check and write what belongs to all, then report what could not be used.

        Args:
            total: How many micrographs there should have been.
            progress: Called while the fixed pattern is removed.

        Raises:
            DatasetError: No micrograph could be used.
            BatchError: Some could not; the data set holds the others.
        """
        self._drop_other_pixel_sizes()
        entries = self._writer.entries
        if not entries:
            raise DatasetError(
                f"{self._out}: no input could be used:\n  " + "\n  ".join(self.failures)
            )
        patterns = self._fix_pattern(progress) if self._config.fix_pattern else None
        splits = assign_splits([entry.name for entry in entries], self._config)
        results = self._check(splits)
        manifest = self._writer.finish(
            self._config,
            _pixel_size(entries[0]),
            input_target=not self._roles.equal,
            dose_ratio=self._roles.dose_ratio,
            target_gain=self._roles.target_gain,
            dose_e_per_A2=_usual_dose(entries),
            splits=splits,
            checks=[result.as_json() for result in results],
            fixed_pattern=None if patterns is None else {"shapes": patterns},
        )
        if self.failures:
            raise BatchError(self.failures, total)
        return manifest

    def _drop_other_pixel_sizes(self) -> None:
        entries = self._writer.entries
        sizes = [_pixel_size(entry) for entry in entries]
        if not sizes:
            return
        usual = Counter(round(size, 3) for size in sizes).most_common(1)[0][0]
        for entry, size in zip(entries, sizes, strict=True):
            if not io.same_pixel_size(size, usual):
                self._writer.drop(entry.name)
                self.failures.append(
                    f"{self._sources[entry.name]}: has {size:g} Å/px where most have {usual:g}; "
                    "prepare it apart, or give --pixel-size"
                )

    def _fix_pattern(self, progress: Progress) -> list[dict[str, Any]]:
        entries = self._writer.entries

        def write(index: int, clean: Tensor) -> None:
            entry = entries[index]
            checks = self._look_again(entry, clean)
            self._writer.rewrite(entry, clean, _pixel_size(entry), checks)

        sources = [
            PatternSource(
                name=entry.name,
                shape=entry.shape,
                read=lambda entry=entry: self._writer.stack(entry),  # type: ignore[misc]
                weights=entry.weights,
                scale=_gain_scale(entry),
            )
            for entry in entries
        ]
        input_target = not self._roles.equal
        reports = fix_pattern(sources, write, input_target=input_target, progress=progress)
        for report in reports:
            self._say(str(report))
        return [report.as_json() for report in reports]

    def _check(self, splits: dict[str, Split]) -> list[CheckResult]:
        results = summarise([self._checks[entry.name] for entry in self._writer.entries], splits)
        self._say(format_table(results))
        return results


def _pixel_size(entry: MicrographEntry) -> float:
    assert entry.pixel_size_angstrom is not None  # this version always writes it
    return entry.pixel_size_angstrom


def _usual_dose(entries: Sequence[MicrographEntry]) -> float | None:
    doses = [entry.dose_e_per_A2 for entry in entries if entry.dose_e_per_A2 is not None]
    return statistics.median(doses) if doses else None


def _gain_scale(entry: MicrographEntry) -> float:
    """Return how strong a residual gain is in a micrograph, after normalisation."""
    return entry.mean / entry.std if entry.mean > entry.std else 1.0


@contextmanager
def _shared_processors(workers: int) -> Iterator[None]:
    """Let all workers together start as many threads as there are processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_workers(bytes_each: int, available: int) -> int:
    """Return how many micrographs to make at a time: one a processor, if they fit into memory.

    Args:
        bytes_each: What one needs at its peak.
        available: Free memory, bytes; 0 if unknown.
    """
    fit = available // 2 // bytes_each if available else 1
    return max(1, min(processors(), fit))
