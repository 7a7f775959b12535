"""Compare: grid → cells → trainings and scores, shared among workers → one table and one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from clearice import io, report
from clearice.checkpoint import LAST_NAME
from clearice.config import CompareConfig, TrainConfig, load_config
from clearice.data import Affine, Dataset, Split, open_dataset
from clearice.devices import choose_device
from clearice.errors import (
    BatchError,
    ConfigError,
    DatasetError,
    InputFileError,
    PairingError,
    TrainingInterruptedError,
)
from clearice.evaluate.score import BANDS_ANGSTROM
from clearice.losses import Objective
from clearice.networks import build_network
from clearice.workflows.compare.cell import RECORD_NAME, SCORES_NAME, Job
from clearice.workflows.compare.pool import Pool
from clearice.workflows.compare.results import check_column, gather
from clearice.workflows.compare.variants import Cell, Variant, cells_of, variants_of

RESULTS_NAME = "results.json"
PAGE_NAME = "report.html"

Bar = Callable[[str], AbstractContextManager[Callable[..., None]]]
Say = Callable[[str], None]
State = Literal["done", "begun", "new"]
# These change how a training is carried out, not what it computes.
_FREE = {"cache", "checkpoint_seconds", "workers"}


@dataclass(frozen=True)
class ComparePlan:
    """What will be done.

    Attributes:
        out: Folder of the comparison.
        compare: The grid.
        cells: All of them.
        jobs: One for each cell.
        states: How far each cell is.
        about: What holds for all: data set, split, truth.
    """

    out: Path
    compare: CompareConfig
    cells: tuple[Cell, ...]
    jobs: tuple[Job, ...]
    states: tuple[State, ...]
    about: dict[str, Any]

    def lines(self) -> list[str]:
        """Return what a person wants to know before it runs."""
        counts = {state: self.states.count(state) for state in ("done", "begun", "new")}
        variants = {cell.variant.name: cell.variant for cell in self.cells}
        return [
            f"{len(variants)} variants × {len(self.compare.seeds)} seeds = {len(self.cells)} "
            f"trainings: {counts['done']} done, {counts['begun']} begun, {counts['new']} new",
            f"scored on {len(self.about['micrographs'])} {self.about['split']} micrographs, "
            f"truth: {self.about['truth'] or 'none'}",
            *(f"  {variant.label}" for variant in variants.values()),
        ]


def plan(dataset: Path, grid: Path, out: Path, truth: Path | None = None) -> ComparePlan:
    """Check everything that can be checked before anything runs.

    Args:
        dataset: The data set.
        grid: YAML file with the keys of `CompareConfig`.
        out: Folder of the comparison, new or begun.
        truth: Folder of noise-free images named as the micrographs are; None: the data set's own,
            if it has them.

    Raises:
        ConfigError: A variant cannot be used, or a cell in `out` was made with other settings.
        DatasetError: Nothing is held out to score on, or a cell was made from another data set.
        PairingError: `truth` lacks a micrograph.
    """
    if not grid.is_file():
        raise InputFileError(grid, "does not exist", "give a YAML file with --grid")
    compare = load_config(CompareConfig, grid, {})
    variants = variants_of(compare, str(grid))
    for variant in variants:
        _try(variant, grid)
    cells = cells_of(variants, compare.seeds)
    data = open_dataset(dataset)
    about = _about(data, out, truth)
    jobs = [_job(cell, data, out, compare, about) for cell in cells]
    states = tuple(_state(job) for job in jobs)
    return ComparePlan(out, compare, tuple(cells), tuple(jobs), states, about)


def _try(variant: Variant, grid: Path) -> None:
    """Find unknown names and refused losses before any training starts."""
    config = variant.config
    refusal = Objective(config.loss).refusal(noisy=config.target == "noisy")
    if refusal and not config.allow_biased:
        raise ConfigError(
            f"{grid}, variant '{variant.label}': {refusal}, or insist with 'allow_biased: true'"
        )
    with torch.random.fork_rng(devices=[]):
        build_network(config.network, config.dropout)


def _about(data: Dataset, out: Path, truth: Path | None) -> dict[str, Any]:
    split = Split.TEST if data.entries(Split.TEST) else Split.VALIDATION
    entries = data.entries(split)
    if not entries:
        raise DatasetError(
            f"{data.folder}: holds no micrograph out, neither test nor validation; prepare it "
            "again with --test-fraction"
        )
    if truth is not None:
        missing = [e.name for e in entries if not (truth / f"{e.name}.mrc").is_file()]
        if missing:
            raise PairingError(
                f"{truth}: has no {', '.join(f'{name}.mrc' for name in missing[:5])}; give the "
                "folder of the noise-free micrographs"
            )
    elif all(entry.truth for entry in entries):
        truth = out / "held-out" / "truth"
    equal = data.manifest.roles == "exchangeable"
    return {
        "dataset": str(data.folder.resolve()),
        "dataset_sha256": data.checksum(),
        "roles": data.manifest.roles,
        "pixel_size_angstrom": data.manifest.pixel_size_angstrom,
        "split": split.value,
        "micrographs": [entry.name for entry in entries],
        "training_micrographs": len(data.entries(Split.TRAIN)),
        "truth": None if truth is None else str(truth.resolve()),
        "reference": None if equal else str((out / "held-out" / "reference").resolve()),
        "detail_angstrom": list(detail_band(data.manifest.pixel_size_angstrom)),
    }


def detail_band(pixel_size_angstrom: float) -> tuple[float, float]:
    """Return the finest band (Å) that the pixels resolve as a whole, else the last in part."""
    nyquist = 2 * pixel_size_angstrom
    whole = [band for band in BANDS_ANGSTROM if band[1] >= nyquist]
    return whole[-1] if whole else BANDS_ANGSTROM[0]


def _job(
    cell: Cell, data: Dataset, out: Path, compare: CompareConfig, about: dict[str, Any]
) -> Job:
    # A network of clean targets has seen full doses only: its halves say nothing.
    halves = about["roles"] == "exchangeable" and cell.config.target == "noisy"
    return Job(
        name=cell.name,
        folder=str((out / "cells" / cell.name).resolve()),
        dataset=about["dataset"],
        settings=cell.config.model_dump(mode="json"),
        dataset_sha256=about["dataset_sha256"],
        split=about["split"],
        weights=compare.weights,
        truth=about["truth"],
        reference=about["reference"],
        halves=halves,
        detail_angstrom=tuple(about["detail_angstrom"]),
        crops=cell.seed == compare.seeds[0],
    )


def _state(job: Job) -> State:
    """Tell how far a cell is, and refuse one that was made otherwise."""
    folder = Path(job.folder)
    trained = (folder / "run" / LAST_NAME).is_file()
    if not (trained and (folder / RECORD_NAME).is_file()):
        return "new"
    before = _read(folder / RECORD_NAME)
    if before.get("dataset_sha256") != job.dataset_sha256:
        raise DatasetError(
            f"{folder}: was trained on another data set than {job.dataset}; choose another --out"
        )
    # A setting that did not exist then had the effect of today's default.
    settings = TrainConfig().model_dump(mode="json") | before.get("settings", {})
    changed = [
        f"{key} was {settings[key]!r} and is now {value!r}"
        for key, value in job.settings.items()
        if settings[key] != value and key not in _FREE
    ]
    if changed:
        raise ConfigError(
            f"{folder}: was trained with other settings ({'; '.join(changed)}); choose another "
            "--out, or delete this folder"
        )
    if not (folder / SCORES_NAME).is_file():
        return "begun"
    scored = _read(folder / SCORES_NAME).get("evaluation", {})
    return "done" if scored == job.evaluation else "begun"


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputFileError(path, "is not valid JSON", "delete its folder") from None
    return values if isinstance(values, dict) else {}


def run(
    todo: ComparePlan,
    device: str,
    jobs_per_device: int,
    bar: Bar,
    say: Say,
    rank_by: str | None = None,
) -> dict[str, Any]:
    """Do what is not done yet, and write `results.json` and `report.html`.

    Args:
        todo: From `plan`.
        device: auto or cuda (all GPUs), cpu, cuda:N or mps.
        jobs_per_device: Trainings that share a device.
        bar: Makes a progress bar from a label.
        say: Called with one line for each thing that the user should know.
        rank_by: Column to rank by; None: the best yardstick there is.

    Returns:
        What `results.json` holds.

    Raises:
        ConfigError: No such device or column.
        BatchError: Some cells failed; the others were done, and are in the results.
        TrainingInterruptedError: Ctrl-C; the same command goes on.
    """
    if rank_by is not None:
        check_column(rank_by)
    devices = device_names(device)
    say(f"{len(devices)} × {devices[0].partition(':')[0]}, {jobs_per_device} at a time on each")
    if todo.about["split"] == Split.VALIDATION.value:
        say("no test micrographs: scored on validation micrographs, which chose the best weights")
    write_yardsticks(todo)
    pending = [job for job, state in zip(todo.jobs, todo.states, strict=True) if state != "done"]
    failures = _work(todo, pending, devices, jobs_per_device, bar) if pending else {}
    finished = [c for c, job in zip(todo.cells, todo.jobs, strict=True) if job.name not in failures]
    if not finished:
        raise BatchError(list(failures.values()), len(todo.jobs))
    results = gather(
        [(cell, _read(todo.out / "cells" / cell.name / SCORES_NAME)) for cell in finished],
        todo.about
        | {
            "weights": todo.compare.weights,
            "jobs_per_device": jobs_per_device,
            "failures": list(failures.values()),
            "grid": todo.compare.model_dump(mode="json"),
        },
        rank_by,
    )
    io.write_json(todo.out / RESULTS_NAME, results)
    report.render_comparison(results, todo.out, todo.out / PAGE_NAME)
    if failures:
        raise BatchError(list(failures.values()), len(todo.jobs))
    return results


def _work(
    todo: ComparePlan, pending: Sequence[Job], devices: list[str], jobs_per_device: int, bar: Bar
) -> dict[str, str]:
    pool = Pool(devices, jobs_per_device, todo.out / "logs")
    done = len(todo.jobs) - len(pending)
    try:
        with bar("compare") as update:
            return pool.run(pending, lambda at, total, note: update(done + at, done + total, note))
    except KeyboardInterrupt:
        raise TrainingInterruptedError(
            f"{todo.out}: stopped; what was trained is kept, and the same command goes on"
        ) from None


def device_names(name: str) -> list[str]:
    """Return the devices to share work among: every GPU for `auto` and `cuda`.

    Raises:
        ConfigError: The device is unknown or not there.
    """
    device = choose_device(name)
    if device.type == "cuda" and device.index is None:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]


def write_yardsticks(todo: ComparePlan) -> None:
    """Write the truth or reference that lies in the data set, in the micrographs' own units."""
    data = open_dataset(Path(todo.about["dataset"]))
    kept = [e for e in data.manifest.micrographs if e.name in set(todo.about["micrographs"])]
    for role in ("truth", "reference"):
        folder = todo.out / "held-out" / role
        if todo.about[role] != str(folder.resolve()):
            continue
        io.ensure_folder(folder)
        for entry in kept:
            image = data.truth(entry)[0] if role == "truth" else data.stack(entry)[1]
            gain = 1.0 if role == "truth" else data.manifest.target_gain
            io.write_mrc(
                folder / f"{entry.name}.mrc",
                Affine(entry.mean, entry.std).invert(image.float() * gain),
                todo.about["pixel_size_angstrom"],
                label=f"clearice: {role}",
            )
