"""Draw the picture of docs/results/quality.md: a micrograph of each set, and its truth.

`CLEARICE_TEST_DATA` names the folder that holds `3j9i.pdb.gz`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from clearice.benchmark import quality
from clearice.fourier import gaussian_lowpass

COLUMNS = 3
SHOWN = 4  # of each set: one in which carbon and contamination can be seen well
LOWPASS_ANGSTROM = 6.0


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/quality.jpg"))
    arguments = parser.parse_args()
    kinds = quality.choose_sets()
    rows = -(-len(kinds) // COLUMNS)
    figure = Figure(figsize=(15, 2.75 * rows), layout="constrained")
    axes = figure.subplots(rows, 2 * COLUMNS).flatten()
    for axis in axes:
        axis.set_axis_off()
    for number, kind in enumerate(kinds):
        sample = list(quality.samples(kind, SHOWN + 1))[SHOWN]
        pixel = sample.pixel_size_angstrom
        blurred = gaussian_lowpass(sample.raw, LOWPASS_ANGSTROM / pixel)
        dose = f"{kind.config('test').dose_e_per_A2:g} e/Å², {pixel:g} Å/px"
        for part, (image, title) in enumerate(((blurred, kind.name), (sample.truth, dose))):
            small = torch.nn.functional.avg_pool2d(image[None, None], 2)[0, 0]
            low, high = torch.quantile(small.flatten(), torch.tensor([0.003, 0.997])).tolist()
            axis = axes[2 * number + part]
            axis.imshow(small.numpy(), cmap="gray", vmin=low, vmax=high)
            axis.set_title(title, fontsize=10)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=80, pil_kwargs={"quality": 75})


if __name__ == "__main__":
    main()
