"""Defective pixels: every one replaced by a good neighbour, with its noise and nothing shared."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearice.errors import InputFileError
from clearice.prepare.defects import defect_map, find_hot_pixels

_FILE = Path("defects.txt")
_SIGMAS = 5


@given(st.integers(12, 40), st.integers(12, 40), st.floats(0.0, 0.08), st.integers(0, 99))
def test_every_donor_is_a_good_neighbour(height: int, width: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bad = torch.rand(height, width, generator=generator) < min(share, 0.08)
    if bad.double().mean() > 0.1:
        bad[:] = False
    found = defect_map(bad, _FILE, seed)
    assert torch.equal(found.bad, bad.flatten().nonzero()[:, 0])
    assert not bad.flatten()[found.donor].any()
    apart = (found.bad // width - found.donor // width).abs()
    across = (found.bad % width - found.donor % width).abs()
    assert len(found.bad) == 0 or int(torch.maximum(apart, across).max()) <= 4


def test_the_choice_is_the_same_every_time_and_spread() -> None:
    bad = torch.zeros(64, 64, dtype=torch.bool)
    bad[::8, ::8] = True
    first, again, other = (defect_map(bad, _FILE, seed) for seed in (1, 1, 2))
    assert torch.equal(first.donor, again.donor)
    assert not torch.equal(first.donor, other.donor)
    assert len(set((first.donor - first.bad).tolist())) > 10


def test_a_block_of_bad_pixels_reaches_out_for_donors() -> None:
    bad = torch.zeros(100, 100, dtype=torch.bool)
    bad[:30, :30] = True
    found = defect_map(bad, _FILE)
    assert not bad.flatten()[found.donor].any()


def test_a_detector_that_is_mostly_bad_is_refused() -> None:
    bad = torch.zeros(20, 20, dtype=torch.bool)
    bad[:5] = True
    with pytest.raises(InputFileError, match=r"defects\.txt: marks 25% of the pixels"):
        defect_map(bad, _FILE)


def test_repair_changes_bad_pixels_alone_and_not_its_argument(generator: torch.Generator) -> None:
    bad = torch.rand(32, 32, generator=generator) < 0.05
    frame = torch.randn(32, 32, generator=generator)
    frame[bad] = 1e6
    before = frame.clone()
    repaired = defect_map(bad, _FILE).repair(frame)
    assert torch.equal(frame, before)
    assert torch.equal(repaired[~bad], frame[~bad])
    assert float(repaired.max()) < 10
    assert repaired.dtype == torch.float32


def test_replaced_pixels_keep_their_noise_and_frames_stay_independent(
    generator: torch.Generator,
) -> None:
    bad = torch.zeros(256, 256, dtype=torch.bool)
    bad[4::8, 4::8] = True
    found = defect_map(bad, _FILE)
    frames = torch.poisson(torch.full((40, 256, 256), 9.0), generator=generator)
    frames[:, bad] = 5000.0
    repaired = torch.stack([found.repair(frame) for frame in frames])[:, bad].double()
    n = repaired.numel()
    assert float(repaired.mean()) == pytest.approx(9, abs=_SIGMAS * 3 / math.sqrt(n))
    # The variance of n Poisson counts of mean m is m, to √((2 m² + m) / n).
    error = math.sqrt((2 * 81 + 9) / n)
    assert float(repaired.var()) == pytest.approx(9, abs=_SIGMAS * error)
    even, odd = (half - half.mean() for half in (repaired[::2].mean(0), repaired[1::2].mean(0)))
    correlation = float((even * odd).mean() / (even.std() * odd.std()))
    assert abs(correlation) < _SIGMAS / math.sqrt(even.numel())


def _mean_frame(generator: torch.Generator, rate: float, size: int = 256) -> torch.Tensor:
    """Return the mean of 40 frames with an ice gradient and a hole's edge."""
    ramp = 1 + 0.5 * torch.linspace(0, 1, size)[None, :].expand(size, size).clone()
    ramp[: size // 3] *= 1.8
    return torch.poisson(40 * rate * ramp, generator=generator) / 40


def test_hot_and_cold_pixels_are_found_and_nothing_else(generator: torch.Generator) -> None:
    frame = _mean_frame(generator, 1.5)
    truth = torch.zeros_like(frame, dtype=torch.bool)
    for y, x in ((0, 0), (20, 40), (20, 41), (100, 200), (255, 255), (200, 3)):
        truth[y, x] = True
        frame[y, x] *= 3
    truth[150, 60] = True
    frame[150, 60] = 0.0
    truth[30, 30] = True
    frame[30, 30] = 1e7
    found = find_hot_pixels(frame)
    assert found is not None
    assert torch.equal(found, truth)


def test_a_hot_column_is_found(generator: torch.Generator) -> None:
    frame = _mean_frame(generator, 1.5, 2048)
    frame[:, 700] += 3.0
    hot = find_hot_pixels(frame)
    assert hot is not None
    assert bool(hot[:, 700].all())
    assert int(hot.sum()) <= 2048 + 3


def test_what_is_everywhere_is_not_hot(generator: torch.Generator) -> None:
    frame = _mean_frame(generator, 1.5)
    frame[torch.rand(frame.shape, generator=generator) < 0.01] *= 4
    assert find_hot_pixels(frame) is None


def test_images_without_counts_have_hot_pixels_too(generator: torch.Generator) -> None:
    frame = torch.randn(256, 256, generator=generator)
    frame[9, 9] = 12.0
    found = find_hot_pixels(frame)
    assert found is not None
    assert found.nonzero().tolist() == [[9, 9]]
