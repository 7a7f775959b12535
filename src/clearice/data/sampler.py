"""Which pixels, orientation and frame groups make each training pair.

The plan of step n is a pure function of (seed, n): a resumed run, a run with other workers or on
other devices draws the same pairs, and the only state to save is the step.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from clearice.seeds import derive_seed


@dataclass(frozen=True)
class PatchPlan:
    """One training pair.

    Attributes:
        micrograph: Index into the sampled stacks.
        row: First row, px.
        column: First column, px.
        orientation: Of the eight of the square: quarter turns, plus 4 if mirrored first.
        inputs: Groups averaged into the input.
        targets: Groups averaged into the target; none of them is in `inputs`.
    """

    micrograph: int
    row: int
    column: int
    orientation: int
    inputs: tuple[int, ...]
    targets: tuple[int, ...]


class Plans(Protocol):
    """Anything that says which pairs make a step."""

    def plan(self, step: int, /) -> list[PatchPlan]: ...


@final
class Sampler:
    """Draws patches uniformly over all pixels, and complementary splits of the frame groups.

    With K ≥ 4 groups the input is the mean of a random 3K/8 to K − 1 of them and the target the
    mean of the rest, which brings the input near the full dose that it has when denoising; with
    fewer groups it is one against the rest, in random order.

    Args:
        shapes: (groups, rows, columns) of each stack.
        patch_size: Edge of a patch, px; every stack must hold one.
        batch_size: Pairs in a step.
        seed: Seed of the whole sequence.
        augment: Draw one of eight orientations; else always 0.
        exchangeable: False if group 0 is always the input and the rest the target.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        patch_size: int,
        batch_size: int,
        seed: int,
        *,
        augment: bool,
        exchangeable: bool,
    ) -> None:
        self._shapes = list(shapes)
        self._patch_size = patch_size
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._exchangeable = exchangeable
        self._areas = [height * width for _, height, width in shapes]

    def plan(self, step: int) -> list[PatchPlan]:
        """Return the pairs of one step."""
        rng = random.Random(derive_seed(self._seed, "sample", step))
        return [self._draw(rng) for _ in range(self._batch_size)]

    def _draw(self, rng: random.Random) -> PatchPlan:
        (index,) = rng.choices(range(len(self._shapes)), weights=self._areas)
        groups, height, width = self._shapes[index]
        order = list(range(groups))
        n_inputs = 1
        if self._exchangeable:
            rng.shuffle(order)
            if groups >= 4:
                n_inputs = rng.randint(max(1, round(3 * groups / 8)), groups - 1)
        return PatchPlan(
            micrograph=index,
            row=rng.randint(0, height - self._patch_size),
            column=rng.randint(0, width - self._patch_size),
            orientation=rng.randrange(8) if self._augment else 0,
            inputs=tuple(sorted(order[:n_inputs])),
            targets=tuple(sorted(order[n_inputs:])),
        )


@final
class GridSampler:
    """The same patches every time, for validation: even groups in, odd groups as target.

    Args:
        shapes: (groups, rows, columns) of each stack.
        patch_size: Edge of a patch, px.
        batch_size: Pairs in a step.
        limit: Most patches; if there are more, evenly spaced ones are taken.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        patch_size: int,
        batch_size: int,
        limit: int = 128,
    ) -> None:
        corners = [
            (index, row, column)
            for index, (_, height, width) in enumerate(shapes)
            for row in range(0, height - patch_size + 1, patch_size)
            for column in range(0, width - patch_size + 1, patch_size)
        ]
        chosen = corners[:: max(1, -(-len(corners) // limit))]
        self._plans = [
            PatchPlan(
                index,
                row,
                column,
                0,
                tuple(range(0, shapes[index][0], 2)),
                tuple(range(1, shapes[index][0], 2)),
            )
            for index, row, column in chosen
        ]
        self._batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._plans) / self._batch_size)

    def plan(self, step: int) -> list[PatchPlan]:
        """Return the pairs of one step."""
        return self._plans[step * self._batch_size : (step + 1) * self._batch_size]
