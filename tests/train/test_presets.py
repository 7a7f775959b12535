"""What is picked where the user does not say, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from clearice import cli
from clearice.config import Preset, TrainConfig
from clearice.data import Dataset, Manifest, MicrographEntry, Split
from clearice.errors import CheckpointError, ConfigError, UnknownNameError
from clearice.loss_spec import parse_loss
from clearice.train import plan, presets
from helpers import CPU, write_dataset, write_model

CUDA = torch.device("cuda")


def _dataset(count: int, groups: int, size: int) -> Dataset:
    """Return what a manifest says of a data set; there are no stacks."""
    entries = [
        MicrographEntry(
            name=f"m{index}",
            file=f"m{index}.npy",
            shape=(groups, size, size + 8),
            split=Split.TRAIN if index else Split.VALIDATION,
            mean=0.0,
            std=1.0,
            weights=(1 / groups,) * groups,
            sources=(),
            sha256="",
        )
        for index in range(count + 1)
    ]
    manifest = Manifest(
        clearice_version="0",
        pixel_size_angstrom=1.0,
        roles="exchangeable" if groups > 1 else "single",
        micrographs=tuple(entries),
    )
    return Dataset(Path("nowhere"), manifest)


MOVIES = _dataset(50, 8, 4096)
PAIRS = _dataset(6, 2, 1024)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the GPU is made out to be."""
    card = {"memory": 80 * 2**30, "bfloat16": True}
    monkeypatch.setattr(presets, "device_memory_bytes", lambda device: card["memory"])
    monkeypatch.setattr(presets, "has_fast_bfloat16", lambda device: card["bfloat16"])
    return card


def test_a_cpu_gets_the_small_network_and_is_told_so() -> None:
    config, reasons = plan(MOVIES, CPU, {})
    assert config.network == "unet-small"
    assert (config.patch_size, config.batch_size, config.precision) == (128, 8, "float32")
    assert config.steps == 1000
    assert any("no GPU" in reason for reason in reasons)


def test_a_gpu_gets_the_default_network_in_bfloat16(gpu: dict[str, Any]) -> None:
    config, reasons = plan(MOVIES, CUDA, {})
    assert config.network == TrainConfig().network
    assert (config.patch_size, config.batch_size, config.precision) == (512, 4, "bfloat16")
    assert reasons[0].startswith("preset balanced: 80 GiB")
    assert config.dropout == 0


def test_every_choice_is_said_with_its_reason(gpu: dict[str, Any]) -> None:
    config, reasons = plan(PAIRS, CUDA, {}, "best")
    before = TrainConfig().model_dump()
    changed = {k: v for k, v in config.model_dump().items() if v != before[k]}
    assert {"network", "loss", "steps", "dropout", "precision"} <= changed.keys()
    assert changed["loss"] == parse_loss("mse + 0.1 frc(resolution=4)")
    for key, value in {**changed, "loss": "mse + 0.1 frc(resolution=4)"}.items():
        assert any(f"{key.replace('_', ' ')} {value}" in reason for reason in reasons), key


def test_a_given_loss_stays(gpu: dict[str, Any]) -> None:
    config, reasons = plan(MOVIES, CUDA, {"loss": {"l1": 1.0}})
    assert config.loss == {"l1": 1.0}
    assert not any(reason.startswith("loss") for reason in reasons)


def test_a_small_card_works_in_pieces(gpu: dict[str, Any]) -> None:
    gpu["memory"] = 8 * 2**30
    config, reasons = plan(MOVIES, CUDA, {})
    assert config.accumulate == 2
    assert reasons[0].startswith("preset 8gb: 8 GiB")


def test_an_old_card_trains_in_float16(gpu: dict[str, Any]) -> None:
    gpu["bfloat16"] = False
    assert plan(MOVIES, CUDA, {})[0].precision == "float16"


def test_few_fixed_halves_are_trained_with_dropout(gpu: dict[str, Any]) -> None:
    assert plan(PAIRS, CUDA, {})[0].dropout == 0.2
    assert plan(_dataset(6, 8, 1024), CUDA, {})[0].dropout == 0  # random splits differ each time
    assert plan(PAIRS, CUDA, {"network": "cnn3"})[0].dropout == 0  # has none


@pytest.mark.parametrize("key", ["network", "precision", "patch_size", "batch_size", "steps"])
def test_what_is_given_stays(gpu: dict[str, Any], key: str) -> None:
    values = {
        "network": "cnn3", "precision": "float32", "patch_size": 96, "batch_size": 3, "steps": 7,
    }  # fmt: skip
    config, reasons = plan(MOVIES, CUDA, {key: values[key]})
    assert getattr(config, key) == values[key]
    assert not any(reason.startswith(key.replace("_", " ")) for reason in reasons)


def test_single_images_are_trained_with_blind_spots(gpu: dict[str, Any]) -> None:
    config, reasons = plan(_dataset(6, 1, 1024), CUDA, {})
    assert (config.target, config.loss, config.dropout) == ("masked", {"mse": 1.0}, 0.0)
    assert any(reason.startswith("target masked: there is one image") for reason in reasons)


def test_given_epochs_are_not_overridden_by_steps(gpu: dict[str, Any]) -> None:
    assert plan(MOVIES, CUDA, {"epochs": 3})[0].steps is None


def test_patches_fit_into_the_micrographs_and_stages(gpu: dict[str, Any]) -> None:
    config, reasons = plan(_dataset(4, 8, 300), CUDA, {})
    assert config.patch_size == 288
    assert config.batch_size == round(4 * 512**2 / 288**2)
    assert any("300 px along an edge" in reason for reason in reasons)
    stages = [{"scale": 4, "share": 0.5}, {"scale": 1}]
    assert plan(_dataset(4, 8, 1024), CUDA, {"stages": stages})[0].patch_size == 256


def test_each_process_gets_an_equal_share_of_the_batch(gpu: dict[str, Any]) -> None:
    assert plan(MOVIES, CUDA, {}, processes=3)[0].batch_size == 6
    assert plan(MOVIES, CUDA, {}, processes=2)[0].batch_size == 4


def test_large_data_sets_are_seen_whole(gpu: dict[str, Any]) -> None:
    passes = _dataset(1000, 2, 4096)
    once = 1000 * 64 // 4
    assert plan(passes, CUDA, {}, "balanced")[0].steps == once
    assert plan(passes, CUDA, {}, "best")[0].steps == 3 * once
    assert plan(passes, CUDA, {}, "fast")[0].steps == 2000


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_presets_go_from_cheap_to_dear(gpu: dict[str, Any], device: torch.device) -> None:
    order: tuple[Preset, ...] = ("fast", "balanced", "best")
    steps = [plan(PAIRS, device, {}, preset)[0].steps or 0 for preset in order]
    assert steps == sorted(set(steps))


def test_the_command_line_knows_the_presets() -> None:
    assert get_args(cli.Preset) == get_args(Preset)


def test_mistakes_are_said_first() -> None:
    with pytest.raises(ConfigError, match=r"file\.yaml: unknown key 'patchsize'"):
        plan(MOVIES, CPU, {"patchsize": 3}, where="file.yaml")
    with pytest.raises(UnknownNameError):
        plan(PAIRS, CPU, {"network": "unett"})


def test_going_on_from_a_model_takes_its_network_and_a_quarter_of_the_steps(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", size=128)
    whole, _ = plan(data, CPU, {}, "fast")
    config, reasons = plan(
        data, CPU, {"start": str(write_model(tmp_path / "m.safetensors"))}, "fast"
    )
    assert (config.network, config.steps) == ("cnn3", (whole.steps or 0) // 4)
    assert config.learning_rate < whole.learning_rate
    assert any("network cnn3" in reason for reason in reasons)


def test_a_start_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        plan(write_dataset(tmp_path / "set"), CPU, {"start": str(tmp_path / "none")})
