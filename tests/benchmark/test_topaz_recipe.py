"""Topaz's recipe: how pairs are drawn, the optimiser's step, and scores like those of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from clearice import io
from clearice.data import Affine, Dataset, Split, open_dataset
from helpers import CPU, PIXEL_SIZE, write_dataset


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The recipe."""
    return load_script("topaz_recipe")


def test_crops_are_mirrored_turned_and_swapped(script: ModuleType) -> None:
    pair = torch.randn(2, 12, 10, generator=torch.Generator().manual_seed(0))
    for up, across, turns, swapped in product(
        (False, True), (False, True), range(4), (False, True)
    ):
        expected = pair[:, 3:9, 2:8].numpy()
        expected = np.flip(expected, 1) if up else expected
        expected = np.flip(expected, 2) if across else expected
        expected = np.rot90(expected, turns, (1, 2))
        expected = expected[::-1] if swapped else expected
        draw = script.Draw(3, 2, (up, across), turns, swapped)
        assert np.array_equal(script.cut(pair, 6, draw).numpy(), expected)


def test_an_epoch_has_each_pair_once(script: ModuleType) -> None:
    # Micrographs that are told apart by their values; halves by their sign.
    sides = torch.tensor([1.0, -1.0])[:, None, None].expand(2, 9, 9)
    halves = [number * sides for number in range(1, 7)]
    batches = script.Batches(halves, 5, seed=1)
    swapped = 0
    for _ in range(20):
        epoch = torch.cat([batches.next(), batches.next()], 1)
        assert epoch.shape == (2, 6, 1, 5, 5)
        assert torch.equal(epoch[0], -epoch[1])
        values = epoch[0, :, 0, 0, 0]
        assert sorted(values.abs().tolist()) == [1, 2, 3, 4, 5, 6]
        swapped += int((values < 0).sum())
    assert abs(swapped - 60) < 5 * 30**0.5  # of 120


def test_a_seed_fixes_the_crops(script: ModuleType) -> None:
    halves = [torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    one, same, other = (script.Batches(halves, 5, seed).next() for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_halves_are_even_and_odd_groups_each_normalised(script: ModuleType, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", groups=4, size=32)
    halves = script.load_halves(data, CPU)
    entries = data.entries(Split.TRAIN)
    assert len(halves) == len(entries)
    for pair, entry in zip(halves, entries, strict=True):
        stack = data.stack(entry).double().numpy()
        for half, groups in zip(pair, (stack[::2], stack[1::2]), strict=True):
            mean = groups.mean(0)
            expected = (mean - mean.mean()) / mean.std()
            assert np.allclose(half.numpy(), expected, atol=1e-5)


def test_the_first_step_of_adagrad_moves_weights_by_the_rate(
    script: ModuleType, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "set", size=64)
    recipe = script.Recipe(data, CPU, seed=0, crop=32)
    before = [p.detach().clone() for p in recipe.network.parameters()]
    recipe.step()
    moved = torch.cat(
        [(p - b).abs().flatten() for p, b in zip(recipe.network.parameters(), before, strict=True)]
    )
    # g / (√g² + 1e-10) is 1 wherever the gradient is not next to nothing.
    assert moved.max().item() == pytest.approx(script.RATE, rel=1e-3)
    assert moved.quantile(0.5) > 0.98 * script.RATE


def _held_out(folder: Path) -> tuple[Dataset, Path]:
    """Return a data set with a test micrograph, and the folder of its truth."""
    write_dataset(folder / "set", size=128, truth=True, groups=4)
    path = folder / "set" / "dataset.json"
    manifest = json.loads(path.read_text())
    manifest["micrographs"][0]["split"] = "test"
    io.write_json(path, manifest)
    data = open_dataset(folder / "set")
    for entry in data.entries(Split.TEST):
        truth = Affine(entry.mean, entry.std).invert(data.truth(entry)[0].float())
        io.ensure_folder(folder / "truth")
        io.write_mrc(folder / "truth" / f"{entry.name}.mrc", truth, PIXEL_SIZE)
    return data, folder / "truth"


def test_a_trained_model_is_scored_as_in_a_comparison(
    script: ModuleType, load_script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    data, truth = _held_out(tmp_path)
    out = tmp_path / "out"
    cell = script.train_and_score(data.folder, truth, out, steps=2, seed=3, crop=32)
    kept = load_script("comparisons").condense(cell, curves=True)
    assert (kept["network"], kept["seed"]) == ("topaz-unet", 3)
    assert -1 <= kept["full_dose"]["truth"]["band_correlation"]["8-4"]["denoised"] <= 1
    assert kept["halves"]["reference"]["equal_dose"]
    # A half is normalised by itself, whatever the full dose is: its output has its mean and scale.
    (raw,) = (out / "images" / "raw_even").glob("*.mrc")
    pixels = io.read_micrograph(raw).pixels
    denoiser = script.Denoiser(out / "model.safetensors", CPU)
    expected = denoiser(pixels, Affine.of(pixels))
    written = io.read_micrograph(out / "images" / "denoised_even" / raw.name).pixels
    assert torch.allclose(written, expected, atol=1e-4)
