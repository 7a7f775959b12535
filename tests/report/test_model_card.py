"""The model card holds what the report's numbers say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from clearice import checkpoint, io, train
from clearice.cli import run
from clearice.report import render
from helpers import CPU, train_config, write_dataset
from report_files import card_values, write_hallucination, write_picking, write_trust


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set and a run."""
    folder = tmp_path_factory.mktemp("card")
    dataset = write_dataset(folder / "set").folder
    train.run(dataset, folder / "run", train_config(steps=2), CPU)
    return dataset, folder / "run"


def test_it_says_all_that_is_known(tmp_path: Path, trained: tuple[Path, Path]) -> None:
    dataset, model = trained
    io.write_json(
        tmp_path / "card.json", {**card_values(), "model_sha256": checkpoint.checksum(model)}
    )
    failed = write_hallucination(tmp_path / "h", None, ("it draws | cats",))
    picking = write_picking(tmp_path / "picking.json", None)
    sources = [model, dataset, tmp_path / "card.json", failed, picking]
    sources.append(write_trust(tmp_path / "trust", None))
    out = tmp_path / "MODEL.md"
    render(sources, tmp_path / "r.html", model_card=out, licence="CC-BY-4.0")
    text = out.read_text(encoding="utf-8")
    assert "**Verdict: bad.**" in text
    assert "| licence | CC-BY-4.0 |" in text
    assert "3 micrographs to train, 1 to watch training with, 0 kept for evaluation" in text
    assert checkpoint.checksum(model) in text
    assert 'network: "cnn3"' in text
    assert "| good | Gain over a low-pass | 0.5 | 0.4 to\N{NO-BREAK SPACE}0.6 | said |" in text
    assert "**FAILED** the test for invention" in text
    assert r"it draws \| cats" in text
    assert "average precision 0.800, raw 0.600" in text
    assert "mean 0.50" in text
    for title in ("Data", "Recipe", "Metrics", "Invention", "Limits"):
        assert f"\n## {title}\n" in text
    rows = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    assert all(len(re.findall(r"(?<!\\)\|", row)) in (3, 5, 6) for row in rows)
    told = json.loads((tmp_path / "r.json").read_text())["models"][0]
    assert told["model"]["licence"] == "CC-BY-4.0"
    assert told["data"]["micrographs"] == {"train": 3, "validation": 1, "test": 0}


def test_without_measurements_it_says_so(tmp_path: Path, trained: tuple[Path, Path]) -> None:
    out = tmp_path / "MODEL.md"
    render([trained[1]], tmp_path / "r.html", model_card=out)
    text = out.read_text(encoding="utf-8")
    assert "**Verdict: none.**" in text
    assert "| licence | not stated |" in text
    assert "Not tested (`clearice hallucinate`)" in text
    assert "The data set is not described here." in text


def test_a_damaged_model_has_a_report_and_no_card(
    tmp_path: Path, trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = shutil.copytree(trained[1], tmp_path / "run")
    (damaged / "best.safetensors").write_bytes(b"")
    command = ["report", str(damaged), "--out", str(tmp_path / "r.html")]
    assert run(command) == 0
    assert "is no clearice model or is damaged" in (tmp_path / "r.html").read_text()
    assert run([*command, "--model-card", str(tmp_path / "m.md")]) == 2
    assert "is no clearice model or is damaged" in capsys.readouterr().err


def test_it_needs_one_model(
    tmp_path: Path, trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    io.write_json(tmp_path / "card.json", card_values())
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("network: cnn3\n")
    (other / "metrics.jsonl").touch()
    for sources, match in (
        ([tmp_path / "card.json"], "give the folder of its run"),
        ([trained[1], other], "these are 2"),
        ([other], "with best.safetensors"),
    ):
        command = ["report", *map(str, sources), "--out", str(tmp_path / "r.html")]
        assert run([*command, "--model-card", str(tmp_path / "m.md")]) == 2
        error = capsys.readouterr().err
        assert match in error
        assert error.count("\n") == 1
        assert not (tmp_path / "r.html").exists()
