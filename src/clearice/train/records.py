"""What a run writes: its metrics, and its state as checkpoints. A full disk loses neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from clearice import checkpoint, io
from clearice.errors import OutputError
from clearice.train.board import Board
from clearice.train.loop import FitHooks, TrainReport
from clearice.train.samples import Samples
from clearice.train.state import TrainState, snapshot

METRICS_NAME = "metrics.jsonl"
SAMPLES_NAME = "samples"
BOARD_NAME = "tensorboard"
_NUMBERED = "step-*.safetensors"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def forget_after(step: int, out: Path) -> None:
    """Remove what a run wrote after the state it goes on from, and what a kill left half-written.

    Args:
        step: Of that state.
        out: Folder of the run.

    Raises:
        OutputError: The metrics cannot be written anew.
    """
    io.remove_partials(out)
    metrics = out / METRICS_NAME
    kept = [record for record in read_metrics(metrics) if record["step"] <= step]
    io.write_text(metrics, "".join(json.dumps(record) + "\n" for record in kept))
    for path in (*out.glob(_NUMBERED), *(out / SAMPLES_NAME).glob("step-*.png")):
        if path.stem > numbered(step):
            path.unlink()


def numbered(step: int) -> str:
    """Return the name of a numbered checkpoint, without its suffix; sorts by step."""
    return f"step-{step:09d}"


@final
class _Journal:
    """Lines at the end of a file; those that a full disk refused are written with the next.

    Args:
        path: The file, which is there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole = path.stat().st_size
        self._owed = b""

    def add(self, line: str) -> None:
        """Write a line.

        Raises:
            OutputError: It cannot be written now.
        """
        self._owed += f"{line}\n".encode()
        try:
            with self._path.open("rb+") as handle:
                handle.truncate(self._whole)  # half a line, of an earlier attempt
                handle.seek(self._whole)
                handle.write(self._owed)
        except OSError as error:
            raise OutputError(
                f"{self._path}: cannot be written ({error.strerror}); free space"
            ) from None
        self._whole += len(self._owed)
        self._owed = b""


@dataclass(frozen=True)
class _Saved:
    """What is saved of a training at one step."""

    step: int
    weights: dict[str, Tensor]
    info: checkpoint.ModelInfo
    snapshot: checkpoint.TrainingSnapshot

    def put_aside(self) -> _Saved:
        """Return a copy on the device that further steps do not change."""
        weights = {name: value.clone() for name, value in self.weights.items()}
        tensors = {name: value.clone() for name, value in self.snapshot.tensors.items()}
        return replace(self, weights=weights, snapshot=replace(self.snapshot, tensors=tensors))


@final
class Aside:
    """One thread that writes, one thing at a time, while training goes on.

    Args:
        device: Where what is written lies. On CUDA it is fetched beside the steps, not after those
            that are waiting to be computed.
    """

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._going: Future[None] | None = None

    def begin(self, work: Callable[[_Saved], None], saved: _Saved) -> None:
        """Let the thread work on what was put aside."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        self._going = self._pool.submit(self._do, work, saved)

    def _do(self, work: Callable[[_Saved], None], saved: _Saved) -> None:
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            work(saved)

    def wait(self) -> None:
        """Wait for the thread; what it raised is raised here."""
        going, self._going = self._going, None
        if going is not None:
            going.result()


@final
class Recorder:
    """Writes metrics and checkpoints, and keeps the last report.

    What cannot be written is told, kept in memory and tried again at the next save: training that
    took hours does not end for a disk that was full for minutes. Training on a GPU goes on while a
    thread writes what was put aside on the device; `check` and `close` wait for it.

    Args:
        state: Of the training.
        out: Folder of the run, with its metrics.
        describe: Says what to know about the model as it is now.
        keep: Numbered checkpoints beside the last and the best.
        report: Called with each report.
        tick: Called after each step.
        say: Called with one line for the user.
        samples: Draws pictures at each validation.
        board: Shows the reports.
        aside: Where to write from while training goes on; None writes at once.
    """

    def __init__(
        self,
        state: TrainState,
        out: Path,
        describe: Callable[[], checkpoint.ModelInfo],
        keep: int,
        report: Callable[[TrainReport], None],
        tick: Callable[[int, int], None],
        say: Callable[[str], None],
        samples: Samples | None = None,
        board: Board | None = None,
        *,
        aside: Aside | None = None,
    ) -> None:
        self._samples, self._board = samples, board
        self._state, self._out, self._describe, self._keep = state, out, describe, keep
        self._report, self._say = report, say
        self._best: tuple[dict[str, Tensor], checkpoint.ModelInfo] | None = None
        self.last: TrainReport | None = None
        self.failure: OutputError | None = None
        self._aside = aside
        if state.ranks.place.first:
            self._journal = _Journal(out / METRICS_NAME)
            self.hooks = FitHooks(self._on_report, self._on_save, self._settle, tick)
        else:  # what all ranks hold alike is written by one of them
            self.hooks = FitHooks(self._on_other_report, lambda best: None, lambda: None, tick)

    def check(self) -> None:
        """Raise what kept the last save from being written, if so.

        Raises:
            OutputError: The files are older than the state.
        """
        self._settle()
        if self.failure is not None:
            raise OutputError(
                f"{self.failure} (step {self._state.step} is not saved; with space, go on from "
                "the last save with --resume)"
            )

    def _on_other_report(self, report: TrainReport) -> None:
        self.last = report

    def _on_report(self, report: TrainReport) -> None:
        device = self._state.gradient_norms.device
        if device.type == "cuda":
            memory = torch.cuda.max_memory_reserved(device)
            report = replace(report, device_memory_bytes=memory)
        self.last = report
        try:
            self._journal.add(json.dumps(asdict(report)))
            self._show(report)
        except OutputError as error:
            self._say(f"warning: {error}")
        self._report(report)

    def _show(self, report: TrainReport) -> None:
        if self._board is not None:
            self._board.scalars(report)
        if self._samples is not None and report.validation is not None:
            self._samples(report)

    def close(self) -> None:
        """Write what is waiting."""
        self._settle()
        try:
            if self._samples is not None:
                self._samples.close()
        except OutputError as error:
            self._say(f"warning: {error}")
        if self._board is not None:
            self._board.close()

    def _on_save(self, best: bool) -> None:
        self._settle()
        if best:
            weights = {name: value.clone() for name, value in self._state.average.items()}
            self._best = weights, self._describe()
        saved = _Saved(
            self._state.step, self._state.average, self._describe(), snapshot(self._state)
        )
        if self._aside is None:
            self._save(saved)
        else:
            self._aside.begin(self._save, saved.put_aside())

    def _settle(self) -> None:
        """Wait until what was put aside is written, or is known not to be."""
        if self._aside is not None:
            self._aside.wait()

    def _save(self, saved: _Saved) -> None:
        try:
            # In this order: the state knows the best score, which its weights must not fall behind.
            if self._best is not None:
                checkpoint.save(self._out / checkpoint.BEST_NAME, *self._best, None)
                self._best = None
            last = self._out / checkpoint.LAST_NAME
            checkpoint.save(last, saved.weights, saved.info, saved.snapshot)
            self.failure = None
        except OutputError as error:
            self.failure = error
            self._say(f"warning: {error}; training goes on and tries again at the next save")
        else:
            self._number(saved.step)

    def _number(self, step: int) -> None:
        """Keep a numbered copy of the last checkpoint, and remove the oldest one."""
        if not self._keep:
            return
        last, name = self._out / checkpoint.LAST_NAME, numbered(step)
        try:
            io.copy_file(last, self._out / f"{name}.safetensors")
        except OutputError as error:
            self._say(f"warning: {error}; {checkpoint.LAST_NAME} is saved, its copy is left out")
            return
        for old in sorted(self._out.glob(_NUMBERED))[: -self._keep]:
            old.unlink(missing_ok=True)
