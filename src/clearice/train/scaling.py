"""The scale of the output: a network learns best when what it returns is about as large as 1.

Micrographs are normalised by noise and signal together, and of that the signal is a tenth or so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from clearice.config import TrainConfig
from clearice.data import Dataset, GridSampler, MicrographEntry, PatchLoader

_PATCHES = 64
_SMALLEST = 0.01


def choose_scale(
    data: Dataset, entries: list[MicrographEntry], config: TrainConfig
) -> tuple[float, str]:
    """Return the factor on the network's output, and in one line why.

    Input and target share the signal but no noise, so their covariance is the signal's variance,
    on the target's scale times `target_gain`. With blind spots there is one image, and what
    neighbouring pixels share has to do: less than the signal, but all that they say of each other.

    Args:
        data: The data set.
        entries: Its training micrographs.
        config: How to train.
    """
    if config.output_scale != "auto":
        return config.output_scale, f"output scale {config.output_scale:.3g} as asked"
    clean, blind = config.target == "clean", config.target == "masked"
    grid = GridSampler(
        [entry.shape for entry in entries], config.patch_size, config.batch_size, _PATCHES
    )
    # On the CPU whatever the device, so that all ranks find the same number.
    cpu = torch.device("cpu")
    loader = PatchLoader(
        data,
        entries,
        grid,
        config.patch_size,
        cpu,
        "stream",
        clean=clean,
        whole=blind,
        workers=config.workers,
    )
    batches = loader.batches(0, len(grid))
    found = [_of_neighbours(b.input) if blind else _covariances(b.input, b.target) for b in batches]
    gain = data.manifest.target_gain if config.target == "noisy" else 1.0
    variance = float(torch.cat(found).mean()) / gain
    scale = math.sqrt(max(variance, _SMALLEST**2))
    if variance <= _SMALLEST**2:
        return scale, f"output scale {scale:.3g}, the smallest: hardly any signal was found"
    if blind:
        return scale, f"output scale {scale:.3g}: root of the covariance of neighbouring pixels"
    return scale, f"output scale {scale:.3g}: standard deviation of the signal in training pairs"


def _covariances(x: Tensor, y: Tensor) -> Tensor:
    """Return the covariance of each pair of patches."""
    x, y = x.double().flatten(1), y.double().flatten(1)
    return ((x - x.mean(1, keepdim=True)) * (y - y.mean(1, keepdim=True))).mean(1)


def _of_neighbours(x: Tensor) -> Tensor:
    """Return the mean covariance of each pixel with its four neighbours, of each patch."""
    x = x.double() - x.double().mean((1, 2, 3), keepdim=True)
    down = (x[..., 1:, :] * x[..., :-1, :]).mean((1, 2, 3))
    across = (x[..., :, 1:] * x[..., :, :-1]).mean((1, 2, 3))
    return (down + across) / 2


def scale_output(network: nn.Module, scale: float) -> None:
    """Let a network return its output times a factor, wherever it is called from now on.

    Its weights do not know: who uses them without this multiplies by the factor, which is part of
    `ModelInfo.output_gain`.
    """

    def multiply(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return (output if output.dtype.itemsize >= 4 else output.float()) * scale

    network.register_forward_hook(multiply)


def output_gain(data: Dataset, config: TrainConfig, scale: float) -> float:
    """Return the factor from the bare network's output to the scale of the normalised input."""
    # Truth is on the scale of the input; a target of another dose need not be.
    return scale * data.manifest.target_gain if config.target == "noisy" else scale
