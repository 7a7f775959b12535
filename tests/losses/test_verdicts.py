"""What noise in the target makes each loss prefer, on toy problems with a known clean answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor

from clearice.fourier import radial_filter
from clearice.loss_spec import parse_term
from clearice.losses import LOSSES, Verdict, bind

EULER_GAMMA = 0.5772156649015329
SIGMAS = 5.0
Noise = Literal["symmetric", "skewed"]
Mean = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Toy:
    """A problem for one loss: the prediction is θ₀ signal + θ₁ pattern, the signal is right.

    Attributes:
        term: The loss, with options that suit a small image.
        size: Of the image, px.
        draws: Noisy targets.
        pattern: Whether θ₁ is free too; not for losses on powers, which leave phases free.
        shift: Most that a near-safe loss may be off, beyond chance.
    """

    term: str
    size: int = 24
    draws: int = 200
    pattern: bool = True
    shift: float = 0.0


TOYS = {
    "mse": Toy("mse"),
    "l1": Toy("l1"),
    "charbonnier": Toy("charbonnier"),
    "huber": Toy("huber"),
    "log-power": Toy("log-power", pattern=False),
    "amplitude": Toy("amplitude", pattern=False),
    "complex": Toy("complex"),
    "fourier-l1": Toy("fourier-l1"),
    "whitened": Toy("whitened(bins=6)"),
    "phase": Toy("phase"),
    "frc": Toy("frc(bins=6)"),
    "ncc": Toy("ncc"),
    "ssim": Toy("ssim", pattern=False),
    "ms-ssim": Toy("ms-ssim", size=164, draws=6, pattern=False),
    "gradient-l2": Toy("gradient-l2"),
    "sobel-l1": Toy("sobel-l1"),
    "sobel-magnitude": Toy("sobel-magnitude", pattern=False),
    "pyramid": Toy("pyramid(mse)"),
    "bandpass": Toy("bandpass(mse)"),
    "power-debiased": Toy("power-debiased(bins=6)", pattern=False),
    "amplitude-debiased": Toy("amplitude-debiased(bins=6)", pattern=False),
    "log-power-debiased": Toy("log-power-debiased(bins=6)", pattern=False),
    "gradient-magnitude-debiased": Toy("gradient-magnitude-debiased(sigma=2)", pattern=False),
    # 1/(4π sigma²) = 0.001; twenty times that was found.
    "ssim-debiased": Toy("ssim-debiased(sigma=8)", size=72, draws=40, pattern=False, shift=0.03),
}
VERDICTS = {
    Verdict.SAFE: [name for name, info in LOSSES.items() if info.verdict is Verdict.SAFE],
    Verdict.NEAR_SAFE: [name for name, info in LOSSES.items() if info.verdict is Verdict.NEAR_SAFE],
    Verdict.DIRECTION: [name for name, info in LOSSES.items() if info.verdict is Verdict.DIRECTION],
    Verdict.BIASED: [name for name, info in LOSSES.items() if info.verdict is Verdict.BIASED],
}


def _noise(shape: tuple[int, ...], generator: torch.Generator, kind: Noise) -> Tensor:
    """Draw noise of mean 0 and variance 1; skewed noise is that of counts of very few."""
    if kind == "symmetric":
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return -torch.log1p(-uniform) - 1


@dataclass(frozen=True)
class Estimate:
    """The minimiser over θ and its standard error."""

    found: Tensor
    error: Tensor

    def sigmas_from(self, truth: Tensor) -> float:
        return float(((self.found - truth) / self.error).abs().max())


def _minimiser(loss: Callable[[Tensor], Tensor], start: Tensor, step: float = 0.02) -> Estimate:
    """Minimise the mean of a loss of many draws.

    The error is that of an estimate from independent draws: H⁻¹ cov(gradients) H⁻¹ / draws.

    Args:
        loss: θ → one value a draw.
        start: θ.
        step: Of the differences that give the gradient of each draw and the curvature.
    """
    theta = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([theta], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(theta).mean()
        torch.autograd.backward(value)
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    found = theta.detach()
    steps = step * torch.eye(len(found), dtype=found.dtype)
    slopes = torch.stack([(loss(found + s) - loss(found - s)) / (2 * step) for s in steps])
    curvature = torch.stack(
        [_gradient(loss, found + s) - _gradient(loss, found - s) for s in steps]
    )
    inverse = torch.linalg.inv(curvature / (2 * step))
    covariance = inverse @ torch.cov(slopes).reshape(len(found), -1) @ inverse.mT / slopes.shape[1]
    return Estimate(found, covariance.diagonal().sqrt())


def _gradient(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf).mean(), leaf)[0]


def _images(toy: Toy, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a signal and a pattern of mean 0 and variance 1, white so that all rings count."""
    drawn = torch.randn(2, 1, 1, toy.size, toy.size, generator=generator, dtype=torch.float64)
    drawn = (drawn - drawn.mean((3, 4), keepdim=True)) / drawn.std((3, 4), keepdim=True)
    return drawn[0], drawn[1]


def _preferred(
    toy: Toy,
    generator: torch.Generator,
    kind: Noise = "symmetric",
    contrasts: tuple[float, ...] = (1.0,),
    noisy: float = 1.0,
) -> Estimate:
    """Return which θ the loss prefers with noisy targets, of a signal of random contrast."""
    loss = bind(parse_term(toy.term))
    signal, pattern = _images(toy, generator)
    choice = torch.randint(len(contrasts), (toy.draws, 1, 1, 1), generator=generator)
    truth = torch.tensor(contrasts, dtype=torch.float64)[choice] * signal
    targets = [truth + noisy * _noise(truth.shape, generator, kind) for _ in range(loss.targets)]

    def values(theta: Tensor) -> Tensor:
        prediction = theta[0] * signal + (theta[1] * pattern if toy.pattern else 0)
        one_each: Tensor = loss.function(prediction.expand_as(truth), *targets)
        return one_each

    return _minimiser(values, torch.tensor([0.8, 0.3][: 1 + toy.pattern], dtype=torch.float64))


def _clean(toy: Toy) -> Tensor:
    return torch.tensor([1.0, 0.0][: 1 + toy.pattern], dtype=torch.float64)


def test_every_loss_has_a_toy_problem() -> None:
    assert set(TOYS) == set(LOSSES)


@pytest.mark.parametrize("kind", ["symmetric", "skewed"])
@pytest.mark.parametrize("name", VERDICTS[Verdict.SAFE])
def test_a_safe_loss_prefers_the_signal(name: str, kind: Noise, generator: torch.Generator) -> None:
    toy = TOYS[name]
    estimate = _preferred(toy, generator, kind)
    assert estimate.sigmas_from(_clean(toy)) < SIGMAS
    assert float(estimate.error.max()) < 0.03


@pytest.mark.parametrize("name", VERDICTS[Verdict.SAFE])
def test_a_safe_loss_prefers_the_same_with_and_without_noise(
    name: str, generator: torch.Generator
) -> None:
    """Where the input leaves two signals possible: E[signal | input], or E of its power."""
    contrasts = (0.4, 1.6)
    toy = TOYS[name]
    clean = _preferred(toy, torch.Generator().manual_seed(3), contrasts=contrasts, noisy=0.0)
    noisy = _preferred(toy, generator, contrasts=contrasts)
    power = name.endswith("-debiased")
    expected = math.sqrt((0.4**2 + 1.6**2) / 2) if power else 1.0
    assert abs(float(clean.found[0]) - expected) < SIGMAS * float(clean.error[0]) + 1e-9
    assert noisy.sigmas_from(_clean(toy) * expected) < SIGMAS


@pytest.mark.parametrize("name", VERDICTS[Verdict.NEAR_SAFE])
def test_a_near_safe_loss_prefers_the_signal_under_symmetric_noise(
    name: str, generator: torch.Generator
) -> None:
    toy = TOYS[name]
    estimate = _preferred(toy, generator)
    assert ((estimate.found - _clean(toy)).abs() < SIGMAS * estimate.error + toy.shift).all()
    assert float(estimate.error.max()) < 0.03


@pytest.mark.parametrize("name", VERDICTS[Verdict.BIASED])
def test_a_biased_loss_does_not(name: str, generator: torch.Generator) -> None:
    toy = TOYS[name]
    estimate = _preferred(toy, generator)
    assert estimate.sigmas_from(_clean(toy)) > 2 * SIGMAS
    assert float(estimate.found[0]) > 1.1


@pytest.mark.parametrize("name", ["log-power", "amplitude", "sobel-magnitude", "ssim"])
def test_a_wrapper_does_not_cure_a_biased_loss(name: str, generator: torch.Generator) -> None:
    for wrapper in ("pyramid", "bandpass"):
        term = f"{wrapper}({name}, levels=2)"
        assert bind(parse_term(term)).verdict is Verdict.BIASED
        estimate = _preferred(Toy(term, 48, 60, pattern=False), generator)
        assert estimate.sigmas_from(_clean(TOYS[name])) > SIGMAS


@pytest.mark.parametrize("name", VERDICTS[Verdict.DIRECTION])
def test_a_correlation_has_the_direction_of_the_signal(
    name: str, generator: torch.Generator
) -> None:
    """With the amplitude of the signal held, the pattern beside it comes out as 0."""
    toy = TOYS[name]
    loss = bind(parse_term(toy.term))
    signal, pattern = _images(toy, generator)
    targets = signal + _noise((toy.draws, 1, toy.size, toy.size), generator, "symmetric")

    def values(theta: Tensor) -> Tensor:
        one_each: Tensor = loss.function((signal + theta * pattern).expand_as(targets), targets)
        return one_each

    estimate = _minimiser(values, torch.tensor([0.3], dtype=torch.float64))
    assert estimate.sigmas_from(torch.zeros(1, dtype=torch.float64)) < SIGMAS
    assert float(estimate.error) < 0.03


@pytest.mark.parametrize("name", VERDICTS[Verdict.DIRECTION])
def test_beside_mse_a_correlation_leaves_the_minimiser_alone(
    name: str, generator: torch.Generator
) -> None:
    """Its gradient has no part along the prediction, so that mse alone sets the amplitude."""
    toy = TOYS[name]
    both = [bind(parse_term(term)).function for term in ("mse", toy.term)]
    signal, pattern = _images(toy, generator)
    targets = signal + _noise((toy.draws, 1, toy.size, toy.size), generator, "symmetric")

    def values(theta: Tensor) -> Tensor:
        prediction = (theta[0] * signal + theta[1] * pattern).expand_as(targets)
        return both[0](prediction, targets) + 0.5 * both[1](prediction, targets)

    estimate = _minimiser(values, torch.tensor([0.8, 0.3], dtype=torch.float64))
    assert estimate.sigmas_from(_clean(TOYS["mse"])) < SIGMAS
    assert float(estimate.error.max()) < 0.01


def test_the_amplitudes_that_a_correlation_leaves_free(generator: torch.Generator) -> None:
    signal, pattern = _images(TOYS["mse"], generator)
    target = signal + pattern

    def value(term: str, prediction: Tensor) -> float:
        return float(bind(parse_term(term)).function(prediction, target))

    def sharpened(image: Tensor, count: int) -> Tensor:
        return radial_filter(image, lambda f: 1 + 3 * (2 * count * f).floor())

    for term in ("frc(bins=6)", "phase", "ncc"):
        assert math.isclose(value(term, signal), value(term, 7.0 * signal), rel_tol=1e-9)
    # A gain of its own for each ring, or for each bin.
    rings = sharpened(signal, 6)
    bins = radial_filter(signal, lambda f: 1 + 3 * f)
    assert math.isclose(value("frc(bins=6)", signal), value("frc(bins=6)", rings), rel_tol=1e-9)
    assert math.isclose(value("phase", signal), value("phase", bins), rel_tol=1e-9)
    assert not math.isclose(value("frc(bins=2)", signal), value("frc(bins=2)", bins), rel_tol=1e-6)
    assert math.isclose(value("ncc", signal), value("ncc", 2 * signal + 5), rel_tol=1e-9)
    assert not math.isclose(value("ncc", signal), value("ncc", bins), rel_tol=1e-6)


def _constant(term: str, shape: Tensor, targets: Tensor, start: float = 1.0) -> Estimate:
    """Return which multiple of an image a loss prefers."""
    loss = bind(parse_term(term))

    def values(theta: Tensor) -> Tensor:
        one_each: Tensor = loss.function((theta * shape).expand_as(targets), targets)
        return one_each

    return _minimiser(values, torch.tensor([start], dtype=torch.float64))


def _point(size: int) -> Tensor:
    """Return an image with the same power in every bin: its value is |F|."""
    point = torch.zeros(1, 1, size, size, dtype=torch.float64)
    point[..., 0, 0] = 1
    return point


def test_log_power_prefers_0_561_of_the_noise_power(generator: torch.Generator) -> None:
    size, sigma = 32, 3.0
    noise = sigma * _noise((64, 1, size, size), generator, "symmetric")
    estimate = _constant("log-power", _point(size), noise, start=30.0)
    power = float(estimate.found) ** 2 / (size**2 * sigma**2)
    # Four of the stored bins are real: the mean log of their power is ψ(1/2) + log 2, not −γ.
    bins = size * (size // 2 + 1)
    mean_log = (-EULER_GAMMA * (bins - 4) + 4 * (-EULER_GAMMA - math.log(2))) / bins
    error = 2 * float(estimate.error / estimate.found)
    assert abs(math.log(power) - mean_log) < SIGMAS * error + 0.002  # 0.002: of log(1 + power)
    assert error < 0.01
    assert abs(power - 0.561) < 0.03


def test_amplitude_prefers_0_785_of_the_noise_power(generator: torch.Generator) -> None:
    size, sigma = 32, 3.0
    noise = sigma * _noise((64, 1, size, size), generator, "symmetric")
    estimate = _constant("amplitude", _point(size), noise, start=30.0)
    unit = size * sigma
    # Four of all bins are real, with E|F| = √(2/π) instead of √(π/4).
    real = 4 / size**2
    expected = unit * ((1 - real) * math.sqrt(math.pi / 4) + real * math.sqrt(2 / math.pi))
    assert abs(float(estimate.found) - expected) < SIGMAS * float(estimate.error)
    assert abs((float(estimate.found) / unit) ** 2 - 0.785) < 0.02


def test_mse_keeps_nothing_of_the_noise(generator: torch.Generator) -> None:
    noise = 3.0 * _noise((64, 1, 32, 32), generator, "symmetric")
    estimate = _constant("mse", _point(32), noise, start=30.0)
    assert estimate.sigmas_from(torch.zeros(1, dtype=torch.float64)) < SIGMAS


def _without_local_means(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return noise of variance 1 above 0.1 cycles/px, so that luminance terms say nothing."""
    noise = _noise(shape, generator, "symmetric")
    noise = radial_filter(noise, lambda f: (f > 0.1).to(f))
    return noise / noise.std()


@pytest.mark.parametrize("snr", [0.1, 1.0])
def test_ssim_prefers_a_gain_of_root_1_plus_1_over_snr(
    snr: float, generator: torch.Generator
) -> None:
    # A window so wide that the variances under it are those of the whole.
    signal = math.sqrt(snr) * _without_local_means((1, 1, 80, 80), generator)
    targets = signal + _without_local_means((12, 1, 80, 80), generator)
    estimate = _constant("ssim(data_range=0.1, sigma=8)", signal, targets)
    expected = math.sqrt(1 + 1 / snr)
    assert abs(float(estimate.found) / expected - 1) < 0.06
    assert estimate.sigmas_from(torch.ones(1, dtype=torch.float64)) > SIGMAS


def test_the_gradient_magnitude_is_inflated_by_noise(generator: torch.Generator) -> None:
    size, sigma = 96, 1.0
    ramp = torch.arange(size, dtype=torch.float64).expand(1, 1, size, size)
    noise = sigma * _noise((12, 1, size, size), generator, "symmetric")
    estimate = _constant("sobel-magnitude", ramp, noise)
    # √(2 log 2) of the noise in one slope, √12/8 σ; the border is another matter.
    expected = math.sqrt(2 * math.log(2)) * math.sqrt(12) / 8 * sigma
    assert abs(float(estimate.found) / expected - 1) < 0.02
    for term in ("gradient-l2", "sobel-l1"):
        right = _constant(term, ramp, noise)
        assert right.sigmas_from(torch.zeros(1, dtype=torch.float64)) < SIGMAS


@pytest.mark.parametrize(
    "term",
    [
        "power-debiased(bins=4)",
        "amplitude-debiased(bins=4, floor=0.5)",
        "log-power-debiased(bins=4, floor=0.5)",
    ],
)
def test_debiased_losses_prefer_nothing_to_pure_noise(
    term: str, generator: torch.Generator
) -> None:
    size = 32
    halves = _noise((2, 64, 1, size, size), generator, "symmetric")
    loss = bind(parse_term(term))
    powers = (0.0, 0.1, 0.561, 0.785)
    costs = [
        float(
            loss.function(math.sqrt(q) * size * _point(size).expand_as(halves[0]), *halves).mean()
        )
        for q in powers
    ]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("mse", 0.0),
        ("l1", math.log(2) - 1),
        ("charbonnier", math.log(2) - 1),
        ("charbonnier(eps=100)", 0.0),
        ("huber(delta=20)", 0.0),
        ("huber(delta=0.01)", math.log(2) - 1),
        ("fourier-l1", 0.0),
        ("whitened(bins=6)", 0.0),
        ("complex", 0.0),
    ],
)
def test_skewed_noise_shifts_the_median_and_not_the_mean(
    term: str, expected: float, generator: torch.Generator
) -> None:
    """Exponential noise minus its mean has its median at log 2 − 1 = −0.307."""
    level = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    targets = _noise((600, 1, 16, 16), generator, "skewed")
    estimate = _constant(term, level, targets, start=0.3)
    # 0.005: of eps and delta above 0, and of the DC bin, whose noise is skewed by 2/16.
    assert abs(float(estimate.found) - expected) < SIGMAS * float(estimate.error) + 0.005
    assert float(estimate.error) < 0.01


# Huber: m = shift + 1 solves m = 1 − exp(−m − 1).
@pytest.mark.parametrize(
    ("term", "shift"), [("l1", -0.307), ("charbonnier", -0.307), ("huber", -0.1586)]
)
def test_symmetric_noise_shifts_no_median(
    term: str, shift: float, generator: torch.Generator
) -> None:
    level = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    shifts = {
        kind: float(_constant(term, level, _noise((600, 1, 16, 16), generator, kind)).found)
        for kind in ("symmetric", "skewed")
    }
    assert abs(shifts["symmetric"]) < 0.02
    assert abs(shifts["skewed"] - shift) < 0.02


def test_noise_that_is_skewed_in_a_pixel_is_symmetric_in_a_slope(
    generator: torch.Generator,
) -> None:
    ramp = torch.arange(48, dtype=torch.float64).expand(1, 1, 48, 48)
    noise = _noise((24, 1, 48, 48), generator, "skewed")
    estimate = _constant("sobel-l1", ramp, noise)
    assert estimate.sigmas_from(torch.zeros(1, dtype=torch.float64)) < SIGMAS
    assert float(estimate.error) < 0.01


def test_a_median_is_not_the_expectation_of_a_skewed_signal(generator: torch.Generator) -> None:
    """Symmetric noise does not save L1 where the input leaves a skewed choice of signals."""
    shape = (300, 1, 16, 16)
    often = torch.rand((300, 1, 1, 1), generator=generator, dtype=torch.float64) < 0.2
    targets = often * 3.0 + 0.3 * _noise(shape, generator, "symmetric")
    level = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    right = _constant("mse", level, targets)
    assert abs(float(right.found) - 3.0 * float(often.double().mean())) < 0.01
    assert float(_constant("l1", level, targets).found) < 0.2


def test_the_bias_of_debiased_ssim_falls_with_the_window(generator: torch.Generator) -> None:
    """Too little contrast, by about var(cov(a, b)) / D²; far from the gain of plain SSIM."""
    signal = math.sqrt(0.5) * _without_local_means((1, 1, 80, 80), generator)
    halves = signal + _without_local_means((24, 1, 80, 80), generator).reshape(2, 12, 1, 80, 80)

    def gain(term: str) -> Estimate:
        loss = bind(parse_term(term))

        def values(theta: Tensor) -> Tensor:
            prediction = (theta * signal).expand_as(halves[0])
            one_each: Tensor = loss.function(prediction, *halves[: loss.targets])
            return one_each

        return _minimiser(values, torch.tensor([0.8], dtype=torch.float64))

    narrow, wide = gain("ssim-debiased(sigma=1.5)"), gain("ssim-debiased(sigma=8)")
    assert abs(float(wide.found) - 1) < SIGMAS * float(wide.error) + 0.01
    assert float(narrow.found) < float(wide.found) - SIGMAS * float(narrow.error)
    assert float(gain("ssim(sigma=8)").found) > 1.5


@pytest.mark.parametrize("name", ["frc(bins=6)", "ncc"])
def test_a_correlation_beside_mse_needs_noise_that_rules_the_target(
    name: str, generator: torch.Generator
) -> None:
    # The input leaves open whether the signal is 2s or 0.2r: the answer is s + 0.1r.
    signal, other = _images(Toy("mse", size=24), generator)
    draws = 300
    first = (torch.arange(draws) % 2 == 0).view(-1, 1, 1, 1)
    truth = torch.where(first, 2 * signal, 0.2 * other)
    mse, correlation = (bind(parse_term(term)).function for term in ("mse", name))

    def found(noise: float) -> Estimate:
        target = truth + noise * _noise(truth.shape, generator, "symmetric")

        def loss(theta: Tensor) -> Tensor:
            prediction = (theta[0] * signal + theta[1] * other).expand_as(target)
            return mse(prediction, target) + 0.5 * correlation(prediction, target)

        return _minimiser(loss, torch.tensor([0.8, 0.3], dtype=torch.float64))

    noisy, clear = found(3.0), found(0.0)
    assert abs(float(noisy.found[1]) - 0.1) < 4 * float(noisy.error[1])
    assert abs(float(clear.found[1]) - 0.195) < 0.02  # the target of small norm counts for more
