"""The fused Fourier losses are the plain ones, with fewer transforms and less memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clearice.devices import KernelFallback
from clearice.errors import ConfigError
from clearice.loss_spec import LossTerm, parse_term
from clearice.losses import LOSSES, find_loss, options_of
from clearice.losses.fused import _cuda_kernels, _evaluate, fourier_terms, is_fused
from clearice.losses.fused_plan import plan_for
from clearice.losses.fused_torch import evaluate
from fused_cases import MIXED, NAMES, SPECS, compared, pair, plain_terms, relative_error, terms_of


@pytest.mark.parametrize("spec", SPECS)
@given(
    st.integers(1, 3), st.integers(1, 2), st.integers(6, 13), st.integers(6, 13), st.integers(0, 99)
)
def test_a_fused_loss_is_the_plain_one(
    spec: str, n: int, channels: int, height: int, width: int, seed: int
) -> None:
    prediction, target = pair((n, channels, height, width), seed)
    fused, plain = compared(prediction, target, (spec,))
    assert fused[0].shape == (1, n)
    torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-11)


@given(
    st.lists(st.sampled_from(SPECS), min_size=2, max_size=5, unique=True),
    st.integers(6, 9),
    st.integers(6, 9),
)
def test_losses_stand_in_the_order_in_which_they_are_asked_for(
    specs: list[str], height: int, width: int
) -> None:
    prediction, target = pair((2, 1, height, width))
    fused, plain = compared(prediction, target, specs)
    torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("spec", ["log-power", "amplitude", "complex", "fourier-l1", "whitened"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 7), (5, 1), (2, 2)])
def test_images_of_a_pixel_or_a_line_are_right_too(spec: str, shape: tuple[int, int]) -> None:
    prediction, target = pair((2, 1, *shape))
    fused, plain = compared(prediction, target, (spec,))
    torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("specs", [(spec,) for spec in SPECS] + [MIXED])
def test_rounding_is_that_of_float32(specs: tuple[str, ...]) -> None:
    prediction, target = pair((2, 1, 65, 48), dtype=torch.float32)
    reference = prediction.detach().double().requires_grad_()
    fused, exact = compared(prediction, target, specs, reference)
    assert fused[0].dtype == fused[1].dtype == torch.float32
    plain = plain_terms(prediction, target, terms_of(*specs))
    for found, expected in zip(fused, exact, strict=True):
        # Bins of little amplitude are ill-conditioned: phase and log power reach 1e-5 either way.
        assert relative_error(found, expected) < 3e-5
    assert relative_error(fused[0], exact[0]) < 3 * relative_error(plain, exact[0]) + 1e-6


@pytest.mark.parametrize("specs", [(name,) for name in NAMES] + [("frc", "log-power")])
@pytest.mark.parametrize("shape", [(6, 8), (7, 6), (6, 7)])
def test_gradients_are_right_in_float64(specs: tuple[str, ...], shape: tuple[int, int]) -> None:
    prediction, target = pair((2, 1, *shape), 3)
    terms = terms_of(*specs)
    assert torch.autograd.gradcheck(lambda p: fourier_terms(p, target, terms), (prediction,))


@pytest.mark.parametrize("specs", [("log-power",), MIXED])
def test_a_graph_that_is_kept_serves_twice_and_each_loss_alone(specs: tuple[str, ...]) -> None:
    prediction, target = pair((2, 1, 8, 9))
    terms = terms_of(*specs)
    values = fourier_terms(prediction, target, terms)
    plain = plain_terms(prediction, target, terms)
    for _ in range(2):
        for found, expected in zip(values, plain, strict=True):
            torch.testing.assert_close(
                torch.autograd.grad(found.sum(), prediction, retain_graph=True),
                torch.autograd.grad(expected.sum(), prediction, retain_graph=True),
                rtol=1e-9,
                atol=1e-11,
            )


def test_a_second_derivative_is_refused_instead_of_wrong() -> None:
    prediction, target = pair((1, 1, 8, 8))
    values = fourier_terms(prediction, target, terms_of("log-power"))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(values.sum(), prediction, create_graph=True)


def test_a_gradient_in_the_target_is_given_by_the_plain_form() -> None:
    prediction, target = pair((2, 1, 8, 8))
    target.requires_grad_()
    terms = terms_of("frc", "log-power")
    found = torch.autograd.grad(fourier_terms(prediction, target, terms).sum(), target)
    expected = torch.autograd.grad(plain_terms(prediction, target, terms).sum(), target)
    assert torch.equal(found[0], expected[0])
    assert found[0].any()


def test_half_precision_is_widened_and_gets_its_gradient_back() -> None:
    prediction, target = pair((2, 1, 16, 16), dtype=torch.float32)
    half = prediction.detach().bfloat16().requires_grad_()
    terms = terms_of("log-power", "frc")
    values = fourier_terms(half, target, terms)
    torch.testing.assert_close(values, fourier_terms(half.float(), target, terms))
    (gradient,) = torch.autograd.grad(values.sum(), half)
    assert (values.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("specs", [("amplitude",), ("whitened",), MIXED])
def test_arguments_are_left_alone(specs: tuple[str, ...]) -> None:
    prediction, target = pair((2, 1, 8, 8))
    copies = prediction.detach().clone(), target.clone()
    fourier_terms(prediction, target, terms_of(*specs)).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(prediction, copies[0])
    assert torch.equal(target, copies[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_of_zeros_and_a_perfect_one_have_finite_gradients(name: str) -> None:
    _, target = pair((2, 1, 8, 8))
    for prediction in (torch.zeros_like(target), target.clone()):
        fused, plain = compared(prediction.requires_grad_(), target, (name,))
        assert fused[1].isfinite().all()
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-9)


def test_tables_made_while_validating_serve_training() -> None:
    plan_for.cache_clear()
    prediction, target = pair((1, 1, 10, 11))
    terms = terms_of("frc(bins=4)", "amplitude")
    with torch.inference_mode():
        watched = fourier_terms(prediction.detach(), target, terms)
    values = fourier_terms(prediction, target, terms)
    assert torch.equal(values, watched)
    values.sum().backward()  # type: ignore[no-untyped-call]
    assert prediction.grad is not None


def test_only_plain_fourier_losses_are_fused() -> None:
    assert {name for name in LOSSES if is_fused(LossTerm(name))} == set(NAMES)
    assert not is_fused(parse_term("pyramid(frc)"))


def test_no_option_of_a_plain_form_is_overlooked() -> None:
    assert {name: set(options_of(find_loss(name))) for name in NAMES} == {
        "log-power": set(),
        "amplitude": set(),
        "complex": {"power", "low", "high"},
        "fourier-l1": set(),
        "phase": {"low", "high"},
        "frc": {"bins", "high"},
        "whitened": {"bins", "floor"},
    }
    prediction, target = pair((1, 1, 8, 8))
    with pytest.raises(ConfigError, match="'binz'"):
        fourier_terms(prediction, target, terms_of("frc(binz=3)"))


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts transforms."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.counts[str(func.overloadpacket).removeprefix("aten.")] += 1
        return func(*args, **(kwargs or {}))


def test_losses_share_one_transform_of_each_image_and_one_back() -> None:
    prediction, target = pair((2, 1, 8, 8))
    with _Calls() as calls:
        values = fourier_terms(prediction, target, terms_of(*MIXED))
        torch.autograd.grad(values.sum(), prediction)
    transforms = {name: n for name, n in calls.counts.items() if name.startswith("_fft")}
    assert transforms == {"_fft_r2c": 2, "_fft_c2r": 1}


def _kept_bytes(work: Callable[[], Tensor]) -> int:
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(kept.values())


@pytest.mark.parametrize("specs", [("log-power",), ("frc",), ("log-power", "frc")])
def test_nothing_is_kept_but_one_half_spectrum_a_loss(specs: tuple[str, ...]) -> None:
    prediction, target = pair((2, 1, 64, 64), dtype=torch.float32)
    terms = terms_of(*specs)
    spectrum = 2 * 64 * 33 * 8
    assert _kept_bytes(lambda: fourier_terms(prediction, target, terms)) == len(terms) * spectrum
    assert _kept_bytes(lambda: plain_terms(prediction, target, terms)) > 1.9 * len(terms) * spectrum


def _peak_bytes(work: Callable[[], object]) -> int:
    """Return the most memory that is live at a time, beyond what there was before."""
    work()
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        work()
    assert profile.profiler is not None
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = peak = 0
    for _, change in changes:
        live += change
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("name", ["log-power", "amplitude", "complex", "frc", "whitened"])
def test_the_peak_of_memory_is_four_half_spectra(name: str) -> None:
    prediction, target = pair((2, 1, 256, 256), dtype=torch.float32)
    terms = terms_of(name)

    def fused() -> None:
        torch.autograd.grad(fourier_terms(prediction, target, terms).sum(), prediction)

    def plain() -> None:
        torch.autograd.grad(plain_terms(prediction, target, terms).sum(), prediction)

    spectrum = 2 * 256 * 129 * 8
    peak = _peak_bytes(fused)
    # Transforming takes three, one of them the library's own.
    assert 3 * spectrum < peak < 4.1 * spectrum
    assert peak < 0.85 * _peak_bytes(plain)


def test_the_processor_and_float64_need_no_kernels() -> None:
    spectrum = torch.zeros(1, 4, 3, dtype=torch.complex64)
    assert _evaluate(spectrum) is evaluate
    assert _evaluate(spectrum.to(torch.complex128)) is evaluate


def test_kernels_that_cannot_run_are_said_aloud_and_replaced() -> None:
    if torch.cuda.is_available():
        pytest.skip("they can run here")
    _cuda_kernels.cache_clear()
    with pytest.warns(KernelFallback, match="Fourier losses are computed without Triton's kernel"):
        assert _cuda_kernels() is None
    _cuda_kernels.cache_clear()


_INTERPRETED = f"""
import torch
from clearice.loss_spec import parse_term
from clearice.losses import bind, fused, kernels

fused._evaluate = lambda spectrum: kernels.evaluate
generator = torch.Generator().manual_seed(0)
for shape in ((2, 1, 34, 32), (1, 2, 7, 9)):
    prediction, target = (torch.randn(shape, generator=generator) for _ in range(2))
    prediction.requires_grad_()
    wide = prediction.detach().double().requires_grad_()
    for specs in [[spec] for spec in {SPECS!r}] + [{MIXED!r}]:
        terms = [parse_term(spec) for spec in specs]
        plain = torch.stack([bind(term).function(wide, target.double()) for term in terms])
        (expected,) = torch.autograd.grad(plain.sum(), wide)
        values = fused.fourier_terms(prediction, target, terms)
        (gradient,) = torch.autograd.grad(values.sum(), prediction)
        watched = fused.fourier_terms(prediction.detach(), target, terms)
        assert torch.equal(watched, values), (shape, specs)
        for one, other in ((values, plain), (gradient, expected)):
            error = (one - other).norm() / other.norm()
            assert error < 3e-5, (shape, specs, float(error))
"""


def test_the_kernels_are_right_in_triton_s_interpreter() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", _INTERPRETED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
