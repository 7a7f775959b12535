"""Denoise a folder of MRC files with Topaz-Denoise's pretrained weights, by Topaz's own code.

Run it with the Python of an environment that has topaz-em (0.3.20; GPL, so no part of clearice),
for `clearice benchmark quality --denoised topaz=OUT`. Topaz's command ignores its `--model` there,
so the model is loaded here. Nothing of clearice is imported.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mrcfile
import torch


def main() -> None:
    """Denoise every file of a folder, whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="folder of MRC files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--model", default="unet", help="a name that Topaz knows: unet, unet-v0.2.1"
    )
    parser.add_argument("--cuda", action="store_true")
    arguments = parser.parse_args()
    from topaz.denoise import Denoise

    denoiser = Denoise(arguments.model, use_cuda=arguments.cuda)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(arguments.raw.glob("*.mrc")):
        with mrcfile.open(path) as file:
            pixels, voxel = file.data.astype("float32"), file.voxel_size
        with torch.no_grad():
            result = denoiser.denoise(pixels)
        with mrcfile.new(arguments.out / path.name, result, overwrite=True) as file:
            file.voxel_size = voxel


if __name__ == "__main__":
    main()
