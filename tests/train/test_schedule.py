"""Learning rate and averaged weights against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearice.networks import build_network
from clearice.train.state import average_weight, learning_rate, new_state, update_average
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
