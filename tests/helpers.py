"""Small builders shared by the tests: images, movies, data sets, models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearice import checkpoint, io
from clearice.config import PrepareConfig, TrainConfig
from clearice.data import Affine, Dataset, DatasetWriter, open_dataset
from clearice.fourier import gaussian_lowpass
from clearice.networks import build_network
from clearice.types import HalfSet

PIXEL_SIZE = 1.5
CPU = torch.device("cpu")


def smooth_image(generator: torch.Generator, size: int, sigma_px: float = 2.0) -> Tensor:
    """Return a smooth random image of mean 0 and standard deviation 1."""
    image = gaussian_lowpass(torch.randn(size, size, generator=generator), sigma_px)
    return (image - image.mean()) / image.std()


def noisy_groups(
    signal: Tensor, groups: int, noise: float, generator: torch.Generator, mean: float = 20.0
) -> Tensor:
    """Return groups of one signal with independent white noise."""
    shape = (groups, *signal.shape)
    return mean + signal + noise * torch.randn(shape, generator=generator)


def write_movie(path: Path, frames: Tensor, dtype: str = "float32", pixel: float = 1.5) -> Path:
    """Write frames as an MRC movie."""
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write_mrc(path, frames, pixel, dtype=dtype)
    return path


def write_image(path: Path, image: Tensor, pixel: float = PIXEL_SIZE) -> Path:
    """Write one image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write_mrc(path, image, pixel)
    return path


def write_dataset(
    folder: Path,
    *,
    micrographs: int = 4,
    groups: int = 2,
    size: int = 64,
    noise: float = 1.0,
    exchangeable: bool = True,
    truth: bool = False,
    validation: float = 0.25,
    seed: int = 0,
    target_gain: float = 1.0,
) -> Dataset:
    """Write a data set of smooth signals with white noise."""
    generator = torch.Generator().manual_seed(seed)
    writer = DatasetWriter(folder)
    for index in range(micrographs):
        signal = smooth_image(generator, size)
        raw = noisy_groups(signal, groups, noise, generator)
        affine = Affine.of(raw.mean(0))
        half_set = HalfSet(
            f"mic{index}", raw, (1 / groups,) * groups, PIXEL_SIZE, (Path(f"mic{index}.mrc"),)
        )
        clean = affine.apply(signal + 20.0) if truth else None
        writer.add(half_set, affine.apply(raw), affine, clean)
    writer.finish(
        prepare_config(validation_fraction=validation, dose_e_per_A2=50.0),
        PIXEL_SIZE,
        input_target=not exchangeable,
        dose_ratio=1.0 if exchangeable else 49.0,
        target_gain=target_gain,
    )
    return open_dataset(folder)


def prepare_config(**overrides: Any) -> PrepareConfig:
    """Return a configuration that holds no micrograph out."""
    values: dict[str, Any] = {"validation_fraction": 0.0, "test_fraction": 0.0}
    return PrepareConfig.model_validate({**values, **overrides})


def train_config(**overrides: Any) -> TrainConfig:
    """Return a configuration that trains in well under a second."""
    values: dict[str, Any] = {
        "network": "cnn3",
        "steps": 6,
        "batch_size": 4,
        "patch_size": 32,
        "validations": 6,
        "cache": "ram",
        "seed": 3,
    }
    return TrainConfig.model_validate({**values, **overrides})


def model_info(network: str = "cnn3", gain: float = 1.0) -> checkpoint.ModelInfo:
    """Return what a model file says of itself."""
    return checkpoint.ModelInfo(
        network=network,
        pixel_size_angstrom=PIXEL_SIZE,
        dose_e_per_A2=None,
        output_gain=gain,
        target="noisy",
        step=7,
        config={"network": network, "loss": {"mse": 1.0}},
        clearice_version="0.0",
    )


def random_weights(network: str, seed: int = 0) -> dict[str, Tensor]:
    """Return weights in which every layer counts, also those that start at zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = build_network(network).state_dict()
    for name, value in weights.items():
        scale = value[0].numel() ** -0.5 if value.ndim > 1 else 0.1
        weights[name] = scale * torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            weights[name] = 1 + weights[name].abs()
    return weights


def write_model(path: Path, network: str = "cnn3", gain: float = 1.0, seed: int = 0) -> Path:
    """Write a model with random weights."""
    checkpoint.save(path, random_weights(network, seed), model_info(network, gain), None)
    return path
