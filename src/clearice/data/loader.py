"""From plans to batches, prepared ahead of the training loop."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.data.caches import Cache, DeviceStacks, HostStacks, choose_cache, stack_bytes
from clearice.data.manifest import MicrographEntry
from clearice.data.readahead import ReadAhead
from clearice.data.reader import Dataset
from clearice.data.sampler import PatchPlan, Plans
from clearice.devices import available_memory_bytes
from clearice.types import PatchBatch

# Batches in preparation: one is copied to the device while others are read.
_PREFETCH = 3
_MOST_WORKERS = 8


def mixing_weights(
    plan: PatchPlan, weights: Sequence[float], planes: int, *, clean: bool, exchangeable: bool
) -> list[list[float]]:
    """Return by how much each plane of a stack counts in the input and in the target.

    Args:
        plan: Which groups go where.
        weights: Share of the dose in each group.
        planes: Groups, and the truth behind them if there is one.
        clean: The target is the truth; the input is then all groups, if they are exchangeable.
        exchangeable: False if group 0 is always the input.
    """
    inputs = tuple(range(len(weights))) if clean and exchangeable else plan.inputs
    rows = []
    for members in (inputs, () if clean else plan.targets):
        dose = sum(weights[group] for group in members)
        row = [0.0] * planes
        for group in members:
            row[group] = weights[group] / dose
        rows.append(row)
    if clean:
        rows[1][len(weights)] = 1.0
    return rows


def assemble(
    crops: Float[Tensor, "n k h w"], mix: Float[Tensor, "n 2 k"], orientations: Sequence[int]
) -> Float[Tensor, "n 2 h w"]:
    """Return inputs and targets: weighted sums of the planes, turned as the plans say."""
    n, _, height, width = crops.shape
    pairs = torch.bmm(mix, crops.float().flatten(2)).view(n, 2, height, width)
    turned = [
        _turn(pair, orientation) for pair, orientation in zip(pairs, orientations, strict=True)
    ]
    return torch.stack(turned)


def _turn(pair: Float[Tensor, "2 h w"], orientation: int) -> Float[Tensor, "2 h w"]:
    if orientation >= 4:
        pair = pair.flip(-1)
    return torch.rot90(pair, orientation % 4, (-2, -1)) if orientation % 4 else pair


def default_workers() -> int:
    """Return how many threads read crops: as many as there are processors to spare, at most 8."""
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, processors - 1))


@dataclass
class _Slot:
    """A batch in preparation: its plans, its crops in main memory, and the threads' work on it."""

    crops: Float[Tensor, "n k h w"]
    plans: list[PatchPlan]
    work: list[Future[None]]
    copied: torch.cuda.Event | None = None


@final
class PatchLoader:
    """Batches of one split, in the order of the sampler, whatever the cache or the workers.

    Args:
        dataset: Where the stacks are.
        entries: The micrographs to draw from, at least one.
        sampler: Plans over the shapes of `entries`, in the same order.
        patch_size: Edge of a patch, px.
        device: Where batches go.
        cache: Where the stacks are held; `auto` chooses by size.
        clean: Take the target from the truth instead of the other groups.
        workers: Threads that read crops; 0 reads them in the training loop, None chooses.

    Raises:
        DatasetError: The cache does not fit, or the truth is missing.
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
        workers: int | None = None,
    ) -> None:
        self._sampler = sampler
        self._patch_size = patch_size
        self._device = device
        self._clean = clean
        self._workers = default_workers() if workers is None else workers
        self._weights = [entry.weights for entry in entries]
        self._exchangeable = dataset.manifest.roles == "exchangeable"
        self._planes = max(entry.shape[0] for entry in entries) + clean
        self._files = [dataset.folder / entry.file for entry in entries]
        n_bytes = stack_bytes(entries, clean=clean)
        self.choice = choose_cache(cache, n_bytes, device)
        self.cache: Cache = self.choice.cache
        self._largest = max(stack_bytes([entry], clean=clean) for entry in entries)
        self._stacks: HostStacks | DeviceStacks
        if self.cache == "gpu":
            self._stacks = DeviceStacks(dataset, entries, device, clean=clean)
        else:
            mapped = self.cache == "stream"
            self._stacks = HostStacks(dataset, entries, mapped=mapped, clean=clean)

    @property
    def bytes_per_pair(self) -> int:
        """Bytes of float16 that are read for each pair: a window of every plane."""
        return 2 * self._planes * self._patch_size**2

    def batch(self, step: int) -> PatchBatch:
        """Return the batch of one step, on the device."""
        return next(self.batches(step, step + 1))

    def batches(self, first: int, last: int) -> Iterator[PatchBatch]:
        """Yield the batches of steps first … last − 1 on the device, prepared ahead by threads."""
        if self.cache == "gpu":
            yield from (self._from_device(self._sampler.plan(step)) for step in range(first, last))
            return
        with ExitStack() as stack:
            ahead = self._read_ahead(stack)
            pool = None
            if self._workers:
                pool = ThreadPoolExecutor(self._workers, thread_name_prefix="crops")
                stack.callback(pool.shutdown, cancel_futures=True)
            yield from self._from_host(first, last, pool, ahead)

    def _from_host(
        self, first: int, last: int, pool: ThreadPoolExecutor | None, ahead: ReadAhead | None
    ) -> Iterator[PatchBatch]:
        side = None
        if self._device.type == "cuda":
            side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        depth = _PREFETCH if pool else 1
        started: deque[_Slot] = deque()
        spare: list[_Slot] = []
        window: tuple[int, ...] = ()
        for step in range(first, last):
            if ahead is not None and self._sampler.window(step) != window:
                window = self._sampler.window(step)
                wanted = (*window, *self._sampler.window(step, 1))
                ahead.request([self._files[micrograph] for micrograph in wanted])
            while len(started) < depth and step + len(started) < last:
                plans = self._sampler.plan(step + len(started))
                started.append(self._start(plans, spare.pop() if spare else None, pool))
            slot = started.popleft()
            for work in slot.work:
                work.result()
            yield self._finish(slot, side)
            spare.append(slot)

    def _start(
        self, plans: list[PatchPlan], slot: _Slot | None, pool: ThreadPoolExecutor | None
    ) -> _Slot:
        """Let the threads read a batch, into memory that an earlier one is done with."""
        size = self._patch_size
        if slot is None or len(slot.crops) < len(plans):
            pinned = self._device.type == "cuda"
            shape = (len(plans), self._planes, size, size)
            slot = _Slot(torch.empty(shape, dtype=torch.float16, pin_memory=pinned), plans, [])
        if slot.copied is not None:
            slot.copied.synchronize()
        slot.plans, slot.work = plans, []
        for plan, out in zip(plans, slot.crops, strict=False):
            arguments = (plan.micrograph, plan.row, plan.column, out)
            if pool is None:
                self._stacks.crop_into(*arguments)
            else:
                slot.work.append(pool.submit(self._stacks.crop_into, *arguments))
        return slot

    def _finish(self, slot: _Slot, side: torch.cuda.Stream | None) -> PatchBatch:
        """Copy the crops to the device, beside its other work, and mix the groups there."""
        with nullcontext() if side is None else torch.cuda.stream(side):
            crops = slot.crops[: len(slot.plans)].to(self._device, non_blocking=True)
            if side is not None:
                slot.copied = side.record_event()
            batch = self._mixed(crops, slot.plans)
        if side is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(side)
            for tensor in (batch.input, batch.target, batch.weight):
                tensor.record_stream(current)
        return batch

    def _from_device(self, plans: list[PatchPlan]) -> PatchBatch:
        shape = (len(plans), self._planes, self._patch_size, self._patch_size)
        crops = torch.zeros(shape, dtype=torch.float16, device=self._device)
        for plan, out in zip(plans, crops, strict=True):
            self._stacks.crop_into(plan.micrograph, plan.row, plan.column, out)
        return self._mixed(crops, plans)

    def _mixed(self, crops: Float[Tensor, "n k h w"], plans: list[PatchPlan]) -> PatchBatch:
        numbers = torch.tensor(
            [
                [
                    *mixing_weights(
                        plan,
                        self._weights[plan.micrograph],
                        self._planes,
                        clean=self._clean,
                        exchangeable=self._exchangeable,
                    ),
                    [plan.weight] * self._planes,
                ]
                for plan in plans
            ]
        )
        if self._device.type == "cuda":
            # From pageable memory the copy would wait for all that the device has to do.
            numbers = numbers.pin_memory().to(self._device, non_blocking=True)
        else:
            numbers = numbers.to(self._device)
        pairs = assemble(crops, numbers[:, :2], [plan.orientation for plan in plans])
        return PatchBatch(pairs[:, :1], pairs[:, 1:], numbers[:, 2, 0])

    def _read_ahead(self, stack: ExitStack) -> ReadAhead | None:
        """Read windows of files ahead if two of them fit into half of the free memory."""
        members = len(self._sampler.window(0))
        fits = 2 * members * self._largest < available_memory_bytes() // 2
        if self.cache != "stream" or not members or not fits:
            return None
        return stack.enter_context(ReadAhead())
