"""A data set from movies or half-sets: one affine a micrograph, and one bad file stops nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clearice.config import PrepareConfig
from clearice.data import open_dataset
from clearice.errors import BatchError, DatasetError, PairingError
from clearice.prepare import HalfPair, match_pairs, prepare_movies, prepare_pairs
from helpers import PIXEL_SIZE, prepare_config, smooth_image, write_image, write_movie
from tolerances import RELATIVE

pytestmark = pytest.mark.filterwarnings("ignore:Data array contains NaN")

_SIZE = 64
_HALF = RELATIVE[torch.float16]


def _frames(generator: torch.Generator, frames: int = 7, size: int = _SIZE) -> torch.Tensor:
    """Return frames whose brightness falls, as the beam's does."""
    signal = smooth_image(generator, size)
    brightness = (16 + 8 * torch.exp(-torch.arange(frames) / 2))[:, None, None]
    return brightness + signal + 4 * torch.randn(frames, size, size, generator=generator)


def _config(groups: int = 2, dose_ratio: float | None = None) -> PrepareConfig:
    return prepare_config(groups=groups, dose_ratio=dose_ratio)


def _good(folder: Path, name: str, generator: torch.Generator) -> Path:
    return write_movie(folder / f"{name}.mrc", _frames(generator))


@pytest.mark.parametrize("groups", [2, 3])
def test_one_affine_from_the_full_dose_for_all_groups(
    tmp_path: Path, generator: torch.Generator, groups: int
) -> None:
    frames = _frames(generator)
    movie = write_movie(tmp_path / "mic.mrc", frames)
    manifest = prepare_movies([movie], tmp_path / "set", _config(groups))
    (entry,) = manifest.micrographs
    stack = open_dataset(tmp_path / "set").stack(entry).double()
    full = torch.einsum("k,khw->hw", torch.tensor(entry.weights).double(), stack)
    assert float(full.mean()) == pytest.approx(0, abs=_HALF)
    assert float(full.std(correction=0)) == pytest.approx(1, rel=_HALF)
    assert any(abs(float(group.mean())) > 0.05 for group in stack)
    assert all(float(group.std()) > 1.1 for group in stack)
    means = torch.stack([frames[g::groups].mean(0) for g in range(groups)]).double()
    assert entry.mean == pytest.approx(float(frames.mean()), rel=1e-5)
    torch.testing.assert_close(stack * entry.std + entry.mean, means, rtol=_HALF, atol=0.02)


def test_what_the_manifest_says_of_movies(tmp_path: Path, generator: torch.Generator) -> None:
    movies = [_good(tmp_path, name, generator) for name in ("m1", "m2", "m3")]
    config = prepare_config(groups=3, validation_fraction=0.3, dose_e_per_A2=53.0)
    seen: list[tuple[int, int]] = []
    manifest = prepare_movies(
        movies, tmp_path / "set", config, progress=lambda done, total: seen.append((done, total))
    )
    assert open_dataset(tmp_path / "set").manifest == manifest
    assert (manifest.pixel_size_angstrom, manifest.dose_e_per_A2) == (PIXEL_SIZE, 53.0)
    assert (manifest.roles, manifest.dose_ratio, manifest.target_gain) == ("exchangeable", 1, 1)
    assert [entry.sources for entry in manifest.micrographs] == [(p.name,) for p in movies]
    assert sorted(entry.split.value for entry in manifest.micrographs) == [
        "train",
        "train",
        "validation",
    ]
    assert manifest.micrographs[0].weights == pytest.approx((3 / 7, 2 / 7, 2 / 7))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_truth_is_brought_to_the_scale_of_the_groups(
    tmp_path: Path, generator: torch.Generator
) -> None:
    expected = 40 + smooth_image(generator, _SIZE)
    frames = expected + 0.5 * torch.randn(8, _SIZE, _SIZE, generator=generator)
    movie = write_movie(tmp_path / "movies" / "mic.mrc", frames)
    write_image(tmp_path / "truth" / "mic.mrc", 8 * expected)
    (entry,) = prepare_movies(
        [movie], tmp_path / "set", _config(4), truth=tmp_path / "truth"
    ).micrographs
    dataset = open_dataset(tmp_path / "set")
    assert entry.truth is not None
    assert dataset.verify() == []
    truth = torch.as_tensor(dataset.truth(entry)[0]).double()
    full = dataset.stack(entry).double().mean(0)
    slope = float((truth * full).sum() / truth.square().sum())
    assert slope == pytest.approx(1, rel=0.01)


def test_no_truth_for_any_movie_leaves_no_data_set(
    tmp_path: Path, generator: torch.Generator
) -> None:
    movie = _good(tmp_path, "mic", generator)
    (tmp_path / "truth").mkdir()
    with pytest.raises(DatasetError, match="no input could be used"):
        prepare_movies([movie], tmp_path / "set", _config(), truth=tmp_path / "truth")
    assert not (tmp_path / "set" / "dataset.json").exists()


def test_movies_of_one_name_are_refused(tmp_path: Path, generator: torch.Generator) -> None:
    movies = [_good(tmp_path / folder, "mic", generator) for folder in ("x", "y")]
    with pytest.raises(PairingError, match=r"would both be called .mic."):
        prepare_movies(movies, tmp_path / "set", _config())


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def _nan(path: Path) -> None:
    frames = torch.ones(7, _SIZE, _SIZE)
    frames[5, 3, 3] = float("nan")
    write_movie(path, frames)


_BAD_MOVIES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": _truncate,
    "not-a-number": _nan,
    "constant": lambda path: write_movie(path, torch.full((7, _SIZE, _SIZE), 5.0)),
    "constant-frames-of-falling-brightness": lambda path: write_movie(
        path, torch.arange(7.0)[:, None, None].expand(7, _SIZE, _SIZE).clone()
    ),
    "single-image": lambda path: write_image(path, torch.randn(_SIZE, _SIZE)),
    "missing": lambda path: path.unlink(),
    "other-pixel-size": lambda path: write_movie(path, torch.randn(7, _SIZE, _SIZE), pixel=3.0),
    "too-few-frames": lambda path: write_movie(path, torch.randn(2, _SIZE, _SIZE)),
}


@pytest.mark.parametrize("fault", _BAD_MOVIES)
def test_one_bad_movie_fails_alone(tmp_path: Path, generator: torch.Generator, fault: str) -> None:
    movies = [_good(tmp_path, name, generator) for name in ("a", "bad", "c")]
    _BAD_MOVIES[fault](movies[1])
    with pytest.raises(BatchError) as caught:
        prepare_movies(movies, tmp_path / "set", _config(3))
    (failure,) = caught.value.failures
    assert caught.value.exit_code == 2
    assert str(movies[1]) in failure
    assert "\n" not in failure
    dataset = open_dataset(tmp_path / "set")
    assert [entry.name for entry in dataset.manifest.micrographs] == ["a", "c"]
    assert dataset.verify() == []


def test_a_bad_first_movie_does_not_set_the_pixel_size(
    tmp_path: Path, generator: torch.Generator
) -> None:
    movies = [_good(tmp_path, name, generator) for name in ("a", "b")]
    write_movie(movies[0], torch.full((6, _SIZE, _SIZE), 5.0), pixel=4.0)
    with pytest.raises(BatchError):
        prepare_movies(movies, tmp_path / "set", _config(3))
    manifest = open_dataset(tmp_path / "set").manifest
    assert [entry.name for entry in manifest.micrographs] == ["b"]
    assert manifest.pixel_size_angstrom == PIXEL_SIZE


def test_nothing_usable_leaves_no_data_set(tmp_path: Path) -> None:
    movies = [tmp_path / "a.mrc", tmp_path / "b.mrc"]
    movies[0].write_bytes(b"")
    with pytest.raises(DatasetError, match="no input could be used") as caught:
        prepare_movies(movies, tmp_path / "set", _config())
    assert all(str(path) in str(caught.value) for path in movies)
    assert not (tmp_path / "set" / "dataset.json").exists()


def test_no_usable_pair_leaves_no_data_set(tmp_path: Path) -> None:
    pair = HalfPair("m", tmp_path / "a.mrc", tmp_path / "b.mrc")
    with pytest.raises(DatasetError, match=r"a\.mrc: does not exist"):
        prepare_pairs([pair], tmp_path / "set", _config())


def _write_pairs(
    folder: Path, generator: torch.Generator, noise: tuple[float, float], size: int = 128
) -> list[HalfPair]:
    for name in ("m1", "m2", "m3"):
        signal = 10 + smooth_image(generator, size, 3.0)
        for half, sigma in zip("oe", noise, strict=True):
            image = signal + sigma * torch.randn(size, size, generator=generator)
            write_image(folder / f"{name}_{half}.mrc", image, pixel=2.0)
    return match_pairs(f"{folder}/*_o.mrc", f"{folder}/*_e.mrc")


def test_equal_half_sets(tmp_path: Path, generator: torch.Generator) -> None:
    pairs = _write_pairs(tmp_path, generator, (2.0, 2.0))
    said: list[str] = []
    manifest = prepare_pairs(pairs, tmp_path / "set", _config(), say=said.append)
    assert manifest.roles == "exchangeable"
    assert "either half may be input or target" in said[0]
    assert said[1].startswith("check")
    entry = manifest.micrographs[0]
    assert entry.weights == (0.5, 0.5)
    assert entry.sources == ("m1_o.mrc", "m1_e.mrc")
    stack = open_dataset(tmp_path / "set").stack(entry).double()
    assert float(stack.mean(0).std(correction=0)) == pytest.approx(1, rel=_HALF)
    assert float(stack[0].std()) > 1.1


@pytest.mark.parametrize("dose_ratio", [None, 49.0])
@pytest.mark.parametrize("swapped", [False, True])
def test_the_lower_dose_is_group_0(
    tmp_path: Path, generator: torch.Generator, swapped: bool, dose_ratio: float | None
) -> None:
    pairs = _write_pairs(tmp_path, generator, (1.0, 7.0) if swapped else (7.0, 1.0))
    given = None if dose_ratio is None else (1 / dose_ratio if swapped else dose_ratio)
    manifest = prepare_pairs(pairs, tmp_path / "set", _config(dose_ratio=given))
    assert manifest.roles == "input-target"
    assert manifest.dose_ratio == pytest.approx(49, rel=0.5 if dose_ratio is None else 1e-6)
    for entry, pair in zip(manifest.micrographs, pairs, strict=True):
        low, high = (pair.second, pair.first) if swapped else (pair.first, pair.second)
        assert entry.sources == (low.name, high.name)
        assert entry.weights[1] / entry.weights[0] == pytest.approx(manifest.dose_ratio)
        assert entry.std == pytest.approx(50**0.5, rel=0.05)
        stack = open_dataset(tmp_path / "set").stack(entry).double()
        for group in stack:
            assert float(group.mean()) == pytest.approx(0, abs=_HALF)
            assert float(group.std(correction=0)) == pytest.approx(1, rel=_HALF)


_BAD_PAIRS: dict[str, tuple[Callable[[Path], object], str]] = {
    "shape": (lambda p: write_image(p, torch.randn(128, 120), 2.0), "differs in shape"),
    "pixel-size": (lambda p: write_image(p, torch.randn(128, 128), 2.5), "differs in pixel size"),
    "not-a-number": (
        lambda p: write_image(p, torch.full((128, 128), float("nan")), 2.0),
        "NaN or infinite",
    ),
    "constant": (lambda p: write_image(p, torch.zeros(128, 128), 2.0), "is constant"),
    "movie": (lambda p: write_movie(p, torch.randn(3, 128, 128), pixel=2.0), "three-dimensional"),
}


@pytest.mark.parametrize("fault", _BAD_PAIRS)
def test_one_bad_pair_fails_alone(tmp_path: Path, generator: torch.Generator, fault: str) -> None:
    pairs = _write_pairs(tmp_path, generator, (2.0, 2.0))
    spoil, problem = _BAD_PAIRS[fault]
    spoil(pairs[1].second)
    with pytest.raises(BatchError) as caught:
        prepare_pairs(pairs, tmp_path / "set", _config())
    (failure,) = caught.value.failures
    assert str(pairs[1].second) in failure
    assert problem in failure
    assert "\n" not in failure
    manifest = open_dataset(tmp_path / "set").manifest
    assert [entry.name for entry in manifest.micrographs] == ["m1", "m3"]


def test_a_pair_of_another_pixel_size_fails_alone(
    tmp_path: Path, generator: torch.Generator
) -> None:
    pairs = _write_pairs(tmp_path, generator, (2.0, 2.0))
    for path in (pairs[2].first, pairs[2].second):
        write_image(path, torch.randn(128, 128, generator=generator), 2.5)
    with pytest.raises(BatchError, match=r"m3_o\.mrc: has 2\.5 Å/px where most have 2"):
        prepare_pairs(pairs, tmp_path / "set", _config())
    assert len(open_dataset(tmp_path / "set").manifest.micrographs) == 2


def test_a_given_pixel_size_overrides_the_headers(
    tmp_path: Path, generator: torch.Generator
) -> None:
    movies = [_good(tmp_path, "a", generator), _good(tmp_path, "b", generator)]
    write_movie(movies[1], _frames(generator), pixel=3.0)
    config = prepare_config(groups=2, pixel_size_angstrom=1.2)
    assert prepare_movies(movies, tmp_path / "set", config).pixel_size_angstrom == 1.2


def test_real_pairs_given_the_wrong_way_around(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "apoferritin"
    pairs = match_pairs(f"{folder}/*_rest.mrc", f"{folder}/*_frame.mrc")[:2]
    manifest = prepare_pairs(pairs, tmp_path / "set", _config())
    assert manifest.roles == "input-target"
    for entry in manifest.micrographs:
        assert entry.sources[0].endswith("_frame.mrc")
        assert entry.sources[1].endswith("_rest.mrc")
