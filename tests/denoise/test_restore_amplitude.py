"""Amplitudes brought back when denoising: only if asked, by the gain that the model file holds."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clearice import checkpoint
from clearice.checkpoint import Calibration
from clearice.cli import run
from clearice.data import Split
from clearice.denoise import Denoiser, denoise_dataset, denoise_files, network
from clearice.denoise.network import restore_amplitude
from clearice.errors import CheckpointError
from helpers import (
    CPU,
    PIXEL_SIZE,
    model_info,
    random_weights,
    smooth_image,
    write_dataset,
    write_image,
    write_model,
)

_GAIN = (1.0, 1.25, 2.0, 3.0, 2.0, 0.5, 1.0, 1.0)


def _calibration(gain: tuple[float, ...] = _GAIN) -> Calibration:
    return Calibration(gain, (0.5,) * (len(gain) - 1) + (None,), (0.25,) * len(gain), 3)


def _write_calibrated(path: Path, gain: tuple[float, ...] = _GAIN) -> Path:
    info = replace(model_info(), calibration=_calibration(gain))
    checkpoint.save(path, random_weights("cnn3"), info, None)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with a calibration of eight rings."""
    return _write_calibrated(tmp_path / "model.safetensors")


def _wave(rows: int, columns: int, height: int = 96, width: int = 128) -> Tensor:
    y, x = torch.arange(height)[:, None], torch.arange(width)
    return torch.cos(2 * math.pi * (rows * y / height + columns * x / width))


@pytest.mark.parametrize(
    ("columns", "expected"),
    # 128 px: ring i of 8 has its middle at 8 i + 4 periods; between two it is a straight line.
    [(2, 1.0), (4, 1.0), (12, 1.25), (20, 2.0), (24, 2.5), (28, 3.0), (38, 1.625), (44, 0.5)],
)
def test_a_wave_is_multiplied_by_the_gain_at_its_frequency(columns: int, expected: float) -> None:
    wave = 7 + _wave(0, columns)
    restored = restore_amplitude(wave, torch.tensor(_GAIN))
    assert restored.shape == wave.shape
    middle = (slice(None), slice(32, 96))
    torch.testing.assert_close(
        (restored - 7)[middle], expected * (wave - 7)[middle], rtol=0, atol=0.05
    )


def test_a_constant_gain_is_a_factor_and_the_mean_stays(generator: torch.Generator) -> None:
    image = 40 + torch.randn(61, 90, generator=generator)
    restored = restore_amplitude(image, torch.tensor([2.5]))
    expected = image.mean() + 2.5 * (image - image.mean())
    torch.testing.assert_close(restored, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(restore_amplitude(image, torch.ones(8)), image, rtol=0, atol=1e-4)


def test_opposite_edges_do_not_meet(generator: torch.Generator) -> None:
    # The jump from right to left would appear at both edges once fine detail is raised.
    ramp = torch.linspace(-10, 10, 200).expand(150, 200)
    restored = restore_amplitude(ramp, torch.tensor([1.0, 1.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0]))
    assert float((restored - ramp).abs().max()) < 0.4
    tiny = torch.randn(3, 2, generator=generator)
    assert restore_amplitude(tiny, torch.tensor(_GAIN)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_argument_is_left_alone(generator: torch.Generator, dtype: torch.dtype) -> None:
    image = torch.randn(40, 50, generator=generator, dtype=dtype)
    before = image.clone()
    assert restore_amplitude(image, torch.tensor(_GAIN)).dtype == dtype
    assert torch.equal(image, before)


def test_nothing_is_restored_unless_it_is_asked_for(
    tmp_path: Path, model: Path, generator: torch.Generator
) -> None:
    image = 30 + 4 * smooth_image(generator, 96)
    plain = Denoiser(write_model(tmp_path / "plain.safetensors"), CPU)(image)
    off = Denoiser(model, CPU)(image)
    on = Denoiser(model, CPU, restore_amplitude=True)(image)
    assert torch.equal(off, plain)
    expected = restore_amplitude(plain, torch.tensor(_GAIN))
    torch.testing.assert_close(on, expected, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(on, off, atol=1e-2)


@pytest.mark.parametrize("tile", [32, 64])
def test_tiles_change_nothing(model: Path, generator: torch.Generator, tile: int) -> None:
    image = 30 + torch.randn(120, 90, generator=generator)
    whole = Denoiser(model, CPU, tile=0, restore_amplitude=True)(image)
    tiled = Denoiser(model, CPU, tile=tile, restore_amplitude=True)(image)
    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-4)


def test_a_model_without_calibration_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="has no calibration of its amplitudes; leave") as e:
        Denoiser(path, CPU, restore_amplitude=True)
    assert str(path) in str(e.value)
    assert "--resume" in str(e.value)
    assert "\n" not in str(e.value)


def test_other_weights_of_a_run_lead_to_those_that_are_calibrated(
    tmp_path: Path, model: Path
) -> None:
    (tmp_path / "run").mkdir()
    last = write_model(tmp_path / "run" / "last.safetensors")
    best = last.with_name("best.safetensors")
    best.write_bytes(model.read_bytes())
    with pytest.raises(CheckpointError, match="which alone of a run is calibrated") as e:
        Denoiser(last, CPU, restore_amplitude=True)
    assert str(best) in str(e.value)
    Denoiser(best, CPU, restore_amplitude=True)


def test_large_images_are_restored_in_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_LARGEST_ON_DEVICE_PX", 100)
    for edge, place in ((10, "meta"), (11, "cpu")):
        image = torch.empty(edge, edge, device="meta")
        assert network._place_to_restore(image) == torch.device(place)


def test_headers_say_that_amplitudes_were_restored(
    tmp_path: Path, model: Path, generator: torch.Generator
) -> None:
    path = write_image(tmp_path / "in" / "mic.mrc", 9 + torch.randn(40, 52, generator=generator))
    for restore, label in (
        (False, "clearice: denoised (cnn3)"),
        (True, "clearice: denoised (cnn3, amplitudes restored)"),
    ):
        denoiser = Denoiser(model, CPU, restore_amplitude=restore)
        (result,) = denoise_files([path], denoiser, tmp_path / str(restore))
        with mrcfile.open(result) as handle, mrcfile.open(path) as source:
            assert handle.get_labels()[-1].strip() == label
            expected = denoiser(torch.from_numpy(source.data.copy()))
            assert np.array_equal(handle.data, expected.numpy())


def test_the_micrographs_of_a_data_set_are_restored_too(tmp_path: Path, model: Path) -> None:
    dataset = write_dataset(tmp_path / "set", groups=4)
    (entry,) = dataset.entries(Split.VALIDATION)
    for restore in (False, True):
        denoiser = Denoiser(model, CPU, restore_amplitude=restore)
        out = tmp_path / str(restore)
        denoise_dataset(dataset.folder, denoiser, out, Split.VALIDATION, halves=True)
    name = f"{entry.name}.mrc"
    for part in ("", "_even", "_odd"):
        with (
            mrcfile.open(tmp_path / "True" / f"denoised{part}" / name) as on,
            mrcfile.open(tmp_path / "False" / f"denoised{part}" / name) as off,
        ):
            expected = restore_amplitude(torch.from_numpy(off.data.copy()), torch.tensor(_GAIN))
            np.testing.assert_allclose(on.data, expected.numpy(), rtol=1e-4, atol=1e-3)
            assert "amplitudes restored" in " ".join(on.get_labels())
        with mrcfile.open(tmp_path / "True" / f"raw{part}" / name) as raw:
            assert "restored" not in " ".join(raw.get_labels())


def test_the_command_restores_or_says_why_not(
    tmp_path: Path,
    model: Path,
    generator: torch.Generator,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_image(tmp_path / "mic.mrc", 9 + torch.randn(40, 52, generator=generator))
    plain = write_model(tmp_path / "plain.safetensors")
    common = ["denoise", str(path), "--device", "cpu", "--out"]
    asked = "--restore-amplitude"
    assert run([*common, str(tmp_path / "on"), "--model", str(model), asked]) == 0
    assert run([*common, str(tmp_path / "off"), "--model", str(model)]) == 0
    with mrcfile.open(tmp_path / "on" / "mic.mrc") as on:
        with mrcfile.open(tmp_path / "off" / "mic.mrc") as off:
            assert not np.allclose(on.data, off.data, atol=1e-2)
        assert float(on.voxel_size.x) == pytest.approx(PIXEL_SIZE)
    capsys.readouterr()
    assert run([*common, str(tmp_path / "no"), "--model", str(plain), asked]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("clearice: ")]
    assert line.startswith(f"clearice: {plain}: has no calibration")
    assert not (tmp_path / "no").exists()


def test_calibrations_round_trip(model: Path) -> None:
    _, info = checkpoint.load_model(model)
    assert info == replace(model_info(), calibration=_calibration())


def _write_header(path: Path, calibration: Any, *, leave_out: bool = False) -> Path:
    info = {**asdict(model_info()), "calibration": calibration}
    if leave_out:
        del info["calibration"]
    tensors = {f"model.{name}": value for name, value in random_weights("cnn3").items()}
    save_file(tensors, path, metadata={"clearice": json.dumps({"info": info})})
    return path


def test_models_of_before_have_none(tmp_path: Path) -> None:
    path = _write_header(tmp_path / "old.safetensors", None, leave_out=True)
    assert checkpoint.load_model(path)[1] == model_info()


@pytest.mark.parametrize(
    "change",
    [
        {"gain": []},
        {"gain": [1.0, 0.0]},
        {"gain": [1.0, float("nan")]},
        {"gain": [1.0, "x"]},
        {"gain": None},
        {"more": 1},
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    damaged = {**asdict(_calibration()), **change}
    path = _write_header(tmp_path / "model.safetensors", damaged)
    with pytest.raises(CheckpointError, match="does not fit this version") as caught:
        checkpoint.load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
