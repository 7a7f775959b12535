"""Draw the picture of docs/results/apoferritin.md from what its benchmark leaves behind.

Panels of the same field side by side, each levelled at 1/1000 Å and shown between its own 0.5 and
99.5 percentiles.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from clearice.fourier import gaussian_lowpass, highpass
from clearice.io import read_micrograph

CROP = slice(340, 860)


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


def _read(path: Path) -> torch.Tensor:
    return read_micrograph(path).pixels[CROP, CROP]


def main() -> None:
    """Draw it from the work folder of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="that of apoferritin.py")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    data = Path(os.environ["CLEARICE_TEST_DATA"]) / "apoferritin"
    name = "May08_03.05.02"
    frame = _read(data / f"{name}_frame.mrc")
    images = {
        "one frame (input)": frame,
        "best Gaussian, σ = 5.5 px": gaussian_lowpass(frame, 5.5),
        "clearice": _read(arguments.work / "unet-0" / "denoised" / f"{name}_frame.mrc"),
        "other 49 frames (reference)": _read(data / f"{name}_rest.mrc"),
    }
    panels(images, 1.5, arguments.out / "apoferritin.jpg")


if __name__ == "__main__":
    main()
