"""Draw the pictures of docs/results from denoised files that the benchmarks leave behind.

Panels of the same field side by side, each levelled at 1/1000 Å and shown between its own 0.5 and
99.5 percentiles.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from clearice.fourier import highpass


def panels(images: dict[str, torch.Tensor], pixel_size_angstrom: float, out: Path) -> None:
    """Write one row of micrographs with their names as a JPEG.

    Args:
        images: (rows, columns) each, by name.
        pixel_size_angstrom: Å/px, for the levelling.
        out: The file.
    """
    figure = Figure(figsize=(3.2 * len(images), 3.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(images)))
    for axis, (name, image) in zip(axes, images.items(), strict=True):
        level = highpass(image.float(), pixel_size_angstrom / 1000)
        low, high = torch.quantile(level.flatten(), torch.tensor([0.005, 0.995])).tolist()
        axis.imshow(level.numpy(), cmap="gray", vmin=low, vmax=high)
        axis.set_title(name, fontsize=10)
        axis.set_axis_off()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130, pil_kwargs={"quality": 82})
