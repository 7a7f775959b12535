"""Share cells among worker processes, several on one device where asked; none stops another."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch

from clearice import io
from clearice.devices import processors
from clearice.workflows.compare.cell import Job

_STOP_SECONDS = 60.0
_KILLED = -9  # what Linux does to a process when memory runs out
_WORKER = "clearice.workflows.compare.worker"

Progress = Callable[[float, int, str], None]


@final
class Pool:
    """Worker processes, one a slot; a slot is one of the trainings that share a device.

    Args:
        devices: Names of devices.
        jobs_per_device: Slots on each.
        logs: Folder of the workers' logs.
        held: Descriptors that workers keep open, so that a lock lasts as long as any of them.
    """

    def __init__(
        self, devices: Sequence[str], jobs_per_device: int, logs: Path, held: Sequence[int] = ()
    ) -> None:
        self._devices = devices
        self._slots = [device for _ in range(jobs_per_device) for device in devices]
        self._logs = logs
        self._held = held if os.name == "posix" else ()
        self._events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        self._waiting: deque[Job] = deque()
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()
        self._stopping = False

    def run(self, jobs: Sequence[Job], progress: Progress) -> dict[str, str]:
        """Do all jobs.

        Args:
            jobs: What to do, in this order.
            progress: Called with (jobs done, parts of jobs counted; jobs in all; a note).

        Returns:
            One message for each job that failed, by its name.

        Raises:
            KeyboardInterrupt: Asked to stop; trainings have saved their state.
        """
        io.ensure_folder(self._logs)
        self._waiting.extend(jobs)
        slots = self._slots[: len(jobs)]
        threads = [
            threading.Thread(target=self._serve, args=(slot, device, len(slots)), daemon=True)
            for slot, device in enumerate(slots)
        ]
        try:
            for thread in threads:
                thread.start()
            return self._follow([job.name for job in jobs], len(slots), progress)
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            self._kill()

    def _follow(self, names: Sequence[str], slots: int, progress: Progress) -> dict[str, str]:
        """Take what the slots report until all of them are at rest."""
        failures: dict[str, str] = {}
        shares: dict[int, float] = {}
        finished: set[str] = set()
        progress(0, len(names), "")
        while slots:
            try:  # with a limit, so that Ctrl-C is seen
                slot, event = self._events.get(timeout=0.2)
            except queue.Empty:
                continue
            match event["event"]:
                case "progress":
                    shares[slot] = event["done"] / event["total"]
                case "rest":
                    slots -= 1
                    shares.pop(slot, None)
                case kind:
                    finished.add(event["name"])
                    shares.pop(slot, None)
                    if kind == "failed":
                        failures[event["name"]] = f"{event['name']}: {event['message']}"
            note = f"{len(failures)} failed" if failures else ""
            progress(len(finished) + sum(shares.values()), len(names), note)
        lost = [name for name in names if name not in finished]
        return failures | {name: f"{name}: was not done, as its slot broke down" for name in lost}

    def _serve(self, slot: int, device: str, slots: int) -> None:
        """Feed one worker after the other until no job waits; runs in a thread of its own."""
        process: subprocess.Popen[str] | None = None
        try:  # whatever happens, those who wait for this slot must hear that it has ended
            while (job := self._next()) is not None:
                process = self._do_or_report(slot, device, slots, process, job)
            if process is not None:
                assert process.stdin is not None
                with suppress(OSError):
                    process.stdin.close()
                process.wait()
        finally:
            self._events.put((slot, {"event": "rest"}))

    def _do_or_report(
        self, slot: int, device: str, slots: int, process: subprocess.Popen[str] | None, job: Job
    ) -> subprocess.Popen[str] | None:
        """Have one job done; return the worker, if it can do another."""
        try:
            process = process or self._start(slot, device, slots)
            return process if process and self._do(slot, process, job) else None
        except OSError as error:
            message = f"its worker cannot run: {error}"
            self._events.put((slot, {"event": "failed", "name": job.name, "message": message}))
            return None

    def _next(self) -> Job | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting and not self._stopping else None

    def _start(self, slot: int, device: str, slots: int) -> subprocess.Popen[str] | None:
        # No more than this process has: the user may have asked for few.
        threads = max(1, min(torch.get_num_threads(), processors() // slots))
        sharing = -(-slots // len(self._devices))
        limits = dict.fromkeys(("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"), str(threads))
        with self._lock, self._log(slot).open("a", encoding="utf-8") as log:
            if self._stopping:
                return None
            self._processes[slot] = subprocess.Popen(
                [sys.executable, "-m", _WORKER, device, str(threads), str(sharing), str(slots)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                errors="replace",
                pass_fds=self._held,
                env={**os.environ, **limits},
                # Ctrl-C reaches the parent alone, which then asks each worker once.
                start_new_session=True,
            )
            return self._processes[slot]

    def _log(self, slot: int) -> Path:
        return self._logs / f"worker-{slot}.log"

    def _do(self, slot: int, process: subprocess.Popen[str], job: Job) -> bool:
        """Have one job done and report it; return False if the worker did not survive it."""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):  # if it is gone already, the next lines find out
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            event = _event(line)
            if event is None:
                continue
            self._events.put((slot, {"name": job.name, **event}))
            if event["event"] in {"done", "failed"}:
                return True
        code = process.wait()
        if not self._stopping:
            event = {"event": "failed", "name": job.name, "message": self._why(slot, code)}
            self._events.put((slot, event))
        return False

    def _why(self, slot: int, code: int) -> str:
        """Return the last line of a dead worker's log, which of a traceback is the error."""
        log = self._log(slot)
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else ""
        if code < 0:
            last = f"was killed by signal {-code}{' (out of memory?)' if code == _KILLED else ''}"
        return f"{last or f'ended with code {code}'}; see {log}"

    def _stop(self) -> None:
        """Ask every worker to save its state and end."""
        with self._lock:
            self._stopping = True
            for process in self._processes.values():
                process.terminate()
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)

    def _kill(self) -> None:
        with self._lock:
            self._stopping = True
            for process in self._processes.values():
                process.kill()


def _event(line: str) -> dict[str, Any] | None:
    """Return what a worker says; None for what else is printed before it has its own channel."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None
