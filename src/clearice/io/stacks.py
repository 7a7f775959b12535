"""Windows of stacks that are mapped from disk."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor


def copy_crop(
    stack: Float[Tensor, "k rows columns"], row: int, column: int, out: Float[Tensor, "k h w"]
) -> None:
    """Copy a window of every section, by one thread and without holding the interpreter's lock.

    PyTorch's own copy would start its team of threads in each thread that reads.

    Args:
        stack: On the CPU; may be mapped from disk.
        row: First row of the window, px.
        column: First column of the window, px.
        out: Where the window goes; its shape says how large it is.
    """
    height, width = out.shape[-2:]
    np.copyto(out.numpy(), stack.numpy()[:, row : row + height, column : column + width])
