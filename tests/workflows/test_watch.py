"""`clearice watch`: whole files only, each once, a page of them, and a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clearice import cli, io
from clearice.denoise import Denoiser, OutputOptions, Recipe, describe_run
from clearice.errors import BatchError, InputFileError, OutputError
from clearice.workflows.watch import WatchPlan, watch
from clearice.workflows.watch.arrivals import Arrivals, stamp_of
from helpers import CPU, write_image, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A three-layer network with random weights."""
    return write_model(tmp_path / "model.safetensors", gain=0.5)


def _image(folder: Path, name: str, seed: int = 0) -> Path:
    pixels = 30 + torch.randn(40, 52, generator=torch.Generator().manual_seed(seed))
    return write_image(folder / name, pixels)


def _watch(
    model: Path, folder: Path, out: Path, say: Callable[[str], None] = print, **plan: Any
) -> int:
    settings = describe_run(Recipe(model))
    return watch(
        WatchPlan(folder, out, **{"interval_s": 0.01, "once": True, **plan}),
        Denoiser(model, CPU),
        settings,
        say,
        options=OutputOptions(previews=True),
    )


def _page(out: Path) -> str:
    return (out / "index.html").read_text(encoding="utf-8")


def test_folders_are_mirrored_and_the_page_shows_the_newest_first(
    tmp_path: Path, model: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for age, name in enumerate(("new.mrc", "grid 1/a&b.mrc", "old.mrc")):
        path = _image(folder, name)
        os.utime(path, (1e9 - age, 1e9 - age))
    said: list[str] = []
    assert _watch(model, folder, out, said.append) == 3
    for name in ("new.mrc", "grid 1/a&b.mrc", "old.mrc"):
        assert io.read_micrograph(out / name).pixels.shape == (40, 52)
    assert sorted(line.split(" (")[0] for line in said) == [
        "done: grid 1/a&b.mrc",
        "done: new.mrc",
        "done: old.mrc",
    ]
    page = _page(out)
    shown = [page.index(f">{name}<") for name in ("new.mrc", "a&amp;b.mrc", "old.mrc")]
    assert shown == sorted(shown)
    assert '<img src="grid%201/previews/a%26b.png"' in page
    assert (out / "grid 1" / "previews" / "a&b.png").is_file()
    assert "<b>3</b> denoised" in page
    assert "52 × 40 px" in page
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1e9)) in page
    assert "stopped" in page
    assert "reload" not in page


def test_a_restart_does_only_what_is_new_or_changed(tmp_path: Path, model: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.mrc", "grid/b.mrc"):
        _image(folder, name)
    assert _watch(model, folder, out) == 2
    (out / ".index.html.77.partial").touch()  # as a kill leaves it
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.mrc")}
    _image(folder, "grid/b.mrc", seed=1)
    _image(folder, "grid/c.mrc")
    said: list[str] = []
    assert _watch(model, folder, out, said.append) == 2
    assert [line for line in said if "already" in line] == ["1 of 1 are done already"]
    assert (out / "a.mrc").stat().st_mtime_ns == before[out / "a.mrc"]
    assert (out / "grid/b.mrc").stat().st_mtime_ns > before[out / "grid/b.mrc"]
    assert "<b>3</b> denoised" in _page(out)
    assert not list(out.glob(".*"))
    (out / "a.mrc").unlink()
    assert _watch(model, folder, out) == 1


def test_a_file_that_grows_is_not_touched_before_it_is_whole(tmp_path: Path) -> None:
    whole = _image(tmp_path, "whole.mrc").read_bytes()
    arrivals = Arrivals(tmp_path / "in", tmp_path / "out", {})
    path = tmp_path / "in" / "a.mrc"
    path.parent.mkdir()
    for size in (0, 500, 1024, len(whole) - 1):
        path.write_bytes(whole[:size])
        # It stalls: unchanged, but too short.
        assert [arrivals.look(), arrivals.look(), arrivals.look()] == [[], [], []]
        assert arrivals.arriving == 1
    path.write_bytes(whole)
    assert arrivals.look() == []  # nothing tells yet that no more will come
    assert arrivals.look() == [path]
    assert arrivals.look() == []
    assert arrivals.arriving == 0
    os.utime(path, (1e9, 1e9))
    assert [arrivals.look(), arrivals.look()] == [[], [path]]


def test_what_stays_cut_short_is_given_out_once(tmp_path: Path) -> None:
    path = _image(tmp_path / "in", "a.mrc")
    path.write_bytes(path.read_bytes()[:-9])
    arrivals = Arrivals(tmp_path / "in", tmp_path / "out", {})
    looks = [arrivals.look() for _ in range(12)]
    assert [bool(look) for look in looks] == [number == 5 for number in range(12)]
    assert looks[5] == [path]
    path.unlink()
    assert arrivals.look() == []


def test_what_is_known_is_given_out_at_once_while_unchanged(tmp_path: Path) -> None:
    path = _image(tmp_path / "in", "a.mrc")
    stamp = stamp_of(path)
    assert stamp is not None
    assert Arrivals(tmp_path / "in", tmp_path / "out", {path: stamp}).look() == [path]
    os.utime(path, (1e9, 1e9))
    assert Arrivals(tmp_path / "in", tmp_path / "out", {path: stamp}).look() == []


def test_files_that_arrive_meanwhile_are_done_and_idleness_ends_it(
    tmp_path: Path, model: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    first = _image(folder, "first.mrc")
    pages: list[str] = []

    def arrive() -> None:
        pages.append(_page(out))
        half = folder / "later.mrc"
        half.write_bytes(first.read_bytes()[:3000])
        _image(folder, "grid/other.mrc")
        time.sleep(0.06)
        half.write_bytes(first.read_bytes())

    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("done: first.mrc"):
            threading.Thread(target=arrive).start()

    assert _watch(model, folder, out, say, once=False, interval_s=0.05, idle_exit_min=0.01) == 3
    assert "watching" in pages[0]
    assert "reload" in pages[0]
    assert (out / "later.mrc").is_file()
    assert (out / "grid/other.mrc").is_file()


def test_a_bad_file_is_reported_once_and_tried_again_when_it_changes(
    tmp_path: Path, model: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    bad = _image(folder, "bad.mrc")
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-9])
    _image(folder, "good.mrc")
    said: list[str] = []
    with pytest.raises(BatchError, match="1 of 2 failed") as caught:
        _watch(model, folder, out, said.append, once=False, idle_exit_min=0.2 / 60)
    assert str(bad) in caught.value.failures[0]
    (line,) = [line for line in said if line.startswith("failed")]
    assert "is truncated" in line
    page = _page(out)
    assert "<b>1</b> failed" in page
    assert "is truncated" in page
    with pytest.raises(BatchError, match="1 of 1 failed"):  # a restart says it again
        _watch(model, folder, out)
    bad.write_bytes(whole)
    assert _watch(model, folder, out) == 1
    assert "failed" not in _page(out)


def test_two_files_with_one_result_do_not_overwrite_each_other(tmp_path: Path, model: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    first = _image(folder, "a.mrc")
    io.write_tiff(folder / "a.tif", io.read_image(first), 1.5)
    for _ in range(2):
        said: list[str] = []
        with pytest.raises(BatchError, match="has the same result"):
            _watch(model, folder, out, said.append)
        (row,) = json.loads((out / "denoise.json").read_text())["micrographs"]
        assert row["input"] == str(first)


def test_folders_that_cannot_be_watched(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InputFileError, match="is no folder"):
        _watch(model, tmp_path / "gone", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "in").mkdir()
    with pytest.raises(OutputError, match="is what is watched"):
        _watch(model, tmp_path / "in", tmp_path / "in" / ".." / "in")


def test_results_inside_the_watched_folder_are_no_inputs(tmp_path: Path, model: Path) -> None:
    _image(tmp_path / "in", "a.mrc")
    out = tmp_path / "in" / "out"
    assert [_watch(model, tmp_path / "in", out), _watch(model, tmp_path / "in", out)] == [1, 0]
    assert "<b>1</b> denoised" in _page(out)


def test_the_command(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    out = tmp_path / "out"
    options = ["--model", str(model), "--out", str(out), "--device", "cpu", "--interval", "0.01"]
    assert cli.run(["watch", str(tmp_path / "in"), *options, "--once"]) == 0
    assert f"0 micrographs denoised; see {out / 'index.html'}" in capsys.readouterr().out
    assert "Nothing has arrived yet" in _page(out)
    _image(tmp_path / "in", "a.mrc").write_bytes(b"")
    assert cli.run(["watch", str(tmp_path / "in"), *options, "--once"]) == 2
    assert "1 of 1 failed" in capsys.readouterr().err
    assert cli.run(["watch", str(tmp_path / "in"), *options, "--interval", "0"]) == 2


_ENTRY = "from clearice.cli import main; main()"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to handle")
def test_sigterm_ends_it_cleanly_and_the_next_one_goes_on(tmp_path: Path, model: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for number in range(40):
        _image(folder, f"m{number:02d}.mrc")
    arguments = ["watch", str(folder), "--model", str(model), "--out", str(out), "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-c", _ENTRY, *arguments, "--interval", "0.01"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while not list(out.glob("m*.mrc")):
            assert time.monotonic() < deadline, "nothing was denoised"
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        printed, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    results = {path.name for path in out.glob("m*.mrc")}
    assert {line.split()[1] for line in printed.splitlines() if line.startswith("done")} == results
    assert not [path for path in out.rglob("*") if path.name.endswith(".partial")]
    assert "stopped" in _page(out)
    assert f"<b>{len(results)}</b> denoised" in _page(out)
    assert len(results) + _watch(model, folder, out) == 40
