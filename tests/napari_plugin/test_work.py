"""What the widget asks for, without napari."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clearice.denoise import Denoiser
from clearice.errors import CheckpointError, ConfigError, UserError
from clearice.napari_plugin.layers import Array, LazyStack
from clearice.napari_plugin.work import EACH, MEAN, SHOWN, Request, StoppedError, denoise
from helpers import CPU, PIXEL_SIZE, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


def _silent(_: str) -> None:
    """Say nothing."""


def test_an_image_is_denoised_as_by_the_command(model: Path, generator: torch.Generator) -> None:
    image = 20 + torch.randn(50, 70, generator=generator)
    said: list[str] = []
    request = Request("mic", image.numpy(), PIXEL_SIZE, model, "cpu", tile=32)
    result = denoise(request, said.append)
    expected = Denoiser(model, CPU, 32)(image)
    np.testing.assert_array_equal(result.pixels, expected.numpy())
    assert result.caveats == ()
    assert said[-1] == "tile 6 done"


def test_of_a_stack_one_each_or_the_mean(model: Path, generator: torch.Generator) -> None:
    images = torch.randn(3, 40, 48, generator=generator)
    stack = LazyStack(images, 40, 48)
    denoiser = Denoiser(model, CPU)
    expected = {
        SHOWN: denoiser(images[1]),
        EACH: torch.stack([denoiser(image) for image in images]),
        MEAN: denoiser(images.double().mean(0).float()),
    }
    said: list[str] = []
    for images_of, wanted in expected.items():
        request = Request("mics", stack, None, model, "cpu", images=images_of, shown=1)
        np.testing.assert_array_equal(denoise(request, said.append).pixels, wanted.numpy())
    assert "image 3 of 3, tile 1 done" in said


def test_another_pixel_size_is_said(model: Path, generator: torch.Generator) -> None:
    image = torch.randn(32, 32, generator=generator).numpy()
    (caveat,) = denoise(Request("mic", image, 3.0, model, "cpu"), _silent).caveats
    assert "3 Å/px" in caveat


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (np.ones((8, 8)), "constant"),
        (np.full((8, 8), np.nan), "NaN"),
        (np.zeros((2, 2, 8, 8)), "no micrograph"),
    ],
)
def test_a_useless_layer_is_named(model: Path, pixels: Array, problem: str) -> None:
    with pytest.raises(UserError, match=f"layer 'mic': .*{problem}"):
        denoise(Request("mic", pixels, None, model, "cpu"), _silent)


def test_model_and_device_are_checked(tmp_path: Path, model: Path) -> None:
    image = np.eye(8)
    with pytest.raises(CheckpointError, match="does not exist"):
        denoise(Request("mic", image, None, tmp_path / "none", "cpu"), _silent)
    with pytest.raises(CheckpointError, match="no calibration"):
        denoise(Request("mic", image, None, model, "cpu", restore_amplitude=True), _silent)
    with pytest.raises(ConfigError, match="abacus"):
        denoise(Request("mic", image, None, model, "abacus"), _silent)


def test_it_stops_after_a_tile(model: Path, generator: torch.Generator) -> None:
    said: list[str] = []

    def stop_at_the_second(text: str) -> None:
        said.append(text)
        if text == "tile 2 done":
            raise StoppedError

    image = torch.randn(64, 64, generator=generator).numpy()
    with pytest.raises(StoppedError):
        denoise(Request("mic", image, None, model, "cpu", tile=16), stop_at_the_second)
    assert said[-1] == "tile 2 done"
