"""The weighted sum of losses, its registry and its warnings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clearice.errors import UnknownNameError
from clearice.losses import LOSSES, Objective, Verdict, find_loss
from clearice.losses.fourier import fourier_log_power
from clearice.losses.pixel import mse


def _pair(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(2, 1, 8, 8, generator=generator).to(dtype) for _ in range(2))
    return first, second


def test_the_registry_gives_every_loss_its_verdict() -> None:
    verdicts = {name: info.verdict for name, info in LOSSES.items()}
    assert verdicts == {"mse": Verdict.SAFE, "fourier-log-power": Verdict.BIASED}
    for info in LOSSES.values():
        assert info.formula
        assert info.why
    assert find_loss("mse").function is mse


def test_an_unknown_loss_gets_the_nearest_one_and_the_list() -> None:
    for make in (find_loss, lambda name: Objective({name: 1.0})):
        with pytest.raises(UnknownNameError) as error:
            make("fourier-log-pwr")
        assert str(error.value) == (
            "unknown loss 'fourier-log-pwr' (did you mean 'fourier-log-power'?); "
            "known: fourier-log-power, mse"
        )


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_the_total_is_weighted_and_the_parts_are_not(a: float, b: float) -> None:
    prediction, target = _pair(torch.float64)
    output = Objective({"mse": a, "fourier-log-power": b})(prediction, target)
    parts = {
        "mse": mse(prediction, target).mean(),
        "fourier-log-power": fourier_log_power(prediction, target).mean(),
    }
    assert {name: float(p) for name, p in output.parts.items()} == {
        name: float(p) for name, p in parts.items()
    }
    expected = a * float(parts["mse"]) + b * float(parts["fourier-log-power"])
    assert math.isclose(float(output.total), expected, rel_tol=1e-12)


def test_the_gradient_is_that_of_the_weighted_sum() -> None:
    prediction, target = _pair(torch.float64)
    prediction.requires_grad_()
    output = Objective({"mse": 0.5, "fourier-log-power": 2.0})(prediction, target)
    (found,) = torch.autograd.grad(output.total, prediction)
    (expected,) = torch.autograd.grad(
        (0.5 * mse(prediction, target) + 2 * fourier_log_power(prediction, target)).mean(),
        prediction,
    )
    torch.testing.assert_close(found, expected)
    assert not any(part.requires_grad for part in output.parts.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_anything_is_summed(dtype: torch.dtype) -> None:
    prediction, target = _pair(dtype)
    objective = Objective({"mse": 1.0, "fourier-log-power": 0.1})
    output = objective(prediction, target)
    assert output.total.dtype == torch.float32
    wide = objective(prediction.float(), target.float())
    assert float(output.total) == float(wide.total)


def test_a_wide_target_is_not_narrowed() -> None:
    prediction, target = _pair()
    output = Objective({"mse": 1.0})(prediction.bfloat16(), target)
    expected = (prediction.bfloat16().double() - target.double()).square().mean()
    assert math.isclose(float(output.total), float(expected), rel_tol=1e-5)
    assert output.total.dtype == torch.float32


def test_a_sample_counts_by_its_weight() -> None:
    prediction, target = _pair(torch.float64)
    output = Objective({"mse": 2.0})(
        prediction, target, torch.tensor([0.5, 1.5], dtype=torch.float64)
    )
    errors = (prediction - target).square().mean((1, 2, 3)).tolist()
    expected = (0.5 * errors[0] + 1.5 * errors[1]) / 2
    assert math.isclose(float(output.parts["mse"]), expected, rel_tol=1e-12)
    assert math.isclose(float(output.total), 2 * expected, rel_tol=1e-12)


def test_arguments_are_left_alone() -> None:
    prediction, target = _pair()
    copies = prediction.clone(), target.clone()
    weights = {"mse": 1.0}
    objective = Objective(weights)
    weights["mse"] = 5.0
    output = objective(prediction, target)
    assert torch.equal(prediction, copies[0])
    assert torch.equal(target, copies[1])
    assert float(output.total) == float(output.parts["mse"])


def test_only_biased_losses_warn_of_noisy_targets() -> None:
    assert Objective({"mse": 1.0}).warnings_for_noisy_targets() == []
    (warning,) = Objective({"mse": 1.0, "fourier-log-power": 0.1}).warnings_for_noisy_targets()
    assert "'fourier-log-power' is biased" in warning
    assert "0.561" in warning
    assert "\n" not in warning
