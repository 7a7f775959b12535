"""Results as files: their format and type, and pictures to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Num, UInt8
from torch import Tensor
from torch.nn import functional

from clearice import io
from clearice.denoise.plan import preview_of
from clearice.errors import ConfigError, InputFileError
from clearice.fourier import gaussian_lowpass, highpass
from clearice.types import Micrograph

_TYPES = {"float32": torch.float32, "float16": torch.float16, "int16": torch.int16}
_SUFFIXES = {"mrc": ".mrc", "tiff": ".tif"}
# Of the variance: rounding may take 3 % of the amplitude.
_MOST_ROUNDING = 1e-3
_PREVIEW_PX = 1024
_PREVIEW_SIGMA_PX = 1.0
_WAVES = 3
_CONTRAST = (0.005, 0.995)


@dataclass(frozen=True)
class OutputOptions:
    """What is written of each result.

    Attributes:
        format: Of the file.
        dtype: Of its pixels; TIFF has float32 only.
        previews: Also write a PNG picture.

    Raises:
        ConfigError: The format has no such type.
    """

    format: Literal["mrc", "tiff"] = "mrc"
    dtype: Literal["float32", "float16", "int16"] = "float32"
    previews: bool = False

    def __post_init__(self) -> None:
        if self.format == "tiff" and self.dtype != "float32":
            raise ConfigError(f"--dtype {self.dtype} is for MRC; TIFF results are float32")

    @property
    def suffix(self) -> str:
        """Of the files."""
        return _SUFFIXES[self.format]


def save(
    micrograph: Micrograph,
    denoised: Float[Tensor, "h w"],
    target: Path,
    out: Path,
    options: OutputOptions,
    label: str,
) -> None:
    """Write a denoised micrograph and its preview, each atomically.

    Args:
        micrograph: What was denoised; of MRC files, the header is kept.
        denoised: The result.
        target: The file to write, somewhere below `out`.
        out: Folder of the results.
        options: What is written.
        label: Line for the file's header.

    Raises:
        InputFileError: The type cannot hold the result.
        OutputError: A file cannot be written.
    """
    pixels = as_type(denoised, options.dtype, micrograph.path)
    known = None if micrograph.pixel_size_assumed else micrograph.pixel_size_angstrom
    if options.format == "tiff":
        io.write_tiff(target, pixels, known, label=label)
    else:
        io.write_mrc(target, pixels, known, dtype=options.dtype, like=micrograph.path, label=label)
    preview = preview_of(target, out)
    if options.previews:
        io.write_png(preview, picture(pixels.float()))
    else:
        # One of an earlier result would show what is no longer there.
        preview.unlink(missing_ok=True)


def as_type(pixels: Float[Tensor, "h w"], dtype: str, source: Path) -> Num[Tensor, "h w"]:
    """Return pixels in another type, never rescaled.

    Args:
        pixels: Intensities, float32.
        dtype: `float32`, `float16` or `int16`.
        source: The micrograph, for the message.

    Raises:
        InputFileError: They do not fit, or rounding would cost more than 3 % of their amplitude.
    """
    if dtype == "float32":
        return pixels
    kind = _TYPES[dtype]
    limits = torch.finfo(kind) if kind.is_floating_point else torch.iinfo(kind)
    least, most = (float(value) for value in pixels.aminmax())
    if least < limits.min or most > limits.max:
        problem = f"has denoised values from {least:g} to {most:g}, which do not fit {dtype}"
        raise InputFileError(source, problem, "use --dtype float32")
    rounded = (pixels if kind.is_floating_point else pixels.round()).to(kind)
    spread = float(pixels.std(correction=0))
    if float((rounded.float() - pixels).square().mean()) > _MOST_ROUNDING * spread**2:
        problem = f"varies by σ = {spread:.3g} once denoised, too little to be rounded to {dtype}"
        raise InputFileError(source, problem, "use --dtype float32")
    return rounded


def picture(image: Float[Tensor, "h w"]) -> UInt8[Tensor, "ph pw"]:
    """Return a picture of at most 1024 px: averaged, lightly smoothed, stretched to 0.5–99.5 %.

    Waves longer than a third of the image, as those of uneven ice, are damped, or they would take
    up all of the contrast.
    """
    factor = -(-max(image.shape) // _PREVIEW_PX)
    kernel = [min(factor, length) for length in image.shape]
    small = functional.avg_pool2d(image[None, None], kernel)[0, 0]
    smooth = gaussian_lowpass(_mirrored(small), _PREVIEW_SIGMA_PX)
    smooth = highpass(smooth, _WAVES / max(small.shape))[: small.shape[0], : small.shape[1]]
    low, high = torch.quantile(smooth, torch.tensor(_CONTRAST).to(smooth))
    span = (high - low).clamp(min=torch.finfo(smooth.dtype).tiny)
    return (255 * (smooth - low) / span).clamp(0, 255).round().to(torch.uint8)


def _mirrored(image: Float[Tensor, "h w"]) -> Float[Tensor, "2h 2w"]:
    """Continue an image beyond its edges, so that filters see no jump from one to the other."""
    wide = torch.cat([image, image.flip(1)], 1)
    return torch.cat([wide, wide.flip(0)], 0)
