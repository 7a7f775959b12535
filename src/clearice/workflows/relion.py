"""Denoise as an external job of RELION: its command line, and the files it tells a job's end by.

RELION runs the executable in the folder of the project, waits for one of three empty files in the
folder of the job, and takes the outputs from `RELION_OUTPUT_NODES.star`. A job that leaves none of
the three is shown as running for ever.

Source: RELION's documentation, Using RELION, "External job type"; `PipeLine::
getOutputNodesFromStarFile` in `src/pipeliner.cpp` of RELION 3.1 and 4.0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch

from clearice import io
from clearice.denoise import (
    DENOISED_NAME,
    PAIRS_NAME,
    OutputOptions,
    Recipe,
    denoise_files,
    describe_run,
    write_raw_picks,
)
from clearice.devices import choose_device, describe_device
from clearice.errors import BatchError, ConfigError, InputFileError, JobAbortedError
from clearice.workflows.signals import sigterm_as_ctrl_c

Say = Callable[[str], None]

SUCCESS_NAME = "RELION_JOB_EXIT_SUCCESS"
FAILURE_NAME = "RELION_JOB_EXIT_FAILURE"
ABORTED_NAME = "RELION_JOB_EXIT_ABORTED"
ABORT_NAME = "RELION_JOB_ABORT_NOW"
NODES_NAME = "RELION_OUTPUT_NODES.star"
# RELION 3.1 reads the number of a node's type, later ones its name, and each skips the other's.
_MICROGRAPHS = ("1", "MicrographGroupMetadata.star.relion")
_COORDINATES = ("2", "MicrographCoordsGroup.star.relion")
_HALVES = ("rlnMicrographNameEven", "rlnMicrographNameOdd")


@dataclass(frozen=True)
class RelionJob:
    """What RELION asks for.

    Attributes:
        folder: Of the job, as RELION spells it.
        micrographs: STAR list of micrographs; its paths start from the project's folder.
        model: A run's folder or a model file, to denoise them.
        picks: Instead: a list of the files of picks that were made on denoised micrographs, to be
            named after the raw ones; `micrographs` are then the pairs of the job that denoised.
        threads: Of the processor.
        device: Name of the device.
        tile: Edge of a tile, px; 0 is the whole image; None: as memory allows.
        precision: Of the network.
        options: What is written.
        restore_amplitude: Restore amplitudes by the model's calibration.
        force: Do all again.
    """

    folder: Path
    micrographs: Path
    model: Path | None = None
    picks: Path | None = None
    threads: int = 1
    device: str = "auto"
    tile: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    options: OutputOptions = field(default_factory=OutputOptions)
    restore_amplitude: bool = False
    force: bool = False


def run(job: RelionJob, say: Say) -> None:
    """Denoise the micrographs of a list, or rename picks, and tell RELION how it ended.

    Single micrographs that fail are left out of the lists, as RELION's own jobs do, and the job
    succeeds.

    Args:
        job: What RELION asks for.
        say: Called with lines about the progress, for standard output: RELION keeps it in
            `run.out`, and shows what is in `run.err` as errors.

    Raises:
        JobAbortedError: RELION, or a signal, asked for an end.
        BatchError: Some micrographs failed; the others were denoised.
        ClearIceError: Nothing was done.
    """
    io.ensure_folder(job.folder)
    with _told_to_relion(job.folder):
        if (job.model is None) == (job.picks is None):
            raise ConfigError("give --model to denoise, or --in_coords to name picks after raw")
        if job.picks is not None:
            _name_raw(job, job.picks, say)
        if job.model is not None:
            _denoise(job, job.model, say)


def refuse(arguments: Sequence[str]) -> None:
    """Tell RELION that a command line could not be understood, if it names a folder that exists."""
    for option, value in pairwise(arguments):
        if option == "--o" and Path(value).is_dir():
            _forget_endings(Path(value))
            (Path(value) / FAILURE_NAME).touch()


def _forget_endings(folder: Path) -> None:
    for name in (SUCCESS_NAME, FAILURE_NAME, ABORTED_NAME):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def _told_to_relion(folder: Path) -> Iterator[None]:
    """Leave just one of RELION's three files, and that of success only if there is an output."""
    _forget_endings(folder)
    ending = FAILURE_NAME
    try:
        with sigterm_as_ctrl_c():
            yield
        ending = SUCCESS_NAME
    except BatchError as error:
        if len(error.failures) < error.total:
            ending = SUCCESS_NAME
        raise
    except KeyboardInterrupt:
        ending = ABORTED_NAME
        raise JobAbortedError(f"{folder}: stopped; 'Continue' goes on from here") from None
    except JobAbortedError:
        ending = ABORTED_NAME
        raise
    finally:
        if ending == ABORTED_NAME:
            (folder / ABORT_NAME).unlink(missing_ok=True)
        (folder / ending).touch()


def _name_raw(job: RelionJob, picks: Path, say: Say) -> None:
    """Let picks that were made on denoised micrographs name the raw ones."""
    path, count = write_raw_picks(job.micrographs, picks, job.folder)
    _write_nodes(job.folder, [path], _COORDINATES)
    say(f"done: {path}: picks of {count} micrographs name the raw ones")


def _denoise(job: RelionJob, model: Path, say: Say) -> None:
    torch.set_num_threads(job.threads)
    device = choose_device(job.device)
    say(f"device: {describe_device(device)}, {job.threads} threads")
    recipe = Recipe(model, job.tile, job.precision, job.restore_amplitude)
    denoiser = recipe.on(device)
    if denoiser.caveat is not None:
        say(f"warning: {denoiser.caveat}")
    _mention_halves(job.micrographs, say)
    settings = describe_run(recipe)
    progress = _Progress(job.folder, say)
    progress.stop_if_asked()
    outputs = [job.folder / name for name in (DENOISED_NAME, PAIRS_NAME)]
    try:
        denoise_files(
            [job.micrographs],
            denoiser,
            job.folder,
            progress=progress,
            say=say,
            options=job.options,
            settings=settings,
            force=job.force,
        )
    except BatchError as error:
        if len(error.failures) < error.total:
            _write_nodes(job.folder, outputs, _MICROGRAPHS)
        raise
    _write_nodes(job.folder, outputs, _MICROGRAPHS)
    say(f"done: {outputs[0]}")


def _write_nodes(folder: Path, outputs: Sequence[Path], kind: tuple[str, str]) -> None:
    """Write which outputs other jobs can take."""
    table = {
        "rlnPipeLineNodeName": [str(path) for path in outputs],
        "rlnPipeLineNodeType": [kind[0]] * len(outputs),
        "rlnPipeLineNodeTypeLabel": [kind[1]] * len(outputs),
    }
    io.write_star(folder / NODES_NAME, {"output_nodes": table})


class _Progress:
    """One line for each micrograph; between two, RELION's wish to abort is heeded."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder = folder
        self._say = say
        self._began = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        seconds = time.monotonic() - self._began
        left = seconds / done * (total - done)
        self._say(f"{done}/{total} micrographs, {done / seconds:.2f}/s, {_clock(left)} to go")
        if done < total:
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Stop if RELION has put its file there.

        Raises:
            JobAbortedError: It has.
        """
        if (self._folder / ABORT_NAME).exists():
            raise JobAbortedError(
                f"{self._folder}: aborted as RELION asked; 'Continue' goes on from here"
            )


def _mention_halves(micrographs: Path, say: Say) -> None:
    """Say that columns of halves keep naming the raw ones."""
    if micrographs.suffix.lower() != ".star":
        raise InputFileError(micrographs, "is no STAR list", "give micrographs_ctf.star or such")
    if any(label in table for table in io.read_star(micrographs).values() for label in _HALVES):
        say(f"the sums are denoised; {' and '.join(_HALVES)} keep naming the raw halves")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
