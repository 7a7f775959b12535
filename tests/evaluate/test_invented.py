"""What is invented: nothing by a filter; known amounts by models that are made to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clearice.evaluate.invented import (
    Field,
    Model,
    Yardstick,
    blob_heights,
    examine,
    failures,
    from_nothing,
    inputs_of_nothing,
    noise_spectrum,
    scrambled,
    unsupported,
    wiener,
)
from clearice.fourier import gaussian_lowpass

PIXEL = 5.0


@pytest.fixture
def fields(generator: torch.Generator) -> list[Field]:
    found = []
    for _ in range(3):
        signal, even, odd = torch.randn(3, 160, 160, generator=generator)
        signal = 6 * gaussian_lowpass(signal, 4.0)
        halves = (signal + even, signal + odd)
        found.append(Field((halves[0] + halves[1]) / 2, *halves))
    return found


@pytest.fixture
def ice(generator: torch.Generator) -> list[Tensor]:
    return list(torch.randn(3, 160, 160, generator=generator) / 2**0.5)


def _failures(full: Model, half: Model, fields: list[Field], ice: list[Tensor]) -> list[str]:
    nothing = inputs_of_nothing(fields, ice, 3)
    return failures(examine(full, half, fields, nothing, PIXEL))


def test_the_noise_of_the_data_is_that_of_the_mean_of_halves(fields: list[Field]) -> None:
    assert float(noise_spectrum(fields).mean()) == pytest.approx(0.5, rel=0.05)


def test_of_a_wiener_filter_everything_is_borne_out(generator: torch.Generator) -> None:
    fields, others = [], []
    for _ in range(4):
        signal, even, odd, third = torch.randn(4, 256, 256, generator=generator)
        signal = 6 * gaussian_lowpass(signal, 2.0)
        fields.append(Field(signal + (even + odd) / 2, signal + even, signal + odd))
        others.append(signal + third)
    results = [wiener(fields)(f.full) for f in fields]
    assert unsupported(results, others, PIXEL) == pytest.approx(0, abs=0.03)


def test_a_damped_wiener_filter_passes(fields: list[Field], ice: list[Tensor]) -> None:
    plain = wiener(fields)

    def shrunk(image: Tensor) -> Tensor:
        found = plain(image)
        return found * (gaussian_lowpass(found.square(), 12.0) > 0.15)

    assert _failures(shrunk, shrunk, fields, ice) == []


def test_one_picture_for_every_input_fails(
    fields: list[Field], ice: list[Tensor], generator: torch.Generator
) -> None:
    picture = gaussian_lowpass(torch.randn(160, 160, generator=generator), 5.0)
    found = " ".join(_failures(lambda _: picture, lambda _: picture, fields, ice))
    assert "independent inputs correlate at 1.00" in found
    assert "100% as many blobs" in found
    assert "not borne out" in found


def test_half_invented_is_half_unsupported(generator: torch.Generator) -> None:
    signal, made = (gaussian_lowpass(torch.randn(300, 300, generator=generator), 2) for _ in "ab")
    assert unsupported([signal + made], [signal], PIXEL) == pytest.approx(0.5, abs=0.05)
    assert unsupported([signal], [signal], PIXEL) == pytest.approx(0, abs=1e-9)


def test_results_of_noise_by_a_filter_are_those_of_a_gaussian_field(
    generator: torch.Generator,
) -> None:
    results = list(gaussian_lowpass(torch.randn(3, 200, 200, generator=generator), 2.0))
    yardstick = Yardstick.of(results, PIXEL)
    found = from_nothing(results, yardstick)
    assert found["power"] == pytest.approx(1)
    assert found["blobs"] == pytest.approx(1)
    assert abs(found["correlation"]) < 0.1
    assert abs(found["excess_kurtosis"]) < 0.2
    assert found["highest"] == pytest.approx(found["highest_of_gaussian"], rel=0.3)


def test_blobs_are_counted_dark_or_bright() -> None:
    image = torch.zeros(120, 200, dtype=torch.float64)
    image[60, 50], image[60, 150] = 1000, -500
    heights = blob_heights(gaussian_lowpass(image, 6.0), PIXEL).sort(descending=True).values
    assert float(heights[0]) == pytest.approx(2 * float(heights[1]), rel=0.01)
    assert len(heights) == 2


def test_scrambling_keeps_amplitudes_and_nothing_else(generator: torch.Generator) -> None:
    image = 20 + 3 * gaussian_lowpass(torch.randn(128, 128, generator=generator), 1.0)
    other = scrambled(image, 5)
    assert float(other.std()) == pytest.approx(float(image.std()), rel=0.15)
    centred = (image - image.mean()) * (other - other.mean())
    assert abs(float(centred.mean() / image.std() / other.std())) < 0.1
