"""A network with all that surrounds it, as one graph for images of any size."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram


@final
class Portable(nn.Module):
    """Mirrors images up to the network's stride, denoises them, and crops them again.

    Unlike `networks.pad_to_multiple` it asks nothing of the size while it is traced. Each image of
    a batch is a whole micrograph.

    Args:
        network: Folded, in evaluation mode.
        gain: Factor from its output to the scale of its input.
        normalise: Intensities in, intensities out; else normalised images, in and out.
    """

    def __init__(self, network: nn.Module, gain: float, *, normalise: bool) -> None:
        super().__init__()
        self.network = network
        self.gain = gain
        self.normalise = normalise
        self.stride: int = network.total_stride  # type: ignore[assignment]

    def forward(self, image: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        """Denoise images of at least twice the stride, px."""
        if not self.normalise:
            return self._denoised(image)
        wide = image.double()  # sums of many pixels far from 0
        mean = wide.mean((-2, -1), keepdim=True).to(image)
        std = wide.std((-2, -1), correction=0, keepdim=True).to(image)
        return self._denoised((image - mean) / std) * std + mean

    def _denoised(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return self.network(x) * self.gain
        height, width = x.shape[-2:]
        padded = _taken(x, self._mirrored(height, x.device), self._mirrored(width, x.device))
        y = self.network(padded) * self.gain
        # A slice would be a view, whose strides tie the graph to the size it is traced with.
        return _taken(
            y, torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        )

    def _mirrored(self, length: int, device: torch.device) -> Tensor:
        """Return which row stands at each place, up to a multiple of the stride."""
        blocks = (length + self.stride - 1) // self.stride
        index = torch.arange(self.stride * blocks, device=device)
        return torch.minimum(index, 2 * (length - 1) - index)


def _taken(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return x.index_select(-2, rows).index_select(-1, columns)


def trace(portable: Portable) -> ExportedProgram:
    """Return its graph, for any batch and any size from twice the stride up.

    Args:
        portable: In evaluation mode, on the CPU.
    """
    # A named size would be refused where the compiler cannot prove what holds for all sizes.
    free = Dim.DYNAMIC(min=2 * portable.stride)
    # None of the sizes is special: no multiple of the stride, and no two are the same.
    example = torch.zeros(2, 1, 3 * portable.stride + 5, 4 * portable.stride + 7)
    shapes = {"image": {0: Dim.DYNAMIC(min=1), 2: free, 3: free}}
    with torch.no_grad():
        program = torch.export.export(portable, (example,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of whoever exports
    return program
