"""A simulated session on disk: complete, readable, reproducible."""

from __future__ import annotations

import json
from pathlib import Path

import gemmi
import mrcfile
import pytest
import torch

from clearice import __version__, io, simulate
from clearice.config import SimulateConfig
from clearice.errors import InputFileError, OutputError

CPU = torch.device("cpu")
CONFIG = SimulateConfig.model_validate(
    {
        "micrographs": 2,
        "size": 96,
        "frames": 3,
        "pixel_size_angstrom": 4.0,
        "seed": 7,
        "dose_e_per_A2": 20.0,
    }
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("session") / "new" / "folder"
    told: list[tuple[int, int]] = []
    paths = simulate.run(CONFIG, folder, CPU, lambda done, total: told.append((done, total)))
    assert paths == [folder / "movies" / f"mic_000{i}.mrc" for i in range(2)]
    assert told == [(1, 2), (2, 2)]
    return folder


def test_every_file_is_there_and_nothing_else(session: Path) -> None:
    found = sorted(str(p.relative_to(session)) for p in session.rglob("*") if p.is_file())
    assert found == [
        "movies/mic_0000.mrc",
        "movies/mic_0001.mrc",
        "particles.star",
        "simulation.json",
        "truth/mic_0000.mrc",
        "truth/mic_0001.mrc",
    ]


def test_movies_and_truth_hold_what_was_simulated(session: Path) -> None:
    specimen = simulate.load_specimen("barrel", CONFIG.seed)
    for index in range(2):
        expected = simulate.simulate_movie(specimen, CONFIG, index, CPU)
        movie = io.open_movie(session / "movies" / f"mic_000{index}.mrc")
        assert (len(movie.frames), movie.height, movie.width) == (3, 96, 96)
        assert movie.pixel_size_angstrom == 4.0
        for frame in range(3):
            assert torch.equal(movie.frames[frame], expected.frames[frame])
        truth = io.read_micrograph(session / "truth" / f"mic_000{index}.mrc")
        assert torch.equal(truth.pixels, expected.truth)
        assert truth.pixel_size_angstrom == 4.0


def test_counts_are_kept_as_whole_numbers(session: Path, tmp_path: Path) -> None:
    def dtype(path: Path) -> str:
        with mrcfile.open(path) as handle:
            return str(handle.data.dtype)

    # About 107 counts a pixel and frame: some above 127, so they need 16 bits.
    assert dtype(session / "movies" / "mic_0000.mrc") == "uint16"
    dim = CONFIG.model_copy(update={"dose_e_per_A2": 2.0, "micrographs": 1})
    (path,) = simulate.run(dim, tmp_path, CPU)
    assert dtype(path) == "int8"


def test_counts_beyond_16_bits_are_not_wrapped(tmp_path: Path) -> None:
    bright = CONFIG.model_copy(
        update={
            "dose_e_per_A2": 1000.0,
            "pixel_size_angstrom": 20.0,
            "frames": 2,
            "micrographs": 1,
            "particle_fill": 0.0,
            "ice_gradient": 0.0,
        }
    )
    (path,) = simulate.run(bright, tmp_path, CPU)
    mean = float(io.open_movie(path).frames[0].mean())
    assert mean == pytest.approx(1000.0 * 20**2 / 2, rel=1e-2)


def test_particles_are_listed_for_their_micrograph(session: Path) -> None:
    block = gemmi.cif.read(str(session / "particles.star")).find_block("particles")
    rows = block.find("_rln", ["MicrographName", "CoordinateX", "CoordinateY"])
    specimen = simulate.load_specimen("barrel", CONFIG.seed)
    for index in range(2):
        expected = simulate.simulate_movie(specimen, CONFIG, index, CPU).xy_px.tolist()
        found = [
            [float(row[1]), float(row[2])]
            for row in rows
            if gemmi.cif.as_string(row[0]) == f"mic_000{index}.mrc"
        ]
        assert len(found) == len(expected) > 0
        for place, wanted in zip(found, expected, strict=True):
            assert place == pytest.approx(wanted, abs=6e-4)


def test_the_parameters_make_the_session_again(session: Path, tmp_path: Path) -> None:
    record = json.loads((session / "simulation.json").read_text())
    assert record["clearice_version"] == __version__
    assert record["heavy_atoms"] > 30_000
    assert "barrel" in record["specimen"]
    assert sorted(record["micrographs"]) == ["mic_0000.mrc", "mic_0001.mrc"]
    for physics in record["micrographs"].values():
        assert 8_000 <= physics["defocus_angstrom"] <= 28_000
    again = SimulateConfig.model_validate(record["config"])
    assert again == CONFIG
    (path, _) = simulate.run(again, tmp_path, CPU)
    first, second = (io.open_movie(p) for p in (session / "movies" / path.name, path))
    for frame in range(3):
        assert torch.equal(first.frames[frame], second.frames[frame])


def test_a_session_without_particles_is_written(tmp_path: Path) -> None:
    empty = CONFIG.model_copy(update={"particle_fill": 0.0, "micrographs": 1})
    simulate.run(empty, tmp_path, CPU)
    assert (tmp_path / "particles.star").exists()


def test_a_place_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="--out"):
        simulate.run(CONFIG, tmp_path / "file", CPU)


def test_a_missing_specimen_leaves_nothing_behind(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"specimen": str(tmp_path / "none.pdb")})
    with pytest.raises(InputFileError, match=r"none\.pdb"):
        simulate.run(config, tmp_path / "out", CPU)
    assert not (tmp_path / "out").exists()
