"""How much structure a model makes of inputs that hold none, and what it adds to those that do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clearice.evaluate.local import band_limited, bin_factor
from clearice.fourier import RingSums, apply_ring_gain, gaussian_lowpass, ring_sums
from clearice.metrics import Moments

_RINGS: Final = 48
_PARTICLE_ANGSTROM: Final = 150.0
# A blob is as strong as a particle from half of the height of the strongest tenth in real results.
_STRONGEST: Final = 0.9
_HALF: Final = 0.5
_TINY: Final = 1e-30

Image = Float[Tensor, "h w"]
Model = Callable[[Image], Image]


@dataclass(frozen=True)
class Field:
    """A real or simulated micrograph with its halves, normalised by one affine.

    Attributes:
        full: Mean of both halves.
        even: One half.
        odd: The other half, of the same dose.
    """

    full: Image
    even: Image
    odd: Image


def noise_spectrum(fields: Sequence[Field]) -> Float[Tensor, "rings"]:
    """Return the power of the full-dose noise a pixel in each ring, from what halves differ in."""
    sums = _pooled([ring_sums(f.even - f.odd, f.even - f.odd, _RINGS) for f in fields])
    pixels = fields[0].full.numel()
    return sums.power_x / (4 * pixels * sums.count.clamp(min=1))


def wiener(fields: Sequence[Field]) -> Model:
    """Return the best radial filter for the full dose, learnt from halves: it can invent nothing.

    W = S/(S + N), S the cross power of the halves and N half of that of one half's noise.
    """
    sums = _pooled([ring_sums(_mirrored(f.even), _mirrored(f.odd), _RINGS) for f in fields])
    signal = sums.cross.clamp(min=0)
    noise = ((sums.power_x + sums.power_y) / 2 - signal).clamp(min=0) / 2
    gain = signal / (signal + noise).clamp(min=_TINY)
    return lambda image: apply_ring_gain(image.double(), gain, _RINGS)


def _pooled(sums: Sequence[RingSums]) -> RingSums:
    return reduce(add, sums)


def _mirrored(image: Image) -> Float[Tensor, "2h 2w"]:
    """Continue an image beyond its edges, or a gradient would jump there and seem to be signal."""
    wide = torch.cat([image, image.flip(1)], 1) - image.mean()
    return torch.cat([wide, wide.flip(0)], 0)


def white_noise(shape: tuple[int, int], seed: int, variance: float = 1.0) -> Image:
    """Return white Gaussian noise."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return noise * math.sqrt(variance)


def coloured_noise(shape: tuple[int, int], power: Float[Tensor, "rings"], seed: int) -> Image:
    """Return Gaussian noise of a power a pixel in each ring."""
    return apply_ring_gain(white_noise(shape, seed), power.clamp(min=0).sqrt())


def scrambled(image: Image, seed: int) -> Image:
    """Return an image of the same amplitudes with the phases of white noise, edges mirrored."""
    height, width = image.shape
    wide = _mirrored(image)
    phases = torch.fft.rfft2(white_noise((2 * height, 2 * width), seed).to(wide))
    phases = phases / phases.abs().clamp(min=_TINY)
    spectrum = torch.fft.rfft2(wide).abs() * phases
    return torch.fft.irfft2(spectrum, s=wide.shape)[:height, :width] + image.mean()


@dataclass(frozen=True)
class Yardstick:
    """What a model makes of real micrographs, between 400 and 20 Å.

    Attributes:
        power: Mean square of its results.
        height: From which a blob counts as strong as a particle.
        blobs: Such blobs a pixel.
        pixel_size_angstrom: Å/px of what it was given.
    """

    power: float
    height: float
    blobs: float
    pixel_size_angstrom: float

    @classmethod
    def of(cls, outputs: Sequence[Image], pixel_size_angstrom: float) -> Yardstick:
        """Measure results on real micrographs.

        Args:
            outputs: Not band-limited.
            pixel_size_angstrom: Å/px.
        """
        bands = [band_limited(output, pixel_size_angstrom) for output in outputs]
        binned = pixel_size_angstrom * bin_factor(pixel_size_angstrom)
        heights = torch.cat([blob_heights(band, binned) for band in bands])
        height = _HALF * float(torch.quantile(heights, _STRONGEST)) if len(heights) else math.inf
        pixels = sum(band.numel() for band in bands)
        power = sum(float(band.square().sum()) for band in bands) / pixels
        return cls(power, height, float((heights >= height).sum()) / pixels, pixel_size_angstrom)


def blob_heights(image: Image, pixel_size_angstrom: float) -> Float[Tensor, "blobs"]:
    """Return how far blobs of 150 Å stand out, dark or bright: maxima of a difference of Gaussians.

    Args:
        image: Band-limited.
        pixel_size_angstrom: Å/px of it.
    """
    sigma = _PARTICLE_ANGSTROM / 4 / pixel_size_angstrom
    response = gaussian_lowpass(image, sigma) - gaussian_lowpass(image, 1.6 * sigma)
    response = response.abs()
    reach = max(1, round(_PARTICLE_ANGSTROM / 2 / pixel_size_angstrom))
    around = functional.max_pool2d(response[None, None], 2 * reach + 1, 1, reach)[0, 0]
    return response[(response == around) & (response > 0)]


def from_nothing(outputs: Sequence[Image], yardstick: Yardstick) -> dict[str, Any]:
    """Measure what a model made of independent inputs without structure.

    Args:
        outputs: One or more; one has no `correlation`.
        yardstick: Of the same model.

    Returns:
        `power`: over that of results on real micrographs. `blobs`: those as strong as particles,
        over those in real results. `correlation`: the largest between independent inputs, or None.
        `excess_kurtosis`, 0 of a Gaussian field; `highest`: the largest |z|, and
        `highest_of_gaussian` that of Gaussian fields of the same spectrum.
    """
    bands = [band_limited(output, yardstick.pixel_size_angstrom) for output in outputs]
    binned = yardstick.pixel_size_angstrom * bin_factor(yardstick.pixel_size_angstrom)
    pixels = sum(band.numel() for band in bands)
    power = sum(float(band.square().sum()) for band in bands) / pixels
    heights = torch.cat([blob_heights(band, binned) for band in bands])
    blobs = float((heights >= yardstick.height).sum()) / pixels
    pairs = [Moments.of(one, other).correlation for one, other in pairwise(bands)]
    z = torch.cat([(band / band.std(correction=0).clamp(min=_TINY)).flatten() for band in bands])
    gaussian = [scrambled(band, 1000 + seed) for seed, band in enumerate(bands)]
    peaks = [float(g.abs().max() / g.std(correction=0).clamp(min=_TINY)) for g in gaussian]
    return {
        "power": power / max(yardstick.power, _TINY),
        "blobs": blobs / max(yardstick.blobs, _TINY),
        "correlation": max(pairs, key=abs, default=None),
        "excess_kurtosis": float(z.pow(4).mean()) - 3,
        "highest": float(z.abs().max()),
        "highest_of_gaussian": max(peaks),
    }


def unsupported(
    outputs: Sequence[Image], references: Sequence[Image], pixel_size_angstrom: float
) -> float:
    """Return the share of results' power that an independent image does not bear out.

    1 − Σ D R / Σ D². Of E[S given X], and of a Wiener filter, it is 0, since D then correlates with
    S as with itself. What is invented counts in the denominator alone. Above 1 it is signal
    inverted; below 0 results are damped.

    Args:
        outputs: D.
        references: Independent images of the same signal and scale, the truth or other halves.
        pixel_size_angstrom: Å/px.
    """
    cross = power = 0.0
    for output, reference in zip(outputs, references, strict=True):
        one = band_limited(output, pixel_size_angstrom)
        other = band_limited(reference, pixel_size_angstrom)
        cross += float((one * other).sum())
        power += float(one.square().sum())
    return 1 - cross / max(power, _TINY)


def moves_along(model: Model, image: Image, pixel_size_angstrom: float) -> float:
    """Return how the result of a shifted image correlates with the shifted result.

    The shift, an odd number of pixels both ways, is no multiple of any network's stride.
    """
    shift = (13, -7)
    moved = torch.roll(model(image), shift, (0, 1))
    other = model(torch.roll(image, shift, (0, 1)))
    return Moments.of(
        band_limited(moved, pixel_size_angstrom), band_limited(other, pixel_size_angstrom)
    ).correlation


# What a model may do at most; reasons in docs/science.md.
MOST_UNSUPPORTED: Final = 0.25
MOST_BLOBS: Final = 0.1
MOST_CORRELATION: Final = 0.1
LIMITS: Final = {
    "unsupported": MOST_UNSUPPORTED,
    "blobs": MOST_BLOBS,
    "correlation": MOST_CORRELATION,
}
ICE: Final = "ice without particles"
NOISES: Final = ("white noise", "noise of the data", ICE)


def inputs_of_nothing(
    fields: Sequence[Field], ice: Sequence[Image], count: int
) -> dict[str, list[Image]]:
    """Return independent inputs that hold no structure, by name; `ice` is one of them.

    Args:
        fields: Micrographs whose noise and amplitudes are taken.
        ice: Normalised micrographs without particles.
        count: How many of each, at most as many as `fields` of scrambled ones.
    """
    height, width = fields[0].full.shape
    power = noise_spectrum(fields)
    # Rings hold pixels in proportion to their radius.
    ring = torch.arange(len(power), dtype=power.dtype) + 0.5
    variance = float((power * ring).sum() / ring.sum())
    seeds = range(count)
    return {
        "white noise": [white_noise((height, width), seed, variance) for seed in seeds],
        "noise of the data": [coloured_noise((height, width), power, 100 + s) for s in seeds],
        ICE: list(ice),
        "scrambled phases": [scrambled(f.full, 200 + i) for i, f in enumerate(fields[:count])],
    }


def examine(
    full: Model,
    half: Model,
    fields: Sequence[Field],
    nothing: dict[str, list[Image]],
    pixel_size_angstrom: float,
) -> dict[str, Any]:
    """Measure what a model invents.

    Args:
        full: The model, told that its input has the full dose.
        half: The model, told that its input has half of it.
        fields: Micrographs that it was not trained on.
        nothing: From `inputs_of_nothing`.
        pixel_size_angstrom: Å/px.

    Returns:
        `unsupported`; `moves_along`; `from_nothing` by the name of the input, with `filter_power`,
        the power that the best radial filter makes of it (see `from_nothing`).
    """
    pixel = pixel_size_angstrom
    yardstick = Yardstick.of([full(field.full) for field in fields], pixel)
    plain = wiener(fields)
    plain_yardstick = Yardstick.of([plain(field.full) for field in fields], pixel)
    halves = [(f.even, f.odd) for f in fields] + [(f.odd, f.even) for f in fields]
    probes = {}
    for name, images in nothing.items():
        filtered = from_nothing([plain(image) for image in images], plain_yardstick)
        probes[name] = {
            **from_nothing([full(image) for image in images], yardstick),
            "filter_power": filtered["power"],
        }
    return {
        "unsupported": unsupported([half(a) for a, _ in halves], [b for _, b in halves], pixel),
        "moves_along": moves_along(full, fields[0].full, pixel),
        "from_nothing": probes,
    }


def failures(measured: dict[str, Any]) -> list[str]:
    """Return what a model fails in, in words; nothing if it passes.

    Args:
        measured: From `examine`.
    """
    found = []
    if measured["unsupported"] > MOST_UNSUPPORTED:
        found.append(
            f"{measured['unsupported']:.0%} of the power of its results on unseen micrographs is "
            f"not borne out by the other half (at most {MOST_UNSUPPORTED:.0%})"
        )
    for name in NOISES:
        probe = measured["from_nothing"][name]
        if probe["power"] > probe["filter_power"]:
            found.append(
                f"{name}: results have {probe['power']:.0%} of the power of real ones, more than "
                f"a plain filter lets through ({probe['filter_power']:.0%})"
            )
        if probe["blobs"] > MOST_BLOBS:
            found.append(
                f"{name}: results have {probe['blobs']:.0%} as many blobs as strong as particles "
                f"as real ones (at most {MOST_BLOBS:.0%})"
            )
        # Two fields of ice are no independent inputs: both have a gradient.
        if name != ICE and abs(probe["correlation"]) > MOST_CORRELATION:
            found.append(
                f"{name}: results of independent inputs correlate at {probe['correlation']:.2f} "
                f"(at most {MOST_CORRELATION:g})"
            )
    return found
