"""Build everything a training run needs, from a data set and a configuration, and fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clearice import __version__, checkpoint, io
from clearice.config import TrainConfig, dump_config
from clearice.data import (
    Dataset,
    MicrographEntry,
    Split,
    open_dataset,
)
from clearice.errors import ConfigError, DatasetError, OutputError, TrainingInterruptedError
from clearice.losses import Objective
from clearice.networks import build_network, place
from clearice.seeds import derive_seed
from clearice.train import loaders
from clearice.train.board import Board
from clearice.train.calibrate import calibrate
from clearice.train.distributed import Place, Ranks, connected
from clearice.train.loop import TrainReport, fit
from clearice.train.masking import check_target
from clearice.train.records import (
    BOARD_NAME,
    METRICS_NAME,
    SAMPLES_NAME,
    Aside,
    Recorder,
    forget_after,
)
from clearice.train.samples import Samples, sample_patches
from clearice.train.scaling import choose_scale, output_gain, scale_output
from clearice.train.state import TrainState, new_state, restore

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


@dataclass(frozen=True)
class _Listeners:
    """Who is told what, as in `run`."""

    report: Callable[[TrainReport], None] = lambda report: None
    tick: Callable[[int, int], None] = lambda done, total: None
    say: Callable[[str], None] = lambda message: None


def run(
    dataset: Path,
    out: Path,
    config: TrainConfig,
    device: torch.device,
    *,
    resume: bool = False,
    calibrated: bool = True,
    here: Place = Place(),  # noqa: B008  (frozen)
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
        calibrated: Measure the amplitudes of the best weights when they are found.
        here: Which process this is, of those that train together: all call this alike, only the
            first one writes files and calls the following three.
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
        RankLostError: Another process is gone.
    """
    listeners = _Listeners(report, tick, say) if here.first else _Listeners()
    with connected(here, device) as ranks:
        ranks.shared(config.batch_size)
        data = open_dataset(dataset)
        state, last = _train(data, out, config, device, ranks, resume, listeners)
    model = out / checkpoint.BEST_NAME
    if here.first and calibrated:
        calibrate(model, data, device, say)
    return TrainResult(model, state.step, state.seconds, last)


def check(data: Dataset, config: TrainConfig) -> None:
    """Refuse what cannot be trained, before anything is.

    Args:
        data: What would be trained on.
        config: How.

    Raises:
        DatasetError: Frame groups or truth are missing, or patches do not fit.
        UnknownNameError: No such network or loss.
        ConfigError: A loss is biased by noise, or cannot compare such patches, or a setting does
            not go with the target.
    """
    _objective(data, config, lambda _: None)
    train, held_out = data.entries(Split.TRAIN), data.entries(Split.VALIDATION)
    lacking = next((entry for entry in train + held_out if entry.truth is None), None)
    if config.target == "clean" and lacking:
        data.truth(lacking)  # says what is missing
    largest = max((stage.scale for stage in config.stages), default=1)
    loaders.check_patches(train, config, largest)
    loaders.check_patches(held_out, config)
    with torch.random.fork_rng(devices=[]):
        build_network(config.network, config.dropout)


def _train(
    data: Dataset,
    out: Path,
    config: TrainConfig,
    device: torch.device,
    ranks: Ranks,
    resume: bool,
    listeners: _Listeners,
) -> tuple[TrainState, TrainReport | None]:
    """Build what a run needs and fit; return the final state and the last report."""
    say = listeners.say
    objective = _objective(data, config, say)
    state = _initial_state(config, device)
    state.ranks = ranks
    train = data.entries(Split.TRAIN)
    _begin(state, out, config, data, resume, say)
    epochs_in_steps = config.epochs * loaders.steps_per_epoch(train, config)
    total = epochs_in_steps if config.steps is None else config.steps
    stages = loaders.training_stages(data, train, config, device, ranks, total)
    cache = stages[0].loader.choice
    say(cache.reason)
    if state.output_scale is None:
        state.output_scale, reason = choose_scale(data, train, config)
        say(reason)
    scale_output(state.network, state.output_scale)
    validator = loaders.validator(data, objective, config, device, cache.cache, ranks)
    if validator is None:
        say("warning: no validation micrographs; the last weights count as the best")
    recorder = _recorder(state, out, data, config, listeners)
    try:
        fit(state, stages, validator, config, total, recorder.hooks, say)
    except TrainingInterruptedError as stopped:
        recorder.check()
        raise TrainingInterruptedError(
            f"{stopped}; its state is saved, go on with 'clearice train {data.folder} --out {out} "
            "--resume'"
        ) from None
    finally:
        recorder.close()
    recorder.check()
    return state, recorder.last


def _recorder(
    state: TrainState,
    out: Path,
    data: Dataset,
    config: TrainConfig,
    listeners: _Listeners,
) -> Recorder:
    """Build what writes the files of a run; only the first rank has pictures to draw."""
    first = state.ranks.place.first
    board = Board(out / BOARD_NAME, state.step) if config.tensorboard and first else None
    patches = sample_patches(data, config) if first else None
    samples = None if patches is None else Samples(state, patches, out / SAMPLES_NAME, board)

    checksum = data.checksum()  # once: it reads the whole manifest

    def describe() -> checkpoint.ModelInfo:
        return _describe(state, data, config, checksum)

    told = (listeners.report, listeners.tick, listeners.say)
    device = state.gradient_norms.device
    aside = Aside(device) if device.type == "cuda" else None
    return Recorder(state, out, describe, config.keep, *told, samples, board, aside=aside)


def _objective(data: Dataset, config: TrainConfig, say: Callable[[str], None]) -> Objective:
    """Build the loss, and refuse it where it cannot or should not be trained with."""
    warning = check_target(data, config)
    if warning is not None:
        say(f"warning: {warning}")
    objective = Objective(config.loss, data.manifest.pixel_size_angstrom)
    _guard(objective, config, say)
    objective.check(config.patch_size)
    if objective.needs_halves and config.target == "noisy":
        _check_groups(data.manifest.micrographs)
    return objective


def _guard(objective: Objective, config: TrainConfig, say: Callable[[str], None]) -> None:
    """Refuse a loss that noise in the targets biases, unless the user insists."""
    refusal = objective.refusal(noisy=config.target != "clean")
    if refusal is None:
        return
    if not config.allow_biased:
        raise ConfigError(f"{refusal}, or insist with --allow-biased")
    say(f"warning: {refusal}")


def _check_groups(entries: Iterable[MicrographEntry]) -> None:
    for entry in entries:
        if entry.shape[0] < 4:
            raise DatasetError(
                f"{entry.file}: a loss of two independent targets needs four frame groups or "
                f"more, and this has {entry.shape[0]}; prepare movies with --groups 8, or leave "
                "out the debiased loss"
            )


def _initial_state(config: TrainConfig, device: torch.device) -> TrainState:
    # Fresh weights must not depend on, or disturb, whatever was drawn before in this process.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "weights"))
        network = build_network(config.network, config.dropout)
    return new_state(place(network, device).train(), config)


def _begin(
    state: TrainState,
    out: Path,
    config: TrainConfig,
    data: Dataset,
    resume: bool,
    say: Callable[[str], None],
) -> None:
    """Start a run or go on with one; only the first rank writes."""
    if resume and (out / CONFIG_NAME).exists() and not (out / checkpoint.LAST_NAME).exists():
        say("the run was stopped before its first save: starting anew")
        resume = False
    ranks = state.ranks
    if resume:
        _resume(state, out, config, data)
        say(f"resuming at step {state.step}")
    ranks.check_agreement(_fingerprint(state), "what they would train")
    if ranks.place.first:
        if resume:
            forget_after(state.step, out)
        else:
            _start(out, config)
    ranks.wait()


def _fingerprint(state: TrainState) -> Tensor:
    """Return some numbers that tell one state from another."""
    sums = [value.double().sum().cpu() for value in state.average.values()]
    return torch.stack([torch.tensor(float(state.step), dtype=torch.float64), *sums])


def _start(out: Path, config: TrainConfig) -> None:
    io.ensure_folder(out)
    if (out / checkpoint.LAST_NAME).exists():
        raise OutputError(
            f"{out}: already holds a run; go on with it by --resume, or choose another --out"
        )
    io.write_text(out / CONFIG_NAME, dump_config(config))
    io.write_text(out / METRICS_NAME, "")


# These change how a run is carried out, not what it computes.
FREE_ON_RESUME = {
    "cache",
    "checkpoint_seconds",
    "cuda_graph",
    "keep",
    "samples",
    "tensorboard",
    "workers",
}


def _resume(state: TrainState, out: Path, config: TrainConfig, data: Dataset) -> None:
    info, weights, saved = checkpoint.load_training(out / checkpoint.LAST_NAME)
    if info.dataset_sha256 != data.checksum():
        raise DatasetError(
            f"{data.folder}: is not the data set that {out} was trained on; give that one, or "
            "start a new run"
        )
    # Settings that a run of an older version does not name had their defaults.
    before = {**TrainConfig().model_dump(mode="json"), **info.config}
    changed = [
        f"{key} was {before[key]!r} and is now {value!r}"
        for key, value in config.model_dump(mode="json").items()
        if json.dumps(before[key]) != json.dumps(value) and key not in FREE_ON_RESUME
    ]
    if changed:
        raise ConfigError(f"{out}: cannot resume with another configuration: {'; '.join(changed)}")
    restore(state, weights, saved)


def _describe(
    state: TrainState, data: Dataset, config: TrainConfig, checksum: str
) -> checkpoint.ModelInfo:
    """Return what to know about the network as it is now."""
    return checkpoint.ModelInfo(
        network=config.network,
        pixel_size_angstrom=data.manifest.pixel_size_angstrom,
        dose_e_per_A2=data.manifest.dose_e_per_A2,
        output_gain=output_gain(data, config, state.output_scale or 1.0),
        target=config.target,
        step=state.step,
        config=config.model_dump(mode="json"),
        clearice_version=__version__,
        dataset_sha256=checksum,
    )
