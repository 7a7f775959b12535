"""Beside slow denoisers that most people know, all on the middle of each micrograph.

Non-local means take minutes on a whole micrograph, so every method is judged on the same crop.
Crops have jumps at their edges, hence the taper.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.errors import ConfigError
from clearice.evaluate.accumulate import band_window, filtered_correlation
from clearice.evaluate.baselines import best_gaussian, wiener_response
from clearice.evaluate.cases import Case, Images, load
from clearice.evaluate.classic import CLASSIC
from clearice.evaluate.score import BANDS_ANGSTROM, HIGHPASS_ANGSTROM
from clearice.evaluate.slots import taper
from clearice.fourier import (
    RingSums,
    gaussian_transfer,
    highpass_transfer,
    ring_frequencies,
    ring_sums,
)
from clearice.metrics import snr_db

LARGEST_PX: Final = 1024

Field = Float[Tensor, "h w"]
Rings = Float[Tensor, "rings"]
# Of each method, for each micrograph.
Found = dict[str, list[RingSums]]


def tapered_sums(x: Field, y: Field, n_rings: int) -> RingSums:
    """Sum over rings up to the corner, means removed, behind the report card's taper."""
    window = taper(*x.shape).to(x.device)
    total = window.sum()
    wide = (one.double() for one in (x, y))
    x, y = ((one - (one * window).sum() / total) * window for one in wide)
    return ring_sums(x, y, n_rings, corners=True)


def score_crops(
    cases: Sequence[Case], progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Score non-local means and wavelets beside raw, filters and denoised, on crops.

    The Gaussian and the radial Wiener filter are chosen on the very crops.

    Args:
        cases: All with a raw image, and with a reference, or truth, or both.
        progress: Called with (micrographs done, micrographs in all).

    Returns:
        By method: `snr_db` against the truth above 1/400 Å, and `band_correlation` with the
        reference, 300–15 Å, where there is one; means over micrographs.

    Raises:
        ConfigError: A raw image is missing, or scikit-image is.
        InputFileError: A file cannot be used.
    """
    if not cases or any(case.raw is None for case in cases):
        raise ConfigError("non-local means and wavelets need the raw micrographs; give --raw")
    size = min(LARGEST_PX, *(min(io.image_shape(case.denoised)[1:]) for case in cases))
    truth, reference = Found(), Found()
    pixel = 0.0
    for done, case in enumerate(cases, 1):
        images = load(case)
        pixel = pixel or images.pixel_size_angstrom
        for name, image in _methods(images, size).items():
            for found, other in ((truth, images.truth), (reference, images.reference)):
                if other is not None:
                    sums = tapered_sums(image, _middle(other, size), size // 2)
                    found.setdefault(name, []).append(sums)
        progress(done, len(cases))
    return {"size_px": size, **_judged(truth, reference, size, pixel)}


def _middle(image: Field, size: int) -> Field:
    top, left = ((length - size) // 2 for length in image.shape)
    return image[top : top + size, left : left + size]


def _methods(images: Images, size: int) -> dict[str, Field]:
    assert images.raw is not None
    raw = _middle(images.raw, size)
    classic = {name: denoise(raw) for name, denoise in CLASSIC.items()}
    return {"raw": raw, **classic, "denoised": _middle(images.denoised, size)}


def _judged(truth: Found, reference: Found, size: int, pixel: float) -> dict[str, Any]:
    """Return the scores of all methods, radial filters of the raw crops among them."""
    frequency = ring_frequencies(size // 2, corners=True)
    windows = {
        "snr_db": highpass_transfer(frequency, pixel / HIGHPASS_ANGSTROM),
        "band_correlation": band_window(frequency, pixel, *BANDS_ANGSTROM[0]),
    }

    def score(key: str, sums: Sequence[RingSums], response: Rings) -> float:
        values = [filtered_correlation(s, response, windows[key]) for s in sums]
        return statistics.fmean(map(snr_db, values) if key == "snr_db" else values)

    found = {"snr_db": truth, "band_correlation": reference}
    judge = "snr_db" if truth else "band_correlation"
    sigma = best_gaussian(frequency, lambda response: score(judge, found[judge]["raw"], response))
    filters = {
        "gaussian_best": gaussian_transfer(frequency, sigma),
        "wiener": wiener_response((reference or truth)["raw"], oracle=not reference),
    }
    flat = torch.ones_like(frequency)
    return {
        "gaussian_sigma_px": sigma,
        **{
            key: {
                "raw": score(key, by_method["raw"], flat),
                **{name: score(key, by_method["raw"], r) for name, r in filters.items()},
                **{name: score(key, by_method[name], flat) for name in (*CLASSIC, "denoised")},
            }
            for key, by_method in found.items()
            if by_method
        },
    }
