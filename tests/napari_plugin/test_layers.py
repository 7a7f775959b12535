"""Layers without napari: pixel sizes in and out, stacks that stay on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from tifffile import imwrite

from clearice import io
from clearice.errors import InputFileError, OutputError, UserError
from clearice.napari_plugin.layers import LazyStack, contrast_of, pixel_size_of
from clearice.napari_plugin.reader import get_reader, read
from clearice.napari_plugin.writer import write_image
from helpers import write_image as write_file
from helpers import write_movie

ANGSTROM = ("angstrom", "angstrom")


def _image(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return 20 + torch.randn(shape, generator=generator)


@pytest.mark.parametrize("name", ["mic.mrc", "mic.tif"])
def test_a_micrograph_is_a_layer_in_angstrom(
    tmp_path: Path, generator: torch.Generator, name: str
) -> None:
    image = _image(generator, 20, 30)
    write = io.write_tiff if name.endswith("tif") else io.write_mrc
    write(tmp_path / name, image, 1.25)
    path = str(tmp_path / name)
    reader = get_reader(path)
    assert reader is not None
    ((pixels, described, kind),) = reader(path)
    assert kind == "image"
    np.testing.assert_array_equal(pixels, image.numpy())
    assert described["scale"] == pytest.approx((1.25, 1.25))
    assert described["units"] == ANGSTROM
    assert described["name"] == "mic"
    assert described["metadata"] == {"path": path, "pixel_size_angstrom": pytest.approx(1.25)}


def test_a_movie_is_read_frame_by_frame(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = _image(generator, 5, 12, 16)
    path = write_movie(tmp_path / "movie.mrc", frames, pixel=0.8)
    loaded: list[int] = []
    whole = io.mrc.MrcSections.read

    def counted(self: io.mrc.MrcSections, index: int) -> Any:
        loaded.append(index)
        return whole(self, index)

    monkeypatch.setattr(io.mrc.MrcSections, "read", counted)
    ((stack, described, _),) = read([str(path)])
    assert described["scale"] == pytest.approx((1.0, 0.8, 0.8))
    assert described["units"] == ("pixel", *ANGSTROM)
    loaded.clear()
    np.testing.assert_array_equal(stack[3], frames[3].numpy())
    assert loaded == [3]


_INDICES = (
    *(2, -1, slice(1, 4), slice(None, None, -2), [0, 3], np.int64(1), Ellipsis),
    *((2, slice(3), slice(4, 6)), (slice(None), 5, slice(None)), (slice(2, 2),)),
    *((..., 3), (np.array([4, 1]), slice(None), 2)),
)


@pytest.mark.parametrize("index", _INDICES, ids=str)
def test_a_stack_is_indexed_as_an_array(index: Any, generator: torch.Generator) -> None:
    frames = torch.randn(5, 8, 9, generator=generator)
    stack = LazyStack(frames, 8, 9)
    expected = frames.numpy()[index]
    assert stack[index].shape == expected.shape
    np.testing.assert_array_equal(stack[index], expected)
    np.testing.assert_array_equal(np.asarray(stack), frames.numpy())
    with pytest.raises(IndexError):
        stack[5]


@pytest.mark.parametrize("shape", [(12, 16), (4, 12, 16)])
def test_without_a_pixel_size_nothing_is_assumed(
    tmp_path: Path, generator: torch.Generator, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "mic.mrc"
    io.write_mrc(path, _image(generator, *shape), None)
    ((_, described, _),) = read(str(path))
    assert "scale" not in described
    assert described["metadata"]["pixel_size_angstrom"] is None


def test_other_files_are_left_to_others(tmp_path: Path) -> None:
    assert get_reader(str(tmp_path / "photo.jpg")) is None
    assert get_reader([str(tmp_path / "mic.mrc"), str(tmp_path / "photo.jpg")]) is None


def test_colours_are_refused_in_one_line(tmp_path: Path) -> None:
    imwrite(tmp_path / "photo.tif", np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputFileError, match=r"photo\.tif: .*colours") as refusal:
        read(str(tmp_path / "photo.tif"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "float16", "float32", "int32"]
)
@pytest.mark.parametrize("shape", [(12, 16), (3, 12, 16)])
def test_a_layer_is_written_with_its_pixel_size(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    data = np.arange(np.prod(shape)).reshape(shape) % 100
    path = str(tmp_path / "out.mrc")
    attributes = {
        "name": "out",
        "scale": np.array((1.0, 0.132, 0.132)[-len(shape) :]),
        "units": ("pixel", "nanometer", "nanometer")[-len(shape) :],
    }
    assert write_image(path, data.astype(dtype), attributes) == [path]
    with mrcfile.open(path) as file:
        np.testing.assert_array_equal(file.data, data)
        assert float(file.voxel_size.x) == pytest.approx(1.32)
        assert file.data.dtype == {"uint8": "int16", "int32": "float32"}.get(dtype, dtype)
    assert [file.name for file in tmp_path.iterdir()] == ["out.mrc"]


def test_what_was_read_is_written_the_same(tmp_path: Path, generator: torch.Generator) -> None:
    source = write_file(tmp_path / "mic.mrc", _image(generator, 12, 16), pixel=1.37)
    ((pixels, described, _),) = read(str(source))
    write_image(str(tmp_path / "copy.mrc"), pixels, described)
    again = io.read_micrograph(tmp_path / "copy.mrc")
    assert torch.equal(again.pixels, io.read_micrograph(source).pixels)
    assert again.pixel_size_angstrom == pytest.approx(1.37)


def test_without_units_no_pixel_size_is_written(tmp_path: Path) -> None:
    write_image(str(tmp_path / "out.mrc"), np.eye(4, dtype=np.float32), {"scale": (2.0, 2.0)})
    with mrcfile.open(tmp_path / "out.mrc") as file:
        assert float(file.voxel_size.x) == 0.0


@pytest.mark.parametrize(
    ("shape", "attributes"), [((4, 4, 3), {"rgb": True}), ((2, 3, 4, 4), {}), ((4,), {})]
)
def test_what_is_no_grey_image_is_not_written(
    tmp_path: Path, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    with pytest.raises(OutputError, match="grey"):
        write_image(str(tmp_path / "out.mrc"), np.zeros(shape, np.float32), attributes)
    assert not list(tmp_path.iterdir())


def test_of_many_scales_the_finest_is_written(tmp_path: Path) -> None:
    levels = [np.arange(16.0).reshape(4, 4), np.zeros((2, 2))]
    write_image(str(tmp_path / "out.mrc"), levels, {"multiscale": True})
    assert io.read_micrograph(tmp_path / "out.mrc", 1.0).pixels.shape == (4, 4)


@pytest.mark.parametrize(
    ("scale", "units"), [((1.0, 1.1), ANGSTROM), ((1.0, 1.0), ("second", "second"))]
)
def test_scales_that_are_no_pixel_size_are_refused(
    scale: tuple[float, float], units: tuple[str, str]
) -> None:
    with pytest.raises(UserError, match="layer 'mic'"):
        pixel_size_of("mic", scale, units)


def test_hot_pixels_do_not_stretch_the_contrast(generator: torch.Generator) -> None:
    image = torch.randn(600, 700, generator=generator).numpy()
    image[5, 5] = 1e6
    limits = contrast_of(image)
    assert limits is not None
    assert -4 < limits[0] < -2 < 2 < limits[1] < 4
    assert contrast_of(np.ones((4, 4), np.float32)) is None
