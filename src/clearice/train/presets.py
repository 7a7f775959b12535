"""What to train with where the user does not say: from a preset, the data and the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import torch

from clearice.checkpoint import load_info
from clearice.config import Preset, TrainConfig, validate_config
from clearice.data import Dataset, MicrographEntry, Split
from clearice.devices import device_memory_bytes, has_fast_bfloat16
from clearice.networks import find_network
from clearice.train import loaders

# Below this a GPU is a small card: its memory is kept for the network.
_SMALL_CARD_BYTES: Final = 12 * 2**30
# With fixed halves, fewer training micrographs than this are learnt by heart (docs/how-to.md).
_FEW: Final = 20
# What finds more fine detail than mse, at no cost elsewhere (docs/results/losses.md).
_LOSS: Final = "mse + 0.1 frc(resolution=4)"
# A quarter of the steps, carefully.
_FINE_TUNING_SHARE: Final = 4
_FINE_TUNING_RATE: Final = 3e-4
# Patches are whole multiples of this: no network has a larger stride.
_GRID: Final = 32


@dataclass(frozen=True)
class _Effort:
    """What a preset spends.

    Attributes:
        network: Name.
        steps: At least so many.
        passes: And at least so many passes over the data.
    """

    network: str
    steps: int
    passes: int


_ON_GPU: Final[dict[Preset, _Effort]] = {
    "fast": _Effort("unet", 2000, 0),
    "balanced": _Effort("unet", 6000, 1),
    "best": _Effort("unet-deep", 20_000, 3),
    "8gb": _Effort("unet", 6000, 1),
}
_ON_CPU: Final[dict[Preset, _Effort]] = {
    "fast": _Effort("unet-small", 1000, 0),
    "balanced": _Effort("unet-small", 3000, 0),
    "best": _Effort("unet", 6000, 0),
    "8gb": _Effort("unet-small", 1000, 0),
}


@final
@dataclass
class _Choices:
    """What was picked so far, and why; what the user gave stays as it is."""

    given: dict[str, Any]
    where: str
    picked: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def pick(self, why: str, **values: Any) -> None:
        fresh = {key: value for key, value in values.items() if key not in self.given}
        if fresh:
            self.picked |= fresh
            text = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in fresh.items())
            self.reasons.append(f"{text}: {why}")

    def config(self) -> TrainConfig:
        return validate_config(TrainConfig, {**self.picked, **self.given}, self.where)


def plan(
    data: Dataset,
    device: torch.device,
    given: dict[str, Any],
    preset: Preset | None = None,
    *,
    processes: int = 1,
    where: str = "options",
) -> tuple[TrainConfig, list[str]]:
    """Pick every setting that depends on the data and the device, and that was not given.

    Args:
        data: What to train on.
        device: Where.
        given: Settings that stay as they are.
        preset: How much to spend; None: what suits the device.
        processes: That train together.
        where: File or command line that `given` is from, for messages.

    Returns:
        The configuration, and one line for each choice: what and why.

    Raises:
        ConfigError: A given setting cannot be used.
        UnknownNameError: No such network.
    """
    choices = _Choices(given, where)
    choices.config()  # what is wrong with it is said before anything is picked
    preset = preset or _preset(device, choices)
    effort = (_ON_CPU if device.type == "cpu" else _ON_GPU)[preset]
    train = data.entries(Split.TRAIN)
    effort = _pick_start(effort, choices)
    choices.pick(f"preset {preset}", network=effort.network)
    if data.manifest.roles == "single":
        choices.pick("there is one image of each micrograph", target="masked")
    if choices.config().target == "masked":
        choices.pick("hidden pixels alone may count", loss="mse")
    else:
        choices.pick("finds more detail of 8 to 4 Å than mse alone", loss=_LOSS)
    _pick_precision(device, choices)
    _pick_patches(train, device, processes, choices)
    if preset == "8gb":
        choices.pick("a small card's memory is for the network", accumulate=2)
    _pick_dropout(train, choices)
    _pick_steps(train, effort, preset, choices)
    return choices.config(), choices.reasons


def _preset(device: torch.device, choices: _Choices) -> Preset:
    others = "see --preset for others"
    if device.type == "cpu":
        choices.reasons.append(f"preset fast: there is no GPU in use; {others}")
        return "fast"
    memory = device_memory_bytes(device)
    size = f"{memory / 2**30:.0f} GiB of GPU memory" if memory else "GPU memory unknown"
    if memory and memory < _SMALL_CARD_BYTES:
        choices.reasons.append(f"preset 8gb: {size}; {others}")
        return "8gb"
    choices.reasons.append(f"preset balanced: {size}; {others}")
    return "balanced"


def _pick_start(effort: _Effort, choices: _Choices) -> _Effort:
    """Spend less where training goes on from a model that is good already."""
    start = choices.config().start
    if start is None:
        return effort
    network = load_info(Path(start)).network
    choices.pick(f"that of {start}", network=network)
    choices.pick(f"{start} has learnt most of it", learning_rate=_FINE_TUNING_RATE)
    return _Effort(network, max(1, effort.steps // _FINE_TUNING_SHARE), 0)


def _pick_precision(device: torch.device, choices: _Choices) -> None:
    if device.type == "cuda" and has_fast_bfloat16(device):
        choices.pick("native on this GPU", precision="bfloat16")
    elif device.type == "cuda":
        choices.pick("this GPU has no fast bfloat16", precision="float16")
    else:
        choices.pick("fastest here", precision="float32")


def _pick_patches(
    train: list[MicrographEntry], device: torch.device, processes: int, choices: _Choices
) -> None:
    wanted, batch = (128, 8) if device.type == "cpu" else (512, 4)
    scale = max((stage.scale for stage in choices.config().stages), default=1)
    edge = min((min(entry.shape[1:]) for entry in train), default=wanted) // scale
    if edge < wanted:
        smaller = max(16, edge // _GRID * _GRID)
        choices.pick(f"micrographs have {edge * scale} px along an edge", patch_size=smaller)
    else:
        where = "on a CPU" if device.type == "cpu" else "on a GPU"
        choices.pick(f"good value for the time {where}", patch_size=wanted)
    pixels = choices.config().patch_size ** 2
    # As many pixels in a step, whatever the patch; each process takes an equal share.
    count = min(32, max(1, round(batch * wanted**2 / pixels)))
    shared = -(-count // processes) * processes
    why = f"a step of about {batch * wanted**2 / 1e6:.2g} megapixels"
    choices.pick(why if processes == 1 else f"{why} on {processes} GPUs", batch_size=shared)


def _pick_dropout(train: list[MicrographEntry], choices: _Choices) -> None:
    most = max((entry.shape[0] for entry in train), default=2)
    fixed_halves = most < 4 and choices.config().target == "noisy"
    few = fixed_halves and len(train) < _FEW
    if few and find_network(choices.config().network).has_dropout:
        why = f"{len(train)} training micrographs with fixed halves are easily learnt by heart"
        choices.pick(why, dropout=0.2)


def _pick_steps(
    train: list[MicrographEntry], effort: _Effort, preset: Preset, choices: _Choices
) -> None:
    if "epochs" in choices.given:
        return
    once = loaders.steps_per_epoch(train, choices.config())
    if once * effort.passes > effort.steps:
        times = "once" if effort.passes == 1 else f"{effort.passes} times"
        choices.pick(f"all patches {times}, preset {preset}", steps=once * effort.passes)
    else:
        choices.pick(f"preset {preset}", steps=effort.steps)
