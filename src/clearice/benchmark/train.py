"""Training steps of each network: what the program does by itself against plain PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import torch
from torch import nn
from torch.nn import functional

from clearice.benchmark.steps import noise_batch, timed, trainer
from clearice.benchmark.timing import WARM_UP, seconds
from clearice.config import TrainConfig
from clearice.devices import has_fast_bfloat16
from clearice.networks import build_network, parameter_count
from clearice.networks.cost import cost
from clearice.types import PatchBatch

Row = dict[str, Any]
Precision = Literal["float32", "bfloat16", "float16"]
_NETWORKS: Final = ("cnn3", "rescnn12", "unet", "unet-large", "topaz-unet", "nafnet")
_ROUNDS: Final = 5
_SECONDS_A_ROUND: Final = 0.3
_MOST_STEPS: Final = 50
# Of a training step in those of a forward pass, after `networks.cost`.
_FLOPS_FACTOR: Final = 3
_BYTES_FACTOR: Final = 2


@dataclass(frozen=True)
class Peaks:
    """What the device does at best, measured.

    Attributes:
        flops: Floating-point operations a second, in the largest product of matrices.
        bytes: Read and written a second, in the largest copy.
    """

    flops: float
    bytes: float


def measure(device: torch.device, size: int, batch_size: int) -> list[Row]:
    """Time steps of each network, the two ways in turns, and compare with the device's peaks.

    The baseline is what one would write: float32 without TF32, the usual memory layout, mean
    squared error, AdamW; no clipping, no averaged weights, no CUDA graph. The program does all of
    these, and computes in the precision that it picks for the device.

    Args:
        device: Where.
        size: Edge of a patch, px.
        batch_size: Patches in a step.
    """
    batch = noise_batch(device, size, batch_size)
    precision = own_precision(device)
    peaks = measure_peaks(device, precision)
    rows = [_row(name, precision, batch, peaks) for name in _NETWORKS]
    note = "largest product of matrices, largest copy"
    return [
        *rows,
        {
            "device_peak": note,
            "precision": precision,
            "teraflops": round(peaks.flops / 1e12, 3),
            "gigabytes_per_second": round(peaks.bytes / 1e9, 2),
        },
    ]


def own_precision(device: torch.device) -> Precision:
    """Return the precision that the program picks."""
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if has_fast_bfloat16(device) else "float16"


def measure_peaks(device: torch.device, precision: Precision) -> Peaks:
    """Measure the largest rate of arithmetic in a precision, and of memory traffic."""
    cuda = device.type == "cuda"
    edge, values = (8192, 2**29) if cuda else (1024, 2**24)
    matrix = torch.randn(edge, edge, device=device, dtype=getattr(torch, precision))
    product = torch.empty_like(matrix)
    flops = 2 * edge**3 / seconds(lambda: torch.mm(matrix, matrix, out=product), device, 0.5)
    source = torch.zeros(values, device=device, dtype=torch.float16)
    copy = torch.empty_like(source)
    return Peaks(flops, 4 * values / seconds(lambda: copy.copy_(source), device, 0.5))


@final
class _Way:
    """One way to take steps: its times, and what it took to set up.

    Args:
        build: Returns what takes steps.
        device: Where.
    """

    def __init__(self, build: Callable[[], Callable[[int], float]], device: torch.device) -> None:
        before = _allocated(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        self.steps = build()
        self.steps(WARM_UP)
        self.setup_seconds = round(time.perf_counter() - start, 2)
        once = min(self.steps(1) for _ in range(2))
        self.count = max(1, min(_MOST_STEPS, int(_SECONDS_A_ROUND / once)))
        self.peak_gib = None
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) - before
            self.peak_gib = round(peak / 2**30, 2)

    def round(self) -> float:
        """Return the time of one step, s."""
        return self.steps(self.count)


def _allocated(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)


def _row(name: str, precision: Precision, batch: PatchBatch, peaks: Peaks) -> Row:
    """Time one network both ways."""
    device = batch.input.device
    config = TrainConfig(network=name, precision=precision)
    with _strict_float32():
        plain = _Way(lambda: plain_trainer(name, batch), device)
    own = _Way(lambda: trainer(config, batch), device)
    times: list[tuple[float, float]] = []
    for _ in range(_ROUNDS):
        with _strict_float32():
            baseline = plain.round()
        times.append((baseline, own.round()))
    slow, fast = (statistics.median(way) for way in zip(*times, strict=True))
    ratios = [a / b for a, b in times]
    n = len(batch.input)
    network = build_network(name)
    return {
        "network": name,
        "precision": precision,
        "parameters": parameter_count(network),
        "plain_milliseconds": round(1e3 * slow, 3),
        "milliseconds": round(1e3 * fast, 3),
        "plain_patches_per_second": round(n / slow, 2),
        "patches_per_second": round(n / fast, 2),
        "ratio_to_plain": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "plain_peak_gib": plain.peak_gib,
        "peak_gib": own.peak_gib,
        "plain_setup_seconds": plain.setup_seconds,
        "setup_seconds": own.setup_seconds,
        **roofline(network, batch.input.shape[-1], n, precision, fast, peaks),
    }


def roofline(
    network: nn.Module,
    size: int,
    batch_size: int,
    precision: Precision,
    step_s: float,
    peaks: Peaks,
) -> Row:
    """Return what a step computes and moves at least, and the shares of the peaks reached.

    Args:
        network: Any.
        size: Edge of a patch, px.
        batch_size: Patches in a step.
        precision: Of its activations.
        step_s: Time of a step, s.
        peaks: Of the device.
    """
    once = cost(network, size, bytes_per_value=getattr(torch, precision).itemsize)
    flops = _FLOPS_FACTOR * batch_size * once.flops
    moved = _BYTES_FACTOR * batch_size * once.activation_bytes
    bound = max(flops / peaks.flops, moved / peaks.bytes)
    return {
        "gigaflops_per_step": round(flops / 1e9, 2),
        "gigabytes_per_step": round(moved / 1e9, 3),
        "percent_of_peak_flops": round(100 * flops / peaks.flops / step_s, 1),
        "percent_of_peak_bytes": round(100 * moved / peaks.bytes / step_s, 1),
        "roofline_milliseconds": round(1e3 * bound, 3),
        "bound_by": "flops" if flops / peaks.flops > moved / peaks.bytes else "bytes",
    }


@contextmanager
def _strict_float32() -> Iterator[None]:
    """Keep TF32 out of what runs inside."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def plain_trainer(name: str, batch: PatchBatch) -> Callable[[int], float]:
    """Return what takes plain steps and tells how long one took, s."""
    network = build_network(name).to(batch.input.device)
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss = functional.mse_loss(network(batch.input), batch.target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return timed(step, batch.input.device)
