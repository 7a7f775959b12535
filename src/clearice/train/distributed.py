"""Data parallel training: each rank takes its share of every batch, and all take the same step.

Gradients are averaged by one sum over one flat buffer between the backward pass and the clipping.
DistributedDataParallel would overlap that with the backward pass, which at some megabytes of
weights for gigabytes of activations gains nothing, and would wrap the network, hold its own
buckets and hooks, and need another path for a replayed CUDA graph.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import final

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from clearice.errors import (
    ClearIceError,
    ConfigError,
    RankLostError,
    TrainingInterruptedError,
)

# For all ranks to appear, s.
_MEETING_SECONDS = 600
# One rank may read for long before its first step; who fails is noticed without waiting for this.
_WAITING = timedelta(hours=2)
_FAILED = "clearice/failed"
_LOOK_SECONDS = 0.2
_GRACE_SECONDS = 2.0
_FAREWELL_SECONDS = 0.5
_LONGEST_FAREWELL_SECONDS = 5.0


@dataclass(frozen=True)
class Place:
    """Which of the processes that train together this one is.

    Attributes:
        rank: From 0.
        size: How many there are.
        local_rank: Number among those of this machine.
        local_size: How many there are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and talks to the user."""
        return self.rank == 0

    def device_name(self, name: str) -> str:
        """Return the name of this rank's own device, where several share a machine."""
        several = self.size > 1 and torch.cuda.device_count() > 1
        if several and name in {"auto", "cuda"}:
            return f"cuda:{self.local_rank}"
        return name


def find_place() -> Place:
    """Read the place that torchrun gave to this process, in the environment; alone without it.

    Raises:
        ConfigError: The variables make no sense.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Place()
    try:
        place = Place(*(int(os.environ.get(n, d)) for n, d in zip(names, "0101", strict=True)))
    except ValueError:
        place = Place(size=0)
    if not (0 <= place.rank < place.size and 0 <= place.local_rank < place.local_size):
        given = ", ".join(f"{name}={os.environ.get(name)}" for name in names)
        raise ConfigError(f"{given}: make no sense together; start with torchrun, or unset them")
    return place


@final
class Ranks:
    """What the processes of one training do together; without others, each method does nothing.

    Args:
        place: Of this one.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._wishes = torch.zeros(2, dtype=torch.int32)
        self._pending: dist.Work | None = None

    def shared(self, batch_size: int) -> None:
        """Check that a batch can be shared evenly.

        Raises:
            ConfigError: It cannot.
        """
        size = self.place.size
        if batch_size % size:
            more = -(-batch_size // size) * size
            raise ConfigError(
                f"batch_size {batch_size} cannot be shared evenly by {size} processes; use "
                f"--batch-size {more}"
            )

    @torch.no_grad()
    def average_gradients(self, network: nn.Module) -> None:
        """Replace each rank's gradients, and running statistics, by their mean over the ranks."""
        if self.place.size == 1:
            return
        values = [p.grad for p in network.parameters() if p.grad is not None]
        values += [b for b in network.buffers() if b.is_floating_point()]
        flat = self.mean(torch.cat([value.flatten() for value in values]))
        torch._foreach_copy_(values, _pieces(flat, values))

    def sum(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the sum over the ranks, bit for bit the same on each."""
        if self.place.size == 1:
            return values
        total = values.clone()
        if total.device.type == "cpu":
            with _contact():
                dist.all_reduce(total)
        else:
            dist.all_reduce(total)
        return total

    def mean(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the mean over the ranks."""
        return values if self.place.size == 1 else self.sum(values) / self.place.size

    def norm_of_mean(self, norms: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the norm of a gradient of which each rank has one share, and that alone.

        The gradient of the mean over all samples is each share's, divided by the number of ranks.
        """
        if self.place.size == 1:
            return norms
        return self.sum(norms.square()).sqrt() / self.place.size

    def agree(self, *, stop: bool, save: bool) -> tuple[bool, bool]:
        """Return whether any rank wants to stop, and whether the first wants to save.

        With several ranks it is what they wanted one step ago, so that none has to wait for the
        others: the answer travels while the device computes.

        Args:
            stop: This rank wants all to stop.
            save: This rank wants the state to be saved; only the first one is asked.
        """
        if self.place.size == 1:
            return stop, save
        before = self._collect()
        self._wishes = torch.tensor([stop, save and self.place.first], dtype=torch.int32)
        with _contact():
            self._pending = dist.all_reduce(self._wishes, dist.ReduceOp.MAX, async_op=True)
        return before

    def _collect(self) -> tuple[bool, bool]:
        if self._pending is None:
            return False, False
        with _contact():
            self._pending.wait()
        self._pending = None
        stop, save = self._wishes.tolist()
        return bool(stop), bool(save)

    def wait(self) -> None:
        """Return when all ranks are here."""
        self._collect()
        self.sum(torch.zeros(1))

    def check_agreement(self, values: Float[Tensor, "n"], what: str) -> None:
        """Check that all ranks hold the same numbers.

        Raises:
            ConfigError: They do not.
        """
        alike = torch.stack([values.cpu().double(), -values.cpu().double()])
        lowest = alike.clone()
        if self.place.size > 1:
            with _contact():
                dist.all_reduce(lowest, dist.ReduceOp.MIN)
        if not torch.equal(lowest, alike):
            raise ConfigError(
                f"the processes differ in {what}; give all the same data set, options and --out, "
                "in folders that all machines share"
            )


def _pieces(flat: Float[Tensor, "n"], like: Sequence[Tensor]) -> list[Tensor]:
    pieces = torch.split_with_sizes(flat, [value.numel() for value in like])
    return [piece.view(value.shape) for piece, value in zip(pieces, like, strict=True)]


ALONE = Ranks(Place())


@contextmanager
def _contact() -> Iterator[None]:
    """Turn what the transport says of a vanished peer into one line."""
    try:
        yield
    except RuntimeError as error:  # c10d and gloo raise nothing narrower
        reason = " ".join(str(error).split())[-120:]
        raise RankLostError(
            f"another process of this training is gone ({reason}); see what it said last, then go "
            "on with --resume"
        ) from None


@contextmanager
def connected(place: Place, device: torch.device) -> Iterator[Ranks]:
    """Connect the processes of a training; if one fails, all end, and one of them says why.

    Args:
        place: Of this process.
        device: Of this process.

    Raises:
        RankLostError: The others do not appear, or one vanished.
        SystemExit: Another rank failed, and says why.
    """
    if place.size == 1:
        yield ALONE
        return
    store = _meet(place, device)
    ranks, watch = Ranks(place), _Watch(store)
    watch.start()
    try:
        yield ranks
        ranks.wait()
    except BaseException as error:
        watch.stop()
        if isinstance(error, TrainingInterruptedError):
            # Launchers end all others once one has left. It would change their exit codes.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if _is_first_to_fail(store, place):
            raise
        time.sleep(_FAREWELL_SECONDS)  # let the first speak before anyone is gone
        raise SystemExit(getattr(error, "exit_code", 1)) from None
    watch.stop()
    dist.destroy_process_group()


def _meet(place: Place, device: torch.device) -> Store:
    backend = "cpu:gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # srun shows a rank its own GPU alone
        backend = "cpu:gloo,cuda:nccl"
    try:
        timeout = timedelta(seconds=_MEETING_SECONDS)
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_WAITING)
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise RankLostError(
            f"the {place.size} processes of this training cannot reach each other ({reason}); "
            "check MASTER_ADDR and MASTER_PORT, or start with torchrun"
        ) from None
    return store


def _is_first_to_fail(store: Store, place: Place) -> bool:
    """Tell the others, and wait for them a moment: one of them may hold the store."""
    try:
        first = store.add(_FAILED, 1) == 1
        deadline = time.monotonic() + _LONGEST_FAREWELL_SECONDS
        while first and store.add(_FAILED, 0) < place.size and time.monotonic() < deadline:
            time.sleep(0.05)
    except RuntimeError:  # the store went with the process that held it
        return True
    return first


@final
class _Watch:
    """Ends this process if another one failed: it may be waiting for that one for ever.

    Args:
        store: What the ranks share.
    """

    def __init__(self, store: Store) -> None:
        # A connection of its own, as the other may be in use. The stubs do not know it.
        self._store = store.clone()  # type: ignore[attr-defined]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ranks", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            try:
                failed = self._store.check([_FAILED])
            except RuntimeError:
                failed = True
            # Whoever can still speak for itself may.
            if failed and not self._over.wait(_GRACE_SECONDS):
                _leave(lambda: self._store.add(_FAILED, 1))


def _leave(tell: Callable[[], object]) -> None:
    try:
        tell()
    except RuntimeError:  # nobody is left to be told
        pass
    finally:
        os._exit(ClearIceError.exit_code)
