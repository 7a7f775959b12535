"""From plans to batches: every cache gives the same pairs, in order."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal

import pytest
import torch

from clearice.data import Dataset, PatchLoader, PatchPlan, Sampler, Split
from clearice.data.assemble import (
    Sources,
    _cuda_kernel,
    gather,
    input_doses,
    mix_crops,
    mixing_weights,
    places,
)
from clearice.data.caches import Cache, choose_cache
from clearice.data.readahead import ReadAhead
from clearice.data.sampler import PatchTable
from clearice.devices import KernelFallback
from clearice.errors import InputFileError
from clearice.types import PatchBatch
from helpers import CPU, write_dataset
from tolerances import ABSOLUTE, RELATIVE


def _plan(
    orientation: int = 0, inputs: tuple[int, ...] = (0,), targets: tuple[int, ...] = (1,)
) -> PatchPlan:
    return PatchPlan(0, 0, 0, orientation, inputs, targets)


def _loader(
    dataset: Dataset,
    cache: Cache = "ram",
    *,
    clean: bool = False,
    augment: bool = True,
    workers: int = 1,
    batch: int = 3,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[PatchLoader, Sampler]:
    entries = dataset.entries(Split.TRAIN)
    exchangeable = dataset.manifest.roles == "exchangeable"
    sampler = Sampler(
        [e.shape for e in entries],
        32,
        batch,
        5,
        augment=augment,
        exchangeable=exchangeable,
        window=2,
        rank=rank,
        world_size=world_size,
    )
    loader = PatchLoader(dataset, entries, sampler, 32, CPU, cache, clean=clean, workers=workers)
    return loader, sampler


def _table(plans: list[PatchPlan], groups: int) -> PatchTable:
    return PatchTable.of(plans, groups)


def _mixed(
    stack: torch.Tensor, plan: PatchPlan, weights: list[float], *, clean: bool = False
) -> torch.Tensor:
    doses = torch.tensor([weights], dtype=torch.float64)
    mix = mixing_weights(_table([plan], len(weights)), doses, clean=clean)
    return mix_crops(stack[None], mix, [plan.orientation])[0]


def test_halves_of_the_target_share_its_groups(generator: torch.Generator) -> None:
    stack = torch.randn(6, 6, 6, generator=generator)
    table = _table([_plan(inputs=(0, 3), targets=(1, 2, 4))], 5)
    doses = torch.tensor([[0.1, 0.3, 0.2, 0.15, 0.25]], dtype=torch.float64)
    mix = mixing_weights(table, doses, halves=True)
    images = mix_crops(stack[None, :5], mix, [2])[0].rot90(-2, (-2, -1))
    plain = mix_crops(stack[None, :5], mixing_weights(table, doses), [2])[0].rot90(-2, (-2, -1))
    torch.testing.assert_close(images[:2], plain)
    torch.testing.assert_close(images[2], (0.3 * stack[1] + 0.25 * stack[4]) / 0.55)
    torch.testing.assert_close(images[3], stack[2])
    clean = mix_crops(stack[None], mixing_weights(table, doses, clean=True, halves=True), [0])[0]
    for image in clean[1:]:
        torch.testing.assert_close(image, stack[5])


@pytest.mark.parametrize("cache", ["ram", "stream"])
def test_batches_carry_two_targets_when_asked(tmp_path: Path, cache: Cache) -> None:
    dataset = write_dataset(tmp_path / "set", groups=6)
    entries = dataset.entries(Split.TRAIN)
    shapes = [entry.shape for entry in entries]
    sampler = Sampler(shapes, 32, 4, 5, augment=True, exchangeable=True, fewest_targets=2)
    table = sampler.table(0, 50)
    assert int(table.targets.sum(1).min()) == 2
    loader = PatchLoader(dataset, entries, sampler, 32, CPU, cache, halves=True)
    for step in range(5):
        batch = loader.batch(step)
        assert batch.target_halves is not None
        assert batch.target_halves.shape == (4, 2, 32, 32)
        # All groups have the same dose, so halves of as many groups average to the target.
        even = sampler.table(step, step + 1).targets.sum(1) % 2 == 0
        mean = batch.target_halves.mean(1, keepdim=True)
        torch.testing.assert_close(mean[even], batch.target[even], rtol=1e-3, atol=1e-3)
        assert not torch.equal(batch.target_halves[:, 0], batch.target_halves[:, 1])


def test_inputs_and_targets_are_dose_weighted_means(generator: torch.Generator) -> None:
    stack = torch.randn(5, 6, 6, generator=generator)
    weights = [0.1, 0.3, 0.2, 0.15, 0.25]
    pair = _mixed(stack, _plan(inputs=(0, 3, 4), targets=(1, 2)), weights)
    first = (0.1 * stack[0] + 0.15 * stack[3] + 0.25 * stack[4]) / 0.5
    second = (0.3 * stack[1] + 0.2 * stack[2]) / 0.5
    rtol, atol = RELATIVE[torch.float32], ABSOLUTE[torch.float32]
    torch.testing.assert_close(pair, torch.stack([first, second]), rtol=rtol, atol=atol)


def test_a_clean_target_is_the_plane_behind_the_groups(generator: torch.Generator) -> None:
    stack = torch.randn(3, 4, 4, generator=generator)
    pair = _mixed(stack, _plan(inputs=(0,), targets=(1,)), [0.5, 0.5], clean=True)
    rtol, atol = RELATIVE[torch.float32], ABSOLUTE[torch.float32]
    expected = torch.stack([(stack[0] + stack[1]) / 2, stack[2]])
    torch.testing.assert_close(pair, expected, rtol=rtol, atol=atol)


def test_the_dose_of_an_input_is_that_of_its_groups() -> None:
    doses = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    table = _table([_plan(inputs=(0, 2), targets=(1,)), _plan(inputs=(3,), targets=(0, 1))], 4)

    def found(*, clean: bool = False, exchangeable: bool = True) -> list[float]:
        mix = mixing_weights(table, doses, clean=clean, exchangeable=exchangeable)
        return (2 ** input_doses(mix, table, doses, exchangeable=exchangeable)).tolist()

    assert found() == pytest.approx([0.4, 0.4])
    assert found(clean=True) == pytest.approx([0.6, 0.7])  # all groups of the plan
    assert found(exchangeable=False) == [1, 1]  # inputs are what will be denoised


@pytest.mark.parametrize("cache", ["ram", "stream"])
def test_batches_tell_the_dose_of_their_inputs(tmp_path: Path, cache: Cache) -> None:
    loader, sampler = _loader(write_dataset(tmp_path, groups=8), cache)
    for step in range(3):
        dose = loader.batch(step).dose
        table = sampler.table(step, step + 1)
        assert dose is not None
        torch.testing.assert_close(dose, (table.inputs.sum(1) / 8).log2().float())


def test_the_eight_orientations_differ_and_move_pixels_only() -> None:
    image = torch.arange(16.0).reshape(4, 4)
    stack = torch.stack([image, image + 100])
    turned = [_mixed(stack, _plan(orientation), [0.5, 0.5]) for orientation in range(8)]
    assert torch.equal(turned[0], stack)
    assert len({tuple(pair.flatten().tolist()) for pair in turned}) == 8
    for pair in turned:
        assert torch.equal(pair[0].flatten().sort().values, image.flatten())
        assert torch.equal(pair[1], pair[0] + 100)


def test_a_batch_is_its_samples_one_by_one(generator: torch.Generator) -> None:
    stacks = torch.randn(3, 4, 8, 8, generator=generator)
    plans = [_plan(1, (0, 2), (1, 3)), _plan(6, (1,), (0, 2, 3)), _plan(0, (3,), (0, 1, 2))]
    weights = [0.25] * 4
    mix = mixing_weights(_table(plans, 4), torch.tensor([weights], dtype=torch.float64))
    batch = mix_crops(stacks, mix, [plan.orientation for plan in plans])
    for pair, stack, plan in zip(batch, stacks, plans, strict=True):
        assert torch.equal(pair, _mixed(stack, plan, weights))


_DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", _DEVICES)
@pytest.mark.parametrize("size", [1, 5, 32, 33, 70])
def test_gathering_from_one_pool_is_cutting_turning_and_mixing(
    generator: torch.Generator, size: int, device: str
) -> None:
    shapes = [(3, 70, 90), (2, 80, 71), (3, 75, 75)]
    stacks = [torch.randn(shape, generator=generator).half() for shape in shapes]
    doses = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0], [0.1, 0.1, 0.8]], dtype=torch.float64)
    plans = []
    for index in range(24):
        _, height, width = shapes[index % 3]
        row = int(torch.randint(height - size + 1, (), generator=generator))
        column = int(torch.randint(width - size + 1, (), generator=generator))
        targets = (1,) if index % 3 == 1 else (1, 2)
        plans.append(PatchPlan(index % 3, row, column, index % 8, (0,), targets))
    table = _table(plans, 3)
    mix = mixing_weights(table, doses)
    crops = torch.zeros(24, 3, size, size, dtype=torch.float16)
    for plan, out in zip(plans, crops, strict=True):
        window = slice(plan.row, plan.row + size), slice(plan.column, plan.column + size)
        stack = stacks[plan.micrograph]
        out[: len(stack)] = stack[:, *window]
    expected = mix_crops(crops, mix, [plan.orientation for plan in plans])
    pool = torch.cat([stack.flatten() for stack in stacks]).to(device)
    where = places(table, Sources.one_after_the_other(shapes), size)
    found = gather(pool, where.to(device), mix.to(device), size)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-6)


def test_a_table_is_its_plans() -> None:
    plans = [PatchPlan(1, 2, 3, 4, (0, 2), (1,), 0.5), PatchPlan(0, 7, 8, 1, (1,), (0, 2), 1.5)]
    assert _table(plans, 3).plans() == plans


def test_assembling_leaves_the_stack_alone(generator: torch.Generator) -> None:
    stack = torch.randn(2, 4, 4, generator=generator)
    before = stack.clone()
    _mixed(stack, _plan(6), [0.5, 0.5])
    assert torch.equal(stack, before)


def _same(one: PatchBatch, other: PatchBatch) -> bool:
    pairs = ((one.input, other.input), (one.target, other.target), (one.weight, other.weight))
    return all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.parametrize("cache", ["ram", "stream"])
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_and_caches_change_nothing(tmp_path: Path, cache: Cache, workers: int) -> None:
    dataset = write_dataset(tmp_path, groups=8)
    reference, _ = _loader(dataset, "ram", workers=0)
    loader, _ = _loader(dataset, cache, workers=workers)
    expected = list(reference.batches(0, 30))
    found = list(loader.batches(0, 30))
    assert all(_same(one, other) for one, other in zip(found, expected, strict=True))


def test_two_ranks_share_each_batch_of_one(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, groups=4)
    whole, _ = _loader(dataset, batch=4)
    ranks = [_loader(dataset, batch=4, rank=rank, world_size=2)[0] for rank in (0, 1)]
    streams = [loader.batches(0, 12) for loader in (whole, *ranks)]
    for batch, first, second in zip(*streams, strict=True):
        assert torch.equal(batch.input, torch.cat([first.input, second.input]))
        assert torch.equal(batch.target, torch.cat([first.target, second.target]))
        assert torch.equal(batch.weight, torch.cat([first.weight, second.weight]))


def test_going_on_in_mid_epoch_gives_the_batches_that_were_left(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, groups=4)
    whole, sampler = _loader(dataset, "stream", workers=4)
    assert 3 * 5 % sampler.samples_per_epoch != 0
    expected = list(whole.batches(0, 12))[5:]
    resumed, _ = _loader(dataset, "stream", workers=1)
    found = list(resumed.batches(5, 12))
    assert all(_same(one, other) for one, other in zip(found, expected, strict=True))


def test_more_stacks_than_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_dataset(tmp_path, groups=4)
    reference, _ = _loader(dataset, "ram")
    monkeypatch.setattr("clearice.data.caches._OPEN_STACKS", 1)
    stream, _ = _loader(dataset, "stream", workers=4)
    pairs = zip(reference.batches(0, 12), stream.batches(0, 12), strict=True)
    assert all(_same(one, other) for one, other in pairs)


def test_an_error_in_a_thread_reaches_the_loop(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, groups=2)
    loader, _ = _loader(dataset, "stream", workers=2)
    for entry in dataset.manifest.micrographs:
        (dataset.folder / entry.file).write_bytes(b"")
    with pytest.raises(InputFileError, match="is empty"):
        list(loader.batches(0, 3))


def test_leaving_early_ends_the_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    loader, _ = _loader(write_dataset(tmp_path, groups=2), "stream", workers=4)
    batches = loader.batches(0, 1000)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("wanted", "n_bytes", "chosen"),
    [
        ("auto", 100, "ram"),
        ("auto", 600, "stream"),
        ("ram", 10_000, "ram"),
        ("stream", 1, "stream"),
    ],
)
def test_the_cache_fits_the_memory(
    monkeypatch: pytest.MonkeyPatch,
    wanted: Literal["auto", "ram", "stream"],
    n_bytes: int,
    chosen: str,
) -> None:
    monkeypatch.setattr("clearice.data.caches.available_memory_bytes", lambda: 1000)
    choice = choose_cache(wanted, n_bytes, CPU)
    assert choice.cache == chosen
    assert chosen in choice.reason


def test_files_are_read_ahead_in_the_order_of_the_last_request() -> None:
    files = [Path(name) for name in "abcdef"]
    read: list[Path] = []
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def slowly(file: Path) -> None:
        read.append(file)
        begun.set()
        assert go_on.wait(5)
        if file == files[5]:
            done.set()

    with ReadAhead() as ahead:
        ahead._read = slowly  # type: ignore[method-assign]
        ahead.request(files[:3])
        assert begun.wait(5)
        # What is behind by now is not read any more, and what was read is not read again.
        ahead.request([files[3], files[0], files[5]])
        go_on.set()
        assert done.wait(5)
    assert read == [files[0], files[3], files[5]]


def test_a_file_that_cannot_be_read_ahead_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "stack").write_bytes(bytes(10_000_000))
    ahead = ReadAhead()
    ahead._read(tmp_path / "missing")
    ahead._read(tmp_path / "stack")
    assert ahead._buffer == bytearray(len(ahead._buffer))


@pytest.mark.gpu
@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("cache", ["gpu", "ram", "stream"])
def test_a_gpu_gets_the_same_batches(tmp_path: Path, cache: Cache, clean: bool) -> None:
    dataset = write_dataset(tmp_path, groups=8, truth=True)
    reference, sampler = _loader(dataset, clean=clean)
    entries = dataset.entries(Split.TRAIN)
    device = torch.device("cuda")
    for workers in (0, 4):
        loader = PatchLoader(
            dataset, entries, sampler, 32, device, cache, clean=clean, workers=workers
        )
        pairs = zip(loader.batches(0, 40), reference.batches(0, 40), strict=True)
        for found, expected in pairs:
            assert found.input.device.type == "cuda"
            for one, other in (
                (found.input, expected.input),
                (found.target, expected.target),
                (found.weight, expected.weight),
            ):
                torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=1e-5)


def test_a_kernel_that_cannot_run_is_said_aloud_and_replaced() -> None:
    if torch.cuda.is_available():
        pytest.skip("it can run here")
    _cuda_kernel.cache_clear()
    with pytest.warns(KernelFallback, match="without Triton's kernel, which is slower"):
        assert _cuda_kernel() is None
    _cuda_kernel.cache_clear()
