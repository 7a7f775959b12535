"""Build everything a training run needs, from a data set and a configuration, and fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from clearice import __version__, checkpoint
from clearice.config import TrainConfig
from clearice.data import (
    Dataset,
    MicrographEntry,
    Split,
    open_dataset,
)
from clearice.errors import ConfigError, DatasetError
from clearice.losses import Objective
from clearice.networks import build_network
from clearice.train import loaders
from clearice.train.begin import Listeners, Source, begin, finish, initial_state, make_recorder
from clearice.train.calibrate import calibrate
from clearice.train.distributed import Place, Ranks, connected
from clearice.train.loop import TrainReport
from clearice.train.masking import check_target
from clearice.train.samples import sample_patches
from clearice.train.scaling import choose_scale, output_gain, scale_output
from clearice.train.state import TrainState


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
    listeners = Listeners(report, tick, say) if here.first else Listeners()
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
    listeners: Listeners,
) -> tuple[TrainState, TrainReport | None]:
    """Build what a run needs and fit; return the final state and the last report."""
    say = listeners.say
    objective = _objective(data, config, say)
    noisy = config.target == "noisy"
    state = initial_state(config, device, ranks, data.manifest.target_gain if noisy else 1.0)
    train = data.entries(Split.TRAIN)
    source = Source("data set", str(data.folder), data.checksum())  # it reads the whole manifest
    begin(state, out, config, source, resume, say)
    epochs_in_steps = config.epochs * loaders.steps_per_epoch(train, config)
    total = epochs_in_steps if config.steps is None else config.steps
    stages, cache = loaders.training_stages(data, train, config, device, ranks, total)
    say(cache.reason)
    if state.output_scale is None:
        state.output_scale, reason = choose_scale(data, train, config)
        say(reason)
    scale_output(state.network, state.output_scale)
    validator = loaders.validator(data, objective, config, device, cache.cache, ranks)
    if validator is None:
        say("warning: no validation micrographs; the last weights count as the best")
    recorder = make_recorder(
        state,
        out,
        config,
        lambda: _describe(state, data, config, source.checksum),
        listeners,
        lambda: sample_patches(data, config),
    )
    command = f"clearice train {data.folder} --out {out} --resume"
    finish(state, stages, validator, config, total, recorder, say, command)
    return state, recorder.last


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
