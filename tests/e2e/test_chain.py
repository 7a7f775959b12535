"""The whole chain by the command: simulated session, ready half-sets, real data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from clearice import io
from clearice.data import Split, open_dataset
from forked import start
from helpers import noisy_groups, smooth_image, write_image

_TRAIN = ("--network", "cnn3", "--steps", "20", "--patch-size", "32", "--batch-size", "4")


def clearice(*arguments: str | Path, code: int = 0) -> str:
    """Run the command in a process of its own and return what it printed."""
    done = start(*arguments).end(120)
    assert done.code == code, done.out + done.err
    assert "Traceback" not in done.err
    return done.out


def _installed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a user does."""
    installed = shutil.which("clearice")
    entry = [installed] if installed else [sys.executable, "-m", "clearice"]
    command = [*entry, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_from_simulation_to_report(tmp_path: Path) -> None:
    sim, dataset, run = tmp_path / "sim", tmp_path / "dataset", tmp_path / "run"
    size = ("--micrographs", "4", "--size", "96", "--frames", "8", "--pixel-size", "4")
    assert "4 movies" in clearice("simulate", "--out", sim, *size, "--seed", "1")
    fractions = ("--validation-fraction", "0.25", "--test-fraction", "0.25")
    said = clearice(
        "prepare", sim / "movies", "--out", dataset, "--truth", sim / "truth", *fractions
    )
    assert said.strip() == f"{dataset}: 2 train, 1 validation, 1 test"
    # A model file that was being written when the power went is never taken for the model.
    run.mkdir()
    (run / ".best.safetensors.1.partial").write_bytes(b"half a model")
    clearice("train", dataset, "--out", run, *_TRAIN)

    halves = tmp_path / "halves"
    clearice("denoise", dataset, "--model", run, "--out", halves, "--halves")
    files = tmp_path / "files"
    clearice("denoise", halves / "raw", "--model", run, "--out", files)
    (entry,) = open_dataset(dataset).entries(Split.TEST)
    images = [
        io.read_micrograph(folder / f"{entry.name}.mrc").pixels
        for folder in (halves / "denoised", files)
    ]
    # By way of the data set or of the file, it is one micrograph and one model.
    scale = float(images[0].std())
    torch.testing.assert_close(images[0] / scale, images[1] / scale, rtol=0, atol=0.02)

    scores = tmp_path / "scores" / "scores.json"
    roles = {
        "denoised": "denoised_even",
        "raw": "raw_even",
        "reference": "raw_odd",
        "denoised-other": "denoised_odd",
    }
    options = [f"--{role}={halves / folder}" for role, folder in roles.items()]
    said = clearice("evaluate", *options, "--truth", sim / "truth", "--out", scores)
    values = json.loads(scores.read_text())
    assert values["micrographs"] == [entry.name]
    assert f"{values['truth']['snr_db']['denoised']:.3f}" in said
    assert f"{values['reference']['correlation_with_truth']['gaussian_best']:.3f}" in said

    page = tmp_path / "report.html"
    assert clearice("report", run, scores, "--out", page).strip() == f"report: {page}"
    assert "network: cnn3" in page.read_text(encoding="utf-8")
    partial = [p for p in tmp_path.rglob("*.partial") if p.parent != run]
    assert partial == []


def test_from_ready_half_sets(tmp_path: Path, generator: torch.Generator) -> None:
    for index in range(3):
        halves = noisy_groups(smooth_image(generator, 64), 2, 1.0, generator)
        for half, image in zip(("ODD", "EVN"), halves, strict=True):
            write_image(tmp_path / "halves" / f"mic{index}_{half}.mrc", image)
    pairs = [f"{tmp_path}/halves/*_{half}.mrc" for half in ("ODD", "EVN")]
    dataset, run = tmp_path / "set", tmp_path / "run"
    clearice("prepare", "--pairs", *pairs, "--out", dataset, "--validation-fraction", "0.3")
    assert open_dataset(dataset).manifest.roles == "exchangeable"
    clearice("train", dataset, "--out", run, *_TRAIN)
    image = tmp_path / "halves" / "mic1_ODD.mrc"
    bad = tmp_path / "halves" / "bad.mrc"
    bad.touch()
    # One bad file is told by the exit code, and stops nothing.
    done = _installed("denoise", bad, image, "--model", run, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in (tmp_path / "out").glob("*.mrc")] == [image.name]


def test_real_pairs(test_data: Path, tmp_path: Path) -> None:
    from clearice import cli

    def done(*arguments: str | Path) -> None:
        assert cli.run([str(a) for a in arguments]) == 0

    # In this process, since the commands are those above and the files are many.
    folder = test_data / "apoferritin"
    pairs = (f"{folder}/*_frame.mrc", f"{folder}/*_rest.mrc")
    dataset, run, out = tmp_path / "set", tmp_path / "run", tmp_path / "out"
    done("prepare", "--pairs", *pairs, "--out", dataset)
    manifest = open_dataset(dataset).manifest
    assert manifest.roles == "input-target"
    assert len(manifest.micrographs) == len(list(folder.glob("*_frame.mrc")))
    assert all(entry.sources[0].endswith("_frame.mrc") for entry in manifest.micrographs)
    short = ("--steps", "3", "--network", "cnn3", "--patch-size", "64", "--device", "cpu")
    done("train", dataset, "--out", run, *short)
    frames = sorted(folder.glob("*_frame.mrc"))[:2]
    done("denoise", *frames, "--model", run, "--out", out, "--device", "cpu")
    rests = tmp_path / "rest"
    rests.mkdir()
    for frame in frames:
        rest = frame.with_name(frame.name.replace("_frame", "_rest"))
        (rests / frame.name).symlink_to(rest)
        with mrcfile.open(out / frame.name) as result, mrcfile.open(frame) as source:
            assert result.data.shape == source.data.shape
            assert np.isfinite(result.data).all()
            assert float(result.voxel_size.x) == pytest.approx(float(source.voxel_size.x))
            for name in ("origin", "nxstart", "nystart", "nzstart", "exttyp", "mapc", "mapr"):
                assert result.header[name] == source.header[name]
            assert result.extended_header.tobytes() == source.extended_header.tobytes()
            kept = [label for label in source.get_labels() if label]
            assert result.get_labels()[: len(kept)] == kept
    raw = tmp_path / "raw"
    raw.mkdir()
    for frame in frames:
        (raw / frame.name).symlink_to(frame)
    roles = ("--denoised", out, "--raw", raw, "--reference", rests)
    done("evaluate", *roles, "--out", tmp_path / "scores.json")
    values = json.loads((tmp_path / "scores.json").read_text())
    assert values["pixel_size_angstrom"] == pytest.approx(1.5, abs=0.01)
    assert 0.05 < values["reference"]["band_correlation"]["300-15"]["raw"] < 0.4
