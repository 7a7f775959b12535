"""Pictures of a few held-out patches at each validation: what goes in, comes out, and was meant."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.func import functional_call

from clearice import io
from clearice.config import TrainConfig
from clearice.data import Dataset, GridSampler, PatchLoader, Split
from clearice.fourier import gaussian_lowpass
from clearice.networks import inputs_of
from clearice.train.board import Board
from clearice.train.loop import TrainReport
from clearice.train.state import TrainState
from clearice.types import PatchBatch

# Small patches cost no memory, and single particles can be seen in them.
_EDGE_PX = 256
_GAP_PX = 4
# What is left of a noisy target behind this filter has about the contrast of a denoised one.
_SIGMA_PX = 3.0


def sample_patches(data: Dataset, config: TrainConfig) -> PatchBatch | None:
    """Return the patches to draw, on the CPU, always the same; None if there are no pairs.

    Args:
        data: The data set.
        config: How many, and which target.
    """
    entries = data.entries(Split.VALIDATION) or data.entries(Split.TRAIN)
    shapes = [entry.shape for entry in entries]
    if not config.samples or min(groups for groups, _, _ in shapes) < 2:
        return None
    size = min(_EDGE_PX, config.patch_size)
    grid = GridSampler(shapes, size, config.samples, limit=config.samples)
    clean = config.target == "clean"
    cpu = torch.device("cpu")
    return PatchLoader(data, entries, grid, size, cpu, "stream", clean=clean, workers=0).batch(0)


@final
class Samples:
    """Draws patches as `samples/step-….png`: a row each; input, output and target beside it.

    Grey levels are chosen once, so pictures of different steps can be compared. The levels of the
    output are those of the target behind a low-pass filter.

    Args:
        state: Of the training.
        patches: What to draw.
        folder: Of the pictures.
        board: Where they are shown too.
    """

    def __init__(
        self, state: TrainState, patches: PatchBatch, folder: Path, board: Board | None
    ) -> None:
        self._state, self._folder, self._board = state, io.ensure_folder(folder), board
        device = state.gradient_norms.device
        self._inputs = patches.input.to(device)
        self._targets = patches.target.to(device)
        self._doses = torch.zeros(0) if patches.dose is None else patches.dose.to(device)
        smooth = [gaussian_lowpass(target[0], _SIGMA_PX) for target in self._targets]
        self._levels = [_levels(image) for image in smooth]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="samples")
        self._writing: Future[None] | None = None

    def __call__(self, report: TrainReport) -> None:
        """Draw the present state, and write it beside the training.

        Raises:
            OutputError: The picture before this one could not be written.
        """
        picture = self.picture().cpu()
        before = self._writing
        path = self._folder / f"step-{report.step:09d}.png"
        self._writing = self._pool.submit(io.write_png, path, picture)
        if self._board is not None:
            self._board.picture(report.step, picture)
        if before is not None:
            before.result()

    def close(self) -> None:
        """Wait for the last picture.

        Raises:
            OutputError: It could not be written.
        """
        self._pool.shutdown()
        if self._writing is not None:
            self._writing.result()

    @torch.no_grad()
    def picture(self) -> UInt8[Tensor, "rows columns"]:
        """Return the patches as the averaged weights see them now."""
        network = self._state.network
        network.eval()
        rows = []
        for i, levels in enumerate(self._levels):
            noisy, target = self._inputs[i, 0], self._targets[i, 0]
            dose = self._doses[i : i + 1] if len(self._doses) else None
            inputs = inputs_of(network, noisy[None, None], dose)
            output = functional_call(network, self._state.average, inputs)[0, 0]
            columns = (
                _grey(noisy, *_levels(noisy)),
                _grey(output.float(), *levels),
                _grey(target, *_levels(target)),
            )
            rows.append(_joined(columns, 1))
        network.train()
        return _joined(rows, 0)


def _levels(image: Float[Tensor, "h w"]) -> tuple[float, float]:
    """Return what is drawn black and what white."""
    low, high = torch.quantile(image.flatten(), image.new_tensor([0.005, 0.995])).tolist()
    return low, max(high, low + 1e-6)


def _grey(image: Float[Tensor, "h w"], low: float, high: float) -> UInt8[Tensor, "h w"]:
    return ((image - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8)


def _joined(images: list[Tensor] | tuple[Tensor, ...], dim: int) -> UInt8[Tensor, "h w"]:
    """Put pictures beside each other, with white between them."""
    shape = list(images[0].shape)
    shape[dim] = _GAP_PX
    gap = images[0].new_full(shape, 255)
    return torch.cat([piece for image in images for piece in (gap, image)][1:], dim)
