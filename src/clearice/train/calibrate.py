"""What a trained network does to amplitudes, measured on held-out micrographs.

The mean over everything that could have been there has less power than what was there. How much
less is measured ring by ring, and kept in the model file for whoever wants it back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from itertools import zip_longest
from operator import add
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clearice import checkpoint
from clearice.checkpoint import Calibration, ModelInfo
from clearice.data import Dataset, MicrographEntry, Split
from clearice.fourier import RingSums, ring_frequencies, ring_sums
from clearice.metrics import (
    AmplitudeSums,
    amplitude_gain,
    signal_correlation,
    signal_significance,
    signal_transfer,
)
from clearice.networks import inputs_of, place
from clearice.seeds import derive_seed

_Item = TypeVar("_Item")

# Crops bound the memory; a random choice of them, the same each time, bounds the time.
_CROP_PX = 1024
_MOST_CROPS = 32
_MOST_RINGS = 64
_MOST_FOLDS = 4
_SIGNAL_SIGMAS = 3.0
# Share of a crop, at each edge, over which it fades: jumps between opposite edges would spread low
# frequencies over all others, and there the network sees less than it would in the whole image.
_MARGIN = 1 / 8


def calibrate(
    model: Path, data: Dataset, device: torch.device, say: Callable[[str], None]
) -> Calibration | None:
    """Measure the amplitudes of a trained model on validation micrographs, and keep them with it.

    The file is replaced in one step. A model that has its calibration is left as it is.

    Args:
        model: Model file.
        data: What it was trained on.
        device: Where to compute.
        say: Called with one line for the user.

    Returns:
        The calibration, or None if no micrograph was held out, or there are no halves.

    Raises:
        CheckpointError: The model cannot be loaded.
        OutputError: The file cannot be written; the older one stays whole.
    """
    network, info = checkpoint.load_model(model)
    entries = data.entries(Split.VALIDATION)
    if info.calibration is not None or not entries or data.manifest.roles == "single":
        return info.calibration
    say(f"measuring amplitudes on {len(_chosen(entries))} held-out crops")
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    calibration = measure(place(network, device), info, data, entries, device)
    checkpoint.save(model, weights, replace(info, calibration=calibration), None)
    say(_summary(calibration, info.pixel_size_angstrom))
    return calibration


@torch.inference_mode()
def measure(
    network: nn.Module,
    info: ModelInfo,
    data: Dataset,
    entries: Sequence[MicrographEntry],
    device: torch.device,
) -> Calibration:
    """Measure what a network does to the amplitudes of held-out micrographs.

    Args:
        network: In evaluation mode, on the device.
        info: Of the network.
        data: The data set.
        entries: Its micrographs to measure on, at least one.
        device: Where to compute.
    """

    def denoise(image: Float[Tensor, "h w"], dose: float) -> Float[Tensor, "h w"]:
        told = torch.tensor([dose], device=device).log2()
        output = network(*inputs_of(network, image.to(device)[None, None], told))[0, 0]
        return output.float().to(image.device) * info.output_gain

    # MPS has no float64, in which rings are summed.
    place_of_sums = torch.device("cpu") if device.type == "mps" else device
    crops = _chosen(entries)
    edge = min(span.stop - span.start for _, window in crops for span in window)
    n_rings = min(_MOST_RINGS, edge // 2)
    views = (_views(data, entry, window, place_of_sums) for entry, window in crops)
    sums = reduce(add, (_sums(full, pairs, denoise, n_rings) for full, pairs in views))
    smooth = sums.smoothed()
    seen = signal_significance(sums) > _SIGNAL_SIGMAS
    return Calibration(
        gain=tuple(amplitude_gain(sums).tolist()),
        correlation=_listed(signal_correlation(smooth).clamp(-1, 1), seen),
        transfer=_listed(signal_transfer(smooth.denoised, smooth.raw), seen),
        micrographs=len({entry.name for entry, _ in crops}),
    )


def _chosen(
    entries: Sequence[MicrographEntry],
) -> list[tuple[MicrographEntry, tuple[slice, slice]]]:
    """Choose crops at random, from anywhere in a micrograph, as evenly as can be among them all."""
    generator = torch.Generator().manual_seed(derive_seed("calibration"))

    def shuffled(items: Sequence[_Item]) -> list[_Item]:
        order = torch.randperm(len(items), generator=generator)
        return [items[index] for index in order.tolist()]

    each = [[(e, window) for window in shuffled(list(_windows(e)))] for e in shuffled(entries)]
    rounds = zip_longest(*each)
    return [crop for crops in rounds for crop in crops if crop is not None][:_MOST_CROPS]


def _windows(entry: MicrographEntry) -> Iterator[tuple[slice, slice]]:
    """Cut a micrograph into equal crops."""

    def spans(length: int) -> list[slice]:
        count = -(-length // _CROP_PX)
        return [slice(i * (length // count), (i + 1) * (length // count)) for i in range(count)]

    for rows in spans(entry.shape[1]):
        for columns in spans(entry.shape[2]):
            yield rows, columns


def _views(
    data: Dataset, entry: MicrographEntry, window: tuple[slice, slice], device: torch.device
) -> tuple[Tensor, list[tuple[Tensor, Tensor, float]]]:
    """Return a crop as it is denoised, and pairs of inputs and targets on the input's scale.

    With each pair goes the dose of its input over that of what is denoised.

    Groups are dealt into up to four folds; each in turn is the target of an input that is made of
    the others. Where the roles are fixed there is one pair, and its input is what is denoised.
    """
    groups = data.stack(entry, mapped=True)[:, *window].to(device).float()
    dose = torch.tensor(entry.weights, device=device)
    weighted = groups * dose[:, None, None]
    if data.manifest.roles == "input-target":
        target = weighted[1:].sum(0) / dose[1:].sum()
        return groups[0], [(groups[0], target * data.manifest.target_gain, 1.0)]
    n_folds = min(len(groups), _MOST_FOLDS)
    folds = [(weighted[f::n_folds].sum(0), dose[f::n_folds].sum()) for f in range(n_folds)]
    total, whole = weighted.sum(0), dose.sum()
    return total / whole, [
        ((total - part) / (whole - share), part / share, float(1 - share / whole))
        for part, share in folds
    ]


def _sums(
    full: Float[Tensor, "h w"],
    pairs: list[tuple[Tensor, Tensor, float]],
    denoise: Callable[[Tensor, float], Tensor],
    n_rings: int,
) -> AmplitudeSums:
    """Sum over the rings of one crop: means over its pairs."""
    window = _taper(full)

    def sums(x: Tensor, y: Tensor) -> RingSums:
        return ring_sums(_without_stripes(x) * window, _without_stripes(y) * window, n_rings)

    raw = reduce(add, (sums(i, t) for i, t, _ in pairs))
    denoised = reduce(add, (sums(denoise(i, dose), t) for i, t, dose in pairs))
    output = denoise(full, 1.0)
    pixels = _independent_pixels(window, n_rings)
    # Each product of two folds is in the sums twice, so the noise of four folds counts as two. What
    # a network makes up may resemble the signal by chance, which is the same in all folds.
    of_noise = pixels * max(1.0, len(pairs) / 2)

    def averaged(total: RingSums, count: Tensor) -> RingSums:
        return replace(total.map(lambda values: values / len(pairs)), count=count)

    return AmplitudeSums(
        averaged(raw, of_noise), averaged(denoised, pixels), sums(output, output).power_x
    )


def _without_stripes(image: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Subtract the means of rows and columns: detectors offset both, alike in all frames."""
    image = image - image.mean(0, keepdim=True)
    return image - image.mean(1, keepdim=True)


def _taper(image: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Return a window that rises from each edge as the square of a sine."""

    def rise(length: int) -> Tensor:
        middle = torch.arange(length, dtype=image.dtype, device=image.device) + 0.5
        inwards = torch.minimum(middle, length - middle) / (_MARGIN * length)
        return torch.sin(inwards.clamp(max=1) * (math.pi / 2)).square()

    return rise(image.shape[0])[:, None] * rise(image.shape[1])


def _independent_pixels(window: Float[Tensor, "h w"], n_rings: int) -> Float[Tensor, "rings"]:
    """Return how many Fourier pixels of each ring are independent, behind the window."""
    # The spectrum of one bright pixel is 1, but on the axes, which go with the stripes.
    pixel = torch.zeros_like(window)
    pixel[0, 0] = 1
    pixel = _without_stripes(pixel)
    power = window.double().square()
    return ring_sums(pixel, pixel, n_rings).power_x * power.mean().square() / power.square().mean()


def _listed(
    values: Float[Tensor, "rings"], known: Bool[Tensor, "rings"]
) -> tuple[float | None, ...]:
    pairs = zip(values.tolist(), known.tolist(), strict=True)
    return tuple(value if yes else None for value, yes in pairs)


def _summary(calibration: Calibration, pixel_size_angstrom: float) -> str:
    gain = torch.tensor(calibration.gain)
    largest = int(gain.argmax())
    done = f"amplitudes calibrated on held-out micrographs ({calibration.micrographs})"
    if gain[largest] <= 1:
        return f"{done}: they prove nothing that --restore-amplitude could raise"
    resolution = pixel_size_angstrom / float(ring_frequencies(len(gain))[largest])
    return (
        f"{done}: --restore-amplitude raises up to {gain[largest]:.2f} times, at {resolution:.3g} Å"
    )
