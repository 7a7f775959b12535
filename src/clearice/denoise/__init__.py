"""Trained network + micrograph → denoised micrograph."""

from clearice.denoise.dataset import denoise_dataset
from clearice.denoise.depth import CROP_PX
from clearice.denoise.lists import DENOISED_NAME, PAIRS_NAME, write_raw_picks
from clearice.denoise.network import Denoiser, Recipe
from clearice.denoise.outputs import OutputOptions
from clearice.denoise.pairs import denoise_pairs
from clearice.denoise.plan import output_name, preview_of, walk_micrographs
from clearice.denoise.records import Record, describe_run, read_records
from clearice.denoise.run import denoise_files
from clearice.denoise.tiles import Tile, plan_tiles, stitch

__all__ = [
    "CROP_PX",
    "DENOISED_NAME",
    "PAIRS_NAME",
    "Denoiser",
    "OutputOptions",
    "Recipe",
    "Record",
    "Tile",
    "denoise_dataset",
    "denoise_files",
    "denoise_pairs",
    "describe_run",
    "output_name",
    "plan_tiles",
    "preview_of",
    "read_records",
    "stitch",
    "walk_micrographs",
    "write_raw_picks",
]
