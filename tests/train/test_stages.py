"""Coarse to fine: Fourier crops against closed forms, and runs that cross from stage to stage."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from clearice.config import TrainConfig, dump_config, load_config
from clearice.data import PatchLoader, Split
from clearice.errors import ConfigError, DatasetError, TrainingInterruptedError
from clearice.train import TrainReport, run
from clearice.train.distributed import ALONE
from clearice.train.loaders import training_stages
from clearice.train.stages import Span, coarsened, fourier_crop, spans
from clearice.types import PatchBatch
from helpers import CPU, train_config, write_dataset

STAGES = [{"scale": 4, "share": 0.25}, {"scale": 2, "share": 0.25}, {"scale": 1}]


def _wave(size: int, rows: float, columns: float) -> Tensor:
    at = torch.arange(size, dtype=torch.float64) / size
    return torch.cos(2 * math.pi * (rows * at[:, None] + columns * at) + 0.3)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [24, 60, 36])
def test_low_waves_stay_and_high_ones_go(size: int, scale: int) -> None:
    kept = 2.0 + _wave(size, 3, 2) + 0.5 * _wave(size, 0, -2)
    coarse = 2.0 + _wave(size // scale, 3, 2) + 0.5 * _wave(size // scale, 0, -2)
    if size // scale > 7:
        torch.testing.assert_close(fourier_crop(kept, scale), coarse)
    if scale > 1:
        gone = fourier_crop(
            _wave(size, size // scale, 1) + _wave(size, 2, 1 - size // scale), scale
        )
        torch.testing.assert_close(gone, torch.zeros_like(gone), atol=1e-12, rtol=0)


@given(size=st.integers(2, 9), scale=st.integers(1, 4), mean=st.floats(-5, 5))
def test_the_mean_stays(size: int, scale: int, mean: float) -> None:
    generator = torch.Generator().manual_seed(size)
    image = torch.randn(size * scale, size * scale, dtype=torch.float64, generator=generator)
    image += mean - image.mean()
    assert float(fourier_crop(image, scale).mean()) == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("scale", [2, 3])
def test_white_noise_stays_white(size: int, scale: int) -> None:
    generator = torch.Generator().manual_seed(5)
    n = 20_000
    noise = torch.randn(n, size * scale, size * scale, generator=generator, dtype=torch.float64)
    power = torch.fft.fft2(fourier_crop(noise, scale)).abs().square().mean(0) / size**2
    # Each frequency of a real image has at least one degree of freedom.
    spread = 5 * math.sqrt(2 / n)
    torch.testing.assert_close(
        power * scale**2, torch.ones_like(power), rtol=0, atol=spread, check_dtype=False
    )


def test_all_images_of_a_batch_are_cropped_and_none_is_changed() -> None:
    generator = torch.Generator().manual_seed(2)
    images = [torch.randn(3, c, 16, 16, generator=generator) for c in (1, 1, 2)]
    batch = PatchBatch(images[0], images[1], torch.ones(3), images[2])
    before = [image.clone() for image in images]
    coarse = coarsened(batch, 2)
    assert coarse.target_halves is not None
    found = (coarse.input, coarse.target, coarse.target_halves)
    for image, crop, old in zip(images, found, before, strict=True):
        torch.testing.assert_close(crop, fourier_crop(image, 2))
        assert torch.equal(image, old)
    assert coarsened(batch, 1) is batch


def test_spans_cover_the_run() -> None:
    config = train_config(stages=STAGES)
    assert spans(config, 100) == [Span(0, 25, 4), Span(25, 50, 2), Span(50, 100, 1)]
    assert spans(config, 1) == [Span(0, 1, 1)]
    assert spans(train_config(), 7) == [Span(0, 7, 1)]


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ([{"scale": 2}, {"scale": 1}], "every stage but the last needs a share"),
        ([{"scale": 2, "share": 0.5}], "the last none"),
        ([{"scale": 2, "share": 0.5}, {"scale": 3, "share": 0.5}, {"scale": 1}], "leave no steps"),
        ([{"scale": 0}], "greater than or equal to 1"),
        ([{"scale": 1, "patch": 3}], "[Ee]xtra"),
    ],
)
def test_stages_that_make_no_run_are_refused(
    tmp_path: Path, stages: list[dict[str, Any]], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_config(TrainConfig, None, {"stages": stages})


def test_stages_are_read_back(tmp_path: Path) -> None:
    config = train_config(stages=STAGES)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(TrainConfig, tmp_path / "c.yaml", {}) == config


def test_each_stage_sees_a_larger_field_on_as_many_pixels(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, size=128, noise=0.0)
    config = train_config(stages=STAGES, patch_size=32, loss="mse + 0.1 frc(bins=8)")
    stages, _ = training_stages(data, data.entries(Split.TRAIN), config, CPU, ALONE, 8)
    assert [stage.span.scale for stage in stages] == [4, 2, 1]
    loaders = [stage.loader for stage in stages if isinstance(stage.loader, PatchLoader)]
    assert len(loaders) == 3 and len({id(loader._stacks) for loader in loaders}) == 1
    for stage in stages:
        batch = next(stage.batches(0))
        assert batch.input.shape == (4, 1, 32, 32)
        # Without noise, halves are equal; and the smooth signal loses nothing.
        torch.testing.assert_close(batch.input, batch.target, atol=1e-2, rtol=0)
        assert float(batch.input.std()) > 0.3


def _weights(folder: Path) -> list[dict[str, Tensor]]:
    return [load_file(folder / f"{name}.safetensors") for name in ("last", "best")]


@pytest.mark.parametrize("at", [2, 3, 6])
def test_a_run_goes_on_from_any_stage(tmp_path: Path, at: int) -> None:
    dataset = write_dataset(tmp_path / "set", size=128, groups=4).folder
    config = train_config(stages=STAGES, steps=8, validations=8, patch_size=16)

    def stop(report: TrainReport) -> None:
        if report.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    said: list[str] = []
    run(dataset, tmp_path / "whole", config, CPU, say=said.append)
    assert "at 1/4 of the resolution until step 2" in said
    with pytest.raises(TrainingInterruptedError):
        run(dataset, tmp_path / "parts", config, CPU, report=stop)
    result = run(dataset, tmp_path / "parts", config, CPU, resume=True)
    assert result.steps == 8
    pairs = zip(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"), strict=True)
    for one, other in pairs:
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_field_larger_than_an_image_is_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set").folder
    with pytest.raises(DatasetError, match=r"of the stage of scale 4; use --patch-size 16 or less"):
        run(dataset, tmp_path / "run", train_config(stages=STAGES), CPU)


@pytest.mark.gpu
def test_stages_on_a_gpu(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", size=256).folder
    config = train_config(stages=STAGES, steps=40, patch_size=32, network="unet-small")
    graphs = [
        run(dataset, tmp_path / str(graph), replaced, torch.device("cuda")).last
        for graph in (True, False)
        for replaced in [config.model_copy(update={"cuda_graph": graph, "cache": "gpu"})]
    ]
    assert graphs[0] is not None
    assert graphs[1] is not None
    assert graphs[0].loss == pytest.approx(graphs[1].loss, rel=1e-2)
