"""What a general model is trained with, and on which particles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clearice import checkpoint
from clearice.checkpoint import Domain
from clearice.config import TrainConfig, read_settings, validate_config
from clearice.denoise import CROP_PX, Denoiser
from clearice.devices import has_fast_bfloat16
from clearice.errors import CheckpointError
from clearice.metrics import traits
from clearice.seeds import derive_seed
from clearice.simulate import Complex, World, load_specimen
from clearice.train import WorldPlan

# Weights that are used are the mean of about so many steps.
_EMA_DECAY = 0.999
# Three times a usual gradient: gold's edge alone makes one thirty times as long.
_GRADIENT_CLIP = 0.05
# Micrographs by which a model's depth is measured.
VIEWS = 200
# Share of the micrographs that lie outside of what a model says it has seen.
_RARE = 0.01


def measure_depth(model: Path, device: torch.device, plan: WorldPlan) -> Domain:
    """Measure what a general model makes of micrographs such as it was trained on, and keep that.

    Args:
        model: A run's folder or a model file; the file is replaced in one step.
        device: Where to compute.
        plan: Of its training world; the complexes are others.

    Returns:
        What the model says of itself from now on.

    Raises:
        CheckpointError: The model cannot be loaded, or is no general one.
        OutputError: The file cannot be written.
    """
    denoiser = Denoiser(model, device)
    domain = denoiser.info.domain
    if domain is None:
        raise CheckpointError(f"{model}: was trained on one data set, not on all kinds")
    world = World(derive_seed("depth"), device, max(1, plan.complexes // 8))
    found: dict[str, list[float]] = {}
    for number in range(VIEWS):
        raw = world.views(number, 1, CROP_PX).noisy[0]
        denoised = denoiser(raw)
        for name, value in traits(raw.cpu(), denoised).items():
            found.setdefault(name, []).append(value)
    ends = torch.tensor([_RARE / 2, 1 - _RARE / 2])
    spans = {
        name: (float(low), float(high))
        for name, values in found.items()
        for low, high in [torch.tensor(values).quantile(ends).tolist()]
    }
    domain = replace(domain, traits=spans)
    path = checkpoint.resolve(model)
    network, info = checkpoint.load_model(path)
    checkpoint.save(path, network.state_dict(), replace(info, domain=domain), None)
    return domain


def plan_general(
    given: dict[str, Any],
    file: Path | None,
    complexes: int,
    specimens: Sequence[Path],
    device: torch.device,
) -> tuple[TrainConfig, WorldPlan]:
    """Return how to train a general model, and on what.

    Args:
        given: Settings, None where the user said nothing.
        file: YAML file with more of them.
        complexes: How many procedural complexes.
        specimens: PDB or mmCIF files of further particles.
        device: Where it is trained.

    Raises:
        InputFileError: A file is missing or has no atoms.
        ConfigError: A setting cannot be used.
    """
    fast = device.type == "cuda" and has_fast_bfloat16(device)
    picked = {
        "network": "unet-large",
        "steps": 20_000,
        "batch_size": 16,
        "patch_size": 512,
        "precision": "bfloat16" if fast else "float32",
        "ema_decay": _EMA_DECAY,
        "gradient_clip": _GRADIENT_CLIP,
    }
    values = {**picked, **read_settings(file, given), "target": "clean"}
    config = validate_config(TrainConfig, values, str(file or "options"))
    clouds = [load_specimen(str(path), 0) for path in specimens]
    more = tuple(Complex(cloud.positions_angstrom, False, cloud.name) for cloud in clouds)
    return config, WorldPlan(complexes, more=more)
