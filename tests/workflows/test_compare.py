"""Compare: a grid trained, scored and ranked; stopped, grown, refused where it must be."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from clearice import checkpoint, denoise, evaluate, io, train
from clearice.config import TrainConfig
from clearice.data import Affine, Split, open_dataset
from clearice.errors import (
    BatchError,
    ConfigError,
    DatasetError,
    InputFileError,
    PairingError,
    UnknownNameError,
)
from clearice.workflows import compare
from clearice.workflows.compare import pool, results
from clearice.workflows.compare.cell import Neighbours, run_cell
from clearice.workflows.compare.run import detail_band
from clearice.workflows.compare.yardsticks import write_yardsticks
from forked import start
from helpers import CPU, smooth_image, write_dataset, write_image

BASE = {"network": "cnn3", "steps": 4, "batch_size": 2, "patch_size": 32, "validations": 1}
FAST = {"loss": ["mse", "mse + 0.01 l1"]}


def _grid(folder: Path, **keys: Any) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({"base": BASE, "grid": FAST, "seeds": [0, 1], **keys}))
    return path


@contextmanager
def _bar(label: str) -> Iterator[Callable[..., None]]:
    """Check that the bar never goes back and reaches its end."""
    seen: list[tuple[float, int]] = []
    yield lambda done, total, note=None: seen.append((done, total))
    shares = [done / total for done, total in seen]
    assert shares[-1] == 1
    assert all(0 <= share <= 1 for share in shares)
    assert shares == sorted(shares)


def _ignore(message: str) -> None:
    """Say nothing."""


def _run(todo: compare.ComparePlan, jobs: int = 2, rank_by: str | None = None) -> dict[str, Any]:
    return compare.run(todo, "cpu", jobs, _bar, _ignore, rank_by)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison of two losses with two seeds: `set/` and `out/`."""
    folder = tmp_path_factory.mktemp("compare")
    write_dataset(folder / "set", groups=4, truth=True)
    results = _run(compare.plan(folder / "set", _grid(folder), folder / "out"))
    assert json.loads((folder / "out" / "results.json").read_text()) == results
    return folder


def _results(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "out" / "results.json").read_text())
    return values


# Plan


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"seeds": [0, 0]}, ConfigError, "seeds must differ"),
        ({"seeds": []}, ConfigError, "seeds"),
        ({"base": {**BASE, "seed": 1}}, ConfigError, "name seeds under 'seeds'"),
        ({"grid": {"loss": []}}, ConfigError, "no value for 'loss'"),
        ({"grids": {}}, ConfigError, "unknown key 'grids' .did you mean 'grid'"),
        ({"grid": {"network": ["unett"]}}, UnknownNameError, "did you mean 'unet'"),
        ({"grid": {"loss": ["l7"]}}, UnknownNameError, "unknown loss 'l7'"),
        ({"grid": {"loss": ["log-power"]}}, ConfigError, "biased by noisy.*'allow_biased: true'"),
        (
            {"grid": {"patch_size": [32, 128]}},
            DatasetError,
            "variant 'patch size 128': .* is smaller than a patch; use patch_size: 64 or less",
        ),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    done: Path, tmp_path: Path, keys: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compare.plan(done / "set", _grid(tmp_path, **keys), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_files_are_named(done: Path, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="does not exist; give a YAML file with --grid"):
        compare.plan(done / "set", tmp_path / "none.yaml", tmp_path / "out")
    with pytest.raises(PairingError, match=r"has no mic\d.mrc"):
        compare.plan(done / "set", _grid(tmp_path), tmp_path / "out", truth=tmp_path)
    write_dataset(tmp_path / "all", validation=0.0)
    with pytest.raises(DatasetError, match="holds no micrograph out"):
        compare.plan(tmp_path / "all", _grid(tmp_path), tmp_path / "out")


def test_what_the_data_lack_is_found_before_anything_runs(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", groups=2).folder
    for grid, message in (
        ({"loss": ["mse + 0.1 log-power-debiased"]}, "frame groups or more, and this has 2"),
        ({"target": ["clean"]}, "has no truth for"),
    ):
        with pytest.raises(DatasetError, match=message):
            compare.plan(data, _grid(tmp_path, grid=grid), tmp_path / "out")
    todo = compare.plan(data, _grid(tmp_path), tmp_path / "out")
    for column in ("snr_db", "frc_8-2", "transfer_33-1"):
        with pytest.raises((ConfigError, UnknownNameError)):
            _run(todo, rank_by=column)
    with pytest.raises(ConfigError, match=r"'snr_db' to be ranked by; --rank-by one of: rho, "):
        _run(todo, rank_by="snr_db")
    assert not (tmp_path / "out").exists()


def test_truth_of_other_shape_or_pixels_is_refused(done: Path, tmp_path: Path) -> None:
    for size, pixel, message in ((32, 1.5, "is 32 × 32 px, but"), (64, 3.0, "has 3 Å/px, but")):
        for index in range(4):
            image = smooth_image(torch.Generator().manual_seed(index), size)
            write_image(tmp_path / f"mic{index}.mrc", image, pixel)
        with pytest.raises(InputFileError, match=message):
            compare.plan(done / "set", _grid(tmp_path), tmp_path / "out", truth=tmp_path)


def test_the_finest_band_is_one_that_the_pixels_resolve() -> None:
    assert detail_band(1.315) == (8, 4)
    assert detail_band(2.63) == (15, 8)
    assert detail_band(200.0) == (300, 15)


def test_other_settings_or_data_are_refused(done: Path, tmp_path: Path) -> None:
    grid = _grid(tmp_path, base={**BASE, "learning_rate": 0.5})
    with pytest.raises(ConfigError, match=r"learning_rate was 0.001 and is now 0.5.*--out"):
        compare.plan(done / "set", grid, done / "out")
    write_dataset(tmp_path / "other", groups=4, truth=True, seed=1)
    with pytest.raises(DatasetError, match="was trained on another data set"):
        compare.plan(tmp_path / "other", _grid(tmp_path), done / "out")
    grid = _grid(tmp_path, base={**BASE, "cache": "stream", "workers": 1, "cuda_graph": False})
    assert compare.plan(done / "set", grid, done / "out").states == ("done",) * 4


def test_a_cell_of_a_version_with_fewer_settings_is_kept(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "out", tmp_path / "out")
    for record in (tmp_path / "out").glob("cells/*/cell.json"):
        values = json.loads(record.read_text())
        del values["settings"]["dropout"]
        record.write_text(json.dumps(values))
    assert compare.plan(done / "set", _grid(tmp_path), tmp_path / "out").states == ("done",) * 4
    grid = _grid(tmp_path, base={**BASE, "network": "unet", "dropout": 0.1})
    assert compare.plan(done / "set", grid, tmp_path / "out").states == ("new",) * 4


# Runs


def test_a_cell_has_the_scores_of_training_and_evaluating_by_hand(
    done: Path, tmp_path: Path
) -> None:
    cell = json.loads((done / "out/cells/cnn3_mse-seed1/scores.json").read_text())
    config = TrainConfig.model_validate({**BASE, "seed": 1})
    trained = train.run(done / "set", tmp_path / "run", config, CPU)
    denoiser = denoise.Denoiser(tmp_path / "run" / checkpoint.LAST_NAME, CPU)
    images = tmp_path / "images"
    denoise.denoise_dataset(done / "set", denoiser, images, Split.VALIDATION, halves=True)
    truth = tmp_path / "truth"
    data = open_dataset(done / "set")
    truth.mkdir()
    for entry in data.entries(Split.VALIDATION):
        clean = Affine(entry.mean, entry.std).invert(data.truth(entry)[0].float())
        io.write_mrc(truth / f"{entry.name}.mrc", clean, 1.5)
    full = evaluate.score(evaluate.match_cases(images / "denoised", images / "raw", truth=truth))
    cases = [
        case
        for one, other in (("even", "odd"), ("odd", "even"))
        for case in evaluate.match_cases(
            images / f"denoised_{one}",
            images / f"raw_{one}",
            images / f"raw_{other}",
            denoised_other=images / f"denoised_{other}",
        )
    ]
    halves = evaluate.score(cases)
    assert cell["scores"]["full_dose"]["truth"]["snr_db"] == pytest.approx(
        {"denoised": full["truth"]["snr_db"]["denoised"]}, abs=1e-4
    )
    filters = _results(done)["baselines"]  # scored once, not in each cell
    for method, name in (("raw", "raw"), ("gaussian_best",) * 2, ("wiener_oracle", "wiener")):
        for key in ("snr_db", "psnr_db", "ssim"):
            assert filters[method][key] == pytest.approx(full["truth"][key][name], rel=1e-6)
    assert filters["wiener"]["rho"] == pytest.approx(
        halves["reference"]["correlation_with_truth"]["wiener"], rel=1e-6
    )
    numbers = results.numbers_of(cell["scores"], "denoised")
    assert numbers["rho"] == pytest.approx(
        halves["reference"]["correlation_with_truth"]["denoised"], abs=1e-4
    )
    assert numbers["residual_noise"] == pytest.approx(
        halves["reference"]["residual_noise"], rel=1e-3
    )
    # The transfer is that against the truth, where it is known.
    assert numbers["transfer_15-8"] == pytest.approx(
        full["truth"]["band_signal_transfer"]["15-8"], rel=1e-3
    )
    assert trained.last is not None
    assert cell["training"]["parts"] == pytest.approx(trained.last.parts, rel=1e-4)
    assert cell["training"]["steps"] == 4
    assert cell["training"]["parameters"] == 2625


def test_results_hold_every_seed_and_their_mean_and_spread(done: Path) -> None:
    values = _results(done)
    assert values["ranked_by"] == "snr_db"
    assert {row["label"] for row in values["variants"]} == set(FAST["loss"])
    for row in values["variants"]:
        assert [seed["seed"] for seed in row["seeds"]] == [0, 1]
        for key in ("snr_db", "rho", "frc_15-8", "truth_frc_15-8", "transfer_15-8", "seconds"):
            series = [seed["metrics"][key] for seed in row["seeds"]]
            assert row["mean"][key] == pytest.approx(statistics.fmean(series))
            assert row["spread"][key] == pytest.approx(statistics.stdev(series))
        x = row["curves"]["frequency_per_angstrom"]
        for key in ("frc_denoised", "correlation_with_truth_denoised", "signal_transfer_truth"):
            assert len(row["curves"][key]) == len(x)
    assert values["baselines"].keys() == {"raw", "gaussian_best", "wiener_oracle", "wiener"}
    assert math.isfinite(values["baselines"]["wiener_oracle"]["snr_db"])
    assert not values["baselines"]["wiener_oracle"].keys() & values["baselines"]["wiener"].keys()
    assert values["about"]["dataset_sha256"] == open_dataset(done / "set").checksum()
    assert values["about"]["split"] == "validation"
    assert values["context"]["torch"]


def test_only_crops_of_the_first_seed_are_kept(done: Path) -> None:
    cells = done / "out" / "cells"
    assert not list(cells.glob("*/images"))
    for cell in cells.iterdir():
        kept = sorted(p.name for p in (cell / "crops").glob("*"))
        roles = ("denoised", "raw", "truth")
        wanted = sorted(f"{role}{end}.mrc" for role in roles for end in ("", "-detail"))
        assert kept == (wanted if cell.name.endswith("seed0") else [])


def test_a_grid_grows_around_what_is_done(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = done / "out" / "cells" / "cnn3_mse-seed0" / "scores.json"
    before = finished.stat().st_mtime_ns
    grid = _grid(tmp_path, grid={"loss": ["mse", "mse + 0.01 l1", "l1"]}, seeds=[0])
    grown = compare.plan(done / "set", grid, done / "out")
    assert grown.states == ("done", "done", "new")
    assert grown.lines()[0] == "3 variants × 1 seeds = 3 trainings: 2 done, 0 begun, 1 new"
    values = _run(grown, rank_by="seconds")
    assert finished.stat().st_mtime_ns == before
    assert [row["n"] for row in values["variants"]] == [1, 1, 1]
    assert all(row["spread"]["snr_db"] is None for row in values["variants"])
    assert all(row["like_best"] is None for row in values["variants"])
    seconds = [row["mean"]["seconds"] for row in values["variants"]]
    assert seconds == sorted(seconds)
    # All is done now: no worker may be needed.
    monkeypatch.setattr(pool, "_WORKER", "no_such_module")
    assert len(_run(compare.plan(done / "set", _grid(tmp_path), done / "out"))["variants"]) == 2


def test_other_weights_are_scored_without_training_again(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = compare.plan(done / "set", _grid(tmp_path, seeds=[0], grid={"loss": ["mse"]}), out)
    write_yardsticks(first.about, first.out)
    run_cell(first.jobs[0], CPU, Neighbours(), lambda a, b: None, _ignore)
    model = out / "cells" / "cnn3_mse-seed0" / "run" / checkpoint.LAST_NAME
    before = model.stat().st_mtime_ns
    grid = _grid(tmp_path, weights="best", seeds=[0], grid={"loss": ["mse"]})
    second = compare.plan(done / "set", grid, out)
    assert second.states == ("begun",)
    run_cell(second.jobs[0], CPU, Neighbours(), lambda a, b: None, _ignore)
    assert model.stat().st_mtime_ns == before
    assert compare.plan(done / "set", grid, out).states == ("done",)


def test_a_failing_cell_stops_no_other(done: Path, tmp_path: Path) -> None:
    """The first variant loses one of its seeds, and so its rank, but stays the reference."""
    todo = compare.plan(done / "set", _grid(tmp_path), tmp_path / "out")
    (tmp_path / "out" / "cells").mkdir(parents=True)
    obstacle = tmp_path / "out" / "cells" / "cnn3_mse-seed0"
    obstacle.write_text("no folder")
    with pytest.raises(BatchError, match="1 of 4 failed; the others were done") as caught:
        _run(todo, jobs=1)
    (failure,) = caught.value.failures
    assert failure.startswith("cnn3_mse-seed0: ")
    values = _results(tmp_path)
    assert [(row["label"], row["rank"], row["n"]) for row in values["variants"]] == [
        ("mse + 0.01 l1", 1, 2),
        ("mse", None, 1),
    ]
    assert values["reference"]["label"] == "mse"
    assert values["about"]["failures"] == [failure]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "as they failed: 1 training." in page
    assert "no rank: mse (1 of 2 seeds)" in page
    obstacle.unlink()
    # What never trained may be tried again.
    states = compare.plan(done / "set", _grid(tmp_path), tmp_path / "out").states
    assert states == ("new", "done", "done", "done")


def test_a_worker_that_dies_is_reported_with_its_last_words(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_WORKER", "no_such_module")
    todo = compare.plan(done / "set", _grid(tmp_path), tmp_path / "out")
    with pytest.raises(BatchError, match="4 of 4 failed") as caught:
        _run(todo)
    for failure in caught.value.failures:
        assert re.search(r"no_such_module.*; see .*worker-\d.log", failure)


def test_halves_of_unequal_dose_are_judged_by_the_reference(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", exchangeable=False, target_gain=0.5)
    grid = _grid(tmp_path, seeds=[0], grid={"loss": ["mse"]})
    todo = compare.plan(data.folder, grid, tmp_path / "out")
    write_yardsticks(todo.about, todo.out)
    run_cell(todo.jobs[0], CPU, Neighbours(), lambda a, b: None, _ignore)
    cells = [(todo.cells[0], json.loads((Path(todo.jobs[0].folder) / "scores.json").read_text()))]
    values = results.gather(cells, todo.cells, todo.about, None)
    assert values["ranked_by"] == "frc_300-15"
    (row,) = values["variants"]
    assert row["mean"].keys() >= {"frc_300-15", "transfer_15-8"}
    assert not row["mean"].keys() & {"snr_db", "rho"}
    (entry,) = data.entries(Split.VALIDATION)
    written = io.read_micrograph(tmp_path / "out" / "held-out" / "reference" / f"{entry.name}.mrc")
    wanted = Affine(entry.mean, entry.std).invert(0.5 * data.stack(entry)[1].float())
    assert written.pixels.sub(wanted).abs().max() < 1e-4
    with pytest.raises(ConfigError, match="no variant has 'rho' to be ranked by; --rank-by one of"):
        results.gather(cells, todo.cells, todo.about, "rho")
    with pytest.raises(UnknownNameError, match="unknown column 'rh'"):
        _run(todo, rank_by="rh")


def test_networks_of_clean_targets_are_not_judged_by_halves(done: Path, tmp_path: Path) -> None:
    grid = _grid(tmp_path, seeds=[0], grid={"target": ["clean"]})
    todo = compare.plan(done / "set", grid, tmp_path / "out")
    write_yardsticks(todo.about, todo.out)
    run_cell(todo.jobs[0], CPU, Neighbours(), lambda a, b: None, _ignore)
    cell = json.loads((Path(todo.jobs[0].folder) / "scores.json").read_text())
    assert cell["scores"].keys() == {"full_dose"}
    row = results.gather([(todo.cells[0], cell)], todo.cells, todo.about, None)["variants"][0]
    assert row["rank"] == 1  # beside no noisy one, it is no bound


def test_ctrl_c_keeps_what_was_trained_and_the_same_command_goes_on(
    done: Path, tmp_path: Path
) -> None:
    # Long enough to be met in the middle, and short enough to end.
    base = {**BASE, "steps": 600, "checkpoint_seconds": 0.1}
    grid = _grid(tmp_path, base=base, grid={"loss": ["mse"]}, seeds=[0])
    out = tmp_path / "out"
    line = ("compare", done / "set", "--grid", grid, "--out", out, "--device", "cpu")
    process = start(*line)
    model = out / "cells" / "cnn3_mse-seed0" / "run" / checkpoint.LAST_NAME
    deadline = time.monotonic() + 60
    while not model.exists() and process.running and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stopped = process.end()
    assert stopped.code == 130, stopped.err
    assert "the same command goes on" in stopped.err.splitlines()[-1]
    saved = checkpoint.load_training(model)[2].progress["step"]
    assert 0 < saved < 600
    again = start(*line).end(120)
    assert again.code == 0, again.err
    assert "0 done, 1 begun, 0 new" in again.err
    assert f"report: {out / 'report.html'}" in again.out
    assert f"resuming at step {saved}" in (out / "logs" / "worker-0.log").read_text()
    assert json.loads((out / "results.json").read_text())["variants"][0]["n"] == 1
