"""Simulated sessions of several specimens and doses, each with a network trained on it alone.

Fields are partly empty, so that trust varies within an image. Pixels are four times those of
EMPIAR-10025, which a processor can train on in minutes; the trust map looks at 20 Å and coarser.
`CLEARICE_TEST_DATA` names the folder that holds `3j9i.pdb.gz`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from clearice import denoise, io, prepare, simulate, train
from clearice.config import PrepareConfig, SimulateConfig, TrainConfig
from clearice.data import MANIFEST_NAME, Affine, Split, open_dataset
from clearice.seeds import derive_seed

PIXEL_SIZE = 5.26
HALVES = ("even", "odd")


@dataclass(frozen=True)
class Session:
    """One specimen at one dose.

    Attributes:
        name: Folder.
        specimen: `barrel`, or a file in CLEARICE_TEST_DATA.
        seed: Of everything, the barrel's chains too.
        dose: e/Å².
        fill: Share of the densest random packing that is filled.
        contrast: Empirical factor on the phase shift.
    """

    name: str
    specimen: str
    seed: int
    dose: float
    fill: float
    contrast: float = 0.4


CALIBRATION = (
    Session("barrel-1", "barrel", 1, 53.0, 0.3),
    Session("barrel-2", "barrel", 2, 25.0, 0.5),
    Session("barrel-3", "barrel", 3, 100.0, 0.2),
    Session("barrel-4", "barrel", 4, 53.0, 0.5, 0.25),
)
HELD_OUT = (
    Session("3j9i-5", "3j9i.pdb.gz", 5, 53.0, 0.3),
    Session("barrel-6", "barrel", 6, 40.0, 0.4),
    Session("3j9i-7", "3j9i.pdb.gz", 7, 25.0, 0.5),
)


def training(seed: int, *, quick: bool) -> TrainConfig:
    """Return the settings of a short training."""
    return TrainConfig(
        network="unet-small",
        steps=20 if quick else 400,
        batch_size=8,
        patch_size=64,
        learning_rate=2e-3,
        validations=2,
        seed=seed,
    )


def simulation(session: Session, *, quick: bool) -> SimulateConfig:
    """Return the session to simulate."""
    known = session.specimen == "barrel"
    file = "barrel" if known else str(Path(os.environ["CLEARICE_TEST_DATA"]) / session.specimen)
    return SimulateConfig(
        specimen=file,
        micrographs=4 if quick else 13,
        size=256 if quick else 512,
        seed=session.seed,
        pixel_size_angstrom=PIXEL_SIZE,
        dose_e_per_A2=session.dose,
        particle_fill=session.fill,
        contrast=session.contrast,
    )


def make(session: Session, work: Path, device: torch.device, *, quick: bool) -> Path:
    """Simulate, prepare, train and denoise the held-out micrographs, each once.

    Returns:
        The session's folder: `simulated`, `dataset`, `run`, `denoised` and, with the phases of
        each half scrambled, `scrambled`.
    """
    folder = work / session.name
    dataset, run = folder / "dataset", folder / "run"
    if not (dataset / MANIFEST_NAME).exists():
        movies = simulate.run(simulation(session, quick=quick), folder / "simulated", device)
        settings = PrepareConfig(
            validation_fraction=0.1, test_fraction=0.4, dose_e_per_A2=session.dose
        )
        prepare.prepare_movies(movies, dataset, settings, folder / "simulated" / "truth")
    if not (run / "best.safetensors").exists():
        train.run(dataset, run, training(session.seed, quick=quick), device)
    denoiser = denoise.Denoiser(run, device)
    if not (folder / "denoised").exists():
        denoise.denoise_dataset(dataset, denoiser, folder / "denoised", Split.TEST, halves=True)
    if not (folder / "scrambled").exists():
        _denoise_scrambled(dataset, denoiser, folder / "denoised", folder / "scrambled")
    return folder


def scrambled(image: torch.Tensor, seed: int) -> torch.Tensor:
    """Return an image of the same amplitudes whose phases are those of white noise."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    spectrum, phases = torch.fft.rfft2(image), torch.fft.rfft2(noise)
    phases = phases / phases.abs().clamp(min=1e-12)
    phases[0, 0] = 1
    return torch.fft.irfft2(spectrum.abs() * phases, s=image.shape) * 1.0


def _denoise_scrambled(dataset: Path, denoiser: denoise.Denoiser, results: Path, out: Path) -> None:
    """Scramble each half by itself, then denoise the halves and their mean."""
    data = open_dataset(dataset)
    for entry in data.entries(Split.TEST):
        affine = Affine(entry.mean, entry.std)
        raws = {}
        for half in HALVES:
            raw = io.read_micrograph(results / f"raw_{half}" / f"{entry.name}.mrc").pixels
            raws[f"_{half}"] = scrambled(raw, derive_seed("scramble", entry.name, half))
        raws[""] = (raws["_even"] + raws["_odd"]) / 2
        for part, raw in raws.items():
            for kind, image in (("raw", raw), ("denoised", denoiser(raw, affine))):
                target = io.ensure_folder(out / f"{kind}{part}") / f"{entry.name}.mrc"
                io.write_mrc(target, image, data.manifest.pixel_size_angstrom)
