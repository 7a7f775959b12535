"""A thread that saves while training goes on saves what would have been saved at once."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clearice import checkpoint
from clearice.errors import OutputError, TrainingInterruptedError
from clearice.train import TrainReport, run
from clearice.train.records import Aside, Recorder
from helpers import CPU, train_config, write_dataset

FILES = ("best.safetensors", "last.safetensors", "step-000000005.safetensors")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small data set of eight groups."""
    return write_dataset(tmp_path / "set", groups=8).folder


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save aside on the CPU too, to a disk so slow that steps are taken meanwhile."""
    written = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        time.sleep(0.03)
        return written(path, content)

    def recorder(*given: Any, aside: Aside | None) -> Recorder:
        assert aside is None, "the CPU saves at once"
        return Recorder(*given, aside=Aside(CPU))

    monkeypatch.setattr(sys.modules["clearice.train.begin"], "Recorder", recorder)
    monkeypatch.setattr(Path, "write_bytes", write)


def _same_files(one: Path, other: Path) -> bool:
    pairs = [(load_file(one / name), load_file(other / name)) for name in FILES]
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


def test_files_are_those_saved_at_once(
    dataset: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = train_config(keep=2)
    run(dataset, tmp_path / "at-once", config, CPU)
    request.getfixturevalue("slow_disk")
    run(dataset, tmp_path / "aside", config, CPU)
    assert _same_files(tmp_path / "at-once", tmp_path / "aside")
    assert len(list((tmp_path / "aside").glob("step-*.safetensors"))) == 2


@pytest.mark.usefixtures("slow_disk")
def test_a_request_to_stop_waits_for_the_save(dataset: Path, tmp_path: Path) -> None:
    def stop(report: TrainReport) -> None:
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterruptedError, match=r"stopped at step 3 of 6.*--resume"):
        run(dataset, tmp_path / "run", train_config(), CPU, report=stop)
    assert load_file(tmp_path / "run" / "last.safetensors")["optimizer.0.step"] == 3


@pytest.mark.usefixtures("slow_disk")
def test_a_full_disk_is_an_error_at_the_end(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, said, step = Path.write_bytes, list[str](), 0

    def write(path: Path, content: bytes) -> int:
        if path.name.startswith(".last.") and step > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(path, content)

    def watch(report: TrainReport) -> None:
        nonlocal step
        step = report.step

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OutputError, match=r"No space left.*step 6 is not saved.*--resume"):
        run(dataset, tmp_path / "run", train_config(), CPU, report=watch, say=said.append)
    assert sum("tries again at the next save" in line for line in said) >= 2
    saved = checkpoint.load_training(tmp_path / "run" / "last.safetensors")[2].progress["step"]
    assert saved in {2, 3}  # the save of step 3 may have begun after step 4
