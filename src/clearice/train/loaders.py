"""The patches of a run: loaders of training and validation micrographs."""

from __future__ import annotations

from typing import Any

import torch

from clearice.config import TrainConfig
from clearice.data import (
    CacheChoice,
    Dataset,
    GridSampler,
    MicrographEntry,
    PatchLoader,
    Sampler,
    Split,
    patches_of,
)
from clearice.errors import DatasetError
from clearice.losses import Objective
from clearice.train.distributed import Ranks
from clearice.train.stages import Stage, spans
from clearice.train.validate import Validator


def steps_per_epoch(train: list[MicrographEntry], config: TrainConfig) -> int:
    """Return the steps that draw as many patches as would cover the training micrographs once."""
    patches = sum(patches_of(entry.shape, config.patch_size) for entry in train)
    return max(1, -(-patches // config.batch_size))


def check_patches(entries: list[MicrographEntry], config: TrainConfig, scale: int = 1) -> None:
    """Refuse patches that are larger than a micrograph.

    Raises:
        DatasetError: One is too small for the patches of a stage of this scale.
    """
    for entry in entries:
        edge = min(entry.shape[1:])
        if edge < config.patch_size * scale:
            stage = f" of the stage of scale {scale}" if scale > 1 else ""
            raise DatasetError(
                f"{entry.file}: {entry.shape[1]} × {entry.shape[2]} px is smaller than a patch"
                f"{stage}; use --patch-size {edge // scale} or less"
            )


def training_stages(
    data: Dataset,
    train: list[MicrographEntry],
    config: TrainConfig,
    device: torch.device,
    ranks: Ranks,
    total: int,
) -> tuple[list[Stage], CacheChoice]:
    """Return what is trained on, one stage after the other, from stacks that all of them share;
    and where those are held.

    Raises:
        DatasetError: No training micrographs, or patches do not fit into them.
    """
    pixel = data.manifest.pixel_size_angstrom
    course = [(span, Objective(config.loss, pixel * span.scale)) for span in spans(config, total)]
    halves = course[0][1].needs_halves
    if not train:
        raise DatasetError(f"{data.folder}: has no training micrographs; prepare it again")
    for span, _ in course:
        check_patches(train, config, span.scale)
    samplers = [
        (_sampler(data, train, config, ranks, span.scale, halves), config.patch_size * span.scale)
        for span, _ in course
    ]
    loader = PatchLoader(
        data,
        train,
        *samplers[0],
        device,
        config.cache,
        clean=config.target == "clean",
        whole=config.target == "masked",
        workers=config.workers,
        halves=halves,
        copies=ranks.place.local_size,
    )
    loaders = [loader, *(loader.with_patches(*other) for other in samplers[1:])]
    stages = [
        Stage(span, loader, objective)
        for (span, objective), loader in zip(course, loaders, strict=True)
    ]
    return stages, loader.choice


def _sampler(
    data: Dataset,
    train: list[MicrographEntry],
    config: TrainConfig,
    ranks: Ranks,
    scale: int,
    halves: bool,
) -> Sampler:
    return Sampler(
        [entry.shape for entry in train],
        config.patch_size * scale,
        config.batch_size,
        config.seed,
        augment=config.augment,
        exchangeable=data.manifest.roles != "input-target",
        smallest_input=config.smallest_input,
        weight_by_dose=config.weight_by_dose,
        window=config.window,
        rank=ranks.place.rank,
        world_size=ranks.place.size,
        fewest_targets=2 if halves and config.target == "noisy" else 1,
        jitter=(config.contrast_jitter, config.mean_jitter),
    )


def validator(
    data: Dataset,
    objective: Objective,
    config: TrainConfig,
    device: torch.device,
    cache: Any,
    ranks: Ranks,
) -> Validator | None:
    held_out = data.entries(Split.VALIDATION)
    if not held_out:
        return None
    check_patches(held_out, config)
    here = ranks.place
    grid = GridSampler(
        [e.shape for e in held_out],
        config.patch_size,
        config.batch_size // here.size,
        rank=here.rank,
        world_size=here.size,
    )
    loader = PatchLoader(
        data,
        held_out,
        grid,
        config.patch_size,
        device,
        cache,
        clean=config.target == "clean",
        whole=config.target == "masked",
        workers=config.workers,
        halves=objective.needs_halves,
        copies=here.local_size,
    )
    return Validator(
        loader,
        len(grid),
        objective,
        data.manifest.pixel_size_angstrom,
        comparable=config.target == "noisy" and _equal_halves(data, held_out),
        blind=config.target == "masked",
        ranks=ranks,
    )


def _equal_halves(data: Dataset, entries: list[MicrographEntry]) -> bool:
    """Tell whether even and odd groups hold the same dose, as the truth estimate needs."""
    return data.manifest.roles == "exchangeable" and all(
        abs(sum(entry.weights[::2]) - 0.5) < 0.02 for entry in entries
    )
