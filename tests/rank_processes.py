"""Processes that train together, as torchrun starts them."""

from __future__ import annotations

import socket
from pathlib import Path

from forked import Forked, start


def launch(size: int, *arguments: str | Path) -> list[Forked]:
    """Start a `clearice` command in so many processes, each with its place in the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    places = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [start(*arguments, environment=place, threads=1) for place in places]


def ended(ranks: list[Forked]) -> list[tuple[int, str]]:
    """Return the exit code of each rank, and what it said beside torch's own log."""
    results = []
    for code, out, err in [rank.end() for rank in ranks]:
        lines = (out + err).splitlines(keepends=True)
        results.append((code, "".join(line for line in lines if not line.startswith("[rank"))))
    return results
