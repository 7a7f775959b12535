"""Tiles cover an image once, and stitching them gives what the whole image would have given."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from clearice.denoise import plan_tiles, stitch

_SIZES = {
    "rows": st.integers(1, 12),
    "columns": st.integers(1, 12),
    "stride": st.sampled_from([1, 2, 3, 8]),
    "tile": st.integers(0, 40),
    "halo": st.integers(0, 20),
}


@given(**_SIZES)
def test_every_pixel_is_written_once(
    rows: int, columns: int, stride: int, tile: int, halo: int
) -> None:
    height, width = rows * stride, columns * stride
    written = torch.zeros(height, width, dtype=torch.int64)
    for one in plan_tiles(height, width, tile, halo, stride):
        written[one.core] += 1
    assert torch.equal(written, torch.ones_like(written))


@given(**_SIZES)
def test_windows_are_aligned_and_show_the_halo(
    rows: int, columns: int, stride: int, tile: int, halo: int
) -> None:
    shape = (rows * stride, columns * stride)
    for one in plan_tiles(*shape, tile, halo, stride):
        for core, window, length in zip(one.core, one.window, shape, strict=True):
            assert window.start % stride == 0
            assert (window.stop - window.start) % stride == 0
            assert 0 <= window.start <= max(0, core.start - halo)
            assert min(length, core.stop + halo) <= window.stop <= length
        if tile:
            edge = -(-tile // stride) * stride
            assert all(core.stop - core.start <= edge for core in one.core)


def test_no_tile_size_means_one_tile() -> None:
    (tile,) = plan_tiles(48, 80, 0, 8, 8)
    assert tile.core == tile.window == (slice(0, 48), slice(0, 80))


@given(**_SIZES)
def test_cut_and_stitch_is_the_identity(
    rows: int, columns: int, stride: int, tile: int, halo: int
) -> None:
    height, width = rows * stride, columns * stride
    image = torch.arange(float(height * width)).reshape(height, width)
    tiles = plan_tiles(height, width, tile, halo, stride)
    assert torch.equal(stitch(image, tiles, lambda window: window), image)


@pytest.mark.parametrize(("halo", "equal"), [(3, True), (2, False)])
def test_the_halo_must_hold_all_that_is_seen(
    generator: torch.Generator, halo: int, equal: bool
) -> None:
    image = torch.randn(40, 56, generator=generator, dtype=torch.float64)
    kernel = torch.randn(1, 1, 7, 7, generator=generator, dtype=torch.float64)

    def filtered(window: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(window, kernel, padding=3)

    whole = filtered(image[None, None])[0, 0]
    tiled = stitch(image, plan_tiles(40, 56, 16, halo, 1), filtered)
    assert torch.allclose(tiled, whole, rtol=1e-12, atol=1e-12) is equal


def test_the_image_is_left_alone(generator: torch.Generator) -> None:
    image = torch.randn(16, 16, generator=generator)
    before = image.clone()
    stitch(image, plan_tiles(16, 16, 8, 2, 1), lambda window: window * 2)
    assert torch.equal(image, before)
