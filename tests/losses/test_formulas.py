"""Each loss against numpy or another package, gradient checks, and sizes at the limit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearice.errors import ConfigError
from clearice.loss_spec import LossTerm
from clearice.losses import LOSSES, BoundLoss, bind, options_of
from clearice.losses.fourier import complex_l2
from clearice.losses.pixel import mse
from loss_references import REFERENCES

# Images large enough for each loss; 3 px for those not here.
LEAST = {"ssim": 11, "ms-ssim": 161, "gradient-magnitude-debiased": 29, "ssim-debiased": 57}
# Smaller windows of the same losses, so that numpy takes no time.
NARROW: dict[str, dict[str, float]] = {
    "ssim": {"sigma": 0.7},
    "gradient-magnitude-debiased": {"sigma": 0.5},
    "ssim-debiased": {"sigma": 1.0},
}
CHANGED: dict[str, dict[str, float]] = {
    "charbonnier": {"eps": 0.4},
    "huber": {"delta": 0.3},
    "complex": {"power": 0.5, "low": 0.1, "high": 0.4},
    "whitened": {"bins": 5, "floor": 0.1},
    "phase": {"low": 0.2, "high": 0.6},
    "frc": {"bins": 5, "high": 0.4},
    "ssim": {"data_range": 2.0, "sigma": 1.0},
    "ms-ssim": {"data_range": 2.0},
    "pyramid": {"levels": 4},
    "bandpass": {"levels": 2},
    "power-debiased": {"bins": 5, "high": 0.4},
    "amplitude-debiased": {"bins": 5, "high": 0.4, "floor": 0.2},
    "log-power-debiased": {"bins": 5, "high": 0.4, "floor": 0.2},
    "gradient-magnitude-debiased": {"sigma": 0.9},
    "ssim-debiased": {"data_range": 2.0, "sigma": 1.3},
}


def _bound(name: str, options: dict[str, float] | None = None) -> BoundLoss:
    inner = LossTerm("l1") if LOSSES[name].wraps else None
    return bind(LossTerm(name, tuple((options or {}).items()), inner))


def _least(name: str, options: dict[str, float]) -> int:
    if "sigma" in options:
        return 2 * int(3.5 * options["sigma"] + 0.5) + 1
    return LEAST.get(name, 3)


def _images(
    loss: BoundLoss, n: int, height: int, width: int, seed: int = 0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return predictions and as many targets as the loss takes."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 1, height, width)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    # All share a signal: negative correlations are cut off in some losses.
    return drawn[0] + drawn[1], (drawn[1], drawn[1] + 0.5 * drawn[2])[: loss.targets]


def _agrees(name: str, options: dict[str, float], n: int, height: int, width: int, s: int) -> None:
    loss = _bound(name, options)
    prediction, targets = _images(loss, n, height, width, s)
    found = loss.function(prediction, *targets)
    assert found.shape == (n,)
    for value, *images in zip(found, prediction, *targets, strict=True):
        expected = REFERENCES[name](*(image[0].numpy() for image in images), **options)
        assert math.isclose(float(value), expected, rel_tol=1e-8, abs_tol=1e-12)


def test_every_loss_has_a_reference() -> None:
    assert set(REFERENCES) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
@given(st.integers(1, 3), st.integers(0, 6), st.integers(0, 6), st.integers(0, 99))
@settings(max_examples=8)
def test_a_loss_is_what_its_formula_says(
    name: str, n: int, height: int, width: int, seed: int
) -> None:
    options = NARROW.get(name, {})
    least = _least(name, options)
    _agrees(name, options, n, least + height, least + width, seed)


@pytest.mark.parametrize("name", CHANGED)
def test_options_do_what_the_formula_says(name: str) -> None:
    least = max(12, _least(name, CHANGED[name]))
    _agrees(name, CHANGED[name], 2, least + 1, least + 4, 5)


def test_every_option_of_every_loss_is_tried() -> None:
    options = {name: set(options_of(info)) for name, info in LOSSES.items()}
    assert {name: names for name, names in options.items() if names} == {
        name: set(changed) for name, changed in CHANGED.items()
    }


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5)])
def test_gradients_are_right_in_float64(name: str, height: int, width: int) -> None:
    options = NARROW.get(name, {})
    loss = _bound(name, options)
    least = _least(name, options)
    if name == "ms-ssim":  # 161 px have too many gradients to check each
        _check_one_direction(loss, least)
        return
    prediction, targets = _images(loss, 2, max(height, least), max(width, least), 1)
    assert torch.autograd.gradcheck(loss.function, (prediction.requires_grad_(), *targets))


def _check_one_direction(loss: BoundLoss, size: int) -> None:
    prediction, targets = _images(loss, 2, size, size + 3, 1)
    direction = torch.cos(torch.arange(prediction.numel(), dtype=torch.float64))
    direction = direction.reshape(prediction.shape)

    def along(step: Tensor) -> Tensor:
        values: Tensor = loss.function(prediction + step * direction, *targets)
        return values

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(along, (step,))


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_is_its_images_one_by_one(name: str) -> None:
    loss = _bound(name)
    least = LEAST.get(name, 6)
    prediction, targets = _images(loss, 3, least, least + 1)
    single = [
        loss.function(*(image[None] for image in images))
        for images in zip(prediction, *targets, strict=True)
    ]
    found = loss.function(prediction, *targets)
    torch.testing.assert_close(found, torch.cat(single), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", LOSSES)
def test_channels_are_averaged(name: str) -> None:
    loss = _bound(name)
    least = LEAST.get(name, 6)
    prediction, targets = _images(loss, 2, least, least)
    images = [image.transpose(0, 1) for image in (prediction, *targets)]
    separate = loss.function(prediction, *targets)
    found = loss.function(*images)
    torch.testing.assert_close(found, separate.mean(0, keepdim=True), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_prediction_costs_least(name: str) -> None:
    loss = _bound(name)
    least = LEAST.get(name, 6)
    prediction, targets = _images(loss, 3, least, least)
    truth = targets[0]
    perfect = loss.function(truth, *(truth for _ in targets))
    best = math.log(1e-6) if name == "whitened" else 0.0
    assert torch.allclose(perfect, torch.full_like(perfect, best), rtol=1e-6, atol=1e-12)
    assert (loss.function(prediction, *(truth for _ in targets)) > perfect + 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_prediction_of_zeros_is_finite(name: str, dtype: torch.dtype) -> None:
    loss = _bound(name)
    least = LEAST.get(name, 6)
    _, targets = _images(loss, 3, least, least)
    targets = tuple(target.to(dtype) for target in targets)
    for start in (torch.zeros_like(targets[0]), torch.ones_like(targets[0])):
        prediction = start.clone().requires_grad_()
        values = loss.function(prediction, *targets)
        (gradient,) = torch.autograd.grad(values.sum(), prediction)
        assert torch.isfinite(values).all()
        assert values.dtype == dtype
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_target_of_zeros_gives_finite_gradients(name: str) -> None:
    loss = _bound(name)
    least = LEAST.get(name, 6)
    prediction, targets = _images(loss, 1, least, least)
    for images in (prediction, torch.zeros_like(prediction)):
        leaf = images.clone().requires_grad_()
        values = loss.function(leaf, *(torch.zeros_like(target) for target in targets))
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
        assert torch.isfinite(values).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_arguments_are_left_alone(name: str) -> None:
    loss = _bound(name)
    least = LEAST.get(name, 6)
    prediction, targets = _images(loss, 1, least, least)
    copies = [image.clone() for image in (prediction, *targets)]
    loss.function(prediction, *targets)
    for image, copy in zip((prediction, *targets), copies, strict=True):
        assert torch.equal(image, copy)


THIN = [(1, 9), (9, 1), (2, 9), (3, 3)]


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in LEAST])
@pytest.mark.parametrize(("height", "width"), THIN)
def test_thin_images_work(name: str, height: int, width: int) -> None:
    loss = _bound(name)
    prediction, targets = _images(loss, 2, height, width)
    leaf = prediction.requires_grad_()
    (gradient,) = torch.autograd.grad(loss.function(leaf, *targets).sum(), leaf)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LEAST)
def test_a_patch_smaller_than_the_window_is_refused(name: str) -> None:
    loss = _bound(name)
    prediction, targets = _images(loss, 1, LEAST[name] - 1, LEAST[name])
    with pytest.raises(ConfigError) as error:
        loss.function(prediction, *targets)
    assert f"'{name}' needs patches of at least {LEAST[name]} px" in str(error.value)
    assert f"{LEAST[name] - 1}×{LEAST[name]}" in str(error.value)
    prediction, targets = _images(loss, 1, LEAST[name], LEAST[name])
    assert torch.isfinite(loss.function(prediction, *targets)).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("complex", {"low": 0.3, "high": 0.2}),
        ("phase", {"low": 0.8}),
        ("frc", {"bins": 1, "high": 0.3}),
        ("log-power-debiased", {"high": 0.001}),
    ],
)
def test_a_band_without_a_frequency_is_refused(name: str, options: dict[str, Any]) -> None:
    loss = _bound(name, options)
    prediction, targets = _images(loss, 1, 8, 9)
    with pytest.raises(ConfigError, match=r"patch of 8×9 px.*larger patches"):
        loss.function(prediction, *targets)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_parseval(height: int, width: int, seed: int) -> None:
    prediction, (target,) = _images(_bound("mse"), 2, height, width, seed)
    found = complex_l2(prediction, target, power=0.0)
    torch.testing.assert_close(found, mse(prediction, target), rtol=1e-11, atol=0)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_white_error_costs_the_same_with_any_weights(power: float) -> None:
    # A point has the same power in every bin.
    error = torch.zeros(1, 1, 8, 7, dtype=torch.float64)
    error[..., 2, 3] = 3.0
    found = complex_l2(error, torch.zeros_like(error), power=power)
    torch.testing.assert_close(found, mse(error, torch.zeros_like(error)))


def test_amplitude_is_at_most_mse_and_equal_where_phases_agree() -> None:
    loss = _bound("amplitude")
    prediction, (target,) = _images(loss, 4, 7, 8)
    assert (loss.function(prediction, target) < mse(prediction, target)).all()
    torch.testing.assert_close(loss.function(2.5 * target, target), mse(2.5 * target, target))


def test_gradient_l2_weighs_frequencies_as_parseval_says() -> None:
    # A wave over whole periods: a periodic image, but for the step from the last row to the first.
    size, periods = 64, 5
    x = torch.arange(size, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * periods * x / size).expand(1, 1, size, size)
    found = float(_bound("gradient-l2").function(wave, torch.zeros_like(wave)))
    step = float((wave[0, 0, 0, 0] - wave[0, 0, 0, -1]) ** 2) / size
    assert math.isclose(found + step, 4 * math.sin(math.pi * periods / size) ** 2 / 2)


def test_a_bandpass_of_equal_bands_is_of_equal_images() -> None:
    """The bands have no null space: only a difference of 0 has them all 0."""
    size = 6
    basis = torch.eye(size * size, dtype=torch.float64).reshape(-1, 1, size, size)
    bands: list[Tensor] = []

    def keep(prediction: Tensor, target: Tensor) -> Tensor:
        bands.append((prediction - target).flatten(1))
        return bands[-1].sum(1)

    LOSSES["bandpass"].function(basis, torch.zeros_like(basis), loss=keep)
    assert torch.linalg.matrix_rank(torch.cat(bands, 1)) == size * size


def test_wrapped_losses_average_over_levels() -> None:
    prediction, (target,) = _images(_bound("mse"), 2, 8, 8)
    for name, levels, count in (("pyramid", 1, 1), ("pyramid", 3, 3), ("bandpass", 2, 3)):
        calls: list[tuple[int, ...]] = []

        def one(first: Tensor, second: Tensor, calls: list[tuple[int, ...]] = calls) -> Tensor:
            calls.append(tuple(first.shape[2:]))
            return torch.full((len(first),), float(len(calls)), dtype=first.dtype)

        found = LOSSES[name].function(prediction, target, loss=one, levels=levels)
        assert len(calls) == count
        assert found.tolist() == [(count + 1) / 2] * 2
    assert calls == [(8, 8), (4, 4), (2, 2)]


def test_a_wrapper_passes_two_targets_on() -> None:
    inner = LossTerm("power-debiased", (("bins", 4),))
    for name in ("pyramid", "bandpass"):
        loss = bind(LossTerm(name, (("levels", 2),), inner))
        prediction, targets = _images(loss, 2, 16, 16)
        assert len(targets) == loss.targets == 2
        assert loss.function(prediction, *targets).shape == (2,)
        truth = targets[0]
        assert float(loss.function(truth, truth, truth).abs().max()) < 1e-20


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_float64_up_to_rounding(name: str, device: str) -> None:
    loss = _bound(name)
    prediction, targets = _images(loss, 2, 176, 192)
    images = [image.float().to(device) for image in (prediction, *targets)]
    found = _value_and_gradient(loss, *images)
    expected = _value_and_gradient(loss, prediction, *targets)
    for value, reference in zip(found, expected, strict=True):
        assert (value.dtype, value.device.type) == (torch.float32, device)
        error = (value.cpu().double() - reference).norm() / reference.norm()
        assert float(error) < 1e-4


def _value_and_gradient(loss: BoundLoss, prediction: Tensor, *targets: Tensor) -> list[Tensor]:
    leaf = prediction.clone().requires_grad_()
    values = loss.function(leaf, *targets)
    return [values.detach(), torch.autograd.grad(values.sum(), leaf)[0]]
