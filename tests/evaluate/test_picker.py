"""The reference picker on images whose particles are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clearice.evaluate.picker import (
    SIGMA_RATIO,
    DogFilter,
    PickerSettings,
    dog_sigmas,
    find_peaks,
    inside,
)
from clearice.fourier import gaussian_lowpass, gaussian_transfer

PIXEL_SIZE = 2.0
CENTRES = torch.tensor([[40.3, 60.8], [120.0, 45.5], [90.6, 130.2]])


def _blobs(centres: Tensor, size: tuple[int, int] = (180, 200), sigma: float = 6.0) -> Tensor:
    y, x = torch.arange(size[0])[:, None], torch.arange(size[1])[None, :]
    image = torch.zeros(size)
    for cx, cy in centres.tolist():
        image += torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return image


def _pick(image: Tensor, settings: PickerSettings) -> Tensor:
    return find_peaks(DogFilter(image, PIXEL_SIZE, settings).response(), PIXEL_SIZE, settings).xy_px


@pytest.mark.parametrize("bright", [False, True])
def test_isolated_blobs_are_found_where_they_are(bright: bool) -> None:
    settings = PickerSettings(diameter_angstrom=40.0, bright=bright, margin=0.2)
    image = 7 + _blobs(CENTRES) * (1 if bright else -1)
    picks = _pick(image, settings)[: len(CENTRES)]
    error = torch.cdist(CENTRES, picks).amin(dim=1)
    assert float(error.max()) < 0.05 * 40 / PIXEL_SIZE / 2, picks


def test_the_contrast_that_is_not_asked_for_is_not_picked() -> None:
    settings = PickerSettings(diameter_angstrom=40.0, bright=True)
    picks = _pick(7 - _blobs(CENTRES), settings)
    assert float(torch.cdist(CENTRES, picks).min()) > 10


def test_scores_do_not_depend_on_units_or_level(generator: torch.Generator) -> None:
    settings = PickerSettings(diameter_angstrom=40.0)
    image = torch.randn(120, 140, generator=generator) - 2 * _blobs(CENTRES, (120, 140))
    one, other = (
        find_peaks(DogFilter(i, PIXEL_SIZE, settings).response(), PIXEL_SIZE, settings)
        for i in (image, 100 + 16 * image)
    )
    assert torch.allclose(one.score[:10], other.score[:10], rtol=1e-3)
    assert torch.allclose(one.xy_px[:10], other.xy_px[:10], atol=1e-2)


def test_a_disc_of_the_diameter_answers_most() -> None:
    # The response at the centre of discs of growing radius: largest where the filter changes sign.
    y, x = torch.arange(257)[:, None] - 128.0, torch.arange(257)[None, :] - 128.0
    settings = PickerSettings(diameter_angstrom=80.0, bright=True)
    radii = range(14, 28)
    answers = [
        float(
            DogFilter((torch.hypot(y, x) <= r).float(), PIXEL_SIZE, settings).response()[128, 128]
        )
        for r in radii
    ]
    assert abs(radii[answers.index(max(answers))] - 20) <= 1


def test_the_sigmas_are_those_of_the_formula() -> None:
    narrow, wide = dog_sigmas(100.0)
    assert wide == pytest.approx(SIGMA_RATIO * narrow)
    # Both Gaussians are equal at the radius of the particle.
    equal = [math.exp(-(50.0**2) / (2 * s**2)) / s**2 for s in (narrow, wide)]
    assert equal[0] == pytest.approx(equal[1])
    assert narrow < 100 / (2 * math.sqrt(2)) < wide


def test_a_lowpass_of_the_image_and_of_its_response_are_the_same(
    generator: torch.Generator,
) -> None:
    image, settings = torch.randn(96, 96, generator=generator), PickerSettings(24.0)
    both = DogFilter(image, PIXEL_SIZE, settings).response(lambda f: gaussian_transfer(f, 2.0))
    first = DogFilter(gaussian_lowpass(image, 2.0), PIXEL_SIZE, settings).response()
    middle = slice(
        32, 64
    )  # the low-pass continues the image periodically, the picker by reflection
    assert torch.allclose(both[middle, middle], first[middle, middle], atol=2e-4)


def test_no_two_picks_are_near_and_none_is_at_an_edge(generator: torch.Generator) -> None:
    settings = PickerSettings(diameter_angstrom=30.0, separation=0.9, margin=0.6)
    picks = _pick(torch.randn(150, 190, generator=generator), settings)
    assert len(picks) > 20
    distance = torch.cdist(picks, picks).fill_diagonal_(1e9)
    assert float(distance.min()) >= 0.9 * 15
    assert inside(picks, (150, 190), 0.6 * 15).all()
    assert not inside(torch.tensor([[189.5, 75.0]]), (150, 190), 0.0).any()


def test_an_image_smaller_than_the_filter_can_be_picked(generator: torch.Generator) -> None:
    picks = _pick(torch.randn(20, 24, generator=generator), PickerSettings(40.0, margin=0.0))
    assert torch.isfinite(picks).all()
