"""Matching of picks and the curve of precision and recall, against cases worked out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearice.evaluate.detection import Matches, curve, draw_images, match, rank


def _matches(score: list[float], hit: list[bool], particles: int) -> Matches:
    return Matches(torch.tensor(score), torch.tensor(hit), torch.zeros(sum(hit)), particles)


def test_average_precision_of_a_list_worked_out_by_hand() -> None:
    # Hits at ranks 1, 3 and 4 of 4 particles: (1/1 + 2/3 + 3/4) / 4.
    found = curve(rank([_matches([9, 8, 7, 6, 5], [True, False, True, True, False], 4)]))
    assert float(found.average_precision()) == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)
    assert found.recall.tolist() == pytest.approx([0.25, 0.25, 0.5, 0.75, 0.75])
    assert found.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4, 3 / 5])
    assert found.recall_at(0.75) == pytest.approx(0.75)
    assert found.recall_at(0.8) == pytest.approx(0.25)
    assert found.best_f1() == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("hits", "particles", "expected"),
    [([True] * 5, 5, 1.0), ([True] * 5, 10, 0.5), ([False] * 5, 5, 0.0)],
)
def test_average_precision_at_its_limits(hits: list[bool], particles: int, expected: float) -> None:
    score = [float(-i) for i in range(len(hits))]
    found = curve(rank([_matches(score, hits, particles)]))
    assert float(found.average_precision()) == pytest.approx(expected)


def test_equal_scores_count_together_whatever_their_order() -> None:
    # One cut: 2 hits of 4 picks, 2 of 4 particles.
    for hits in ([True, True, False, False], [False, False, True, True]):
        found = curve(rank([_matches([1.0] * 4, hits, 4)]))
        assert float(found.average_precision()) == pytest.approx(0.5 * 0.5)
        assert found.recall.shape == (1,)


def test_no_picks_give_zero() -> None:
    found = curve(rank([_matches([], [], 3)]))
    assert float(found.average_precision()) == 0
    assert (found.recall_at(0.5), found.best_f1()) == (0, 0)


def test_images_share_one_ranking() -> None:
    first, second = _matches([4, 1], [True, False], 1), _matches([3, 2], [False, True], 1)
    found = curve(rank([first, second]))
    assert float(found.average_precision()) == pytest.approx((1 + 2 / 3) / 2)


def test_a_weight_counts_an_image_as_often_as_it_is_repeated() -> None:
    images = [_matches([4, 1], [True, False], 2), _matches([3, 2], [False, True], 1)]
    repeated = curve(rank([images[0], images[1], images[1]])).average_precision()
    weighted = curve(rank(images), torch.tensor([[1.0, 2.0], [1.0, 0.0]])).average_precision()
    assert float(weighted[0]) == pytest.approx(float(repeated))
    assert float(weighted[1]) == pytest.approx(float(curve(rank(images[:1])).average_precision()))


def test_draws_have_as_many_images_as_there_are(generator: torch.Generator) -> None:
    drawn = draw_images(7, 500, generator)
    assert (drawn.sum(dim=1) == 7).all()
    # Each count is binomial(7, 1/7): its mean over 500 draws within 5 sigma of 1.
    assert (drawn.mean(dim=0) - 1).abs().max() < 5 * (6 / 7 / 500) ** 0.5


def test_a_particle_is_found_once_by_the_best_pick() -> None:
    found = match(
        torch.tensor([[10.0, 10.0], [11.0, 10.0], [40.0, 40.0]]),
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([[10.0, 10.0]]),
        3.0,
    )
    assert found.score.tolist() == [3, 2, 1]
    assert found.hit.tolist() == [False, True, False]
    assert found.distance_px.tolist() == [1.0]


def test_a_pick_takes_the_nearest_free_particle_and_not_one_out_of_reach() -> None:
    particles = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    picks = torch.tensor([[1.0, 0.0], [1.5, 0.0], [0.5, 0.0]])
    found = match(picks, torch.tensor([3.0, 2.0, 1.0]), particles, 3.0)
    assert found.hit.tolist() == [True, True, False]
    assert found.distance_px.tolist() == [1.0, 2.5]


def test_particles_that_do_not_count_neither_help_nor_hurt() -> None:
    found = match(
        torch.tensor([[0.0, 0.0], [20.0, 0.0]]),
        torch.tensor([2.0, 1.0]),
        torch.tensor([[1.0, 0.0], [21.0, 0.0]]),
        3.0,
        torch.tensor([False, True]),
    )
    assert (found.score.tolist(), found.hit.tolist(), found.particles) == ([1.0], [True], 1)


points = st.lists(
    st.tuples(st.floats(0, 50, width=32), st.floats(0, 50, width=32)), min_size=0, max_size=12
)


@given(picks=points, particles=points, tolerance=st.floats(0.5, 20))
def test_matching_is_one_to_one_within_reach(
    picks: list[tuple[float, float]], particles: list[tuple[float, float]], tolerance: float
) -> None:
    at, known = (torch.tensor(p).reshape(-1, 2) for p in (picks, particles))
    score = torch.arange(len(picks), dtype=torch.float32)
    found = match(at, score, known, tolerance)
    hits = int(found.hit.sum())
    assert len(found.score) == len(picks)
    assert hits == len(found.distance_px) <= min(len(picks), len(particles))
    assert (found.distance_px <= tolerance).all()
    assert found.score.tolist() == sorted(score.tolist(), reverse=True)
    # No pick misses while a particle in its reach stays free: greedy matching is maximal.
    wider = match(at, score, known, 1000.0)
    assert int(wider.hit.sum()) == min(len(picks), len(particles))
    assert float(curve(rank([wider])).average_precision()) == pytest.approx(
        min(1.0, len(picks) / max(1, len(particles))) if particles else 0.0
    )
