"""The command line with micrographs that have no halves: from files to a labelled result."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import mrcfile
import pytest
import torch

from clearice import checkpoint, cli
from clearice.data import open_dataset
from helpers import model_info, random_weights, smooth_image, write_dataset, write_image

Capture = pytest.CaptureFixture[str]
_SHORT = ("--network", "cnn3", "--steps", "6", "--patch-size", "32", "--batch-size", "2")
_CPU = ("--device", "cpu")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what `cli.run` installs."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def micrographs(tmp_path: Path) -> Path:
    """Five noisy micrographs, and their truth."""
    generator = torch.Generator().manual_seed(1)
    for index in range(5):
        signal = 50 + smooth_image(generator, 64)
        noisy = signal + torch.randn(64, 64, generator=generator)
        write_image(tmp_path / "in" / f"m{index}.mrc", noisy)
        write_image(tmp_path / "truth" / f"m{index}.mrc", signal)
    return tmp_path / "in"


def _done(capsys: Capture, *arguments: str | Path) -> tuple[str, str]:
    capsys.readouterr()
    code = cli.run([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out, captured.err


def _refused(capsys: Capture, *arguments: str | Path) -> str:
    capsys.readouterr()
    assert cli.run([str(a) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("clearice: ")]
    return line


def test_from_files_to_a_result_that_says_what_it_is(
    capsys: Capture, micrographs: Path, tmp_path: Path
) -> None:
    dataset, run, results = tmp_path / "set", tmp_path / "run", tmp_path / "results"
    shares = ("--validation-fraction", "0.2", "--test-fraction", "0.2")
    out, _ = _done(capsys, "prepare", "--single", micrographs, "--dry-run")
    assert "5 single micrographs" in out
    assert not dataset.exists()
    out, err = _done(
        capsys, "prepare", "--single", micrographs, "--out", dataset, *shares, "--truth",
        tmp_path / "truth", *_CPU,
    )  # fmt: skip
    assert out == f"{dataset}: 3 train, 1 validation, 1 test\n"
    assert "train with --target masked" in err

    noisy = (*_SHORT, "--target", "noisy", *_CPU)
    line = _refused(capsys, "train", dataset, "--out", run, *noisy)
    assert "train with --target masked, which learns less" in line
    assert not run.exists()
    _, err = _done(capsys, "train", dataset, "--out", run, *_SHORT, *_CPU)
    assert "target masked: there is one image of each micrograph" in err
    assert "warning: no halves: blind-spot training (Noise2Void)" in err
    assert "root of the covariance of neighbouring pixels" in err

    _, err = _done(capsys, "denoise", dataset, "--model", run, "--out", results, *_CPU)
    assert "Noise2Void, target: masked" in err
    (denoised,) = (results / "denoised").glob("*.mrc")
    with mrcfile.open(denoised) as file:
        assert file.get_labels() == ["clearice: denoised (cnn3, masked)"]
        assert file.data.std() > 0
    files = tmp_path / "files"
    _done(capsys, "denoise", micrographs, "--model", run, "--out", files, *_CPU)
    with mrcfile.open(files / "m0.mrc") as file:
        assert file.get_labels()[-1] == "clearice: denoised (cnn3, masked)"

    scores = tmp_path / "scores.json"
    _done(
        capsys, "evaluate", "--denoised", denoised, "--raw", results / "raw" / denoised.name,
        "--truth", tmp_path / "truth" / denoised.name, "--out", scores,
    )  # fmt: skip
    assert json.loads(scores.read_text())["truth"]["snr_db"]["denoised"] is not None
    _done(capsys, "report", run, scores, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Target: masked. Trained without halves" in page
    _done(capsys, "doctor", "--dataset", dataset)


def test_a_report_of_noise2noise_says_nothing_of_blind_spots(
    capsys: Capture, tmp_path: Path
) -> None:
    dataset = write_dataset(tmp_path / "set").folder
    _done(capsys, "train", dataset, "--out", tmp_path / "run", *_SHORT, *_CPU)
    _, err = _done(
        capsys, "denoise", dataset, "--split", "validation", "--model", tmp_path / "run",
        "--out", tmp_path / "results", *_CPU,
    )  # fmt: skip
    assert "Noise2Void" not in err
    _done(capsys, "report", tmp_path / "run", "--out", tmp_path / "report.html")
    assert "Trained without halves" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_masked_run_goes_on(capsys: Capture, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", groups=1).folder
    run = tmp_path / "run"
    _done(capsys, "train", dataset, "--out", run, *_SHORT, "--target", "masked", *_CPU)
    _, err = _done(capsys, "train", dataset, "--out", run, "--resume", *_CPU)
    assert "resuming at step 6" in err
    line = _refused(capsys, "train", dataset, "--out", run, "--resume", "--target", "clean", *_CPU)
    assert "target" in line


def test_what_needs_halves_is_refused_in_one_line(capsys: Capture, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", groups=1).folder
    model = tmp_path / "model.safetensors"
    info = replace(model_info(), target="masked")
    checkpoint.save(model, random_weights("cnn3"), info, None)
    to = ("--model", model, "--out", tmp_path / "out", *_CPU)
    line = _refused(capsys, "denoise", dataset, "--split", "train", "--halves", *to)
    assert "single micrographs and no halves; denoise without --halves" in line
    line = _refused(capsys, "denoise", dataset, "--split", "train", "--restore-amplitude", *to)
    assert "no calibration" in line
    assert "train on movies or halves" in line
    masked = ("--out", tmp_path / "run", *_SHORT, "--target", "masked", *_CPU)
    line = _refused(capsys, "train", dataset, *masked, "--loss", "mse + 0.05 frc")
    assert "cannot be used with --target masked: it compares Fourier transforms" in line
    grid = tmp_path / "grid.yaml"
    grid.write_text("base: {network: cnn3, target: masked, patch_size: 32}\n")
    line = _refused(capsys, "compare", dataset, "--grid", grid, "--out", tmp_path / "c")
    assert "a comparison is scored by halves" in line
    line = _refused(capsys, "train", dataset, *masked, "--stop-after", "3")
    assert "stop_after: needs a second image" in line
    assert not (tmp_path / "run").exists()
    assert open_dataset(dataset).manifest.roles == "single"


def test_single_or_pairs(capsys: Capture, micrographs: Path, tmp_path: Path) -> None:
    pairs = ("--pairs", f"{micrographs}/*0.mrc", f"{micrographs}/*1.mrc")
    assert "not both" in _refused(capsys, "prepare", "--single", *pairs, "--out", tmp_path / "set")
    line = _refused(
        capsys,
        "prepare",
        "--single",
        micrographs,
        "--groups",
        "4",
        "--out",
        tmp_path / "set",
        *_CPU,
    )
    assert "--groups: only for movies; these are single micrographs" in line
