"""Varied intensities: alike for input and target, a function of (seed, sample), and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clearice.data import PatchLoader, Sampler, Split
from helpers import CPU, write_dataset

SHAPES = [(2, 64, 64), (2, 64, 64), (2, 64, 64)]
JITTER = (0.2, 0.5)


def _sampler(jitter: tuple[float, float] = JITTER, seed: int = 3, groups: int = 2) -> Sampler:
    shapes = [(groups, *shape[1:]) for shape in SHAPES]
    fewest = 2 if groups > 2 else 1
    return Sampler(
        shapes,
        32,
        8,
        seed,
        augment=True,
        exchangeable=True,
        jitter=jitter,
        fewest_targets=fewest,
    )


def test_it_is_drawn_evenly_within_its_limits() -> None:
    jitter = _sampler().table(0, 500).jitter
    assert jitter is not None
    for column, (middle, largest) in zip(jitter.unbind(1), ((1.0, 0.2), (0.0, 0.5)), strict=True):
        away = (column - middle) / largest
        assert float(away.abs().max()) <= 1
        n = len(away)
        assert abs(float(away.mean())) < 5 * (1 / 3 / n) ** 0.5
        assert float(away.square().mean()) == pytest.approx(1 / 3, abs=5 * (4 / 45 / n) ** 0.5)
    factors, shifts = (column - column.mean() for column in jitter.unbind(1))
    correlation = (factors * shifts).mean() / (factors.std() * shifts.std())
    assert abs(float(correlation)) < 5 / len(factors) ** 0.5


def test_any_step_and_any_rank_draws_the_same() -> None:
    whole = _sampler().table(0, 12).jitter
    parts = [_sampler().table(step, step + 1).jitter for step in range(12)]
    assert whole is not None
    assert torch.equal(whole, torch.cat([part for part in parts if part is not None]))
    shares = [
        Sampler(
            SHAPES, 32, 8, 3, augment=True, exchangeable=True, jitter=JITTER, rank=r, world_size=2
        )
        .table(4, 5)
        .jitter
        for r in (0, 1)
    ]
    assert torch.equal(whole[32:40], torch.cat([share for share in shares if share is not None]))
    other = _sampler(seed=4).table(0, 12).jitter
    assert other is not None
    assert not torch.equal(whole, other)


def test_nothing_else_that_is_drawn_changes() -> None:
    with_it, without = _sampler().table(0, 5), _sampler((0.0, 0.0)).table(0, 5)
    assert without.jitter is None
    assert with_it.plans() == without.plans()


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("clean", [False, True])
def test_input_and_targets_undergo_the_same(tmp_path: Path, halves: bool, clean: bool) -> None:
    data = write_dataset(tmp_path, groups=4, truth=True)
    entries = data.entries(Split.TRAIN)
    batches = []
    for jitter in (JITTER, (0.0, 0.0)):
        sampler = _sampler(jitter, groups=4)
        loader = PatchLoader(data, entries, sampler, 32, CPU, "ram", clean=clean, halves=halves)
        batches.append(loader.batch(2))
    drawn = _sampler(groups=4).table(2, 3).jitter
    assert drawn is not None
    factor, shift = (column.float()[:, None, None, None] for column in drawn.unbind(1))
    varied, plain = batches
    torch.testing.assert_close(varied.input, factor * plain.input + shift, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(varied.target, factor * plain.target + shift, atol=1e-5, rtol=1e-5)
    assert torch.equal(varied.weight, plain.weight)
    assert (varied.target_halves is not None) == halves
    if varied.target_halves is not None and plain.target_halves is not None:
        expected = factor * plain.target_halves + shift
        torch.testing.assert_close(varied.target_halves, expected, atol=1e-5, rtol=1e-5)


def test_ready_halves_change_roles_as_often_as_not() -> None:
    plans = _sampler().table(0, 250).plans()
    firsts = sum(plan.inputs == (0,) for plan in plans)
    assert {(plan.inputs, plan.targets) for plan in plans} == {((0,), (1,)), ((1,), (0,))}
    assert abs(firsts - len(plans) / 2) < 5 * (len(plans) / 4) ** 0.5
