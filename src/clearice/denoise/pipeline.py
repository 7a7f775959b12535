"""Reading, the network and writing, all at once, with a fixed number of micrographs in memory.

    reader threads → (read ahead) → this thread: network → writer threads → records

A micrograph enters only while fewer than `Lanes.in_flight` others are between the start of their
reading and the end of their writing, so memory does not grow with their number, and a slow disk
holds up the network rather than filling memory.

Source: nnU-Net's `predict_from_data_iterator` overlaps in the same three stages, with processes
and polled queues; threads do here, as reading and writing leave Python's lock alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, final

import torch

from clearice.devices import processors
from clearice.errors import InputFileError

J = TypeVar("J")
J_co = TypeVar("J_co", covariant=True)
L = TypeVar("L")
W = TypeVar("W")
R = TypeVar("R")


@dataclass(frozen=True)
class Lanes:
    """How much goes on side by side.

    Attributes:
        readers: Threads that read.
        writers: Threads that write.
        computing: Micrographs in the network: two keep a GPU busy.
    """

    readers: int = 1
    writers: int = 1
    computing: int = 1

    @classmethod
    def of(cls, device: torch.device, processes: int = 1) -> Lanes:
        """Return what suits a device that shares this machine with so many others like it.

        A GPU waits for disks, whose writes take longest; beside a CPU's network one thread each is
        enough.
        """
        if device.type != "cuda":
            return cls()
        share = processors() // processes
        return cls(max(1, min(4, share // 4)), max(1, min(6, share // 3)), 2)

    @property
    def ahead(self) -> int:
        """Most micrographs that are being read or wait for the network."""
        return self.readers + 1

    @property
    def leaving(self) -> int:
        """Most micrographs that are in the network or being written."""
        return self.computing + self.writers

    @property
    def in_flight(self) -> int:
        """Most micrographs in memory."""
        return self.ahead + self.leaving


class Source(Protocol[J_co]):
    """Where jobs come from."""

    def take(self, *, idle: bool) -> J_co | None:
        """Return the next job, or None if there is none right now.

        Args:
            idle: There is nothing else to do: wait for one.

        Raises:
            StopIteration: There are no more.
        """
        ...


@final
class Listed(Generic[J]):
    """Jobs that are all known."""

    def __init__(self, jobs: Iterable[J]) -> None:
        self._jobs = iter(jobs)

    def take(self, *, idle: bool) -> J | None:
        """Return the next job."""
        return next(self._jobs)


@final
class Overlapped(Generic[J, L, W, R]):
    """Jobs on their way through three stages, each beside the others.

    Args:
        source: The jobs, which are computed in the order in which they come.
        read: Called in reader threads.
        compute: Called in this thread; on a GPU it need not wait for the result.
        write: Called in writer threads.
        done: Called in this thread with what `write` returned, or with what is wrong with the job's
            files, as jobs end.
        lanes: How many.
    """

    def __init__(
        self,
        source: Source[J],
        read: Callable[[J], L],
        compute: Callable[[L], W],
        write: Callable[[J, W], R],
        done: Callable[[J, R | InputFileError], None],
        lanes: Lanes,
    ) -> None:
        self._source = source
        self._read, self._compute, self._write, self._done = read, compute, write, done
        self._lanes = lanes
        self._more = True
        self._reading: deque[tuple[J, Future[L]]] = deque()
        self._writing: dict[Future[R], J] = {}

    def run(self) -> None:
        """Do all jobs.

        Whatever ends this early, an error or Ctrl-C: what is being written is finished and told
        first.

        Raises:
            Exception: Whatever a stage raises, but for `InputFileError`.
        """
        with _threads(self._lanes.readers) as readers, _threads(self._lanes.writers) as writers:
            try:
                while self._more or self._reading or self._writing:
                    self._read_ahead(readers)
                    if self._reading and len(self._writing) < self._lanes.leaving:
                        self._compute_next(writers)
                    elif self._writing:
                        wait(self._writing, return_when=FIRST_COMPLETED)
                    self._report()
            except BaseException:
                self._finish_writing()
                raise

    def _read_ahead(self, readers: ThreadPoolExecutor) -> None:
        while self._more and len(self._reading) < self._lanes.ahead:
            try:
                job = self._source.take(idle=not self._reading and not self._writing)
            except StopIteration:
                self._more = False
                return
            if job is None:
                return
            self._reading.append((job, readers.submit(self._read, job)))

    def _compute_next(self, writers: ThreadPoolExecutor) -> None:
        job, loading = self._reading.popleft()
        try:
            loaded = loading.result()
        except InputFileError as error:
            self._done(job, error)
            return
        self._writing[writers.submit(self._write, job, self._compute(loaded))] = job

    def _report(self) -> None:
        for future in [future for future in self._writing if future.done()]:
            job = self._writing.pop(future)
            try:
                result: R | InputFileError = future.result()
            except InputFileError as error:
                result = error
            self._done(job, result)

    def _finish_writing(self) -> None:
        """Drop what has not begun to be written, and tell of what has."""
        for _, loading in self._reading:
            loading.cancel()
        self._writing = {f: job for f, job in self._writing.items() if not f.cancel()}
        wait(self._writing)
        while self._writing:
            # What fails too has nothing to add to what is being raised.
            with suppress(Exception):
                self._report()


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that compute by themselves: the network needs the processors."""
    own = torch.get_num_threads()
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool
    torch.set_num_threads(own)
