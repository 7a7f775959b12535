"""Trained network + micrograph → denoised micrograph."""

from clearice.denoise.network import Denoiser
from clearice.denoise.run import denoise_dataset, denoise_files
from clearice.denoise.tiles import Tile, plan_tiles, stitch

__all__ = ["Denoiser", "Tile", "denoise_dataset", "denoise_files", "plan_tiles", "stitch"]
