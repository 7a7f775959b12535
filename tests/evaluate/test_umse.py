"""The error from four-way splits, against the error that the truth gives."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clearice.errors import ConfigError
from clearice.evaluate import FourWay, four_way
from clearice.fourier import gaussian_lowpass
from clearice.metrics import highpassed
from helpers import smooth_image

PIXEL = 2.0
SIZE = 128
DENOISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda image: gaussian_lowpass(image, 1.0),
    "not linear": lambda image: torch.tanh(gaussian_lowpass(image, 0.7)),
    "nothing": lambda image: image,
    "empty": lambda image: 0 * image,
}


def _groups(
    generator: torch.Generator, weights: list[float], noise: float
) -> tuple[Tensor, Tensor]:
    signal = smooth_image(generator, SIZE).double()
    groups = [
        signal + noise / math.sqrt(w) * torch.randn(SIZE, SIZE, generator=generator)
        for w in weights
    ]
    return signal, torch.stack(groups)


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("inputs", [None, 6])
@pytest.mark.parametrize("weights", [[1.0] * 8, [0.5, 2.0, 1.0, 1.5, 0.7, 1.3, 0.9, 1.1]])
def test_it_is_the_error(
    generator: torch.Generator, name: str, inputs: int | None, weights: list[float]
) -> None:
    total = None
    shares: list[float] = []
    errors: list[float] = []
    for _ in range(6):
        signal, groups = _groups(generator, weights, 1.5)

        def denoise(image: Tensor, share: float, truth: Tensor = signal) -> Tensor:
            result = DENOISERS[name](image)
            shares.append(share)
            errors.append(float((highpassed(result - truth, PIXEL)).square().sum()))
            return result

        found = four_way(denoise, groups, weights, PIXEL, inputs)
        total = found if total is None else total + found
        assert found.input_dose == shares[-1]
    assert total is not None
    true = sum(errors)
    if len(set(weights)) == 1:
        assert shares[0] == pytest.approx((inputs or 4) / 8)
    # The noise of two groups at least, 1.5² / 2 in variance, over the pixels of six images.
    spread = 4 * 1.5**2 / math.sqrt(6 * SIZE**2)
    assert total.umse == pytest.approx(true / (6 * SIZE**2), abs=5 * spread)
    assert total.relative == pytest.approx(true / total.signal, abs=0.1)


def test_upsnr_is_the_error_in_decibels() -> None:
    found = FourWay(squared_error=4.0, signal=100.0, count=100, input_dose=0.5)
    assert found.umse == pytest.approx(0.04)
    assert found.span == pytest.approx(6)
    assert found.upsnr_db(found.span) == pytest.approx(10 * math.log10(36 / 0.04))
    assert FourWay(-1.0, 1.0, 10, 0.5).upsnr_db(1.0) == math.inf


@pytest.mark.parametrize(("groups", "inputs"), [(2, None), (3, None), (8, 7), (8, 0)])
def test_what_cannot_be_split_four_ways(groups: int, inputs: int | None) -> None:
    images = torch.randn(groups, 16, 16)
    with pytest.raises(ConfigError):
        four_way(lambda image, _: image, images, [1.0] * groups, PIXEL, inputs)
