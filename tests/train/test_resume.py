"""A run that was stopped, however it was stopped, goes on as if it had not been."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clearice import checkpoint
from clearice.config import TrainConfig, dump_config
from clearice.errors import CheckpointError, ConfigError, OutputError, TrainingInterruptedError
from clearice.train import TrainReport, loop, run
from clearice.train.records import _Journal, read_metrics
from forked import start_code
from helpers import CPU, train_config, write_dataset


class _PowerCutError(Exception):
    """Something that the training loop knows nothing about."""


def _assert_same_run(one: Path, other: Path) -> None:
    """Weights, averaged weights, optimiser state and metrics are equal to the last bit."""
    for name in ("last.safetensors", "best.safetensors"):
        first, second = load_file(one / name), load_file(other / name)
        assert set(first) == set(second)
        assert all(torch.equal(first[key], second[key]) for key in first)
    progress = [checkpoint.load_training(f / "last.safetensors")[2].progress for f in (one, other)]
    assert progress[0]["step"] == progress[1]["step"]
    assert progress[0]["best"] == progress[1]["best"]


def _scores(run_folder: Path) -> list[tuple[int, Any]]:
    records = read_metrics(run_folder / "metrics.jsonl")
    return [(r["step"], r["validation"]) for r in records if r["validation"] is not None]


def _steps(run_folder: Path) -> list[int]:
    return [record["step"] for record in read_metrics(run_folder / "metrics.jsonl")]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small data set of eight groups."""
    return write_dataset(tmp_path / "set", groups=8).folder


@pytest.mark.parametrize("network", ["cnn3", "unet"])
def test_six_steps_are_three_and_three(dataset: Path, tmp_path: Path, network: str) -> None:
    config = train_config(network=network)

    def stop(report: TrainReport) -> None:
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    run(dataset, tmp_path / "whole", config, CPU)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterruptedError, match=r"stopped at step 3 of 6.*--resume"):
        run(dataset, tmp_path / "parts", config, CPU, report=stop)
    assert signal.getsignal(signal.SIGINT) is before
    assert load_file(tmp_path / "parts" / "last.safetensors")["optimizer.0.step"] == 3
    said: list[str] = []
    run(dataset, tmp_path / "parts", config, CPU, resume=True, say=said.append)
    assert "resuming at step 3" in said
    _assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert _scores(tmp_path / "parts") == _scores(tmp_path / "whole")
    assert _steps(tmp_path / "parts") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_request_from_the_system_is_heeded(
    dataset: Path, tmp_path: Path, number: signal.Signals
) -> None:
    def stop(report: TrainReport) -> None:
        if report.step == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(TrainingInterruptedError) as caught:
        run(dataset, tmp_path / "run", train_config(), CPU, report=stop)
    assert caught.value.exit_code == 130
    assert load_file(tmp_path / "run" / "last.safetensors")["optimizer.0.step"] == 2


@pytest.mark.parametrize(
    ("pause", "outcome"), [(0.0, TrainingInterruptedError), (0.3, KeyboardInterrupt)]
)
def test_a_second_request_ends_at_once_but_an_echo_does_not(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pause: float,
    outcome: type[BaseException],
) -> None:
    monkeypatch.setattr(loop, "_SAME_REQUEST_SECONDS", 0.2)

    def stop(report: TrainReport) -> None:
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(pause)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(outcome):
        run(dataset, tmp_path / "run", train_config(), CPU, report=stop)
    saved = load_file(tmp_path / "run" / "last.safetensors")["optimizer.0.step"]
    assert saved == (1 if outcome is KeyboardInterrupt else 2)


def test_a_crash_between_two_saves(dataset: Path, tmp_path: Path) -> None:
    config = train_config(steps=9, validations=9)

    def crash(report: TrainReport) -> None:
        if report.step == 5:
            raise _PowerCutError

    run(dataset, tmp_path / "whole", config, CPU)
    with pytest.raises(_PowerCutError):
        run(dataset, tmp_path / "parts", config, CPU, report=crash)
    run(dataset, tmp_path / "parts", config, CPU, resume=True)
    _assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert _steps(tmp_path / "parts") == list(range(1, 10))


def test_fresh_weights_depend_on_nothing_but_the_seed(dataset: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("one", "other")):
        torch.manual_seed(number)
        run(dataset, tmp_path / name, train_config(steps=2), CPU)
    state = torch.random.get_rng_state()
    run(dataset, tmp_path / "third", train_config(steps=2, seed=4), CPU)
    assert torch.equal(torch.random.get_rng_state(), state)
    _assert_same_run(tmp_path / "one", tmp_path / "other")
    first, third = (load_file(tmp_path / n / "last.safetensors") for n in ("one", "third"))
    assert not torch.equal(first["raw.layers.0.weight"], third["raw.layers.0.weight"])


def test_the_best_score_before_the_stop_still_counts(dataset: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "run", train_config(steps=4, validations=4)

    def stop(report: TrainReport) -> None:
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterruptedError):
        run(dataset, out, config, CPU, report=stop)
    info, weights, saved = checkpoint.load_training(out / "last.safetensors")
    unbeatable = checkpoint.TrainingSnapshot(saved.tensors, {**saved.progress, "best": 1e-9})
    checkpoint.save(out / "last.safetensors", weights, info, unbeatable)
    before = load_file(out / "best.safetensors")
    run(dataset, out, config, CPU, resume=True)
    after = load_file(out / "best.safetensors")  # calibrated since, its weights the same
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_resuming_a_finished_run_changes_nothing(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(dataset, out, train_config(steps=2), CPU)
    before = (out / "last.safetensors").read_bytes()
    result = run(dataset, out, train_config(steps=2), CPU, resume=True)
    assert result.steps == 2
    assert (out / "last.safetensors").read_bytes() == before


_CHILD = """
import os, signal, sys, time
from pathlib import Path
import torch
from clearice.config import TrainConfig, load_config
from clearice.train import run
from clearice.train.records import METRICS_NAME

dataset, out, config, how = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
written, calls = Path.write_bytes, 0

def die_while_writing(path, content):
    global calls
    calls += 1
    written(path, content if calls < 14 else content[: len(content) // 2])
    if calls == 14:
        with (out / METRICS_NAME).open("a") as metrics:
            metrics.write('{"step": 9, "lo')
        os.kill(os.getpid(), signal.SIGKILL)

def tell(report):
    print(report.step, flush=True)
    waits = how == "at any time" and report.step >= 11
    time.sleep(0.2 if waits else 0.02)  # until it is killed, by one that may be slow

if how == "while writing":
    Path.write_bytes = die_while_writing
resume = how == "go on" and (out / "config.yaml").exists()
config = load_config(TrainConfig, config, {})
run(dataset, out, config, torch.device("cpu"), resume=resume, report=tell)
"""


def _fill_disk(monkeypatch: pytest.MonkeyPatch, full: Callable[[Path], bool]) -> None:
    """Let files of our choice be cut short, with the error of a full disk."""
    written = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        if path.name.startswith((".last.", ".best.")) and full(path):
            written(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)


def test_a_disk_that_was_full_for_a_while_loses_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(dataset, tmp_path / "whole", train_config(), CPU)
    out, step, said = tmp_path / "run", 0, list[str]()
    saved: list[int] = []

    def watch(report: TrainReport) -> None:
        nonlocal step
        step = report.step
        if (out / "last.safetensors").exists():  # of the step before
            saved.append(checkpoint.load_training(out / "last.safetensors")[2].progress["step"])

    _fill_disk(monkeypatch, lambda path: 3 <= step <= 5)
    run(dataset, out, train_config(), CPU, report=watch, say=said.append)
    assert saved == [1, 2, 2, 2, 2]
    warnings = [line for line in said if "No space left on device" in line]
    assert len(warnings) == 3
    assert all("goes on and tries again" in line for line in warnings)
    _assert_same_run(tmp_path / "whole", out)
    assert not list(out.glob(".*.partial"))


def test_a_best_score_on_a_full_disk_is_written_later(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step = tmp_path / "run", 0

    def watch(report: TrainReport) -> None:
        nonlocal step
        step = report.step

    run(dataset, tmp_path / "whole", train_config(learning_rate=0.5), CPU)
    _fill_disk(monkeypatch, lambda path: step < 6)
    run(dataset, out, train_config(learning_rate=0.5), CPU, report=watch)
    _assert_same_run(tmp_path / "whole", out)
    info = checkpoint.load_model(out)[1]
    scores = [validation["mse"] for _, validation in _scores(out)]
    assert info.step == 1 + scores.index(min(scores)) < 6


def test_a_disk_that_stays_full_is_an_error_at_the_end(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step = tmp_path / "run", 0

    def watch(report: TrainReport) -> None:
        nonlocal step
        step = report.step

    with monkeypatch.context() as patch:
        _fill_disk(patch, lambda path: step > 3)
        with pytest.raises(OutputError, match=r"No space left.*step 6 is not saved.*--resume"):
            run(dataset, out, train_config(), CPU, report=watch)
    assert step == 6
    assert checkpoint.load_training(out / "last.safetensors")[2].progress["step"] == 3
    run(dataset, tmp_path / "whole", train_config(), CPU)
    run(dataset, out, train_config(), CPU, resume=True)
    _assert_same_run(tmp_path / "whole", out)


def test_metrics_that_a_full_disk_refused_are_written_later(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    journal = _Journal(path)
    path.chmod(0o400)
    aside = path.rename(tmp_path / "aside")
    for line in ('{"step": 2}', '{"step": 3}'):
        with pytest.raises(OutputError, match="cannot be written"):
            journal.add(line)
    aside.chmod(0o600)
    aside.rename(path)
    with path.open("a") as half:
        half.write('{"step": 2')
    journal.add('{"step": 4}')
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3, 4]


def test_the_last_checkpoints_are_kept_and_can_be_gone_on_from(
    dataset: Path, tmp_path: Path
) -> None:
    out, config = tmp_path / "run", train_config(keep=3)
    run(dataset, out, config, CPU)
    kept = sorted(out.glob("step-*.safetensors"))
    assert [path.name for path in kept] == [f"step-{s:09d}.safetensors" for s in (4, 5, 6)]
    for step, path in zip((4, 5, 6), kept, strict=True):
        assert checkpoint.load_training(path)[2].progress["step"] == step
        assert checkpoint.load_model(path)[1].step == step
    before = {n: value.clone() for n, value in load_file(out / "last.safetensors").items()}
    shutil.copy(kept[0], out / "last.safetensors")
    run(dataset, out, config.model_copy(update={"keep": 2}), CPU, resume=True)
    after = load_file(out / "last.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [int(p.stem[5:]) for p in sorted(out.glob("step-*"))] == [5, 6]
    assert not list(out.glob(".*.partial"))


def test_by_default_no_checkpoint_is_kept_beside_the_last_and_the_best(
    dataset: Path, tmp_path: Path
) -> None:
    run(dataset, tmp_path / "run", train_config(), CPU)
    names = {path.name for path in (tmp_path / "run").glob("*.safetensors")}
    assert names == {"best.safetensors", "last.safetensors"}


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_were_not(
    dataset: Path, tmp_path: Path
) -> None:
    config = train_config(steps=60, validations=6, checkpoint_seconds=1e-3, keep=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    moments = random.Random(7)
    file = parts.with_suffix(".yaml")
    file.write_text(dump_config(config))
    kills = 0
    for _ in range(40):
        process = start_code(_CHILD, dataset, parts, file, "go on")
        while process.running and not process.printed():  # its first step
            time.sleep(0.005)
        process.process.join(moments.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        code = process.end().code
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert code == 0
    assert kills > 2
    run(dataset, whole, config, CPU)
    _assert_same_run(whole, parts)
    assert _scores(parts) == _scores(whole)
    assert [p.name for p in sorted(parts.glob("step-*"))] == [
        p.name for p in sorted(whole.glob("step-*"))
    ]


def _killed(dataset: Path, out: Path, config: TrainConfig, how: str) -> None:
    """Train in a process of its own, which is killed on its way."""
    file = out.with_suffix(".yaml")
    file.write_text(dump_config(config))
    process = start_code(_CHILD, dataset, out, file, how)
    deadline = time.monotonic() + 60
    while process.running and time.monotonic() < deadline:
        steps = process.printed().split()
        if how == "at any time" and steps and int(steps[-1]) >= 11:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.005)
    assert process.end().code == -signal.SIGKILL


@pytest.mark.parametrize("how", ["while writing", "at any time"])
def test_a_killed_run_goes_on(dataset: Path, tmp_path: Path, how: str) -> None:
    config = train_config(steps=40, validations=4, checkpoint_seconds=1e-3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    _killed(dataset, parts, config, how)
    saved = checkpoint.load_training(parts / "last.safetensors")[2].progress["step"]
    assert 0 < saved < 40
    if how == "while writing":
        assert list(parts.glob(".*.partial"))
    run(dataset, whole, config, CPU)
    run(dataset, parts, config, CPU, resume=True)
    _assert_same_run(whole, parts)
    steps = _steps(parts)
    assert steps[-1] == 40
    assert all(later > earlier for earlier, later in pairwise(steps))
    assert _scores(parts) == _scores(whole)


@pytest.mark.parametrize(
    ("key", "value"), [("learning_rate", 5e-4), ("loss", {"mse": 2.0}), ("seed", 4), ("steps", 8)]
)
def test_another_configuration_is_refused_by_name(
    dataset: Path, tmp_path: Path, key: str, value: object
) -> None:
    run(dataset, tmp_path / "run", train_config(steps=1), CPU)
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    config = train_config(**{"steps": 1, key: value})
    with pytest.raises(ConfigError, match=f"cannot resume with another configuration: {key} was"):
        run(dataset, tmp_path / "run", config, CPU, resume=True)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_a_folder_with_a_run_is_refused(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(dataset, out, train_config(steps=1), CPU)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with pytest.raises(OutputError, match="already holds a run; go on with it by --resume"):
        run(dataset, out, train_config(steps=1), CPU)
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_nothing_to_resume_from(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        run(dataset, tmp_path / "run", train_config(), CPU, resume=True)


def test_a_damaged_state_is_refused(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(dataset, out, train_config(steps=1), CPU)
    last = out / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        run(dataset, out, train_config(steps=1), CPU, resume=True)
