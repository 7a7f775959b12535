"""What can be measured: training, denoising, losses, the loader."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from clearice import checkpoint
from clearice.benchmark import loader, losses
from clearice.benchmark.timing import context, seconds
from clearice.config import TrainConfig
from clearice.denoise import Denoiser
from clearice.losses import Objective
from clearice.networks import build_network, parameter_count, place
from clearice.train import make_step
from clearice.train.state import new_state
from clearice.types import PatchBatch

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


def _batch(device: torch.device, size: int, batch_size: int) -> PatchBatch:
    shape = (2, batch_size, 1, size, size)
    pair = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    return PatchBatch(pair[0], pair[1], torch.ones(batch_size, device=device))


def _train(device: torch.device, size: int, batch_size: int) -> list[Row]:
    """Time a whole training step; the baseline is plain float32 of the same network."""
    batch = _batch(device, size, batch_size)
    precisions = ("float32", "bfloat16") if device.type == "cuda" else ("float32",)
    rows: list[Row] = []
    for name in _NETWORKS:
        baseline = 0.0
        for precision in precisions:
            config = TrainConfig(network=name, precision=precision)
            network = place(build_network(name), device)
            state, objective = new_state(network, config), Objective(config.loss)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)

            step = make_step(state, objective, config, 10**6)

            def work(step=step):  # type: ignore[no-untyped-def]
                step(batch)

            rate = batch_size / seconds(work, device)
            baseline = baseline or rate
            rows.append(
                {
                    "network": name,
                    "precision": precision,
                    "parameters": parameter_count(network),
                    "patches_per_second": round(rate, 2),
                    "ratio_to_float32": round(rate / baseline, 2),
                    "peak_memory_gib": _peak_gib(device),
                }
            )
    return rows


def _peak_gib(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)


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
    "train": _train,
    "denoise": _denoise,
    "losses": losses.measure,
    "loader": loader.measure,
}
