"""Simulated T20S proteasome (3J9I), prepared with its truth: the data that benchmarks train on.

`CLEARICE_TEST_DATA` names the folder that holds `3j9i.pdb.gz`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from clearice import prepare, simulate
from clearice.config import PrepareConfig, SimulateConfig
from clearice.data import MANIFEST_NAME

SPECIMEN = "3j9i.pdb.gz"


def simulation(*, quick: bool, contrast: float = 0.4) -> SimulateConfig:
    """Return the session: EMPIAR-10025's optics and dose at its physical pixel.

    Args:
        quick: Few and small micrographs.
        contrast: Empirical factor on the phase shift. At 0.4, halves correlate at 0.011 above
            1/400 Å; the power of the signal goes with its square.
    """
    specimen = str(Path(os.environ["CLEARICE_TEST_DATA"]) / SPECIMEN)
    size, count = (512, 6) if quick else (1024, 40)
    return SimulateConfig(
        specimen=specimen, micrographs=count, size=size, frames=16, seed=1, contrast=contrast
    )


def make_dataset(
    folder: Path,
    device: torch.device,
    *,
    quick: bool,
    contrast: float = 0.4,
    groups: int = 8,
    name: str = "dataset",
) -> Path:
    """Simulate and prepare, each once, and return the data set.

    Args:
        folder: For `simulated` and the data set.
        device: Where to compute.
        quick: Few and small micrographs.
        contrast: See `simulation`.
        groups: Of frames; data sets of one session hold out the same micrographs.
        name: Of the data set.
    """
    out, simulated = folder / name, folder / "simulated"
    if (out / MANIFEST_NAME).exists():
        return out
    if not (simulated / "simulation.json").exists():
        simulate.run(simulation(quick=quick, contrast=contrast), simulated, device)
    settings = PrepareConfig(
        groups=groups, validation_fraction=0.05, test_fraction=0.15, dose_e_per_A2=53.0
    )
    movies = sorted((simulated / "movies").glob("*.mrc"))
    prepare.prepare_movies(movies, out, settings, simulated / "truth", device=device)
    return out
