"""Denoise the micrographs of a data set; one damaged stack never stops the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.data import Affine, Dataset, MicrographEntry, Split, dose_weighted_mean, open_dataset
from clearice.denoise.batch import Batch, Progress, Say, ignore
from clearice.denoise.network import Denoiser
from clearice.denoise.parts import PARTS, part_job, save_parts
from clearice.denoise.plan import Job, Source
from clearice.denoise.work import Loaded
from clearice.errors import DatasetError
from clearice.types import Micrograph

_NORMALISED = Affine(0.0, 1.0)


def denoise_dataset(
    folder: Path,
    denoiser: Denoiser,
    out: Path,
    split: Split,
    *,
    halves: bool = False,
    progress: Progress = ignore,
    say: Say = ignore,
    settings: Mapping[str, Any] | None = None,
    devices: Sequence[torch.device] = (),
    force: bool = False,
) -> list[Path]:
    """Denoise the full-dose micrographs of a data set (the inputs, where doses differ).

    Args:
        folder: The data set.
        denoiser: The model.
        out: Folder for `denoised/` and `raw/`.
        split: Which micrographs.
        halves: Also the even and odd halves, into `denoised_even/`, `raw_even/` and so on.
        progress: Called with (micrographs done, micrographs in all).
        say: Called with one line for each thing that the user should know.
        settings: Of `describe_run`, which tell whether an earlier result is current; without them
            all are done again.
        devices: Compute there, a process each, rather than where the denoiser is.
        force: Do all again.

    Returns:
        The denoised full-dose files.

    Raises:
        DatasetError: The data set has no such micrographs, or no exchangeable halves.
        BatchError: Some stacks are missing or damaged; the others were denoised.
    """
    dataset = open_dataset(folder)
    entries = dataset.entries(split)
    if not entries:
        raise DatasetError(f"{folder}: has no {split.value} micrographs; choose another --split")
    exchangeable = dataset.manifest.roles == "exchangeable"
    if halves and not exchangeable:
        single = dataset.manifest.roles == "single"
        why = "it has single micrographs and no halves" if single else "its halves differ in dose"
        raise DatasetError(f"{folder}: {why}; denoise without --halves")
    parts = PARTS if halves else PARTS[:1]
    jobs = [
        part_job(Source(folder / entry.file, Path(f"{entry.name}.mrc")), out, parts)
        for entry in entries
    ]
    work = StackWork(dataset, parts, exchangeable, denoiser.label)
    if settings is not None:
        settings = {**settings, "parts": list(parts)}
    batch = Batch(jobs, work, out, settings, say, force=force)
    results = batch.run(denoiser, progress, devices)
    batch.raise_failures()
    return results


@final
@dataclass(frozen=True)
class StackWork:
    """A micrograph from a stack of a data set to a file for each part, raw and denoised.

    Attributes:
        dataset: The data set.
        parts: `""` for the full dose, `_even`, `_odd`.
        exchangeable: All groups make up the full dose; otherwise the first is the input.
        label: What was done, for the files' headers.
    """

    dataset: Dataset
    parts: tuple[str, ...]
    exchangeable: bool
    label: str

    @cached_property
    def _entries(self) -> dict[Path, MicrographEntry]:
        return {self.dataset.folder / e.file: e for e in self.dataset.manifest.micrographs}

    def load(self, job: Job) -> Loaded:
        """Read the stack, and average the groups of each part."""
        dataset, entry = self.dataset, self._entries[job.source.path]
        stack = dataset.stack(entry).float()
        groups = entry.shape[0]
        members = {
            "": range(groups if self.exchangeable else 1),
            "_even": range(0, groups, 2),
            "_odd": range(1, groups, 2),
        }
        weights = {part: [entry.weights[i] for i in members[part]] for part in self.parts}
        images = torch.stack(
            [dose_weighted_mean(stack[list(members[p])], weights[p]) for p in self.parts]
        )
        size = dataset.manifest.pixel_size_angstrom
        micrograph = Micrograph(job.source.path, torch.empty(0, 0), size)
        shares = tuple(sum(weights[part]) if part else 1.0 for part in self.parts)
        back = Affine(entry.mean, entry.std)
        return Loaded(micrograph, images, shares, _NORMALISED, images, back)

    def save(self, job: Job, loaded: Loaded, denoised: Float[Tensor, "k h w"]) -> None:
        """Write the raw and the denoised image of each part."""
        save_parts(job, loaded, denoised, self.parts, self.label)
