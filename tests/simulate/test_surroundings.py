"""Carbon and contamination: as much as asked for, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from clearice.config import SimulateConfig
from clearice.simulate import MicrographPhysics, barrel, simulate_movie
from clearice.simulate.surroundings import Surroundings, surroundings
from helpers import CPU

PHYSICS = MicrographPhysics(15_000.0, 0.0, 0.0)


def _drawn(seed: int = 0, **settings: float) -> Surroundings:
    config = SimulateConfig(size=192, pixel_size_angstrom=4.0, **settings)
    return surroundings(config, PHYSICS, seed, CPU)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_film_covers_its_share_and_is_darker(share: float) -> None:
    around = _drawn(carbon_share=share)
    dark = around.transmission < 0.5 * (1 + float(around.transmission.min()))
    assert float(dark.float().mean()) == pytest.approx(share, abs=0.02)
    assert float(around.contrast[dark].std()) > 3 * float(around.contrast[~dark].std())


def test_nothing_wraps_around_the_edges() -> None:
    """The film ends at edges of the field; elsewhere only its rim changes."""
    film = _drawn(carbon_share=0.3).transmission
    jumps = (film[0] - film[-1]).abs().max(), (film[:, 0] - film[:, -1]).abs().max()
    inside = film.diff(dim=0).abs().max(), film.diff(dim=1).abs().max()
    assert max(jumps) > 2 * max(inside)


def test_crystals_are_dark_and_differ_by_seed() -> None:
    around, other = _drawn(contaminants=4), _drawn(1, contaminants=4)
    assert 0.8 < float(around.transmission.min()) < 0.96
    assert not torch.equal(around.transmission, other.transmission)
    assert torch.equal(around.contrast, _drawn(contaminants=4).contrast)


def test_a_movie_has_them_only_if_asked_and_is_else_the_same() -> None:
    plain = SimulateConfig(size=96, frames=2, pixel_size_angstrom=4.0)
    dirty = plain.model_copy(update={"contaminants": 3})
    specimen = barrel(0)
    first, second = (simulate_movie(specimen, config, 0, CPU) for config in (plain, dirty))
    assert torch.equal(first.xy_px, second.xy_px)
    assert float((second.truth / first.truth).min()) < 0.97
    # As before there were surroundings.
    assert float(first.frames.sum()) == 7_530_090
    assert float(first.truth.double().sum()) == pytest.approx(7_533_280.9, rel=1e-6)
