"""MRC files: every mode read exactly, every bad file refused in one line, headers kept."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearice import io
from clearice.errors import ClearIceError, InputFileError, OutputError
from clearice.io import PixelSizeFallback

Array = np.ndarray[Any, np.dtype[Any]]

MODES: dict[int, Array] = {
    0: np.arange(-128, 127, dtype=np.int8)[:252].reshape(14, 18),
    1: np.linspace(-32768, 32767, 252).astype(np.int16).reshape(14, 18),
    2: np.geomspace(1e-38, 3e38, 252).astype(np.float32).reshape(14, 18),
    6: np.linspace(0, 65535, 252).astype(np.uint16).reshape(14, 18),
    12: np.geomspace(6e-8, 65504, 252).astype(np.float16).reshape(14, 18),
}


def _write(path: Path, data: Array, pixel_size: float = 1.5, *, stack: bool = False) -> Path:
    """Write with mrcfile alone, so that what is read does not depend on our writer."""
    with warnings.catch_warnings():
        # Extreme and missing values are what the tests are about.
        warnings.simplefilter("ignore", RuntimeWarning)
        with mrcfile.new(path, overwrite=True) as handle:
            handle.set_data(data)
            if stack:
                handle.set_image_stack()
            handle.voxel_size = pixel_size
    return path


def _image(seed: int = 0, shape: tuple[int, ...] = (12, 16)) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _refusal(path: Path, read: Callable[[Path], object]) -> str:
    """Return the message of an InputFileError: one line, the file first, then a way out."""
    with pytest.raises(InputFileError) as error:
        read(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    assert error.value.path == path
    problem, _, remedy = message.rpartition("; ")
    assert problem
    assert len(remedy) > 8
    return message


READERS: list[Callable[[Path], object]] = [io.read_micrograph, io.open_movie, io.image_shape]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_read_exactly(tmp_path: Path, mode: int) -> None:
    path = _write(tmp_path / "x.mrc", MODES[mode])
    with mrcfile.open(path) as handle:
        assert int(handle.header.mode) == mode
    micrograph = io.read_micrograph(path)
    assert micrograph.pixels.dtype == torch.float32
    np.testing.assert_array_equal(micrograph.pixels.numpy(), MODES[mode].astype(np.float32))
    assert micrograph.pixel_size_angstrom == 1.5
    assert micrograph.path == path


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_read_as_a_movie(tmp_path: Path, mode: int) -> None:
    data = np.stack([MODES[mode], MODES[mode][::-1], MODES[mode][:, ::-1]])
    movie = io.open_movie(_write(tmp_path / "x.mrcs", data, stack=True))
    assert (len(movie.frames), movie.height, movie.width) == (3, 14, 18)
    for index, frame in enumerate(data):
        np.testing.assert_array_equal(movie.frames[index].numpy(), frame.astype(np.float32))


def test_a_big_endian_file_is_read(tmp_path: Path) -> None:
    data = _image()
    path = tmp_path / "x.mrc"
    path.write_bytes(b"")
    with mrcfile.new(path, overwrite=True) as handle:
        handle.set_data(data.astype(">f4"))
        handle.voxel_size = 2.0
    assert path.read_bytes()[212:214] == b"\x11\x11"
    np.testing.assert_array_equal(io.read_micrograph(path).pixels.numpy(), data)


def test_one_section_of_a_stack_is_a_micrograph(tmp_path: Path) -> None:
    data = _image()[None]
    path = _write(tmp_path / "x.mrcs", data, stack=True)
    np.testing.assert_array_equal(io.read_micrograph(path).pixels.numpy(), data[0])


def test_shapes_are_read_from_the_header(tmp_path: Path) -> None:
    assert io.image_shape(_write(tmp_path / "a.mrc", _image())) == (1, 12, 16)
    stack = _write(tmp_path / "b.mrcs", _image(shape=(5, 12, 16)), stack=True)
    assert io.image_shape(stack) == (5, 12, 16)


def test_a_movie_can_cross_to_another_process(tmp_path: Path) -> None:
    data = _image(shape=(3, 12, 16))
    movie = io.open_movie(_write(tmp_path / "x.mrcs", data, stack=True))
    # Loader workers get it pickled: no open handle may hang on it.
    import pickle

    copy = pickle.loads(pickle.dumps(movie))  # noqa: S301
    np.testing.assert_array_equal(copy.frames[2].numpy(), data[2])


@pytest.mark.parametrize("read", READERS)
def test_complex_and_packed_modes_are_refused_with_their_reason(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = _write(tmp_path / "x.mrc", _image().astype(np.complex64))
    message = _refusal(path, read)
    assert "mode 4" in message
    assert "Fourier transform" in message
    assert "0, 1, 2, 6, 12" in message


@pytest.mark.parametrize(("mode", "reason"), [(3, "Fourier"), (16, "RGB"), (77, "unknown")])
def test_other_modes_are_refused_with_their_reason(tmp_path: Path, mode: int, reason: str) -> None:
    path = _write(tmp_path / "x.mrc", _image())
    _patch(path, 12, struct.pack("<i", mode))
    message = _refusal(path, io.read_micrograph)
    assert f"mode {mode}" in message
    assert reason in message


def _patch(path: Path, offset: int, content: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(bytes(whole))


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_a_folder_and_an_empty_file_are_refused(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    empty = tmp_path / "empty.mrc"
    empty.touch()
    assert "does not exist" in _refusal(tmp_path / "none.mrc", read)
    assert "folder" in _refusal(tmp_path, read)
    assert "empty" in _refusal(empty, read)


@pytest.mark.parametrize("read", READERS)
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = _write(tmp_path / "x.mrc", _image(shape=(2, 12, 16)), stack=True)
    whole = path.read_bytes()
    for length in (1, 500, 1023, 1024, 1025, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert any(w in _refusal(path, read) for w in ("too short", "truncated"))


@pytest.mark.parametrize("read", READERS)
def test_a_file_that_is_no_mrc_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "x.mrc"
    path.write_bytes(b"SIMPLE  =" + bytes(5000))
    assert "not an MRC file" in _refusal(path, read)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_counted(tmp_path: Path, value: float) -> None:
    data = _image()
    data[3, 4] = data[0, 0] = value
    assert "2 NaN or infinite" in _refusal(_write(tmp_path / "x.mrc", data), io.read_micrograph)
    movie = io.open_movie(_write(tmp_path / "y.mrc", np.stack([_image(), data]), stack=True))
    movie.frames[0]
    _refusal(movie.path, lambda _: movie.frames[1])


def test_a_constant_image_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.mrc", np.full((8, 8), 3, np.int16))
    assert "constant (every pixel 3)" in _refusal(path, io.read_micrograph)


def test_a_movie_is_no_micrograph_and_a_micrograph_no_movie(tmp_path: Path) -> None:
    movie = _write(tmp_path / "a.mrc", _image(shape=(3, 12, 16)), stack=True)
    message = _refusal(movie, io.read_micrograph)
    assert "three-dimensional (3 × 12 × 16)" in message
    assert "prepare" in message
    for data in (_image(), _image()[None]):
        path = _write(tmp_path / "b.mrc", data, stack=data.ndim == 3)
        assert "--pairs" in _refusal(path, io.open_movie)


def test_a_header_without_pixel_size_warns_once_and_takes_the_override(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.mrc", _image(), 0.0)
    with pytest.warns(PixelSizeFallback, match=r"x\.mrc.*--pixel-size") as caught:
        assert io.read_micrograph(path).pixel_size_angstrom == 1.0
    assert len(caught) == 1
    assert io.read_micrograph(path, 1.7).pixel_size_angstrom == 1.7


def test_the_override_wins_over_the_header(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.mrc", _image(shape=(2, 12, 16)), stack=True)
    assert io.open_movie(path).pixel_size_angstrom == 1.5
    assert io.open_movie(path, 0.7).pixel_size_angstrom == 0.7


@pytest.mark.parametrize("y", [2.0, 0.0])
def test_oblong_pixels_are_refused(tmp_path: Path, y: float) -> None:
    path = _write(tmp_path / "x.mrc", _image())
    _patch(path, 44, struct.pack("<f", 12 * y))
    assert "oblong" in _refusal(path, io.read_micrograph)


@given(
    word=st.sampled_from([*range(10), 15, 16, 17, 22, 23, 53]),
    value=st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]),
)
def test_a_damaged_header_never_ends_in_a_bug(
    tmp_path_factory: pytest.TempPathFactory, word: int, value: int
) -> None:
    path = _write(tmp_path_factory.mktemp("fuzz") / "x.mrc", _image())
    _patch(path, 4 * word, struct.pack("<i", value))
    for read in READERS:
        try:
            read(path)
        except InputFileError as error:
            assert "\n" not in str(error)
        except PixelSizeFallback:
            pass  # an error only because the test run makes it one


def test_a_stack_is_the_same_mapped_and_in_memory(tmp_path: Path) -> None:
    data = _image(shape=(3, 12, 16)).astype(np.float16)
    path = _write(tmp_path / "x.mrcs", data, stack=True)
    with mrcfile.open(path, mode="r+") as handle:
        # Data then starts beyond the 1,024 bytes of the header.
        handle.set_extended_header(np.frombuffer(b"y" * 100, dtype="V100"))
    for mapped in (True, False):
        stack = io.read_stack(path, mapped=mapped)
        assert stack.dtype == torch.float16
        np.testing.assert_array_equal(stack.numpy(), data)


def test_a_mapped_stack_never_writes_to_its_file(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.mrcs", np.ones((2, 4, 4), np.float16), stack=True)
    before = path.read_bytes()
    io.read_stack(path, mapped=True)[0, 0, 0] = 9
    assert path.read_bytes() == before


def test_a_stack_of_another_type_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.mrcs", _image(shape=(2, 4, 4)), stack=True)
    for mapped in (True, False):
        message = _refusal(path, lambda p, m=mapped: io.read_stack(p, mapped=m))  # type: ignore[misc]
        assert "float16 stack" in message


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
@pytest.mark.parametrize("sections", [0, 3])
def test_what_is_written_is_read_back_with_the_right_statistics(
    tmp_path: Path, dtype: str, sections: int
) -> None:
    shape = (sections, 12, 16) if sections else (12, 16)
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 100, shape, generator=generator).float()
    path = tmp_path / "x.mrc"
    io.write_mrc(path, pixels, 1.315, dtype=dtype, label="denoised")
    if dtype != "float16":  # whose sums overflow in mrcfile's own validator
        assert mrcfile.validate(path)
    with mrcfile.open(path) as handle:
        assert handle.data.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(handle.data, pixels.numpy().astype(dtype))
        assert handle.is_image_stack() == bool(sections)
        assert handle.voxel_size.x == pytest.approx(1.315, rel=1e-6)
        assert any("denoised" in label for label in handle.get_labels())
        wide = pixels.numpy().astype(np.float64)
        assert handle.header.dmin == wide.min()
        assert handle.header.dmax == wide.max()
        assert handle.header.dmean == pytest.approx(wide.mean(), rel=1e-6)
        assert handle.header.rms == pytest.approx(wide.std(), rel=1e-6)


def test_statistics_of_float16_are_summed_in_float64(tmp_path: Path) -> None:
    # 64 × 64 values near 30,000 overflow a float16 sum at the third.
    pixels = 30_000 + 1_000 * torch.randn(64, 64, generator=torch.Generator().manual_seed(4))
    path = tmp_path / "x.mrc"
    io.write_mrc(path, pixels, 1.0, dtype="float16")
    wide = pixels.numpy().astype(np.float16).astype(np.float64)
    with mrcfile.open(path) as handle:
        assert handle.header.dmean == pytest.approx(wide.mean(), rel=1e-6)
        assert handle.header.rms == pytest.approx(wide.std(), rel=1e-6)
        assert handle.header.dmin == wide.min()
        assert handle.header.dmax == wide.max()


def test_a_long_label_is_cut_and_not_refused(tmp_path: Path) -> None:
    io.write_mrc(tmp_path / "x.mrc", torch.eye(4), 1.0, label="x" * 200)
    assert io.read_micrograph(tmp_path / "x.mrc").pixels.shape == (4, 4)


def _microscope_file(path: Path) -> Path:
    with mrcfile.new(path, overwrite=True) as handle:
        handle.set_data(np.arange(192, dtype=np.int16).reshape(12, 16))
        handle.set_extended_header(np.frombuffer(bytes(range(256)) * 3, dtype="V768"))
        handle.header.exttyp = b"FEI1"
        handle.header.origin = (1.5, -2.5, 3.5)
        handle.header.nxstart, handle.header.nystart, handle.header.nzstart = 4, -5, 6
        handle.header.cellb = (90.0, 90.0, 90.0)
        handle.voxel_size = 0.834
        for name in ("Created by a microscope", "second line"):
            handle.add_label(name)
    return path


def test_the_header_of_the_source_is_kept(tmp_path: Path) -> None:
    source = _microscope_file(tmp_path / "source.mrc")
    out = tmp_path / "out.mrc"
    io.write_mrc(out, torch.rand(12, 16), 0.834, like=source, label="clearice denoise")
    with mrcfile.open(source) as old, mrcfile.open(out) as new:
        assert new.extended_header.tobytes() == old.extended_header.tobytes()
        assert bytes(new.header.exttyp) == b"FEI1"
        for field in ("origin", "nxstart", "nystart", "nzstart", "cellb", "nsymbt", "ispg"):
            assert new.header[field] == old.header[field], field
        assert new.voxel_size.x == pytest.approx(0.834, rel=1e-6)
        old_labels = [label for label in old.get_labels() if label]
        labels = new.get_labels()
        assert labels[: len(old_labels)] == old_labels
        assert len(labels) == len(old_labels) + 1
        assert "clearice denoise" in labels[-1]
    assert mrcfile.validate(out)


def test_ten_old_labels_leave_room_for_ours(tmp_path: Path) -> None:
    source = _write(tmp_path / "source.mrc", _image())
    with mrcfile.open(source, mode="r+") as handle:
        for index in range(9):
            handle.add_label(f"step {index}")
        assert int(handle.header.nlabl) == 10
    out = tmp_path / "out.mrc"
    io.write_mrc(out, torch.rand(12, 16), 1.0, like=source, label="clearice")
    with mrcfile.open(out) as handle:
        labels = handle.get_labels()
    assert len(labels) == 10
    assert labels[-2].startswith("step 8")
    assert "clearice" in labels[-1]


@pytest.mark.parametrize("name", ["fei1_crop.mrc", "fei2_crop.mrc"])
def test_the_header_of_a_real_microscope_file_survives(
    tmp_path: Path, test_data: Path, name: str
) -> None:
    source = test_data / "headers" / name
    micrograph = io.read_micrograph(source)
    out = tmp_path / "out.mrc"
    io.write_mrc(out, micrograph.pixels, micrograph.pixel_size_angstrom, like=source)
    # The type of the pixels, their statistics, our label and the version of the format we write.
    changes = {"mode", "dmin", "dmax", "dmean", "rms", "nlabl", "label", "nversion", "cella"}
    with mrcfile.open(source, permissive=True) as old, mrcfile.open(out) as new:
        for field in set(old.header.dtype.names) - changes:
            assert old.header[field].tobytes() == new.header[field].tobytes(), field
        for axis in "xy":
            # The cell follows from the pixel size, which is rounded to 1e-6 Å.
            assert new.header.cella[axis] == pytest.approx(float(old.header.cella[axis]), rel=1e-6)
        assert len(old.extended_header) > 0
        assert old.extended_header.tobytes() == new.extended_header.tobytes()
        np.testing.assert_array_equal(old.data, new.data)


def test_real_micrographs_are_read(test_data: Path) -> None:
    for path in sorted((test_data / "apoferritin").glob("*.mrc"))[:2]:
        micrograph = io.read_micrograph(path)
        assert micrograph.pixels.shape == (1200, 1240)
        assert micrograph.pixel_size_angstrom == 1.5
        with mrcfile.open(path) as handle:
            assert float(micrograph.pixels.mean()) == pytest.approx(
                float(handle.data.mean(dtype=np.float64)), abs=1e-3
            )


def test_a_damaged_source_of_the_header_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source.mrc"
    source.touch()
    with pytest.raises(InputFileError, match=r"source\.mrc"):
        io.write_mrc(tmp_path / "out.mrc", torch.eye(4), 1.0, like=source)
    assert [p.name for p in tmp_path.iterdir()] == ["source.mrc"]


@pytest.mark.parametrize("place", ["file/out.mrc", "missing/out.mrc"])
def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"out\.mrc.*--out") as error:
        io.write_mrc(tmp_path / place, torch.eye(4), 1.0)
    assert isinstance(error.value, ClearIceError)
    assert "\n" not in str(error.value)
