"""The demo: the whole path, and everything it promises to leave behind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clearice import io
from clearice.checkpoint import load_model
from clearice.config import PrepareConfig, SimulateConfig, TrainConfig
from clearice.data import Split, open_dataset
from clearice.errors import OutputError
from clearice.workflows import hallucinate
from clearice.workflows.demo import DemoPlan, run
from helpers import CPU, train_config

BARS: list[str] = []


@contextmanager
def _bar(label: str) -> Iterator[Callable[..., None]]:
    """Check that each bar reaches its end."""
    seen: list[tuple[int, int]] = []
    BARS.append(label)

    def update(done: int, total: int, note: str = "") -> None:
        seen.append((done, total))

    yield update
    assert seen
    assert seen[-1][0] == seen[-1][1]


def _plan(specimen: Path) -> DemoPlan:
    """A small session of a blob of atoms."""
    lines = [
        f"ATOM  {i:5d}  CA  ALA A{i:4d}    {60 * (i * 7 % 31) / 31 - 30:8.3f}"
        f"{60 * (i * 3 % 37) / 37 - 30:8.3f}{90 * (i % 41) / 41 - 45:8.3f}  1.00  0.00           C"
        for i in range(1, 2000)
    ]
    specimen.write_text("\n".join([*lines, "END"]) + "\n")
    return DemoPlan(
        SimulateConfig.model_validate(
            {
                "micrographs": 4,
                "size": 96,
                "frames": 8,
                "pixel_size_angstrom": 4.0,
                "specimen": str(specimen),
            }
        ),
        PrepareConfig.model_validate({"validation_fraction": 0.25, "test_fraction": 0.25}),
        TrainConfig.model_validate(train_config(steps=20).model_dump()),
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished demo."""
    folder = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hallucinate, "_SIZE", 96)
        scores = run(folder / "out", CPU, _bar, said.append, _plan(folder / "blob.pdb"))
    assert json.loads((folder / "out" / "scores.json").read_text()) == scores
    return folder / "out"


def test_scores_hold_what_was_promised(demo: Path) -> None:
    scores = json.loads((demo / "scores.json").read_text())
    for name in ("raw", "gaussian_best", "denoised"):
        assert math.isfinite(scores["snr_db"][name])
    assert scores["snr_db"] == scores["full_dose"]["truth"]["snr_db"]
    assert scores["snr_db"]["gaussian_best"] >= scores["snr_db"]["raw"]
    assert -1 <= scores["half_correlation"] <= 1
    assert scores["half_correlation"] == scores["halves"]["reference"]["half_correlation"]
    assert scores["training_seconds"] > 0
    assert {"residual_noise", "bias"} <= set(scores["halves"]["reference"])
    assert BARS[:5] == ["simulate", "prepare", "train", "denoise", "evaluate"]


def test_only_held_out_micrographs_are_judged(demo: Path) -> None:
    scores = json.loads((demo / "scores.json").read_text())
    held_out = [e.name for e in open_dataset(demo / "dataset").entries(Split.TEST)]
    assert scores["full_dose"]["micrographs"] == held_out
    # Each half is judged against the other, both ways.
    assert sorted(scores["halves"]["micrographs"]) == sorted(held_out * 2)


def test_data_model_results_and_report_are_there(demo: Path) -> None:
    (entry,) = open_dataset(demo / "dataset").entries(Split.TEST)
    for kind in ("denoised", "denoised_even", "denoised_odd", "raw", "raw_even", "raw_odd"):
        micrograph = io.read_micrograph(demo / "denoised" / kind / f"{entry.name}.mrc")
        assert micrograph.pixels.shape == (96, 96)
        assert micrograph.pixel_size_angstrom == 4.0
    assert load_model(demo / "run")[1].network == "cnn3"
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert "clearice demo" in page
    assert "network: cnn3" in page
    for part in ("Verdict", "Report card", "Trust", "Invention"):
        assert f"<h2>{part}" in page
    assert '"invention"' in (demo / "card.json").read_text()
    assert 'network: "cnn3"' in (demo / "MODEL.md").read_text(encoding="utf-8")
    assert not list(demo.rglob("*.partial"))


def test_an_earlier_demo_is_never_overwritten(demo: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match="already holds a demo; choose another --out"):
        run(demo, CPU, _bar, lambda message: None, _plan(tmp_path / "blob.pdb"))
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*") if path.is_file()} == before
