"""A batch goes on where it was stopped: what is current is kept, and nothing else."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clearice.denoise import Denoiser, OutputOptions, Recipe, denoise_files, describe_run
from clearice.errors import BatchError, InputFileError, OutputError
from forked import start_code
from helpers import CPU, write_image, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A three-layer network with random weights."""
    return write_model(tmp_path / "model.safetensors", gain=0.5)


def _images(folder: Path, generator: torch.Generator, *names: str) -> list[Path]:
    return [
        write_image(folder / f"{name}.mrc", 30 + torch.randn(40, 52, generator=generator))
        for name in names
    ]


def _go(model: Path, inputs: list[Path], out: Path, **options: Any) -> list[str]:
    """Denoise, and return what was said."""
    said: list[str] = []
    settings = describe_run(Recipe(model))
    options = {"settings": settings, **options}
    denoise_files(inputs, Denoiser(model, CPU), out, say=said.append, **options)
    return said


def _statuses(out: Path) -> dict[str, str]:
    rows = json.loads((out / "denoise.json").read_text())["micrographs"]
    return {row["output"]: row["status"] for row in rows}


def _times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.mrc")}


def test_what_is_done_is_skipped_and_said(
    tmp_path: Path, model: Path, generator: torch.Generator
) -> None:
    first, out = _images(tmp_path / "in", generator, "a", "b"), tmp_path / "out"
    assert _go(model, first, out) == []
    before = _times(out)
    more = _images(tmp_path / "in", generator, "c")
    assert _go(model, [*first, *more], out) == ["2 of 3 are done already"]
    assert _statuses(out) == {"a.mrc": "skipped", "b.mrc": "skipped", "c.mrc": "done"}
    assert {name: _times(out)[name] for name in before} == before
    assert _go(model, [*first, *more], out) == ["3 of 3 are done already"]
    assert _go(model, first, out, force=True) == []
    assert all(_times(out)[name] > before[name] for name in before)


def test_without_settings_nothing_is_skipped(
    tmp_path: Path, model: Path, generator: torch.Generator
) -> None:
    images = _images(tmp_path / "in", generator, "a")
    for _ in range(2):
        assert _go(model, images, tmp_path / "out", settings=None) == []
        assert _statuses(tmp_path / "out") == {"a.mrc": "done"}


def _touch(image: Path, result: Path, model: Path) -> None:
    os.utime(image, ns=(1, 1))


def _cut(image: Path, result: Path, model: Path) -> None:
    result.write_bytes(result.read_bytes()[:-9])


def _remove(image: Path, result: Path, model: Path) -> None:
    result.unlink()


def _retrain(image: Path, result: Path, model: Path) -> None:
    write_model(model, gain=0.5, seed=1)


@pytest.mark.parametrize("change", [_touch, _cut, _remove, _retrain])
def test_what_is_stale_is_done_again(
    tmp_path: Path,
    model: Path,
    generator: torch.Generator,
    change: Callable[[Path, Path, Path], None],
) -> None:
    images, out = _images(tmp_path / "in", generator, "a"), tmp_path / "out"
    _go(model, images, out)
    change(images[0], out / "a.mrc", model)
    assert _go(model, images, out) == []
    _go(model, images, tmp_path / "anew")
    assert (out / "a.mrc").read_bytes() == (tmp_path / "anew" / "a.mrc").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"options": OutputOptions(dtype="float16")},
        {"pixel_size_angstrom": 1.4},
        {"settings": {"precision": "bfloat16"}},
    ],
)
def test_other_settings_make_other_results(
    tmp_path: Path, model: Path, generator: torch.Generator, options: dict[str, Any]
) -> None:
    images, out = _images(tmp_path / "in", generator, "a"), tmp_path / "out"
    _go(model, images, out)
    assert _go(model, images, out, **options) == []
    assert _go(model, images, out, **options) == ["1 of 1 are done already"]


def test_the_summary_says_what_became_of_each(
    tmp_path: Path, model: Path, generator: torch.Generator
) -> None:
    images, out = _images(tmp_path / "in", generator, "a", "bad", "c"), tmp_path / "out"
    images[1].write_bytes(b"")
    with pytest.raises(BatchError, match="1 of 3 failed"):
        _go(model, images, out)
    summary = json.loads((out / "denoise.json").read_text())
    assert {k: v for k, v in summary["totals"].items() if k != "seconds"} == {
        "micrographs": 3,
        "done": 2,
        "skipped": 0,
        "failed": 1,
    }
    assert len(summary["settings"]["model_sha256"]) == 64
    good, bad, _ = summary["micrographs"]
    assert good["input"] == str(images[0])
    assert good["pixel_size_angstrom"] == 1.5
    assert good["error"] is None
    assert bad["status"] == "failed"
    assert bad["error"].startswith(f"{images[1]}: ")
    with (out / "denoise.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["output"], row["status"]) for row in rows] == list(_statuses(out).items())
    # What failed is tried again, and only that.
    _images(tmp_path / "in", generator, "bad")
    assert _go(model, images, out) == ["2 of 3 are done already"]
    assert _statuses(out)["bad.mrc"] == "done"


def test_records_survive_when_the_disk_fills(
    tmp_path: Path, model: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = _images(tmp_path / "in", generator, "a", "b", "c"), tmp_path / "out"
    from clearice.denoise import outputs, run

    save = outputs.save

    def full(micrograph: Any, *rest: Any) -> None:
        if micrograph.path.stem == "c":
            raise OutputError("no space left")
        save(micrograph, *rest)

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="no space"):
        patch.setattr(run, "save", full)
        _go(model, images, out)
    assert _statuses(out) == {"a.mrc": "done", "b.mrc": "done"}
    assert _go(model, images, out) == ["2 of 3 are done already"]


@pytest.mark.parametrize("text", ["{", "[]", '{"micrographs": [{"output": 3}]}', ""])
def test_damaged_records_are_refused_in_one_line(
    tmp_path: Path, model: Path, generator: torch.Generator, text: str
) -> None:
    images, out = _images(tmp_path / "in", generator, "a"), tmp_path / "out"
    out.mkdir()
    (out / "denoise.json").write_text(text)
    with pytest.raises(InputFileError, match=r"denoise\.json: is damaged .*; delete it") as caught:
        _go(model, images, out)
    assert "\n" not in str(caught.value)


# The modules are imported once; each batch is a fork of that process, killed at a random moment.
_KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from clearice.denoise import Denoiser, OutputOptions, Recipe, denoise_files, describe_run

model, source, root, seed, rounds = Path(sys.argv[1]), *map(Path, sys.argv[2:4]), *sys.argv[4:]
generator = random.Random(int(seed))

def batch(out):
    pid = os.fork()
    if pid:
        return pid
    settings = describe_run(Recipe(model))
    denoiser = Denoiser(model, torch.device("cpu"))
    options = OutputOptions(previews=True)
    denoise_files([source], denoiser, out, options=options, settings=settings)
    os._exit(0)

def finished(out):
    start = time.monotonic()
    assert os.waitpid(batch(out), 0)[1] == 0
    return time.monotonic() - start

seconds = min(finished(root / name) for name in ("whole", "again"))
killed = 0
for number in range(int(rounds)):
    for _ in range(generator.randint(1, 3)):
        pid = batch(root / str(number))
        time.sleep(generator.uniform(0.0, 0.95) * seconds)
        os.kill(pid, signal.SIGKILL)
        killed += os.waitpid(pid, 0)[1] == signal.SIGKILL
    finished(root / str(number))
print(json.dumps(killed))
"""


def _content(folder: Path) -> dict[str, bytes]:
    """Return all files but the summaries, in which there are times."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name not in {"denoise.json", "denoise.csv"}
    }


@pytest.mark.parametrize(("seed", "rounds"), [(1, 6), pytest.param(2, 50, marks=pytest.mark.slow)])
def test_killed_at_random_moments(
    tmp_path: Path, model: Path, generator: torch.Generator, seed: int, rounds: int
) -> None:
    for folder in ("x", "y"):
        _images(tmp_path / "in" / folder, generator, *"abcdef")
    arguments = (model, tmp_path / "in", tmp_path, str(seed), str(rounds))
    done = start_code(_KILLER, *arguments, threads=1).end(300)
    assert done.code == 0, done.err
    assert int(done.out) >= rounds // 2
    whole = _content(tmp_path / "whole")
    assert len(whole) == 24
    for number in range(rounds):
        assert _content(tmp_path / str(number)) == whole
        assert set(_statuses(tmp_path / str(number)).values()) <= {"done", "skipped"}
