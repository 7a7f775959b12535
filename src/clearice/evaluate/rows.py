"""Numbers of many micrographs, kept in one block for each field."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor

T = TypeVar("T")


@final
class Rows(Generic[T]):
    """Collects dataclasses of small tensors, one a micrograph, and stacks them.

    The blocks are made before the first large image is freed. Small tensors that are kept one by
    one end up between large ones, and leave holes that no later image fits into: memory grew by
    3 MB with each micrograph of 4096².

    Args:
        count: How many there will be at most.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._kind: type[Any] | None = None
        self._blocks: dict[str, Tensor] = {}
        self._filled = 0

    def add(self, item: T) -> None:
        """Copy one micrograph's numbers."""
        values = {f.name: getattr(item, f.name) for f in fields(item)}  # type: ignore[arg-type]
        if self._kind is None:
            self._kind = type(item)
            self._blocks = {
                name: torch.zeros(self._count, *value.shape, dtype=value.dtype)
                for name, value in values.items()
            }
        for name, value in values.items():
            self._blocks[name][self._filled] = value
        self._filled += 1

    def __len__(self) -> int:
        return self._filled

    def stacked(self) -> T:
        """Return all of them in one."""
        assert self._kind is not None
        return self._kind(**{name: b[: self._filled] for name, b in self._blocks.items()})
