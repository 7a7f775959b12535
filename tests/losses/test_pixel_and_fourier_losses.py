"""Losses against numpy, gradient checks, and what noise in the target makes them prefer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clearice.losses import LOSSES
from clearice.losses.fourier import fourier_log_power
from clearice.losses.pixel import mse

Loss = Callable[[Tensor, Tensor], Tensor]
EULER_GAMMA = 0.5772156649015329


def _pair(n: int = 3, height: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 1, height, width)
    first, second = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return first, second


def _numpy_mse(prediction: Tensor, target: Tensor) -> float:
    return float(np.mean((prediction.numpy() - target.numpy()) ** 2))


def _numpy_log_power(prediction: Tensor, target: Tensor) -> float:
    columns = prediction.shape[-1] // 2 + 1
    logs = [
        np.log(1 + np.abs(np.fft.fft2(image.numpy())[..., :columns]) ** 2)
        for image in (prediction, target)
    ]
    return float(np.mean((logs[0] - logs[1]) ** 2))


REFERENCES = {"mse": _numpy_mse, "fourier-log-power": _numpy_log_power}


def test_every_loss_has_a_reference_here() -> None:
    assert set(REFERENCES) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_a_loss_is_what_its_formula_says(
    name: str, n: int, height: int, width: int, seed: int
) -> None:
    prediction, target = _pair(n, height, width, seed)
    found = LOSSES[name].function(prediction, target)
    assert found.shape == (n,)
    assert math.isclose(float(found.mean()), REFERENCES[name](prediction, target), rel_tol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5), (1, 2)])
def test_gradients_are_right_in_float64(name: str, height: int, width: int) -> None:
    prediction, target = _pair(2, height, width, 1)
    function = LOSSES[name].function
    assert torch.autograd.gradcheck(
        function, (prediction.requires_grad_(), target.requires_grad_())
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_is_its_images_one_by_one(name: str) -> None:
    prediction, target = _pair(5)
    function = LOSSES[name].function
    single = [function(p[None], t[None]) for p, t in zip(prediction, target, strict=True)]
    torch.testing.assert_close(function(prediction, target), torch.cat(single), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_prediction_costs_nothing_and_any_other_something(name: str) -> None:
    prediction, target = _pair()
    function = LOSSES[name].function
    assert (function(target, target) == 0).all()
    assert (function(prediction, target) > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_prediction_of_zeros_is_finite(name: str) -> None:
    _, target = _pair()
    prediction = torch.zeros_like(target, requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES[name].function(prediction, target).sum(), prediction)
    assert torch.isfinite(gradient).all()


def _best_amplitude(loss: Loss, shape: Tensor, targets: Tensor) -> float:
    """Minimise the loss over the amplitude a of the prediction a · shape."""
    amplitude = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [amplitude], max_iter=200, tolerance_grad=1e-13, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(amplitude * shape.expand_as(targets), targets).mean()
        torch.autograd.backward(value)
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float(amplitude.detach())


def test_log_power_reproduces_the_noise_and_mse_does_not(generator: torch.Generator) -> None:
    draws, size, sigma = 32, 32, 3.0
    noise = sigma * torch.randn(draws, 1, size, size, generator=generator, dtype=torch.float64)
    # A point has the same power in every bin: its amplitude is the prediction's |F|.
    point = torch.zeros(1, 1, size, size, dtype=torch.float64)
    point[..., 0, 0] = 1
    power = size**2 * sigma**2

    # Four of the stored bins are real: the mean log of their power is ψ(1/2) + log 2, not −γ.
    bins = size * (size // 2 + 1)
    mean_log = (-EULER_GAMMA * (bins - 4) + 4 * (-EULER_GAMMA - math.log(2))) / bins
    # The log of an exponential variable has variance π²/6; bins in two columns stand twice.
    independent = draws * size**2 / 2
    error = math.sqrt(math.pi**2 / 6 / independent)
    found = math.log(_best_amplitude(fourier_log_power, point, noise) ** 2 / power)
    assert abs(found - mean_log) < 5 * error + 0.002  # 0.002: the 1 in log(1 + power)
    assert abs(math.exp(found) - 0.561) < 0.03

    # Least squares leaves only the error of a mean of so many draws.
    assert abs(_best_amplitude(mse, point, noise)) < 5 * sigma / math.sqrt(draws)


def test_mse_against_noisy_targets_has_the_minimiser_of_clean_ones(
    generator: torch.Generator,
) -> None:
    draws = 64
    signal = torch.rand(1, 1, 8, 8, generator=generator, dtype=torch.float64)
    targets = signal + torch.randn(draws, 1, 8, 8, generator=generator, dtype=torch.float64)
    amplitude = _best_amplitude(mse, signal, targets)
    error = 1 / math.sqrt(draws * float(signal.square().sum()))
    assert abs(amplitude - 1) < 5 * error


def test_log_power_against_noisy_targets_inflates_a_weak_signal(
    generator: torch.Generator,
) -> None:
    targets = torch.randn(64, 1, 16, 16, generator=generator, dtype=torch.float64)
    point = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    point[..., 0, 0] = 1  # |F|² = 1 in every bin, the noise has 256
    assert _best_amplitude(fourier_log_power, point, targets + point) ** 2 > 100
