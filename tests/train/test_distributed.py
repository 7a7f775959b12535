"""Several processes that train together learn what one process learns."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clearice import checkpoint
from clearice.config import TrainConfig, dump_config
from clearice.errors import ConfigError, TrainingInterruptedError
from clearice.train import Place, TrainReport, find_place, read_metrics, run
from clearice.train.distributed import ALONE, Ranks
from forked import Forked
from helpers import CPU, train_config, write_dataset
from rank_processes import ended, launch

_SETTINGS = {"steps": 12, "batch_size": 8, "validations": 4, "learning_rate": 1e-3}


def _command(
    dataset: Path, out: Path, config: TrainConfig, device: str = "cpu"
) -> tuple[str | Path, ...]:
    file = out.with_suffix(".yaml")
    file.write_text(dump_config(config))
    return ("train", dataset, "--out", out, "--config", file, "--device", device)


def _train(
    dataset: Path, out: Path, size: int, config: TrainConfig, *more: str, device: str = "cpu"
) -> list[str]:
    """Train with so many processes and return what each of them said."""
    command = _command(dataset, out, config, device)
    results = ended(launch(size, *command, *more))
    assert [code for code, _ in results] == [0] * size, results
    return [said for _, said in results]


def _same_run(one: Path, other: Path) -> None:
    """Weights moved alike but for rounding, and so did everything that is reported."""
    first, second = (load_file(folder / "last.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if name.startswith(("raw.", "model.")):
            assert torch.allclose(value, second[name], rtol=1e-3, atol=1e-5), name
    records = [read_metrics(folder / "metrics.jsonl") for folder in (one, other)]
    assert [r["step"] for r in records[0]] == [r["step"] for r in records[1]]
    for mine, its in zip(*records, strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-4)
        assert mine["parts"] == pytest.approx(its["parts"], rel=1e-4)
        for score in ("mse", "correlation"):
            assert mine["validation"][score] == pytest.approx(its["validation"][score], rel=1e-4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of eight groups."""
    return write_dataset(tmp_path_factory.mktemp("ranks") / "set", micrographs=6, groups=8).folder


@pytest.fixture(scope="module")
def alone(dataset: Path) -> Path:
    """A run of one process."""
    out = dataset.parent / "alone"
    _train(dataset, out, 1, train_config(**_SETTINGS))
    return out


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_learn_what_one_process_learns(
    dataset: Path, alone: Path, tmp_path: Path, size: int
) -> None:
    said = _train(dataset, tmp_path / "run", size, train_config(**_SETTINGS))
    _same_run(tmp_path / "run", alone)
    assert "12 steps" in said[0]
    assert said[1:] == [""] * (size - 1)
    # Calibrated by the first rank after the others have left.
    assert checkpoint.load_model(tmp_path / "run")[1].calibration is not None


def test_balanced_losses_and_their_gradients(dataset: Path, tmp_path: Path) -> None:
    loss = {"mse": 1.0, "frc(bins=8)": 0.5}
    config = train_config(**_SETTINGS | {"loss": loss, "balance": True, "log_gradients": True})
    for size in (1, 2):
        _train(dataset, tmp_path / str(size), size, config)
    _same_run(tmp_path / "1", tmp_path / "2")
    one, two = (read_metrics(tmp_path / s / "metrics.jsonl")[-1] for s in ("1", "2"))
    assert two["gradient_norms"] == pytest.approx(one["gradient_norms"], rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_two_gpus_learn_what_one_learns(dataset: Path, tmp_path: Path, graph: bool) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    config = train_config(**_SETTINGS | {"cuda_graph": graph, "cache": "gpu"})
    for size in (1, 2):
        _train(dataset, tmp_path / str(size), size, config, device="cuda")
    _same_run(tmp_path / "1", tmp_path / "2")


def _wait_for_step(out: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        records = read_metrics(out / "metrics.jsonl")
        if records and records[-1]["step"] >= step:
            return
        time.sleep(0.01)
    pytest.fail("the run did not get there")


def _long_run(dataset: Path, out: Path, steps: int) -> list[Forked]:
    config = train_config(**_SETTINGS | {"steps": steps, "validations": steps // 4})
    return launch(2, *_command(dataset, out, config))


@pytest.mark.parametrize(
    "stopped_by", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_stop_of_one_stops_all_and_another_number_goes_on(
    dataset: Path, tmp_path: Path, stopped_by: signal.Signals
) -> None:
    processes = _long_run(dataset, tmp_path / "run", 200)
    _wait_for_step(tmp_path / "run", 20)
    processes[1].send_signal(stopped_by)
    results = ended(processes)
    assert [code for code, _ in results] == [130, 130]
    lines = [line for _, err in results for line in err.splitlines() if "stopped at" in line]
    assert len(lines) == 1
    assert "--resume" in lines[0]
    saved = checkpoint.load_training(tmp_path / "run" / "last.safetensors")[2].progress["step"]
    assert f"stopped at step {saved} of 200" in lines[0]
    config = train_config(**_SETTINGS | {"steps": 200, "validations": 50})
    said = _train(dataset, tmp_path / "run", 1, config, "--resume")
    assert f"resuming at step {saved}" in said[0]
    steps = [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 200


def test_more_ranks_go_on_with_the_run_of_one(dataset: Path, alone: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "run", train_config(**_SETTINGS)

    def stop(report: TrainReport) -> None:
        if report.step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterruptedError):
        run(dataset, out, config, CPU, report=stop)
    said = _train(dataset, out, 2, config, "--resume")
    assert "resuming at step 6" in said[0]
    _same_run(out, alone)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_all(dataset: Path, tmp_path: Path, victim: int) -> None:
    processes = _long_run(dataset, tmp_path / "run", 100_000)
    _wait_for_step(tmp_path / "run", 8)
    processes[victim].send_signal(signal.SIGKILL)
    results = ended(processes)
    code, err = results[1 - victim]
    assert code == 1
    assert "Traceback" not in err
    assert checkpoint.load_training(tmp_path / "run" / "last.safetensors")[2].progress["step"] > 0


def test_a_rank_that_fails_is_heard_once(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    command = _command(dataset, tmp_path / "run", train_config(**_SETTINGS))
    results = ended(launch(2, *command))  # only the first rank creates the folder
    assert all(code != 0 for code, _ in results)
    lines = [line for _, err in results for line in err.splitlines() if "clearice: " in line]
    assert len(lines) == 1
    assert "cannot create this folder" in lines[0]


def test_a_batch_that_cannot_be_shared_is_refused_once(dataset: Path, tmp_path: Path) -> None:
    config = train_config(**_SETTINGS | {"batch_size": 5})
    results = ended(launch(2, *_command(dataset, tmp_path / "run", config)))
    assert [code for code, _ in results] == [2, 2]
    said = "".join(err for _, err in results)
    assert (
        said.count("batch_size 5 cannot be shared evenly by 2 processes; use --batch-size 6") == 1
    )


def test_alone_nothing_is_exchanged() -> None:
    values = torch.arange(3.0)
    assert ALONE.sum(values) is values
    assert ALONE.mean(values) is values
    assert ALONE.norm_of_mean(values) is values
    assert ALONE.agree(stop=True, save=False) == (True, False)
    ALONE.check_agreement(values, "nothing")
    ALONE.wait()


def test_a_place_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert find_place() == Place()
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert find_place() == Place(5, 8, 1, 4)
    assert not find_place().first
    for wrong in ("8", "-1", "first"):
        monkeypatch.setenv("RANK", wrong)
        with pytest.raises(ConfigError, match=f"RANK={wrong}.*make no sense"):
            find_place()


def test_each_rank_of_a_machine_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    place = Place(6, 8, 2, 4)
    assert [place.device_name(n) for n in ("auto", "cuda", "cpu")] == ["cuda:2", "cuda:2", "cpu"]
    assert Place().device_name("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # srun shows each its own alone
    assert place.device_name("cuda") == "cuda"


def test_uneven_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="use --batch-size 9"):
        Ranks(Place(0, 3, 0, 3)).shared(8)
    Ranks(Place(0, 3, 0, 3)).shared(9)
