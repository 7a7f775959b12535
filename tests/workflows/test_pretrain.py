"""`clearice pretrain`, and the models that come with the program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clearice import checkpoint, io
from clearice.cli import run
from clearice.errors import CheckpointError
from clearice.metrics import traits
from clearice.train import WorldPlan
from clearice.workflows import pretrain
from helpers import write_image, write_model

TINY = ("--network", "cnn3", "--steps", "2", "--batch-size", "1", "--patch-size", "32")


def test_a_general_model_is_trained_packed_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrain, "VIEWS", 2)
    packed = tmp_path / "packed.safetensors"
    out = ("--out", str(tmp_path / "run"), "--complexes", "1", "--pack", str(packed))
    assert run(["pretrain", *TINY, *out, "--device", "cpu"]) == 0
    domain = checkpoint.load_info(packed).domain
    assert domain is not None
    assert set(domain.traits) == set(traits(torch.randn(32, 32), torch.zeros(32, 32)))
    assert all(low <= high for low, high in domain.traits.values())
    assert packed.stat().st_size < (tmp_path / "run" / "best.safetensors").stat().st_size
    image = write_image(tmp_path / "in" / "a.mrc", torch.randn(48, 48))
    done = ["denoise", str(image), "--model", str(packed), "--out", str(tmp_path / "out")]
    assert run(done) == 0
    assert io.read_image(tmp_path / "out" / "a.mrc").shape == (48, 48)
    capsys.readouterr()
    assert run(["pretrain", *TINY, *out, "--device", "cpu"]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_a_file_of_settings_counts_where_no_option_is_given(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("network: cnn3\nsteps: 7\nbatch_size: 2\n")
    cpu = torch.device("cpu")
    config, _ = pretrain.plan_general({"steps": 9, "network": None}, file, 1, (), cpu)
    assert (config.network, config.steps, config.batch_size) == ("cnn3", 9, 2)
    plain, _ = pretrain.plan_general({}, None, 1, (), cpu)
    assert (plain.network, plain.steps, plain.patch_size) == ("unet-large", 20_000, 512)


def test_a_model_of_one_data_set_has_no_depth(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="trained on one data set"):
        pretrain.measure_depth(model, torch.device("cpu"), WorldPlan(1))


@pytest.mark.parametrize("name", checkpoint.PACKAGED)
def test_models_of_the_package_are_small_and_load(name: str) -> None:
    path = checkpoint.resolve(Path(name))
    assert path.stat().st_size <= 15e6
    network, info = checkpoint.load_model(Path(name))
    assert info.domain is not None and info.domain.traits
    with torch.inference_mode():
        output = network(torch.randn(1, 1, 64, 64))
    assert output.shape == (1, 1, 64, 64)
    assert bool(output.isfinite().all())


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "general")
    assert checkpoint.resolve(Path("general")) == Path("general")


def test_denoising_needs_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_image(tmp_path / "in" / "a.mrc", torch.randn(64, 64))
    assert run(["denoise", str(image), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "model: general-small" in capsys.readouterr().err
    assert (tmp_path / "out" / "a.mrc").exists()
