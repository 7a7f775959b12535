"""Three stages side by side: in order, in bounded memory, and sound whatever goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clearice import io
from clearice.denoise import Denoiser, Recipe, denoise_files, describe_run, outputs
from clearice.denoise import run as run_room
from clearice.denoise.pipeline import Lanes, Listed, Overlapped
from clearice.errors import BatchError, InputFileError, OutputError
from helpers import CPU, write_image, write_model

LANES = Lanes(readers=3, writers=2)


def _same(value: Any) -> Any:
    return value


class _Watch:
    """Counts how many jobs are between the start of reading and the end of writing."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self._lock = threading.Lock()

    def read(self, job: int) -> int:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        return job

    def write(self, job: int, item: int) -> int:
        with self._lock:
            self.inside -= 1
        return item


def _run(
    jobs: int,
    read: Callable[[int], Any] = _same,
    compute: Callable[[Any], Any] = _same,
    write: Callable[[int, Any], Any] = lambda job, item: item,
    lanes: Lanes = LANES,
) -> dict[int, Any]:
    """Return what became of each job."""
    told: dict[int, Any] = {}
    Overlapped(Listed(range(jobs)), read, compute, write, told.__setitem__, lanes).run()
    return told


def test_all_jobs_are_computed_in_order_and_told_once() -> None:
    computed: list[int] = []

    def read(job: int) -> int:
        time.sleep(0.002 * (job % 3))  # the later ones are read first
        return 10 * job

    told = _run(20, read, lambda item: computed.append(item) or item)  # type: ignore[func-returns-value]
    assert computed == [10 * job for job in range(20)]
    assert told == {job: 10 * job for job in range(20)}


def test_the_stages_overlap() -> None:
    def slow(*values: int) -> int:
        time.sleep(0.01)
        return values[-1]

    start = time.perf_counter()
    _run(20, slow, slow, slow)
    assert time.perf_counter() - start < 20 * 0.03 * 0.8


@pytest.mark.parametrize("slow", ["read", "compute", "write"])
def test_never_more_in_memory_than_was_said(slow: str) -> None:
    watch = _Watch()

    def late(*values: int) -> int:
        time.sleep(0.003)
        return values[-1]

    def write(job: int, item: int) -> int:
        return watch.write(job, late(item) if slow == "write" else item)

    def read(job: int) -> int:
        return late(watch.read(job)) if slow == "read" else watch.read(job)

    told = _run(60, read, late if slow == "compute" else _same, write)
    assert len(told) == 60
    assert watch.inside == 0
    # One more is in the hands of the network's thread.
    assert watch.most <= LANES.in_flight + 1
    if slow == "write":
        assert watch.most > LANES.ahead  # it is used, too


@pytest.mark.parametrize("stage", ["read", "write"])
def test_a_bad_file_fails_alone(stage: str) -> None:
    def fail(job: int, item: int = -1) -> int:
        if job == 3:
            raise InputFileError("3.mrc", "is bad", "leave it out")
        return job

    told = _run(8, **{stage: fail})  # type: ignore[arg-type]
    assert isinstance(told.pop(3), InputFileError)
    assert told == {job: job for job in range(8) if job != 3}


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
@pytest.mark.parametrize("kind", [OutputError, KeyboardInterrupt])
def test_what_ends_the_batch_lets_writing_finish(stage: str, kind: type[BaseException]) -> None:
    begun: set[int] = set()
    told: dict[int, Any] = {}

    def fail(job: int, item: int = -1) -> int:
        if job == 5:
            raise kind("enough")
        return job

    def write(job: int, item: int) -> int:
        begun.add(job)
        time.sleep(0.01)
        return fail(job) if stage == "write" else item

    read = fail if stage == "read" else _same
    compute = fail if stage == "compute" else _same
    with pytest.raises(kind, match="enough"):
        Overlapped(Listed(range(50)), read, compute, write, told.__setitem__, LANES).run()
    assert set(told) == begun - {5}
    assert max(begun) < 5 + LANES.in_flight
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPool")]


def test_what_is_told_may_end_the_batch_and_all_is_told_once() -> None:
    written: list[int] = []
    told: list[int] = []

    def write(job: int, item: int) -> None:
        time.sleep(0.005)
        written.append(job)

    def done(job: int, _: object) -> None:
        told.append(job)
        if len(told) >= 3:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        Overlapped(Listed(range(50)), _same, _same, write, done, LANES).run()
    assert sorted(told) == sorted(written)
    assert len(written) < 50


def test_threads_beside_the_network_leave_it_the_processors() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    _run(4, lambda job: seen.append(torch.get_num_threads()))
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


def _images(folder: Path, generator: torch.Generator, count: int) -> list[Path]:
    return [
        write_image(folder / f"{index:02d}.mrc", torch.randn(40, 52, generator=generator))
        for index in range(count)
    ]


def test_an_interruption_leaves_whole_results_and_their_records(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = _images(tmp_path / "in", generator, 8), tmp_path / "out"
    denoiser = Denoiser(write_model(tmp_path / "model.safetensors"), CPU)
    settings = describe_run(Recipe(tmp_path / "model.safetensors"))
    together, calls = Denoiser.together, iter(range(100))

    def interrupted(*given: Any, **named: Any) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return together(*given, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Denoiser, "together", interrupted)
        denoise_files(images, denoiser, out, settings=settings)
    kept = sorted(path.name for path in out.glob("*.mrc"))
    assert kept == [f"{i:02d}.mrc" for i in range(len(kept))]
    assert 2 <= len(kept) <= 4
    assert list(out.rglob("*.partial")) == []
    said: list[str] = []
    denoise_files(images, denoiser, out, settings=settings, say=said.append)
    assert said == [f"{len(kept)} of 8 are done already"]
    for image in images:
        expected = denoiser(io.read_micrograph(image).pixels)
        assert torch.equal(io.read_micrograph(out / image.name).pixels, expected)


def test_results_and_failures_keep_the_order_of_the_inputs(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = _images(tmp_path / "in", generator, 6)
    images[1].write_bytes(b"")
    images[4].write_bytes(b"")
    denoiser = Denoiser(write_model(tmp_path / "model.safetensors"), CPU)
    save = outputs.save

    def late(micrograph: Any, *rest: Any) -> None:
        time.sleep(0.03 if micrograph.path.stem == "00" else 0.0)
        save(micrograph, *rest)

    monkeypatch.setattr(run_room, "save", late)
    monkeypatch.setattr(Lanes, "of", lambda device: LANES)
    seen: list[tuple[int, int]] = []
    with pytest.raises(BatchError) as caught:
        denoise_files(images, denoiser, tmp_path / "out", progress=lambda *n: seen.append(n))
    assert [text.split(":")[0] for text in caught.value.failures] == [
        str(images[i]) for i in (1, 4)
    ]
    assert seen == [(done, 6) for done in range(1, 7)]
    rows = (tmp_path / "out" / "denoise.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [str(image) for image in images]


def test_many_warnings_of_one_kind_become_one_line(
    tmp_path: Path, generator: torch.Generator
) -> None:
    images = [
        write_image(tmp_path / f"{i}.mrc", torch.randn(40, 40, generator=generator), 3.0)
        for i in range(6)
    ]
    denoiser = Denoiser(write_model(tmp_path / "model.safetensors"), CPU)
    said: list[str] = []
    denoise_files(images, denoiser, tmp_path / "out", say=said.append)
    assert [line.split(": has")[0] for line in said[:3]] == [f"warning: {i}" for i in images[:3]]
    assert said[3:] == ["warning: 3 more have a pixel size far from the model's"]
