"""The factor on the output: the standard deviation of the signal, on the target's scale."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clearice.checkpoint import load_model, load_training
from clearice.data import Affine, Dataset, DatasetWriter, Split, open_dataset
from clearice.errors import TrainingInterruptedError
from clearice.networks import build_network
from clearice.train import TrainReport, read_metrics, run
from clearice.train.scaling import choose_scale, scale_output
from clearice.types import HalfSet
from helpers import CPU, PIXEL_SIZE, prepare_config, smooth_image, train_config, write_dataset


def _scale(data: Dataset, **overrides: Any) -> float:
    return choose_scale(data, data.entries(Split.TRAIN), train_config(**overrides))[0]


@pytest.mark.parametrize("groups", [2, 8])
@pytest.mark.parametrize("noise", [1.0, 5.0])
def test_it_is_the_deviation_of_the_signal(tmp_path: Path, groups: int, noise: float) -> None:
    data = write_dataset(
        tmp_path, micrographs=8, groups=groups, size=256, noise=noise, truth=True, validation=0
    )
    expected = 1 / math.sqrt(1 + noise**2 / groups)
    assert _scale(data, patch_size=128) == pytest.approx(expected, rel=0.1)
    assert _scale(data, patch_size=128, target="clean") == pytest.approx(expected, rel=0.05)


def test_of_unequal_halves_it_is_on_the_scale_of_the_target(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    writer = DatasetWriter(tmp_path)
    for index in range(4):
        image = smooth_image(generator, 256)
        noise = torch.randn(2, 256, 256, generator=generator)
        pair = torch.stack([0.1 * image + noise[0], 0.5 * image + 0.3 * noise[1]])
        half_set = HalfSet(f"m{index}", pair, (0.02, 0.98), PIXEL_SIZE, ())
        writer.add(half_set, pair, Affine(0.0, 1.0))
    writer.finish(prepare_config(), PIXEL_SIZE, input_target=True, dose_ratio=49.0, target_gain=0.2)
    assert _scale(open_dataset(tmp_path), patch_size=128) == pytest.approx(0.5, rel=0.1)


def test_without_signal_it_is_small_but_not_zero(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path)
    image = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    pair = torch.stack([image, -image])
    writer.add(HalfSet("m", pair, (0.5, 0.5), PIXEL_SIZE, ()), pair, Affine(0.0, 1.0))
    writer.finish(prepare_config(), PIXEL_SIZE, input_target=False, dose_ratio=1.0, target_gain=1.0)
    data = open_dataset(tmp_path)
    scale, reason = choose_scale(data, data.entries(Split.TRAIN), train_config())
    assert scale == 0.01
    assert "hardly any signal" in reason


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_output_is_multiplied_and_the_weights_are_not(dtype: torch.dtype) -> None:
    network = build_network("cnn3").to(dtype)
    x = torch.randn(1, 1, 16, 16, dtype=dtype, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    expected = network(x).to(torch.promote_types(dtype, torch.float32)) * 0.3
    scale_output(network, 0.3)
    scaled = network(x)
    assert scaled.dtype == expected.dtype
    torch.testing.assert_close(scaled, expected)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_model_returns_what_was_validated(tmp_path: Path) -> None:
    # With so small a factor an output that lacked it could not have this error.
    data = write_dataset(tmp_path / "set", noise=5.0)
    said: list[str] = []
    run(data.folder, tmp_path / "run", train_config(), CPU, say=said.append)
    network, info = load_model(tmp_path / "run")
    saved = load_training(tmp_path / "run" / "last.safetensors")[2].progress["output_scale"]
    assert info.output_gain == saved
    assert any(f"output scale {saved:.3g}: standard deviation" in line for line in said)
    (mse,) = (
        record["validation"]["mse"]
        for record in read_metrics(tmp_path / "run" / "metrics.jsonl")
        if record["step"] == info.step
    )
    entry = data.entries(Split.VALIDATION)[0]
    even, odd = data.stack(entry).float()
    with torch.no_grad():
        patches = [
            (network(even[None, None, i : i + 32, j : j + 32]) * saved, odd[i : i + 32, j : j + 32])
            for i in (0, 32)
            for j in (0, 32)
        ]
    errors = torch.stack([(p[0, 0] - t).square().mean() for p, t in patches])
    assert float(errors.mean()) == pytest.approx(mse, rel=1e-4)


def test_a_resumed_run_keeps_its_factor(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", noise=3.0).folder

    def stop(report: TrainReport) -> None:
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    run(dataset, tmp_path / "whole", train_config(), CPU)
    with pytest.raises(TrainingInterruptedError):
        run(dataset, tmp_path / "parts", train_config(), CPU, report=stop)
    run(dataset, tmp_path / "parts", train_config(), CPU, resume=True)
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    gains = [load_model(tmp_path / name)[1].output_gain for name in ("whole", "parts")]
    assert gains[0] == gains[1] != 1.0
