"""A process that does cells: jobs come in as lines of JSON, what becomes of them goes out so."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, TextIO

import torch

from clearice.errors import ClearIceError, TrainingInterruptedError
from clearice.workflows.compare.cell import Job, Neighbours, run_cell

_TICK_SECONDS = 0.5


class _Channel:
    """The way back to the parent, apart from whatever else is printed."""

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._last = 0.0

    def send(self, **event: Any) -> None:
        with suppress(OSError):  # a parent that is gone must not keep the state from being saved
            self._out.write(json.dumps(event) + "\n")
            self._out.flush()

    def tick(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _TICK_SECONDS:
            self._last = now
            self.send(event="progress", done=done, total=total)


def _read_jobs(jobs: queue.Queue[Job | None], busy: threading.Event) -> None:
    """Pass jobs on; when the parent is gone, stop as if it had asked to."""
    for line in sys.stdin:
        jobs.put(Job(**json.loads(line)))
    jobs.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)  # noqa: T201  (standard error is the log)


def main() -> None:
    """Do jobs until the parent closes its end."""
    channel = _Channel()
    device = torch.device(sys.argv[1])
    threads, sharing, slots = map(int, sys.argv[2:5])
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    jobs: queue.Queue[Job | None] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_read_jobs, args=(jobs, busy), daemon=True).start()
    while (job := jobs.get()) is not None:
        busy.set()
        _log(f"== {job.name}")
        outcome = {"event": "done"}
        try:
            run_cell(job, device, Neighbours(sharing, slots), channel.tick, _log)
        except TrainingInterruptedError as stopped:
            _log(str(stopped))
            sys.exit(stopped.exit_code)
        except ClearIceError as error:
            _log(str(error))
            outcome = {"event": "failed", "message": str(error)}
        busy.clear()  # first, as the parent may close its end on hearing this
        channel.send(**outcome)


if __name__ == "__main__":
    main()
