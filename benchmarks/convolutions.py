"""What 3×3 convolutions of few channels cost on a GPU: PyTorch's, the fused ones, and what memory
would allow.

For each shape: convolution with bias and ReLU, its gradient in the input behind the ReLU before it,
and its gradients in weights and bias, of 4 images, in bfloat16, channels-last. The bound is the
bytes that must be moved over the speed of a large copy in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clearice import io
from clearice.benchmark.timing import context, seconds

IMAGES = 4
# (channels in, channels out, edge of the image, px)
SHAPES = [
    (1, 16, 1024),
    (16, 16, 1024),
    (16, 1, 1024),
    (1, 32, 1024),
    (32, 32, 1024),
    (32, 1, 1024),
    (4, 32, 512),
    (32, 32, 512),
    (32, 4, 512),
    (64, 64, 256),
    (96, 96, 128),
    (128, 128, 128),
]
FUSED_WIDTHS = (16, 32)


def image(channels: int, edge: int) -> Tensor:
    """Return noise, channels-last."""
    x = torch.randn(IMAGES, channels, edge, edge, device="cuda", dtype=torch.bfloat16)
    return x.to(memory_format=torch.channels_last)


def plain_work(ci: int, co: int, edge: int) -> dict[str, Callable[[], Any]]:
    """Return the three operations as PyTorch does them."""
    x, dy, k = image(ci, edge), image(co, edge), torch.randn(co, ci, 3, 3, device="cuda").bfloat16()
    k = k.to(memory_format=torch.channels_last)
    bias = torch.randn(co, device="cuda", dtype=torch.bfloat16)

    def backward(*wanted: bool) -> Any:
        arguments = ([co], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, list(wanted))
        return torch.ops.aten.convolution_backward(dy, x, k, *arguments)

    return {
        "forward": lambda: functional.conv2d(x, k, bias, padding=1).relu_(),
        "input": lambda: torch.where(x > 0, backward(True, False, False)[0], 0),
        "weights": lambda: backward(False, True, True),
    }


def fused_work(ci: int, co: int, edge: int) -> dict[str, Callable[[], Any]]:
    """Return the three operations as the fused kernels do them."""
    from clearice.networks import conv_kernels as kernels

    x, dy, bias = image(ci, edge), image(co, edge), torch.randn(co, device="cuda")
    taps = torch.randn(3, 3, ci, co, device="cuda", dtype=torch.bfloat16)
    back = taps.transpose(2, 3).contiguous()
    if ci == 1:
        return {
            "forward": lambda: kernels.expand(x, taps, bias, act="relu"),
            "weights": lambda: kernels.thin_weights(x, dy, 1),
        }
    matrices = kernels.pair_matrices(taps)
    work: dict[str, Callable[[], Any]] = {
        "forward": lambda: kernels.thick(x, matrices, co, bias, act="relu")
    }
    if co == 1:
        return work | {
            "input": lambda: kernels.expand(dy, back, None, gate=x, gate_act="relu"),
            "weights": lambda: (kernels.thin_weights(dy, x, -1), dy.sum()),
        }
    adjoint = kernels.pair_matrices(back)
    return work | {
        "input": lambda: kernels.thick(dy, adjoint, ci, None, gate=x, gate_act="relu"),
        "weights": lambda: kernels.thick_weights(x, dy),
    }


def copy_speed() -> float:
    """Return bytes a second, read and written."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), source.device)


def measure(ci: int, co: int, edge: int, bytes_per_second: float) -> dict[str, Any]:
    """Return the milliseconds of one shape."""
    pixels, device = IMAGES * edge**2, torch.device("cuda")
    moved = {"forward": ci + co, "input": 2 * ci + co, "weights": ci + co}
    row: dict[str, Any] = {"channels": [ci, co], "edge": edge}
    row["bound_ms"] = {k: 1e3 * 2 * v * pixels / bytes_per_second for k, v in moved.items()}
    ways = {"pytorch_ms": plain_work(ci, co, edge)}
    if max(ci, co) in FUSED_WIDTHS:
        ways["fused_ms"] = fused_work(ci, co, edge)
    for way, work in ways.items():
        row[way] = {name: 1e3 * seconds(call, device, 0.2) for name, call in work.items()}
    return {
        k: {n: round(ms, 4) for n, ms in v.items()} if "_ms" in k else v for k, v in row.items()
    }


def main() -> None:
    """Measure all shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU to measure")
    speed = copy_speed()
    rows = [measure(*shape, speed) for shape in SHAPES]
    for row in rows:
        print(row)
    about = {"context": context(torch.device("cuda")), "copy_bytes_per_second": round(speed)}
    io.ensure_folder(arguments.out.parent)
    io.write_json(arguments.out, {**about, "images": IMAGES, "rows": rows})


if __name__ == "__main__":
    main()
