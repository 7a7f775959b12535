"""Denoise ready halves: their mean for the picture, each by itself for trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.denoise.batch import Batch, Progress, Say, ignore
from clearice.denoise.network import Denoiser
from clearice.denoise.parts import PARTS, part_job, save_parts
from clearice.denoise.plan import Job, Source
from clearice.denoise.work import Loaded
from clearice.errors import InputFileError
from clearice.types import Micrograph


def denoise_pairs(
    pairs: Sequence[tuple[str, Path, Path]],
    denoiser: Denoiser,
    out: Path,
    pixel_size_angstrom: float | None = None,
    progress: Progress = ignore,
    say: Say = ignore,
    *,
    settings: Mapping[str, Any] | None = None,
    dose_e_per_A2: float | None = None,
    devices: Sequence[torch.device] = (),
    force: bool = False,
) -> list[Path]:
    """Denoise halves, and their mean, with the normalisation of the mean.

    Written are `denoised/`, `denoised_even/`, `denoised_odd/`, and beside them `raw/` and so on,
    all under the same names, as `evaluate` wants them.

    Args:
        pairs: Name, odd half, even half of each micrograph.
        denoiser: The model.
        out: Folder for the results.
        pixel_size_angstrom: Å/px; overrides headers.
        progress: Called with (micrographs done, micrographs in all).
        say: Called with one line for each thing that the user should know.
        settings: Of `describe_run`, which tell whether an earlier result is current; without them
            all are done again.
        dose_e_per_A2: Of both halves together, e/Å², if it is known.
        devices: Compute there, a process each, rather than where the denoiser is.
        force: Do all again.

    Returns:
        The denoised means.

    Raises:
        OutputError: `out` cannot be written.
        BatchError: Some halves are missing or damaged, or do not fit; the others were denoised.
    """
    jobs = [
        part_job(Source(odd, Path(f"{name}.mrc")), out, PARTS, partner=even)
        for name, odd, even in pairs
    ]
    batch = Batch(
        jobs,
        PairWork(pixel_size_angstrom, denoiser.label),
        out,
        None if settings is None else {**settings, "parts": list(PARTS)},
        say,
        pixel_size_angstrom=pixel_size_angstrom,
        dose_e_per_A2=dose_e_per_A2,
        force=force,
    )
    results = batch.run(denoiser, progress, devices)
    batch.raise_failures()
    return results


@final
@dataclass(frozen=True)
class PairWork:
    """Two halves from a file each to a file for each part, raw and denoised.

    Attributes:
        pixel_size_angstrom: Å/px; overrides headers.
        label: What was done, for the files' headers.
    """

    pixel_size_angstrom: float | None
    label: str

    def load(self, job: Job) -> Loaded:
        """Read both halves and average them."""
        assert job.partner is not None
        odd = io.read_micrograph(job.source.path, self.pixel_size_angstrom)
        even = io.read_micrograph(job.partner, self.pixel_size_angstrom)
        if odd.pixels.shape != even.pixels.shape:
            sizes = [" × ".join(map(str, half.pixels.shape)) for half in (odd, even)]
            raise InputFileError(
                odd.path, f"has {sizes[0]} px, but {even.path} {sizes[1]}", "check the patterns"
            )
        size = odd.pixel_size_angstrom
        micrograph = Micrograph(odd.path, torch.empty(0, 0), size, odd.pixel_size_assumed)
        images = torch.stack([(odd.pixels + even.pixels) / 2, even.pixels, odd.pixels])
        return Loaded(micrograph, images, (1.0, 0.5, 0.5), raw=images)

    def save(self, job: Job, loaded: Loaded, denoised: Float[Tensor, "k h w"]) -> None:
        """Write the raw and the denoised image of each part."""
        save_parts(job, loaded, denoised, PARTS, self.label)
