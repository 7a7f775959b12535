"""From plans to batches: every cache gives the same pairs, in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clearice.data import Dataset, PatchLoader, PatchPlan, Sampler, Split
from clearice.data.loader import Cache, combine
from clearice.errors import DatasetError
from helpers import CPU, write_dataset
from tolerances import ABSOLUTE, RELATIVE


def _plan(
    orientation: int = 0, inputs: tuple[int, ...] = (0,), targets: tuple[int, ...] = (1,)
) -> PatchPlan:
    return PatchPlan(0, 0, 0, orientation, inputs, targets)


def _loader(
    dataset: Dataset, cache: Cache = "ram", *, clean: bool = False, augment: bool = True
) -> tuple[PatchLoader, Sampler]:
    entries = dataset.entries(Split.TRAIN)
    exchangeable = dataset.manifest.roles == "exchangeable"
    sampler = Sampler(
        [e.shape for e in entries], 32, 3, 5, augment=augment, exchangeable=exchangeable
    )
    return PatchLoader(dataset, entries, sampler, 32, CPU, cache, clean=clean), sampler


def test_combine_takes_dose_weighted_means(generator: torch.Generator) -> None:
    stack = torch.randn(5, 6, 6, generator=generator)
    weights = [0.1, 0.3, 0.2, 0.15, 0.25]
    pair = combine(stack, _plan(inputs=(0, 3, 4), targets=(1, 2)), weights)
    first = (0.1 * stack[0] + 0.15 * stack[3] + 0.25 * stack[4]) / 0.5
    second = (0.3 * stack[1] + 0.2 * stack[2]) / 0.5
    rtol, atol = RELATIVE[torch.float32], ABSOLUTE[torch.float32]
    torch.testing.assert_close(pair, torch.stack([first, second]), rtol=rtol, atol=atol)


def test_the_eight_orientations_differ_and_move_pixels_only() -> None:
    image = torch.arange(16.0).reshape(4, 4)
    stack = torch.stack([image, image + 100])
    turned = [combine(stack, _plan(orientation), [0.5, 0.5]) for orientation in range(8)]
    assert torch.equal(turned[0], stack)
    assert len({tuple(pair.flatten().tolist()) for pair in turned}) == 8
    for pair in turned:
        assert torch.equal(pair[0].flatten().sort().values, image.flatten())
        assert torch.equal(pair[1], pair[0] + 100)


def test_combine_leaves_the_stack_alone(generator: torch.Generator) -> None:
    stack = torch.randn(2, 4, 4, generator=generator)
    before = stack.clone()
    combine(stack, _plan(6), [0.5, 0.5])
    assert torch.equal(stack, before)


def test_stream_equals_ram(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, groups=8)
    (ram, _), (stream, _) = _loader(dataset, "ram"), _loader(dataset, "stream")
    for step in range(5):
        one, other = ram.batch(step), stream.batch(step)
        assert torch.equal(one.input, other.input)
        assert torch.equal(one.target, other.target)


@pytest.mark.parametrize("cache", ["ram", "stream"])
def test_batches_come_in_the_order_of_their_steps(tmp_path: Path, cache: Cache) -> None:
    loader, _ = _loader(write_dataset(tmp_path, groups=4), cache)
    batches = list(loader.batches(3, 14))
    assert len(batches) == 11
    for step, batch in enumerate(batches, start=3):
        assert batch.input.shape == batch.target.shape == (3, 1, 32, 32)
        assert torch.equal(batch.input, loader.batch(step).input)
        assert torch.equal(batch.target, loader.batch(step).target)
    assert list(loader.batches(4, 4)) == []


def test_a_pair_is_the_planned_crop(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, groups=2)
    loader, sampler = _loader(dataset, augment=False)
    entries = dataset.entries(Split.TRAIN)
    batch = loader.batch(2)
    for index, plan in enumerate(sampler.plan(2)):
        stack = dataset.stack(entries[plan.micrograph]).float()
        crop = stack[:, plan.row : plan.row + 32, plan.column : plan.column + 32]
        assert torch.equal(batch.input[index, 0], crop[plan.inputs[0]])
        assert torch.equal(batch.target[index, 0], crop[plan.targets[0]])


def test_a_clean_target_is_the_truth_and_its_input_the_full_dose(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, groups=4, truth=True)
    loader, sampler = _loader(dataset, clean=True, augment=False)
    entries = dataset.entries(Split.TRAIN)
    batch = loader.batch(1)
    for index, plan in enumerate(sampler.plan(1)):
        window = slice(plan.row, plan.row + 32), slice(plan.column, plan.column + 32)
        entry = entries[plan.micrograph]
        truth = dataset.truth(entry).float()[0][window]
        assert torch.equal(batch.target[index, 0], truth)
        full = dataset.stack(entry).float().mean(0)[window]
        torch.testing.assert_close(batch.input[index, 0], full, rtol=1e-5, atol=1e-5)


def test_a_clean_target_of_unequal_halves_keeps_the_low_dose_input(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, exchangeable=False, truth=True)
    loader, sampler = _loader(dataset, clean=True, augment=False)
    entries = dataset.entries(Split.TRAIN)
    batch = loader.batch(0)
    for index, plan in enumerate(sampler.plan(0)):
        stack = dataset.stack(entries[plan.micrograph]).float()
        crop = stack[0, plan.row : plan.row + 32, plan.column : plan.column + 32]
        torch.testing.assert_close(batch.input[index, 0], crop, rtol=1e-5, atol=1e-5)


def test_clean_targets_without_truth_are_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path)
    with pytest.raises(DatasetError, match="has no truth"):
        _loader(dataset, clean=True)


def test_a_gpu_cache_without_gpu_is_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path)
    with pytest.raises(DatasetError, match="needs a GPU"):
        _loader(dataset, "gpu")
