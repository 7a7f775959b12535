"""Gradients of a batch, all at once or piece by piece, as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearice.config import TrainConfig
from clearice.errors import ConfigError
from clearice.losses import Objective
from clearice.networks import inputs_of
from clearice.train.masking import counted
from clearice.types import LossOutput, PatchBatch

_HALF: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def backward(
    network: nn.Module,
    objective: Objective,
    batch: PatchBatch,
    config: TrainConfig,
    factors: Float[Tensor, "terms"],
    scale: Float[Tensor, ""] | None,
    pieces: int = 1,
) -> LossOutput:
    """Add a batch's gradient to those of the parameters.

    Args:
        network: In training mode.
        objective: The loss.
        batch: Pairs.
        config: Precision.
        factors: Weight of each loss.
        scale: Factor on the loss whose gradient is taken, if any.
        pieces: How many parts the batch is worked on in, one after the other; the gradient is the
            same, and so are the numbers up to rounding.

    Returns:
        The losses of the whole batch, without `scale` and without their graph.
    """
    means: list[Tensor] = []
    for piece in _pieces(batch, pieces):
        with autocast(batch.input.device, config):
            prediction = counted(network(*inputs_of(network, piece.input, piece.dose)), piece)
        output = objective(
            prediction, piece.target, piece.weight, halves=piece.target_halves, factors=factors
        )
        share = len(piece.input) / len(batch.input)
        total = output.total * share if scale is None else output.total * (scale * share)
        # What is computed again in between must not count twice in running statistics.
        again = config.recompute_activations
        statistics = [(b, b.clone()) for b in network.buffers()] if again else []
        total.backward()  # type: ignore[no-untyped-call]
        for buffer, once in statistics:
            buffer.copy_(once)
        values = [output.total.detach(), *output.parts.values(), *output.weighted.values()]
        means.append(torch.stack(values) * share)
    total, *rest = torch.stack(means).sum(0).unbind()
    names = list(objective.weights)
    parts, weighted = rest[: len(names)], rest[len(names) :]
    return LossOutput(
        total, dict(zip(names, parts, strict=True)), dict(zip(names, weighted, strict=True))
    )


def autocast(device: torch.device, config: TrainConfig) -> torch.autocast:
    """Return the context in which the network computes in the precision of a configuration."""
    half = _HALF.get(config.precision)
    return torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None)


def _pieces(batch: PatchBatch, count: int) -> Iterator[PatchBatch]:
    """Cut a batch into so many parts, or into single pairs if it has fewer."""
    count = min(count, len(batch.input))
    cut = {k: v.tensor_split(count) for k, v in vars(batch).items() if v is not None}
    for index in range(count):
        yield replace(batch, **{name: parts[index] for name, parts in cut.items()})


@final
class Memory:
    """Knows in how many pieces a batch fits, and learns it where it does not.

    Args:
        pieces: To begin with.
        say: Called with one line when there are more.
    """

    def __init__(self, pieces: int = 1, say: Callable[[str], None] = lambda message: None) -> None:
        self.pieces = pieces
        self._say = say

    def fit(self, network: nn.Module, size: int, work: Callable[[int], LossOutput]) -> LossOutput:
        """Do a batch's work in as many pieces as before, or in twice as many until it fits.

        Args:
            network: Whose gradients the work adds to.
            size: Pairs in the batch.
            work: From a number of pieces.

        Raises:
            ConfigError: Not even a single pair fits.
        """
        while True:
            try:
                return work(self.pieces)
            except torch.OutOfMemoryError:
                if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                    raise
            # Only here are the tensors of the failed attempt given up.
            network.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self._cut(size)

    def _cut(self, size: int) -> None:
        if self.pieces >= size:
            raise ConfigError(
                "the GPU's memory does not hold a training step with a single patch; use a "
                "smaller --patch-size or --network, --recompute-activations, or --precision "
                "bfloat16"
            )
        self.pieces = min(2 * self.pieces, size)
        self._say(
            f"out of memory: each batch of {size} patches is now worked on in {self.pieces} "
            f"pieces (--accumulate {self.pieces} does so from the start); the result is the same"
        )
