"""From plans to batches: stacks held on the GPU, in memory, or left on disk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.data.manifest import MicrographEntry
from clearice.data.reader import Dataset
from clearice.data.sampler import PatchPlan, Plans
from clearice.errors import DatasetError
from clearice.types import PatchBatch

Cache = Literal["gpu", "ram", "stream"]
_PREFETCH = 4


def choose_cache(n_bytes: int, device: torch.device) -> Cache:
    """Pick the fastest cache that leaves at least half of the memory free."""
    if device.type == "cuda" and n_bytes < torch.cuda.mem_get_info(device)[0] // 2:
        return "gpu"
    return "ram" if n_bytes < _free_memory_bytes() // 2 else "stream"


def _free_memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0  # unknown on this system: stream, which always works


def combine(
    stack: Float[Tensor, "k h w"], plan: PatchPlan, weights: Sequence[float]
) -> Float[Tensor, "2 h w"]:
    """Return input and target: dose-weighted means of the plan's groups, turned as it says."""
    mix = torch.zeros(2, len(stack), device=stack.device)
    for side, members in enumerate((plan.inputs, plan.targets)):
        dose = sum(weights[group] for group in members)
        for group in members:
            mix[side, group] = weights[group] / dose
    pair = torch.einsum("sk,khw->shw", mix, stack.float())
    if plan.orientation >= 4:
        pair = pair.flip(-1)
    return torch.rot90(pair, plan.orientation % 4, (-2, -1))


@final
class PatchLoader:
    """Batches of one split, in the order of the sampler.

    Args:
        dataset: Where the stacks are.
        entries: The micrographs to draw from, at least one.
        sampler: Plans over the shapes of `entries`, in the same order.
        patch_size: Edge of a patch, px.
        device: Where batches go.
        cache: Where the stacks are held; `auto` chooses by size.
        clean: Take the target from the truth instead of the other groups.
    """

    def __init__(
        self,
        dataset: Dataset,
        entries: Sequence[MicrographEntry],
        sampler: Plans,
        patch_size: int,
        device: torch.device,
        cache: Literal["auto", "gpu", "ram", "stream"] = "auto",
        *,
        clean: bool = False,
    ) -> None:
        self._sampler = sampler
        self._patch_size = patch_size
        self._device = device
        self._weights = [entry.weights for entry in entries]
        self._exchangeable = dataset.manifest.roles == "exchangeable"
        n_bytes = sum(2 * entry.shape[0] * entry.shape[1] * entry.shape[2] for entry in entries)
        self.cache: Cache = choose_cache(n_bytes, device) if cache == "auto" else cache
        if self.cache == "gpu" and device.type == "cpu":
            raise DatasetError("--cache gpu needs a GPU; use --cache ram or stream")
        mapped = self.cache == "stream"
        home = device if self.cache == "gpu" else torch.device("cpu")
        self._stacks = [dataset.stack(entry, mapped=mapped).to(home) for entry in entries]
        self._truths = (
            [dataset.truth(entry, mapped=mapped).to(home) for entry in entries] if clean else None
        )

    def batch(self, step: int) -> PatchBatch:
        """Return the batch of one step, on the device that holds the stacks."""
        pairs = torch.stack([self._pair(plan) for plan in self._sampler.plan(step)])
        return PatchBatch(pairs[:, :1], pairs[:, 1:])

    def batches(self, first: int, last: int) -> Iterator[PatchBatch]:
        """Yield the batches of steps first … last − 1 on the device, prepared ahead by threads."""
        if self.cache == "gpu":
            yield from (self.batch(step) for step in range(first, last))
            return
        with ThreadPoolExecutor(max_workers=2) as pool:
            ahead: deque[Future[PatchBatch]] = deque()
            for step in range(first, last):
                while len(ahead) < _PREFETCH and step + len(ahead) < last:
                    ahead.append(pool.submit(self.batch, step + len(ahead)))
                ready = ahead.popleft().result()
                yield PatchBatch(ready.input.to(self._device), ready.target.to(self._device))

    def _pair(self, plan: PatchPlan) -> Float[Tensor, "2 h w"]:
        rows = slice(plan.row, plan.row + self._patch_size)
        columns = slice(plan.column, plan.column + self._patch_size)
        weights = self._weights[plan.micrograph]
        crop = self._stacks[plan.micrograph][:, rows, columns]
        if self._truths is None:
            return combine(crop, plan, weights)
        truth = self._truths[plan.micrograph][:, rows, columns]
        inputs = tuple(range(len(crop))) if self._exchangeable else plan.inputs
        noise_free = PatchPlan(0, 0, 0, plan.orientation, inputs, (len(crop),))
        return combine(torch.cat([crop, truth]), noise_free, [*weights, 1.0])
