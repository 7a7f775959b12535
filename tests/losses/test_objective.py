"""The weighted sum of losses, its registry and its warnings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clearice.errors import ConfigError, UnknownNameError
from clearice.loss_spec import Ramp, parse_loss
from clearice.losses import LOSSES, Objective, balancing_scales, find_loss, weight_at
from clearice.losses.debiased import power_debiased
from clearice.losses.fourier import log_power
from clearice.losses.pixel import mse


def _pair(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(2, 1, 8, 8, generator=generator).to(dtype) for _ in range(2))
    return first, second


def test_an_unknown_loss_gets_the_nearest_one_and_the_list() -> None:
    for make in (find_loss, lambda name: Objective({name: 1.0})):
        with pytest.raises(UnknownNameError) as error:
            make("log-pwr")
        assert str(error.value).startswith(
            "unknown loss 'log-pwr' (did you mean 'log-power'?); known: "
        )
        assert str(error.value).endswith(", ".join(sorted(LOSSES)))


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_the_total_is_weighted_and_the_parts_are_not(a: float, b: float) -> None:
    prediction, target = _pair(torch.float64)
    output = Objective({"mse": a, "log-power": b})(prediction, target)
    parts = {
        "mse": mse(prediction, target).mean(),
        "log-power": log_power(prediction, target).mean(),
    }
    for name, part in parts.items():
        assert math.isclose(float(output.parts[name]), float(part), rel_tol=1e-12)
    expected = a * float(parts["mse"]) + b * float(parts["log-power"])
    assert math.isclose(float(output.total), expected, rel_tol=1e-12)


def test_the_gradient_is_that_of_the_weighted_sum() -> None:
    prediction, target = _pair(torch.float64)
    prediction.requires_grad_()
    output = Objective({"mse": 0.5, "log-power": 2.0})(prediction, target)
    (found,) = torch.autograd.grad(output.total, prediction)
    (expected,) = torch.autograd.grad(
        (0.5 * mse(prediction, target) + 2 * log_power(prediction, target)).mean(),
        prediction,
    )
    torch.testing.assert_close(found, expected)
    assert not any(part.requires_grad for part in output.parts.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_anything_is_summed(dtype: torch.dtype) -> None:
    prediction, target = _pair(dtype)
    objective = Objective({"mse": 1.0, "log-power": 0.1})
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


def test_a_biased_loss_is_refused_for_noisy_targets_alone() -> None:
    objective = Objective({"mse": 1.0, "log-power": 0.1})
    refusal = objective.refusal(noisy=True)
    assert refusal is not None
    assert refusal.startswith("loss 'log-power' is biased by noisy targets: where there is no")
    assert "0.561" in refusal
    assert "\n" not in refusal
    assert objective.refusal(noisy=False) is None
    assert Objective({"mse": 1.0, "log-power": 0.0}).refusal(noisy=True) is None


@pytest.mark.parametrize(
    "loss", ["pyramid(log-power)", "bandpass(pyramid(amplitude, levels=2))", "pyramid(ssim)"]
)
def test_a_wrapper_is_as_biased_as_what_it_wraps(loss: str) -> None:
    assert Objective({"mse": 1.0, loss: 1.0}).refusal(noisy=True) is not None


def test_a_loss_without_amplitude_needs_an_anchor_on_any_target() -> None:
    for noisy in (True, False):
        refusal = Objective({"frc": 1.0}).refusal(noisy=noisy)
        assert refusal is not None
        assert refusal.startswith("loss 'frc' leaves the amplitude of every ring free")
        assert "mse + 0.05 frc" in refusal
        assert Objective({"pyramid(ncc)": 1.0, "frc": 1.0}).refusal(noisy=noisy) is not None
        assert Objective({"power-debiased": 1.0}).refusal(noisy=noisy) is not None
        assert Objective({"frc": 1.0, "mse": 0.0}).refusal(noisy=noisy) is not None
        assert Objective({"frc": 1.0, "l1": 0.1}).refusal(noisy=noisy) is None
        fading = Ramp(initial=1.0, final=0.0)
        assert Objective({"mse": fading, "frc": 1.0}).refusal(noisy=noisy) is not None
        for blind in ("complex(high=0.2)", "complex(low=0.1)", "gradient-l2", "bandpass(sobel-l1)"):
            assert Objective({blind: 1.0, "frc": 1.0}).refusal(noisy=noisy) is not None
            assert Objective({blind: 1.0, "mse": 0.1}).refusal(noisy=noisy) is None
        assert Objective({"complex(power=2)": 1.0}).refusal(noisy=noisy) is None
    assert Objective({"mse": 1.0, "ssim-debiased(sigma=2)": 1.0}).refusal(noisy=True) is not None


def test_a_ramp_counts_by_the_share_of_the_training() -> None:
    prediction, target = _pair(torch.float64)
    objective = Objective({"mse": Ramp(initial=1.0, final=3.0, start=0.5, end=1.0), "l1": 1.0})
    found = [
        objective(
            prediction,
            target,
            factors=torch.tensor([weight_at(w, p) for w in objective.weights.values()]),
        )
        for p in (0.0, 0.5, 0.75, 1.0)
    ]
    weights = [float(output.weighted["mse"] / output.parts["mse"]) for output in found]
    assert weights == pytest.approx([1.0, 1.0, 2.0, 3.0], rel=1e-12)
    for output in found:
        assert float(output.total) == pytest.approx(sum(map(float, output.weighted.values())))


def test_gradient_norms_are_those_of_the_parts() -> None:
    prediction, target = _pair(torch.float64)
    norms = Objective({"mse": 5.0, "l1": 0.1, "log-power": 0.0}).gradient_norms(prediction, target)
    pixels = prediction.numel()
    expected = [
        float((prediction - target).norm()) * 2 / pixels,
        pixels**-0.5,
        0.0,
    ]
    assert norms.tolist() == pytest.approx(expected, rel=1e-12)


def test_balanced_losses_pull_as_much_as_the_first() -> None:
    prediction, target = _pair(torch.float64)
    objective = Objective({"mse": 1.0, "l1": 0.5, "gradient-l2": 2.0})
    norms = objective.gradient_norms(prediction, target)
    scales = balancing_scales(norms)
    assert (scales * norms).tolist() == pytest.approx([float(norms[0])] * 3)
    factors = scales * torch.tensor([1.0, 0.5, 2.0])
    output = objective(prediction, target, factors=factors)
    assert float(output.weighted["l1"]) == pytest.approx(float(factors[1] * output.parts["l1"]))
    assert balancing_scales(torch.tensor([2.0, 0.0])).tolist() == [1.0, 1.0]
    # The first one is only watched.
    assert balancing_scales(torch.tensor([0.0, 2.0, 4.0])).tolist() == [1.0, 1.0, 0.5]
    assert balancing_scales(torch.zeros(2)).tolist() == [1.0, 1.0]


def test_two_targets_reach_the_losses_that_ask_for_them() -> None:
    prediction, target = _pair(torch.float64)
    halves = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    objective = Objective({"mse": 1.0, "power-debiased(bins=4)": 1.0})
    assert objective.needs_halves
    output = objective(prediction, target, halves=halves)
    expected = power_debiased(prediction, halves[:, :1], halves[:, 1:], bins=4).mean()
    assert float(output.parts["power-debiased(bins=4)"]) == pytest.approx(float(expected))
    assert not Objective({"mse": 1.0}).needs_halves


def test_a_resolution_is_a_frequency_by_the_pixel_size() -> None:
    prediction, target = _pair(torch.float64)

    def value(loss: str, pixel_size: float) -> float:
        (part,) = Objective({loss: 1.0}, pixel_size)(prediction, target).parts.values()
        return float(part)

    assert value("frc(bins=8, resolution=4)", 1.0) == value("frc(bins=8, high=0.25)", 1.0)
    # Finer than Nyquist is all there is.
    assert value("frc(bins=8, resolution=4)", 3.0) == value("frc(bins=8)", 1.0)
    assert value("frc(bins=8, resolution=4)", 1.0) != value("frc(bins=8)", 1.0)


@pytest.mark.parametrize(
    ("loss", "problem"),
    [
        ("frc(resolution=4, high=0.3)", "not both"),
        ("frc(resolution=0)", "above 0 Å"),
        ("pyramid(frc(resolution=4))", "give high"),
        ("mse(resolution=4)", "it has no options"),
        ("frc(rings=4)", "its options: bins, high"),
        ("0 power-debiased", "cannot be watched alone"),
    ],
)
def test_options_that_cannot_be_used_are_one_clear_line(loss: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        Objective({"l1": 1.0, **parse_loss(loss)})
    assert "\n" not in str(error.value)


def test_fourier_losses_together_are_those_alone() -> None:
    prediction, target = _pair(torch.float64)
    names = [
        "log-power",
        "frc(bins=4)",
        "complex(power=2)",
        "mse",
        "pyramid(frc(bins=2), levels=2)",
    ]
    together = Objective(dict.fromkeys(names, 1.0))(prediction, target).parts
    for name in names:
        alone = Objective({name: 1.0})(prediction, target).parts[name]
        assert float(together[name]) == pytest.approx(float(alone), rel=1e-12)


def test_patches_are_tried_before_anything_is_trained() -> None:
    objective = Objective({"mse": 1.0, "pyramid(ssim-debiased)": 0.1})
    objective.check(256)
    with pytest.raises(
        ConfigError, match=r"'pyramid\(ssim-debiased\)', patches of 128 px: "
    ) as error:
        objective.check(128)
    assert "\n" not in str(error.value)


def test_nothing_finer_than_the_corner_is_cut_off() -> None:
    prediction, target = _pair(torch.float64)
    all_of_it = Objective({"complex": 1.0})(prediction, target).total
    finer = Objective({"complex(resolution=1)": 1.0}, 1.0)(prediction, target).total
    assert float(finer) == float(all_of_it)
