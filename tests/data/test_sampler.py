"""Plans: which pixels, orientation and frame groups make each training pair."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearice.data import GridSampler, PatchPlan, Sampler
from clearice.data.hashing import scramble
from clearice.data.sampler import input_range


def _sampler(
    shapes: list[tuple[int, int, int]],
    *,
    patch: int = 32,
    batch: int = 8,
    seed: int = 0,
    augment: bool = True,
    exchangeable: bool = True,
    window: int = 16,
    world_size: int = 1,
    weight_by_dose: bool = False,
) -> Sampler:
    return Sampler(
        shapes,
        patch,
        batch,
        seed,
        augment=augment,
        exchangeable=exchangeable,
        window=window,
        world_size=world_size,
        weight_by_dose=weight_by_dose,
    )


def _draws(sampler: Sampler, steps: int) -> list[PatchPlan]:
    return [plan for step in range(steps) for plan in sampler.plan(step)]


@given(seed=st.integers(0, 2**31), step=st.integers(0, 10**6))
def test_a_plan_is_a_pure_function_of_seed_and_step(seed: int, step: int) -> None:
    shapes = [(8, 64, 80), (8, 70, 64)]
    fresh, used = _sampler(shapes, seed=seed), _sampler(shapes, seed=seed)
    for other in (step + 1, 0, 5):
        used.plan(other)
    assert fresh.plan(step) == used.plan(step)
    assert fresh.plan(step) != fresh.plan(step + 1)
    assert fresh.plan(step) != _sampler(shapes, seed=seed + 1).plan(step)


@given(
    groups=st.integers(2, 12),
    height=st.integers(16, 60),
    width=st.integers(16, 60),
    patch=st.integers(1, 16),
    exchangeable=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_patches_lie_inside_and_groups_are_used_once(
    *, groups: int, height: int, width: int, patch: int, exchangeable: bool, seed: int
) -> None:
    shapes = [(groups, height, width)]
    sampler = _sampler(shapes, patch=patch, seed=seed, exchangeable=exchangeable)
    for plan in _draws(sampler, 3):
        assert 0 <= plan.row <= height - patch
        assert 0 <= plan.column <= width - patch
        assert plan.inputs
        assert plan.targets
        assert sorted(plan.inputs + plan.targets) == list(range(groups))


def test_every_position_can_be_drawn() -> None:
    draws = _draws(_sampler([(2, 34, 36)]), 60)
    assert {plan.row for plan in draws} == {0, 1, 2}
    assert {plan.column for plan in draws} == {0, 1, 2, 3, 4}


def test_eight_groups_give_three_to_seven_inputs_equally_often() -> None:
    draws = _draws(_sampler([(8, 64, 64)]), 250)
    counts = Counter(len(plan.inputs) for plan in draws)
    assert set(counts) == {3, 4, 5, 6, 7}
    sigma = math.sqrt(len(draws) * 0.2 * 0.8)
    assert all(abs(count - 0.2 * len(draws)) < 5 * sigma for count in counts.values())


def test_each_of_eight_groups_is_input_equally_often() -> None:
    draws = _draws(_sampler([(8, 64, 64)]), 250)
    counts = Counter(group for plan in draws for group in plan.inputs)
    expected = len(draws) * 5 / 8
    sigma = math.sqrt(len(draws) * 5 / 8 * 3 / 8)
    assert all(abs(counts[group] - expected) < 5 * sigma for group in range(8))


def test_two_groups_change_places_in_half_of_the_draws() -> None:
    draws = _draws(_sampler([(2, 64, 64)]), 250)
    swapped = sum(plan.inputs == (1,) for plan in draws)
    assert abs(swapped - len(draws) / 2) < 5 * math.sqrt(len(draws)) / 2


def test_unequal_halves_never_change_places() -> None:
    draws = _draws(_sampler([(2, 64, 64)], exchangeable=False), 100)
    assert {(plan.inputs, plan.targets) for plan in draws} == {((0,), (1,))}


def test_larger_micrographs_are_drawn_more_often() -> None:
    draws = _draws(_sampler([(2, 64, 64), (2, 128, 128)]), 250)
    large = sum(plan.micrograph == 1 for plan in draws)
    assert abs(large - 0.8 * len(draws)) < 5 * math.sqrt(len(draws) * 0.8 * 0.2)


def test_orientations() -> None:
    assert {p.orientation for p in _draws(_sampler([(2, 64, 64)]), 50)} == set(range(8))
    plain = _sampler([(2, 64, 64)], augment=False)
    assert {p.orientation for p in _draws(plain, 50)} == {0}


def test_grid_covers_every_whole_patch_once() -> None:
    grid = GridSampler([(8, 96, 64), (8, 70, 32)], patch_size=32, batch_size=3)
    plans = [plan for step in range(len(grid)) for plan in grid.plan(step)]
    corners = [(plan.micrograph, plan.row, plan.column) for plan in plans]
    expected = [(0, r, c) for r in (0, 32, 64) for c in (0, 32)] + [(1, 0, 0), (1, 32, 0)]
    assert sorted(corners) == sorted(expected)
    assert {plan.inputs for plan in plans} == {(0, 2, 4, 6)}
    assert {plan.targets for plan in plans} == {(1, 3, 5, 7)}
    assert {plan.orientation for plan in plans} == {0}
    assert len(grid) == 3
    assert grid.plan(len(grid)) == []


@pytest.mark.parametrize("limit", [1, 3, 5, 16, 17, 100])
def test_grid_respects_its_limit_and_spreads(limit: int) -> None:
    shapes = [(2, 64, 64)] * 4
    grid = GridSampler(shapes, patch_size=32, batch_size=4, limit=limit)
    plans = [plan for step in range(len(grid)) for plan in grid.plan(step)]
    assert 1 <= len(plans) <= limit
    assert len(set(plans)) == len(plans)
    assert 2 * len(plans) > min(limit, 16)
    if limit >= 4:
        assert {plan.micrograph for plan in plans} == {0, 1, 2, 3}


def test_an_epoch_draws_its_share_from_every_micrograph() -> None:
    shapes = [(2, 64, 64), (2, 128, 96), (2, 40, 40), (2, 32, 200)]
    sampler = _sampler(shapes, window=2)
    assert sampler.samples_per_epoch == 4 + 12 + 1 + 6
    for epoch in range(3):
        first = epoch * sampler.samples_per_epoch
        plans = sampler.samples(range(first, first + 23)).plans()
        counts = Counter(plan.micrograph for plan in plans)
        assert counts == {0: 4, 1: 12, 2: 1, 3: 6}


@given(window=st.integers(1, 7), seed=st.integers(0, 100))
def test_patches_come_from_one_window_at_a_time(window: int, seed: int) -> None:
    shapes = [(2, 64, 64)] * 6
    sampler = _sampler(shapes, window=window, batch=1, seed=seed)
    last = -1
    seen: list[tuple[int, ...]] = []
    for step in range(sampler.samples_per_epoch):
        members = sampler.window(step)
        assert sampler.plan(step)[0].micrograph in members
        if not seen or members != seen[-1]:
            assert members not in seen
            seen.append(members)
        last = step
    assert sorted(m for members in seen for m in members) == list(range(6))
    assert all(len(members) <= window for members in seen)
    assert sampler.window(last + 1) == sampler.window(last, 1)
    assert sampler.window(0, len(seen)) == sampler.window(last + 1)


def test_epochs_differ_in_order_and_places() -> None:
    sampler = _sampler([(2, 64, 64)] * 6, window=2)
    n = sampler.samples_per_epoch
    first = sampler.samples(range(n)).plans()
    second = sampler.samples(range(n, 2 * n)).plans()
    assert [p.micrograph for p in first] != [p.micrograph for p in second]
    assert len({(p.micrograph, p.row, p.column) for p in first + second}) > 1.8 * n


@given(groups=st.integers(2, 20), share=st.floats(0.01, 0.99))
def test_the_range_of_inputs_leaves_a_target(groups: int, share: float) -> None:
    fewest, most = input_range(groups, share)
    assert 1 <= fewest <= most <= groups - 1
    if groups >= 4:
        assert fewest == min(groups - 1, max(1, round(share * groups)))
        assert most == groups - 1


def test_errors_count_by_the_dose_of_their_target_and_one_on_average() -> None:
    assert {plan.weight for plan in _draws(_sampler([(8, 64, 64)]), 20)} == {1.0}
    draws = _draws(_sampler([(8, 64, 64)], weight_by_dose=True), 500)
    for plan in draws:
        assert plan.weight == pytest.approx(len(plan.targets) / 3)
    mean = sum(plan.weight for plan in draws) / len(draws)
    assert abs(mean - 1) < 5 * math.sqrt(2 / 9 / len(draws))
    two = _sampler([(2, 64, 64)], weight_by_dose=True)
    assert {plan.weight for plan in _draws(two, 20)} == {1.0}


def test_a_step_that_ranks_cannot_share_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="8 pairs cannot be shared by 3"):
        _sampler([(2, 64, 64)], world_size=3)


def test_the_hash_is_splitmix64() -> None:
    # The first two outputs of the reference implementation from state 0.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    found = [value % 2**64 for value in scramble(torch.tensor([1, 2])).tolist()]
    assert found == expected
