"""Where the stacks are held while training: device memory, main memory, or left on disk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.data.assemble import Sources
from clearice.data.manifest import MicrographEntry
from clearice.data.reader import Dataset
from clearice.devices import available_memory_bytes
from clearice.errors import DatasetError

Cache = Literal["gpu", "ram", "stream"]
# A mapping costs address space and a file handle, no memory.
_OPEN_STACKS = 64


@dataclass(frozen=True)
class CacheChoice:
    """Where the stacks are held, and why.

    Attributes:
        cache: `gpu`, `ram` or `stream`.
        reason: One line for the user.
    """

    cache: Cache
    reason: str


def stack_bytes(entries: Sequence[MicrographEntry], *, clean: bool = False) -> int:
    """Return the bytes of the float16 stacks, with their truths if targets are clean."""
    planes = ((e.shape[0] + clean) * e.shape[1] * e.shape[2] for e in entries)
    return 2 * sum(planes)


def choose_cache(
    wanted: Literal["auto", "gpu", "ram", "stream"],
    n_bytes: int,
    device: torch.device,
    copies: int = 1,
) -> CacheChoice:
    """Pick the fastest cache that leaves at least half of the free memory to the rest.

    Args:
        wanted: What the user asked for.
        n_bytes: Of all stacks.
        device: Of this process.
        copies: Processes on this machine that hold the stacks in main memory, each for itself.

    Raises:
        DatasetError: `gpu` was asked for without a GPU, or is too small for the data.
    """
    size = f"{n_bytes / 2**30:.2f} GiB"
    free_on_gpu = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    if wanted == "gpu" and device.type != "cuda":
        raise DatasetError("--cache gpu needs a GPU; use --cache ram or stream")
    if wanted == "gpu" and n_bytes > free_on_gpu:
        raise DatasetError(
            f"--cache gpu: {size} do not fit into the {free_on_gpu / 2**30:.2f} GiB that are free "
            "on the GPU; use --cache ram or stream"
        )
    if wanted != "auto":
        return CacheChoice(wanted, f"{size}, cache {wanted} as asked")
    if n_bytes < free_on_gpu // 2:
        return CacheChoice("gpu", f"{size} fit into the GPU's memory: cache gpu")
    free = available_memory_bytes()
    if copies * n_bytes < free // 2:
        return CacheChoice("ram", f"{size} fit into main memory: cache ram")
    size = f"{size} × {copies}" if copies > 1 else size
    why = "are more than half of the free memory" if free else "and free memory unknown"
    return CacheChoice("stream", f"{size} {why}: cache stream")


@final
class HostStacks:
    """Stacks in main memory, or mapped from disk and opened when they are needed.

    Threads may share it. Mapped pages belong to the system's page cache, so the memory it takes
    does not grow with the data.
    """

    def __init__(
        self, dataset: Dataset, entries: Sequence[MicrographEntry], *, mapped: bool, clean: bool
    ) -> None:
        self._dataset = dataset
        self._entries = entries
        self._clean = clean
        self._lock = threading.Lock()
        self._open: OrderedDict[int, list[Tensor]] = OrderedDict()
        self._limit = _OPEN_STACKS if mapped else len(entries)
        self._mapped = mapped
        if not mapped:
            for index in range(len(entries)):
                self._planes(index)

    def _planes(self, index: int) -> list[Tensor]:
        """Return the stack, and the truth if targets are clean."""
        with self._lock:
            if index in self._open:
                self._open.move_to_end(index)
                return self._open[index]
            entry = self._entries[index]
            planes = [self._dataset.stack(entry, mapped=self._mapped)]
            if self._clean:
                planes.append(self._dataset.truth(entry, mapped=self._mapped))
            self._open[index] = planes
            if len(self._open) > self._limit:
                self._open.popitem(last=False)
            return planes

    def crop_into(self, index: int, row: int, column: int, out: Float[Tensor, "k h w"]) -> None:
        """Copy a window of all planes; planes of `out` that the stack has not are zeroed."""
        first = 0
        for stack in self._planes(index):
            last = first + len(stack)
            io.copy_crop(stack, row, column, out[first:last])
            first = last
        out[first:] = 0


@final
class DeviceStacks:
    """Stacks in the memory of the GPU, in float16, one after the other.

    Attributes:
        pool: All of them in one flat tensor.
        sources: Where each of them lies.
    """

    def __init__(
        self,
        dataset: Dataset,
        entries: Sequence[MicrographEntry],
        device: torch.device,
        *,
        clean: bool,
    ) -> None:
        shapes = [(e.shape[0] + clean, *e.shape[1:]) for e in entries]
        self.sources = Sources.one_after_the_other(shapes)
        size = sum(planes * rows * columns for planes, rows, columns in shapes)
        self.pool = torch.empty(size, dtype=torch.float16, device=device)
        filled = 0
        for entry in entries:
            planes = [dataset.stack(entry, mapped=True)]
            if clean:
                planes.append(dataset.truth(entry, mapped=True))
            for stack in planes:
                self.pool[filled : filled + stack.numel()].copy_(stack.flatten())
                filled += stack.numel()
