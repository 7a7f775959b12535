"""The hallucination test as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clearice import checkpoint, io
from clearice.cli import run
from clearice.data import MANIFEST_NAME
from clearice.evaluate.documents import HallucinationDocument
from clearice.evaluate.reading import read_document
from clearice.workflows import hallucinate
from helpers import write_dataset, write_model


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hallucinate, "_SIZE", 96)


def test_a_model_of_random_weights_fails_and_the_file_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    out = tmp_path / "out"
    assert run(["hallucinate", str(model), "--device", "cpu", "--out", str(out)]) == 0
    assert "FAILED" in capsys.readouterr().out
    told = json.loads((out / hallucinate.JSON_NAME).read_text())
    assert told["passed"] is False
    assert told["failures"]
    assert set(told["from_nothing"]) == {
        "white noise",
        "noise of the data",
        "ice without particles",
        "scrambled phases",
    }
    assert io.read_image(out / hallucinate.PICTURE_NAME).shape == (24, 140)


def test_it_measures_on_the_test_micrographs_of_a_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    dataset = write_dataset(tmp_path / "data", size=80).folder
    command = ["hallucinate", str(model), "--data", str(dataset), "--out", str(tmp_path / "out")]
    assert run([*command, "--device", "cpu"]) == 2
    assert "no test micrographs" in capsys.readouterr().err
    manifest = (dataset / MANIFEST_NAME).read_text()
    (dataset / MANIFEST_NAME).write_text(manifest.replace('"train"', '"test"'))
    assert run([*command, "--device", "cpu"]) == 0
    told = json.loads((tmp_path / "out" / hallucinate.JSON_NAME).read_text())
    assert told["measured_on"] == str(dataset)
    assert told["micrographs"] == 3


def test_one_test_micrograph_is_enough(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors")
    dataset = write_dataset(tmp_path / "data", size=64, micrographs=2, validation=0.5).folder
    manifest = (dataset / MANIFEST_NAME).read_text()
    (dataset / MANIFEST_NAME).write_text(manifest.replace('"validation"', '"test"'))
    command = ["hallucinate", str(model), "--data", str(dataset), "--out", str(tmp_path / "out")]
    assert run([*command, "--device", "cpu"]) == 0
    told = read_document(tmp_path / "out" / hallucinate.JSON_NAME, HallucinationDocument)
    assert told.micrographs == 1
    # Nothing to compare it with.
    assert told.from_nothing["scrambled phases"].correlation is None
    assert told.from_nothing["white noise"].correlation is not None
    assert told.model_sha256 == checkpoint.checksum(model)


def test_halves_of_unequal_dose_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    dataset = write_dataset(tmp_path / "data", size=64, exchangeable=False).folder
    manifest = (dataset / MANIFEST_NAME).read_text()
    (dataset / MANIFEST_NAME).write_text(manifest.replace('"train"', '"test"'))
    command = ["hallucinate", str(model), "--data", str(dataset), "--out", str(tmp_path / "out")]
    assert run([*command, "--device", "cpu"]) == 2
    assert "leave --data out" in capsys.readouterr().err
