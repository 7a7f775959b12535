"""The command, stopped by Ctrl-C or killed: training goes on, nothing half is whole."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clearice import checkpoint
from clearice.config import dump_config
from clearice.data import open_dataset
from clearice.errors import DatasetError
from clearice.train.records import read_metrics
from forked import start
from helpers import train_config, write_dataset, write_image

_STEPS = 240
_CPU = ("--device", "cpu")


def _finished(*arguments: str | Path) -> str:
    done = start(*arguments).end(120)
    assert done.code == 0, done.err
    return done.out + done.err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, a configuration and a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("interruption")
    write_dataset(folder / "set", groups=4)
    config = train_config(steps=_STEPS, validations=20, checkpoint_seconds=0.05)
    (folder / "train.yaml").write_text(dump_config(config))
    _finished(
        "train", folder / "set", "--out", folder / "whole", "--config", folder / "train.yaml", *_CPU
    )
    return folder


def _stopped(folder: Path, out: Path, number: signal.Signals) -> tuple[int, str]:
    """Train, send a signal once a quarter is saved, and return exit code and messages."""
    process = start("train", folder / "set", "--out", out, "--config", folder / "train.yaml", *_CPU)
    deadline = time.monotonic() + 60
    while process.running and time.monotonic() < deadline:
        records = read_metrics(out / "metrics.jsonl")
        if records and records[-1]["step"] >= _STEPS // 4:
            break
        time.sleep(0.01)
    process.send_signal(number)
    done = process.end()
    return done.code, done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_ends_like_an_undisturbed_one(
    undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    code, err = _stopped(undisturbed, out, number)
    if number is signal.SIGINT:
        assert code == 130
        (line,) = [line for line in err.splitlines() if line.startswith("clearice: ")]
        assert f"of {_STEPS}" in line
        assert "--resume" in line
        assert not list(out.glob(".*.partial"))
    else:
        assert code == -signal.SIGKILL
    assert "Traceback" not in err
    saved = checkpoint.load_training(out / "last.safetensors")[2].progress["step"]
    assert 0 < saved < _STEPS
    # What a kill in the middle of a save leaves behind.
    whole = (out / "last.safetensors").read_bytes()
    (out / ".last.safetensors.1.partial").write_bytes(whole[: len(whole) // 2])
    said = _finished("train", undisturbed / "set", "--out", out, "--resume", *_CPU)
    assert f"resuming at step {saved}" in said
    for name in ("last.safetensors", "best.safetensors"):
        first, second = load_file(undisturbed / "whole" / name), load_file(out / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    steps = [record["step"] for record in read_metrics(out / "metrics.jsonl")]
    assert steps == sorted(set(steps))
    assert steps[-1] == _STEPS


def test_a_killed_preparation_is_no_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "halves"
    for index in range(200):
        for half in ("odd", "even"):
            write_image(folder / f"m{index:03d}_{half}.mrc", torch.randn(64, 64))
    pairs = (f"{folder}/*_odd.mrc", f"{folder}/*_even.mrc")
    out = tmp_path / "set"
    process = start("prepare", "--pairs", *pairs, "--out", out)
    deadline = time.monotonic() + 60
    while process.running and time.monotonic() < deadline:
        if (out / "stacks").is_dir() and len(list((out / "stacks").iterdir())) > 3:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.end().code == -signal.SIGKILL
    assert list((out / "stacks").iterdir())
    with pytest.raises(DatasetError, match="is no data set"):
        open_dataset(out)
