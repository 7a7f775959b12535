"""Point groups from a few of their rotations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def closed_group(turns: Sequence[Float[Tensor, "3 3"]]) -> Float[Tensor, "n 3 3"]:
    """Return all products of some rotations, the identity first.

    Args:
        turns: In float64; they must generate a finite group.
    """
    found = [torch.eye(3, dtype=torch.float64)]
    for rotation in found:  # grows as it goes
        for turn in turns:
            product = turn @ rotation
            if min(float((product - known).abs().max()) for known in found) > 1e-6:
                found.append(product)
    return torch.stack(found).float()


def icosahedral_turns() -> list[Float[Tensor, "3 3"]]:
    """Return a five-fold and a two-fold rotation of an icosahedron."""
    golden = (1 + 5**0.5) / 2
    axis = torch.tensor([0.0, 1.0, golden], dtype=torch.float64)
    axis = axis / axis.norm()
    cross = torch.linalg.cross(torch.eye(3, dtype=torch.float64), axis.expand(3, 3)).T
    five = torch.matrix_exp(2 * torch.pi / 5 * cross)
    return [five, torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))]
