"""Topaz-Denoise's own way to train, with the shape of its U-Net, as a plain loop of our own.

What it does, read from its program (version 0.2.5 and later) and from no paper:

* `topaz/commands/denoise.py`, defaults of its options: U-Net, `adagrad`, rate 0.001, `L2`, crop
  800, batch 4, so that an epoch is one crop of each pair in random order.
* `topaz/denoising/datasets.py`, `PairedImages`: each image to mean 0 and standard deviation 1 by
  itself, a random crop, each axis mirrored half of the times, a random quarter turn, halves
  swapped half of the times.
* `topaz/denoising/models.py`, `train_model`: `torch.optim.Adagrad` without weight decay at a
  constant rate, mean squared error, float32 as PyTorch comes (convolutions in TF32 where there
  is any), no clipping, no averaged weights; the last weights are used. Weights are drawn as
  PyTorch draws them.

Where this differs it favours Topaz: images lie on the device, no process reads files, no step
waits for the value of the loss, no micrographs are held out from the training split, and no time
goes into validation.

Source: https://github.com/tbepler/topaz; Bepler et al., Nature Communications 11, 5208 (2020).
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clearice import __version__, checkpoint, denoise, evaluate
from clearice.benchmark.steps import wait_for
from clearice.data import Dataset, Split, dose_weighted_mean, open_dataset
from clearice.denoise import Denoiser
from clearice.io import ensure_folder
from clearice.networks import build_network
from clearice.seeds import derive_seed

NETWORK = "topaz-unet"
RATE = 1e-3
CROP = 800
BATCH = 4
_PARTS = ("", "_even", "_odd")


def load_halves(data: Dataset, device: torch.device) -> list[Float[Tensor, "2 h w"]]:
    """Return the even and the odd half of each training micrograph, each to mean 0 and sd 1."""
    halves = []
    for entry in data.entries(Split.TRAIN):
        stack = data.stack(entry).float()
        sides = [range(first, len(stack), 2) for first in (0, 1)]
        pair = torch.stack(
            [dose_weighted_mean(stack[list(s)], [entry.weights[i] for i in s]) for s in sides]
        )
        mean = pair.mean((-2, -1), keepdim=True)
        std = pair.std((-2, -1), keepdim=True, unbiased=False)
        halves.append(((pair - mean) / std).to(device))
    return halves


@dataclass(frozen=True)
class Draw:
    """How a crop is taken from a pair."""

    row: int
    column: int
    mirrored: tuple[bool, bool]
    turns: int
    swapped: bool


@final
class Batches:
    """Random crops of all pairs, each pair once an epoch.

    Args:
        halves: The pairs.
        crop: Edge, px.
        seed: Of the order and the crops.
    """

    def __init__(self, halves: list[Float[Tensor, "2 h w"]], crop: int, seed: int) -> None:
        self._halves = halves
        self._crop = crop
        self._random = random.Random(derive_seed(seed, "topaz"))
        self._order: list[int] = []

    def next(self) -> Float[Tensor, "2 n 1 h w"]:
        """Return inputs and targets; the last batch of an epoch may be smaller."""
        if not self._order:
            self._order = self._random.sample(range(len(self._halves)), len(self._halves))
        chosen, self._order = self._order[:BATCH], self._order[BATCH:]
        return torch.stack([self._one(self._halves[index]) for index in chosen], 1)[:, :, None]

    def _one(self, pair: Float[Tensor, "2 h w"]) -> Float[Tensor, "2 c c"]:
        return cut(pair, self._crop, self._draw(*pair.shape[1:]))

    def _draw(self, height: int, width: int) -> Draw:
        draw = self._random
        return Draw(
            draw.randint(0, height - self._crop),
            draw.randint(0, width - self._crop),
            (draw.random() > 0.5, draw.random() > 0.5),
            draw.randrange(4),
            draw.random() > 0.5,
        )


def cut(pair: Float[Tensor, "2 h w"], crop: int, draw: Draw) -> Float[Tensor, "2 c c"]:
    """Return a crop of both halves, mirrored, turned and swapped as drawn."""
    part = pair[:, draw.row : draw.row + crop, draw.column : draw.column + crop]
    part = part.flip([axis for axis, yes in zip((-2, -1), draw.mirrored, strict=True) if yes])
    part = torch.rot90(part, draw.turns, (-2, -1))
    return part.flip(0) if draw.swapped else part


@final
class Recipe:
    """A training by the recipe.

    Args:
        data: What to train on.
        device: Where.
        seed: Of weights and crops.
        crop: Edge, px.
    """

    def __init__(self, data: Dataset, device: torch.device, seed: int, crop: int = CROP) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights"))
            self.network = build_network(NETWORK).to(device).train()
        self._batches = Batches(load_halves(data, device), crop, seed)
        self._optimizer = torch.optim.Adagrad(self.network.parameters(), lr=RATE)

    def step(self) -> None:
        """Take one step."""
        source, target = self._batches.next()
        functional.mse_loss(self.network(source), target).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()


def train_and_score(
    dataset: Path, truth: Path, folder: Path, *, steps: int, seed: int, crop: int = CROP
) -> dict[str, Any]:
    """Train by the recipe and score the held-out micrographs, as a comparison scores its own.

    Args:
        dataset: Data set.
        truth: Folder of noise-free images.
        folder: For the model and the images.
        steps: Of the optimiser.
        seed: Of weights and crops.
        crop: Edge, px.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = open_dataset(dataset)
    recipe = Recipe(data, device, seed, crop)
    wait_for(device)
    start = time.perf_counter()
    for _ in range(steps):
        recipe.step()
    wait_for(device)
    seconds = time.perf_counter() - start
    model = ensure_folder(folder) / "model.safetensors"
    settings = {"loss": {"mse": 1.0}, "network": NETWORK, "seed": seed, "steps": steps}
    info = checkpoint.ModelInfo(
        network=NETWORK,
        pixel_size_angstrom=data.manifest.pixel_size_angstrom,
        dose_e_per_A2=data.manifest.dose_e_per_A2,
        output_gain=1.0,
        target="noisy",
        step=steps,
        config=settings,
        clearice_version=__version__,
        dataset_sha256=data.checksum(),
    )
    checkpoint.save(model, recipe.network.state_dict(), info, None)
    return {
        "settings": settings,
        "training": {"seconds": seconds, "steps": steps},
        "scores": score(dataset, truth, Denoiser(model, device), folder / "images"),
    }


def score(dataset: Path, truth: Path, denoiser: Denoiser, images: Path) -> dict[str, Any]:
    """Denoise the held-out micrographs and their halves, each normalised by itself, and score."""
    denoise.denoise_dataset(dataset, denoiser, images, Split.TEST, halves=True)
    for part in _PARTS:  # in place of results normalised as the full dose
        raw = sorted((images / f"raw{part}").glob("*.mrc"))
        denoise.denoise_files(raw, denoiser, images / f"denoised{part}")
    full = evaluate.match_cases(images / "denoised", images / "raw", truth=truth)
    return {
        "full_dose": evaluate.score(full).values,
        "halves": evaluate.score(evaluate.match_halves(images)).values,
    }
