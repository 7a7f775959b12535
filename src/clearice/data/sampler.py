"""Which pixels, orientation and frame groups make each training pair.

Sampling is counter-based: sample i of an epoch is a pure function of (seed, epoch, i), a hash of
its number. So a resumed run, and a run with any number of workers, ranks or devices, draws the
same pairs, and the only state to save is the step.
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

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearice.data.hashing import below, scramble, uniform
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


@dataclass(frozen=True)
class PatchTable:
    """The plans of many pairs, one a row.

    Attributes:
        micrograph: Index into the sampled stacks.
        row: First row, px.
        column: First column, px.
        orientation: See `PatchPlan`.
        inputs: Which groups are averaged into the input.
        targets: Which groups are averaged into the target.
        weight: Of the error in the loss.
        jitter: Factor on input and target, and what is then added to both, if they are varied.
    """

    micrograph: Int[Tensor, "n"]
    row: Int[Tensor, "n"]
    column: Int[Tensor, "n"]
    orientation: Int[Tensor, "n"]
    inputs: Bool[Tensor, "n k"]
    targets: Bool[Tensor, "n k"]
    weight: Float[Tensor, "n"]
    jitter: Float[Tensor, "n 2"] | None = None

    @classmethod
    def of(cls, plans: Sequence[PatchPlan], groups: int) -> PatchTable:
        """Return the same plans as a table with room for so many groups."""

        def members(of: Sequence[tuple[int, ...]]) -> Tensor:
            return torch.tensor([[g in chosen for g in range(groups)] for chosen in of])

        places = [(p.micrograph, p.row, p.column, p.orientation) for p in plans]
        micrograph, row, column, orientation = torch.tensor(places).unbind(1)
        return cls(
            micrograph,
            row,
            column,
            orientation,
            members([plan.inputs for plan in plans]),
            members([plan.targets for plan in plans]),
            torch.tensor([plan.weight for plan in plans]),
        )

    def plans(self) -> list[PatchPlan]:
        """Return one plan a row."""
        columns = (self.micrograph, self.row, self.column, self.orientation)
        places = torch.stack(columns, 1).tolist()
        sides = zip(self.inputs.tolist(), self.targets.tolist(), strict=True)
        rows = zip(places, sides, self.weight.tolist(), strict=True)
        return [
            PatchPlan(m, row, column, turn, _where(inputs), _where(targets), weight)
            for (m, row, column, turn), (inputs, targets), weight in rows
        ]


def _where(chosen: Sequence[bool]) -> tuple[int, ...]:
    return tuple(index for index, yes in enumerate(chosen) if yes)


class Plans(Protocol):
    """Anything that says which pairs make a step."""

    def plan(self, step: int, /) -> list[PatchPlan]: ...

    def table(self, first: int, last: int, /) -> PatchTable: ...

    def pairs_in(self, step: int, /) -> int: ...

    def window(self, step: int, ahead: int = 0, /) -> tuple[int, ...]: ...


def patches_of(shape: tuple[int, int, int], patch_size: int) -> int:
    """Return how many patches of a stack count as one pass over it, at least one."""
    return max(1, (shape[1] // patch_size) * (shape[2] // patch_size))


def input_range(groups: int, smallest_share: float, fewest_targets: int = 1) -> tuple[int, int]:
    """Return the fewest and the most groups in an input: the share of K that is given, and K − 1.

    With K < 4 there is little to choose from: it is one against the rest.

    Args:
        groups: K.
        smallest_share: Of the groups in an input.
        fewest_targets: Groups that are left at least.
    """
    if groups < 4:
        return 1, 1
    most = groups - fewest_targets
    return min(most, max(1, round(smallest_share * groups))), most


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
        fewest_targets: Groups that are left for the target at least.
        jitter: Largest relative change of contrast, and largest shift of the mean in standard
            deviations, that input and target undergo alike.
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
        weight_by_dose: bool = False,
        window: int = 16,
        rank: int = 0,
        world_size: int = 1,
        fewest_targets: int = 1,
        jitter: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self._jitter = torch.tensor(jitter, dtype=torch.float64)
        if batch_size % world_size:
            raise ValueError(f"{batch_size} pairs cannot be shared by {world_size} ranks")
        self._patch_size = patch_size
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._exchangeable = exchangeable
        self._weight_by_dose = weight_by_dose
        self._window = window
        share = batch_size // world_size
        self._mine = range(rank * share, (rank + 1) * share)
        self._counts = [patches_of(shape, patch_size) for shape in shapes]
        self.samples_per_epoch = sum(self._counts)
        ranges = [input_range(groups, smallest_input, fewest_targets) for groups, _, _ in shapes]
        self._shapes = torch.tensor(
            [[*shape, *ends] for shape, ends in zip(shapes, ranges, strict=True)]
        )
        self._groups = max(groups for groups, _, _ in shapes)
        self._windows_of = lru_cache(maxsize=2)(self._windows)
        self._slots_of = lru_cache(maxsize=4)(self._slots)

    def plan(self, step: int) -> list[PatchPlan]:
        """Return this rank's pairs of one step."""
        return self.table(step, step + 1).plans()

    def table(self, first: int, last: int) -> PatchTable:
        """Return this rank's pairs of steps first … last − 1, one step after the other."""
        return self.samples(
            [
                step * self._batch_size + offset
                for step in range(first, last)
                for offset in self._mine
            ]
        )

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

    def pairs_in(self, step: int) -> int:
        """Return how many pairs this rank has in a step."""
        return len(self._mine)

    def samples(self, counters: Sequence[int]) -> PatchTable:
        """Return pairs by their numbers since the first step."""
        places = [divmod(counter, self.samples_per_epoch) for counter in counters]
        micrograph = torch.tensor([self._micrograph(epoch, index) for epoch, index in places])
        # One random number for each use of a sample, whatever the others are used for.
        random_bits = self._bits("sample", places, 4 + self._groups)
        row, column, orientation, n_inputs = random_bits[:, :4].unbind(1)
        groups, height, width, fewest, most = self._shapes[micrograph].unbind(1)
        if not self._exchangeable:
            members = torch.arange(self._groups) < groups[:, None]
            inputs = torch.zeros_like(members)
            inputs[:, 0] = True
            weight = torch.ones(len(places))
        else:
            chosen = fewest + below(n_inputs, most - fewest + 1)
            inputs, members = _draw_groups(random_bits[:, 4:], groups, chosen)
            share = (groups - chosen) / (groups - (fewest + most) / 2)
            weight = share if self._weight_by_dose else torch.ones(len(places))
        turn = below(orientation, torch.tensor(8))
        return PatchTable(
            micrograph=micrograph,
            row=below(row, height - self._patch_size + 1),
            column=below(column, width - self._patch_size + 1),
            orientation=turn if self._augment else torch.zeros_like(turn),
            inputs=inputs,
            targets=members & ~inputs,
            weight=weight,
            jitter=self._draw_jitter(places) if any(self._jitter) else None,
        )

    def _draw_jitter(self, places: Sequence[tuple[int, int]]) -> Float[Tensor, "n 2"]:
        """Return factors and shifts, drawn apart from all else, which does not change with them."""
        bits = self._bits("jitter", places, 2)
        return torch.tensor([1.0, 0.0]) + self._jitter * (2 * uniform(bits) - 1)

    def _bits(self, what: str, places: Sequence[tuple[int, int]], n: int) -> Int[Tensor, "m _"]:
        """Return so many random numbers for each (epoch, index), of a stream of their own."""
        keys = {epoch: derive_seed(self._seed, what, epoch) for epoch, _ in places}
        key = torch.tensor([keys[epoch] for epoch, _ in places])
        index = torch.tensor([index for _, index in places])
        return scramble(key[:, None] + scramble(index[:, None] * n + torch.arange(n)))

    def _micrograph(self, epoch: int, index: int) -> int:
        _, ends = self._windows_of(epoch)
        number = bisect_right(ends, index)
        first = ends[number - 1] if number else 0
        return self._slots_of(epoch, number)[index - first]

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


def _draw_groups(
    bits: Int[Tensor, "n k"], groups: Int[Tensor, "n"], chosen: Int[Tensor, "n"]
) -> tuple[Bool[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """Return a random choice of so many groups, and which groups there are."""
    members = torch.arange(bits.shape[1]) < groups[:, None]
    largest = torch.iinfo(torch.int64).max
    # The rank of random numbers is a random order; groups that are not there come last.
    order = torch.where(members, bits >> 1, largest).argsort(dim=1, stable=True)
    rank = order.argsort(dim=1)
    return members & (rank < chosen[:, None]), members


@final
class GridSampler:
    """The same patches every time, for validation: even groups in, odd groups as target.

    Args:
        shapes: (groups, rows, columns) of each stack.
        patch_size: Edge of a patch, px.
        batch_size: Pairs in a step.
        limit: Most patches; if there are more, evenly spaced ones are taken.
        rank: Which share of them to return.
        world_size: How many shares there are.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        patch_size: int,
        batch_size: int,
        limit: int = 128,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        corners = [
            (index, row, column)
            for index, (_, height, width) in enumerate(shapes)
            for row in range(0, height - patch_size + 1, patch_size)
            for column in range(0, width - patch_size + 1, patch_size)
        ]
        chosen = corners[:: max(1, -(-len(corners) // limit))][rank::world_size]
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
        self._groups = max(groups for groups, _, _ in shapes)

    def __len__(self) -> int:
        return math.ceil(len(self._plans) / self._batch_size)

    def plan(self, step: int) -> list[PatchPlan]:
        """Return the pairs of one step."""
        return self._plans[step * self._batch_size : (step + 1) * self._batch_size]

    def table(self, first: int, last: int) -> PatchTable:
        """Return the pairs of steps first … last − 1, one step after the other."""
        plans = self._plans[first * self._batch_size : last * self._batch_size]
        return PatchTable.of(plans, self._groups)

    def pairs_in(self, step: int) -> int:
        """Return how many pairs are in a step; the last may have fewer than the others."""
        return len(self.plan(step))

    def window(self, step: int, ahead: int = 0) -> tuple[int, ...]:
        """Return nothing: the patches are few, and reading whole files ahead would be waste."""
        return ()
