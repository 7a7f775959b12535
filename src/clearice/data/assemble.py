"""From planes of stacks to pairs: cut, turn and mix, on any device.

A patch in one of the eight orientations is a first element and two strides, so that a GPU needs
one kernel, and no copy of the groups, for any number of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearice.data.sampler import PatchTable
from clearice.devices import kernel_or_warning

Gather = Callable[[Tensor, Tensor, Tensor, int], Tensor]

# Where a pixel (i, j) of a turned patch of edge n comes from: row = r·(n−1) + a·i + b·j and
# column = c·(n−1) + d·i + e·j, as (r, a, b, c, d, e) for each orientation.
_ORIGINS = torch.tensor(
    [
        (0, 1, 0, 0, 0, 1),
        (0, 0, 1, 1, -1, 0),
        (1, -1, 0, 1, 0, -1),
        (1, 0, -1, 0, 1, 0),
        (0, 1, 0, 1, 0, -1),
        (0, 0, 1, 0, 1, 0),
        (1, -1, 0, 0, 0, 1),
        (1, 0, -1, 1, -1, 0),
    ]
)


@dataclass(frozen=True)
class Sources:
    """Where the stacks lie in one flat tensor.

    Attributes:
        first: Element at which each stack begins.
        shape: Planes, rows, columns of each.
    """

    first: Int[Tensor, "m"]
    shape: Int[Tensor, "m 3"]

    @classmethod
    def one_after_the_other(cls, shapes: Sequence[tuple[int, int, int]]) -> Sources:
        """Return the places of stacks that are packed without gaps."""
        shape = torch.tensor(shapes)
        sizes = shape.prod(1)
        return cls(sizes.cumsum(0) - sizes, shape)


def places(table: PatchTable, sources: Sources, size: int) -> Int[Tensor, "n 5"]:
    """Return first element, stride along rows, along columns, between planes, and plane count.

    Args:
        table: Which patches.
        sources: Of the micrographs that it names.
        size: Edge of a patch, px.
    """
    planes, rows, columns = sources.shape[table.micrograph].unbind(1)
    r, a, b, c, d, e = _ORIGINS[table.orientation].unbind(1)
    first = sources.first[table.micrograph] + table.row * columns + table.column
    first = first + (size - 1) * (r * columns + c)
    return torch.stack([first, a * columns + d, b * columns + e, rows * columns, planes], 1)


def mixing_weights(
    table: PatchTable,
    doses: Float[Tensor, "m k"],
    *,
    clean: bool = False,
    exchangeable: bool = True,
    halves: bool = False,
    whole: bool = False,
) -> Float[Tensor, "n images planes"]:
    """Return by how much each plane of a stack counts in the input and in the target.

    Args:
        table: Which groups go where.
        doses: Share of the dose in each group of each micrograph; 0 where there is none.
        clean: The target is the truth, a plane behind the groups; the input is then all groups,
            if they are exchangeable.
        exchangeable: False if group 0 is always the input.
        halves: Also in two means of half of the target's groups each, so that there are four
            images instead of two; of the truth both are the truth.
        whole: The target is the input: all groups, if they are exchangeable.
    """
    full = (clean or whole) and exchangeable
    inputs = table.inputs | table.targets if full else table.inputs
    dose = doses[table.micrograph]
    images = [inputs, inputs if whole else table.targets]
    if halves:
        odd = table.targets.cumsum(1) % 2 == 1
        images += [table.targets & odd, table.targets & ~odd]
    mix = torch.stack([dose * image for image in images], 1)
    mix = mix / mix.sum(2, keepdim=True)
    if not clean:
        return mix.float()
    groups = (dose > 0).sum(1)
    mix = torch.nn.functional.pad(mix, (0, 1))
    mix[:, 1:] = 0.0
    mix[torch.arange(len(mix)), 1:, groups] = 1.0
    return mix.float()


def input_doses(
    mix: Float[Tensor, "n images planes"],
    table: PatchTable,
    doses: Float[Tensor, "m k"],
    *,
    exchangeable: bool = True,
) -> Float[Tensor, "n"]:
    """Return log₂ of the dose of each input over that of what will be denoised.

    Args:
        mix: Of `mixing_weights`.
        table: Which groups go where.
        doses: Share of the dose in each group of each micrograph; 0 where there is none.
        exchangeable: False if group 0 is always the input, and what will be denoised.
    """
    if not exchangeable:
        return torch.zeros(len(mix))
    dose = doses[table.micrograph]
    return (dose * (mix[:, 0, : dose.shape[1]] != 0)).sum(1).log2().float()


def gather(
    pool: Float[Tensor, "elements"],
    where: Int[Tensor, "n 5"],
    mix: Float[Tensor, "n images planes"],
    size: int,
) -> Float[Tensor, "n images size size"]:
    """Return inputs and targets: weighted sums of planes, read from one flat tensor.

    On CUDA one kernel does it where Triton can compile it, as with PyTorch for Linux.

    Args:
        pool: All stacks.
        where: Of `places`, on the device of the pool.
        mix: Of `mixing_weights`, on the device of the pool.
        size: Edge of a patch, px.
    """
    kernel = _cuda_kernel() if pool.device.type == "cuda" else None
    if kernel is not None:  # which makes two images at a time
        made = [kernel(pool, where, two, size) for two in torch.split(mix, 2, 1)]
        return made[0] if len(made) == 1 else torch.cat(made, 1)
    first, rows, columns, plane, planes = where.unbind(1)
    axis = torch.arange(size, device=pool.device)
    at = first[:, None, None] + axis[:, None] * rows[:, None, None] + axis * columns[:, None, None]
    pairs = torch.zeros(len(where), mix.shape[1], size, size, device=pool.device)
    for k in range(mix.shape[2]):
        there = k < planes
        values = pool[at + (k * plane * there)[:, None, None]].float()
        pairs += (mix[:, :, k] * there[:, None])[:, :, None, None] * values[:, None]
    return pairs


def mix_crops(
    crops: Float[Tensor, "n planes size size"],
    mix: Float[Tensor, "n images planes"],
    orientations: Sequence[int],
) -> Float[Tensor, "n images size size"]:
    """Do what `gather` does, with patches that are cut already: fastest on CPUs."""
    n, _, height, width = crops.shape
    pairs = torch.bmm(mix, crops.float().flatten(2)).view(n, -1, height, width)
    return torch.stack([_turn(pair, o) for pair, o in zip(pairs, orientations, strict=True)])


def _turn(pair: Float[Tensor, "images h w"], orientation: int) -> Float[Tensor, "images h w"]:
    if orientation >= 4:
        pair = pair.flip(-1)
    return torch.rot90(pair, orientation % 4, (-2, -1)) if orientation % 4 else pair


@lru_cache(maxsize=1)
def _cuda_kernel() -> Gather | None:
    """Return the kernel for CUDA if it can be compiled and run here; else say why not, once."""

    def build() -> Gather:
        from clearice.data.kernels import gather as kernel

        pool = torch.zeros(1, dtype=torch.float16, device="cuda")
        where = torch.tensor([[0, 1, 1, 1, 1]], device="cuda")
        kernel(pool, where, torch.zeros(1, 2, 1, device="cuda"), 1)
        return kernel

    return kernel_or_warning(build, "patches are assembled")
