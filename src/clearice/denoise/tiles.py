"""Tiles whose stitched result equals that of the whole image.

Each tile is computed with a margin as wide as the network looks, aligned to its stride, and only
its core is kept: there is nothing to blend, and no seam.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.errors import ConfigError


@dataclass(frozen=True)
class Tile:
    """One tile of an image.

    Attributes:
        core: Rows and columns of the image that this tile writes.
        window: Rows and columns that the network needs to see for it.
    """

    core: tuple[slice, slice]
    window: tuple[slice, slice]

    @property
    def core_in_window(self) -> tuple[slice, slice]:
        """The core, counted from the window's first row and column."""
        rows, columns = (
            slice(c.start - w.start, c.stop - w.start)
            for c, w in zip(self.core, self.window, strict=True)
        )
        return rows, columns


def _spans(length: int, tile: int, halo: int) -> list[tuple[slice, slice]]:
    starts = range(0, length, tile)
    return [
        (
            slice(start, min(start + tile, length)),
            slice(max(0, start - halo), min(start + tile + halo, length)),
        )
        for start in starts
    ]


def plan_tiles(height: int, width: int, tile: int, halo: int, stride: int) -> list[Tile]:
    """Cover an image with tiles.

    Args:
        height: Rows of the image, a multiple of `stride`.
        width: Columns of the image, a multiple of `stride`.
        tile: Edge of a core, px, rounded up to a multiple of `stride`; 0 is the whole image.
        halo: How far the network looks beyond an aligned block, px.
        stride: Total stride of the network, px.

    Raises:
        ConfigError: `tile` is negative.
    """
    if tile < 0:
        raise ConfigError(f"--tile {tile}: must be 0 (the whole image) or more px")

    def up(value: int) -> int:
        return -(-value // stride) * stride

    size = up(tile) if tile else max(height, width)
    rows, columns = (_spans(length, size, up(halo)) for length in (height, width))
    return [
        Tile((row_core, column_core), (row_window, column_window))
        for row_core, row_window in rows
        for column_core, column_window in columns
    ]


def stitch(
    image: Float[Tensor, "h w"],
    tiles: list[Tile],
    network: Callable[[Float[Tensor, "1 1 th tw"]], Float[Tensor, "1 1 th tw"]],
) -> Float[Tensor, "h w"]:
    """Apply a network tile by tile.

    Args:
        image: The whole image, on the CPU or the network's device.
        tiles: Cover of the image, see `plan_tiles`.
        network: Takes and returns one window.
    """
    result = torch.empty_like(image)
    for tile in tiles:
        output = network(image[tile.window][None, None])[0, 0]
        result[tile.core] = output[tile.core_in_window].to(result)
    return result
