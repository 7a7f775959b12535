"""Learning rate and averaged weights against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearice.networks import build_network
from clearice.train.schedules import Patience, learning_rate
from clearice.train.state import average_weight, new_state, update_average
from helpers import train_config
from tolerances import RELATIVE


@given(total=st.integers(2, 2000), warmup=st.floats(0, 0.9), data=st.data())
def test_warm_up_is_linear(total: int, warmup: float, data: st.DataObject) -> None:
    config = train_config(learning_rate=0.01, warmup_fraction=warmup)
    steps = max(1, round(warmup * total))
    step = data.draw(st.integers(0, steps - 1))
    assert learning_rate(step, total, config) == pytest.approx(0.01 * (step + 1) / steps)


@given(total=st.integers(4, 2000), data=st.data())
def test_cosine_falls_to_nothing(total: int, data: st.DataObject) -> None:
    config = train_config(learning_rate=0.01, warmup_fraction=0.1, schedule="cosine")
    warmup = max(1, round(0.1 * total))
    step = data.draw(st.integers(warmup, total))
    expected = 0.01 * math.cos(math.pi / 2 * (step - warmup) / (total - warmup)) ** 2
    assert learning_rate(step, total, config) == pytest.approx(expected, abs=1e-12)
    assert learning_rate(warmup, total, config) == pytest.approx(0.01)
    assert learning_rate(total, total, config) == pytest.approx(0, abs=1e-12)
    rates = [learning_rate(s, total, config) for s in range(warmup, total + 1)]
    assert rates == sorted(rates, reverse=True)


def test_constant_stays() -> None:
    config = train_config(learning_rate=0.01, warmup_fraction=0.1, schedule="constant")
    assert {learning_rate(step, 100, config) for step in range(10, 100)} == {0.01}


@pytest.mark.parametrize("total", [10, 137, 1000])
def test_one_cycle_is_that_of_pytorch(total: int) -> None:
    config = train_config(learning_rate=0.01, schedule="one-cycle")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=total)
    for step in range(total):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(step, total, config) == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        if step < total - 1:
            theirs.step()


def test_step_falls_by_its_factor_at_equal_distances() -> None:
    config = train_config(
        learning_rate=0.01,
        warmup_fraction=0.2,
        schedule="step",
        decay_factor=0.1,
        decay_every=0.25,
    )
    rates = [learning_rate(step, 100, config) for step in range(20, 100)]
    expected = [0.01 * 0.1 ** (index // 20) for index in range(80)]
    assert rates == pytest.approx(expected, rel=1e-9)


@given(scores=st.lists(st.integers(0, 5), min_size=1, max_size=40), patience=st.integers(0, 3))
def test_plateau_is_that_of_pytorch(scores: list[int], patience: int) -> None:
    config = train_config(learning_rate=0.01, schedule="plateau", decay_factor=0.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, threshold=0.0, eps=0.0
    )
    ours = Patience()
    for score in scores:
        ours.heed(float(score), patience)
        theirs.step(float(score))
        rate = learning_rate(50, 100, config, ours.lost)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


@given(schedule=st.sampled_from(["constant", "cosine", "one-cycle", "step", "plateau"]))
def test_every_schedule_warms_up_and_stays_below_its_peak(schedule: str) -> None:
    config = train_config(learning_rate=0.01, warmup_fraction=0.1, schedule=schedule)
    rates = [learning_rate(step, 200, config) for step in range(200)]
    assert rates[0] < 0.001
    assert max(rates) == pytest.approx(0.01)
    assert min(rates) > 0


def test_average_follows_the_weights() -> None:
    state = new_state(build_network("cnn3"), train_config())
    before = {name: value.clone() for name, value in state.average.items()}
    with torch.no_grad():
        for parameter in state.network.parameters():
            parameter.add_(1.0)
    update_average(state, torch.tensor(average_weight(10**6, 0.9)))
    for name, value in state.average.items():
        torch.testing.assert_close(
            value, before[name] + 0.1, rtol=RELATIVE[torch.float32], atol=1e-6
        )


def test_early_steps_count_for_more_and_no_decay_keeps_the_last() -> None:
    for decay, weight in ((0.999, 1 - 2 / 11), (0.0, 1.0)):
        state = new_state(build_network("cnn3"), train_config())
        before = {name: value.clone() for name, value in state.average.items()}
        with torch.no_grad():
            for parameter in state.network.parameters():
                parameter.add_(1.0)
        update_average(state, torch.tensor(average_weight(1, decay)))
        for name, value in state.average.items():
            torch.testing.assert_close(value, before[name] + weight, rtol=1e-5, atol=1e-6)
