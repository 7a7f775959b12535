"""`clearice relion`: RELION's command line, and the files by which it tells how a job ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gemmi
import pytest
import torch

from clearice import cli, io
from clearice.workflows import relion
from clearice.workflows.relion import ABORT_NAME, ABORTED_NAME, FAILURE_NAME, SUCCESS_NAME
from helpers import write_image, write_model

Capture = pytest.CaptureFixture[str]
_ENDINGS = (SUCCESS_NAME, FAILURE_NAME, ABORTED_NAME)
_LIST = "CtfFind/job003/micrographs_ctf.star"
_JOB = Path("External/job004/")


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> Iterator[Path]:
    """A project with a list of three micrographs and a model, from which RELION runs programs."""
    monkeypatch.chdir(tmp_path)
    names = [f"MotionCorr/job002/Movies/grid{n}/m{n}.mrc" for n in range(3)]
    for name in names:
        write_image(tmp_path / name, 90 + 9 * torch.randn(20, 24, generator=generator))
    optics = {"rlnOpticsGroup": ["1", "2"], "rlnMicrographPixelSize": ["1.5", "1.6"]}
    micrographs = {
        "rlnMicrographName": names,
        "rlnOpticsGroup": ["1", "2", "1"],
        "rlnMicrographNameEven": [name.replace(".mrc", "_EVN.mrc") for name in names],
        "rlnMicrographNameOdd": [name.replace(".mrc", "_ODD.mrc") for name in names],
    }
    (tmp_path / _LIST).parent.mkdir(parents=True)
    io.write_star(tmp_path / _LIST, {"optics": optics, "micrographs": micrographs})
    write_model(tmp_path / "model.safetensors", gain=0.5)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def _run(
    *options: str, job: Path = _JOB, given: str = _LIST, model: str = "model.safetensors"
) -> int:
    """Run the command as RELION writes it: its own options, the user's, threads."""
    _JOB.mkdir(parents=True, exist_ok=True)
    start = ["--o", f"{_JOB}/", "--in_mics", given]
    free = ["--model", "model.safetensors", "--device", "cpu", *options]
    return cli.run(["relion", *start, *free, "--j", "1"])


def _endings(job: Path = _JOB) -> list[str]:
    return [name for name in _ENDINGS if (job / name).exists()]


def _loop(path: Path, block: str, *labels: str) -> list[list[str]]:
    """Read columns with a reader that is not ours."""
    table = gemmi.cif.read(str(path)).find_block(block).find([f"_{label}" for label in labels])
    return [list(row) for row in table]


def test_outputs_lie_in_relions_tree_and_are_told_to_the_pipeline(
    project: Path, capsys: Capture
) -> None:
    assert _run("--previews") == 0
    assert _endings() == [SUCCESS_NAME]
    denoised = [f"External/job004/Movies/grid{n}/m{n}.mrc" for n in range(3)]
    raw = [f"MotionCorr/job002/Movies/grid{n}/m{n}.mrc" for n in range(3)]
    assert all(Path(name).is_file() for name in denoised)
    assert (_JOB / "previews/Movies/grid1/m1.png").is_file()
    rows = _loop(_JOB / "micrographs_denoised.star", "micrographs", "rlnMicrographName")
    assert rows == [[name] for name in denoised]
    labels = ("rlnMicrographName", "rlnMicrographNameDenoised", "rlnOpticsGroup")
    rows = _loop(_JOB / "micrographs_pairs.star", "micrographs", *labels)
    assert rows == [list(row) for row in zip(raw, denoised, "121", strict=True)]
    optics = _loop(_JOB / "micrographs_denoised.star", "optics", "rlnMicrographPixelSize")
    assert optics == [["1.5"], ["1.6"]]
    labels = ("rlnPipeLineNodeName", "rlnPipeLineNodeType", "rlnPipeLineNodeTypeLabel")
    assert _loop(_JOB / "RELION_OUTPUT_NODES.star", "output_nodes", *labels) == [
        [f"External/job004/{name}", "1", "MicrographGroupMetadata.star.relion"]
        for name in ("micrographs_denoised.star", "micrographs_pairs.star")
    ]
    out = capsys.readouterr().out
    assert "3/3 micrographs" in out
    assert "keep naming the raw halves" in out


def test_the_same_job_goes_on(project: Path, capsys: Capture) -> None:
    assert _run() == 0
    times = [path.stat().st_mtime_ns for path in sorted(_JOB.rglob("*.mrc"))]
    assert _run() == 0
    assert [path.stat().st_mtime_ns for path in sorted(_JOB.rglob("*.mrc"))] == times
    assert "3 of 3 are done already" in capsys.readouterr().out


def test_what_fails_alone_is_left_out_and_the_job_succeeds(project: Path, capsys: Capture) -> None:
    (project / "MotionCorr/job002/Movies/grid1/m1.mrc").write_bytes(b"")
    assert _run() == 2
    assert _endings() == [SUCCESS_NAME]
    rows = _loop(_JOB / "micrographs_denoised.star", "micrographs", "rlnOpticsGroup")
    assert rows == [["1"], ["1"]]
    assert "1 of 3 failed; the others were done" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        (("--threshold", "3"), _LIST, "--threshold"),
        (("--in_movies", "Import/job001/movies.star"), _LIST, "--in_movies"),
        (("--tile", "wide"), _LIST, "--tile"),
        ((), "gone.star", "gone.star: does not exist"),
        ((), "MotionCorr/job002/Movies/grid0/m0.mrc", "is no STAR list"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_and_to_relion(
    project: Path, capsys: Capture, options: tuple[str, ...], given: str, message: str
) -> None:
    assert _run() == 0  # an earlier success must not stay
    capsys.readouterr()
    assert _run(*options, given=given) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert _endings() == [FAILURE_NAME]


def test_nothing_denoised_is_a_failure(project: Path) -> None:
    for path in (project / "MotionCorr").rglob("*.mrc"):
        path.write_bytes(b"")
    assert _run() == 2
    assert _endings() == [FAILURE_NAME]
    assert not (_JOB / "RELION_OUTPUT_NODES.star").exists()


def test_a_bug_is_a_failure(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(relion, "denoise_files", fail)
    with pytest.raises(ZeroDivisionError):
        _run()
    assert _endings() == [FAILURE_NAME]


def test_a_wish_to_abort_is_heeded_between_two_micrographs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    say = cli._print_now

    def say_and_ask(line: str) -> None:
        say(line)
        if line.startswith("1/3"):
            assert _endings() == []  # whoever is killed now leaves no word of success
            (_JOB / ABORT_NAME).touch()

    monkeypatch.setattr(cli, "_print_now", say_and_ask)
    assert _run() == 130
    assert _endings() == [ABORTED_NAME]
    assert not (_JOB / ABORT_NAME).exists()
    assert len(list(_JOB.rglob("*.mrc"))) < 3
    assert not list(_JOB.rglob("*.partial"))
    assert "aborted as RELION asked" in capsys.readouterr().err
    monkeypatch.setattr(cli, "_print_now", say)
    assert _run() == 0
    assert _endings() == [SUCCESS_NAME]


def test_a_wish_from_before_the_start_is_heeded_too(project: Path) -> None:
    (project / _JOB).mkdir(parents=True)
    (project / _JOB / ABORT_NAME).touch()
    assert _run() == 130
    assert _endings() == [ABORTED_NAME]
    assert not list(_JOB.rglob("*.mrc"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to handle")
def test_a_signal_aborts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say = cli._print_now

    def say_and_end(line: str) -> None:
        say(line)
        if line.startswith("1/3"):
            assert threading.current_thread() is threading.main_thread()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli, "_print_now", say_and_end)
    assert _run() == 130
    assert _endings() == [ABORTED_NAME]


def test_picks_made_on_denoised_micrographs_name_the_raw_ones(
    project: Path, capsys: Capture
) -> None:
    assert _run() == 0
    denoised = [f"{_JOB}/Movies/grid{n}/m{n}.mrc" for n in (2, 0)]
    coordinates = [f"AutoPick/job005/Movies/grid{n}/m{n}_autopick.star" for n in (2, 0)]
    picks = Path("AutoPick/job005/autopick.star")
    picks.parent.mkdir(parents=True)
    columns = {"rlnMicrographName": denoised, "rlnMicrographCoordinates": coordinates}
    io.write_star(picks, {"coordinate_files": columns})
    job = Path("External/job006")
    pairs = ["--in_mics", f"{_JOB}/micrographs_pairs.star"]
    command = ["relion", "--o", f"{job}/", *pairs, "--in_coords", str(picks), "--j", "1"]
    assert cli.run(command) == 0
    assert _endings(job) == [SUCCESS_NAME]
    assert _loop(job / "coordinates_raw.star", "coordinate_files", *columns) == [
        [f"MotionCorr/job002/Movies/grid{n}/m{n}.mrc", f"{name}"]
        for n, name in zip((2, 0), coordinates, strict=True)
    ]
    labels = ("rlnPipeLineNodeName", "rlnPipeLineNodeType", "rlnPipeLineNodeTypeLabel")
    assert _loop(job / "RELION_OUTPUT_NODES.star", "output_nodes", *labels) == [
        [f"{job}/coordinates_raw.star", "2", "MicrographCoordsGroup.star.relion"]
    ]
    for wrong, message in ((_LIST, "rlnMicrographNameDenoised"), (str(picks), "and _rln")):
        assert cli.run([*command[:4], wrong, *command[5:]]) == 2
        assert message in capsys.readouterr().err
        assert _endings(job) == [FAILURE_NAME]
    io.write_star(picks, {"": {**columns, "rlnMicrographName": [denoised[0], "other.mrc"]}})
    assert cli.run(command) == 2
    assert "has picks of other.mrc" in capsys.readouterr().err


def test_either_a_model_or_picks(project: Path, capsys: Capture) -> None:
    _JOB.mkdir(parents=True)
    assert cli.run(["relion", "--o", f"{_JOB}/", "--in_mics", _LIST, "--j", "1"]) == 2
    assert "give --model to denoise" in capsys.readouterr().err
    assert _endings() == [FAILURE_NAME]
