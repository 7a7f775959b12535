"""Several processes: work is shared, nothing is done twice, and one that dies stops nothing."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from clearice import io
from clearice.denoise import Denoiser, OutputOptions
from clearice.denoise.batch import Batch
from clearice.denoise.plan import Job, Source, find_micrographs, plan_jobs
from clearice.denoise.run import FileWork
from clearice.denoise.work import Outcome
from clearice.denoise.workers import WorkerLostError, _Crew, _Worker
from clearice.errors import BatchError, OutputError
from denoise_workers import FragileWork
from helpers import CPU, write_image, write_model


def test_two_processes_share_the_work_and_outlive_a_third(
    tmp_path: Path, generator: torch.Generator
) -> None:
    names = [f"m{index}" for index in range(6)]
    for name in [*names, "bad", "fatal"]:
        write_image(tmp_path / "in" / f"{name}.mrc", torch.randn(40, 52, generator=generator))
    (tmp_path / "in" / "bad.mrc").write_bytes(b"")
    out = tmp_path / "out"
    denoiser = Denoiser(write_model(tmp_path / "model.safetensors"), CPU)
    jobs = plan_jobs(find_micrographs([tmp_path / "in"], out), out, ".mrc")
    plain = FileWork(out, OutputOptions(), None, "test")
    said: list[str] = []
    batch = Batch(jobs, FragileWork(plain, tmp_path / "seen"), out, None, said.append)
    results = batch.run(denoiser, lambda *_: None, [CPU, CPU])
    with pytest.raises(BatchError, match="1 of 8 failed"):
        batch.raise_failures()
    assert [path.stem for path in results] == ["fatal", *names]
    (line,) = said
    assert line.startswith("warning: the process for cpu is gone (signal 9); ")
    for path in results:
        expected = denoiser(io.read_micrograph(tmp_path / "in" / path.name).pixels)
        assert torch.equal(io.read_micrograph(path).pixels, expected)
    # At most what the one that died had not told yet was done again.
    assert len(list(tmp_path.glob("*.by"))) <= 7 + 4
    assert list(out.rglob("*.partial")) == []


class _FakeProcess:
    exitcode = -9

    def join(self, timeout: float | None = None) -> None:
        """It is over already."""

    def is_alive(self) -> bool:
        return False


def _worker(play: Callable[[Connection], None]) -> _Worker:
    """Return a process that a thread plays."""
    here, there = multiprocessing.Pipe()

    def act() -> None:
        play(there)
        there.close()

    threading.Thread(target=act, daemon=True).start()
    return _Worker(_FakeProcess(), here, CPU)  # type: ignore[arg-type]


def _diligent(there: Connection) -> None:
    while True:
        there.send(("ask",))
        job = there.recv()
        if job is None:
            return
        there.send(("done", job, Outcome()))


def _dies(there: Connection) -> None:
    there.send(("ask",))
    there.recv()


def _jobs(count: int) -> list[Job]:
    return [Job(Source(Path(f"{i}.mrc"), Path(f"{i}.mrc")), Path(f"{i}")) for i in range(count)]


def _work(
    jobs: list[Job], *plays: Callable[[Connection], None]
) -> tuple[dict[Job, Any], list[str]]:
    told: dict[Job, Any] = {}
    said: list[str] = []
    _Crew(jobs, told.__setitem__, said.append).work([_worker(play) for play in plays])
    return told, said


def test_each_job_is_done_once() -> None:
    jobs = _jobs(50)
    told, said = _work(jobs, _diligent, _diligent, _diligent)
    assert told == dict.fromkeys(jobs, Outcome())
    assert said == []


def test_what_one_process_leaves_is_done_by_another() -> None:
    jobs = _jobs(8)
    first_dies = threading.Event()

    def dies(there: Connection) -> None:
        _dies(there)
        first_dies.set()

    def follows(there: Connection) -> None:
        first_dies.wait()
        _diligent(there)

    told, said = _work(jobs, dies, follows)
    assert told == dict.fromkeys(jobs, Outcome())
    (line,) = said
    assert "cpu is gone (signal 9); 1 micrographs that it had go to the others" in line


def test_a_job_that_ends_two_processes_is_counted_as_failed() -> None:
    (job,) = jobs = _jobs(1)
    told, said = _work(jobs, _dies, _dies, Connection.recv)
    assert len(said) == 2
    assert told[job].error == "0.mrc: ended 2 processes (signal 9); leave it out"


def test_without_processes_the_user_is_told_to_go_on() -> None:
    with pytest.raises(WorkerLostError, match=r"3 micrographs are left; give the same command"):
        _work(_jobs(3), _dies)


def test_what_ends_the_batch_in_one_process_ends_it() -> None:
    def full(there: Connection) -> None:
        there.send(("raise", OutputError("no space left")))
        there.recv()

    with pytest.raises(OutputError, match="no space left"):
        _work(_jobs(3), full, _diligent)
