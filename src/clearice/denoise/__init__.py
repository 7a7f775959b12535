"""Trained network + micrograph → denoised micrograph."""

from clearice.denoise.dataset import denoise_dataset
from clearice.denoise.network import Denoiser, Recipe
from clearice.denoise.outputs import OutputOptions
from clearice.denoise.pairs import denoise_pairs
from clearice.denoise.records import describe_run
from clearice.denoise.run import denoise_files
from clearice.denoise.tiles import Tile, plan_tiles, stitch

__all__ = [
    "Denoiser",
    "OutputOptions",
    "Recipe",
    "Tile",
    "denoise_dataset",
    "denoise_files",
    "denoise_pairs",
    "describe_run",
    "plan_tiles",
    "stitch",
]
