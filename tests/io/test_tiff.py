"""TIFF files: every kind read exactly, every bad file refused in one line."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from clearice import io
from clearice.errors import InputFileError
from clearice.io import PixelSizeFallback, image_shape, open_movie, read_image, read_micrograph

Array = np.ndarray[Any, np.dtype[Any]]
TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "float32", "float16"]
COMPRESSIONS = [None, "lzw", "zlib", "zstd", "packbits"]


def _frames(dtype: str = "uint8", shape: tuple[int, ...] = (3, 14, 18), seed: int = 0) -> Array:
    values = np.random.default_rng(seed).integers(0, 120, shape)
    if np.dtype(dtype).kind in "if":
        values = values - 50
    return values.astype(dtype)


def _write(path: Path, frames: Array, **options: Any) -> Path:
    """Write one page a frame with tifffile alone, as programs that stream movies do."""
    container = {k: options.pop(k) for k in ("bigtiff", "byteorder") if k in options}
    resolution = {"resolution": (1e8 / 1.5, 1e8 / 1.5), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, **container) as writer:
        for frame in frames:
            writer.write(frame, contiguous=False, metadata=None, **{**resolution, **options})
    return path


def _refusal(path: Path, *, movie: bool = True) -> str:
    with pytest.raises(InputFileError) as error:
        _ = open_movie(path, 1.0).frames[0] if movie else read_image(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message.rpartition("; ")[2]) > 8
    return message


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_and_compression_is_read_exactly(
    tmp_path: Path, dtype: str, compression: str | None, bigtiff: bool
) -> None:
    frames = _frames(dtype)
    path = _write(tmp_path / "x.tif", frames, compression=compression, bigtiff=bigtiff)
    movie = open_movie(path)
    assert (len(movie.frames), movie.height, movie.width) == (3, 14, 18)
    assert movie.pixel_size_angstrom == 1.5
    assert not movie.electron_events
    for index, frame in enumerate(frames):
        assert movie.frames[index].dtype == torch.float32
        np.testing.assert_array_equal(movie.frames[index].numpy(), frame[::-1].astype(np.float32))
    assert image_shape(path) == (3, 14, 18)


@pytest.mark.parametrize(
    "options",
    [
        {"byteorder": ">"},
        {"byteorder": ">", "bigtiff": True, "compression": "lzw"},
        {"rowsperstrip": 1, "compression": "lzw"},
        {"rowsperstrip": 5},
        {"tile": (16, 16), "compression": "zlib"},
        {"predictor": True, "compression": "lzw"},
        {"photometric": "miniswhite"},
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_layout_is_read_exactly(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    frames = _frames(dtype)
    movie = open_movie(_write(tmp_path / "x.tif", frames, **options))
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(movie.frames[index].numpy(), frame[::-1])


@given(
    frames=hnp.arrays(
        dtype=st.sampled_from(["uint8", "int16", "uint16", "float32"]),
        shape=st.tuples(st.integers(2, 4), st.integers(1, 20), st.integers(1, 20)),
        elements=st.integers(0, 127),
    ),
    compression=st.sampled_from(COMPRESSIONS),
    big=st.booleans(),
)
def test_any_frames_come_back(
    tmp_path_factory: pytest.TempPathFactory, frames: Array, compression: str | None, big: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.tif"
    _write(path, frames, compression=compression, bigtiff=big)
    movie = open_movie(path)
    read = np.stack([movie.frames[index].numpy() for index in range(len(frames))])
    np.testing.assert_array_equal(read, frames[:, ::-1])


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_another_writer_is_read_too(tmp_path: Path, dtype: str, compression: str | None) -> None:
    frames = _frames(dtype)
    path = tmp_path / "x.tiff"
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], compression=compression)
    movie = open_movie(path, 1.0)
    np.testing.assert_array_equal(movie.frames[2].numpy(), frames[2][::-1])


def test_one_page_is_a_micrograph(tmp_path: Path) -> None:
    frame = _frames("uint16")[:1]
    micrograph = read_micrograph(_write(tmp_path / "x.tif", frame, compression="lzw"))
    np.testing.assert_array_equal(micrograph.pixels.numpy(), frame[0][::-1])
    assert micrograph.pixel_size_angstrom == 1.5
    assert not micrograph.pixel_size_assumed


def test_a_movie_and_its_gain_reference_fit_whatever_their_formats(tmp_path: Path) -> None:
    # What RELION and MotionCor would multiply with each other.
    frames = _frames("int16")
    io.write_mrc(tmp_path / "x.mrc", torch.from_numpy(frames).float(), 1.5, dtype="int16")
    # IMOD, and all who follow it, write the top row first.
    _write(tmp_path / "x.tif", frames[:, ::-1])
    io.write_mrc(tmp_path / "gain.mrc", torch.from_numpy(frames[0]).float(), None)
    _write(tmp_path / "gain.tif", frames[:1, ::-1])
    for index in range(3):
        first, second = (
            open_movie(tmp_path / name, 1.5).frames[index] for name in ("x.mrc", "x.tif")
        )
        assert torch.equal(first, second)
    assert torch.equal(read_image(tmp_path / "gain.mrc"), read_image(tmp_path / "gain.tif"))


@pytest.mark.parametrize("orientation", [1, 4, 8])
def test_the_orientation_tag_makes_no_difference(tmp_path: Path, orientation: int) -> None:
    frames = _frames()
    path = _write(tmp_path / "x.tif", frames, extratags=[(274, 3, 1, orientation, True)])
    np.testing.assert_array_equal(open_movie(path).frames[0].numpy(), frames[0][::-1])


def test_a_falcon_gain_is_the_first_page_as_it_stands(tmp_path: Path) -> None:
    gain = _frames("float32")
    path = _write(tmp_path / "x.gain", gain)
    np.testing.assert_array_equal(read_image(path).numpy(), gain[0])


def test_a_constant_reference_is_no_micrograph(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.tif", np.ones((1, 4, 5), np.uint8))
    assert read_image(path).shape == (4, 5)
    with pytest.raises(InputFileError, match="constant"):
        read_micrograph(path)


def test_a_map_of_defects_may_have_one_bit(tmp_path: Path) -> None:
    defects = np.zeros((1, 6, 8), dtype=bool)
    defects[0, 1, 2] = True
    path = _write(tmp_path / "x.tif", defects)
    np.testing.assert_array_equal(read_image(path).numpy(), defects[0][::-1])


def test_a_movie_can_cross_to_another_process(tmp_path: Path) -> None:
    movie = open_movie(_write(tmp_path / "x.tif", _frames()))
    copy = pickle.loads(pickle.dumps(movie))  # noqa: S301
    assert torch.equal(copy.frames[1], movie.frames[1])


@pytest.mark.parametrize("index", [3, -4, 100])
def test_a_frame_that_is_not_there_is_an_index_error(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError):
        _ = open_movie(_write(tmp_path / "x.tif", _frames())).frames[index]


@pytest.mark.parametrize(
    ("resolution", "unit", "size"),
    [
        (1e8 / 0.6575, "CENTIMETER", 0.6575),
        (2.54e8 / 1.315, "INCH", 1.315),
        (1e8 / 25.0, "CENTIMETER", 25.0),
        (72.0, "INCH", None),
        (300.0, "CENTIMETER", None),
        (1.0, "NONE", None),
        (1 / 0.13, "NONE", None),
    ],
)
def test_the_pixel_size_is_in_the_resolution_tags(
    tmp_path: Path, resolution: float, unit: str, size: float | None
) -> None:
    options = {"resolution": (resolution, resolution), "resolutionunit": unit}
    path = _write(tmp_path / "x.tif", _frames(), **options)
    if size is not None:
        assert open_movie(path).pixel_size_angstrom == pytest.approx(size, rel=1e-6)
        assert open_movie(path, 2.0).pixel_size_angstrom == 2.0
        return
    with pytest.warns(PixelSizeFallback, match=r"x\.tif.*--pixel-size"):
        assert open_movie(path).pixel_size_angstrom == 1.0


@pytest.mark.parametrize(
    ("unit", "scale"), [("nm", 0.13), ("micron", 1.3e-4), ("\\u00B5m", 1.3e-4), ("pixel", None)]
)
def test_imagej_says_its_unit_in_words(tmp_path: Path, unit: str, scale: float | None) -> None:
    path = tmp_path / "x.tif"
    resolution = (1 / (scale or 1), 1 / (scale or 1))
    tifffile.imwrite(path, _frames(), imagej=True, metadata={"unit": unit}, resolution=resolution)
    if scale is None:
        with pytest.warns(PixelSizeFallback):
            open_movie(path)
    else:
        assert open_movie(path).pixel_size_angstrom == pytest.approx(1.3, rel=1e-4)


def test_oblong_pixels_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.tif", _frames(), resolution=(1e8, 2e8))
    with pytest.raises(InputFileError, match="oblong"):
        open_movie(path)


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"bigtiff": True}])
def test_a_movie_cut_anywhere_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    path = _write(tmp_path / "x.tif", _frames(), **options)
    whole = path.read_bytes()
    for length in (*range(1, 40), *range(40, len(whole), 23)):
        path.write_bytes(whole[:length])
        message = _refusal(path)
        assert "truncated" in message or length < 4


def test_a_cut_movie_says_how_many_frames_are_whole(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.tif", _frames(shape=(5, 40, 50)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    # tifffile itself would give a movie of two or three frames, without a word.
    with tifffile.TiffFile(path) as file:
        assert 1 < len(file.pages) < 5
    assert "2 of at least 4 frames are whole" in _refusal(path)


def test_frames_whose_pages_come_last_are_counted_too(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, _frames(shape=(5, 40, 50)), photometric="minisblack")
    whole = path.read_bytes()
    assert len(open_movie(path, 1.0).frames) == 5
    path.write_bytes(whole[:-300])
    assert "truncated" in _refusal(path)


def test_pixels_beyond_the_end_are_missed(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.tif", _frames())
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages[1].tags["StripOffsets"]  # type: ignore[union-attr]
    content[tag.valueoffset : tag.valueoffset + 4] = struct.pack("<I", len(content) - 5)
    path.write_bytes(content)
    assert "1 of at least 3 frames" in _refusal(path)


def test_imagej_frames_that_no_page_describes_are_missed(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as writer:
        for frame in _frames():
            writer.write(frame, contiguous=False, description="ImageJ=1.53\nimages=7\n")
    assert "3 of the 7 images" in _refusal(path)


def test_pages_in_a_circle_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.tif", _frames())
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[0].offset, file.pages[2].offset
    (count,) = struct.unpack_from("<H", content, last)
    struct.pack_into("<I", content, last + 2 + 12 * count, first)
    path.write_bytes(content)
    assert "circle" in _refusal(path)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd"])
def test_damaged_pixels_are_refused_when_they_are_read(tmp_path: Path, compression: str) -> None:
    path = _write(tmp_path / "x.tif", _frames(shape=(2, 40, 50)), compression=compression)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        start, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    content[start : start + size] = b"\xaa" * size
    path.write_bytes(content)
    assert "damaged (page 1" in _refusal(path)


@pytest.mark.parametrize(
    ("options", "shape", "reason"),
    [
        ({"photometric": "rgb"}, (2, 14, 18, 3), "3 values a pixel"),
        ({"photometric": "rgb", "planarconfig": "separate"}, (2, 3, 14, 18), "3 values a pixel"),
        ({"photometric": "minisblack", "extrasamples": ["unassalpha"]}, (2, 14, 18, 2), "2 values"),
        (
            {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
            (2, 14, 18),
            "palette",
        ),
    ],
)
def test_colours_are_refused(
    tmp_path: Path, options: dict[str, Any], shape: tuple[int, ...], reason: str
) -> None:
    assert reason in _refusal(_write(tmp_path / "x.tif", _frames(shape=shape), **options))


def test_complex_pixels_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.tif", _frames("float32").astype(np.complex64))
    assert "complex" in _refusal(path)


def test_pages_of_different_sizes_are_refused_and_thumbnails_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    frames = _frames()
    for flag, reason in ((0, "different sizes"), (1, None)):
        with tifffile.TiffWriter(path) as writer:
            writer.write(frames[0], contiguous=False)
            writer.write(frames[0][::2, ::2], contiguous=False, subfiletype=flag)
            writer.write(frames[2], contiguous=False)
        if reason:
            assert reason in _refusal(path)
    movie = open_movie(path, 1.0)
    assert len(movie.frames) == 2
    np.testing.assert_array_equal(movie.frames[1].numpy(), frames[2][::-1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_counted(tmp_path: Path, value: float) -> None:
    frames = _frames("float32")
    frames[0, :2, 3] = value
    assert "2 NaN or infinite" in _refusal(_write(tmp_path / "x.tif", frames))


@pytest.mark.parametrize("content", [b"a text file\n", b"\x93NUMPY", b"II", b"II*\0", b"MM\0+"])
def test_a_file_that_is_no_tiff_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(content)
    message = _refusal(path)
    assert "not a TIFF file" in message or "truncated" in message


@given(seed=st.integers(0, 2**32 - 1), changes=st.integers(1, 30))
def test_a_damaged_file_never_ends_in_a_bug(
    tmp_path_factory: pytest.TempPathFactory, seed: int, changes: int
) -> None:
    generator = np.random.default_rng(seed)
    path = _write(tmp_path_factory.mktemp("fuzz") / "x.tif", _frames(), compression="lzw")
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8).copy()
    content[generator.integers(4, content.size, changes)] = generator.integers(0, 256, changes)
    path.write_bytes(content.tobytes())
    try:
        _ = open_movie(path, 1.0).frames[0]
    except InputFileError as error:
        assert "\n" not in str(error)


def test_two_pixels_a_byte_are_unpacked(tmp_path: Path) -> None:
    # SerialEM packs K2 and K3 super-resolution counts, the left pixel in the low half.
    counts = np.random.default_rng(0).integers(0, 16, (2, 6, 10)).astype(np.uint8)
    packed = counts[..., 0::2] | counts[..., 1::2] << 4
    title = "SerialEMCCD: Dose frac. image, 4 bits packed  r/f 0"
    path = _write(tmp_path / "x.tif", packed, description=title)
    movie = open_movie(path)
    assert (movie.height, movie.width) == (6, 10)
    np.testing.assert_array_equal(movie.frames[1].numpy(), counts[1][::-1])


def test_super_resolution_movies_are_known_by_their_shape(tmp_path: Path) -> None:
    packed = np.zeros((2, 7676, 3710), np.uint8)
    packed[:, -1, 0] = 0x21
    path = _write(tmp_path / "x.tif", packed, compression="zlib")
    assert image_shape(path) == (2, 7676, 7420)
    assert open_movie(path).frames[0][0, :3].tolist() == [1, 2, 0]
