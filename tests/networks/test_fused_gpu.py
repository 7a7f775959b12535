"""Fused convolutions on a GPU: the numbers of PyTorch's, in the precision of what they read."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from clearice.networks import build_network, fused, place
from clearice.networks.blocks import ResidualBlock
from clearice.networks.plain import CNN, CNNOptions

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARICE_FUSED_CONVOLUTIONS", "1")


SIZES = [(2, 70, 90), (1, 8, 16), (3, 33, 5), (4, 256, 256)]


def _rounded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Draw weights that half precision holds exactly, so that only sums are rounded."""
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape) * (0.3 if parameter.ndim == 1 else 0.08)
        parameter.data = drawn.to(dtype).float()
    return module.cuda()


def _errors(module: nn.Module, x: Tensor, dtype: torch.dtype) -> list[float]:
    """Return relative errors of the output and of each gradient."""
    exact = copy.deepcopy(module).double()
    wide, x = x.detach().double().requires_grad_(), x.detach().requires_grad_()
    expected = exact(wide)
    upstream = torch.randn_like(expected).to(dtype)
    expected.backward(upstream.double())
    with torch.autocast("cuda", dtype):
        found = module(x)
    found.backward(upstream.to(found.dtype))
    pairs = [(found, expected), (x.grad, wide.grad)]
    pairs += [
        (a.grad, b.grad) for a, b in zip(module.parameters(), exact.parameters(), strict=True)
    ]
    return [float((a.double() - b).detach().norm() / b.detach().norm()) for a, b in pairs]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [16, 32])
def test_a_block_and_its_gradients(
    width: int, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    block = _rounded(ResidualBlock(width, 0.0), dtype)
    n, height, columns = size
    x = torch.randn(n, width, height, columns).to(dtype).cuda()
    assert fused.half_precision(x, width) == dtype
    errors = _errors(block, x.to(memory_format=torch.channels_last), dtype)
    assert max(errors) < (1e-2 if dtype == torch.bfloat16 else 2e-3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [(2, 16), (3, 16), (5, 32)])
@pytest.mark.parametrize("residual", [False, True])
def test_a_chain_and_its_gradients(
    options: tuple[int, int],
    size: tuple[int, int, int],
    residual: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    dtype = torch.bfloat16
    cnn = _rounded(CNN(CNNOptions(depth=options[0], width=options[1], residual=residual)), dtype)
    n, height, columns = size
    x = torch.randn(n, 1, height, columns).to(dtype).float().cuda()
    errors = _errors(copy.deepcopy(cnn), x, dtype)
    # Where rounding turns a ReLU off or on, gradients jump: PyTorch's are off by 3 to 8 %, too.
    # In a small image it is chance how many do; one of N activations weighs 1/√N.
    monkeypatch.setattr(fused, "half_precision", lambda x, width: None)
    plain = _errors(cnn, x, dtype)
    chance = 4.5 / math.sqrt(options[1] * x.numel())
    assert all(e < 1.5 * before + 5e-3 + chance for e, before in zip(errors, plain, strict=True))


@pytest.mark.parametrize("name", ["cnn3", "rescnn12", "unet", "unet-bn", "cnn7-bn"])
def test_networks_give_what_they_give_without_kernels(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = place(build_network(name), torch.device("cuda")).eval()
    for parameter in network.parameters():
        parameter.data += 0.03 * torch.randn_like(parameter)
    x = torch.randn(2, 1, 96, 130, device="cuda")
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        found = network(x).float()
        monkeypatch.setattr(fused, "half_precision", lambda x, width: None)
        plain = network(x).float()
    exact = network.double()(x.double())
    error, before = (float((y - exact).norm() / exact.norm()) for y in (found, plain))
    assert error < 1.5 * before + 1e-3


def test_kernels_do_not_depend_on_timing() -> None:
    torch.manual_seed(0)
    block = _rounded(ResidualBlock(32, 0.0), torch.bfloat16)
    x = torch.randn(4, 32, 200, 200).cuda().bfloat16()
    found = []
    for _ in range(3):
        block.zero_grad()
        y = block(x)
        y.backward(torch.ones_like(y))
        found.append([y.detach(), *[p.grad for p in block.parameters() if p.grad is not None]])
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))


def test_what_kernels_cannot_do_is_left_to_pytorch() -> None:
    x = torch.randn(1, 32, 8, 8, device="cuda")
    assert fused.half_precision(x, 32) is None  # float32
    assert fused.half_precision(x.bfloat16(), 96) is None
    assert fused.half_precision(x.bfloat16().cpu(), 32) is None
    assert fused.half_precision(x.bfloat16(), 64) is None
    assert fused.half_precision(x.bfloat16(), 32) == torch.bfloat16
    with torch.autocast("cuda", torch.float16):
        assert fused.half_precision(x, 32) == torch.float16
