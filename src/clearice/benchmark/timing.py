"""Time device work: warm-up, repeats, median."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch

from clearice import __version__
from clearice.devices import describe_device

# Libraries choose kernels in the first calls, and a step is captured as a graph in its fourth.
WARM_UP = 5


def seconds(work: Callable[[], object], device: torch.device, budget_s: float = 2.0) -> float:
    """Return the median time of one call, after warm-up, within about `budget_s`."""

    def once() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for _ in range(WARM_UP):
        first = once()
    repeats = max(3, min(50, int(budget_s / max(first, 1e-6))))
    return statistics.median(once() for _ in range(repeats))


def context(device: torch.device) -> dict[str, Any]:
    """Return what a result must carry to be compared: device, versions, date."""
    return {
        "device": describe_device(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "clearice": __version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
