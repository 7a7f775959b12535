"""Older flat training sets become data sets: same pixels, same held-out samples, nothing lost."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from clearice import io
from clearice.config import PrepareConfig
from clearice.data import Split, open_dataset
from clearice.errors import BatchError, DatasetError, InputFileError, PairingError
from clearice.io.flat import open_flat
from clearice.prepare.convert import assign_samples, convert_flat, is_flat
from helpers import prepare_config, smooth_image
from tolerances import RELATIVE

_SIZE = 64
_HALF = RELATIVE[torch.float16]


def _config(**overrides: float) -> PrepareConfig:
    return prepare_config(pixel_size_angstrom=1.5, dose_ratio=1.0, **overrides)


def _pairs(generator: torch.Generator, n: int, target_noise: float = 4.0) -> torch.Tensor:
    """Return n samples of input and target, in counts."""
    noise = torch.tensor([4.0, target_noise])[:, None, None]
    signals = torch.stack([smooth_image(generator, _SIZE) for _ in range(n)])
    return 50 + 3 * signals[:, None] + noise * torch.randn(n, 2, _SIZE, _SIZE, generator=generator)


def _folder(folder: Path, train: torch.Tensor, test: torch.Tensor | None = None) -> Path:
    folder.mkdir()
    for kind, pairs in (("train", train), ("test", test)):
        for k, role in enumerate(("input", "target")):
            if pairs is not None:
                values = pairs[:, k].contiguous().numpy().astype("<f4")
                (folder / f"{kind}_{role}.bin").write_bytes(values.tobytes())
    return folder


def test_every_sample_comes_back(tmp_path: Path, generator: torch.Generator) -> None:
    train, test = _pairs(generator, 6), _pairs(generator, 2)
    seen: list[tuple[int, int]] = []
    manifest = convert_flat(
        _folder(tmp_path / "old", train, test),
        tmp_path / "set",
        _config(),
        lambda done, total: seen.append((done, total)),
        sample_size=_SIZE,
    )
    dataset = open_dataset(tmp_path / "set")
    assert dataset.manifest == manifest
    assert dataset.verify() == []
    assert seen == [(n, 8) for n in range(1, 9)]
    assert (manifest.roles, manifest.pixel_size_angstrom) == ("exchangeable", 1.5)
    for entry, pair in zip(manifest.micrographs, torch.cat([train, test]), strict=True):
        assert entry.sources[0].endswith("_input.bin")
        assert entry.weights == (0.5, 0.5)
        stack = dataset.stack(entry).double()
        assert float(stack.mean()) == pytest.approx(0, abs=_HALF)
        # Both halves are brought to the mean of both, which differ by chance alone.
        restored = stack * entry.std + entry.mean
        factors = pair.mean((1, 2)).double() / pair.double().mean()
        torch.testing.assert_close(
            restored * factors[:, None, None], pair.double(), rtol=_HALF, atol=_HALF * entry.std * 4
        )


def test_held_out_samples_stay_held_out(tmp_path: Path, generator: torch.Generator) -> None:
    old = _folder(tmp_path / "old", _pairs(generator, 10), _pairs(generator, 3))
    config = _config(validation_fraction=0.2, test_fraction=0.3)
    manifest = convert_flat(old, tmp_path / "set", config, sample_size=_SIZE)
    splits = {entry.name: entry.split for entry in manifest.micrographs}
    assert [splits[f"test_sample_{n:06d}"] for n in range(3)] == [Split.TEST] * 3
    expected = [Split.TRAIN] * 8 + [Split.VALIDATION] * 2
    assert [splits[f"sample_{n:06d}"] for n in range(10)] == expected
    assert open_dataset(tmp_path / "set").manifest == manifest


def test_blocks_where_nothing_is_held_out(tmp_path: Path, generator: torch.Generator) -> None:
    parts = open_flat(_folder(tmp_path / "old", _pairs(generator, 10)), _SIZE)
    samples = assign_samples(parts, _config(validation_fraction=0.1, test_fraction=0.2))
    assert [sample.split.value for sample in samples] == ["train"] * 7 + ["validation"] + [
        "test"
    ] * 2
    assert len({sample.name for sample in samples}) == 10
    everything = assign_samples(parts, _config())
    assert {sample.split for sample in everything} == {Split.TRAIN}
    greedy = assign_samples(parts, _config(validation_fraction=0.9, test_fraction=0.05))
    assert [sample.split.value for sample in greedy].count("train") == 1


def test_a_headered_file(tmp_path: Path, generator: torch.Generator) -> None:
    pairs = _pairs(generator, 3)[..., :48]
    path = tmp_path / "pairs.bin"
    header = struct.pack("<4i", 3, _SIZE, 48, 1)
    path.write_bytes(header + pairs.contiguous().numpy().astype("<f4").tobytes())
    manifest = convert_flat(path, tmp_path / "set", _config())
    assert [entry.shape for entry in manifest.micrographs] == [(2, _SIZE, 48)] * 3
    assert manifest.micrographs[0].sources == ("pairs.bin", "pairs.bin")


@pytest.mark.parametrize("swapped", [False, True])
def test_the_lower_dose_is_the_input(
    tmp_path: Path, generator: torch.Generator, swapped: bool
) -> None:
    pairs = _pairs(generator, 3, target_noise=0.6)
    stored = pairs.flip(1) if swapped else pairs
    ratio = 1 / 44 if swapped else 44.0
    config = prepare_config(pixel_size_angstrom=1.5, dose_ratio=ratio)
    lines: list[str] = []
    manifest = convert_flat(
        _folder(tmp_path / "old", stored),
        tmp_path / "set",
        config,
        sample_size=_SIZE,
        say=lines.append,
    )
    assert manifest.roles == "input-target"
    assert manifest.dose_ratio == pytest.approx(44)
    assert "always the input" in lines[0]
    dataset = open_dataset(tmp_path / "set")
    for entry, pair in zip(manifest.micrographs, pairs, strict=True):
        assert entry.weights == pytest.approx((1 / 45, 44 / 45))
        restored = dataset.stack(entry)[0].double() * entry.std + entry.mean
        torch.testing.assert_close(restored, pair[0].double(), rtol=_HALF, atol=4 * _HALF * 5)


def test_bad_samples_are_reported_and_the_rest_done(
    tmp_path: Path, generator: torch.Generator
) -> None:
    train, test = _pairs(generator, 5), _pairs(generator, 2)
    train[1, 0, 3, 3] = float("nan")
    test[0, 1] = 7.0
    with pytest.raises(BatchError) as error:
        convert_flat(
            _folder(tmp_path / "old", train, test), tmp_path / "set", _config(), sample_size=_SIZE
        )
    assert len(error.value.failures) == 2
    assert "train_input.bin: sample 1 has 1 NaN" in error.value.failures[0]
    assert "test_target.bin: sample 0 is constant" in error.value.failures[1]
    names = [entry.name for entry in open_dataset(tmp_path / "set").manifest.micrographs]
    assert names == [f"sample_{n:06d}" for n in (0, 2, 3, 4)] + ["test_sample_000001"]


def test_no_usable_sample_leaves_no_data_set(tmp_path: Path, generator: torch.Generator) -> None:
    bad = torch.full((2, 2, _SIZE, _SIZE), float("nan"))
    with pytest.raises(DatasetError, match="no sample could be used"):
        convert_flat(_folder(tmp_path / "old", bad), tmp_path / "set", _config(), sample_size=_SIZE)
    assert not (tmp_path / "set" / "dataset.json").exists()


def test_nothing_is_written_when_the_counts_differ(
    tmp_path: Path, generator: torch.Generator
) -> None:
    old = _folder(tmp_path / "old", _pairs(generator, 3), _pairs(generator, 2))
    path = old / "test_target.bin"
    path.write_bytes(path.read_bytes()[: 4 * _SIZE * _SIZE])
    with pytest.raises(PairingError, match="holds 2 samples"):
        convert_flat(old, tmp_path / "set", _config(), sample_size=_SIZE)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputFileError, match="no whole number"):
        convert_flat(old, tmp_path / "set", _config(), sample_size=_SIZE)
    assert not (tmp_path / "set").exists()


def test_the_pixel_size_is_assumed_aloud(tmp_path: Path, generator: torch.Generator) -> None:
    old = _folder(tmp_path / "old", _pairs(generator, 2))
    with pytest.warns(io.PixelSizeFallback, match="give --pixel-size"):
        manifest = convert_flat(old, tmp_path / "set", prepare_config(), sample_size=_SIZE)
    assert manifest.pixel_size_angstrom == 1.0


def test_flat_sets_are_recognised_by_name(tmp_path: Path, generator: torch.Generator) -> None:
    old = _folder(tmp_path / "old", _pairs(generator, 1))
    assert is_flat(old)
    assert is_flat(tmp_path / "pairs.bin")
    assert not is_flat(tmp_path)
    assert not is_flat(tmp_path / "movie.mrc")
