"""What can be measured: training, denoising, losses, the loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from clearice.benchmark import denoise, loader, losses, train
from clearice.benchmark.timing import context

Row = dict[str, Any]


def run(what: str, device: torch.device, size: int, batch_size: int) -> dict[str, Any]:
    """Measure one thing.

    Args:
        what: `train`, `denoise`, `losses` or `loader`.
        device: Where.
        size: Edge of a patch (of a micrograph for `denoise`), px.
        batch_size: Patches in a step.

    Returns:
        `rows`, one a variant, with `context` and the configuration.
    """
    rows = _BENCHMARKS[what](device, size, batch_size)
    setup = {"benchmark": what, "size": size, "batch_size": batch_size}
    return {**setup, "context": context(device), "rows": rows}


_BENCHMARKS: Final[dict[str, Callable[[torch.device, int, int], list[Row]]]] = {
    "train": train.measure,
    "denoise": denoise.measure,
    "losses": losses.measure,
    "loader": loader.measure,
}
