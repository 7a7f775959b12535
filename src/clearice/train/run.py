"""Build everything a training run needs, from a data set and a configuration, and fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from clearice import __version__, checkpoint, io
from clearice.config import TrainConfig, dump_config
from clearice.data import (
    Dataset,
    GridSampler,
    MicrographEntry,
    PatchLoader,
    Sampler,
    Split,
    open_dataset,
    patches_of,
)
from clearice.errors import ConfigError, DatasetError, OutputError, TrainingInterruptedError
from clearice.losses import Objective
from clearice.networks import build_network, place
from clearice.seeds import derive_seed
from clearice.train.calibrate import calibrate
from clearice.train.loop import FitHooks, TrainReport, fit
from clearice.train.state import TrainState, new_state, restore, snapshot
from clearice.train.validate import Validator

METRICS_NAME = "metrics.jsonl"
CONFIG_NAME = "config.yaml"


@dataclass(frozen=True)
class TrainResult:
    """What a finished run amounts to.

    Attributes:
        model: File with the best weights.
        steps: Optimiser steps.
        seconds: Time spent training.
        last: The last report.
    """

    model: Path
    steps: int
    seconds: float
    last: TrainReport | None


def run(
    dataset: Path,
    out: Path,
    config: TrainConfig,
    device: torch.device,
    *,
    resume: bool = False,
    report: Callable[[TrainReport], None] = lambda report: None,
    tick: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda message: None,
) -> TrainResult:
    """Train a network on a data set.

    Args:
        dataset: Data-set folder.
        out: Folder of the run: `best.safetensors`, `last.safetensors`, `config.yaml`,
            `metrics.jsonl`.
        config: How to train.
        device: Where to train.
        resume: Go on with the run in `out`.
        report: Called at each interval.
        tick: Called after each step with (steps done, steps in all).
        say: Called with one line for each thing that the user should know.

    Raises:
        DatasetError: The data set cannot be used, or patches do not fit.
        UnknownNameError: No such network or loss.
        ConfigError: Noise in the targets would bias the loss, and that was not allowed.
        OutputError: `out` holds another run, or cannot be written.
        CheckpointError: Nothing to resume from.
        TrainingDivergedError: The loss is not finite.
        TrainingInterruptedError: Stopped by a signal; the state is saved.
    """
    data = open_dataset(dataset)
    objective = Objective(config.loss, data.manifest.pixel_size_angstrom)
    _guard(objective, config, say)
    if objective.needs_halves and config.target == "noisy":
        _check_groups(data.manifest.micrographs)
    state = _initial_state(config, device)
    if resume and (out / CONFIG_NAME).exists() and not (out / checkpoint.LAST_NAME).exists():
        say("the run was stopped before its first save: starting anew")
        resume = False
    if resume:
        _resume(state, out, config, data)
        say(f"resuming at step {state.step}")
    else:
        _start(out, config)
    train = data.entries(Split.TRAIN)
    loader = _training_loader(data, train, config, device, halves=objective.needs_halves)
    say(loader.choice.reason)
    epochs_in_steps = config.epochs * steps_per_epoch(train, config)
    total = epochs_in_steps if config.steps is None else config.steps
    validator = _validator(data, objective, config, device, loader.cache)
    if validator is None:
        say("warning: no validation micrographs; the last weights count as the best")
    recorder = _Recorder(state, out, data, config, report, tick)
    try:
        fit(state, loader, validator, objective, config, total, recorder.hooks)
    except TrainingInterruptedError as stopped:
        raise TrainingInterruptedError(
            f"{stopped}; its state is saved, go on with 'clearice train {dataset} --out {out} "
            "--resume'"
        ) from None
    calibrate(out / checkpoint.BEST_NAME, data, device, say)
    return TrainResult(out / checkpoint.BEST_NAME, state.step, state.seconds, recorder.last)


def _guard(objective: Objective, config: TrainConfig, say: Callable[[str], None]) -> None:
    """Refuse a loss that noise in the targets biases, unless the user insists."""
    refusal = objective.refusal(noisy=config.target == "noisy")
    if refusal is None:
        return
    if not config.allow_biased:
        raise ConfigError(f"{refusal}, or insist with --allow-biased")
    say(f"warning: {refusal}")


def _check_groups(entries: Iterable[MicrographEntry]) -> None:
    for entry in entries:
        if entry.shape[0] < 3:
            raise DatasetError(
                f"{entry.file}: a loss of two independent targets needs three frame groups or "
                f"more, and this has {entry.shape[0]}; prepare movies with --groups 8, or leave "
                "out the debiased loss"
            )


def steps_per_epoch(train: list[MicrographEntry], config: TrainConfig) -> int:
    """Return the steps that draw as many patches as would cover the training micrographs once."""
    patches = sum(patches_of(entry.shape, config.patch_size) for entry in train)
    return max(1, -(-patches // config.batch_size))


def _initial_state(config: TrainConfig, device: torch.device) -> TrainState:
    # Fresh weights must not depend on, or disturb, whatever was drawn before in this process.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "weights"))
        network = build_network(config.network, config.dropout)
    return new_state(place(network, device).train(), config)


def _start(out: Path, config: TrainConfig) -> None:
    io.ensure_folder(out)
    if (out / checkpoint.LAST_NAME).exists():
        raise OutputError(
            f"{out}: already holds a run; go on with it by --resume, or choose another --out"
        )
    io.write_text(out / CONFIG_NAME, dump_config(config))
    io.write_text(out / METRICS_NAME, "")


# These change how a run is carried out, not what it computes.
_FREE_ON_RESUME = {"cache", "checkpoint_seconds", "cuda_graph", "workers"}


def _resume(state: TrainState, out: Path, config: TrainConfig, data: Dataset) -> None:
    info, weights, saved = checkpoint.load_training(out / checkpoint.LAST_NAME)
    io.remove_partials(out)
    if info.dataset_sha256 != data.checksum():
        raise DatasetError(
            f"{data.folder}: is not the data set that {out} was trained on; give that one, or "
            "start a new run"
        )
    changed = [
        f"{key} was {info.config.get(key)!r} and is now {value!r}"
        for key, value in config.model_dump(mode="json").items()
        if info.config.get(key) != value and key not in _FREE_ON_RESUME
    ]
    if changed:
        raise ConfigError(f"{out}: cannot resume with another configuration: {'; '.join(changed)}")
    restore(state, weights, saved)
    metrics = out / METRICS_NAME
    kept = [record for record in read_metrics(metrics) if record["step"] <= state.step]
    io.write_text(metrics, "".join(json.dumps(record) + "\n" for record in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _check_patches(entries: list[MicrographEntry], config: TrainConfig) -> None:
    for entry in entries:
        if min(entry.shape[1:]) < config.patch_size:
            raise DatasetError(
                f"{entry.file}: {entry.shape[1]} × {entry.shape[2]} px is smaller than a patch; "
                f"use --patch-size {min(entry.shape[1:])} or less"
            )


def _training_loader(
    data: Dataset,
    train: list[MicrographEntry],
    config: TrainConfig,
    device: torch.device,
    *,
    halves: bool,
) -> PatchLoader:
    if not train:
        raise DatasetError(f"{data.folder}: has no training micrographs; prepare it again")
    _check_patches(train, config)
    sampler = Sampler(
        [entry.shape for entry in train],
        config.patch_size,
        config.batch_size,
        config.seed,
        augment=config.augment,
        exchangeable=data.manifest.roles == "exchangeable",
        smallest_input=config.smallest_input,
        weight_by_dose=config.weight_by_dose,
        window=config.window,
        fewest_targets=2 if halves and config.target == "noisy" else 1,
    )
    return PatchLoader(
        data,
        train,
        sampler,
        config.patch_size,
        device,
        config.cache,
        clean=config.target == "clean",
        workers=config.workers,
        halves=halves,
    )


def _validator(
    data: Dataset, objective: Objective, config: TrainConfig, device: torch.device, cache: Any
) -> Validator | None:
    held_out = data.entries(Split.VALIDATION)
    if not held_out:
        return None
    _check_patches(held_out, config)
    grid = GridSampler([e.shape for e in held_out], config.patch_size, config.batch_size)
    clean = config.target == "clean"
    loader = PatchLoader(
        data,
        held_out,
        grid,
        config.patch_size,
        device,
        cache,
        clean=clean,
        workers=config.workers,
        halves=objective.needs_halves,
    )
    return Validator(
        loader,
        len(grid),
        objective,
        data.manifest.pixel_size_angstrom,
        comparable=not clean and _equal_halves(data, held_out),
    )


def _equal_halves(data: Dataset, entries: list[MicrographEntry]) -> bool:
    """Tell whether even and odd groups hold the same dose, as the truth estimate needs."""
    return data.manifest.roles == "exchangeable" and all(
        abs(sum(entry.weights[::2]) - 0.5) < 0.02 for entry in entries
    )


class _Recorder:
    """Writes metrics and checkpoints, and keeps the last report."""

    def __init__(
        self,
        state: TrainState,
        out: Path,
        data: Dataset,
        config: TrainConfig,
        report: Callable[[TrainReport], None],
        tick: Callable[[int, int], None],
    ) -> None:
        self._state, self._out, self._data, self._config = state, out, data, config
        self._checksum = data.checksum()
        self._report = report
        self.last: TrainReport | None = None
        self.hooks = FitHooks(self._on_report, self._on_save, tick)

    def _on_report(self, report: TrainReport) -> None:
        self.last = report
        with (self._out / METRICS_NAME).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(asdict(report)) + "\n")
        self._report(report)

    def _on_save(self, best: bool) -> None:
        info = checkpoint.ModelInfo(
            network=self._config.network,
            pixel_size_angstrom=self._data.manifest.pixel_size_angstrom,
            dose_e_per_A2=self._data.manifest.dose_e_per_A2,
            # Truth is on the scale of the input; a target of another dose need not be.
            output_gain=1.0 if self._config.target == "clean" else self._data.manifest.target_gain,
            target=self._config.target,
            step=self._state.step,
            config=self._config.model_dump(mode="json"),
            clearice_version=__version__,
            dataset_sha256=self._checksum,
        )
        if best:
            checkpoint.save(self._out / checkpoint.BEST_NAME, self._state.average, info, None)
        last = self._out / checkpoint.LAST_NAME
        checkpoint.save(last, self._state.average, info, snapshot(self._state))
