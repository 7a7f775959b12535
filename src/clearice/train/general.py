"""Train a network for all micrographs on the training world, which is made while it is learnt."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from clearice import __version__, checkpoint
from clearice.checkpoint import Domain, ModelInfo
from clearice.config import TrainConfig
from clearice.errors import ConfigError
from clearice.fourier import highpass
from clearice.losses import Objective
from clearice.seeds import derive_seed
from clearice.simulate import (
    DOSE_E_PER_A2,
    PIXEL_SIZE_ANGSTROM,
    WORLD_VERSION,
    Complex,
    Views,
    World,
    highpass_cutoff,
    signal_power,
)
from clearice.train.begin import Listeners, Source, begin, finish, initial_state, make_recorder
from clearice.train.distributed import Place, Ranks, connected
from clearice.train.loop import TrainReport
from clearice.train.run import TrainResult
from clearice.train.scaling import scale_output
from clearice.train.stages import Stage, spans
from clearice.train.state import TrainState
from clearice.train.validate import Validation
from clearice.types import PatchBatch

# About the standard deviation of the signal in a normalised micrograph.
_OUTPUT_SCALE: Final = 0.1
# Errors count in proportion to the signal's power; below this one they count less and less, since
# there nothing can be learnt. Typical: of the signal in a normalised micrograph.
_LEAST_POWER: Final = 0.05**2
_TYPICAL_POWER: Final = 0.15**2
_VALIDATION_SEED: Final = "held-out world"
# Batches that are made before they are asked for.
_AHEAD: Final = 3
# Judged are micrographs in which there is something to be seen.
_JUDGED_POWER: Final = 0.03**2


@dataclass(frozen=True)
class WorldPlan:
    """What the world is made of.

    Attributes:
        complexes: How many procedural complexes; of those that judge, an eighth as many.
        judged: Micrographs that judge.
        more: Further ones, such as from files.
    """

    complexes: int = 256
    judged: int = 64
    more: tuple[Complex, ...] = ()

    def checksum(self, seed: int) -> str:
        """Return a checksum of all that decides what is drawn from the world."""
        digest = hashlib.sha256(f"world {WORLD_VERSION} {seed} {self.complexes}".encode())
        for each in self.more:
            digest.update(each.name.encode() + each.atoms.numpy().tobytes())
        return digest.hexdigest()


def run_general(
    out: Path,
    config: TrainConfig,
    device: torch.device,
    plan: WorldPlan = WorldPlan(),
    *,
    resume: bool = False,
    here: Place = Place(),  # noqa: B008  (frozen)
    report: Callable[[TrainReport], None] = lambda report: None,
    tick: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda message: None,
) -> TrainResult:
    """Train a network on micrographs of all kinds.

    Args:
        out: Folder of the run.
        config: How to train; its target must be `clean`, and it must name its steps.
        device: Where to make micrographs and to train.
        plan: What the world is made of.
        resume: Go on with the run in `out`.
        here: Which process this is, of those that train together.
        report: Called at each interval.
        tick: Called after each step with (steps done, steps in all).
        say: Called with one line for each thing that the user should know.

    Raises:
        ConfigError: A setting has no meaning here.
        UnknownNameError: No such network or loss.
        OutputError: `out` holds another run, or cannot be written.
        CheckpointError: Nothing to resume from, or no such model.
        TrainingDivergedError: The loss is not finite.
        TrainingInterruptedError: Stopped by a signal; the state is saved.
    """
    if config.target != "clean" or config.steps is None or config.stages:
        raise ConfigError(
            "a general model is trained with target clean, a number of steps, and no stages"
        )
    listeners = Listeners(report, tick, say) if here.first else Listeners()
    with connected(here, device) as ranks:
        ranks.shared(config.batch_size)
        state, last = _train(out, config, device, plan, resume, ranks, listeners)
    return TrainResult(out / checkpoint.BEST_NAME, state.step, state.seconds, last)


def _train(
    out: Path,
    config: TrainConfig,
    device: torch.device,
    plan: WorldPlan,
    resume: bool,
    ranks: Ranks,
    listeners: Listeners,
) -> tuple[TrainState, TrainReport | None]:
    say = listeners.say
    # Pixel sizes differ: frequencies are counted in pixels.
    objective = Objective(config.loss, 1.0)
    objective.check(config.patch_size)
    state = initial_state(config, device, ranks)
    source = Source("training world", "the training world", plan.checksum(config.seed))
    begin(state, out, config, source, resume, say)
    if state.output_scale is None:
        state.output_scale = _OUTPUT_SCALE
    scale_output(state.network, state.output_scale)
    say(f"building {plan.complexes} complexes")
    world = World(derive_seed(config.seed, "training world"), device, plan.complexes, plan.more)
    total = config.steps or 0
    loader = WorldLoader(world, config.batch_size, config.patch_size, ranks)
    stages = [Stage(span, loader, objective) for span in spans(config, total)]
    sizes = config.batch_size, config.patch_size
    validator = WorldValidator(plan, device, sizes, objective, ranks)

    def describe() -> ModelInfo:
        return _describe(state, config, source.checksum)

    recorder = make_recorder(state, out, config, describe, listeners)
    command = f"clearice pretrain --out {out} --resume"
    finish(state, stages, validator, config, total, recorder, say, command)
    return state, recorder.last


def _describe(state: TrainState, config: TrainConfig, checksum: str) -> ModelInfo:
    low, high = PIXEL_SIZE_ANGSTROM
    return ModelInfo(
        network=config.network,
        pixel_size_angstrom=(low * high) ** 0.5,
        dose_e_per_A2=None,
        output_gain=state.output_scale or 1.0,
        target=config.target,
        step=state.step,
        config=config.model_dump(mode="json"),
        clearice_version=__version__,
        dataset_sha256=checksum,
        domain=Domain(PIXEL_SIZE_ANGSTROM, DOSE_E_PER_A2),
    )


@final
class WorldLoader:
    """Makes the batches of a run: step and rank decide which micrographs are in them.

    One thread makes them ahead of time, on CUDA beside the steps: placing particles takes a
    processor about as long as the step takes the GPU.

    Args:
        world: Where they come from.
        batch_size: Micrographs in a step, of all ranks.
        patch_size: Their edge, px.
        ranks: Processes that share a batch.
    """

    def __init__(self, world: World, batch_size: int, patch_size: int, ranks: Ranks) -> None:
        self._world, self._size = world, patch_size
        self._batch, self._rank = batch_size, ranks.place.rank
        self._each = batch_size // ranks.place.size
        cuda = world.device.type == "cuda"
        self._stream = torch.cuda.Stream(world.device) if cuda else None  # type: ignore[no-untyped-call]

    def batches(self, first: int, last: int) -> Iterator[PatchBatch]:
        """Yield the batches of the steps from `first` to before `last`."""
        with ThreadPoolExecutor(1, thread_name_prefix="world") as pool:
            ahead = deque(
                pool.submit(self._make, step) for step in range(first, min(last, first + _AHEAD))
            )
            for step in range(first, last):
                batch, made = ahead.popleft().result()
                if step + _AHEAD < last:
                    ahead.append(pool.submit(self._make, step + _AHEAD))
                if made is not None:
                    _hand_over(batch, made)
                yield batch

    def _make(self, step: int) -> tuple[PatchBatch, torch.cuda.Event | None]:
        start = step * self._batch + self._rank * self._each
        if self._stream is None:
            return batch_of(self._world, start, self._each, self._size), None
        with torch.cuda.stream(self._stream):
            batch = batch_of(self._world, start, self._each, self._size)
            return batch, self._stream.record_event()


def _hand_over(batch: PatchBatch, made: torch.cuda.Event) -> None:
    """Let the present stream use what another one makes, once it is made."""
    stream = torch.cuda.current_stream(batch.input.device)
    stream.wait_event(made)
    for tensor in vars(batch).values():
        if tensor is not None:
            tensor.record_stream(stream)


def batch_of(world: World, first: int, n: int, size: int) -> PatchBatch:
    """Return micrographs as training pairs, errors weighed by the power of their signal.

    Args:
        world: Where they come from.
        first: Number of the first micrograph.
        n: How many.
        size: Their edge, px.
    """
    return _paired(world.views(first, n, size))[0]


def _paired(views: Views) -> tuple[PatchBatch, Float[Tensor, "n"]]:
    """Return micrographs as training pairs, and the power of their signal."""
    power = signal_power(views.clean, views.conditions.pixel_size_angstrom)
    weight = (_TYPICAL_POWER + _LEAST_POWER) / (power + _LEAST_POWER)
    return PatchBatch(views.noisy[:, None], views.clean[:, None], weight), power


@final
class WorldValidator:
    """Scores a network on micrographs of another world, of complexes that it has never seen.

    Args:
        plan: How many complexes and micrographs.
        device: Where to compute.
        sizes: Micrographs at a time, of all ranks, and their edge, px.
        objective: The loss, for its parts.
        ranks: Processes that each score a share.
    """

    def __init__(
        self,
        plan: WorldPlan,
        device: torch.device,
        sizes: tuple[int, int],
        objective: Objective,
        ranks: Ranks,
    ) -> None:
        self._objective, self._ranks = objective, ranks
        batch_size, size = sizes
        world = World(derive_seed(_VALIDATION_SEED), device, max(1, plan.complexes // 8))
        each = max(1, batch_size // ranks.place.size)
        starts = range(ranks.place.rank * each, plan.judged, each * ranks.place.size)
        self._batches: Sequence[tuple[PatchBatch, Tensor, Tensor]] = [
            _judged(world.views(start, each, size)) for start in starts
        ]

    def cost(self, scores: Validation) -> float:
        """Return what is the lower the better."""
        return -(scores.snr_db or 0.0)

    @torch.no_grad()
    def __call__(self, network: nn.Module, weights: dict[str, Tensor]) -> Validation:
        """Score a network with the given weights."""
        network.eval()
        names = list(self._objective.weights)
        sums = torch.zeros(5 + len(names), dtype=torch.float64)
        for batch, cutoff, judged in self._batches:
            output = functional_call(network, weights, (batch.input,)).float()
            errors = (output - batch.target).square().mean((1, 2, 3)) * batch.weight
            r = _correlations(output[:, 0], batch.target[:, 0], cutoff)[judged]
            decibels = -10 * (1 - r.clamp(max=0.9999).square()).log10()
            losses = self._objective(output, batch.target, batch.weight)
            found = [errors.sum(), len(errors), r.sum(), decibels.sum(), len(r)]
            found += [part * len(errors) for part in losses.parts.values()]
            sums += torch.tensor([float(value) for value in found], dtype=torch.float64)
        network.train()
        error, n, r_sum, decibels_sum, n_judged, *parts = self._ranks.sum(sums).tolist()
        return Validation(
            mse=error / n,
            parts={name: value / n for name, value in zip(names, parts, strict=True)},
            correlation=r_sum / max(1.0, n_judged),
            snr_db=decibels_sum / max(1.0, n_judged),
        )


def _judged(views: Views) -> tuple[PatchBatch, Tensor, Tensor]:
    """Return held-out pairs, the cutoff of their high-pass, and which of them are judged."""
    batch, power = _paired(views)
    cutoff = highpass_cutoff(views.conditions.pixel_size_angstrom)
    return batch, cutoff, power > _JUDGED_POWER


def _correlations(
    x: Float[Tensor, "n h w"], y: Float[Tensor, "n h w"], cutoff: Float[Tensor, "n 1 1"]
) -> Float[Tensor, "n"]:
    """Return the correlation of each pair of images above a cutoff (cycles/px)."""
    x, y = highpass(x, cutoff), highpass(y, cutoff)
    product = (x * y).sum((1, 2))
    return product / (x.square().sum((1, 2)) * y.square().sum((1, 2))).sqrt().clamp(min=1e-12)
