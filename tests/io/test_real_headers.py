"""Real microscope files: Thermo Fisher's extended headers, versions 1 and 2."""

from __future__ import annotations

import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from clearice import io
from clearice.io import PixelSizeFallback, image_shape, read_image, read_micrograph

# What mrcfile itself finds, in the main header and in the extended one.
FILES = {"fei1_crop.mrc": ("FEI1", 0.8537755), "fei2_crop.mrc": ("FEI2", 0.66655133)}
pytestmark = pytest.mark.parametrize("name", FILES)


@pytest.fixture
def source(test_data: Path, name: str) -> Path:
    """Return the real file."""
    return test_data / "headers" / name


def _without_pixel_size(source: Path, target: Path) -> Path:
    content = bytearray(source.read_bytes())
    content[40:52] = bytes(12)
    target.write_bytes(content)
    return target


def test_pixels_and_pixel_size_are_right(source: Path, name: str) -> None:
    micrograph = read_micrograph(source)
    with mrcfile.open(source, permissive=True) as handle:
        np.testing.assert_array_equal(micrograph.pixels.numpy(), handle.data.astype(np.float32))
    assert micrograph.pixel_size_angstrom == pytest.approx(FILES[name][1], rel=1e-5)
    assert not micrograph.pixel_size_assumed
    assert image_shape(source) == (1, *micrograph.pixels.shape)
    assert torch.equal(read_image(source), micrograph.pixels)


def test_the_extended_header_survives_byte_for_byte(
    tmp_path: Path, source: Path, name: str
) -> None:
    micrograph = read_micrograph(source)
    out = tmp_path / "out.mrc"
    io.write_mrc(out, micrograph.pixels, micrograph.pixel_size_angstrom, like=source)
    before, after = source.read_bytes(), out.read_bytes()
    (size,) = struct.unpack_from("<i", before, 92)
    assert size > 700_000
    assert after[92:96] == before[92:96]
    assert after[104:108] == before[104:108] == FILES[name][0].encode()
    assert after[1024 : 1024 + size] == before[1024 : 1024 + size]
    assert len(after) == 1024 + size + 4 * micrograph.pixels.numel()
    again = read_micrograph(out)
    assert torch.equal(again.pixels, micrograph.pixels)
    assert again.pixel_size_angstrom == pytest.approx(FILES[name][1], rel=1e-5)
    with mrcfile.open(out) as handle:
        entry = handle.indexed_extended_header[0]
        assert 1e10 * entry["Pixel size X"] == pytest.approx(FILES[name][1], rel=1e-5)


def test_the_extended_header_gives_the_pixel_size_if_the_main_one_has_none(
    tmp_path: Path, source: Path, name: str
) -> None:
    path = _without_pixel_size(source, tmp_path / "x.mrc")
    assert read_micrograph(path).pixel_size_angstrom == pytest.approx(FILES[name][1], rel=1e-5)
    assert read_micrograph(path, 2.0).pixel_size_angstrom == 2.0


@pytest.mark.parametrize("change", ["kind", "value"])
def test_what_an_extended_header_cannot_mean_does_not_count(
    tmp_path: Path, source: Path, name: str, change: str
) -> None:
    path = _without_pixel_size(source, tmp_path / "x.mrc")
    content = bytearray(path.read_bytes())
    if change == "kind":
        content[104:108] = b"SERI"
    else:
        with mrcfile.open(source, permissive=True) as handle:
            metres = float(handle.indexed_extended_header[0]["Pixel size X"])
        place = content.index(struct.pack("<d", metres), 1024)
        content[place : place + 8] = struct.pack("<d", 1.4e-5)
    path.write_bytes(content)
    with pytest.warns(PixelSizeFallback):
        assert read_micrograph(path).pixel_size_assumed
