"""Averaging over orientations: exact where the network has no preferred direction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from clearice import checkpoint
from clearice.denoise import Denoiser, Recipe, describe_run
from clearice.denoise.orientations import averaged
from clearice.denoise.records import checksum_of
from helpers import CPU, model_info, random_weights, write_model
from tolerances import RELATIVE

SHAPES = [(64, 64), (40, 72), (101, 135)]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_keeps_the_image_gives_it_back(
    generator: torch.Generator, shape: tuple[int, int]
) -> None:
    image = torch.randn(shape, generator=generator)
    before = image.clone()
    torch.testing.assert_close(averaged(image, lambda view: view), image, rtol=1e-6, atol=0.0)
    assert torch.equal(image, before)


def test_all_eight_orientations_are_seen_once() -> None:
    seen: list[Tensor] = []
    averaged(torch.arange(6.0).view(2, 3), lambda view: seen.append(view) or view)  # type: ignore[func-returns-value]
    assert len({tuple(view.shape) + tuple(view.flatten().tolist()) for view in seen}) == 8


def test_what_points_somewhere_is_averaged(generator: torch.Generator) -> None:
    image = torch.randn(24, 24, generator=generator)
    # A shift by one pixel becomes the mean over its eight images: each neighbour twice.
    result = averaged(image, lambda view: view.roll(1, 0))
    expected = sum(image.roll(step, axis) for step in (1, -1) for axis in (0, 1)) / 4
    torch.testing.assert_close(result, expected)


def _symmetric(path: Path, network: str) -> Path:
    """Write a model whose kernels look the same from all sides."""
    weights = random_weights(network)
    for name, value in weights.items():
        if value.ndim == 4:
            views = [torch.rot90(v, k, (2, 3)) for v in (value, value.flip(3)) for k in range(4)]
            weights[name] = torch.stack(views).mean(0)
    checkpoint.save(path, weights, model_info(network), None)
    return path


@pytest.mark.parametrize("tile", [0, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_without_direction_gives_the_same(
    tmp_path: Path, generator: torch.Generator, shape: tuple[int, int], tile: int
) -> None:
    model = _symmetric(tmp_path / "model.safetensors", "cnn3")
    image = torch.randn(shape, generator=generator)
    plain = Denoiser(model, CPU, tile).normalised(image)
    turned = Denoiser(model, CPU, tile, tta=True).normalised(image)
    scale = float(plain.abs().max())
    torch.testing.assert_close(
        turned, plain, rtol=RELATIVE[torch.float32], atol=RELATIVE[torch.float32] * scale
    )


def test_tiles_stay_valid_in_every_orientation(tmp_path: Path, generator: torch.Generator) -> None:
    model = write_model(tmp_path / "model.safetensors", "unet-small")
    image = torch.randn(51, 90, generator=generator)
    whole = Denoiser(model, CPU, 0, tta=True).normalised(image)
    tiled = Denoiser(model, CPU, 32, tta=True).normalised(image)
    scale = float(whole.abs().max())
    tolerance = RELATIVE[torch.float32]
    torch.testing.assert_close(tiled, whole, rtol=tolerance, atol=tolerance * scale)
    assert not torch.allclose(whole, Denoiser(model, CPU, 0).normalised(image), atol=1e-3 * scale)


def test_it_is_told_and_decides_what_is_current(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors")
    assert Denoiser(model, CPU, tta=True).label == "cnn3, 8 orientations"
    sums = {checksum_of(describe_run(Recipe(model, tta=tta))) for tta in (False, True)}
    assert len(sums) == 2
