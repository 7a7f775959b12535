"""Crops of micrographs as JPEG inside the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from clearice.errors import InputFileError
from clearice.fourier import gaussian_lowpass, highpass, radial_filter
from clearice.io import read_micrograph

CROP_PX = 512
DETAIL_PX = 256
_LEVELING_ANGSTROM = 1000.0
_WIDEST = 1100


def crops(
    files: dict[str, str | None], sigma_px: float | None, edge_px: int = CROP_PX
) -> tuple[dict[str, str], float]:
    """Return data URIs of the same central crop of each version, and the crop's edge in Å.

    Ice gradients slower than 1000 Å are levelled, and each picture gets the contrast of its own 0.5
    to 99.5 percentiles.

    Args:
        files: Path of each version (`raw`, `denoised`, `truth`), or None.
        sigma_px: Of the Gaussian to show beside them.
        edge_px: Of the crops, at most.
    """
    pictures: dict[str, str] = {}
    edge = 0.0
    for role in ("raw", "denoised", "truth"):
        path = files.get(role)
        if path is None or not Path(path).is_file():
            continue
        micrograph = read_micrograph(Path(path))
        pixels = highpass(micrograph.pixels, micrograph.pixel_size_angstrom / _LEVELING_ANGSTROM)
        pictures[role] = jpeg(central_crop(pixels, edge_px))
        edge = min(edge_px, *pixels.shape) * micrograph.pixel_size_angstrom
        if role == "raw" and sigma_px is not None:
            smooth = central_crop(gaussian_lowpass(pixels, sigma_px), edge_px)
            pictures["gaussian_best"] = jpeg(smooth)
    return pictures, edge


def levelled_crop(
    pixels: Float[Tensor, "h w"], pixel_size_angstrom: float
) -> Float[Tensor, "ch cw"]:
    """Return the middle of a micrograph without ice gradients slower than 1000 Å."""
    return central_crop(highpass(pixels, pixel_size_angstrom / _LEVELING_ANGSTROM))


def detail_crop(
    pixels: Float[Tensor, "h w"], pixel_size_angstrom: float, low: float, high: float
) -> Float[Tensor, "ch cw"]:
    """Return a small crop from the middle with what lies between the resolutions `low` > `high`, Å.

    It is small so that single details can be seen.
    """

    def response(frequency: Tensor) -> Tensor:
        resolution = pixel_size_angstrom / frequency
        return ((resolution <= low) & (resolution > high)).to(pixels)

    return central_crop(radial_filter(pixels, response), DETAIL_PX)


def central_crop(image: Float[Tensor, "h w"], edge: int = CROP_PX) -> Float[Tensor, "ch cw"]:
    """Return the middle of an image, at most `edge` px wide and high."""
    height, width = (min(edge, length) for length in image.shape)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def grey_levels(image: Float[Tensor, "h w"]) -> tuple[float, float]:
    """Return the 0.5 and 99.5 percentiles of an image."""
    low, high = torch.quantile(image.float().flatten(), torch.tensor([0.005, 0.995])).tolist()
    return low, high


def picture_uri(path: Path, part: tuple[int, int] = (0, 1), gap_px: int = 0) -> str:
    """Return a picture of results as a JPEG data URI, at most 1100 px wide.

    Args:
        path: The picture.
        part: Which of how many panels of equal width.
        gap_px: At the right of each panel.

    Raises:
        InputFileError: It is damaged.
    """
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB" if picture.mode != "L" else "L")
    except (OSError, ValueError, SyntaxError):
        raise InputFileError(path, "is no picture or is damaged", "make it again") from None
    place, count = part
    width = small.width // count
    small = small.crop((place * width, 0, (place + 1) * width - gap_px, small.height))
    if small.width > _WIDEST:
        height = max(1, round(small.height * _WIDEST / small.width))
        small = small.resize((_WIDEST, height), Image.Resampling.LANCZOS)
    return _as_uri(small)


def _as_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def jpeg(image: Float[Tensor, "h w"], levels: tuple[float, float] | None = None) -> str:
    """Return an image as an 8-bit JPEG data URI: noise makes a PNG three times as large.

    Args:
        image: What to show.
        levels: What is shown black and white; None: its own 0.5 and 99.5 percentiles.
    """
    values = image.float()
    low, high = levels or grey_levels(values)
    scaled = ((values - low) / max(high - low, 1e-12)).clamp(0, 1) * 255
    return _as_uri(Image.fromarray(scaled.numpy().astype(np.uint8)))
