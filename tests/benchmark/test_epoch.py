"""An epoch from disk: the data set it needs, and what is told of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from clearice.data import open_dataset, patches_of
from helpers import CPU, train_config


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script."""
    return load_script("epoch")


@pytest.mark.parametrize("patches", [10_309, 16, 5, 33])
def test_micrographs_hold_exactly_so_many_patches(script: ModuleType, patches: int) -> None:
    shapes = script.shapes_of(patches, 1024, 4096)
    assert sum(patches_of((2, *shape), 1024) for shape in shapes) == patches
    pixels = sum(rows * columns for rows, columns in shapes)
    assert pixels == patches * 1024**2


def test_stacks_differ_and_are_what_the_manifest_says(script: ModuleType, tmp_path: Path) -> None:
    shapes = script.shapes_of(9, 32, 64)
    script.make_dataset(tmp_path / "set", shapes)
    data = open_dataset(tmp_path / "set")
    assert data.verify() == []
    entries = data.manifest.micrographs
    assert [entry.shape for entry in entries] == [(2, *shape) for shape in shapes]
    assert len({entry.sha256 for entry in entries}) == len(entries) == 3
    assert data.manifest.roles == "exchangeable"
    written = (tmp_path / "set" / "dataset.json").stat().st_mtime_ns
    script.make_dataset(tmp_path / "set", shapes)  # once
    assert (tmp_path / "set" / "dataset.json").stat().st_mtime_ns == written


def test_a_run_tells_speed_and_memory(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "_SECONDS_A_ROUND", 0.0)
    script.make_dataset(tmp_path / "set", script.shapes_of(40, 32, 64))
    script.drop_from_page_cache(tmp_path / "set")
    config = train_config(epochs=1, steps=None).model_dump(mode="json")
    run = script.epoch(tmp_path / "set", tmp_path / "run", config, "cpu", None)
    assert run["steps"] == 10
    assert run["wall_seconds"] >= run["training_seconds"] > 0
    assert run["patches_per_second"] > 0
    assert run["between_saves"] > 0
    assert run["peak_resident_mib"] >= run["peak_anonymous_mib"] > 0
    alone = script.network_only(config, "cpu", None)
    rate = 4e3 / alone["step_milliseconds"]
    assert alone["patches_per_second"] == pytest.approx(rate, rel=0.02)


def test_speed_counts_from_the_tenth_part_on(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([3.0, 5.0])
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(clock))
    tick, began = script._clock(CPU)
    for done in range(1, 41):
        tick(done, 40)
    assert began == {"step": 4, "time": 3.0}


def test_memory_is_that_of_the_work_inside(load_script: Callable[[str], ModuleType]) -> None:
    processes = load_script("processes")
    with processes.watched() as before:
        pass
    with processes.watched() as peaks:
        held = b"x" * 2**26
        assert len(held) == 2**26
    grown = peaks["peak_anonymous_mib"] - before["peak_anonymous_mib"]
    assert 55 < grown < 120


@pytest.mark.slow
def test_the_script_sets_runs_against_the_network_alone(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "epoch.py"
    out, work = tmp_path / "out.json", tmp_path / "work"
    options = f"--out {out} --work {work} --networks cnn3 --device cpu --cold"
    sizes = "--patches 33 --patch-size 32 --edge 64"
    subprocess.run([sys.executable, script, *f"{options} {sizes}".split()], check=True)
    result = json.loads((tmp_path / "out.json").read_text())
    assert [run["cache"] for run in result["runs"]] == ["ram", "stream"]
    for run in result["runs"]:
        alone = [each["patches_per_second"] for each in run["network_only"]]
        share = 200 * run["patches_per_second"] / sum(alone)
        assert run["percent_of_network_only"] == pytest.approx(share, abs=0.1)
    assert result["dataset_bytes"] == 33 * 2 * 2 * 32**2
    assert not (tmp_path / "work" / "dataset").exists()
