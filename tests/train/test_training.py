"""Training runs: what they learn, what they record and what they refuse."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from clearice.checkpoint import load_model, load_training
from clearice.config import TrainConfig, load_config
from clearice.data import GridSampler
from clearice.errors import (
    ConfigError,
    DatasetError,
    TrainingDivergedError,
    TrainingInterruptedError,
    UnknownNameError,
)
from clearice.losses import LOSSES
from clearice.train import TrainReport, run
from clearice.train.records import read_metrics
from helpers import CPU, train_config, write_dataset

Loss = Callable[[Tensor, Tensor], Tensor]


def _train(dataset: Path, out: Path, **overrides: Any) -> list[dict[str, Any]]:
    run(dataset, out, train_config(**overrides), CPU)
    return read_metrics(out / "metrics.jsonl")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small data set of two halves, with truth."""
    return write_dataset(tmp_path / "set", truth=True).folder


def test_the_loss_falls_to_the_noise_of_the_target(tmp_path: Path) -> None:
    # Signal and noise have equal power in the full dose of two groups: of a target's variance
    # 1 / (1 + ½) is noise that nothing can predict.
    dataset = write_dataset(tmp_path / "set", micrographs=5, size=96, validation=0.2).folder
    records = _train(
        dataset,
        tmp_path / "run",
        steps=150,
        validations=15,
        batch_size=8,
        learning_rate=1e-2,
        schedule="cosine",
    )
    floor, start = 1 / 1.5, 2 / 1.5
    assert records[0]["loss"] > floor + 0.4 * (start - floor)
    assert floor * 0.9 < records[-1]["loss"] < floor + 0.35 * (start - floor)
    scores = [record["validation"] for record in records]
    assert scores[-1]["mse"] < floor + 0.4 * (start - floor)
    # A half has correlation √½ with the truth before denoising.
    assert scores[-1]["correlation"] > 0.5**0.5 + 0.05
    _, info = load_model(tmp_path / "run")
    best = min(records, key=lambda record: record["validation"]["mse"])
    assert info.step == best["step"]


def test_both_parts_of_the_loss_are_recorded_without_their_weight(
    dataset: Path, tmp_path: Path
) -> None:
    alone = _train(dataset, tmp_path / "alone", steps=1, loss={"mse": 1.0})
    settings = {"loss": {"mse": 0.5, "log-power": 0.01}, "allow_biased": True}
    both = _train(dataset, tmp_path / "both", steps=4, validations=2, **settings)
    one = _train(dataset, tmp_path / "one", steps=1, **settings)
    # The first step of both runs starts from the same weights and draws the same patches.
    assert one[0]["parts"]["mse"] == pytest.approx(alone[0]["parts"]["mse"], rel=1e-6)
    for record in both:
        parts = record["parts"]
        assert set(parts) == set(record["validation"]["parts"]) == {"mse", "log-power"}
        weighted = {"mse": 0.5 * parts["mse"], "log-power": 0.01 * parts["log-power"]}
        assert record["weighted"] == pytest.approx(weighted, rel=1e-5)
        assert record["loss"] == pytest.approx(sum(weighted.values()), rel=1e-5)
        assert parts["log-power"] > 0
        assert record["validation"]["parts"]["mse"] == pytest.approx(record["validation"]["mse"])


def test_metrics_count_steps_and_patches(dataset: Path, tmp_path: Path) -> None:
    records = _train(dataset, tmp_path / "run", steps=12, validations=3, batch_size=5)
    assert [record["step"] for record in records] == [4, 8, 12]
    assert {record["total"] for record in records} == {12}
    seconds = [0.0, *(record["seconds"] for record in records)]
    for record, before, after in zip(records, seconds, seconds[1:], strict=False):
        assert record["patches_per_second"] * (after - before) == pytest.approx(4 * 5, rel=1e-6)


def test_the_configuration_is_kept_with_the_run(dataset: Path, tmp_path: Path) -> None:
    config = train_config(steps=1, loss={"mse": 0.7}, output_scale=0.5)
    result = run(dataset, tmp_path / "run", config, CPU)
    assert load_config(TrainConfig, tmp_path / "run" / "config.yaml", {}) == config
    _, info = load_model(result.model)
    assert info.config == config.model_dump(mode="json")
    assert (info.network, info.step, info.target) == ("cnn3", 1, "noisy")
    assert (info.pixel_size_angstrom, info.dose_e_per_A2, info.output_gain) == (1.5, 50.0, 0.5)


def test_the_model_of_unequal_halves_knows_its_gain(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", exchangeable=False, target_gain=0.25).folder
    records = _train(dataset, tmp_path / "run", steps=1, output_scale=0.4)
    _, info = load_model(tmp_path / "run")
    assert info.output_gain == 0.4 * 0.25
    assert records[-1]["validation"]["correlation"] is None
    assert records[-1]["validation"]["snr_db"] is None


def test_halves_of_three_groups_are_not_taken_for_equal(tmp_path: Path) -> None:
    # Two groups against one: the estimate holds for halves of equal noise only.
    dataset = write_dataset(tmp_path / "set", groups=3).folder
    (record,) = _train(dataset, tmp_path / "run", steps=1)
    (plan, *_) = GridSampler([(3, 64, 64)], 32, 4).plan(0)
    equal = len(plan.inputs) == len(plan.targets)
    assert equal or record["validation"]["correlation"] is None


def test_an_epoch_covers_the_data_once(dataset: Path, tmp_path: Path) -> None:
    # Three training micrographs of four patches each, in batches of five.
    result = run(dataset, tmp_path / "run", train_config(steps=None, epochs=2, batch_size=5), CPU)
    assert result.steps == 2 * 3


def test_every_cache_trains_the_same(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, tmp_path / "ram", cache="ram")
    _train(dataset, tmp_path / "stream", cache="stream")
    one, other = (load_file(tmp_path / c / "last.safetensors") for c in ("ram", "stream"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_bfloat16_trains_nearly_the_same(dataset: Path, tmp_path: Path) -> None:
    wide = _train(dataset, tmp_path / "wide", steps=3)
    half = _train(dataset, tmp_path / "half", steps=3, precision="bfloat16")
    assert half[-1]["loss"] == pytest.approx(wide[-1]["loss"], rel=0.05)
    tensors = load_file(tmp_path / "half" / "last.safetensors")
    assert {v.dtype for n, v in tensors.items() if "guard" not in n} == {torch.float32}


def _said(dataset: Path, out: Path, **overrides: Any) -> list[str]:
    said: list[str] = []
    run(dataset, out, train_config(steps=1, **overrides), CPU, say=said.append)
    return [message for message in said if message.startswith("warning")]


BIASED = {"mse": 1.0, "log-power": 0.1}


def test_a_biased_loss_on_noisy_targets_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        _said(dataset, tmp_path / "noisy", loss=BIASED)
    message = str(error.value)
    assert message.startswith("loss 'log-power' is biased by noisy targets: where there is no")
    assert "use 'mse + 0.05 frc'" in message
    assert message.endswith("or insist with --allow-biased")
    assert "\n" not in message
    assert not (tmp_path / "noisy").exists()


def test_a_biased_loss_is_trained_with_by_those_who_insist(dataset: Path, tmp_path: Path) -> None:
    (warning,) = _said(dataset, tmp_path / "noisy", loss=BIASED, allow_biased=True)
    assert warning.startswith("warning: loss 'log-power' is biased by noisy targets")
    assert _said(dataset, tmp_path / "safe", loss={"mse": 1.0}, allow_biased=True) == []


def test_a_biased_loss_is_fine_on_clean_targets_and_for_watching(
    dataset: Path, tmp_path: Path
) -> None:
    assert _said(dataset, tmp_path / "clean", loss=BIASED, target="clean") == []
    assert _said(dataset, tmp_path / "watched", loss={"mse": 1.0, "log-power": 0.0}) == []


def test_a_watched_loss_does_not_train(dataset: Path, tmp_path: Path) -> None:
    _train(dataset, tmp_path / "alone", steps=3, loss={"mse": 1.0})
    *_, record = _train(dataset, tmp_path / "watched", steps=3, loss={"mse": 1.0, "log-power": 0.0})
    assert record["parts"]["log-power"] > 0
    assert record["weighted"]["log-power"] == 0
    one, other = (load_file(tmp_path / run / "best.safetensors") for run in ("alone", "watched"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_weight_moves_with_the_training(dataset: Path, tmp_path: Path) -> None:
    ramp = {"initial": 0.0, "final": 1.0, "start": 0.25, "end": 0.75}
    loss = {"mse": 1.0, "frc(bins=8)": ramp}
    records = _train(dataset, tmp_path / "run", steps=8, validations=8, loss=loss)
    found = [r["weighted"]["frc(bins=8)"] / r["parts"]["frc(bins=8)"] for r in records]
    assert found == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1], abs=1e-6)


def test_balanced_losses_pull_as_their_weights_say(dataset: Path, tmp_path: Path) -> None:
    loss = {"mse": 1.0, "frc(bins=8)": 0.5, "gradient-l2": 0.25}
    settings = {"loss": loss, "steps": 1, "log_gradients": True, "learning_rate": 1e-9}
    (plain,) = _train(dataset, tmp_path / "plain", **settings)
    (record,) = _train(dataset, tmp_path / "balanced", balance=True, **settings)
    norms = record["gradient_norms"]
    # Measured after the step, which hardly changed the network.
    assert norms["frc(bins=8)"] == pytest.approx(0.5 * norms["mse"], rel=0.1)
    assert norms["gradient-l2"] == pytest.approx(0.25 * norms["mse"], rel=0.1)
    assert plain["gradient_norms"]["frc(bins=8)"] != pytest.approx(norms["frc(bins=8)"], rel=0.1)


def test_balanced_weights_survive_an_interruption(dataset: Path, tmp_path: Path) -> None:
    settings = {"loss": {"mse": 1.0, "l1": 0.5}, "balance": True, "steps": 45, "validations": 3}
    run(dataset, tmp_path / "whole", train_config(**settings), CPU)

    def stop(report: TrainReport) -> None:
        if report.step == 30:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterruptedError):
        run(dataset, tmp_path / "cut", train_config(**settings), CPU, report=stop)
    run(dataset, tmp_path / "cut", train_config(**settings), CPU, resume=True)
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_debiased_loss_gets_two_independent_targets(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", groups=5, truth=True).folder
    loss = {"mse": 1.0, "power-debiased(bins=8)": 0.1}
    for target in ("noisy", "clean"):
        *_, record = _train(dataset, tmp_path / target, steps=2, loss=loss, target=target)
        assert record["parts"]["power-debiased(bins=8)"] > 0
        assert record["validation"]["parts"]["power-debiased(bins=8)"] > 0


def test_a_debiased_loss_on_ready_halves_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="needs four frame groups or more, and this has 2"):
        _train(dataset, tmp_path / "run", loss={"mse": 1.0, "power-debiased": 0.1})


def test_clean_targets_leave_no_noise_in_the_loss(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", micrographs=3, truth=True).folder
    settings = {"steps": 80, "validations": 4, "learning_rate": 1e-2}
    noisy = _train(dataset, tmp_path / "noisy", **settings)
    clean = _train(dataset, tmp_path / "clean", target="clean", **settings)
    assert clean[-1]["loss"] < 0.4 * noisy[-1]["loss"]


def test_without_validation_the_last_weights_are_the_best(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", validation=0.0).folder
    (warning,) = _said(dataset, tmp_path / "run")
    assert "no validation micrographs" in warning
    best, last = (load_file(tmp_path / "run" / f"{n}.safetensors") for n in ("best", "last"))
    assert all(torch.equal(value, last[name]) for name, value in best.items())


def test_a_patch_larger_than_an_image_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"64 × 64 px is smaller.*--patch-size 64 or less"):
        run(dataset, tmp_path / "run", train_config(patch_size=80), CPU)


@pytest.mark.parametrize("wrong", [{"network": "cnn4"}, {"loss": {"msee": 1.0}}])
def test_unknown_names_are_refused(dataset: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        run(dataset, tmp_path / "run", train_config(**wrong), CPU)


def _patch_loss(monkeypatch: pytest.MonkeyPatch, loss: Loss) -> None:
    monkeypatch.setitem(LOSSES, "mse", replace(LOSSES["mse"], function=loss))


def _stop_at_two(report: TrainReport) -> None:
    if report.step == 2:
        os.kill(os.getpid(), signal.SIGINT)


def test_divergence_keeps_the_last_good_state(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, config = tmp_path / "run", train_config(most_skipped=4)
    with pytest.raises(TrainingInterruptedError):
        run(dataset, out, config, CPU, report=_stop_at_two)
    names = ("last.safetensors", "best.safetensors")
    before = [load_file(out / name) for name in names]
    with monkeypatch.context() as patch:
        _patch_loss(patch, lambda p, t: (p - t).square().mean() * math.nan)
        with pytest.raises(
            TrainingDivergedError, match=r"infinite or NaN in 4 steps.*--learning-rate"
        ):
            run(dataset, out, config, CPU, resume=True)
    for name, tensors in zip(names, before, strict=True):
        now = load_file(out / name)
        kept = [key for key in tensors if not key.startswith("guard.")]
        assert all(torch.equal(now[key], tensors[key]) for key in kept)
    assert run(dataset, out, config, CPU, resume=True).steps == 6


def _fail_at(monkeypatch: pytest.MonkeyPatch, bad: set[int], how: Loss) -> None:
    """Let some training steps, counted from 1, have another loss."""
    calls = 0

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += prediction.requires_grad
        error = (prediction - target).square().mean()
        return how(error, target) if calls in bad and prediction.requires_grad else error

    _patch_loss(monkeypatch, loss)


@pytest.mark.parametrize(
    "how",
    [lambda e, t: e * math.inf, lambda e, t: e * math.nan, lambda e, t: e + torch.sqrt(0 * e)],
    ids=["inf", "nan", "gradient only"],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_step_without_a_finite_gradient_is_left_out_and_counted(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Loss, precision: str
) -> None:
    _fail_at(monkeypatch, {5, 6}, how)
    records = _train(
        dataset, tmp_path / "run", steps=9, validations=3, precision=precision, most_skipped=3
    )
    assert [record["skipped"] for record in records] == [0, 2, 0]
    assert all(math.isfinite(record["loss"]) for record in records)
    tensors = load_file(tmp_path / "run" / "last.safetensors")
    assert tensors["optimizer.0.step"] == 7
    assert all(torch.isfinite(value).all() for value in tensors.values())
    scale = 2.0**14 if precision == "float16" else 1.0
    assert float(tensors["guard.scale"]) == scale


def test_a_step_left_out_changes_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_at(monkeypatch, {4, 5, 6}, lambda e, t: e * math.nan)
    _train(dataset, tmp_path / "run", steps=6, validations=6)
    whole = load_file(tmp_path / "run" / "last.safetensors")
    monkeypatch.undo()

    def stop(report: TrainReport) -> None:
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterruptedError):
        run(dataset, tmp_path / "cut", train_config(), CPU, report=stop)
    cut = load_file(tmp_path / "cut" / "last.safetensors")
    changed = {name for name in whole if not torch.equal(whole[name], cut[name])}
    assert changed == {"guard.skipped", "guard.in_a_row", "guard.longest"}


def test_too_many_steps_left_out_in_a_row_stop_the_training(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_at(monkeypatch, {4, 5, 7, 8, 9}, lambda e, t: e * math.nan)
    with pytest.raises(TrainingDivergedError, match=r"in 3 steps in a row before step 9"):
        _train(dataset, tmp_path / "run", steps=9, validations=3, most_skipped=3)
    tensors = load_file(tmp_path / "run" / "last.safetensors")
    assert tensors["optimizer.0.step"] == 4  # of the six steps saved


def test_weights_that_diverge_are_not_saved(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ruin(report: TrainReport) -> None:
        if report.step == 2:
            monkeypatch.setattr(torch.optim.AdamW, "step", fill)

    def fill(optimizer: torch.optim.Optimizer) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.data.fill_(math.inf)

    with pytest.raises(TrainingDivergedError, match="weights became infinite or NaN"):
        run(dataset, tmp_path / "run", train_config(), CPU, report=ruin)
    tensors = load_file(tmp_path / "run" / "last.safetensors")
    assert all(torch.isfinite(value).all() for value in tensors.values())


def test_float16_trains_nearly_the_same(dataset: Path, tmp_path: Path) -> None:
    wide = _train(dataset, tmp_path / "wide", steps=4)
    half = _train(dataset, tmp_path / "half", steps=4, precision="float16")
    assert half[-1]["loss"] == pytest.approx(wide[-1]["loss"], rel=0.02)
    one, other = (load_file(tmp_path / n / "last.safetensors") for n in ("wide", "half"))
    moved = (other["raw.layers.0.weight"] - one["raw.layers.0.weight"]).norm()
    assert float(moved) < 0.02 * float(one["raw.layers.0.weight"].norm())


def _resumed_equals_whole(dataset: Path, tmp_path: Path, at: int, **overrides: Any) -> None:
    """Train in one go, and in two with a stop in between, to the same last bit."""

    def stop(report: TrainReport) -> None:
        if report.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    config = train_config(**overrides)
    run(dataset, tmp_path / "whole", config, CPU)
    with pytest.raises(TrainingInterruptedError):
        run(dataset, tmp_path / "parts", config, CPU, report=stop)
    run(dataset, tmp_path / "parts", config, CPU, resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        one, other = (load_file(tmp_path / folder / name) for folder in ("whole", "parts"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    whole, parts = (
        load_training(tmp_path / folder / "last.safetensors")[2].progress
        for folder in ("whole", "parts")
    )
    assert {**whole, "seconds": 0} == {**parts, "seconds": 0}


@pytest.mark.parametrize(
    "overrides",
    [
        {"precision": "float16"},
        {"schedule": "one-cycle"},
        {"schedule": "plateau", "plateau_patience": 0, "learning_rate": 0.3},
        {"accumulate": 3},
        {"contrast_jitter": 0.2, "mean_jitter": 0.5},
        {"recompute_activations": True, "network": "unet-small", "dropout": 0.3},
        {"stop_after": 6, "best_by": "correlation"},
    ],
    ids=str,
)
def test_six_steps_are_three_and_three_with(
    dataset: Path, tmp_path: Path, overrides: dict[str, Any]
) -> None:
    _resumed_equals_whole(dataset, tmp_path, 3, **overrides)


def test_a_plateau_lowers_the_rate(dataset: Path, tmp_path: Path) -> None:
    settings = {"schedule": "plateau", "plateau_patience": 0, "decay_factor": 0.1}
    # At such a rate the error on held-out micrographs rises from the start.
    records = _train(dataset, tmp_path / "run", learning_rate=1.0, ema_decay=0.0, **settings)
    rates = [record["learning_rate"] for record in records]
    scores = [record["validation"]["mse"] for record in records]
    lost = [sum(b >= min(scores[: i + 1]) for i, b in enumerate(scores[1:n])) for n in range(6)]
    assert lost[-1] > 0
    assert rates == pytest.approx([0.1**count for count in lost])


def test_a_run_that_no_longer_gets_better_stops_and_stays_stopped(
    dataset: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    config = train_config(steps=40, validations=20, stop_after=3, learning_rate=1.0)
    result = run(dataset, tmp_path / "run", config, CPU, say=said.append)
    scores = [r["validation"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    costs = [1.0 if s["correlation"] is None else -s["correlation"] for s in scores]
    assert result.steps < 40
    assert len(costs) == result.steps // 2
    assert min(costs[-3:]) >= min(costs[:-3])
    assert any("stopped at step" in message for message in said)
    again = run(dataset, tmp_path / "run", config, CPU, resume=True)
    assert again.steps == result.steps


def test_the_best_weights_may_be_those_of_the_highest_correlation(
    dataset: Path, tmp_path: Path
) -> None:
    records = _train(dataset, tmp_path / "run", best_by="correlation", learning_rate=0.1)
    best = max(records, key=lambda record: record["validation"]["correlation"] or -1.0)
    assert load_model(tmp_path / "run")[1].step == best["step"]


@pytest.mark.parametrize("wish", [{"stop_after": 2}, {"schedule": "plateau"}])
def test_who_waits_for_validations_needs_some(tmp_path: Path, wish: dict[str, Any]) -> None:
    dataset = write_dataset(tmp_path / "set", validation=0.0).folder
    with pytest.raises(ConfigError, match="needs validation micrographs"):
        run(dataset, tmp_path / "run", train_config(**wish), CPU)
