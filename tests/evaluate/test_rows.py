"""Rows are what stacking gives, for as many micrographs as could be used."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from clearice.evaluate.rows import Rows


@dataclass(frozen=True)
class _Numbers:
    one: Tensor
    many: Tensor


def test_rows_are_stacked_and_copied() -> None:
    items = [_Numbers(torch.tensor(float(i)), torch.arange(3) + i) for i in range(3)]
    rows = Rows[_Numbers](5)
    for item in items:
        rows.add(item)
    items[0].many.zero_()
    stacked = rows.stacked()
    assert len(rows) == 3
    assert stacked.one.tolist() == [0.0, 1.0, 2.0]
    assert stacked.many.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_there_are_no_more_than_were_meant() -> None:
    rows = Rows[_Numbers](1)
    rows.add(_Numbers(torch.tensor(1.0), torch.zeros(2)))
    with pytest.raises(IndexError):
        rows.add(_Numbers(torch.tensor(1.0), torch.zeros(2)))
