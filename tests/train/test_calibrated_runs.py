"""A finished run has its calibration in the model file, however it was finished."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clearice import checkpoint
from clearice.checkpoint import Calibration
from clearice.data import Dataset, Split
from clearice.errors import OutputError
from clearice.train import calibrate as room
from clearice.train import run
from helpers import CPU, train_config, write_dataset

# The package names a function of it the same.
_RUN = import_module("clearice.train.run")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four small micrographs, one of them held out."""
    return write_dataset(tmp_path / "set", groups=4, size=64)


def _calibration(path: Path) -> Calibration | None:
    return checkpoint.load_model(path)[1].calibration


def test_a_finished_run_is_calibrated_once(dataset: Dataset, tmp_path: Path) -> None:
    said: list[str] = []
    config = train_config()
    result = run(dataset.folder, tmp_path / "run", config, CPU, say=said.append)
    calibration = _calibration(result.model)
    assert calibration is not None
    assert calibration.micrographs == 1
    assert len(calibration.gain) == 32
    assert (
        sum(line.startswith("amplitudes calibrated on held-out micrographs (1): ") for line in said)
        == 1
    )
    assert _calibration(tmp_path / "run" / "last.safetensors") is None
    before = result.model.read_bytes()
    run(dataset.folder, tmp_path / "run", config, CPU, resume=True)
    assert result.model.read_bytes() == before
    assert not list((tmp_path / "run").glob(".*.partial"))


def test_a_run_can_do_without(dataset: Dataset, tmp_path: Path) -> None:
    out, said = tmp_path / "run", list[str]()
    config = train_config()
    model = run(dataset.folder, out, config, CPU, calibrated=False, say=said.append).model
    assert _calibration(model) is None
    assert not any("amplitudes" in line for line in said)
    run(dataset.folder, out, config, CPU, resume=True)
    assert _calibration(model) is not None


def test_calibration_changes_no_weight(dataset: Dataset, tmp_path: Path) -> None:
    config = train_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_RUN, "calibrate", lambda *_: None)
        run(dataset.folder, tmp_path / "without", config, CPU)
    run(dataset.folder, tmp_path / "with", config, CPU)
    without, with_it = (load_file(tmp_path / n / "best.safetensors") for n in ("without", "with"))
    assert without.keys() == with_it.keys()
    assert all(torch.equal(with_it[name], value) for name, value in without.items())
    info = checkpoint.load_model(tmp_path / "with")[1]
    assert replace(info, calibration=None) == checkpoint.load_model(tmp_path / "without")[1]


class _PowerCutError(Exception):
    """Something that training knows nothing about."""


def test_a_run_killed_before_its_calibration_gets_it_by_resuming(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = train_config(), tmp_path / "run"

    def cut(*_: object, **__: object) -> Any:
        raise _PowerCutError

    with monkeypatch.context() as patch, pytest.raises(_PowerCutError):
        patch.setattr(room, "measure", cut)
        run(dataset.folder, out, config, CPU)
    assert _calibration(out / "best.safetensors") is None
    last = (out / "last.safetensors").read_bytes()
    run(dataset.folder, out, config, CPU, resume=True)
    assert (out / "last.safetensors").read_bytes() == last
    run(dataset.folder, tmp_path / "whole", config, CPU)
    whole = _calibration(tmp_path / "whole" / "best.safetensors")
    assert whole is not None
    assert _calibration(out / "best.safetensors") == whole


def test_a_calibration_that_cannot_be_written_leaves_the_model(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_RUN, "calibrate", lambda *_: None)
    model = run(dataset.folder, tmp_path / "run", train_config(), CPU).model
    before = model.read_bytes()

    def disk_full(file: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="cannot be written"):
        patch.setattr(Path, "write_bytes", disk_full)
        room.calibrate(model, dataset, CPU, lambda line: None)
    assert model.read_bytes() == before


def test_without_validation_micrographs_there_is_none(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", validation=0.0)
    said: list[str] = []
    result = run(dataset.folder, tmp_path / "run", train_config(), CPU, say=said.append)
    assert dataset.entries(Split.VALIDATION) == []
    assert _calibration(result.model) is None
    assert not any("calibrated" in line for line in said)


@pytest.mark.parametrize("target", ["noisy", "clean"])
def test_unequal_pairs_and_clean_targets_are_calibrated(tmp_path: Path, target: str) -> None:
    dataset = write_dataset(
        tmp_path / "set",
        truth=target == "clean",
        exchangeable=target == "clean",
        target_gain=1.0 if target == "clean" else 0.4,
    )
    result = run(dataset.folder, tmp_path / "run", train_config(target=target), CPU)
    calibration = _calibration(result.model)
    assert calibration is not None
    assert all(0.1 <= gain <= 10 for gain in calibration.gain)
