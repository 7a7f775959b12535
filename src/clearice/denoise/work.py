"""What happens to one micrograph in each stage, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

from jaxtyping import Float
from torch import Tensor

from clearice.data import Affine
from clearice.denoise import depth
from clearice.denoise.network import Denoiser
from clearice.denoise.pipeline import Lanes, Overlapped, Source
from clearice.denoise.plan import Job
from clearice.denoise.runner import Result, runner_for
from clearice.errors import InputFileError
from clearice.types import Micrograph


@dataclass
class Loaded:
    """A micrograph on its way to the network.

    Attributes:
        micrograph: Where it came from; its pixels are not needed any more.
        images: The full dose, then parts of it.
        shares: Of each image in the full dose.
        affine: Normalisation, if not that of the first image.
        raw: The images as they were read, if they are written too.
        back: Brings both to the unit of the files, if they are normalised.
    """

    micrograph: Micrograph
    images: Float[Tensor, "k h w"]
    shares: tuple[float, ...] = (1.0,)
    affine: Affine | None = None
    raw: Float[Tensor, "k h w"] | None = None
    back: Affine | None = None


class Work(Protocol):
    """How micrographs of one kind are read and written; crosses to other processes."""

    def load(self, job: Job) -> Loaded:
        """Read a micrograph.

        Raises:
            InputFileError: A file cannot be used.
        """
        ...

    def save(self, job: Job, loaded: Loaded, denoised: Float[Tensor, "k h w"]) -> None:
        """Write all results of a micrograph.

        Raises:
            InputFileError: They cannot be written as was asked.
            OutputError: A file cannot be written.
        """
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of one micrograph; crosses from other processes.

    Attributes:
        error: Why it failed, if it did.
        pixel_size_angstrom: Å/px.
        pixel_size_assumed: Nothing says so, and 1 Å/px was taken.
        seconds: From the start of reading to the end of writing.
        input_bytes: Of all files that were read, before they were.
        input_mtime_ns: When they were last changed, added up.
        output_bytes: Of all files that were written.
        excess: How far out of a general model's depth it is, 0 inside; None: not measured.
        excess_trait: In what most.
    """

    error: str | None = None
    pixel_size_angstrom: float = 0.0
    pixel_size_assumed: bool = False
    seconds: float = 0.0
    input_bytes: int = 0
    input_mtime_ns: int = 0
    output_bytes: int = 0
    excess: float | None = None
    excess_trait: str = ""


Done = Callable[[Job, Outcome], None]


def state_of(job: Job) -> tuple[int, int]:
    """Return size and time of change of all files that a job reads, each added up."""
    try:
        stats = [path.stat() for path in job.inputs]
    except OSError:  # reading it will say why
        return 0, 0
    return sum(s.st_size for s in stats), sum(s.st_mtime_ns for s in stats)


def denoise_jobs(
    source: Source[Job], denoiser: Denoiser, work: Work, done: Done, lanes: Lanes
) -> None:
    """Denoise micrographs on one device, in this process.

    Args:
        source: The micrographs.
        denoiser: The model.
        work: How they are read and written.
        done: Called with what became of each.
        lanes: How many threads.

    Raises:
        OutputError: A result cannot be written.
    """
    stages = _Stages(denoiser, work)

    def told(job: Job, result: Outcome | InputFileError) -> None:
        done(job, Outcome(error=str(result)) if isinstance(result, InputFileError) else result)

    Overlapped(source, stages.read, stages.compute, stages.write, told, lanes).run()


@dataclass
class _Started:
    """A micrograph on its way through the stages."""

    loaded: Loaded
    began: float
    state: tuple[int, int]
    middle: Tensor | None = None
    result: Result | None = None


@final
class _Stages:
    def __init__(self, denoiser: Denoiser, work: Work) -> None:
        self._runner = runner_for(denoiser)
        self._work = work
        domain = denoiser.info.domain
        self._domain = domain if domain is not None and domain.traits else None

    def read(self, job: Job) -> _Started:
        began = time.monotonic()
        # Before it is read: a change from then on makes the result stale.
        state = state_of(job)
        loaded = self._work.load(job)
        # The buffer of the images is where the result comes back to.
        middle = None if self._domain is None else depth.middle(loaded.images[0])
        loaded.images = self._runner.load(loaded.images)
        return _Started(loaded, began, state, middle)

    def compute(self, item: _Started) -> _Started:
        loaded = item.loaded
        item.result = self._runner.start(loaded.images, loaded.shares, loaded.affine)
        del loaded.images
        return item

    def write(self, job: Job, item: _Started) -> Outcome:
        assert item.result is not None
        denoised = item.result.wait()
        excess, trait = None, ""
        if self._domain is not None and item.middle is not None:
            excess, trait = depth.excess(item.middle, depth.middle(denoised[0]), self._domain)
        try:
            self._work.save(job, item.loaded, denoised)
        finally:
            self._runner.release(denoised)
        micrograph = item.loaded.micrograph
        return Outcome(
            pixel_size_angstrom=micrograph.pixel_size_angstrom,
            pixel_size_assumed=micrograph.pixel_size_assumed,
            seconds=round(time.monotonic() - item.began, 3),
            input_bytes=item.state[0],
            input_mtime_ns=item.state[1],
            output_bytes=sum(path.stat().st_size for path in job.outputs),
            excess=excess,
            excess_trait=trait,
        )
