"""What a general model is trained with, and on which particles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from clearice.config import TrainConfig, read_settings, validate_config
from clearice.devices import has_fast_bfloat16
from clearice.simulate import Complex, load_specimen
from clearice.train import WorldPlan

# Weights that are used are the mean of about so many steps.
_EMA_DECAY = 0.999


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
    picked = {"precision": "bfloat16" if fast else "float32", "ema_decay": _EMA_DECAY}
    values = {**picked, **read_settings(file, given), "target": "clean"}
    config = validate_config(TrainConfig, values, str(file or "options"))
    clouds = [load_specimen(str(path), 0) for path in specimens]
    more = tuple(Complex(cloud.positions_angstrom, False, cloud.name) for cloud in clouds)
    return config, WorldPlan(complexes, more=more)
