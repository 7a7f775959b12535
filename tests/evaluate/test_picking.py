"""`clearice evaluate picking` on simulated micrographs: what it finds, and what it refuses."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from clearice import cli, io, simulate
from clearice.config import SimulateConfig
from clearice.evaluate import PickingSettings, match_cases, score_picking
from clearice.evaluate.picking import LOWPASS_SIGMAS, lowpass_name
from clearice.fourier import gaussian_lowpass
from clearice.types import ParticlePicks
from helpers import CPU, write_image

Capture = pytest.CaptureFixture[str]
DIAMETER = 150.0


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what `cli.run` installs."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three micrographs of barrels: two halves, truth and coordinates."""
    folder = tmp_path_factory.mktemp("session")
    config = SimulateConfig(
        micrographs=3, size=256, frames=2, pixel_size_angstrom=6.0, dose_e_per_A2=8.0, seed=4
    )
    for movie in simulate.run(config, folder, CPU):
        for half, frame in (("raw", 0), ("other", 1)):
            write_image(folder / half / movie.name, io.open_movie(movie).frames[frame], 6.0)
    return folder


def _score(session: Path, denoised: Path | str = "truth", **settings: Any) -> dict[str, Any]:
    cases = match_cases(session / denoised, session / "raw")
    options = PickingSettings(DIAMETER, draws=200, **settings)
    return score_picking(cases, session / "particles.star", options).values


def test_particles_of_the_truth_are_found_where_simulate_says(session: Path) -> None:
    # Rows, columns and their direction, the contrast and the diameter must all be right for this.
    values = _score(session)
    truth, raw = values["methods"]["denoised"], values["methods"]["raw"]
    assert values["particles"] > 60
    assert truth["average_precision"] > 0.97
    assert truth["recall_at_precision"] > 0.97
    assert raw["average_precision"] < 0.9
    gain = values["denoised_minus"]["best_lowpass"]
    assert 0 < gain["interval_95"][0] < gain["difference"] < gain["interval_95"][1]


def test_turned_coordinates_do_not_fit(session: Path, tmp_path: Path) -> None:
    table = io.read_star(session / "particles.star")["particles"]
    names = sorted(set(table["rlnMicrographName"]))
    rows = list(zip(table["rlnMicrographName"], *_xy(table), strict=True))
    for turned in (
        [(name, y, x) for name, x, y in rows],
        [(name, x, 255 - y) for name, x, y in rows],
    ):
        picks = [ParticlePicks(n, [(x, y) for at, x, y in turned if at == n]) for n in names]
        io.write_coordinates(tmp_path / "turned.star", picks)
        cases = match_cases(session / "truth", session / "raw")
        values = score_picking(
            cases, tmp_path / "turned.star", PickingSettings(DIAMETER, bright=False, draws=5)
        ).values
        assert values["methods"]["denoised"]["average_precision"] < 0.3


def _xy(table: dict[str, list[str]]) -> tuple[list[float], list[float]]:
    x, y = (list(map(float, table[f"rlnCoordinate{axis}"])) for axis in "XY")
    return x, y


def test_the_contrast_is_seen_at_the_coordinates(session: Path, tmp_path: Path) -> None:
    for file in (session / "truth").iterdir():
        write_image(tmp_path / file.name, -io.read_micrograph(file).pixels, 6.0)
    cases = match_cases(tmp_path, tmp_path)
    coordinates = session / "particles.star"
    values = score_picking(cases, coordinates, PickingSettings(DIAMETER, draws=5)).values
    assert values["settings"]["bright"] is True
    assert values["methods"]["raw"]["average_precision"] > 0.97
    dark = PickingSettings(DIAMETER, bright=False, draws=5)
    values = score_picking(cases, coordinates, dark).values
    assert values["methods"]["raw"]["average_precision"] < 0.3


def test_a_lowpassed_micrograph_scores_as_the_lowpass_of_the_raw_one(
    session: Path, tmp_path: Path
) -> None:
    share = LOWPASS_SIGMAS[3]
    for file in (session / "raw").iterdir():
        image = gaussian_lowpass(io.read_micrograph(file).pixels, share * DIAMETER / 6.0)
        write_image(tmp_path / file.name, image, 6.0)
    methods = _score(session, tmp_path)["methods"]
    same = methods[lowpass_name(share * DIAMETER)]["average_precision"]
    assert methods["denoised"]["average_precision"] == pytest.approx(same, abs=0.06)  # edges differ


def test_one_micrograph_has_no_interval_and_draws_repeat(session: Path) -> None:
    again = [_score(session)["denoised_minus"] for _ in range(2)]
    assert again[0] == again[1]
    assert _score(session, bright=False)["denoised_minus"] == again[0]
    one = match_cases(session / "truth" / "mic_0000.mrc", session / "raw" / "mic_0000.mrc")
    values = score_picking(one, session / "particles.star", PickingSettings(DIAMETER)).values
    assert values["methods"]["raw"]["average_precision_95"] is None


def _run(capsys: Capture, code: int, *arguments: str | Path) -> tuple[str, str]:
    capsys.readouterr()
    assert cli.run(["evaluate", "picking", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def _options(session: Path, out: Path, **changed: str | Path) -> list[str | Path]:
    options: dict[str, str | Path] = {
        "denoised": session / "truth",
        "raw": session / "raw",
        "coordinates": session / "particles.star",
        "diameter": "150",
        "out": out / "picking.json",
    }
    return [part for key, value in (options | changed).items() for part in (f"--{key}", value)]


def test_the_command_prints_a_table_and_writes_json(
    session: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, _ = _run(capsys, 0, *_options(session, tmp_path, reference=session / "other"))
    for word in ("raw", "(best)", "wiener", "denoised", "denoised − low-pass"):
        assert word in out
    values = json.loads((tmp_path / "picking.json").read_text())
    assert values["settings"]["tolerance"] == 0.25
    assert values["methods"]["wiener"]["average_precision"] > 0.3
    curve = values["methods"]["denoised"]["curve"]
    assert len(curve["recall"]) == len(curve["precision"]) <= 200


def test_micrographs_without_coordinates_are_left_out_and_said(
    session: Path, tmp_path: Path, capsys: Capture
) -> None:
    table = io.read_star(session / "particles.star")["particles"]
    rows = zip(table["rlnMicrographName"], *_xy(table), strict=True)
    some = [(x, y) for name, x, y in rows if name == "mic_0001.mrc"]
    io.write_coordinates(tmp_path / "some.star", [ParticlePicks("mic_0001.mrc", some)])
    _, err = _run(capsys, 0, *_options(session, tmp_path, coordinates=tmp_path / "some.star"))
    assert "no coordinates of mic_0000, mic_0002" in err
    assert json.loads((tmp_path / "picking.json").read_text())["micrographs"] == ["mic_0001"]


def test_mistakes_are_said_in_one_line(session: Path, tmp_path: Path, capsys: Capture) -> None:
    far = tmp_path / "far.star"
    io.write_coordinates(far, [ParticlePicks("mic_0000.mrc", [(700, 20)])])
    cases: list[tuple[dict[str, str | Path], str]] = [
        ({"diameter": "-3"}, "--diameter"),
        ({"coordinates": tmp_path / "none.star"}, "does not exist"),
        ({"coordinates": far}, "outside of its 256 × 256 px"),
        ({"raw": session / "movies" / "mic_0000.mrc"}, "no partner"),
        ({"diameter": "1600"}, "no particle away from the edges"),
    ]
    for changed, expected in cases:
        _, err = _run(capsys, 2, *_options(session, tmp_path, **changed))
        assert expected in err
        assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "picking.json").exists()


def test_a_damaged_micrograph_does_not_stop_the_others(
    session: Path, tmp_path: Path, capsys: Capture
) -> None:
    for file in (session / "truth").iterdir():
        data = file.read_bytes()
        keep = len(data) // 2 if file.name == "mic_0001.mrc" else len(data)
        (tmp_path / file.name).write_bytes(data[:keep])
    out, err = _run(capsys, 2, *_options(session, tmp_path / "o", denoised=tmp_path))
    assert "1 of 3 failed; the others were done" in err
    assert "denoised − raw" in out
