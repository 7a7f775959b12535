"""Movies become means of interleaved frames, in any readable mode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clearice import io
from clearice.errors import InputFileError
from clearice.prepare import split
from helpers import write_movie
from tolerances import RELATIVE

_MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}


def _counts(generator: torch.Generator, frames: int) -> torch.Tensor:
    # Whole numbers below 128 stand in every mode without rounding.
    return torch.randint(0, 100, (frames, 20, 24), generator=generator).float()


@pytest.mark.parametrize(
    ("groups", "weights"), [(2, (4 / 7, 3 / 7)), (3, (3 / 7, 2 / 7, 2 / 7)), (7, (1 / 7,) * 7)]
)
def test_groups_are_means_of_interleaved_frames(
    tmp_path: Path, generator: torch.Generator, groups: int, weights: tuple[float, ...]
) -> None:
    frames = _counts(generator, 7)
    movie = io.open_movie(write_movie(tmp_path / "mic.frames.mrc", frames))
    half_set = split(movie, groups)
    for group in range(groups):
        torch.testing.assert_close(half_set.groups[group], frames[group::groups].mean(0))
    assert half_set.weights == pytest.approx(weights)
    assert (half_set.name, half_set.pixel_size_angstrom) == ("mic.frames", 1.5)
    assert half_set.sources == (tmp_path / "mic.frames.mrc",)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_the_weighted_sum_of_groups_is_the_full_dose_mean(
    tmp_path: Path, generator: torch.Generator, groups: int
) -> None:
    frames = _counts(generator, 7)
    half_set = split(io.open_movie(write_movie(tmp_path / "mic.mrc", frames)), groups)
    full = torch.einsum("k,khw->hw", torch.tensor(half_set.weights), half_set.groups)
    torch.testing.assert_close(full, frames.mean(0), rtol=RELATIVE[torch.float32], atol=1e-5)
    assert sum(half_set.weights) == pytest.approx(1)


@pytest.mark.parametrize("mode", _MODES)
def test_every_readable_mode(tmp_path: Path, generator: torch.Generator, mode: int) -> None:
    frames = _counts(generator, 4)
    path = write_movie(tmp_path / "mic.mrc", frames, dtype=_MODES[mode])
    assert int.from_bytes(path.read_bytes()[12:16], "little") == mode
    half_set = split(io.open_movie(path), 2)
    expected = torch.stack([frames[0::2].mean(0), frames[1::2].mean(0)])
    torch.testing.assert_close(half_set.groups, expected)


def test_too_few_frames_say_how_many_groups_would_do(
    tmp_path: Path, generator: torch.Generator
) -> None:
    path = write_movie(tmp_path / "mic.mrc", _counts(generator, 3))
    with pytest.raises(InputFileError, match=r"mic\.mrc: has 3 frames.*--groups 3"):
        split(io.open_movie(path), 4)
