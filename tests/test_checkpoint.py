"""Model files: whole, safe to open, and refused in one line when they are something else."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clearice import checkpoint
from clearice.errors import CheckpointError, OutputError
from helpers import model_info, random_weights, write_model


def _snapshot() -> checkpoint.TrainingSnapshot:
    tensors = {"raw.layers.0.bias": torch.arange(16.0), "optimizer.0.step": torch.tensor(7.0)}
    return checkpoint.TrainingSnapshot(tensors, {"step": 7, "seconds": 1.25, "best": None})


@pytest.mark.parametrize("network", ["cnn3", "unet"])
def test_weights_and_info_round_trip(tmp_path: Path, network: str) -> None:
    path = write_model(tmp_path / "model.safetensors", network, gain=0.3)
    loaded, info = checkpoint.load_model(path)
    assert info == model_info(network, 0.3)
    assert checkpoint.load_info(path) == info
    assert not loaded.training
    state = loaded.state_dict()
    for name, value in random_weights(network).items():
        assert torch.equal(state[name], value)


def test_training_state_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    saved = _snapshot()
    checkpoint.save(path, random_weights("cnn3"), model_info(), saved)
    info, weights, snapshot = checkpoint.load_training(path)
    assert info == model_info()
    assert snapshot.progress == saved.progress
    for expected, loaded in ((random_weights("cnn3"), weights), (saved.tensors, snapshot.tensors)):
        assert set(loaded) == set(expected)
        assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_bfloat16_and_strided_weights_survive(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    strided = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    tensors = {"raw.a": strided, "raw.b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}
    snapshot = checkpoint.TrainingSnapshot(tensors, {"step": 1})
    checkpoint.save(path, random_weights("cnn3"), model_info(), snapshot)
    _, _, loaded = checkpoint.load_training(path)
    assert torch.equal(loaded.tensors["raw.a"], strided)
    assert loaded.tensors["raw.b"].dtype == torch.bfloat16


def test_the_file_is_safetensors_with_a_json_header(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.safetensors")
    tensors = load_file(path)
    assert set(tensors) == {f"model.{name}" for name in random_weights("cnn3")}
    with safe_open(path, framework="pt") as handle:
        header = json.loads(handle.metadata()["clearice"])
    assert header["info"] == asdict(model_info())
    with pytest.raises((pickle.UnpicklingError, EOFError, KeyError)):
        pickle.loads(path.read_bytes())  # noqa: S301


def test_a_failed_save_keeps_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "model.safetensors")
    before = path.read_bytes()

    def disk_full(file: Path, data: bytes) -> int:
        with file.open("wb") as handle:
            handle.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OutputError, match=r"model\.safetensors: cannot be written .*No space left"):
        write_model(path, seed=1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _one_line(error: BaseException, path: Path) -> None:
    assert "\n" not in str(error)
    assert str(path) in str(error)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_model(tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="no clearice model or is damaged") as caught:
        checkpoint.load_model(path)
    _one_line(caught.value, path)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.safetensors")
    content = bytearray(path.read_bytes())
    content[8:40] = bytes(32)
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_model(path)
    _one_line(caught.value, path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(3)}, tmp_path / "model.pt")
    save_file({"weights": torch.ones(3)}, tmp_path / "other.safetensors")
    (tmp_path / "notes.txt").write_text("not a model " * 100)
    for name in ("model.pt", "other.safetensors", "notes.txt"):
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load_model(tmp_path / name)
        _one_line(caught.value, tmp_path / name)
        with pytest.raises(CheckpointError):
            checkpoint.load_training(tmp_path / name)


@pytest.mark.parametrize("header", ["not json", "[]", "{}", '{"info": {"network": "cnn3"}}'])
def test_a_header_of_another_kind_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"model.a": torch.ones(3)}, path, metadata={"clearice": header})
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_model(path)
    _one_line(caught.value, path)


def test_training_state_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    header = {"info": {**asdict(model_info()), "new_field": 1}, "progress": {"step": 1}}
    save_file({"raw.a": torch.ones(3)}, path, metadata={"clearice": json.dumps(header)})
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_training(path)
    _one_line(caught.value, path)


def test_an_unknown_network_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    info = replace(model_info(), network="transformer9")
    checkpoint.save(path, random_weights("cnn3"), info, None)
    with pytest.raises(CheckpointError, match="transformer9") as caught:
        checkpoint.load_model(path)
    _one_line(caught.value, path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, random_weights("cnn3"), model_info("unet"), None)
    with pytest.raises(CheckpointError, match="does not fit this version") as caught:
        checkpoint.load_model(path)
    _one_line(caught.value, path)


def test_resolve_finds_the_best_weights_of_a_run(tmp_path: Path) -> None:
    path = write_model(tmp_path / "best.safetensors")
    write_model(tmp_path / "last.safetensors")
    assert checkpoint.resolve(tmp_path) == path
    assert checkpoint.resolve(tmp_path / "last.safetensors") == tmp_path / "last.safetensors"


def test_resolve_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.safetensors: does not exist; train first"):
        checkpoint.resolve(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere: does not exist"):
        checkpoint.resolve(tmp_path / "nowhere")


def test_an_unfinished_file_is_never_taken_for_a_model(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "elsewhere.safetensors").read_bytes()
    (tmp_path / ".best.safetensors.17.partial").write_bytes(whole[:200])
    (tmp_path / ".last.safetensors.17.partial").write_bytes(whole[:200])
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.load_model(tmp_path)


def test_a_model_without_training_state_cannot_go_on(tmp_path: Path) -> None:
    path = write_model(tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match="holds no training state"):
        checkpoint.load_training(path)
