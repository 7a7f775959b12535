"""Older flat training sets: counts from file sizes, both layouts, nothing read before its time."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from clearice.errors import InputFileError, PairingError
from clearice.io.flat import open_flat

_SIZE = 16


def _samples(generator: torch.Generator, n: int, size: int = _SIZE) -> torch.Tensor:
    return torch.randn(n, size, size, generator=generator)


def _write(path: Path, samples: torch.Tensor) -> None:
    path.write_bytes(samples.numpy().astype("<f4").tobytes())


def _folder(
    folder: Path, generator: torch.Generator, counts: tuple[int, ...] = (5, 5, 2, 2)
) -> dict[str, torch.Tensor]:
    names = ("train_input", "train_target", "test_input", "test_target")
    parts = {name: _samples(generator, n) for name, n in zip(names, counts, strict=False) if n > 0}
    for name, samples in parts.items():
        _write(folder / f"{name}.bin", samples)
    return parts


def _headered(path: Path, samples: torch.Tensor, header: tuple[int, ...]) -> Path:
    path.write_bytes(struct.pack("<4i", *header) + samples.numpy().astype("<f4").tobytes())
    return path


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as handle:
        handle.truncate(size)


def test_a_folder_gives_its_samples_in_order(tmp_path: Path, generator: torch.Generator) -> None:
    parts = _folder(tmp_path, generator)
    train, test = open_flat(tmp_path, _SIZE)
    assert (train.n, train.height, train.width, train.test) == (5, _SIZE, _SIZE, False)
    assert (test.n, test.test) == (2, True)
    for index in range(5):
        expected = torch.stack([parts["train_input"][index], parts["train_target"][index]])
        torch.testing.assert_close(train.pair(index), expected, rtol=0, atol=0)
    torch.testing.assert_close(test.pair(1)[1], parts["test_target"][1], rtol=0, atol=0)


def test_held_out_samples_are_optional(tmp_path: Path, generator: torch.Generator) -> None:
    _folder(tmp_path, generator, (3, 3))
    (train,) = open_flat(tmp_path, _SIZE)
    assert (train.n, train.test) == (3, False)


def test_a_headered_file_alternates_input_and_target(
    tmp_path: Path, generator: torch.Generator
) -> None:
    samples = torch.randn(3, 2, 6, 10, generator=generator)
    path = _headered(tmp_path / "pairs.bin", samples, (3, 6, 10, 1))
    (pairs,) = open_flat(path)
    assert (pairs.n, pairs.height, pairs.width) == (3, 6, 10)
    for index in range(3):
        torch.testing.assert_close(pairs.pair(index), samples[index], rtol=0, atol=0)


def test_an_index_outside_is_a_bug(tmp_path: Path, generator: torch.Generator) -> None:
    _folder(tmp_path, generator, (3, 3))
    (train,) = open_flat(tmp_path, _SIZE)
    for index in (-1, 3):
        with pytest.raises(IndexError):
            train.pair(index)


def test_as_many_targets_as_inputs_or_none_is_used(tmp_path: Path) -> None:
    sample = 4 * 1024 * 1024
    _sparse(tmp_path / "train_input.bin", 29_913 * sample)
    _sparse(tmp_path / "train_target.bin", 7_355 * sample)
    with pytest.raises(PairingError) as error:
        open_flat(tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for part in ("train_input.bin holds 29,913", "train_target.bin 7,355", str(tmp_path)):
        assert part in message


def test_the_counts_of_held_out_samples_are_compared_too(
    tmp_path: Path, generator: torch.Generator
) -> None:
    _folder(tmp_path, generator, (3, 3, 2, 1))
    with pytest.raises(PairingError, match=r"test_input\.bin holds 2 .*test_target\.bin 1;"):
        open_flat(tmp_path, _SIZE)


def test_a_set_of_41_GB_is_opened_at_once_and_read_by_the_sample(tmp_path: Path) -> None:
    sample = 4 * 1024 * 1024
    values = np.arange(1024 * 1024, dtype="<f4")
    for role, factor in (("input", 1), ("target", 2)):
        path = tmp_path / f"train_{role}.bin"
        _sparse(path, 10_309 * sample)
        with path.open("r+b") as handle:
            handle.seek(10_308 * sample)
            handle.write((factor * values).tobytes())
    (train,) = open_flat(tmp_path)
    assert train.n == 10_309
    pair = train.pair(10_308)
    assert pair[:, 1023, 1023].tolist() == [1024 * 1024 - 1, 2 * (1024 * 1024 - 1)]
    torch.testing.assert_close(pair[1], 2 * pair[0], rtol=0, atol=0)


@pytest.mark.parametrize("cut", [1, 4 * _SIZE, 3 * 4 * _SIZE * _SIZE])
def test_a_folder_whose_file_was_cut_off(
    tmp_path: Path, generator: torch.Generator, cut: int
) -> None:
    _folder(tmp_path, generator, (3, 3))
    path = tmp_path / "train_target.bin"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputFileError, match="no whole number of samples of 16×16"):
        open_flat(tmp_path, _SIZE)


def test_a_sample_size_that_does_not_fit(tmp_path: Path, generator: torch.Generator) -> None:
    _folder(tmp_path, generator, (3, 3))
    with pytest.raises(InputFileError, match="give the right --sample-size"):
        open_flat(tmp_path)


@pytest.mark.parametrize("missing", ["train_input", "train_target", "test_input", "test_target"])
def test_a_missing_file_is_named(tmp_path: Path, generator: torch.Generator, missing: str) -> None:
    _folder(tmp_path, generator)
    (tmp_path / f"{missing}.bin").unlink()
    with pytest.raises(InputFileError, match=rf"{missing}\.bin: does not exist"):
        open_flat(tmp_path, _SIZE)


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="does not exist"):
        open_flat(tmp_path / "gone")


@pytest.mark.parametrize(
    ("header", "values", "problem"),
    [
        ((3, 6, 10, 1), 3 * 120 - 1, r"has 1,452 bytes where its header \(3 pairs of 6×10\)"),
        ((3, 6, 10, 1), 3 * 120 + 1, r"has 1,460 bytes .* needs 1,456"),
        ((3, 6, 10, 3), 3 * 360, "has 3 channels"),
        ((0, 6, 10, 1), 0, "is no flat training set"),
        ((-5, 6, 10, 1), 20, "is no flat training set"),
        ((3, 6, 1 << 20, 1), 20, "is no flat training set"),
    ],
)
def test_a_header_that_does_not_fit_its_file(
    tmp_path: Path, header: tuple[int, ...], values: int, problem: str
) -> None:
    path = _headered(tmp_path / "pairs.bin", torch.zeros(values), header)
    with pytest.raises(InputFileError, match=problem):
        open_flat(path)


def test_a_file_too_short_for_a_header(tmp_path: Path) -> None:
    path = tmp_path / "pairs.bin"
    path.write_bytes(b"\1\0\0\0")
    with pytest.raises(InputFileError, match="too short for a header"):
        open_flat(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_with_bad_pixels_is_named(
    tmp_path: Path, generator: torch.Generator, bad: float
) -> None:
    parts = _folder(tmp_path, generator, (3, 3))
    parts["train_target"][1, 2, 3] = bad
    _write(tmp_path / "train_target.bin", parts["train_target"])
    (train,) = open_flat(tmp_path, _SIZE)
    assert bool(train.pair(0).isfinite().all())
    with pytest.raises(InputFileError, match=r"train_target\.bin: sample 1 has 1 NaN or infinite"):
        train.pair(1)


def test_a_constant_sample_is_named(tmp_path: Path, generator: torch.Generator) -> None:
    parts = _folder(tmp_path, generator, (3, 3))
    parts["train_input"][2] = 4.0
    _write(tmp_path / "train_input.bin", parts["train_input"])
    (train,) = open_flat(tmp_path, _SIZE)
    with pytest.raises(InputFileError, match=r"sample 2 is constant \(every pixel 4\)"):
        train.pair(2)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, generator: torch.Generator) -> None:
    _folder(tmp_path, generator, (3, 3))
    (train,) = open_flat(tmp_path, _SIZE)
    _sparse(tmp_path / "train_input.bin", 4 * _SIZE * _SIZE)
    with pytest.raises(InputFileError, match="ended before sample 2"):
        train.pair(2)
