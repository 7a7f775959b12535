"""Processes that train together, as torchrun starts them, without each loading torch anew."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_server = multiprocessing.get_context("forkserver")
# Optimisers import the compiler when they are first built.
_server.set_forkserver_preload(["clearice.cli", "clearice.train", "torch._dynamo"])


@dataclass(frozen=True)
class RankProcess:
    """One of them.

    Attributes:
        process: To be watched, signalled or killed.
        log: File with all that it says.
    """

    process: ForkServerProcess
    log: Path

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """Wait for it and return its exit code and all that it said."""
        self.process.join(60)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"hangs: {self.log.read_text()}")
        return self.process.exitcode, self.log.read_text()


def launch(size: int, logs: Path, *arguments: str | Path) -> list[RankProcess]:
    """Start a `clearice` command in so many processes, each with its place in the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    ranks = []
    for rank in range(size):
        place = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        log = logs / f"port{port}-rank{rank}.log"
        given = (list(map(str, arguments)), place, log)
        process = _server.Process(target=_command, args=given, daemon=True)
        process.start()
        ranks.append(RankProcess(process, log))
    return ranks


def ended(ranks: list[RankProcess]) -> list[tuple[int, str]]:
    """Return the exit code and messages of each rank."""
    return [rank.end() for rank in ranks]


def _command(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    import torch

    from clearice.cli import run

    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    sys.exit(run(arguments))
