"""Batches a second from each cache, against a plain PyTorch DataLoader over the same files."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, Final, Literal, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from clearice import io
from clearice.benchmark.steps import fresh_state, wait_for
from clearice.config import PrepareConfig, TrainConfig
from clearice.data import (
    Affine,
    Dataset,
    DatasetWriter,
    PatchLoader,
    Sampler,
    default_workers,
    open_dataset,
)
from clearice.losses import Objective
from clearice.train import make_step
from clearice.types import HalfSet, PatchBatch

Row = dict[str, Any]
_GROUPS: Final = (2, 8)
_MICROGRAPHS = 2
_STEPS = 24
_ROUNDS = 5
_SECONDS_A_ROUND = 0.4


def measure(device: torch.device, size: int, batch_size: int) -> list[Row]:
    """Time batches for 2 and for 8 groups, and what they add to a training step.

    Args:
        device: Where batches go.
        size: Edge of a patch, px; micrographs are four times as large.
        batch_size: Pairs in a step.
    """
    rows: list[Row] = []
    for groups in _GROUPS:
        with tempfile.TemporaryDirectory() as folder:
            dataset = _noise(Path(folder) / "dataset", groups, 4 * size)
            rows += _rates(dataset, device, size, batch_size, groups)
            rows += _step_costs(dataset, device, size, batch_size, groups)
    return rows


def _noise(folder: Path, groups: int, edge: int) -> Dataset:
    """Write a data set of nothing but noise; what it holds makes no difference to its speed."""
    writer = DatasetWriter(folder)
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(groups, edge, edge, generator=generator)
    for index in range(_MICROGRAPHS):
        source = Path(f"noise{index}")
        half_set = HalfSet(source.name, stack, (1 / groups,) * groups, 1.0, (source,))
        writer.add(half_set, stack, Affine(0.0, 1.0))
    config = PrepareConfig(validation_fraction=0, test_fraction=0)
    writer.finish(config, 1.0, input_target=False, dose_ratio=1.0, target_gain=1.0)
    return open_dataset(folder)


def _loader(
    dataset: Dataset,
    device: torch.device,
    size: int,
    batch_size: int,
    cache: Literal["stream", "ram", "gpu"],
) -> PatchLoader:
    entries = list(dataset.manifest.micrographs)
    shapes = [entry.shape for entry in entries]
    sampler = Sampler(shapes, size, batch_size, 0, augment=True, exchangeable=True)
    return PatchLoader(dataset, entries, sampler, size, device, cache)


def _caches(device: torch.device) -> tuple[Literal["stream", "ram", "gpu"], ...]:
    return ("stream", "ram", "gpu") if device.type == "cuda" else ("stream", "ram")


@final
class PlainPairs(TorchDataset[Tensor]):
    """What one would write without further thought: a random crop, half of its groups a side."""

    def __init__(self, files: list[Path], groups: int, size: int, count: int) -> None:
        self._files, self._groups, self._size, self._count = files, groups, size, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:
        rng = random.Random(index)
        stack = io.read_stack(self._files[index % len(self._files)], mapped=True)
        row, column = (rng.randint(0, edge - self._size) for edge in stack.shape[1:])
        crop = stack[:, row : row + self._size, column : column + self._size].float()
        order = rng.sample(range(self._groups), self._groups)
        half = self._groups // 2
        pair = torch.stack([crop[order[:half]].mean(0), crop[order[half:]].mean(0)])
        return torch.rot90(pair, rng.randrange(4), (-2, -1))


def _plain(
    dataset: Dataset, device: torch.device, size: int, batch_size: int, groups: int
) -> Callable[[], float]:
    """Return how to time one batch of the plain loader, after its processes have started."""
    files = [dataset.folder / entry.file for entry in dataset.manifest.micrographs]
    pairs = PlainPairs(files, groups, size, batch_size * (_STEPS + 2))
    workers, pinned = default_workers(), device.type == "cuda"

    def timed() -> float:
        loader = DataLoader(pairs, batch_size, num_workers=workers, pin_memory=pinned)
        batches = (batch.to(device, non_blocking=True) for batch in loader)
        return _per_batch(batches, device)

    return timed


def _per_batch(batches: Iterator[Any], device: torch.device) -> float:
    """Return the time of one batch, after the first two."""
    next(batches)
    next(batches)
    wait_for(device)
    start, count = time.perf_counter(), 0
    for _ in batches:
        count += 1
    wait_for(device)
    return (time.perf_counter() - start) / count


def _rates(
    dataset: Dataset, device: torch.device, size: int, batch_size: int, groups: int
) -> list[Row]:
    """Time each cache; the baseline is the plain loader."""
    taken = {"plain DataLoader": _plain(dataset, device, size, batch_size, groups)()}
    for cache in _caches(device):
        loader = _loader(dataset, device, size, batch_size, cache)
        _per_batch(loader.batches(0, _STEPS + 2), device)  # into the page cache
        taken[cache] = _per_batch(loader.batches(0, _STEPS + 2), device)
    read = 2 * groups * size**2
    return [
        {
            "groups": groups,
            "loader": name,
            "pairs_per_second": round(batch_size / time_s, 1),
            "bytes_read_per_pair": read,
            "gigabytes_per_second": round(batch_size * read / time_s / 1e9, 3),
            "ratio_to_plain": round(taken["plain DataLoader"] / time_s, 2),
        }
        for name, time_s in taken.items()
    ]


@final
class _Trainer:
    """Trains the default network on whatever it is given."""

    def __init__(self, device: torch.device, precision: Literal["float32", "bfloat16"]) -> None:
        self.config = TrainConfig(precision=precision)
        self._device = device
        state = fresh_state(self.config, device)
        self._step = make_step(state, Objective(self.config.loss), self.config, 10**6)

    def per_step(self, batches: Iterable[PatchBatch]) -> float:
        """Return the time of one step, s, after the first two."""
        return _per_batch((self._step(batch) for batch in batches), self._device)


def _step_costs(
    dataset: Dataset, device: torch.device, size: int, batch_size: int, groups: int
) -> list[Row]:
    """Time training steps fed by each cache; the baseline is one batch that stays on the device.

    Baseline and caches take turns, so that what else the machine does falls on all of them.
    """
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    loaders = {
        cache: _loader(dataset, device, size, batch_size, cache) for cache in _caches(device)
    }
    fixed = loaders["ram"].batch(0)
    rows: list[Row] = []
    for precision in precisions if device.type == "cuda" else precisions[:1]:
        trainer = _Trainer(device, precision)
        steps = 2 + max(4, min(150, int(_SECONDS_A_ROUND / trainer.per_step(repeat(fixed, 6)))))
        times: dict[str, list[float]] = {name: [] for name in ("fixed", *loaders)}
        for _ in range(_ROUNDS):
            times["fixed"].append(trainer.per_step(repeat(fixed, steps)))
            for cache, loader in loaders.items():
                times[cache].append(trainer.per_step(loader.batches(0, steps)))
        for cache in loaders:
            ratios = [t / f for t, f in zip(times[cache], times["fixed"], strict=True)]
            rows.append(
                {
                    "groups": groups,
                    "network": trainer.config.network,
                    "precision": precision,
                    "loader": cache,
                    "fixed_batch_milliseconds": round(1e3 * statistics.median(times["fixed"]), 3),
                    "step_milliseconds": round(1e3 * statistics.median(times[cache]), 3),
                    "percent_of_step": round(100 * (statistics.median(ratios) - 1), 2),
                    "percent_range": [round(100 * (r - 1), 1) for r in (min(ratios), max(ratios))],
                }
            )
    return rows
