"""Blind spots: hide single pixels from the network, and ask it for them alone.

With one noisy image X = S + N of each micrograph and noise that is independent from pixel to pixel,
the neighbours of a pixel say what is to be known of its signal, and nothing of its noise. So where
the input's pixel is hidden, the minimiser of a squared error against X itself is
E[S | all other pixels].

Sources: Krull, Buchholz & Jug, CVPR 2019 (Noise2Void): 64 pixels a patch of 64², one at a random
place in each box of 8², replaced by one near it, and counted alone. Höck et al., ECCV Workshops
2022 (N2V2): what replaces it is drawn from its neighbourhood without the pixel itself, which would
teach the identity.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearice.config import TrainConfig
from clearice.data import Dataset
from clearice.data.hashing import scramble
from clearice.errors import ConfigError, DatasetError
from clearice.loss_spec import parse_term
from clearice.losses import LOSSES, find_loss
from clearice.types import PatchBatch

# Edge of the box that has one masked pixel, and reach of the neighbours that replace it, px.
_BOX: Final = 8
_REACH: Final = 2


def check_target(data: Dataset, config: TrainConfig) -> str | None:
    """Refuse what the target cannot be trained with, and tell what to know of it.

    Args:
        data: What would be trained on.
        config: How.

    Returns:
        A warning, if blind spots stand in for halves.

    Raises:
        DatasetError: Noise2Noise without halves.
        ConfigError: Blind spots with a loss that compares more than single pixels, or with a
            setting that needs halves.
        UnknownNameError: No such loss.
    """
    halves = data.manifest.roles != "single"
    if config.target == "noisy" and not halves:
        raise DatasetError(
            f"{data.folder}: has one image of each micrograph, and Noise2Noise needs two; prepare "
            "movies or half-sets, or train with --target masked, which learns less and cannot be "
            "verified by halves"
        )
    blind = config.target == "masked"
    if blind or not halves:
        _refuse_settings(config, blind=blind)
    if not blind:
        return None
    _refuse_losses(config)
    why = "though there are halves, from which Noise2Noise learns more" if halves else "no halves"
    return (
        f"{why}: blind-spot training (Noise2Void) assumes that noise is independent from pixel to "
        "pixel, learns less than Noise2Noise, and is not verified by halves"
    )


def _refuse_settings(config: TrainConfig, *, blind: bool) -> None:
    needs = {
        "best_by correlation": blind and config.best_by == "correlation",
        "stop_after": blind and config.stop_after is not None,
        "weight_by_dose": config.weight_by_dose,
    }
    given = [name for name, asked in needs.items() if asked]
    if given:
        raise ConfigError(
            f"{' and '.join(given)}: needs a second image to compare with, and here is one; leave "
            "it out"
        )


def _refuse_losses(config: TrainConfig) -> None:
    """Refuse losses that cannot be counted at single pixels, also if they are only watched."""
    usable = [name for name, info in LOSSES.items() if not info.spans]
    for text in config.loss:
        spans = find_loss(parse_term(text).name).spans
        if spans:
            raise ConfigError(
                f"loss '{text}' cannot be used with --target masked: it compares {spans}, and "
                f"hidden pixels alone may count; use {', '.join(usable[:-1])} or {usable[-1]}"
            )


def masked_share(height: int, width: int) -> float:
    """Return the share of an image's pixels that are masked, the same in every draw."""
    return _boxes(height) * _boxes(width) / (height * width)


def masked(batch: PatchBatch, key: int, first: int = 0, every: int = 1) -> PatchBatch:
    """Replace one pixel in each box of the inputs, and let the error count there alone.

    What is drawn for a pair is a function of the key and its number, so ranks that know the
    numbers of their pairs draw what one process would. Nothing waits for the device.

    Args:
        batch: Inputs and targets that are the same images.
        key: Random bits for all pairs that are numbered together, such as those of a step.
        first: Number of the first pair.
        every: Step from the number of one pair to that of the next.

    Returns:
        The same targets, with masked inputs and the mask; weights are divided by the share that is
        masked, so that a mean over all pixels is one over the masked ones.
    """
    n, _, height, width = batch.input.shape
    numbers = torch.arange(first, first + n * every, every, device=batch.input.device)
    place, source = _draw(key, numbers, height, width)
    pixels = batch.input.flatten(1)
    mask = torch.zeros_like(pixels, dtype=torch.bool).scatter_(1, place, True)
    hidden = pixels.scatter(1, place, pixels.gather(1, source))
    return replace(
        batch,
        input=hidden.view_as(batch.input),
        mask=mask.view_as(batch.input),
        weight=batch.weight / masked_share(height, width),
    )


def counted(prediction: Float[Tensor, "n 1 h w"], batch: PatchBatch) -> Float[Tensor, "n 1 h w"]:
    """Return a prediction without an error, and so without a gradient, where none counts."""
    if batch.mask is None:
        return prediction
    return torch.where(batch.mask, prediction, batch.target)


def _boxes(length: int) -> int:
    return max(1, round(length / _BOX))


def _draw(
    key: int, numbers: Int[Tensor, "n"], height: int, width: int
) -> tuple[Int[Tensor, "n boxes"], Int[Tensor, "n boxes"]]:
    """Return the pixel that is masked in each box, and the neighbour that replaces it, as indices.

    Boxes are of 8² px where the edges of the image are multiples of 8, else about as large.
    """
    device = numbers.device
    down = torch.arange(_boxes(height) + 1, device=device) * height // _boxes(height)
    across = torch.arange(_boxes(width) + 1, device=device) * width // _boxes(width)
    count = (len(down) - 1) * (len(across) - 1)
    draws = torch.arange(3 * count, device=device).view(3, 1, count)
    bits = scramble(key + scramble(numbers[:, None] * (3 * count) + draws))
    tops, lefts = down[:-1, None].expand(-1, len(across) - 1), across[:-1].expand(len(down) - 1, -1)
    heights, widths = down.diff()[:, None].expand_as(tops), across.diff().expand_as(lefts)
    row = tops.flatten() + _below(bits[0], heights.flatten())
    column = lefts.flatten() + _below(bits[1], widths.flatten())
    return row * width + column, _neighbour(bits[2], row, column, height, width)


def _neighbour(
    bits: Int[Tensor, "n boxes"],
    row: Int[Tensor, "n boxes"],
    column: Int[Tensor, "n boxes"],
    height: int,
    width: int,
) -> Int[Tensor, "n boxes"]:
    """Return another pixel of the 5 × 5 around each, of those that are inside the image."""
    top, left = (row - _REACH).clamp(min=0), (column - _REACH).clamp(min=0)
    rows = (row + _REACH).clamp(max=height - 1) - top + 1
    columns = (column + _REACH).clamp(max=width - 1) - left + 1
    chosen = _below(bits, rows * columns - 1)
    chosen = chosen + (chosen >= (row - top) * columns + column - left)
    return (top + chosen // columns) * width + left + chosen % columns


def _below(bits: Int[Tensor, "n boxes"], limit: Int[Tensor, "..."]) -> Int[Tensor, "n boxes"]:
    """Turn random bits into whole numbers from 0 to limit − 1, without float64: MPS has none."""
    return ((bits & 0x7FFFFFFF) * limit) >> 31
