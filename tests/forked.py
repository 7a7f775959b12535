"""Processes of their own that need not each load torch: forks of one that has loaded it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch

if sys.platform == "win32":
    _context = multiprocessing.get_context("spawn")
else:
    _context = multiprocessing.get_context("forkserver")
    # Optimisers import the compiler when they are first built.
    _context.set_forkserver_preload(["clearice.cli", "clearice.train", "torch._dynamo"])


class Ended(NamedTuple):
    """What became of a process."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Forked:
    """A process that was started.

    Attributes:
        process: To be watched.
        said: Folder with what it prints, in `out` and `err`.
    """

    process: BaseProcess
    said: Path = field(repr=False)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.is_alive()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.running:
            assert self.process.pid is not None
            os.kill(self.process.pid, number)

    def printed(self) -> str:
        """Return what it printed so far."""
        return (self.said / "out").read_text(encoding="utf-8")

    def end(self, timeout: float = 60) -> Ended:
        """Wait for its end, s at most."""
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
        out, err = ((self.said / name).read_text(encoding="utf-8") for name in ("out", "err"))
        shutil.rmtree(self.said)
        assert code is not None, f"hangs: {out}{err}"
        return Ended(code, out, err)


def start_code(
    code: str,
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Forked:
    """Start what `python -c code arguments` would run, with no module of clearice loaded yet.

    Args:
        code: Of a main module.
        *arguments: Its `sys.argv[1:]`.
        environment: Variables beside those of this process.
        threads: Of torch; as many as here if not given, since sums in another order round
            differently.
    """
    said = Path(tempfile.mkdtemp())
    for name in ("out", "err"):
        (said / name).touch()
    argv = ["-c", *map(str, arguments)]
    variables = {**os.environ, **(environment or {})}
    given = (code, argv, variables, threads or torch.get_num_threads(), said)
    process = _context.Process(target=_run, args=given, daemon=True)
    process.start()
    return Forked(process, said)


def start(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Forked:
    """Start a `clearice` command."""
    return start_code(_COMMAND, *arguments, environment=environment, threads=threads)


_COMMAND = "from clearice.cli import main; main()"


def _run(code: str, argv: list[str], environment: dict[str, str], threads: int, said: Path) -> None:
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(said / name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    for name in [name for name in sys.modules if name.split(".")[0] == "clearice"]:
        del sys.modules[name]  # what a module forgets to import is not there by chance
    sys.argv = argv
    exec(code, {"__name__": "__main__"})
