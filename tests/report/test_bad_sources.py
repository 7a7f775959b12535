"""What is no run and no score file is refused in one line that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clearice import train
from clearice.errors import InputFileError, OutputError
from clearice.evaluate import match_cases, score
from clearice.report import render
from helpers import CPU, train_config, write_dataset, write_image


def _refused(source: Path) -> str:
    with pytest.raises(InputFileError) as caught:
        render([source], source.parent / "report.html")
    assert not (source.parent / "report.html").exists()
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"3", b"{}", b'{"snr_db": {"raw": 1}}'],
)
def test_a_file_that_holds_no_scores(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    _refused(path)


@pytest.mark.parametrize("content", [{"curves": {}}, {"curves": 3}, {"halves": {"curves": {}}}])
def test_json_of_another_kind(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(content))
    _refused(path)


def test_scores_that_lack_a_part(tmp_path: Path, generator: torch.Generator) -> None:
    for folder in ("denoised", "raw", "truth"):
        write_image(tmp_path / folder / "a.mrc", torch.randn(40, 40, generator=generator))
    paths = (tmp_path / "denoised", tmp_path / "raw")
    values = score(match_cases(*paths, truth=tmp_path / "truth")).values
    path = tmp_path / "scores.json"
    changes: dict[str, dict[str, Any]] = {
        "psnr_db": {"truth": {"snr_db": {}, "ssim": {}}},
        "frequency_per_angstrom": {"curves": {}},
        "files": {"files": []},
        "wiener": {"wiener": None},
    }
    for name, change in changes.items():
        path.write_text(json.dumps({**values, **change}))
        assert name in _refused(path)


def test_a_loss_that_is_no_number_is_null_in_the_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("network: cnn3\n")
    record = '{"step": 1, "seconds": 1.0, "patches_per_second": 2.0, "validation": null, '
    (folder / "metrics.jsonl").write_text(record + '"parts": {"mse": NaN}}\n')
    render([folder], tmp_path / "report.html")
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["models"][0]["training"]["last"]["parts"] == {"mse": None}


def test_damaged_records_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("network: cnn3\n")
    (folder / "metrics.jsonl").write_text('{"step": 3}\n')
    with pytest.raises(InputFileError, match=r"metrics\.jsonl: is damaged"):
        render([folder], tmp_path / "report.html")


def test_a_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in _refused(tmp_path / "scores.json")


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputFileError):
        render([tmp_path / "file" / "scores.json"], tmp_path / "report.html")


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert "is no training run" in _refused(folder)
    (folder / "config.yaml").write_text("network: cnn3\n")
    assert "is no training run" in _refused(folder)


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("network: cnn3\n")
    (folder / "metrics.jsonl").touch()
    assert "network: cnn3" in render([folder], tmp_path / "report.html").read_text()


@pytest.mark.parametrize("cut", ['{"step": 9, "lo', '{"step": 9, "parts": {"mse": 0.5}'])
def test_a_run_that_was_killed_while_it_wrote(tmp_path: Path, cut: str) -> None:
    dataset = write_dataset(tmp_path / "set").folder
    train.run(dataset, tmp_path / "run", train_config(steps=2), CPU)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as handle:
        handle.write(cut)
    page = render([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "2 steps in" in page


def test_a_run_without_validation_is_shown(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", validation=0.0).folder
    train.run(dataset, tmp_path / "run", train_config(steps=2), CPU)
    assert "Loss: mse" in render([tmp_path / "run"], tmp_path / "r.html").read_text("utf-8")


def test_a_damaged_micrograph_is_named(tmp_path: Path, generator: torch.Generator) -> None:
    for folder in ("denoised", "raw", "truth"):
        write_image(tmp_path / folder / "a.mrc", torch.randn(40, 40, generator=generator))
    paths = (tmp_path / "denoised", tmp_path / "raw")
    scores = score(match_cases(*paths, truth=tmp_path / "truth"))
    (tmp_path / "scores.json").write_text(json.dumps(scores.values))
    (tmp_path / "raw" / "a.mrc").write_bytes(b"")
    with pytest.raises(InputFileError, match=r"raw/a\.mrc: is empty"):
        render([tmp_path / "scores.json"], tmp_path / "report.html")


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("network: cnn3\n")
    (folder / "metrics.jsonl").touch()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        render([folder], tmp_path / "file" / "report.html")
    with pytest.raises(OutputError):
        render([folder], tmp_path)
