"""What every run does before and after its steps, whatever it trains on: start, go on, record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clearice import checkpoint, io
from clearice.config import TrainConfig, dump_config
from clearice.errors import ConfigError, DatasetError, OutputError, TrainingInterruptedError
from clearice.networks import build_network, place
from clearice.seeds import derive_seed
from clearice.train.board import Board
from clearice.train.distributed import Ranks
from clearice.train.loop import Judge, TrainReport, fit
from clearice.train.records import (
    BOARD_NAME,
    METRICS_NAME,
    SAMPLES_NAME,
    Aside,
    Recorder,
    forget_after,
)
from clearice.train.samples import Samples
from clearice.train.stages import Stage
from clearice.train.state import TrainState, new_state, restore
from clearice.types import PatchBatch

CONFIG_NAME = "config.yaml"
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


@dataclass(frozen=True)
class Listeners:
    """Who is told what, as in `run`."""

    report: Callable[[TrainReport], None] = lambda report: None
    tick: Callable[[int, int], None] = lambda done, total: None
    say: Callable[[str], None] = lambda message: None


@dataclass(frozen=True)
class Source:
    """What a run learns from.

    Attributes:
        kind: In a word or two, for messages.
        name: Where it is, or what it is called.
        checksum: Of all that decides what is drawn from it.
    """

    kind: str
    name: str
    checksum: str


def initial_state(
    config: TrainConfig, device: torch.device, ranks: Ranks, target_gain: float = 1.0
) -> TrainState:
    """Return the state before the first step.

    Args:
        config: How to train; with the weights of which model to begin.
        device: Where.
        ranks: The processes that train together.
        target_gain: Factor from the scale of the targets to that of the normalised input.

    Raises:
        CheckpointError: The model cannot be loaded.
        ConfigError: It is another network.
    """
    # Fresh weights must not depend on, or disturb, whatever was drawn before in this process.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "weights"))
        network = build_network(config.network, config.dropout)
    scale = None
    if config.start is not None:
        other, info = checkpoint.load_model(Path(config.start))
        if info.network != config.network:
            raise ConfigError(
                f"{config.start}: is a '{info.network}', and '{config.network}' was asked for; "
                f"give --network '{info.network}', or leave --from out"
            )
        network.load_state_dict(other.state_dict())
        scale = info.output_gain / target_gain
    state = new_state(place(network, device).train(), config)
    state.ranks, state.output_scale = ranks, scale
    return state


def begin(
    state: TrainState,
    out: Path,
    config: TrainConfig,
    source: Source,
    resume: bool,
    say: Callable[[str], None],
) -> None:
    """Start a run or go on with one; only the first rank writes."""
    if resume and (out / CONFIG_NAME).exists() and not (out / checkpoint.LAST_NAME).exists():
        say("the run was stopped before its first save: starting anew")
        resume = False
    ranks = state.ranks
    if resume:
        _resume(state, out, config, source)
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


def _resume(state: TrainState, out: Path, config: TrainConfig, source: Source) -> None:
    info, weights, saved = checkpoint.load_training(out / checkpoint.LAST_NAME)
    if info.dataset_sha256 != source.checksum:
        raise DatasetError(
            f"{source.name}: is not the {source.kind} that {out} was trained on; give that one, or "
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


def make_recorder(
    state: TrainState,
    out: Path,
    config: TrainConfig,
    describe: Callable[[], checkpoint.ModelInfo],
    listeners: Listeners,
    patches: Callable[[], PatchBatch | None] = lambda: None,
) -> Recorder:
    """Build what writes the files of a run; only the first rank has pictures to draw.

    Args:
        state: Of the training.
        out: Folder of the run.
        config: What to keep and show.
        describe: Says what to know about the model as it is now.
        listeners: Who is told what.
        patches: Returns those to draw, if any.
    """
    first = state.ranks.place.first
    board = Board(out / BOARD_NAME, state.step) if config.tensorboard and first else None
    drawn = patches() if first else None
    samples = None if drawn is None else Samples(state, drawn, out / SAMPLES_NAME, board)
    told = (listeners.report, listeners.tick, listeners.say)
    device = state.gradient_norms.device
    aside = Aside(device) if device.type == "cuda" else None
    return Recorder(state, out, describe, config.keep, *told, samples, board, aside=aside)


def finish(
    state: TrainState,
    stages: Sequence[Stage],
    validator: Judge | None,
    config: TrainConfig,
    total: int,
    recorder: Recorder,
    say: Callable[[str], None],
    command: str,
) -> None:
    """Take all steps that are left, and write what is to be written.

    Args:
        state: Changed in place.
        stages: Training pairs and the loss.
        validator: Scores on what is held out, if anything is.
        config: How to train.
        total: Steps of the whole run.
        recorder: Writes the files.
        say: Called with one line for the user.
        command: Goes on with the run when it is stopped.

    Raises:
        TrainingInterruptedError: Stopped by a signal; the state is saved.
        OutputError: The files are older than the state.
    """
    try:
        fit(state, stages, validator, config, total, recorder.hooks, say)
    except TrainingInterruptedError as stopped:
        recorder.check()
        raise TrainingInterruptedError(
            f"{stopped}; its state is saved, go on with '{command}'"
        ) from None
    finally:
        recorder.close()
    recorder.check()
