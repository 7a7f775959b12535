"""From plans to batches, prepared ahead of the training loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.data.assemble import (
    Sources,
    gather,
    input_doses,
    mix_crops,
    mixing_weights,
    places,
)
from clearice.data.caches import Cache, DeviceStacks, HostStacks, choose_cache, stack_bytes
from clearice.data.manifest import MicrographEntry
from clearice.data.readahead import ReadAhead
from clearice.data.reader import Dataset
from clearice.data.sampler import PatchTable, Plans
from clearice.devices import available_memory_bytes, processors
from clearice.types import PatchBatch

# Batches in preparation: one is copied to the device while others are read.
_PREFETCH = 3
_MOST_WORKERS = 8
_MOST_TOGETHER = 16
_BYTES_TOGETHER = 2**27


def default_workers() -> int:
    """Return how many threads read crops: as many as there are processors to spare, at most 8."""
    return max(1, min(_MOST_WORKERS, processors() - 1))


@dataclass
class _Slot:
    """A batch in preparation: its plans, its crops in main memory, and the threads' work on it."""

    crops: Float[Tensor, "n k h w"]
    table: PatchTable
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
        whole: Input and target are both the image that a network will be given to denoise.
        workers: Threads that read crops; 0 reads them in the training loop, None chooses.
        halves: Also give two independent targets; the sampler must leave two groups for them.
        copies: Processes on this machine that each hold the stacks.

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
        whole: bool = False,
        workers: int | None = None,
        halves: bool = False,
        copies: int = 1,
    ) -> None:
        self._sampler = sampler
        self._halves = halves
        self._patch_size = patch_size
        self._device = device
        self._clean, self._whole = clean, whole
        self._workers = max(1, default_workers() // copies) if workers is None else workers
        self._exchangeable = dataset.manifest.roles != "input-target"
        groups = max(entry.shape[0] for entry in entries)
        self._planes = groups + clean
        self._doses = torch.tensor(
            [[*entry.weights, *[0.0] * (groups - entry.shape[0])] for entry in entries],
            dtype=torch.float64,
        )
        self._files = [dataset.folder / entry.file for entry in entries]
        n_bytes = stack_bytes(entries, clean=clean)
        self.choice = choose_cache(cache, n_bytes, device, copies)
        self.cache: Cache = self.choice.cache
        self._largest = max(stack_bytes([entry], clean=clean) for entry in entries)
        self._stacks: HostStacks | DeviceStacks
        if self.cache == "gpu":
            self._stacks = DeviceStacks(dataset, entries, device, clean=clean)
        else:
            mapped = self.cache == "stream"
            self._stacks = HostStacks(dataset, entries, mapped=mapped, clean=clean)

    def with_patches(self, sampler: Plans, patch_size: int) -> PatchLoader:
        """Return a loader of other patches from the same stacks, which are held once."""
        other = copy(self)
        other._sampler, other._patch_size = sampler, patch_size
        return other

    def batch(self, step: int) -> PatchBatch:
        """Return the batch of one step, on the device."""
        return next(self.batches(step, step + 1))

    def batches(self, first: int, last: int) -> Iterator[PatchBatch]:
        """Yield the batches of steps first … last − 1 on the device, prepared ahead by threads."""
        if isinstance(self._stacks, DeviceStacks):
            yield from self._from_device(self._stacks, first, last)
            return
        with ExitStack() as stack:
            ahead = self._read_ahead(stack)
            pool = None
            if self._workers:
                pool = ThreadPoolExecutor(self._workers, thread_name_prefix="crops")
                stack.callback(pool.shutdown, cancel_futures=True)
            yield from self._from_host(self._stacks, first, last, pool, ahead)

    def _from_device(self, stacks: DeviceStacks, first: int, last: int) -> Iterator[PatchBatch]:
        """Assemble several steps at once: small ones are bound by how fast kernels are launched."""
        size = self._patch_size
        bytes_in_step = 8 * size**2 * max(1, self._sampler.pairs_in(first))
        together = max(1, min(_MOST_TOGETHER, _BYTES_TOGETHER // bytes_in_step))
        # A grid of CUDA blocks holds no more.
        together = max(1, min(together, 65_535 // max(1, self._sampler.pairs_in(first))))
        for start in range(first, last, together):
            steps = range(start, min(last, start + together))
            table = self._sampler.table(steps.start, steps.stop)
            where = places(table, stacks.sources, size)
            mix, numbers = self._mix(table)
            where, mix, numbers = self._to_device(where, mix, numbers)
            pairs = gather(stacks.pool, where, mix, size)
            sizes = [self._sampler.pairs_in(step) for step in steps]
            ends = list(accumulate(sizes))
            for end, n in zip(ends, sizes, strict=True):
                yield _batch(pairs[end - n : end], numbers[end - n : end])

    def _from_host(
        self,
        stacks: HostStacks,
        first: int,
        last: int,
        pool: ThreadPoolExecutor | None,
        ahead: ReadAhead | None,
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
                table = self._sampler.table(step + len(started), step + len(started) + 1)
                slot = self._slot(spare.pop() if spare else None, table)
                self._start(stacks, slot, pool)
                started.append(slot)
            slot = started.popleft()
            for work in slot.work:
                work.result()
            yield self._finish(slot, side)
            spare.append(slot)

    def _slot(self, spare: _Slot | None, table: PatchTable) -> _Slot:
        """Return memory for a batch, that of an earlier one if the device is done with it."""
        n, size = len(table.row), self._patch_size
        if spare is None or len(spare.crops) < n:
            pinned = self._device.type == "cuda"
            crops = torch.empty(n, self._planes, size, size, dtype=torch.float16, pin_memory=pinned)
            return _Slot(crops, table, [])
        if spare.copied is not None:
            spare.copied.synchronize()
        return _Slot(spare.crops, table, [])

    def _start(self, stacks: HostStacks, slot: _Slot, pool: ThreadPoolExecutor | None) -> None:
        """Read the crops of a batch, or let threads do it."""
        table = slot.table
        corners = torch.stack([table.micrograph, table.row, table.column], 1).tolist()
        for (micrograph, row, column), out in zip(corners, slot.crops, strict=False):
            if pool is None:
                stacks.crop_into(micrograph, row, column, out)
            else:
                slot.work.append(pool.submit(stacks.crop_into, micrograph, row, column, out))

    def _finish(self, slot: _Slot, side: torch.cuda.Stream | None) -> PatchBatch:
        """Mix the groups of a batch, on the device and beside its other work."""
        table, (mix, numbers) = slot.table, self._mix(slot.table)
        crops = slot.crops[: len(mix)]
        if side is None:
            pairs = mix_crops(crops, mix, table.orientation.tolist())
            return _batch(pairs.to(self._device), numbers.to(self._device))
        with torch.cuda.stream(side):
            pool = crops.to(self._device, non_blocking=True).flatten()
            slot.copied = side.record_event()
            batch = self._mixed_on_device(pool, table, mix, numbers, crops.shape[1:])
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(side)
        for tensor in (batch.input, batch.target, batch.weight):  # halves share their memory
            tensor.record_stream(current)
        return batch

    def _mixed_on_device(
        self,
        pool: Float[Tensor, "elements"],
        table: PatchTable,
        mix: Float[Tensor, "n images k"],
        numbers: Float[Tensor, "n _"],
        shape: Sequence[int],
    ) -> PatchBatch:
        """Turn and mix crops that lie one after the other."""
        planes, size = shape[0], shape[1]
        cut = replace(
            table,
            micrograph=torch.arange(len(mix)),
            row=torch.zeros_like(table.row),
            column=torch.zeros_like(table.column),
        )
        sources = Sources.one_after_the_other([(planes, size, size)] * len(mix))
        where, mix, numbers = self._to_device(places(cut, sources, size), mix, numbers)
        return _batch(gather(pool, where, mix, size), numbers)

    def _mix(self, table: PatchTable) -> tuple[Float[Tensor, "n images k"], Float[Tensor, "n _"]]:
        """Return how planes are mixed, and the numbers of each pair that `_batch` takes."""
        mix = mixing_weights(
            table,
            self._doses,
            clean=self._clean,
            exchangeable=self._exchangeable,
            halves=self._halves,
            whole=self._whole,
        )
        dose = input_doses(mix, table, self._doses, exchangeable=self._exchangeable)
        columns = [table.weight, dose]
        if table.jitter is not None:
            mix = mix * table.jitter[:, :1, None].float()
            columns.append(table.jitter[:, 1])
        return mix, torch.stack(columns, 1).float()

    def _to_device(self, *values: Tensor) -> list[Tensor]:
        """Copy small tensors; from pageable memory it would wait for all that the device does."""
        return [value.pin_memory().to(self._device, non_blocking=True) for value in values]

    def _read_ahead(self, stack: ExitStack) -> ReadAhead | None:
        """Read windows of files ahead if two of them fit into half of the free memory."""
        members = len(self._sampler.window(0))
        fits = 2 * members * self._largest < available_memory_bytes() // 2
        if self.cache != "stream" or not members or not fits:
            return None
        return stack.enter_context(ReadAhead())


def _batch(images: Float[Tensor, "n images h w"], numbers: Float[Tensor, "n _"]) -> PatchBatch:
    """Return a batch from its images, and each pair's weight, dose and what is added to it."""
    weight, dose = numbers[:, 0], numbers[:, 1]
    if numbers.shape[1] > 2:
        images = images + numbers[:, 2:, None, None]
    halves = images[:, 2:] if images.shape[1] > 2 else None
    return PatchBatch(images[:, :1], images[:, 1:2], weight, halves, dose=dose)
