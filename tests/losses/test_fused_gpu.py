"""The fused Fourier losses on a GPU: the plain numbers, few kernels, no waiting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clearice.losses import fused_torch
from clearice.losses.fused import _cuda_kernels, fourier_terms
from clearice.losses.fused_plan import plan_for
from clearice.losses.spectrum import bin_shares, rings_of
from fused_cases import MIXED, SPECS, compared, pair, plain_terms, relative_error, terms_of

pytestmark = pytest.mark.gpu

_CASES = [(spec,) for spec in SPECS] + [("log-power", "frc"), MIXED]
_SHAPES = [(4, 1, 1024, 1024), (1, 1, 512, 512), (3, 2, 65, 63)]


def _on_gpu(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    prediction, target = pair(shape, dtype=dtype)
    return prediction.detach().cuda().requires_grad_(), target.cuda()


@pytest.mark.parametrize("specs", _CASES)
@pytest.mark.parametrize("shape", _SHAPES)
def test_kernels_do_what_pytorch_does(specs: tuple[str, ...], shape: tuple[int, ...]) -> None:
    from clearice.losses import kernels

    prediction, target = (image.detach().flatten(0, 1) for image in _on_gpu(shape))
    plan = plan_for(terms_of(*specs), (shape[-2], shape[-1]), target.device, target.dtype)
    spectra = torch.fft.rfft2(prediction), torch.fft.rfft2(target)
    copies = spectra[0].clone(), spectra[1].clone()
    expected = fused_torch.evaluate(*copies, plan, with_gradients=True)
    alone = kernels.evaluate(*spectra, plan, with_gradients=False)
    found = kernels.evaluate(*spectra, plan, with_gradients=True)
    assert torch.equal(alone[0], found[0])
    assert alone[1].numel() == 0
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-7)
    for gradient, other in zip(found[1], expected[1], strict=True):
        assert relative_error(torch.view_as_real(gradient), torch.view_as_real(other)) < 1e-5


@pytest.mark.parametrize("specs", _CASES)
@pytest.mark.parametrize("shape", _SHAPES)
def test_a_gpu_gives_the_plain_numbers(specs: tuple[str, ...], shape: tuple[int, ...]) -> None:
    prediction, target = _on_gpu(shape)
    reference = prediction.detach().double().requires_grad_()
    fused, exact = compared(prediction, target, specs, reference)
    assert _cuda_kernels() is not None
    assert relative_error(fused[0], exact[0]) < 1e-5
    # Their gradient goes with 1/amplitude: float32 itself is off by up to 3e-4 in so many bins.
    steep = any(spec.startswith(("log-power", "phase")) for spec in specs)
    assert relative_error(fused[1], exact[1]) < (2e-3 if steep else 1e-5)
    again = fourier_terms(prediction, target, terms_of(*specs))
    assert torch.equal(again, fused[0])


def test_a_gpu_takes_float64_through_pytorch() -> None:
    prediction, target = _on_gpu((2, 1, 65, 64), torch.float64)
    fused, plain = compared(prediction, target, MIXED)
    torch.testing.assert_close(fused, plain, rtol=1e-8, atol=1e-10)


def _work_on_gpu(specs: tuple[str, ...]) -> Callable[[], object]:
    prediction, target = _on_gpu((4, 1, 1024, 1024))
    terms = terms_of(*specs)
    ones = torch.ones(len(terms), 4, device="cuda")

    def work() -> object:
        return torch.autograd.grad(fourier_terms(prediction, target, terms), prediction, ones)

    work()
    return work


@pytest.mark.parametrize(
    ("specs", "most"), [(("log-power",), 12), (("frc",), 16), (("log-power", "frc"), 18)]
)
def test_few_kernels_are_launched(specs: tuple[str, ...], most: int) -> None:
    work = _work_on_gpu(specs)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    kernels = [e.name for e in profile.events() if "CUDA" in str(e.device_type)]
    assert 4 < len(kernels) <= most, kernels


@pytest.mark.parametrize("specs", [("log-power",), ("frc",), MIXED])
def test_the_host_never_waits_for_the_gpu(specs: tuple[str, ...]) -> None:
    work = _work_on_gpu(specs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("specs", [("log-power",), MIXED])
def test_a_captured_graph_outlives_the_caches(specs: tuple[str, ...]) -> None:
    prediction, target = _on_gpu((2, 1, 128, 96))
    terms = terms_of(*specs)

    def work() -> tuple[Tensor, Tensor]:
        values = fourier_terms(prediction, target, terms)
        return values, torch.autograd.grad(values.sum(), prediction)[0]

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = work()
    plan_for.cache_clear()
    rings_of.cache_clear()
    bin_shares.cache_clear()
    overwritten = [torch.full((2**20,), torch.nan, device="cuda") for _ in range(16)]
    with torch.no_grad():
        prediction.copy_(torch.randn_like(prediction))
    graph.replay()
    torch.testing.assert_close(held, work(), rtol=1e-6, atol=1e-9)
    assert len(overwritten) == 16


@pytest.mark.parametrize("name", ["log-power", "frc"])
def test_memory_of_a_gpu_stays_below_that_of_the_plain_form(name: str) -> None:
    prediction, target = _on_gpu((4, 1, 1024, 1024))
    terms = terms_of(name)

    def peak(form: Callable[..., Tensor]) -> int:
        torch.autograd.grad(form(prediction, target, terms).sum(), prediction)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(form(prediction, target, terms).sum(), prediction)
        return torch.cuda.max_memory_allocated() - before

    assert peak(fourier_terms) < peak(plain_terms)
