"""Ready halves are brought to one scale where counts tell it, and refused where nothing does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clearice.data import Affine
from clearice.errors import BatchError
from clearice.prepare import match_pairs, prepare_pairs
from clearice.prepare.scale import on_one_scale
from clearice.types import HalfSet
from helpers import noisy_groups, prepare_config, smooth_image, write_image


def _halves(first: torch.Tensor, second: torch.Tensor) -> HalfSet:
    sources = (Path("a.mrc"), Path("b.mrc"))
    return HalfSet("mic", torch.stack([first, second]), (0.5, 0.5), 1.5, sources)


def test_a_sum_and_a_mean_come_to_one_scale(generator: torch.Generator) -> None:
    signal = 40 + smooth_image(generator, 64)
    one, other = (signal + torch.randn(64, 64, generator=generator) for _ in range(2))
    scaled = on_one_scale(_halves(20 * one, other)).groups
    assert float(scaled[0].mean()) == pytest.approx(float(scaled[1].mean()), rel=1e-4)
    assert float(scaled[0].std()) == pytest.approx(float(scaled[1].std()), rel=0.05)
    affine = Affine.of(scaled.mean(0))
    assert affine.mean == pytest.approx(
        (20 * float(one.mean()) + float(other.mean())) / 2, rel=1e-4
    )


def test_halves_without_counts_must_have_one_scale(
    tmp_path: Path, generator: torch.Generator
) -> None:
    for name, factor in (("good", 1.0), ("other", 3.0)):
        halves = noisy_groups(smooth_image(generator, 64), 2, 1.0, generator)
        halves = halves - halves.mean()
        write_image(tmp_path / f"{name}_odd.mrc", halves[0])
        write_image(tmp_path / f"{name}_evn.mrc", factor * halves[1])
    pairs = match_pairs(f"{tmp_path}/*_odd.mrc", f"{tmp_path}/*_evn.mrc")
    with pytest.raises(BatchError, match=r"other_evn\.mrc: differs in scale .*--dose-ratio"):
        prepare_pairs(pairs, tmp_path / "set", prepare_config())
