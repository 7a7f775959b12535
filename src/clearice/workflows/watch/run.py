"""Look, denoise what has arrived, show it; until asked to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Event
from typing import Any, final

from clearice import io
from clearice.denoise import Denoiser, OutputOptions, denoise_files, output_name
from clearice.errors import BatchError, InputFileError, OutputError
from clearice.workflows.signals import stop_requests
from clearice.workflows.watch.arrivals import Arrivals, stamp_of
from clearice.workflows.watch.page import Board, State

Say = Callable[[str], None]
# So many files are denoised between two looks.
_BATCH = 64
_SECONDS_BETWEEN_NEWS = 2.0
# An idle page is written anew, so that whoever looks at it sees that the watch lives.
_HEARTBEAT_S = 30.0
# Walking a large tree over a network takes long: most of the time it is left alone.
_MOST_TIME_LOOKING = 0.2


@dataclass(frozen=True)
class WatchPlan:
    """What is watched, and how long.

    Attributes:
        folder: Where micrographs arrive, with all below it.
        out: Folder for the results, in the same tree.
        interval_s: Between two looks, s; longer where looking itself takes long.
        once: End when what is there is done.
        idle_exit_min: End when nothing has come for so long, min.
    """

    folder: Path
    out: Path
    interval_s: float = 2.0
    once: bool = False
    idle_exit_min: float | None = None


def watch(
    plan: WatchPlan,
    denoiser: Denoiser,
    settings: Mapping[str, Any],
    say: Say,
    *,
    options: OutputOptions,
    pixel_size_angstrom: float | None = None,
) -> int:
    """Denoise the micrographs of a folder as they arrive, and keep a page of them.

    The first Ctrl-C or SIGTERM ends it after the present micrograph, the second at once. What is
    done is recorded in `denoise.json` of each folder of results, and not done again.

    Args:
        plan: What is watched, and how long.
        denoiser: The model.
        settings: Of `describe_run`.
        say: Called with one line for each micrograph, and for what the user should know.
        options: What is written.
        pixel_size_angstrom: Å/px; overrides headers.

    Returns:
        How many micrographs were denoised by this call.

    Raises:
        InputFileError: There is no such folder, or records of an earlier run are damaged.
        OutputError: The results cannot be written, or would lie among the inputs.
        BatchError: Some micrographs could not be denoised.
    """
    if not plan.folder.is_dir():
        raise InputFileError(plan.folder, "is no folder", "check the path")
    if plan.out.resolve() == plan.folder.resolve():
        raise OutputError(f"{plan.out}: is what is watched; choose another --out")
    io.ensure_folder(plan.out)
    io.remove_partials(plan.out)
    with stop_requests() as stop:
        work = _Watch(plan, denoiser, settings, say, options, pixel_size_angstrom, stop)
        try:
            work.until_the_end()
        finally:
            work.show("stopped")
    if work.failures:
        raise BatchError(list(work.failures.values()), work.done + len(work.failures))
    return work.done


class _StopError(Exception):
    """Leaves a batch between two micrographs."""


@final
class _Watch:
    """One watch: what arrives, what became of it, and when it ends."""

    def __init__(
        self,
        plan: WatchPlan,
        denoiser: Denoiser,
        settings: Mapping[str, Any],
        say: Say,
        options: OutputOptions,
        pixel_size_angstrom: float | None,
        stop: Event,
    ) -> None:
        self.done = 0
        self.failures: dict[Path, str] = {}
        self._plan = plan
        self._denoiser = denoiser
        self._settings = settings
        self._say = say
        self._options = options
        self._pixel_size = pixel_size_angstrom
        self._stop = stop
        self._board = Board(plan.folder, plan.out, denoiser.label)
        self._known = self._board.known()
        self._arrivals = Arrivals(plan.folder, plan.out, self._known)
        self._shown = 0.0

    def until_the_end(self) -> None:
        """Look and work until asked to stop, or as the plan says."""
        self.show("watching")
        busy = time.monotonic()
        looks = 0
        while not self._stop.is_set():
            began = time.monotonic()
            last = self._plan.once and looks > 0
            ready = self._arrivals.look(last=last)
            took = time.monotonic() - began
            looks += 1
            if ready:
                self._take(ready)
            if ready or self._arrivals.arriving:
                busy = time.monotonic()
            if last or self._idle_too_long(busy):
                break
            if time.monotonic() - self._shown > _HEARTBEAT_S:
                self.show("watching")
            self._stop.wait(max(self._plan.interval_s, took / _MOST_TIME_LOOKING))
        if self._arrivals.arriving and not self._stop.is_set():
            self._say(f"{self._arrivals.arriving} files are still arriving, and were left")

    def show(self, state: State) -> None:
        """Write the page."""
        self._board.write(state, self._arrivals.arriving)
        self._shown = time.monotonic()

    def _idle_too_long(self, busy: float) -> bool:
        most = self._plan.idle_exit_min
        return most is not None and time.monotonic() - busy >= 60 * most

    def _take(self, files: Sequence[Path]) -> None:
        for folder, group in groupby(files, key=lambda path: path.parent):
            for batch in self._batches(list(group)):
                self._denoise(folder, batch)
                self.show("watching")
                if self._stop.is_set():
                    return

    def _batches(self, files: Sequence[Path]) -> Iterator[list[Path]]:
        """Yield files of one folder: those done before at once, the others a few at a time."""
        known = [path for path in files if self._known.get(path.absolute()) == stamp_of(path)]
        if known:
            yield known
        done = set(known)
        rest = [path for path in files if path not in done]
        for start in range(0, len(rest), _BATCH):
            yield rest[start : start + _BATCH]

    def _denoise(self, folder: Path, files: Sequence[Path]) -> None:
        """Denoise files of one folder into its counterpart."""
        out = self._plan.out / folder.relative_to(self._plan.folder)
        owners: dict[Path, Path] = {}
        free = [path for path in files if self._owns_its_result(path, out, owners)]
        if not free:
            return
        self._board.forget_failures(out)
        with suppress(BatchError, _StopError):  # the records tell which
            denoise_files(
                free,
                self._denoiser,
                out,
                self._pixel_size,
                partial(self._between_two, out, set(owners.values())),
                self._say,
                options=self._options,
                settings=self._settings,
            )
        self._tell(out, set(owners.values()))

    def _between_two(self, out: Path, files: Set[Path], done: int, total: int) -> None:
        if self._stop.is_set() and done < total:
            raise _StopError
        if time.monotonic() - self._shown > _SECONDS_BETWEEN_NEWS:
            self._tell(out, files)
            self.show("watching")

    def _owns_its_result(self, path: Path, out: Path, owners: dict[Path, Path]) -> bool:
        """Tell whether a result would be this micrograph's alone; if not, say so.

        Args:
            path: The micrograph.
            out: Folder for its result.
            owners: By result, absolute paths of those that own theirs; this one is added.
        """
        target, source = out / output_name(path, self._options.suffix), path.absolute()
        earlier = self._board.records.get(target)
        recorded = source if earlier is None else Path(earlier.input)
        owner = owners.get(target, recorded)
        if owner != source and owner.exists():
            self.failures[source] = f"{path}: {owner} has the same result, {target}; rename one"
            self._say(f"failed: {self.failures[source]}")
            return False
        owners[target] = source
        return True

    def _tell(self, out: Path, files: Set[Path]) -> None:
        """Say what became of the files that were just worked on."""
        for record in self._board.update(out).values():
            if Path(record.input) not in files:
                continue
            self.failures.pop(Path(record.input), None)
            if record.status == "failed":
                self.failures[Path(record.input)] = record.error or ""
                self._say(f"failed: {record.error}")
            elif record.status == "done":
                self.done += 1
                self._say(f"done: {self._board.place_of(record)} ({record.seconds:.1f} s)")
