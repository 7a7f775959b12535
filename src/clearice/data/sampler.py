"""Which pixels, orientation and frame groups make each training pair.

Sampling is counter-based: sample i of an epoch is a pure function of (seed, epoch, i). So a
resumed run, and a run with any number of workers, ranks or devices, draws the same pairs, and the
only state to save is the step.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
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
        weight: Of its error in the loss; 1 on average.
    """

    micrograph: int
    row: int
    column: int
    orientation: int
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    weight: float = 1.0


class Plans(Protocol):
    """Anything that says which pairs make a step."""

    def plan(self, step: int, /) -> list[PatchPlan]: ...

    def window(self, step: int, ahead: int = 0, /) -> tuple[int, ...]: ...


def patches_of(shape: tuple[int, int, int], patch_size: int) -> int:
    """Return how many patches of a stack count as one pass over it, at least one."""
    return max(1, (shape[1] // patch_size) * (shape[2] // patch_size))


def input_range(groups: int, smallest_share: float) -> tuple[int, int]:
    """Return the fewest and the most groups in an input: the share of K that is given, and K − 1.

    With K < 4 there is little to choose from: it is one against the rest.
    """
    if groups < 4:
        return 1, 1
    return min(groups - 1, max(1, round(smallest_share * groups))), groups - 1


@final
class Sampler:
    """Draws patches evenly over all pixels, and random complementary splits of the frame groups.

    An epoch draws from each micrograph as many patches as cover it once, at random places. Its
    order suits disks: micrographs come in random order in windows of `window`, and patches are
    shuffled inside a window alone, so that a window's files can be read once, from end to end,
    before they are needed.

    With K ≥ 4 groups the input is the mean of a random number of them and the target the mean of
    the rest, which brings the input near the full dose that it has when denoising.

    Args:
        shapes: (groups, rows, columns) of each stack.
        patch_size: Edge of a patch, px; every stack must hold one.
        batch_size: Pairs in a step, over all ranks.
        seed: Seed of the whole sequence.
        augment: Draw one of eight orientations; else always 0.
        exchangeable: False if group 0 is always the input and the rest the target.
        smallest_input: Smallest share of the groups that makes an input.
        weight_by_dose: Weigh each error by the dose of its target, to which the noise power in it
            is inverse; else all count the same.
        window: Micrographs that are drawn from at a time.
        rank: Which share of each step's pairs to return.
        world_size: How many shares there are; divides `batch_size`.
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
        smallest_input: float = 0.375,
        weight_by_dose: bool = True,
        window: int = 16,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(f"{batch_size} pairs cannot be shared by {world_size} ranks")
        self._shapes = list(shapes)
        self._patch_size = patch_size
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._exchangeable = exchangeable
        self._smallest_input = smallest_input
        self._weight_by_dose = weight_by_dose
        self._window = window
        share = batch_size // world_size
        self._mine = range(rank * share, (rank + 1) * share)
        self._counts = [patches_of(shape, patch_size) for shape in shapes]
        self.samples_per_epoch = sum(self._counts)
        self._windows_of = lru_cache(maxsize=2)(self._windows)
        self._slots_of = lru_cache(maxsize=4)(self._slots)

    def plan(self, step: int) -> list[PatchPlan]:
        """Return this rank's pairs of one step."""
        return [self.sample(step * self._batch_size + offset) for offset in self._mine]

    def window(self, step: int, ahead: int = 0) -> tuple[int, ...]:
        """Return the micrographs that a step draws from, or those of the window `ahead` of it."""
        epoch, index = divmod(step * self._batch_size, self.samples_per_epoch)
        windows, ends = self._windows_of(epoch)
        number = bisect_right(ends, index) + ahead
        while number >= len(windows):
            number -= len(windows)
            epoch += 1
            windows, _ = self._windows_of(epoch)
        return windows[number]

    def sample(self, counter: int) -> PatchPlan:
        """Return one pair, by its number since the first step."""
        epoch, index = divmod(counter, self.samples_per_epoch)
        _, ends = self._windows_of(epoch)
        number = bisect_right(ends, index)
        first = ends[number - 1] if number else 0
        micrograph = self._slots_of(epoch, number)[index - first]
        return self._draw(
            random.Random(derive_seed(self._seed, "sample", epoch, index)), micrograph
        )

    def _windows(self, epoch: int) -> tuple[list[tuple[int, ...]], list[int]]:
        """Return the windows of an epoch, and after how many samples each of them ends."""
        order = list(range(len(self._shapes)))
        random.Random(derive_seed(self._seed, "order", epoch)).shuffle(order)
        starts = range(0, len(order), self._window)
        windows = [tuple(order[start : start + self._window]) for start in starts]
        return windows, list(accumulate(sum(self._counts[m] for m in w) for w in windows))

    def _slots(self, epoch: int, number: int) -> list[int]:
        """Return the micrograph of each sample of a window."""
        windows, _ = self._windows_of(epoch)
        slots = [m for m in windows[number] for _ in range(self._counts[m])]
        random.Random(derive_seed(self._seed, "window", epoch, number)).shuffle(slots)
        return slots

    def _draw(self, rng: random.Random, micrograph: int) -> PatchPlan:
        groups, height, width = self._shapes[micrograph]
        order = list(range(groups))
        n_inputs, weight = 1, 1.0
        if self._exchangeable:
            rng.shuffle(order)
            fewest, most = input_range(groups, self._smallest_input)
            n_inputs = rng.randint(fewest, most)
            if self._weight_by_dose:
                weight = (groups - n_inputs) / (groups - (fewest + most) / 2)
        return PatchPlan(
            micrograph=micrograph,
            row=rng.randint(0, height - self._patch_size),
            column=rng.randint(0, width - self._patch_size),
            orientation=rng.randrange(8) if self._augment else 0,
            inputs=tuple(sorted(order[:n_inputs])),
            targets=tuple(sorted(order[n_inputs:])),
            weight=weight,
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

    def window(self, step: int, ahead: int = 0) -> tuple[int, ...]:
        """Return nothing: the patches are few, and reading whole files ahead would be waste."""
        return ()
