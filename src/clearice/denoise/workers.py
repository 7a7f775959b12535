"""Several devices, a process each: work is handed out as it is asked for, and told back.

Only the process that started the others writes records. Each of the others has a pipe to it, asks
for a micrograph when it has room for one, and says what became of it; so a fast device does more,
and no two ever write the same file. What a process held when it died is given to the others, once:
a micrograph that ends two processes is counted as failed.

Source: nnU-Net's `data_iterators` looks after its processes by polling whether they are alive; a
pipe that ends says so by itself.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, final

import torch

from clearice.denoise.network import Recipe
from clearice.denoise.pipeline import Lanes
from clearice.denoise.plan import Job
from clearice.denoise.work import Done, Outcome, Work, denoise_jobs
from clearice.errors import ClearIceError, ClearIceWarning

Say = Callable[[str], None]
_MOST_TRIES: Final = 2
_SECONDS_TO_STOP: Final = 60.0


@final
class WorkerLostError(ClearIceError):
    """All processes are gone before the work was done."""


@final
class _StoppedError(Exception):
    """The process that handed out the work wants no more of it."""


def denoise_on_devices(
    jobs: Sequence[Job],
    recipe: Recipe,
    work: Work,
    devices: Sequence[torch.device],
    done: Done,
    say: Say,
) -> None:
    """Denoise micrographs on several devices, a process each.

    Args:
        jobs: The micrographs.
        recipe: How each process makes its denoiser.
        work: How micrographs are read and written.
        devices: One for each process; one may be named more than once.
        done: Called in this process with what became of each micrograph.
        say: Called with one line for each thing that the user should know.

    Raises:
        ClearIceError: A process met what ends the batch, such as a full disk, or all were lost.
    """
    if jobs:
        used = devices[: len(jobs)]
        _Crew(jobs, done, say).work([_start(recipe, work, device, len(used)) for device in used])


@dataclass(eq=False)
class _Worker:
    """A process as seen from the one that started it."""

    process: BaseProcess
    pipe: Connection
    device: torch.device
    holds: list[Job] = field(default_factory=list)
    asks: bool = False


def _start(recipe: Recipe, work: Work, device: torch.device, processes: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    threads = max(1, torch.get_num_threads() // processes)
    process = context.Process(
        target=_serve, args=(there, recipe, work, device, processes, threads), daemon=True
    )
    process.start()
    there.close()  # or its end would never be seen
    return _Worker(process, here, device)


@final
class _Crew:
    """The processes, and the work that is still to be done."""

    def __init__(self, jobs: Sequence[Job], done: Done, say: Say) -> None:
        self._waiting = deque(jobs)
        self._open = len(jobs)
        self._done, self._say = done, say
        self._tries: Counter[Job] = Counter()
        self._alive: list[_Worker] = []

    def work(self, workers: Sequence[_Worker]) -> None:
        """Hand out all work and see to its end."""
        self._alive = list(workers)
        try:
            while self._open:
                if not self._alive:
                    raise WorkerLostError(
                        f"all processes are gone and {self._open} micrographs are left; "
                        "give the same command again to go on"
                    )
                self._listen()
        finally:
            self._stop(workers)

    def _listen(self, timeout: float | None = None) -> bool:
        """Deal with what the processes say; return whether they said anything."""
        pipes = {worker.pipe: worker for worker in self._alive}
        ready = wait(list(pipes), timeout)
        for pipe in ready:
            worker = pipes[pipe]  # type: ignore[index]
            try:
                kind, *content = worker.pipe.recv()
            except (EOFError, OSError):
                self._mourn(worker)
                continue
            self._hear(worker, kind, content)
        return bool(ready)

    def _hear(self, worker: _Worker, kind: str, content: list[Any]) -> None:
        if kind == "ask":
            worker.asks = True
        elif kind == "done":
            job, outcome = content
            worker.holds.remove(job)
            self._finish(job, outcome)
        elif kind == "say":
            self._say(*content)
        else:
            raise content[0]
        self._hand_out()

    def _hand_out(self) -> None:
        for worker in self._alive:
            if worker.asks and self._waiting:
                job = self._waiting.popleft()
                worker.asks = False
                worker.holds.append(job)
                with suppress(OSError):  # it is gone, which its pipe will say
                    worker.pipe.send(job)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        self._open -= 1
        self._done(job, outcome)

    def _mourn(self, worker: _Worker) -> None:
        """Say that a process is gone and give what it held to the others."""
        self._alive.remove(worker)
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        again = [job for job in worker.holds if self._tries[job] + 1 < _MOST_TRIES]
        self._say(
            f"warning: the process for {worker.device} is gone ({how}); {len(again)} micrographs "
            "that it had go to the others"
        )
        for job in worker.holds:
            self._tries[job] += 1
            if job not in again:
                error = f"{job.source.path}: ended {_MOST_TRIES} processes ({how}); leave it out"
                self._finish(job, Outcome(error=error))
        self._waiting.extendleft(reversed(again))
        self._hand_out()

    def _stop(self, workers: Iterable[_Worker]) -> None:
        """Let the processes finish what they write, and hear of it."""
        for worker in self._alive:
            with suppress(OSError):
                worker.pipe.send(None)
        while self._alive:
            pipes = [worker.pipe for worker in self._alive]
            if not wait(pipes, _SECONDS_TO_STOP):
                break
            for worker in list(self._alive):
                self._hear_last(worker)
        for worker in workers:
            worker.pipe.close()
            if worker.process.is_alive():
                worker.process.join(10.0)
                worker.process.terminate()

    def _hear_last(self, worker: _Worker) -> None:
        try:
            while worker.pipe.poll():
                kind, *content = worker.pipe.recv()
                if kind == "done":
                    self._finish(*content)
        except (EOFError, OSError):
            self._alive.remove(worker)


def _serve(
    pipe: Connection,
    recipe: Recipe,
    work: Work,
    device: torch.device,
    processes: int,
    threads: int,
) -> None:
    """Denoise what is sent, until no more is."""
    # Ctrl-C reaches all processes of a terminal; the one that started them stops the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    warnings.showwarning = lambda message, category, *rest, **named: (
        pipe.send(("say", f"warning: {message}")) if issubclass(category, ClearIceWarning) else None
    )
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        asked = _Asked(pipe)
        lanes = Lanes.of(device, processes)
        denoise_jobs(asked, recipe.on(device), work, asked.tell, lanes)
    except (_StoppedError, EOFError, BrokenPipeError):
        pass  # nobody wants more
    except ClearIceError as error:
        with suppress(OSError):
            pipe.send(("raise", _portable(error)))
    finally:
        pipe.close()
        sys.stdout.flush()


def _portable(error: ClearIceError) -> ClearIceError:
    """Return an error that crosses processes, whatever its class takes to be made."""
    plain = ClearIceError(str(error))
    plain.exit_code = error.exit_code
    return plain


@final
class _Asked:
    """Jobs that are asked for one by one."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._asked = False

    def take(self, *, idle: bool) -> Job | None:
        """Return the next job if it has come, see `Source.take`."""
        if not self._asked:
            self._pipe.send(("ask",))
            self._asked = True
        if not idle and not self._pipe.poll():
            return None
        job: Job | None = self._pipe.recv()
        if job is None:
            raise _StoppedError
        self._asked = False
        return job

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Say what became of a job."""
        self._pipe.send(("done", job, outcome))
