"""Workers of a comparison: what breaks, what is printed, who may write, and who stops whom."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from clearice.config import TrainConfig
from clearice.errors import BatchError, OutputError
from clearice.workflows.compare import cell, pool, worker, yardsticks
from clearice.workflows.compare.cell import Job, Neighbours, score_images
from clearice.workflows.compare.lock import LOCK_NAME, alone_in
from forked import start
from helpers import CPU, smooth_image, write_dataset, write_image

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and inherited descriptors")


def _job(name: str, folder: Path = Path("/nowhere"), **keys: Any) -> Job:
    values: dict[str, Any] = {
        "name": name,
        "folder": str(folder / "cells" / name),
        "dataset": str(folder / "set"),
        "settings": {},
        "dataset_sha256": "",
        "split": "test",
        "weights": "last",
        "truth": None,
        "reference": None,
        "halves": False,
        "detail_angstrom": (8, 4),
        "crops": False,
    }
    return Job(**{**values, **keys})


def _run(logs: Path, jobs: int = 3, slots: int = 2) -> tuple[dict[str, str], list[float]]:
    """Run jobs and return what failed, and the shares that were reported."""
    shares: list[float] = []
    jobs_to_do = [_job(f"j{i}") for i in range(jobs)]
    failures = pool.Pool(["cpu"], slots, logs).run(
        jobs_to_do, lambda done, total, note: shares.append(done / total)
    )
    return failures, shares


def _worker(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let workers be a script that answers each line it reads."""
    (folder / "strange_worker.py").write_text(body)
    monkeypatch.setattr(pool, "_WORKER", "strange_worker")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_log_that_cannot_be_written_fails_jobs_and_hangs_nothing(tmp_path: Path) -> None:
    (tmp_path / "worker-0.log").mkdir()
    failures, _ = _run(tmp_path, jobs=2, slots=1)
    assert failures.keys() == {"j0", "j1"}
    assert all("its worker cannot run" in message for message in failures.values())


def test_a_slot_that_breaks_down_in_any_other_way_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool.Pool, "_start", lambda *_: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda error: None)
    failures, _ = _run(tmp_path)
    assert all("its slot broke down" in message for message in failures.values())
    assert len(failures) == 3


def test_foreign_lines_among_the_answers_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _worker(
        tmp_path,
        monkeypatch,
        "import sys\n"
        "for line in sys.stdin:\n"
        "    for said in ('a module says hello', '[1]', '{}', '{\"event\": \"progress\", '\n"
        '                 \'"done": 1, "total": 2}\', \'{"event": "done"}\'):\n'
        "        print(said, flush=True)\n",
    )
    failures, shares = _run(tmp_path)
    assert failures == {}
    assert shares[-1] == 1
    assert shares == sorted(shares)


@POSIX
@pytest.mark.parametrize(("number", "memory"), [(signal.SIGKILL, True), (signal.SIGTERM, False)])
def test_only_a_kill_is_put_down_to_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, memory: bool
) -> None:
    body = f"import os, sys\nsys.stdin.readline()\nos.kill(os.getpid(), {int(number)})\n"
    _worker(tmp_path, monkeypatch, body)
    failures, _ = _run(tmp_path, jobs=1, slots=1)
    assert f"was killed by signal {int(number)}" in failures["j0"]
    assert ("out of memory" in failures["j0"]) is memory


@POSIX
def test_a_worker_outlives_a_parent_that_hears_nothing() -> None:
    """Or the training would end in the middle of a step, before its state is saved."""
    read, write = os.pipe()
    os.close(read)
    kept = os.dup(1), os.dup(2)
    try:
        os.dup2(write, 1)
        channel = worker._Channel()
    finally:
        os.dup2(kept[0], 1)
        for descriptor in (*kept, write):
            os.close(descriptor)
    channel.send(event="progress", done=1, total=2)
    channel.tick(1, 2)
    with pytest.raises(BrokenPipeError):
        channel._out.close()


def test_one_comparison_at_a_time_in_a_folder(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        alone_in(tmp_path, said.append),
        pytest.raises(OutputError, match=f"process {os.getpid()}; wait"),
        alone_in(tmp_path, said.append),
    ):
        pass
    # A lock that nobody holds any more is none.
    (tmp_path / LOCK_NAME).write_text("99999999")
    with alone_in(tmp_path, said.append):
        assert (tmp_path / LOCK_NAME).read_text() == f"{os.getpid()}\n"
    assert said == []


@POSIX
def test_a_lock_lasts_as_long_as_a_worker(tmp_path: Path) -> None:
    line = [sys.executable, "-c", "input()"]
    with alone_in(tmp_path, print) as lock:
        process = subprocess.Popen(line, stdin=subprocess.PIPE, pass_fds=[lock])
    with pytest.raises(OutputError, match="at work there"), alone_in(tmp_path, print):
        pass
    process.communicate(b"\n", timeout=30)
    with alone_in(tmp_path, print):
        pass


@POSIX
def test_sigterm_stops_workers_as_ctrl_c_does(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", groups=4)
    base = {"network": "cnn3", "steps": 100_000, "batch_size": 2, "patch_size": 32}
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump({"base": {**base, "checkpoint_seconds": 0.1}, "seeds": [0]}))
    out = tmp_path / "out"
    process = start("compare", tmp_path / "set", "--grid", grid, "--out", out, "--device", "cpu")
    model = out / "cells" / "cnn3_mse-seed0" / "run" / "last.safetensors"
    deadline = time.monotonic() + 60
    while not model.exists() and process.running and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stopped = process.end()
    assert stopped.code == 130, stopped.err
    assert "the same command goes on" in stopped.err.splitlines()[-1]
    with alone_in(out, print):  # no worker holds the lock any more
        pass


def test_micrographs_that_cannot_be_scored_are_no_secret(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for folder in ("denoised", "raw", "truth"):
        for name in ("a", "b"):
            write_image(tmp_path / folder / f"{name}.mrc", smooth_image(generator, 64))
    write_image(tmp_path / "truth" / "b.mrc", smooth_image(generator, 32))
    job = _job("j", tmp_path, truth=str(tmp_path / "truth"))
    with pytest.raises(BatchError, match=r"1 of 2 failed.*\n.*b\.mrc"):
        score_images(job, tmp_path, baselines=False)


def test_stacks_in_main_memory_are_counted_for_all_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path)
    size = 3 * 2 * 2 * 64 * 64  # three training micrographs of two groups
    monkeypatch.setattr("clearice.data.caches.available_memory_bytes", lambda: 2 * 8 * size)

    def cache(beside: Neighbours) -> str:
        return cell._share(TrainConfig(), tmp_path, CPU, beside)["cache"]

    assert cache(Neighbours(2, 4)) == "ram"
    assert cache(Neighbours(2, 8)) == "stream"


def test_scores_of_filters_are_kept_until_they_would_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _job("j", tmp_path)
    path = tmp_path / "held-out" / "baselines.json"
    path.parent.mkdir()
    depends = {"dataset_sha256": "", "split": "test", "truth": None, "reference": None}
    path.write_text(json.dumps({"depends": {**depends, "halves": False}, "scores": {"kept": 1}}))
    assert yardsticks.baseline_scores(job, {}, tmp_path, pytest.fail) == {"kept": 1}
    monkeypatch.setattr(yardsticks, "_write_raw", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        yardsticks.baseline_scores(
            _job("j", tmp_path, split="validation"), {}, tmp_path, pytest.fail
        )
