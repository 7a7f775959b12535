"""Runs that learn from single images: what they learn, say, keep and refuse."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clearice.checkpoint import load_model
from clearice.config import dump_config
from clearice.data import Dataset, Split
from clearice.errors import ConfigError, DatasetError, TrainingInterruptedError
from clearice.losses import LOSSES
from clearice.train import TrainReport, check, read_metrics, run
from helpers import CPU, train_config, write_dataset
from rank_processes import ended, launch

PIXELWISE = [name for name, info in LOSSES.items() if not info.spans]


def test_it_learns_from_single_images_what_is_signal(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 200, "batch_size": 8, "learning_rate": 1e-2}
    data = write_dataset(tmp_path / "set", groups=1, micrographs=5, size=96, truth=True)
    run(data.folder, tmp_path / "run", train_config(target="masked", **settings), CPU)
    network, info = load_model(tmp_path / "run")
    (entry,) = data.entries(Split.VALIDATION)[:1]
    raw, truth = data.stack(entry).float(), data.truth(entry).float()
    with torch.no_grad():
        denoised = network(raw[None])[0] * info.output_gain
    before, after = (float((image - truth).square().mean()) for image in (raw, denoised))
    assert before == pytest.approx(0.5, rel=0.1)  # noise as strong as the signal
    assert after < 0.3 * before


def test_it_does_not_learn_to_copy_noise(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", groups=1, noise=100.0)
    config = train_config(target="masked", steps=60, learning_rate=1e-2)
    run(data.folder, tmp_path / "run", config, CPU)
    network, info = load_model(tmp_path / "run")
    (entry,) = data.entries(Split.VALIDATION)
    with torch.no_grad():
        denoised = network(data.stack(entry).float()[None])[0] * info.output_gain
    assert float(denoised.square().mean()) < 0.02


def test_a_masked_run_says_what_it_is_and_is_not_scored_by_halves(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", groups=1)
    said: list[str] = []
    run(data.folder, tmp_path / "run", train_config(target="masked"), CPU, say=said.append)
    (warning,) = [line for line in said if line.startswith("warning")]
    assert warning.startswith("warning: no halves: blind-spot training (Noise2Void)")
    _, info = load_model(tmp_path / "run")
    assert (info.target, info.calibration) == ("masked", None)
    assert info.config["target"] == "masked"
    for record in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        assert record["validation"]["correlation"] is None
        assert record["validation"]["mse"] > 0


def test_beside_halves_it_is_allowed_and_said(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", groups=4)
    said: list[str] = []
    run(data.folder, tmp_path / "run", train_config(target="masked"), CPU, say=said.append)
    assert any("though there are halves" in line for line in said)
    (*_, record) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert record["validation"]["correlation"] is None
    assert load_model(tmp_path / "run")[1].target == "masked"


def test_truth_can_be_learnt_from_single_images(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", groups=1, truth=True)
    run(data.folder, tmp_path / "run", train_config(target="clean"), CPU)
    (*_, record) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert math.isfinite(record["validation"]["mse"])


@pytest.mark.parametrize("network", ["cnn3", "unet-small"])
def test_six_masked_steps_are_three_and_three(tmp_path: Path, network: str) -> None:
    dataset = write_dataset(tmp_path / "set", groups=1).folder
    dropout = 0.0 if network == "cnn3" else 0.3
    config = train_config(network=network, target="masked", dropout=dropout)

    def stop(report: TrainReport) -> None:
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    run(dataset, tmp_path / "whole", config, CPU)
    with pytest.raises(TrainingInterruptedError):
        run(dataset, tmp_path / "parts", config, CPU, report=stop)
    torch.rand(5)  # whatever else the process drew
    run(dataset, tmp_path / "parts", config, CPU, resume=True)
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    scores = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    assert [r["validation"] for r in scores[0]] == [r["validation"] for r in scores[1]]


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", groups=1, micrographs=6).folder
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(train_config(target="masked", batch_size=8, learning_rate=1e-3)))
    runs = []
    for size in (1, 2):
        out = tmp_path / str(size)
        command = ("train", dataset, "--out", out, "--config", config, "--device", "cpu")
        results = ended(launch(size, *command))
        assert [code for code, _ in results] == [0] * size, results
        runs.append(out)
    one, two = (load_file(out / "last.safetensors") for out in runs)
    for name in one:
        if name.startswith("model."):
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)
    for mine, its in zip(*(read_metrics(out / "metrics.jsonl") for out in runs), strict=True):
        assert its["loss"] == pytest.approx(mine["loss"], rel=1e-4)
        assert its["validation"]["mse"] == pytest.approx(mine["validation"]["mse"], rel=1e-4)


def test_other_seeds_hide_other_pixels(tmp_path: Path) -> None:
    # One patch there is, and it is never turned: only the masks can differ.
    dataset = write_dataset(tmp_path / "set", groups=1, micrographs=1, size=32).folder
    losses = []
    for seed in (1, 2):
        config = train_config(target="masked", augment=False, seed=seed, steps=1, output_scale=1e-6)
        run(dataset, tmp_path / str(seed), config, CPU)
        losses.append(read_metrics(tmp_path / str(seed) / "metrics.jsonl")[0]["loss"])
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_coarse_to_fine_is_masked_at_every_scale(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", groups=1).folder
    stages = ({"scale": 2, "share": 0.5}, {"scale": 1})
    run(dataset, tmp_path / "run", train_config(target="masked", stages=stages), CPU)
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 6


def _refusal(data: Dataset, error: type[Exception], **overrides: Any) -> str:
    with pytest.raises(error) as caught:
        check(data, train_config(**overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_noise2noise_needs_halves(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", groups=1)
    message = _refusal(data, DatasetError)
    assert str(data.folder) in message
    assert "train with --target masked" in message
    assert "cannot be verified by halves" in message
    with pytest.raises(DatasetError):
        run(data.folder, tmp_path / "run", train_config(), CPU)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - set(PIXELWISE)))
def test_losses_of_more_than_pixels_are_refused(tmp_path: Path, loss: str) -> None:
    data = write_dataset(tmp_path, groups=4)
    term = f"{loss}(mse)" if LOSSES[loss].wraps else loss
    message = _refusal(data, ConfigError, target="masked", loss=f"mse + 0.1 {term}")
    assert f"'{term}'" in message
    assert LOSSES[loss].spans in message
    assert "use mse, l1, charbonnier or huber" in message
    assert LOSSES[loss].spans != "more than single pixels"


def test_a_watched_loss_is_refused_and_may_not_be_insisted_on(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, groups=1)
    settings = {"target": "masked", "loss": "mse + 0 log-power", "allow_biased": True}
    assert "Fourier" in _refusal(data, ConfigError, **settings)


@pytest.mark.parametrize(
    ("key", "value"), [("best_by", "correlation"), ("stop_after", 2), ("weight_by_dose", True)]
)
def test_settings_that_need_halves_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    data = write_dataset(tmp_path, groups=4)
    assert key in _refusal(data, ConfigError, target="masked", **{key: value})


def test_pixelwise_losses_are_allowed(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, groups=1)
    check(data, train_config(target="masked", loss="mse + 0.5 l1 + 0.1 huber + 0 charbonnier"))
