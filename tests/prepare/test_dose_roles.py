"""Equal halves may change places; of unequal ones the lower dose is always the input."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from clearice.prepare import DoseRoles, HalfPair, find_roles, match_pairs
from clearice.prepare.dose import PairStatistics, pair_statistics
from clearice.prepare.split import read_pair
from helpers import smooth_image

_SIZE, _PIXEL, _PAIRS = 192, 2.0, 4


@functools.cache
def _statistics(
    noise: tuple[float, float], size: int = _SIZE, pixel: float = _PIXEL, flip: bool = False
) -> list[PairStatistics]:
    """Look at pairs of one signal with white noise, each half in units of its own."""
    generator = torch.Generator().manual_seed(0)
    looked = []
    for _ in range(_PAIRS):
        signal = smooth_image(generator, size, 3.0)
        halves = [signal + n * torch.randn(size, size, generator=generator) for n in noise]
        pair = torch.stack([3 * halves[0] + 10, 0.5 * halves[1] - 2])
        looked.append(pair_statistics(pair.flip(0) if flip else pair, pixel))
    return looked


def _roles(noise: tuple[float, float], dose_ratio: float | None = None) -> DoseRoles:
    return find_roles(_statistics(noise), dose_ratio)


@pytest.mark.parametrize("noise", [1.0, 3.0, 7.0])
def test_equal_halves_are_equal(noise: float) -> None:
    roles = _roles((noise, noise))
    assert (roles.equal, roles.swapped, roles.dose_ratio, roles.target_gain) == (True, False, 1, 1)
    assert "equal dose" in roles.reason


@pytest.mark.parametrize("swapped", [False, True])
def test_unequal_halves_are_seen_in_both_orders(swapped: bool) -> None:
    noise = (1.0, 7.0) if swapped else (7.0, 1.0)
    roles = _roles(noise)
    assert (roles.equal, roles.swapped) == (False, swapped)
    assert 49 / 2 < roles.dose_ratio < 49 * 2
    assert ("second" if swapped else "first") + " pattern is always the input" in roles.reason


@pytest.mark.parametrize("swapped", [False, True])
def test_the_gain_is_the_ratio_of_the_signals_after_normalisation(swapped: bool) -> None:
    noise = (1.0, 7.0) if swapped else (7.0, 1.0)
    roles = _roles(noise)
    # Signal of variance 1 in an image of variance 1 + noise², for the input and for the target.
    expected = (2 / 50) ** 0.5
    assert roles.target_gain == pytest.approx(expected, rel=0.15)


def test_the_gain_does_not_depend_on_the_order() -> None:
    forward = _roles((7.0, 1.0))
    backward = find_roles(_statistics((7.0, 1.0), flip=True), None)
    assert backward.target_gain == pytest.approx(forward.target_gain, rel=1e-6)
    assert backward.dose_ratio == pytest.approx(forward.dose_ratio, rel=1e-6)


@pytest.mark.parametrize(
    ("given", "equal", "swapped", "ratio"),
    [(1.0, True, False, 1.0), (49.0, False, False, 49.0), (0.02, False, True, 50.0)],
)
def test_a_given_dose_ratio_is_believed(
    given: float, equal: bool, swapped: bool, ratio: float
) -> None:
    noise = (1.0, 7.0) if swapped else (7.0, 1.0)
    roles = _roles(noise, given)
    assert (roles.equal, roles.swapped) == (equal, swapped)
    assert roles.dose_ratio == pytest.approx(ratio)
    assert f"{given:g} as given" in roles.reason


def test_one_odd_pair_does_not_decide() -> None:
    statistics = _statistics((7.0, 1.0))
    odd = _statistics((7.0, 1.0), flip=True)[0]
    roles = find_roles([odd, *statistics], None)
    assert (roles.equal, roles.swapped) == (False, False)


def test_a_small_field_is_judged_like_a_large_one() -> None:
    # 64 px of 1.5 Å: the slowest wave is shorter than 100 Å, so the usual band holds none.
    equal = _statistics((1.0, 1.0), 64, 1.5)
    assert find_roles(equal, None).equal
    unequal = _statistics((7.0, 1.0), 64, 1.5)
    roles = find_roles(unequal, None)
    assert (roles.equal, roles.swapped) == (False, False)


@pytest.fixture
def apoferritin(test_data: Path) -> list[HalfPair]:
    """Real pairs of one frame and the mean of the other 49."""
    folder = test_data / "apoferritin"
    return match_pairs(f"{folder}/*_frame.mrc", f"{folder}/*_rest.mrc")


def test_real_single_frames_are_the_input_in_both_orders(apoferritin: list[HalfPair]) -> None:
    images = [read_pair(pair, None, 1.0) for pair in apoferritin]
    forward = [pair_statistics(i.groups, i.pixel_size_angstrom) for i in images]
    backward = [pair_statistics(i.groups.flip(0), i.pixel_size_angstrom) for i in images]
    roles, reversed_roles = find_roles(forward, None), find_roles(backward, None)
    assert (roles.equal, roles.swapped) == (False, False)
    assert (reversed_roles.equal, reversed_roles.swapped) == (False, True)
    assert roles.dose_ratio == pytest.approx(reversed_roles.dose_ratio, rel=1e-6)
    assert reversed_roles.target_gain == pytest.approx(roles.target_gain, rel=0.05)
