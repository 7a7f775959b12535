"""STAR list in, STAR lists out: all columns and optics groups kept, raw images beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clearice import io
from clearice.denoise import Denoiser, denoise_files
from clearice.errors import BatchError, ConfigError, InputFileError
from helpers import CPU, write_image, write_model

_LISTS = ("corrected_micrographs.star", "micrographs_ctf.star")


@pytest.fixture
def denoiser(tmp_path: Path) -> Denoiser:
    """A three-layer network with random weights."""
    return Denoiser(write_model(tmp_path / "model.safetensors"), CPU)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder, from which the paths of its lists start."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", _LISTS)
def test_real_lists(
    test_data: Path, project: Path, denoiser: Denoiser, generator: torch.Generator, name: str
) -> None:
    given = project / name
    given.write_bytes((test_data / "star" / name).read_bytes())
    before = io.read_star(given)
    names = before["micrographs"]["rlnMicrographName"]
    for micrograph in names:
        write_image(project / micrograph, torch.randn(20, 24, generator=generator), 3.0)
    (project / names[1]).write_bytes(b"")
    with pytest.raises(BatchError, match=f"1 of {len(names)} failed"):
        denoise_files([Path(name)], denoiser, Path("out"))
    kept = [row for row in range(len(names)) if row != 1]
    expected = {k: [column[row] for row in kept] for k, column in before["micrographs"].items()}
    denoised = [f"out/Movies/{Path(names[row]).name}" for row in kept]
    after = io.read_star(Path("out/micrographs_denoised.star"))
    assert after["optics"] == before["optics"]
    assert after["micrographs"] == {**expected, "rlnMicrographName": denoised}
    assert all(Path(file).is_file() for file in denoised)
    pairs = io.read_star(Path("out/micrographs_pairs.star"))
    assert pairs["optics"] == before["optics"]
    assert pairs["micrographs"] == {**expected, "rlnMicrographNameDenoised": denoised}
    # The list knows the pixel size better than the header.
    assert io.read_micrograph(Path(denoised[0])).pixel_size_angstrom == pytest.approx(0.885)
    assert [item.path for item in io.read_input_list(Path("out/micrographs_denoised.star"))] == [
        Path(file) for file in denoised
    ]


@pytest.mark.parametrize(
    ("names", "places"),
    [
        pytest.param(
            ["MotionCorr/job002/grid1/a.mrc", "MotionCorr/job002/grid2/a.mrc"],
            ["grid1/a.mrc", "grid2/a.mrc"],
            id="one job",
        ),
        pytest.param(
            ["MotionCorr/job002/grid1/a.mrc", "MotionCorr/job1012/b.mrc"],
            ["grid1/a.mrc", "b.mrc"],
            id="two jobs",
        ),
        pytest.param(
            ["MotionCorr/job002/grid1/a.mrc", "MotionCorr/job012/grid1/a.mrc"],
            ["job002/grid1/a.mrc", "job012/grid1/a.mrc"],
            id="two jobs with files of one name",
        ),
        pytest.param(
            ["raw/grid1/a.mrc", "raw/grid2/job12.mrc"],
            ["grid1/a.mrc", "grid2/job12.mrc"],
            id="none",
        ),
    ],
)
def test_results_of_a_list_lie_as_in_relions_tree(
    project: Path,
    denoiser: Denoiser,
    generator: torch.Generator,
    names: list[str],
    places: list[str],
) -> None:
    for name in names:
        write_image(project / name, torch.randn(20, 24, generator=generator))
    io.write_star(project / "list.star", {"": {"rlnMicrographName": names}})
    denoise_files([Path("list.star")], denoiser, Path("out"))
    table = io.read_star(Path("out/micrographs_pairs.star"))[""]
    assert table["rlnMicrographNameDenoised"] == [f"out/{place}" for place in places]
    assert table["rlnMicrographName"] == names


def test_lists_that_cannot_be_used(test_data: Path, project: Path, denoiser: Denoiser) -> None:
    movies = test_data / "star" / "movie_frameImage.star"
    with pytest.raises(InputFileError, match="lists no micrographs; give a list with") as caught:
        denoise_files([movies], denoiser, Path("out"))
    assert str(movies) in str(caught.value)
    with pytest.raises(InputFileError, match="does not exist"):
        denoise_files([Path("none.star")], denoiser, Path("out"))
    with pytest.raises(ConfigError, match="give it alone"):
        denoise_files([movies, Path("a.mrc")], denoiser, Path("out"))
    assert not Path("out").exists()
