"""A whole micrograph: the same whatever the tiles, and in the unit it came in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearice.data import Affine, DeviceAffine
from clearice.denoise import Denoiser
from clearice.denoise import network as network_room
from clearice.denoise.network import describe_dose_mismatch, describe_mismatch
from clearice.errors import ConfigError
from helpers import CPU, model_info, smooth_image, write_model
from tolerances import RELATIVE

# All of them, made narrow, are tiled in tests/networks.
_SOME = ("cnn3", "cnn3-bn", "rescnn12", "unet", "unet-small")


def _close(one: torch.Tensor, other: torch.Tensor) -> None:
    scale = float(other.abs().max())
    torch.testing.assert_close(
        one, other, rtol=RELATIVE[torch.float32], atol=RELATIVE[torch.float32] * scale
    )


@pytest.mark.parametrize("shape", [(101, 135), (31, 160)])
@pytest.mark.parametrize("network", _SOME)
def test_tiled_equals_untiled(
    tmp_path: Path, generator: torch.Generator, network: str, shape: tuple[int, int]
) -> None:
    model = write_model(tmp_path / "model.safetensors", network)
    image = torch.randn(shape, generator=generator)
    whole = Denoiser(model, CPU, tile=0).normalised(image)
    assert whole.shape == shape
    assert float(whole.std()) > 0.01
    for tile in (32, 64):
        _close(Denoiser(model, CPU, tile=tile).normalised(image), whole)


@pytest.mark.parametrize("network", _SOME)
def test_every_pixel_of_the_window_matters(
    tmp_path: Path, generator: torch.Generator, network: str
) -> None:
    # The tiles would agree by chance if the weights let the network see less than it can.
    denoiser = Denoiser(write_model(tmp_path / "model.safetensors", network), CPU, tile=0)
    reach, size = denoiser.geometry.halo, 2 * denoiser.geometry.halo + 32
    image = torch.randn(size, size, generator=generator)
    moved = image.clone()
    moved[0, reach + 8] += 10.0
    change = (denoiser.normalised(moved) - denoiser.normalised(image)).abs()
    rows = torch.nonzero(change.amax(1) > 1e-7).flatten()
    assert int(rows.max()) <= reach
    assert int(rows.max()) >= reach // 2


@pytest.mark.parametrize("network", ["cnn3", "unet"])
@pytest.mark.parametrize(("gain", "offset"), [(250.0, 1000.0), (0.02, -3.0)])
def test_the_result_is_in_the_unit_of_the_input(
    tmp_path: Path, generator: torch.Generator, network: str, gain: float, offset: float
) -> None:
    denoiser = Denoiser(write_model(tmp_path / "model.safetensors", network, gain=0.4), CPU)
    image = smooth_image(generator, 72) + torch.randn(72, 72, generator=generator)
    expected = gain * denoiser(image) + offset
    scaled = denoiser(gain * image + offset)
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-3 * gain)


def test_normalisation_gain_and_scale(tmp_path: Path, generator: torch.Generator) -> None:
    model = write_model(tmp_path / "model.safetensors", gain=0.25)
    denoiser = Denoiser(model, CPU)
    image = 40 + 6 * torch.randn(64, 80, generator=generator)
    standard = (image - image.mean()) / image.std(correction=0)
    expected = 0.25 * denoiser.normalised(standard) * image.std(correction=0) + image.mean()
    _close(denoiser(image), expected)


def test_a_given_affine_is_used(tmp_path: Path, generator: torch.Generator) -> None:
    denoiser = Denoiser(write_model(tmp_path / "model.safetensors"), CPU)
    half = 40 + 6 * torch.randn(64, 64, generator=generator)
    affine = Affine(39.0, 4.0)
    expected = affine.invert(denoiser.normalised(affine.apply(half)))
    _close(denoiser(half, affine), expected)
    assert not torch.allclose(denoiser(half), expected, atol=1e-2)


def test_bfloat16_is_near_float32(tmp_path: Path, generator: torch.Generator) -> None:
    model = write_model(tmp_path / "model.safetensors")
    image = torch.randn(64, 64, generator=generator)
    wide = Denoiser(model, CPU)(image)
    half = Denoiser(model, CPU, precision="bfloat16")(image)
    assert half.dtype == torch.float32
    assert float((half - wide).std() / wide.std()) < RELATIVE[torch.bfloat16]
    assert not torch.equal(half, wide)


def test_the_input_is_left_alone(tmp_path: Path, generator: torch.Generator) -> None:
    denoiser = Denoiser(write_model(tmp_path / "model.safetensors"), CPU)
    image = torch.randn(40, 40, generator=generator)
    before = image.clone()
    denoiser(image)
    assert torch.equal(image, before)


@pytest.mark.parametrize(("pixel", "warns"), [(1.5, False), (1.6, False), (1.3, True), (3.0, True)])
def test_a_pixel_size_over_a_tenth_away_is_told(tmp_path: Path, pixel: float, warns: bool) -> None:
    info = Denoiser(write_model(tmp_path / "model.safetensors"), CPU).info
    sentence = describe_mismatch(info, pixel)
    assert (sentence is not None) is warns
    if sentence:
        assert f"{pixel:g} Å/px" in sentence
        assert "trained at 1.5 Å/px" in sentence


class _SmallCard:
    """Stands in for a GPU on which larger windows than one do not fit.

    Args:
        denoiser: On the CPU; it is told that it is on a GPU.
        patch: Puts it in place.
        largest: Most pixels of a window.
    """

    def __init__(self, denoiser: Denoiser, patch: pytest.MonkeyPatch, largest: int) -> None:
        self.windows: list[int] = []
        self._largest = largest
        self._network = denoiser.network
        patch.setattr(denoiser, "network", self)
        patch.setattr(network_room, "_GPU_TILES", (0, 64, 32))
        patch.setattr(network_room, "free_memory_bytes", lambda device: 2**40)
        patch.setattr(denoiser, "_tile_sizes", lambda image: self._sizes(denoiser, image))

    def _sizes(self, denoiser: Denoiser, image: torch.Tensor) -> list[int]:
        here, denoiser.device = denoiser.device, torch.device("cuda")
        try:
            return list(Denoiser._tile_sizes(denoiser, image))
        finally:
            denoiser.device = here

    def __call__(self, window: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        self.windows.append(window.numel())
        if window.numel() > self._largest:
            raise torch.OutOfMemoryError("no room")
        return self._network(window, *rest)


def test_tiles_shrink_until_they_fit_and_stay_small(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    image = torch.randn(128, 128, generator=generator)
    whole = Denoiser(model, CPU, tile=0).normalised(image)
    denoiser = Denoiser(model, CPU)
    card = _SmallCard(denoiser, monkeypatch, 80 * 80)
    _close(denoiser.normalised(image), whole)
    assert card.windows[0] == 128 * 128
    assert max(card.windows[1:]) <= 80 * 80
    card.windows.clear()
    _close(denoiser.normalised(image), whole)
    assert max(card.windows) <= 80 * 80  # what did not fit is not tried again


def test_what_fits_in_no_tile_says_what_to_do(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = Denoiser(write_model(tmp_path / "model.safetensors"), CPU)
    _SmallCard(denoiser, monkeypatch, 10)
    with pytest.raises(ConfigError, match=r"does not fit into the GPU's memory.*--tile 64"):
        denoiser.normalised(torch.randn(128, 128, generator=generator))


@pytest.mark.parametrize(
    ("model", "given", "warns"),
    [
        (50.0, 50.0, False),
        (50.0, 70.0, False),
        (50.0, 80.0, True),
        (50.0, 30.0, True),
        (None, 30.0, False),
        (50.0, None, False),
    ],
)
def test_a_dose_far_away_is_told(model: float | None, given: float | None, warns: bool) -> None:
    info = replace(model_info(), dose_e_per_A2=model)
    sentence = describe_dose_mismatch(info, given)
    assert (sentence is not None) is warns
    if sentence:
        assert f"the dose is {given:g} e/Å²" in sentence
        assert "trained at 50 e/Å²" in sentence


@pytest.mark.parametrize("shape", [(64, 48), (300, 200)])
def test_numbers_on_the_device_normalise_as_others_do(
    generator: torch.Generator, shape: tuple[int, int]
) -> None:
    image = 1000 + torch.randn(shape, generator=generator)
    plain, device = Affine.of(image), DeviceAffine.of(image)
    assert float(device.mean) == pytest.approx(plain.mean, rel=1e-12)
    assert float(device.std) == pytest.approx(plain.std, rel=1e-6)
    torch.testing.assert_close(device.apply(image), plain.apply(image))
    torch.testing.assert_close(device.invert(device.apply(image)), image)
