"""The quality ladder: which variants run, for how many steps, and what is made of their scores."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clearice.config import TrainConfig
from helpers import CPU, train_config, write_dataset


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script."""
    return load_script("training")


@pytest.fixture
def dataset(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data set in place of the simulated ones."""
    folder = write_dataset(tmp_path / "set", groups=8, truth=True).folder
    monkeypatch.setattr(script, "dataset_of", lambda given, groups: folder)
    return folder


def _given(*patterns: str) -> argparse.Namespace:
    return argparse.Namespace(variants=patterns)


def test_variants_can_be_trained_and_the_rivals_are_among_them(script: ModuleType) -> None:
    for variant in script.VARIANTS.values():
        TrainConfig.model_validate(variant.settings)
    assert set(script.RIVALS) - set(script.VARIANTS) == {script.TOPAZ}
    settings = [json.dumps([v.settings, v.groups]) for v in script.VARIANTS.values()]
    assert len(set(settings)) == len(settings)


def test_what_changes_nothing_or_cannot_be_trained_is_left_out(
    script: ModuleType, dataset: Path
) -> None:
    base = train_config().model_dump(mode="json")
    patterns = ("default", "network cnn*", "1 × 1024", "even and odd*")
    chosen, refused = script.selected(_given(*patterns), base)
    assert "network cnn3" not in chosen
    assert {"default", "network cnn7", "even and odd frames only"} <= set(chosen)
    assert set(refused) == {"1 × 1024"}
    assert "smaller than a patch" in refused["1 × 1024"]


def test_the_base_is_what_the_program_picks(script: ModuleType, dataset: Path) -> None:
    base = script.base_settings(dataset, CPU, quick=False)
    assert TrainConfig.model_validate(base).network == "unet-small"
    assert not {"steps", "seed"} & set(base)


def test_a_time_is_filled_with_steps(script: ModuleType) -> None:
    assert script.steps_in(12.0, 0.01, None) == 1200
    assert script.steps_in(12.0, 0.01, 4) == 4
    assert script.steps_in(1.0, 30.0, None) == 1


def test_steps_are_timed_once(
    script: ModuleType, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def measured(
        work: object, result: Path, missing: dict[str, Any], recipe: str | None, crop: int
    ) -> dict[str, float]:
        asked.append([settings["network"] for settings in missing.values()])
        times = dict.fromkeys(missing, 0.5)
        return times | ({script.TOPAZ: 2.0} if recipe else {})

    monkeypatch.setattr(script, "measured_alone", measured)
    given = argparse.Namespace(work=tmp_path, crop=32)
    base = train_config().model_dump(mode="json")
    slow = {"default": base, "schedule step": {**base, "schedule": "step"}}
    times = script.step_times(given, slow, dataset, topaz=True)
    assert times == {"default": 0.5, "schedule step": 0.5, script.TOPAZ: 2.0}
    more = {**slow, "network cnn7": {**base, "network": "cnn7"}}
    assert set(script.step_times(given, more, dataset, topaz=True)) == {*more, script.TOPAZ}
    script.step_times(given, more, dataset, topaz=False)
    assert asked == [["cnn3"], ["cnn7"]]


def test_the_time_of_a_step_is_measured(script: ModuleType, dataset: Path) -> None:
    settings = train_config(patch_size=32).model_dump(mode="json")
    times = script.time_steps({"key": settings}, str(dataset), 32)
    assert set(times) == {"key", script.TOPAZ}
    assert min(times.values()) > 0


def _cell(snr_db: float, fine: float) -> dict[str, Any]:
    truth = {"snr_db": {"denoised": snr_db}, "band_correlation": {"8-4": {"denoised": fine}}}
    return {"seconds": 10.0, "full_dose": {"truth": truth}}


def test_scores_are_averaged_over_seeds_and_the_gap_is_told(script: ModuleType) -> None:
    cells = {
        script.TOPAZ: [_cell(1.0, 0.1), _cell(2.0, 0.2)],
        script.DEFAULT: [_cell(3.0, 0.3), _cell(3.4, 0.5)],
        script.CLEAN: [_cell(3.5, 0.4), _cell(3.5, 0.4)],
        "network cnn3": [],
    }
    cells[script.TOPAZ][0]["halves"] = {"reference": {"half_correlation": 0.04}}
    rows = script.summary(cells)
    assert [row["variant"] for row in rows] == [script.CLEAN, script.DEFAULT, script.TOPAZ]
    last = rows[-1]
    assert (last["snr_db"], last["snr_db_sd"]) == (1.5, 0.7071)
    assert (last["frc_8_4"], last["frc_8_4_sd"], last["seeds"]) == (0.15, 0.0707, 2)
    gap = script.gap(rows)
    assert gap["share_of_the_way_in_db"] == pytest.approx((3.2 - 1.5) / (3.5 - 1.5))
    assert gap["default_minus_topaz_db"] == pytest.approx(1.7)
    assert script.half_correlation(cells) == 0.04
    assert script.gap(rows[1:]) is None
    alike = script.summary({**cells, script.CLEAN: [_cell(1.5, 0.4)]})
    assert script.gap(alike)["share_of_the_way_in_db"] is None


@pytest.mark.slow
def test_the_script_trains_and_collects(test_data: Path, tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "training.py"
    options = f"--quick --out {tmp_path}/out.json --work {tmp_path}/work"
    subprocess.run([sys.executable, path, *options.split()], check=True)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["failures"] == []
    assert set(result["not_run"]) == {"1 × 1024"}
    assert {len(cells) for cells in result["cells"].values()} == {1}
    rivals = {"default", "clean targets", "Topaz's recipe", "network topaz-unet"}
    assert rivals | {"even and odd frames only"} < set(result["cells"])
    assert set(result["gap"]["frc_8_4"]) == rivals
    assert 0.0 < result["half_correlation"] < 0.1
