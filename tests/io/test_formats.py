"""All formats through one door: read exactly, told apart by content, refused in one line."""

from __future__ import annotations

import bz2
import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import mrcfile
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
from clearice.io import (
    MICROGRAPH_SUFFIXES,
    MOVIE_SUFFIXES,
    PixelSizeFallback,
    image_shape,
    is_micrograph_name,
    is_movie_name,
    open_movie,
    read_image,
    read_micrograph,
    stem,
)
from eer_files import random_events, write_eer

Array = np.ndarray[Any, np.dtype[Any]]
MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
}
READERS: list[Callable[[Path], object]] = [
    image_shape,
    lambda path: open_movie(path, 1.0).frames[0],
    lambda path: read_micrograph(path, 1.0),
    read_image,
]


def _stack(dtype: str, shape: tuple[int, ...] = (3, 12, 17)) -> Array:
    values = np.random.default_rng(1).integers(0, 120, shape)
    return (values - 60 * (np.dtype(dtype).kind in "if")).astype(dtype)


def _mrc_bytes(
    data: Array, mode: int, order: Literal["<", ">"] = "<", *, columns: int | None = None
) -> bytes:
    """Build an MRC file byte by byte, so that nothing but the format itself is trusted."""
    header = bytearray(1024)
    sections, rows = data.shape[:2]
    columns = columns or data.shape[2]
    struct.pack_into(f"{order}4i", header, 0, columns, rows, sections, mode)
    struct.pack_into(f"{order}3i", header, 28, columns, rows, sections)
    struct.pack_into(f"{order}3f", header, 40, 1.5 * columns, 1.5 * rows, 1.5 * sections)
    header[208:214] = b"MAP " + (b"DD" if order == "<" else b"\x11\x11")
    return bytes(header) + data.astype(data.dtype.newbyteorder(order)).tobytes()


def _refusal(path: Path, read: Callable[[Path], object]) -> str:
    with pytest.raises(InputFileError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message.rpartition("; ")[2]) > 8
    return message


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mrc_mode_is_read_from_its_bytes(
    tmp_path: Path, mode: int, order: Literal["<", ">"], packing: str
) -> None:
    data = _stack(MODES[mode])
    path = tmp_path / f"x.mrcs{packing}"
    path.write_bytes(PACKERS[packing](_mrc_bytes(data, mode, order)))
    movie = open_movie(path)
    assert (len(movie.frames), movie.height, movie.width) == data.shape
    assert movie.pixel_size_angstrom == 1.5
    for index, frame in enumerate(data):
        np.testing.assert_array_equal(movie.frames[index].numpy(), frame.astype(np.float32))
    assert image_shape(path) == data.shape


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("suffix", [".mrc", ".mrcs", ".st"])
@pytest.mark.parametrize("dtype", MODES.values())
def test_what_mrcfile_writes_is_read(tmp_path: Path, dtype: str, suffix: str, packing: str) -> None:
    data = _stack(dtype)
    path = tmp_path / f"x{suffix}{packing}"
    compression = {"": None, ".gz": "gzip", ".bz2": "bzip2"}[packing]
    with mrcfile.new(path, data, compression=compression) as handle:
        handle.set_image_stack()
        handle.voxel_size = 0.8
    movie = open_movie(path)
    assert movie.pixel_size_angstrom == pytest.approx(0.8)
    np.testing.assert_array_equal(movie.frames[2].numpy(), data[2].astype(np.float32))
    with mrcfile.new(path, data[0], overwrite=True, compression=compression):
        pass
    np.testing.assert_array_equal(read_image(path).numpy(), data[0].astype(np.float32))


@pytest.mark.parametrize("columns", [10, 11])
def test_four_bit_counts_are_unpacked_row_by_row(tmp_path: Path, columns: int) -> None:
    counts = np.random.default_rng(0).integers(0, 16, (2, 5, columns)).astype(np.uint8)
    padded = np.pad(counts, ((0, 0), (0, 0), (0, columns % 2)))
    packed = padded[..., 0::2] | padded[..., 1::2] << 4
    path = tmp_path / "x.mrc"
    path.write_bytes(_mrc_bytes(packed, 101, columns=columns))
    movie = open_movie(path)
    assert (movie.height, movie.width) == (5, columns)
    for index, frame in enumerate(counts):
        np.testing.assert_array_equal(movie.frames[index].numpy(), frame)
    path.write_bytes(path.read_bytes()[:-1])
    assert "1 of 2 sections are whole" in _refusal(path, image_shape)


@pytest.mark.parametrize(
    ("stamp", "flags", "signed"), [(1146047817, 1, True), (1146047817, 0, False), (0, 0, True)]
)
def test_bytes_are_signed_unless_imod_says_otherwise(
    tmp_path: Path, stamp: int, flags: int, signed: bool
) -> None:
    data = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    content = bytearray(_mrc_bytes(data, 0))
    struct.pack_into("<2i", content, 152, stamp, flags)
    path = tmp_path / "x.mrc"
    path.write_bytes(content)
    expected = data[0].astype(np.int8 if signed else np.uint8)
    np.testing.assert_array_equal(read_image(path).numpy(), expected)


def test_two_pixels_a_byte_are_known_by_imods_flag(tmp_path: Path) -> None:
    packed = np.array([[[0x21, 0x43], [0x65, 0x87]]], dtype=np.uint8)
    content = bytearray(_mrc_bytes(packed, 0))
    struct.pack_into("<2i", content, 152, 1146047817, 16)
    path = tmp_path / "x.mrc"
    path.write_bytes(content)
    assert read_image(path).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert read_micrograph(path).pixel_size_angstrom == 1.5


def test_old_files_without_a_machine_stamp_are_read(tmp_path: Path) -> None:
    content = bytearray(_mrc_bytes(_stack("int16"), 1))
    content[212:214] = b"\0\0"
    path = tmp_path / "x.mrc"
    path.write_bytes(content)
    assert image_shape(path) == (3, 12, 17)


@given(
    data=hnp.arrays(
        dtype=st.sampled_from(list(MODES.values())),
        shape=st.tuples(st.integers(2, 3), st.integers(1, 12), st.integers(1, 12)),
        elements=st.integers(0, 127),
    ),
    packing=st.sampled_from(list(PACKERS)),
)
def test_any_stack_comes_back(
    tmp_path_factory: pytest.TempPathFactory, data: Array, packing: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.mrc"
    io.write_mrc(path, torch.from_numpy(data.astype(np.float32)), 1.5, dtype=data.dtype.name)
    path.write_bytes(PACKERS[packing](path.read_bytes()))
    movie = open_movie(path)
    read = np.stack([movie.frames[index].numpy() for index in range(len(data))])
    np.testing.assert_array_equal(read, data.astype(np.float32))


@pytest.mark.parametrize("packing", [".gz", ".bz2"])
def test_a_compressed_file_cut_anywhere_is_refused(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"x.mrc{packing}"
    path.write_bytes(PACKERS[packing](_mrc_bytes(_stack("int16", (2, 60, 70)), 1)))
    whole = path.read_bytes()
    for length in (3, 10, 100, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "truncated" in _refusal(path, lambda p: open_movie(p, 1.0).frames[1])


@pytest.mark.parametrize("packing", [".gz", ".bz2"])
def test_a_compressed_file_with_damaged_bytes_is_refused(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"x.mrc{packing}"
    content = bytearray(PACKERS[packing](_mrc_bytes(_stack("int16", (2, 60, 70)), 1)))
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert "damaged" in _refusal(path, lambda p: open_movie(p, 1.0).frames[1])


@pytest.mark.parametrize("packing", [".gz", ".bz2"])
def test_a_compressed_file_that_holds_too_little_is_refused(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"x.mrc{packing}"
    path.write_bytes(PACKERS[packing](_mrc_bytes(_stack("int16"), 1)[:-1]))
    movie = open_movie(path)
    assert movie.frames[1].shape == (12, 17)
    assert "section 3 of 3" in _refusal(path, lambda p: open_movie(p).frames[2])


def test_a_compressed_movie_crosses_processes_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "x.mrc.gz"
    data = _stack("int16", (2, 300, 300))
    path.write_bytes(gzip.compress(_mrc_bytes(data, 1)))
    movie = open_movie(path)
    first = movie.frames[0]
    sent = pickle.dumps(movie)
    assert len(sent) < 5_000
    assert torch.equal(pickle.loads(sent).frames[0], first)  # noqa: S301


def test_frames_can_be_changed_without_changing_the_movie(tmp_path: Path) -> None:
    data = _stack("float32")
    for name, packing in (("x.mrc", ""), ("x.mrc.gz", ".gz")):
        path = tmp_path / name
        path.write_bytes(PACKERS[packing](_mrc_bytes(data, 2)))
        movie = open_movie(path)
        movie.frames[0].mul_(2)
        np.testing.assert_array_equal(movie.frames[0].numpy(), data[0])


def test_a_compressed_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mrc.gz"
    path.write_bytes(gzip.compress(bytes(2000)))
    for read in READERS:
        assert "not an MRC file" in _refusal(path, read)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_grey_png_is_read_exactly(tmp_path: Path, dtype: str) -> None:
    pixels = (_stack("uint8", (12, 17)).astype(dtype) * (1 if dtype == "uint8" else 500)).astype(
        dtype
    )
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path)
    with pytest.warns(PixelSizeFallback):
        micrograph = read_micrograph(path)
    np.testing.assert_array_equal(micrograph.pixels.numpy(), pixels[::-1].astype(np.float32))
    assert micrograph.pixel_size_assumed
    assert image_shape(path) == (1, 12, 17)
    assert torch.equal(read_image(path), read_micrograph(path, 1.2).pixels)
    assert "one image" in _refusal(path, lambda p: open_movie(p, 1.0))


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA", "P", "1"])
def test_png_with_colours_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(_stack("uint8", (12, 17))).convert(kind).save(path)
    assert "grey image" in _refusal(path, read_micrograph)


def test_a_png_file_cut_or_damaged_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(_stack("uint8", (40, 30))).save(path)
    whole = path.read_bytes()
    for length in range(1, len(whole), 17):
        path.write_bytes(whole[:length])
        _refusal(path, read_image)
    for place in range(40, len(whole), 17):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        _refusal(path, read_image)


def _named_wrongly(folder: Path) -> dict[str, Path]:
    frames = _stack("uint8", (2, 12, 17))
    files = {kind: folder / f"{kind}.mrc" for kind in ("tiff", "png")}
    tifffile.imwrite(files["tiff"], frames[0])
    Image.fromarray(frames[0]).save(files["png"], format="png")
    files["mrc"] = folder / "mrc.dat"
    files["mrc"].write_bytes(_mrc_bytes(frames[:1, ::-1], 0))
    files["gzip"] = folder / "gzip.mrc"
    files["gzip"].write_bytes(gzip.compress(files["mrc"].read_bytes()))
    return files


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    for kind, path in _named_wrongly(tmp_path).items():
        expected = _stack("uint8", (2, 12, 17))[0][::-1]
        np.testing.assert_array_equal(read_image(path).numpy(), expected, err_msg=kind)


@pytest.mark.parametrize("suffix", [".mrc", ".tif", ".eer", ".png", ".gain", ".mrc.gz", ".dm4"])
@pytest.mark.parametrize("read", READERS)
def test_what_is_no_image_is_refused_under_any_name(
    tmp_path: Path, suffix: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / f"x{suffix}"
    assert "does not exist" in _refusal(path, read)
    path.mkdir()
    assert "folder" in _refusal(path, read)
    path.rmdir()
    path.touch()
    assert "empty" in _refusal(path, read)
    path.write_text("This is a text file, whatever its name says.\n" * 50)
    _refusal(path, read)


@pytest.mark.skipif("os.geteuid() == 0", reason="root reads everything")
@pytest.mark.parametrize("suffix", [".mrc", ".tif", ".eer", ".png", ".mrc.gz"])
def test_a_file_without_permission_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"content")
    path.chmod(0)
    for read in READERS:
        assert "permission" in _refusal(path, read).lower()


@pytest.mark.parametrize(
    ("name", "movie", "micrograph", "plain"),
    [
        ("a.b.mrc", True, True, "a.b"),
        ("a.MRCS", True, True, "a"),
        ("a.mrc.gz", True, True, "a"),
        ("a_1.st.bz2", True, True, "a_1"),
        ("a.TIFF", True, True, "a"),
        ("a.eer", True, False, "a"),
        ("a.png", False, True, "a"),
        ("a.gain", False, False, "a"),
        ("a.gz", False, False, "a"),
        ("mrc", False, False, "mrc"),
    ],
)
def test_names_tell_what_a_file_can_be(
    name: str, movie: bool, micrograph: bool, plain: str
) -> None:
    path = Path("folder") / name
    assert is_movie_name(path) == movie
    assert is_micrograph_name(path) == micrograph
    assert stem(path) == plain
    assert all(suffix == suffix.lower() for suffix in (*MOVIE_SUFFIXES, *MICROGRAPH_SUFFIXES))


def test_a_header_is_kept_from_mrc_alone(tmp_path: Path) -> None:
    files = _named_wrongly(tmp_path)
    eer = write_eer(
        tmp_path / "x.eer", [random_events(np.random.default_rng(0), (8, 8), 9)] * 2, (8, 8)
    )
    for like in (*files.values(), eer):
        io.write_mrc(tmp_path / "out.mrc", torch.rand(12, 17), 1.2, like=like)
        assert read_micrograph(tmp_path / "out.mrc").pixel_size_angstrom == pytest.approx(1.2)
    with mrcfile.open(tmp_path / "out.mrc", mode="r+") as handle:
        handle.header.origin = (1, 2, 3)
    packed = tmp_path / "like.mrc.gz"
    packed.write_bytes(gzip.compress((tmp_path / "out.mrc").read_bytes()))
    io.write_mrc(tmp_path / "kept.mrc", torch.rand(12, 17), 1.2, like=packed)
    with mrcfile.open(tmp_path / "kept.mrc") as handle:
        assert handle.header.origin.tolist() == (1, 2, 3)
