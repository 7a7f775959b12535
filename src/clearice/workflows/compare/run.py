"""Compare: grid → cells → trainings and scores, shared among workers → one table and one page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from clearice import io, report, train
from clearice.checkpoint import LAST_NAME
from clearice.config import CompareConfig, TrainConfig, load_config
from clearice.data import Dataset, MicrographEntry, Split, open_dataset
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
from clearice.workflows.compare.cell import RECORD_NAME, SCORES_NAME, Job
from clearice.workflows.compare.lock import alone_in
from clearice.workflows.compare.pool import Pool
from clearice.workflows.compare.results import check_possible, gather
from clearice.workflows.compare.variants import Cell, Variant, cells_of, variants_of
from clearice.workflows.compare.yardsticks import FOLDER, Bar, baseline_scores, write_yardsticks
from clearice.workflows.signals import sigterm_as_ctrl_c

RESULTS_NAME = "results.json"
PAGE_NAME = "report.html"

Say = Callable[[str], None]
State = Literal["done", "begun", "new"]


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
        InputFileError: A micrograph of `truth` has another shape or pixel size.
    """
    if not grid.is_file():
        raise InputFileError(grid, "does not exist", "give a YAML file with --grid")
    compare = load_config(CompareConfig, grid, {})
    variants = variants_of(compare, str(grid))
    data = open_dataset(dataset)
    for variant in variants:
        _try(variant, data, grid)
    cells = cells_of(variants, compare.seeds)
    about = _about(data, out, truth)
    jobs = [_job(cell, data, out, compare, about) for cell in cells]
    states = tuple(_state(job) for job in jobs)
    return ComparePlan(out, compare, tuple(cells), tuple(jobs), states, about)


def _try(variant: Variant, data: Dataset, grid: Path) -> None:
    """Find what cannot be trained before any training starts, and say it in the grid's words."""
    try:
        train.check(data, variant.config)
    except (ConfigError, DatasetError) as error:
        options = {"--allow-biased": "'allow_biased: true'", "--patch-size ": "patch_size: "}
        reason = str(error)
        for option, key in options.items():
            reason = reason.replace(option, key)
        raise type(error)(f"{grid}, variant '{variant.label}': {reason}") from None


def _about(data: Dataset, out: Path, truth: Path | None) -> dict[str, Any]:
    if data.manifest.roles == "single":
        raise DatasetError(
            f"{data.folder}: has one image of each micrograph, and a comparison is scored by "
            "halves; prepare movies or half-sets"
        )
    split = Split.TEST if data.entries(Split.TEST) else Split.VALIDATION
    entries = data.entries(split)
    if not entries:
        raise DatasetError(
            f"{data.folder}: holds no micrograph out, neither test nor validation; prepare it "
            "again with --test-fraction"
        )
    if truth is not None:
        _check_truth(truth, entries, data.manifest.pixel_size_angstrom)
    elif all(entry.truth for entry in entries):
        truth = out / FOLDER / "truth"
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
        "reference": None if equal else str((out / FOLDER / "reference").resolve()),
        "detail_angstrom": list(detail_band(data.manifest.pixel_size_angstrom)),
    }


def _check_truth(truth: Path, entries: list[MicrographEntry], pixel_size_angstrom: float) -> None:
    """Refuse truth that cannot be compared with; the pixels are read when it is scored."""
    missing = [e.name for e in entries if not (truth / f"{e.name}.mrc").is_file()]
    if missing:
        raise PairingError(
            f"{truth}: has no {', '.join(f'{name}.mrc' for name in missing[:5])}; give the "
            "folder of the noise-free micrographs"
        )
    for entry in entries:
        path, wanted = truth / f"{entry.name}.mrc", entry.shape[1:]
        found = io.image_shape(path)[1:]
        if tuple(found) != tuple(wanted):
            sizes = [" × ".join(map(str, shape)) for shape in (found, wanted)]
            raise InputFileError(
                path, f"is {sizes[0]} px, but the micrograph is {sizes[1]} px", "give its own truth"
            )
    path = truth / f"{entries[0].name}.mrc"
    found_pixel = io.read_micrograph(path).pixel_size_angstrom
    if not io.same_pixel_size(found_pixel, pixel_size_angstrom):
        raise InputFileError(
            path,
            f"has {found_pixel:g} Å/px, but the data set has {pixel_size_angstrom:g}",
            "give the truth of these micrographs, or correct its header",
        )


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
        if settings[key] != value and key not in train.FREE_ON_RESUME
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
    judge = replace(todo.jobs[0], halves=any(job.halves for job in todo.jobs))
    if rank_by is not None:
        check_possible(rank_by, todo.about, halves=judge.halves)
    devices = device_names(device)
    say(f"{len(devices)} × {devices[0].partition(':')[0]}, {jobs_per_device} at a time on each")
    if todo.about["split"] == Split.VALIDATION.value:
        say("no test micrographs: scored on validation micrographs, which chose the best weights")
    try:
        with sigterm_as_ctrl_c(), alone_in(todo.out, say) as lock:
            write_yardsticks(todo.about, todo.out)
            baselines = baseline_scores(judge, todo.about, todo.out, bar)
            failures = _work(todo, Pool(devices, jobs_per_device, todo.out / "logs", [lock]), bar)
            return _conclude(todo, failures, baselines, rank_by)
    except KeyboardInterrupt:
        raise TrainingInterruptedError(
            f"{todo.out}: stopped; what was trained is kept, and the same command goes on"
        ) from None


def _work(todo: ComparePlan, pool: Pool, bar: Bar) -> dict[str, str]:
    """Do the cells that are not done, and return one message for each that failed."""
    # Another process may have done some of them between the plan and the lock.
    pending = [job for job in todo.jobs if _state(job) != "done"]
    if not pending:
        return {}
    done, total = len(todo.jobs) - len(pending), len(todo.jobs)
    with bar("compare") as update:
        return pool.run(pending, lambda at, _, note: update(done + at, total, note))


def _conclude(
    todo: ComparePlan, failures: dict[str, str], baselines: dict[str, Any], rank_by: str | None
) -> dict[str, Any]:
    """Write the results of what is done, then say what failed."""
    finished = [c for c, job in zip(todo.cells, todo.jobs, strict=True) if job.name not in failures]
    if not finished:
        raise BatchError(list(failures.values()), len(todo.jobs))
    results = gather(
        [(cell, _read(todo.out / "cells" / cell.name / SCORES_NAME)) for cell in finished],
        todo.cells,
        todo.about
        | {
            "weights": todo.compare.weights,
            "failures": list(failures.values()),
            "grid": todo.compare.model_dump(mode="json"),
        },
        rank_by,
        baselines,
    )
    io.write_json(todo.out / RESULTS_NAME, results)
    report.render_comparison(results, todo.out, todo.out / PAGE_NAME)
    if failures:
        raise BatchError(list(failures.values()), len(todo.jobs))
    return results


def device_names(name: str) -> list[str]:
    """Return the devices to share work among: every GPU for `auto` and `cuda`.

    Raises:
        ConfigError: The device is unknown or not there.
    """
    device = choose_device(name)
    if device.type == "cuda" and device.index is None:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]
