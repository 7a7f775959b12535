"""Movies of any kind into a data set: gain, defects, motion, exposure, events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor

from clearice import io
from clearice.data import open_dataset
from clearice.errors import BatchError, ConfigError, DatasetError, InputFileError
from clearice.fourier import gaussian_lowpass, shift_spectrum
from clearice.prepare import find_inputs, prepare_inputs, prepare_movies, split
from clearice.prepare.exposure import exposure_weights
from clearice.types import InputItem, Movie
from eer_files import SEVEN_BIT, metadata_xml, random_events, write_eer
from helpers import prepare_config, write_movie

_SIZE = 96


def _specimen(generator: torch.Generator, size: int = _SIZE) -> Tensor:
    image = gaussian_lowpass(torch.randn(size, size, generator=generator), 1.5)
    return 8 + 2 * image / image.std()


def _moved(image: Tensor, shift: tuple[float, float]) -> Tensor:
    spectrum = shift_spectrum(torch.fft.rfft2(image), image.shape[1], shift)
    return torch.fft.irfft2(spectrum, s=tuple(image.shape))


def _counts(expected: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    stacked = expected.expand(frames, *expected.shape[-2:]) if expected.ndim == 2 else expected
    return torch.poisson(stacked.clamp(min=0), generator=generator)


def _stacks(folder: Path) -> list[Tensor]:
    dataset = open_dataset(folder)
    return [dataset.stack(entry).float() for entry in dataset.manifest.micrographs]


def test_gain_and_defects_are_applied_before_the_frames_are_added(
    tmp_path: Path, generator: torch.Generator
) -> None:
    sensitivity = 1 + 0.2 * torch.randn(_SIZE, _SIZE, generator=generator).clamp(-2, 2)
    sensitivity[10, 20] = 0.0
    specimen = 20 * _specimen(generator)
    raw = _counts(specimen * sensitivity, 8, generator)
    gain = torch.where(sensitivity > 0, 1 / sensitivity, 0.0)
    io.write_mrc(tmp_path / "gain.mrc", gain, 1.0)
    raw[:, 40, 50] = 5000.0
    (tmp_path / "defects.txt").write_text("50 40 1 1\n")
    movie = write_movie(tmp_path / "m" / "a.mrc", raw)
    config = prepare_config(groups=2, gain=tmp_path / "gain.mrc", defects=tmp_path / "defects.txt")
    said: list[str] = []
    prepare_movies([movie], tmp_path / "set", config, say=said.append)
    (stack,) = _stacks(tmp_path / "set")
    expected = (specimen - specimen.mean()) / specimen.std()
    assert (
        float(torch.corrcoef(torch.stack([stack.mean(0).flatten(), expected.flatten()]))[0, 1])
        > 0.9
    )
    assert float(stack.abs().max()) < 8
    assert any(line.startswith("gain reference: right") for line in said)


def test_a_gain_that_is_turned_is_refused_with_the_right_turn(
    tmp_path: Path, generator: torch.Generator
) -> None:
    sensitivity = 1 + 0.2 * torch.randn(_SIZE, _SIZE, generator=generator).clamp(-2, 2)
    movie = write_movie(
        tmp_path / "a.mrc", _counts(20 * _specimen(generator) * sensitivity, 8, generator)
    )
    io.write_mrc(tmp_path / "gain.mrc", torch.rot90(1 / sensitivity), 1.0)
    with pytest.raises(InputFileError, match=r"gain\.mrc: is turned wrongly .*--gain-rotation"):
        prepare_movies([movie], tmp_path / "set", prepare_config(gain=tmp_path / "gain.mrc"))
    assert not (tmp_path / "set" / "dataset.json").exists()


def test_a_gain_of_another_size_stops_what_it_does_not_fit(
    tmp_path: Path, generator: torch.Generator
) -> None:
    movie = write_movie(tmp_path / "a.mrc", _counts(_specimen(generator), 8, generator))
    io.write_mrc(tmp_path / "gain.mrc", torch.ones(50, 60), 1.0)
    with pytest.raises(InputFileError, match=r"gain\.mrc: is 60×50 px"):
        prepare_movies([movie], tmp_path / "set", prepare_config(gain=tmp_path / "gain.mrc"))


def test_motion_is_found_undone_and_recorded(tmp_path: Path, generator: torch.Generator) -> None:
    size = 160
    specimen = 30 * _specimen(generator, size)
    path = [(0.6 * i, -0.35 * i) for i in range(12)]
    raw = _counts(torch.stack([_moved(specimen, shift) for shift in path]), 12, generator)
    movie = write_movie(tmp_path / "a.mrc", raw)
    for align in ("none", "global"):
        prepare_movies([movie], tmp_path / align, prepare_config(groups=2, align=align))
    (entry,) = open_dataset(tmp_path / "global").manifest.micrographs
    assert entry.shifts_px is not None
    found, true = torch.tensor(entry.shifts_px), torch.tensor(path)
    torch.testing.assert_close(found, true - true.mean(0), rtol=0, atol=0.2)
    (still,), (moved,) = _stacks(tmp_path / "none"), _stacks(tmp_path / "global")
    centre = (true.mean(0)[0].item(), true.mean(0)[1].item())
    truth = _moved(specimen, centre).flatten()

    def correlation(stack: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([stack.mean(0).flatten(), truth]))[0, 1])

    assert correlation(moved) > 0.97 > correlation(still) + 0.05


def test_shifting_and_weighting_keep_the_noise_white(generator: torch.Generator) -> None:
    size, frames = 64, 8
    noise = torch.randn(frames, size, size, generator=generator)
    movie = Movie(Path("m.mrc"), list(noise), size, size, 1.0)
    shifts = 3 * torch.randn(frames, 2, generator=generator)
    weights = exposure_weights(frames, 5.0, (size, size), 1.0, 300.0)
    half_set = split(movie, 2, shifts_px=shifts, weights=weights)
    power = torch.fft.fft2(half_set.groups).abs().square().mean(0) / size**2
    # A mean of four frames has a quarter of the noise, at every frequency.
    rings = torch.fft.fftfreq(size)[:, None].hypot(torch.fft.fftfreq(size)[None])
    for low, high in ((0.02, 0.15), (0.15, 0.3), (0.3, 0.5)):
        ring = (rings > low) & (rings <= high)
        expected, error = 0.25, 0.25 / ring.sum().sqrt()
        assert abs(float(power[ring].mean()) - expected) < 5 * float(error)


def test_exposure_that_is_not_known_is_asked_for(
    tmp_path: Path, generator: torch.Generator
) -> None:
    movie = write_movie(tmp_path / "a.mrc", _counts(_specimen(generator), 8, generator))
    with pytest.raises(DatasetError, match="give --dose"):
        prepare_movies([movie], tmp_path / "set", prepare_config(dose_weight=True))
    config = prepare_config(groups=2, dose_weight=True, dose_e_per_A2=40.0)
    plain = prepare_config(groups=2)
    prepare_movies([movie], tmp_path / "weighted", config)
    prepare_movies([movie], tmp_path / "plain", plain)
    (weighted,), (unweighted,) = _stacks(tmp_path / "weighted"), _stacks(tmp_path / "plain")
    assert not torch.allclose(weighted, unweighted, atol=0.05)


def test_tiff_and_mrc_of_one_movie_give_one_data_set(
    tmp_path: Path, generator: torch.Generator
) -> None:
    raw = _counts(_specimen(generator), 8, generator)
    mrc = write_movie(tmp_path / "a.mrc", raw, dtype="int8")
    # Rows of a TIFF come from the top.
    tifffile.imwrite(
        tmp_path / "b.tif", np.flip(raw.numpy().astype(np.uint8), 1), compression="lzw"
    )
    items = [InputItem(mrc), InputItem(tmp_path / "b.tif", pixel_size_angstrom=1.5)]
    prepare_movies(items, tmp_path / "set", prepare_config(groups=4))
    first, second = _stacks(tmp_path / "set")
    assert torch.equal(first, second)


def test_events_become_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [random_events(rng, (64, 64), 600) for _ in range(24)]
    path = tmp_path / "a.eer"
    write_eer(path, frames, (64, 64), SEVEN_BIT)
    config = prepare_config(groups=3, frames_per_fraction=4, pixel_size_angstrom=1.0)
    prepare_movies([path], tmp_path / "set", config)
    (entry,) = open_dataset(tmp_path / "set").manifest.micrographs
    assert entry.shape == (3, 64, 64)
    assert entry.mean == pytest.approx(4 * 600 / 64**2, rel=1e-6)


def test_bad_movies_of_every_kind_leave_the_others(
    tmp_path: Path, generator: torch.Generator
) -> None:
    raw = _counts(_specimen(generator), 8, generator).numpy().astype(np.uint8)
    folder = tmp_path / "movies"
    folder.mkdir()
    for name in ("good1", "short", "good2"):
        tifffile.imwrite(folder / f"{name}.tif", raw, compression="lzw")
    whole = (folder / "short.tif").read_bytes()
    (folder / "short.tif").write_bytes(whole[: len(whole) // 2])
    rng = np.random.default_rng(0)
    events = [random_events(rng, (64, 64), 50) for _ in range(6)]
    write_eer(
        folder / "few.eer",
        events,
        (64, 64),
        SEVEN_BIT,
        metadata=metadata_xml(numberOfFrames=(80, "")),
    )
    (folder / "text.tif").write_text("no image")
    (tmp_path / "movies.star").write_text(
        "data_movies\nloop_\n_rlnMicrographMovieName\n"
        + "".join(f"movies/{n}\n" for n in ("good1.tif", "gone.tif"))
    )
    config = prepare_config(groups=2, pixel_size_angstrom=1.0, frames_per_fraction=1)
    with pytest.raises(BatchError) as caught:
        prepare_inputs(find_inputs([folder]), tmp_path / "set", config)
    assert {Path(f.split(":")[0]).name for f in caught.value.failures} == {
        "short.tif",
        "few.eer",
        "text.tif",
    }
    assert caught.value.exit_code == 2
    assert all("\n" not in failure for failure in caught.value.failures)
    dataset = open_dataset(tmp_path / "set")
    assert [entry.name for entry in dataset.manifest.micrographs] == ["good1", "good2"]
    assert dataset.verify() == []
    with pytest.raises(BatchError, match=r"gone\.tif: does not exist"):
        prepare_inputs(find_inputs([tmp_path / "movies.star"]), tmp_path / "listed", config)
    assert len(open_dataset(tmp_path / "listed").manifest.micrographs) == 1


def test_movies_and_halves_are_not_mixed(tmp_path: Path, generator: torch.Generator) -> None:
    write_movie(tmp_path / "movies" / "a.mrc", _counts(_specimen(generator), 4, generator))
    for half in ("EVN", "ODD"):
        io.ensure_folder(tmp_path / "halves")
        io.write_mrc(tmp_path / "halves" / f"b_{half}.mrc", _specimen(generator), 1.0)
    inputs = find_inputs([tmp_path / "movies", tmp_path / "halves"])
    with pytest.raises(ConfigError, match="1 movies and 1 pairs"):
        prepare_inputs(inputs, tmp_path / "set", prepare_config())


def test_a_list_without_any_usable_movie_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("no image")
    with pytest.raises(DatasetError, match=r"no input could be used:\n.*a\.tif"):
        prepare_movies([tmp_path / "a.tif"], tmp_path / "set", prepare_config())


@pytest.mark.parametrize("align", ["none", "global"])
def test_hot_pixels_are_replaced_before_they_spread(
    tmp_path: Path, generator: torch.Generator, align: str
) -> None:
    raw = _counts(3 * _specimen(generator), 8, generator)
    hot = [(5, 7), (40, 41), (90, 3)]
    for row, column in hot:
        raw[:, row, column] += 400
    movie = write_movie(tmp_path / "a.mrc", raw)
    for name, replaced in (("with", True), ("without", False)):
        config = prepare_config(groups=2, align=align, hot_pixels=replaced)
        prepare_movies([movie], tmp_path / name, config)
    entry, kept = (open_dataset(tmp_path / n).manifest.micrographs[0] for n in ("with", "without"))
    assert (entry.hot_pixels, kept.hot_pixels) == (3, 0)
    (clean,), (dirty,) = _stacks(tmp_path / "with"), _stacks(tmp_path / "without")
    rows, columns = zip(*hot, strict=True)
    assert float(dirty[:, rows, columns].min()) > 8
    assert float(clean[:, rows, columns].abs().max()) < 5
