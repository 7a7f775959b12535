"""What can be measured: training, denoising, losses, the loader."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from clearice import checkpoint
from clearice.benchmark import loader, losses, train
from clearice.benchmark.timing import context, seconds
from clearice.denoise import Denoiser
from clearice.networks import build_network

Row = dict[str, Any]
# One of each kind; `clearice networks` lists more.
_NETWORKS: Final = ("cnn3", "rescnn12", "unet-small", "unet", "unet-large", "topaz-unet")


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


def _denoise(device: torch.device, size: int, batch_size: int) -> list[Row]:
    """Time whole micrographs through fresh networks; the baseline is the smallest network."""
    image = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in _NETWORKS:
            path = Path(folder) / f"{name}.safetensors"
            info = checkpoint.ModelInfo(name, 1.0, None, 1.0, "noisy", 0, {}, "")
            checkpoint.save(path, build_network(name).state_dict(), info, None)
            denoiser = Denoiser(path, device)
            taken = seconds(lambda denoiser=denoiser: denoiser(image), device)  # type: ignore[misc]
            rows.append({"network": name, "micrographs_per_second": round(1 / taken, 3)})
    for row in rows:
        ratio = row["micrographs_per_second"] / rows[0]["micrographs_per_second"]
        row["ratio_to_first"] = round(ratio, 3)
    return rows


_BENCHMARKS: Final[dict[str, Callable[[torch.device, int, int], list[Row]]]] = {
    "train": train.measure,
    "denoise": _denoise,
    "losses": losses.measure,
    "loader": loader.measure,
}
