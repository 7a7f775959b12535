"""Which steps are taken: decided on the device, which nobody waits for."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Of the loss in float16: the largest power of two that float16 holds is 2¹⁵, and what a loss of
# about 1 gives each of many pixels is far below 1.
_FIRST_SCALE = 2.0**16
_LOWEST_SCALE = 2.0**-14
_GROW_AFTER = 2000

# What is saved of a guard.
_SAVED = ("scale", "steady", "skipped", "in_a_row", "longest")


@final
class Guard:
    """Leaves out steps whose loss or gradient is not finite, and counts them.

    In float16 the loss is multiplied before its gradient is taken, since small gradients would be
    lost. A gradient that is then too large halves the factor; 2,000 good steps in a row double it.
    All of it stays on the device, so that a CUDA graph can hold it.

    Source: Micikevicius et al., Mixed Precision Training, ICLR 2018; the constants are those of
    `torch.amp.GradScaler`, which waits for the device in each step.

    Args:
        device: Of the network.
        scaled: Whether the loss is scaled.

    Attributes:
        scale: Factor on the loss; 1 without scaling.
        skip: 1 if the last step was left out, else 0.
        skipped: Steps left out in all.
        in_a_row: Steps left out since the last one that was taken.
        longest: The largest value of `in_a_row` so far.
    """

    def __init__(self, device: torch.device, *, scaled: bool) -> None:
        self.scaled = scaled
        self.scale = torch.full((), _FIRST_SCALE if scaled else 1.0, device=device)
        self.skip = torch.zeros((), device=device)
        self.steady = torch.zeros((), dtype=torch.int32, device=device)
        self.skipped = torch.zeros_like(self.steady)
        self.in_a_row = torch.zeros_like(self.steady)
        self.longest = torch.zeros_like(self.steady)

    @torch.no_grad()
    def judge(self, finite: Bool[Tensor, ""]) -> Float[Tensor, ""]:
        """Count a step, adapt the scale for the next one, and return `skip`."""
        bad = ~finite
        self.skip.copy_(bad)
        self.skipped.add_(bad)
        self.in_a_row.add_(1).mul_(bad)
        self.longest.copy_(torch.maximum(self.longest, self.in_a_row))
        if self.scaled:
            self.steady.add_(1).mul_(finite)
            grow = self.steady == _GROW_AFTER
            self.steady.mul_(~grow)
            self.scale.mul_(torch.where(grow, 2.0, 1.0)).mul_(torch.where(bad, 0.5, 1.0))
            self.scale.clamp_(min=_LOWEST_SCALE)
        return self.skip

    def tensors(self) -> dict[str, Tensor]:
        """Return what must be saved."""
        return {name: getattr(self, name) for name in _SAVED}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Take over what was saved."""
        for name, value in self.tensors().items():
            value.copy_(saved[name])
