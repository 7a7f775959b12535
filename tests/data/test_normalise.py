"""The affine of a micrograph: mean 0 and standard deviation 1, and the way back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearice.data import Affine
from tolerances import ABSOLUTE, RELATIVE


@given(
    mean=st.floats(-1e3, 1e3),
    std=st.floats(0.1, 1e3),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9)),
)
def test_invert_undoes_apply(mean: float, std: float, shape: tuple[int, int, int]) -> None:
    image = torch.linspace(-3, 3, shape[0] * shape[1] * shape[2], dtype=torch.float64)
    image = image.reshape(shape)
    affine = Affine(mean, std)
    back = affine.invert(affine.apply(image))
    torch.testing.assert_close(back, image, rtol=RELATIVE[torch.float64], atol=1e-10 * (1 + std))


def test_apply_standardises_the_image_it_was_taken_from(generator: torch.Generator) -> None:
    image = 5e3 + 40 * torch.randn(50, 70, generator=generator, dtype=torch.float64)
    normalised = Affine.of(image).apply(image)
    assert float(normalised.mean()) == pytest.approx(0, abs=ABSOLUTE[torch.float64])
    assert float(normalised.std(correction=0)) == pytest.approx(1, rel=RELATIVE[torch.float64])


def test_statistics_of_float32_images_are_summed_wide() -> None:
    # In float32, a running sum over these would lose the last digits of the mean.
    image = torch.full((1000, 1000), 1e4)
    image[::2] += 1.0
    affine = Affine.of(image)
    assert affine.mean == pytest.approx(1e4 + 0.5, rel=1e-12)
    assert affine.std == pytest.approx(0.5, rel=1e-9)
