"""On a GPU: transfers beside the network change nothing, memory is reused, tiles shrink to fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clearice import io
from clearice.denoise import Denoiser, denoise_files
from clearice.denoise.pipeline import Lanes
from clearice.denoise.runner import CudaRunner
from helpers import write_image, write_model
from tolerances import RELATIVE

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in all of float32, so that tiles of other sizes give the same."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def _close(one: torch.Tensor, other: torch.Tensor) -> None:
    tolerance = RELATIVE[torch.float32]
    scale = float(other.abs().max())
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * scale)


@pytest.fixture
def denoiser(tmp_path: Path) -> Denoiser:
    """The default network with random weights."""
    return Denoiser(write_model(tmp_path / "model.safetensors", "unet", gain=0.5), CUDA)


def test_many_at_once_are_the_same_as_one_by_one(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    shapes = [(640, 512), (640, 512), (333, 517), (900, 700)] * 6
    images = [
        write_image(tmp_path / "in" / f"{i:02d}.mrc", 30 + torch.randn(s, generator=generator))
        for i, s in enumerate(shapes)
    ]
    results = denoise_files(images, denoiser, tmp_path / "out")
    assert [path.name for path in results] == [path.name for path in images]
    for image, result in zip(images, results, strict=True):
        _close(io.read_image(result), denoiser(io.read_image(image)))


def test_results_wait_for_the_network_and_never_mix(
    denoiser: Denoiser, generator: torch.Generator
) -> None:
    runner = CudaRunner(denoiser)
    raw = [torch.randn(1, 768, 768, generator=generator) for _ in range(8)]
    for _ in range(3):  # buffers of the first round are used again
        staged = [runner.load(images) for images in raw]
        assert all(images.is_pinned() for images in staged)
        results = [runner.start(images, (1.0,), None) for images in staged]
        for images, result in zip(raw, results, strict=True):
            arrived = result.wait()
            _close(arrived[0], denoiser(images[0]))
            runner.release(arrived)


def test_buffers_are_used_again(denoiser: Denoiser) -> None:
    runner = CudaRunner(denoiser)
    first = runner.load(torch.zeros(1, 64, 64))
    place = first.data_ptr()
    runner.release(first)
    assert runner.load(torch.ones(2, 32, 64)).data_ptr() == place
    assert runner.load(torch.ones(1, 64, 64)).data_ptr() != place


def test_device_memory_does_not_grow_with_the_collection(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    image = 30 + torch.randn(1024, 1024, generator=generator)
    images = [write_image(tmp_path / "in" / f"{i:02d}.mrc", image) for i in range(24)]
    peaks = []
    for count in (6, 24):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        denoise_files(images[:count], denoiser, tmp_path / "out")
        peaks.append(torch.cuda.max_memory_reserved())
    assert peaks[1] <= peaks[0] * 1.25
    assert Lanes.of(CUDA).in_flight < 24


def test_halves_keep_the_normalisation_of_the_whole(
    denoiser: Denoiser, generator: torch.Generator
) -> None:
    runner = CudaRunner(denoiser)
    images = 30 + torch.randn(3, 256, 256, generator=generator)
    result = runner.start(runner.load(images), (1.0, 0.5, 0.5), None).wait().clone()
    _close(result, denoiser.together(images.to(CUDA), (1.0, 0.5, 0.5)).cpu())


@pytest.fixture
def small_card() -> Iterator[int]:
    """Let this process have 2 GiB of the GPU's memory."""
    torch.cuda.empty_cache()
    most = 2 * 2**30
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(most / total, CUDA)
    yield most
    torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    torch.cuda.empty_cache()


def test_tiles_shrink_until_they_fit_into_a_small_card(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator, small_card: int
) -> None:
    image = 30 + torch.randn(4096, 4096, generator=generator)
    images = [write_image(tmp_path / "in" / f"{i}.mrc", image.roll(i, 0)) for i in range(4)]
    torch.cuda.reset_peak_memory_stats()
    results = denoise_files(images, denoiser, tmp_path / "out")
    assert torch.cuda.max_memory_reserved() <= small_card
    assert all(0 < tile < 4096 for tile in denoiser._fits.values())
    small = Denoiser(denoiser.recipe.model, CUDA, tile=512)
    for source, result in zip(images, results, strict=True):
        _close(io.read_image(result), small(io.read_image(source)))


def test_two_processes_on_one_gpu_give_the_same(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    images = [
        write_image(tmp_path / "in" / f"{i}.mrc", 30 + torch.randn(512, 640, generator=generator))
        for i in range(6)
    ]
    said: list[str] = []
    results = denoise_files(
        images, denoiser, tmp_path / "out", devices=[CUDA, CUDA], say=said.append
    )
    assert said == []
    for image, result in zip(images, results, strict=True):
        # The other processes may round to TF32.
        torch.testing.assert_close(
            io.read_image(result), denoiser(io.read_image(image)), rtol=0.0, atol=2e-2
        )
