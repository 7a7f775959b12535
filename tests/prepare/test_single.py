"""Micrographs without halves: found, read, and written as stacks of one image."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clearice.data import open_dataset
from clearice.errors import BatchError, ConfigError, DatasetError, InputFileError, PairingError
from clearice.io import read_micrograph
from clearice.prepare import find_single, format_discovery, prepare_inputs
from clearice.prepare.single import Neighbours, compare_neighbours, judge_neighbours
from helpers import PIXEL_SIZE, prepare_config, smooth_image, write_image, write_movie

_SIZE = 64


def _image(generator: torch.Generator, size: int = _SIZE, noise: float = 4.0) -> Tensor:
    return (
        200 + smooth_image(generator, size) + noise * torch.randn(size, size, generator=generator)
    )


def _folder(folder: Path, *names: str, size: int = _SIZE) -> Path:
    generator = torch.Generator().manual_seed(4)
    for name in names:
        write_image(folder / f"{name}.mrc", _image(generator, size))
    return folder


def _found(*paths: Path) -> list[str]:
    return [item.path.name for item in find_single(paths).singles]


def test_a_stack_of_one_normalised_image(tmp_path: Path) -> None:
    names = [f"m{index}" for index in range(5)]
    folder = _folder(tmp_path / "in", *names)
    config = prepare_config(validation_fraction=0.2, test_fraction=0.2)
    said: list[str] = []
    made = prepare_inputs(find_single([folder]), tmp_path / "set", config, say=said.append)
    data = open_dataset(tmp_path / "set")
    assert data.manifest == made
    assert made.roles == "single"
    assert (made.dose_ratio, made.target_gain, made.pixel_size_angstrom) == (1, 1, PIXEL_SIZE)
    assert sorted(e.split.value for e in made.micrographs) == ["test", *["train"] * 3, "validation"]
    assert data.verify() == []
    for entry in made.micrographs:
        stack = data.stack(entry).float()
        assert stack.shape == entry.shape == (1, _SIZE, _SIZE)
        assert entry.weights == (1.0,)
        assert float(stack.mean()) == pytest.approx(0, abs=1e-3)
        assert float(stack.std(correction=0)) == pytest.approx(1, abs=1e-3)
        assert entry.mean == pytest.approx(200, abs=1)
        assert entry.sources == (f"{entry.name}.mrc",)
    assert any("--target masked" in line for line in said)
    (check,) = made.checks
    assert (check["name"], check["verdict"]) == ("noise of neighbours", "ok")


def test_truth_is_on_the_scale_of_the_image(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    signal = 200 + smooth_image(generator, _SIZE)
    noise = torch.randn(_SIZE, _SIZE, generator=generator)
    write_image(tmp_path / "in" / "m.mrc", signal + noise - noise.mean())
    write_image(tmp_path / "truth" / "m.mrc", 3 * signal)
    found = find_single([tmp_path / "in"])
    manifest = prepare_inputs(found, tmp_path / "set", prepare_config(), tmp_path / "truth")
    (entry,) = manifest.micrographs
    truth = open_dataset(tmp_path / "set").truth(entry)[0].float()
    torch.testing.assert_close(truth * entry.std + entry.mean, signal, rtol=0, atol=0.01)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    found = find_single([_folder(tmp_path / "in", "a", "b", "c")])
    (tmp_path / "in" / "b.mrc").rename(tmp_path / "b.mrc")
    with pytest.raises(BatchError, match=r"b\.mrc"):
        prepare_inputs(found, tmp_path / "set", prepare_config())
    first = open_dataset(tmp_path / "set").manifest
    assert [entry.name for entry in first.micrographs] == ["a", "c"]


def test_what_was_written_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clearice.data import DatasetWriter

    found = find_single([_folder(tmp_path / "in", "a", "b")])

    def power_cut(*args: object, **kwargs: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(DatasetWriter, "finish", power_cut)
        with pytest.raises(RuntimeError):
            prepare_inputs(found, tmp_path / "set", prepare_config())
    said: list[str] = []
    manifest = prepare_inputs(found, tmp_path / "set", prepare_config(), say=said.append)
    assert any("2 micrographs were there already" in line for line in said)
    assert len(manifest.micrographs) == 2


def test_what_lies_beside_sums_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "MotionCorr"
    names = ("", "_DW", "_PS", "_EVN", "_ODD")
    _folder(folder / "Movies", *(f"{m}{end}" for m in ("m1", "m2") for end in names))
    write_movie(folder / "raw" / "m1_movie.mrc", torch.rand(3, 8, 8))
    write_image(folder / "gain_ref.mrc", torch.rand(8, 8))
    found = find_single([folder])
    assert [item.path.name for item in found.singles] == ["m1.mrc", "m2.mrc"]
    (line,) = found.explanation
    assert "2 single micrographs" in line
    assert "4 halves, left out: prepared without --single they learn more" in line
    assert "6 movies, references, power spectra or second sums, left out" in line


def test_of_two_sums_the_one_whose_noise_is_white(tmp_path: Path) -> None:
    assert _found(_folder(tmp_path, "a_DW", "a_noDW", "b_DW", "c_dws", "c")) == [
        "a_noDW.mrc",
        "b_DW.mrc",
        "c.mrc",
    ]


def test_files_and_patterns_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "a_EVN", "a_ODD", "gain_b")
    assert _found(folder / "a_EVN.mrc", folder / "gain_b.mrc") == ["a_EVN.mrc", "gain_b.mrc"]
    assert _found(folder / "a_*.mrc") == ["a_EVN.mrc", "a_ODD.mrc"]


def test_a_list_gives_its_pixel_size(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "Micrographs", "a", "b")
    star = tmp_path / "micrographs.star"
    star.write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographPixelSize #2\n1 2.5\n\n"
        "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
        f"{folder / 'a.mrc'} 1\n{folder / 'b.mrc'} 1\n"
    )
    found = find_single([star])
    assert [item.path.name for item in found.singles] == ["a.mrc", "b.mrc"]
    assert prepare_inputs(found, tmp_path / "set", prepare_config()).pixel_size_angstrom == 2.5
    other = prepare_inputs(found, tmp_path / "other", prepare_config(pixel_size_angstrom=3.0))
    assert other.pixel_size_angstrom == 3.0


def test_a_list_whose_micrographs_have_halves_says_so(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "a", "a_EVN", "a_ODD", "b")
    star = tmp_path / "micrographs.star"
    rows = "".join(f"{folder / name}.mrc\n" for name in ("a", "b"))
    star.write_text(f"data_micrographs\n\nloop_\n_rlnMicrographName #1\n{rows}")
    found = find_single([star])
    assert [item.path.name for item in found.singles] == ["a.mrc", "b.mrc"]
    assert "1 have halves: prepared without --single they learn more" in found.explanation[0]


def test_a_table_of_what_is_found(tmp_path: Path) -> None:
    text = format_discovery(find_single([_folder(tmp_path, "a", "b")]))
    assert "2 single micrographs" in text
    assert str(tmp_path / "b.mrc") in text


def test_folders_without_single_micrographs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="holds nothing but halves; leave --single out"):
        find_single([_folder(tmp_path / "halves", "a_EVN", "a_ODD")])
    write_movie(tmp_path / "movies" / "a.mrc", torch.rand(3, 8, 8))
    with pytest.raises(InputFileError, match="holds no single micrographs"):
        find_single([tmp_path / "movies"])
    with pytest.raises(InputFileError, match="matches no file"):
        find_single([tmp_path / "*.tif"])


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [_folder(tmp_path / name, "a") for name in ("x", "y")]
    with pytest.raises(PairingError, match="would both be called 'a'"):
        find_single(folders)


def test_one_bad_file_stops_nothing(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "in", "a", "b")
    (folder / "bad.mrc").write_bytes(b"no image")
    write_image(folder / "flat.mrc", torch.ones(_SIZE, _SIZE))
    movie = write_movie(tmp_path / "movie.mrc", torch.rand(3, 8, 8))
    with pytest.raises(BatchError) as caught:
        prepare_inputs(find_single([folder, movie]), tmp_path / "set", prepare_config())
    message = str(caught.value)
    assert "3 of 5 failed" in message
    assert all(name in message for name in ("bad.mrc", "flat.mrc", "movie.mrc"))
    made = open_dataset(tmp_path / "set").manifest
    assert [entry.name for entry in made.micrographs] == ["a", "b"]


def test_none_that_can_be_used(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no input could be used"):
        prepare_inputs(find_single([tmp_path / "none.mrc"]), tmp_path / "set", prepare_config())


@pytest.mark.parametrize(
    ("option", "value"),
    [("groups", 2), ("align", "global"), ("dose_ratio", 2.0), ("fix_pattern", True)],
)
def test_settings_of_movies_and_halves_are_refused(
    tmp_path: Path, option: str, value: object
) -> None:
    found = find_single([_folder(tmp_path / "in", "a")])
    name = f"--{option.replace('_', '-')}"
    with pytest.raises(ConfigError, match=f"{name}: only for movies.*single micrographs"):
        prepare_inputs(found, tmp_path / "set", prepare_config(**{option: value}))
    assert not (tmp_path / "set").exists()


def _soft(image: Tensor) -> Tensor:
    """Return the mean of each pixel and three neighbours, as interpolation by half a pixel does."""
    return (image + image.roll(1, 0) + image.roll(1, 1) + image.roll((1, 1), (0, 1))) / 4


def test_white_noise_has_nothing_in_common_with_its_neighbours(generator: torch.Generator) -> None:
    found = [compare_neighbours(torch.randn(256, 256, generator=generator), 1.5) for _ in range(8)]
    deviations = [n.noise / n.noise_error for n in found]
    assert max(map(abs, deviations)) < 4
    assert 0.3 < float(torch.tensor(deviations).square().mean().sqrt()) < 1.8
    assert all(abs(n.total) < 0.02 for n in found)


def test_the_covariance_of_coloured_noise_is_found_beneath_signal(
    generator: torch.Generator,
) -> None:
    # Noise with power 1 + 2c (cos 2πfx + cos 2πfy), and a signal that only slow waves have.
    c = 0.05
    f = 2 * torch.pi * torch.fft.fftfreq(512)
    power = 1 + 2 * c * (f.cos()[:, None] + f.cos())
    white = torch.randn(512, 512, generator=generator)
    noise = torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real
    signal = 0.5 * smooth_image(generator, 512, 3.0)
    found = compare_neighbours(10 + 7 * (noise + signal), 1.5)
    assert found.noise == pytest.approx(c / 1.25, abs=4 * found.noise_error)
    assert found.noise > 6 * found.noise_error
    # Behind a Gaussian filter of 3 px, neighbours correlate at exp(−1 / (4 · 3²)).
    expected = (c + 0.25 * math.exp(-1 / 36)) / 1.25
    assert found.total == pytest.approx(expected, rel=0.1)


def test_the_verdict_is_over_all_micrographs_and_needs_evidence() -> None:
    def verdict(*found: Neighbours) -> tuple[float, str, str]:
        result = judge_neighbours({f"m{i}": n for i, n in enumerate(found)})
        return result.value, result.verdict, result.worst

    sure, unsure = Neighbours(0.05, 0.004, 0.1), Neighbours(0.05, 0.02, 0.1)
    assert verdict(sure) == (0.5, "warning", "m0")
    assert verdict(unsure) == (0.5, "ok", "m0")
    assert verdict(Neighbours(0.01, 0.001, 0.1), sure)[2] == "m1"
    assert verdict(Neighbours(0.01, 0.001, 0.1))[0] == pytest.approx(0.1)
    assert verdict(Neighbours(0.01, 0.001, 0.1))[1] == "ok"
    assert verdict(Neighbours(-0.01, 0.001, 0.1))[:2] == (0.0, "ok")
    assert verdict(Neighbours(0.001, 0.01, -0.001))[:2] == (0.0, "ok")
    assert verdict(Neighbours(0.0, 1.0, 0.1))[1] == "ok"


def test_an_image_too_small_to_tell() -> None:
    for size in (2, 3):
        assert compare_neighbours(torch.rand(size, size), 1.5).noise_error == 1.0


def test_noise_that_neighbours_share_is_told(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    write_image(tmp_path / "in" / "m.mrc", _soft(_image(generator, 256)))
    said: list[str] = []
    found = find_single([tmp_path / "in"])
    manifest = prepare_inputs(found, tmp_path / "set", prepare_config(), say=said.append)
    (result,) = manifest.checks
    assert (result["name"], result["verdict"]) == ("noise of neighbours", "warning")
    assert result["value"] > 0.3
    assert any("neighbouring pixels share noise" in line for line in said)


def test_real_frames_share_noise(test_data: Path) -> None:
    files = sorted((test_data / "apoferritin").glob("*_frame.mrc"))[:2]
    found = {p.stem: compare_neighbours(read_micrograph(p).pixels, 1.5) for p in files}
    result = judge_neighbours(found)
    assert result.verdict == "warning"
    assert 0.4 < result.value < 0.9
