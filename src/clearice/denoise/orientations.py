"""A network's result averaged over the eight ways in which an image can be turned and mirrored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

Work = Callable[[Float[Tensor, "h w"]], Float[Tensor, "h w"]]
COUNT: Final = 8


def averaged(image: Float[Tensor, "h w"], work: Work) -> Float[Tensor, "h w"]:
    """Return the mean of what `work` makes of all orientations, each turned back.

    A specimen has no preferred direction and a network that was trained on crops has next to none,
    so the eight results differ by their errors, which averaging lowers.

    Args:
        image: Of any shape; work sees (h, w) and (w, h), so multiples of a stride stay such.
        work: Keeps the shape of what it is given.
    """
    total: Tensor | None = None
    for mirrored in (False, True):
        source = image.flip(1) if mirrored else image
        for turns in range(4):
            result = torch.rot90(work(torch.rot90(source, turns).contiguous()), -turns)
            result = result.flip(1) if mirrored else result
            total = result.clone() if total is None else total.add_(result)
    assert total is not None
    return total.div_(COUNT)
