"""One training of a comparison: train, denoise what was held out, score it, keep little."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clearice import checkpoint, denoise, evaluate, io, train
from clearice.benchmark.timing import context
from clearice.config import TrainConfig
from clearice.data import Split, open_dataset
from clearice.data.caches import choose_cache, stack_bytes
from clearice.errors import BatchError
from clearice.networks import parameter_count
from clearice.report.pictures import detail_crop, levelled_crop

RECORD_NAME = "cell.json"
SCORES_NAME = "scores.json"

Tick = Callable[[int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What a worker needs to do one cell; JSON values only.

    Attributes:
        name: Of the cell.
        folder: Of the cell.
        dataset: The data set's folder.
        settings: All training settings, seed included.
        dataset_sha256: Checksum of the data set.
        split: Which micrographs are scored.
        weights: `last` or `best`.
        truth: Folder of noise-free images, if there are any.
        reference: Folder of independent images, where the data set's halves differ in dose.
        halves: Score each half against the other.
        detail_angstrom: Limits of the finest band, Å, for the eye.
        crops: Keep crops of the first micrograph.
    """

    name: str
    folder: str
    dataset: str
    settings: dict[str, Any]
    dataset_sha256: str
    split: str
    weights: str
    truth: str | None
    reference: str | None
    halves: bool
    detail_angstrom: tuple[float, float]
    crops: bool

    @property
    def evaluation(self) -> dict[str, Any]:
        """What the scores depend on beside the training; JSON values."""
        return {
            "split": self.split,
            "weights": self.weights,
            "truth": self._known_as(self.truth),
            "reference": self._known_as(self.reference),
            "halves": self.halves,
            "detail_angstrom": list(self.detail_angstrom),
            "crops": self.crops,
        }

    def _known_as(self, path: str | None) -> str | None:
        """Name what lies in the comparison's folder from there, so that it can be moved."""
        home = Path(self.folder).parents[1]
        if path is None or not Path(path).is_relative_to(home):
            return path
        return str(Path(path).relative_to(home))

    @property
    def record(self) -> dict[str, Any]:
        """What the training depends on."""
        return {"settings": self.settings, "dataset_sha256": self.dataset_sha256}


@dataclass(frozen=True)
class Neighbours:
    """How many trainings go on at a time, this one among them.

    Attributes:
        device: Of those on the same device, which share its memory.
        machine: On all devices, which share the main memory.
    """

    device: int = 1
    machine: int = 1


def run_cell(job: Job, device: torch.device, beside: Neighbours, tick: Tick, say: Say) -> None:
    """Do one cell; `scores.json` comes last, so that a cell that has it is done.

    Args:
        job: What to do. A training that was begun goes on.
        device: Where.
        beside: The trainings that go on at the same time.
        tick: Called after each step with (steps done, steps in all).
        say: Called with one line for each thing worth a line in the log.

    Raises:
        ClearIceError: As training, denoising and evaluation do.
    """
    folder, start = Path(job.folder), time.perf_counter()
    io.ensure_folder(folder)
    io.remove_partials(folder)
    io.write_json(folder / RECORD_NAME, job.record)
    trained, parts = _train(job, folder / "run", device, beside, tick, say)
    wall = time.perf_counter() - start
    model = checkpoint.LAST_NAME if job.weights == "last" else checkpoint.BEST_NAME
    denoiser = denoise.Denoiser(folder / "run" / model, device)
    images = folder / "images"
    shutil.rmtree(images, ignore_errors=True)  # of a cell that was killed
    denoise.denoise_dataset(
        Path(job.dataset), denoiser, images, Split(job.split), halves=job.halves
    )
    scores = score_images(job, images, baselines=False)
    if job.crops:
        _keep_crops(job, images, folder / "crops")
    shutil.rmtree(images)
    io.write_json(
        folder / SCORES_NAME,
        {
            "name": job.name,
            **job.record,
            "evaluation": job.evaluation,
            "context": context(device),
            "training": {
                "seconds": trained.seconds,
                "wall_seconds": wall,
                "steps": trained.steps,
                "parameters": parameter_count(denoiser.network),
                "parts": parts,
                "sharing": beside.device,
            },
            "scores": scores,
        },
    )


def _train(
    job: Job, run: Path, device: torch.device, beside: Neighbours, tick: Tick, say: Say
) -> tuple[train.TrainResult, dict[str, float]]:
    """Train, or go on with it, and return the result with the last means of the losses."""
    config = TrainConfig.model_validate(job.settings)
    config = config.model_copy(update=_share(config, Path(job.dataset), device, beside))
    resume = (run / train.CONFIG_NAME).exists()
    trained = train.run(
        Path(job.dataset),
        run,
        config,
        device,
        resume=resume,
        calibrated=False,  # scores know nothing of it
        tick=tick,
        say=say,
    )
    records = train.read_metrics(run / train.METRICS_NAME)
    return trained, records[-1]["parts"] if records else {}


def _share(
    config: TrainConfig, dataset: Path, device: torch.device, beside: Neighbours
) -> dict[str, Any]:
    """Return settings that leave room for the trainings that share the device."""
    changes: dict[str, Any] = {}
    if config.cache == "auto":
        entries = open_dataset(dataset).entries(Split.TRAIN)
        size = stack_bytes(entries, clean=config.target == "clean")
        devices = -(-beside.machine // beside.device)
        choice = choose_cache("auto", beside.device * size, device, copies=devices)
        changes["cache"] = choice.cache
    if config.workers is None:
        changes["workers"] = max(1, min(8, torch.get_num_threads() - 1))
    return changes


def score_images(
    job: Job,
    images: Path,
    *,
    baselines: bool,
    progress: Callable[[float, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Score denoised images by what there is: truth, the other half, or a reference.

    Args:
        job: What to score by.
        images: Folder of `raw` and `denoised`, and so on for halves.
        baselines: Score the raw images and plain filters of them instead of the denoised ones.
        progress: Called with (sets of scores done, parts of them counted; sets in all).

    Returns:
        Score sets by name: `full_dose` against the truth, `halves` each against the other, `pairs`
        against the reference of another dose (and the truth).

    Raises:
        BatchError: Some micrographs cannot be scored, so that the others would not be comparable.
    """
    sets = _cases(job, images, "raw" if baselines else "denoised")
    scores = {}
    for index, (name, cases) in enumerate(sets.items()):

        def update(done: int, total: int, index: int = index) -> None:
            progress(index + done / total, len(sets))

        scored = evaluate.score(cases, update, baselines=baselines)
        if scored.failures:
            raise BatchError(scored.failures, len(cases))
        scores[name] = scored.values
        del scores[name]["files"]  # they are not kept
    return scores


def _cases(job: Job, images: Path, method: str) -> dict[str, list[evaluate.Case]]:
    """Match the images of a method (`denoised` or `raw`) with what they are judged by."""
    truth = None if job.truth is None else Path(job.truth)
    sets: dict[str, list[evaluate.Case]] = {}
    if job.reference is not None:
        sets["pairs"] = evaluate.match_cases(
            images / method, images / "raw", Path(job.reference), truth
        )
    elif truth is not None:
        sets["full_dose"] = evaluate.match_cases(images / method, images / "raw", truth=truth)
    if job.halves:
        sets["halves"] = evaluate.match_halves(images, method)
    return sets


def _keep_crops(job: Job, images: Path, out: Path) -> None:
    """Keep the middle of the first micrograph, levelled, and its finest band."""
    name = min((images / "denoised").glob("*.mrc")).name
    folders = {"raw": images / "raw", "denoised": images / "denoised"}
    if job.truth is not None:
        folders["truth"] = Path(job.truth)
    io.ensure_folder(out)
    for role, folder in folders.items():
        micrograph = io.read_micrograph(folder / name)
        pixels, pixel_size = micrograph.pixels, micrograph.pixel_size_angstrom
        detail = detail_crop(pixels, pixel_size, *job.detail_angstrom)
        io.write_mrc(out / f"{role}.mrc", levelled_crop(pixels, pixel_size), pixel_size)
        io.write_mrc(out / f"{role}-detail.mrc", detail, pixel_size)
