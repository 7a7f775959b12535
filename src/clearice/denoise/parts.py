"""Micrographs denoised as a whole, to look at, and as halves, to trust."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.denoise.plan import Job, Source
from clearice.denoise.work import Loaded

# The full dose, and its halves.
PARTS: Final = ("", "_even", "_odd")


def part_job(source: Source, out: Path, parts: Sequence[str], partner: Path | None = None) -> Job:
    """Return a job that writes `denoised/NAME` and `raw/NAME`, and the like for each part.

    Args:
        source: What is read; its place among the inputs names the results.
        out: Folder of the results.
        parts: Of `PARTS`.
        partner: The second half.
    """
    name = source.below
    folders = [f"{kind}{part}" for part in parts for kind in ("denoised", "raw")]
    target, *beside = (out / folder / name for folder in folders)
    return Job(source, target, partner, tuple(beside))


def save_parts(
    job: Job, loaded: Loaded, denoised: Float[Tensor, "k h w"], parts: Sequence[str], label: str
) -> None:
    """Write the denoised and the raw image of each part.

    Args:
        job: Made by `part_job` of the same parts.
        loaded: With the raw images.
        denoised: The results, in the same order.
        parts: Of `PARTS`.
        label: What was done, for the headers of denoised images.

    Raises:
        OutputError: A file cannot be written.
    """
    assert loaded.raw is not None
    images = [image for pair in zip(denoised, loaded.raw, strict=True) for image in pair]
    labels = [
        text
        for part in parts
        for text in (
            f"clearice: denoised{part.replace('_', ' ')} ({label})",
            f"clearice: raw{part.replace('_', ' ')}",
        )
    ]
    micrograph = loaded.micrograph
    known = None if micrograph.pixel_size_assumed else micrograph.pixel_size_angstrom
    for path, image, text in zip(job.outputs, images, labels, strict=True):
        pixels = image if loaded.back is None else loaded.back.invert(image)
        io.write_mrc(path, pixels, known, label=text)
