"""Training sets of an older kind: flat float32 files of input and target images.

Either a folder with `train_input.bin` and `train_target.bin` (and the same two for `test`), images
one after the other without a header, or one file in which four int32 (count, height, width,
channels) are followed by the input and the target of each sample in turn. All little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clearice.errors import InputFileError, PairingError
from clearice.io.sections import reading, require_file

_PIXEL_BYTES = 4
_HEADER_BYTES = 16
_LARGEST_SIDE = 1 << 16


@dataclass(frozen=True)
class FlatPairs:
    """Input and target images in flat files, read from disk only when asked for.

    Attributes:
        n: Number of samples.
        height: Rows, px.
        width: Columns, px.
        input: File with the inputs.
        target: File with the targets; the same one if it has a header.
        test: These samples were held out.
        header_bytes: What stands before the first sample.
    """

    n: int
    height: int
    width: int
    input: Path
    target: Path
    test: bool = False
    header_bytes: int = 0

    def pair(self, index: int) -> Float[Tensor, "2 h w"]:
        """Read one sample.

        Args:
            index: From 0 to n − 1.

        Returns:
            Input and target.

        Raises:
            InputFileError: An image has NaN or infinite pixels, is constant, or cannot be read.
        """
        if not 0 <= index < self.n:
            raise IndexError(f"sample {index} of {self.n}")
        if self.input == self.target:
            places = ((self.input, 2 * index), (self.target, 2 * index + 1))
        else:
            places = ((self.input, index), (self.target, index))
        return torch.stack([self._image(path, place, index) for path, place in places])

    def _image(self, path: Path, place: int, index: int) -> Float[Tensor, "h w"]:
        pixels = self.height * self.width
        offset = self.header_bytes + place * pixels * _PIXEL_BYTES
        with reading(path):
            values = np.fromfile(path, dtype="<f4", count=pixels, offset=offset)
        if len(values) != pixels:
            raise InputFileError(path, f"ended before sample {index}", "do not change it meanwhile")
        image = torch.from_numpy(values.astype(np.float32, copy=False))
        low, high = torch.aminmax(image)
        if not (low.isfinite() and high.isfinite()):
            n_bad = int((~image.isfinite()).sum())
            raise InputFileError(
                path, f"sample {index} has {n_bad} NaN or infinite pixels", "it is left out"
            )
        if low == high:
            raise InputFileError(
                path, f"sample {index} is constant (every pixel {float(low):g})", "it is left out"
            )
        return image.reshape(self.height, self.width)


def open_flat(path: Path, sample_size: int = 1024) -> tuple[FlatPairs, ...]:
    """Open an older training set and check that it is whole, without reading its images.

    Args:
        path: Folder with `train_input.bin` and `train_target.bin` (maybe `test_input.bin` and
            `test_target.bin`), or one file with a header.
        sample_size: Edge of the square samples of a folder, px; a header says it itself.

    Returns:
        The samples to train on, then those held out, if there are any.

    Raises:
        InputFileError: A file is missing, truncated, or no such file.
        PairingError: A file of inputs and that of its targets differ in their number of samples.
    """
    if path.is_file():
        return (_open_headered(path),)
    if not path.is_dir():
        raise InputFileError(path, "does not exist", "check the path")
    held_out = [path / f"test_{role}.bin" for role in ("input", "target")]
    train = _open_two(path, "train", sample_size)
    if not any(file.exists() for file in held_out):
        return (train,)
    return (train, _open_two(path, "test", sample_size))


def _open_two(folder: Path, kind: str, sample_size: int) -> FlatPairs:
    files = [folder / f"{kind}_{role}.bin" for role in ("input", "target")]
    n_input, n_target = (_count(file, sample_size) for file in files)
    if n_input != n_target:
        raise PairingError(
            f"{files[0]} holds {n_input:,} samples and {files[1]} {n_target:,}; inputs and targets "
            "must be as many: copy the shorter file again, or give the --sample-size of both"
        )
    return FlatPairs(n_input, sample_size, sample_size, files[0], files[1], test=kind == "test")


def _count(file: Path, sample_size: int) -> int:
    if not file.is_file():
        raise InputFileError(file, "does not exist", "give the folder with all of its .bin files")
    size, sample = file.stat().st_size, sample_size * sample_size * _PIXEL_BYTES
    if size == 0 or size % sample:
        raise InputFileError(
            file,
            f"has {size:,} bytes, which is no whole number of samples of {sample_size}×"
            f"{sample_size} float32 ({sample:,} bytes each)",
            "copy it again, or give the right --sample-size",
        )
    return size // sample


def _open_headered(path: Path) -> FlatPairs:
    require_file(path)
    size = path.stat().st_size
    if size < _HEADER_BYTES:
        raise InputFileError(
            path, f"is too short for a header ({size} bytes)", "copy or export it again"
        )
    with reading(path):
        n, height, width, channels = np.fromfile(path, dtype="<i4", count=4).tolist()
    if min(n, height, width, channels) < 1 or max(height, width) > _LARGEST_SIDE:
        raise InputFileError(
            path,
            f"is no flat training set (its header claims {n} samples of {height}×{width}×"
            f"{channels})",
            "give such a file, or the folder that holds train_input.bin",
        )
    if channels != 1:
        raise InputFileError(
            path, f"has {channels} channels", "export its micrographs as one channel"
        )
    expected = _HEADER_BYTES + n * 2 * height * width * _PIXEL_BYTES
    if size != expected:
        raise InputFileError(
            path,
            f"has {size:,} bytes where its header ({n:,} pairs of {height}×{width}) needs "
            f"{expected:,}",
            "copy or export it again",
        )
    return FlatPairs(n, height, width, path, path, header_bytes=_HEADER_BYTES)
