"""Whole micrographs are assigned to train, validation and test."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from clearice.data import Split, assign_splits
from helpers import prepare_config

_FRACTION = st.one_of(st.just(0.0), st.floats(0.01, 0.45))


def _names(count: int) -> list[str]:
    return [f"mic{index:03d}" for index in range(count)]


@given(
    count=st.integers(1, 80), validation=_FRACTION, test=_FRACTION, seed=st.integers(0, 2**31 - 1)
)
def test_every_micrograph_gets_one_split_and_some_train(
    count: int, validation: float, test: float, seed: int
) -> None:
    config = prepare_config(validation_fraction=validation, test_fraction=test, seed=seed)
    splits = assign_splits(_names(count), config)
    counts = Counter(splits.values())
    assert sorted(splits) == _names(count)
    assert counts[Split.TRAIN] >= 1
    if count >= 20:
        for split, fraction in ((Split.VALIDATION, validation), (Split.TEST, test)):
            if fraction == 0:
                assert counts[split] == 0
            else:
                assert counts[split] >= 1
                assert abs(counts[split] - max(1.0, fraction * count)) <= 0.5


@given(count=st.integers(2, 40), seed=st.integers(0, 1000))
def test_the_assignment_depends_on_names_and_seed_alone(count: int, seed: int) -> None:
    config = prepare_config(validation_fraction=0.1, test_fraction=0.1, seed=seed)
    names = _names(count)
    assert assign_splits(names, config) == assign_splits(names[::-1], config)


def test_another_seed_assigns_other_micrographs() -> None:
    names = _names(60)
    first = assign_splits(names, prepare_config(validation_fraction=0.1, seed=0))
    second = assign_splits(names, prepare_config(validation_fraction=0.1, seed=1))
    assert first != second


def test_one_micrograph_is_for_training() -> None:
    assert assign_splits(["only"], prepare_config(validation_fraction=0.1, test_fraction=0.1)) == {
        "only": Split.TRAIN
    }


def test_of_two_micrographs_one_is_held_out() -> None:
    splits = assign_splits(["a", "b"], prepare_config(validation_fraction=0.1, test_fraction=0.1))
    assert Counter(splits.values()) == {Split.TRAIN: 1, Split.VALIDATION: 1}
