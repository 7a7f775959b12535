"""TIFF out: exact pixels, upright for other programs, with their size; always the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from clearice import io
from clearice.errors import OutputError


@pytest.mark.parametrize("pixel_size", [0.4127, 0.885, 1.0, 13.7])
def test_a_written_image_is_read_back(
    tmp_path: Path, generator: torch.Generator, pixel_size: float
) -> None:
    image = 7 + torch.randn(21, 34, generator=generator)
    path = tmp_path / "mic.tif"
    io.write_tiff(path, image, pixel_size, label="clearice: denoised (cnn3)")
    read = io.read_micrograph(path)
    assert torch.equal(read.pixels, image)
    assert read.pixel_size_angstrom == pytest.approx(pixel_size, rel=1e-6)
    # Other programs put the first row on top.
    assert np.array_equal(tifffile.imread(path), image.numpy()[::-1])
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].aspage().description == "clearice: denoised (cnn3)"
    assert [entry.name for entry in tmp_path.iterdir()] == ["mic.tif"]


def test_equal_pixels_make_equal_files(tmp_path: Path, generator: torch.Generator) -> None:
    image = torch.randn(21, 34, generator=generator)
    for name in ("a.tif", "b.tif"):
        io.write_tiff(tmp_path / name, image, 1.5)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_missing_pixel_size_stays_missing(tmp_path: Path) -> None:
    path = tmp_path / "mic.tif"
    io.write_tiff(path, torch.randn(8, 8), None)
    with pytest.warns(io.PixelSizeFallback):
        assert io.read_micrograph(path).pixel_size_assumed


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        io.write_tiff(tmp_path / "none" / "mic.tif", torch.randn(8, 8), 1.0)
