"""Seeds: reproducible, in range, and different for every purpose."""

from __future__ import annotations

import hashlib

import torch
from hypothesis import given
from hypothesis import strategies as st

from clearice.seeds import derive_seed


def test_the_seed_is_pinned_by_an_independent_hash() -> None:
    # A change here changes every simulation and every split: it belongs in the CHANGELOG.
    digest = int(hashlib.sha256(b"7/frame/3").hexdigest()[:16], 16)
    assert derive_seed(7, "frame", 3) == digest // 2


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=4))
def test_every_seed_is_one_that_a_generator_takes(parts: list[int]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert torch.Generator().manual_seed(seed).initial_seed() == seed


def test_neighbouring_purposes_never_share_a_seed() -> None:
    seeds = {derive_seed(s, what, i) for s in range(10) for what in "ab" for i in range(50)}
    assert len(seeds) == 10 * 2 * 50


def test_neighbouring_seeds_give_uncorrelated_streams() -> None:
    n = 100_000
    a, b = (
        torch.randn(n, generator=torch.Generator().manual_seed(derive_seed(0, "x", i)))
        for i in (0, 1)
    )
    assert abs(float((a * b).mean())) < 5 / n**0.5
