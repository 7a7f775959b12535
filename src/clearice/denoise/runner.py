"""Images through the network: on a CPU one after the other, on a GPU with transfers beside it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.data import Affine
from clearice.denoise.network import Denoiser
from clearice.errors import ConfigError

# One computes while the next one is there already.
_ON_DEVICE: Final = 2


class Result(Protocol):
    """Denoised images that may still be on their way."""

    def wait(self) -> Float[Tensor, "k h w"]:
        """Return them on the CPU, once they are there."""
        ...


class Runner(Protocol):
    """What takes the images of one micrograph through the network."""

    def load(self, images: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        """Return images from where they can be sent to the device; called in any thread."""
        ...

    def start(
        self, images: Float[Tensor, "k h w"], shares: Sequence[float], affine: Affine | None
    ) -> Result:
        """Denoise what `load` returned, see `Denoiser.together`; called in one thread."""
        ...

    def release(self, images: Float[Tensor, "k h w"]) -> None:
        """Take back what `load` or `Result.wait` returned, which nobody uses any more."""
        ...


def runner_for(denoiser: Denoiser) -> Runner:
    """Return what suits the device of a denoiser."""
    return CudaRunner(denoiser) if denoiser.device.type == "cuda" else PlainRunner(denoiser)


@final
@dataclass(frozen=True)
class _Ready:
    images: Tensor

    def wait(self) -> Float[Tensor, "k h w"]:
        return self.images


@final
class PlainRunner:
    """Computes at once."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser

    def load(self, images: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        """Return the images."""
        return images

    def start(
        self, images: Float[Tensor, "k h w"], shares: Sequence[float], affine: Affine | None
    ) -> Result:
        """Denoise."""
        moved = images.to(self._denoiser.device)
        return _Ready(self._denoiser.together(moved, shares, affine).cpu())

    def release(self, images: Float[Tensor, "k h w"]) -> None:
        """Do nothing."""


@final
@dataclass(frozen=True)
class _Arriving:
    images: Tensor
    arrived: torch.cuda.Event
    device: torch.device

    def wait(self) -> Float[Tensor, "k h w"]:
        with torch.cuda.device(self.device):
            self.arrived.synchronize()
        return self.images


@final
class CudaRunner:
    """Sends images in and out by streams of their own, beside the network, and waits for neither.

    Pinned memory is allocated once: a micrograph is read into a buffer, goes to the device, comes
    back into the same buffer, and is written from it. There are as many buffers as micrographs in
    memory, see `Lanes.in_flight`. On the device are never more than two micrographs.

    Source: the order of waits is that of NVIDIA Apex's `data_prefetcher`, for both directions.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        streams = (torch.cuda.Stream(denoiser.device) for _ in range(2))  # type: ignore[no-untyped-call]
        self._in, self._out = streams
        self._free: list[Tensor] = []
        self._lock = Lock()
        self._under_way: deque[torch.cuda.Event] = deque()

    def load(self, images: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        """Copy images into pinned memory."""
        buffer = self._buffer(images.numel())
        return buffer[: images.numel()].view(images.shape).copy_(images)

    def _buffer(self, count: int) -> Tensor:
        """Return a buffer that is large enough; of those that are not, one is given up for it."""
        with self._lock:
            fitting = [index for index, free in enumerate(self._free) if free.numel() >= count]
            if fitting:
                return self._free.pop(fitting[-1])
            if self._free:
                self._free.pop(0)
        # A thread starts on the first GPU, and would take memory there.
        with torch.cuda.device(self._denoiser.device):
            return torch.empty(count, dtype=torch.float32, pin_memory=True)

    def release(self, images: Float[Tensor, "k h w"]) -> None:
        """Let a buffer be used again, as a whole."""
        whole = torch.empty(0).set_(images.untyped_storage())
        with self._lock:
            self._free.append(whole)

    def start(
        self, images: Float[Tensor, "k h w"], shares: Sequence[float], affine: Affine | None
    ) -> Result:
        """Queue both transfers and the network between them."""
        if len(self._under_way) == _ON_DEVICE:
            self._under_way.popleft().synchronize()
        device = self._denoiser.device
        arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            network = torch.cuda.current_stream()
            with torch.cuda.stream(self._in):
                raw = images.to(device, non_blocking=True)
            network.wait_stream(self._in)
            raw.record_stream(network)
            denoised = self._denoised(raw, shares, affine)
            self._out.wait_stream(network)
            with torch.cuda.stream(self._out):
                images.copy_(denoised, non_blocking=True)
                arrived.record(self._out)
            if denoised.device.type == "cuda":
                denoised.record_stream(self._out)
        self._under_way.append(arrived)
        return _Arriving(images, arrived, device)

    def _denoised(self, raw: Tensor, shares: Sequence[float], affine: Affine | None) -> Tensor:
        """Denoise; where two micrographs do not fit, after the other one is gone."""
        try:
            return self._denoiser.together(raw, shares, affine)
        except torch.OutOfMemoryError:
            while self._under_way:
                self._under_way.popleft().synchronize()
        torch.cuda.empty_cache()  # outside of the handler, which holds what did not fit
        try:
            return self._denoiser.together(raw, shares, affine)
        except torch.OutOfMemoryError:
            size = " × ".join(map(str, raw.shape[1:]))
            raise ConfigError(
                f"a micrograph of {size} px does not fit into the GPU's memory beside the network; "
                "free memory that other programs hold, or give --device cpu"
            ) from None
