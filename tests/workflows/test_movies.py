"""Movies straight to denoised micrographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from clearice import cli, io, prepare
from clearice.config import PrepareConfig
from clearice.data import Split
from clearice.denoise import Denoiser, denoise_dataset
from helpers import CPU, write_image, write_model, write_movie

_SHAPE = (8, 64, 72)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A three-layer network with random weights."""
    return write_model(tmp_path / "model.safetensors")


@pytest.fixture
def movies(tmp_path: Path) -> Path:
    """Two movies of counts, seen through a gain that is written beside them."""
    folder = tmp_path / "movies"
    folder.mkdir()
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        frames = torch.poisson(torch.full(_SHAPE, 5.0), generator=generator)
        write_movie(folder / f"m{seed}.mrc", frames)
    gain = 1 + 0.1 * torch.rand(_SHAPE[1:], generator=torch.Generator().manual_seed(9))
    write_image(tmp_path / "gain.mrc", gain)
    return folder


def _run(movies: Path, model: Path, out: Path, *options: str) -> int:
    inputs = [str(path) for path in sorted(movies.glob("*"))]
    given = ["--model", str(model), "--out", str(out), "--device", "cpu"]
    return cli.run(["denoise", "--movies", *inputs, *given, *options])


def test_they_are_denoised_as_the_data_set_of_the_same_movies_would_be(
    tmp_path: Path, movies: Path, model: Path
) -> None:
    out = tmp_path / "out"
    assert _run(movies, model, out, "--gain", str(tmp_path / "gain.mrc"), "--halves") == 0
    config = PrepareConfig(
        groups=2, gain=tmp_path / "gain.mrc", validation_fraction=0, test_fraction=0
    )
    prepare.prepare_inputs(prepare.find_inputs([movies]), tmp_path / "set", config)
    denoise_dataset(
        tmp_path / "set", Denoiser(model, CPU), tmp_path / "by-hand", Split.TRAIN, halves=True
    )
    for part in ("", "_even", "_odd"):
        for name in ("m0.mrc", "m1.mrc"):
            ours, other = (f / f"denoised{part}" / name for f in (out, tmp_path / "by-hand"))
            assert torch.equal(io.read_image(ours), io.read_image(other))


def test_the_same_command_goes_on(
    tmp_path: Path, movies: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _run(movies, model, out) == 0
    (out / "denoised" / "m1.mrc").unlink()
    before = (out / "denoised" / "m0.mrc").stat().st_mtime_ns
    capsys.readouterr()
    assert _run(movies, model, out) == 0
    said = capsys.readouterr().err
    assert "2 movies are prepared already" in said
    assert "1 of 2 are done already" in said
    assert (out / "denoised" / "m0.mrc").stat().st_mtime_ns == before
    assert (out / "denoised" / "m1.mrc").exists()
    assert _run(movies, model, out, "--gain", str(tmp_path / "gain.mrc")) == 2
    assert "with other settings; choose another --out" in capsys.readouterr().err


def test_a_bad_movie_is_told_and_the_others_are_denoised(
    tmp_path: Path, movies: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (movies / "m1.mrc").read_bytes()
    (movies / "m1.mrc").write_bytes(whole[:3000])
    for _ in range(2):  # also by the run that finds the others prepared
        assert _run(movies, model, tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert "1 of 2 failed; the others were done" in said
        assert str(movies / "m1.mrc") in said
    assert [path.name for path in (tmp_path / "out" / "denoised").glob("*.mrc")] == ["m0.mrc"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "tiff"], "--format: for micrographs, not for movies"),
        (["--split", "test"], "--split: for a data set, not for movies"),
    ],
)
def test_options_of_other_inputs_are_refused(
    tmp_path: Path,
    movies: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[Any],
    said: str,
) -> None:
    assert _run(movies, model, tmp_path / "out", *options) == 2
    assert said in capsys.readouterr().err


def test_micrographs_are_no_movies(
    tmp_path: Path, movies: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["denoise", str(movies / "m0.mrc"), "--model", str(model), "--out", "o"]) == 2
    assert "--movies" in capsys.readouterr().err
    write_image(movies / "single.mrc", 30 + torch.randn(64, 72))
    assert _run(movies, model, tmp_path / "out") == 2
    assert "single.mrc" in capsys.readouterr().err
