"""MSE against MSE + w · Fourier log-power on simulated T20S, noisy and clean targets.

`CLEARICE_TEST_DATA` names the folder that holds `3j9i.pdb.gz`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from clearice import denoise, evaluate, prepare, simulate, train
from clearice.benchmark.timing import context
from clearice.config import PrepareConfig, SimulateConfig, TrainConfig, fourier_weighted_loss
from clearice.data import Split
from clearice.networks import parameter_count
from jobs import Job, run_jobs

WEIGHTS = (0.0, 0.001, 0.01, 0.05, 0.1, 0.2)


def simulation(*, quick: bool) -> SimulateConfig:
    """Return the session: EMPIAR-10025's optics and dose at its physical pixel."""
    specimen = str(Path(os.environ["CLEARICE_TEST_DATA"]) / "3j9i.pdb.gz")
    size, count = (512, 6) if quick else (1024, 40)
    return SimulateConfig(specimen=specimen, micrographs=count, size=size, frames=16, seed=1)


def make_dataset(folder: Path, device: torch.device, *, quick: bool) -> None:
    """Simulate and prepare, once."""
    if (folder / "dataset" / "dataset.json").exists():
        return
    movies = simulate.run(simulation(quick=quick), folder / "simulated", device)
    settings = PrepareConfig(validation_fraction=0.05, test_fraction=0.15, dose_e_per_A2=53.0)
    truth = folder / "simulated" / "truth"
    prepare.prepare_movies(movies, folder / "dataset", settings, truth, device=device)


def work(job: Job, folder: Path) -> dict[str, Any]:
    """Train with one weight and score the held-out micrographs."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    root = folder.parent
    config = TrainConfig(
        loss=fourier_weighted_loss(job["weight"]), target=job["target"], **job["train"]
    )
    trained = train.run(root / "dataset", folder / "run", config, device)
    denoiser = denoise.Denoiser(folder / "run" / "last.safetensors", device)
    results = folder / "denoised"
    denoise.denoise_dataset(root / "dataset", denoiser, results, Split.TEST, halves=True)
    truth = root / "simulated" / "truth"
    full = evaluate.score(
        evaluate.match_cases(results / "denoised", results / "raw", truth=truth)
    ).values
    halves = evaluate.score(
        evaluate.match_cases(
            results / "denoised_even",
            results / "raw_even",
            reference=results / "raw_odd",
            denoised_other=results / "denoised_odd",
        )
    ).values
    if job["seed"] > 0:
        shutil.rmtree(results)
    return {
        "job": job,
        "parameters": parameter_count(denoiser.network),
        "training_seconds": trained.seconds,
        "steps": trained.steps,
        "parts": trained.last.parts if trained.last else {},
        "truth": full["truth"],
        "reference": halves["reference"],
        "gaussian_sigma_px": full["gaussian_sigma_px"],
    }


def main() -> None:
    """Run all weights, targets and seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("fourier-weights-work"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    settings = {
        "network": "unet" if cuda else "cnn3",
        "steps": arguments.steps,
        "batch_size": 4,
        "patch_size": 512,
        "allow_biased": True,
        "precision": "bfloat16" if cuda else "float32",
    }
    if "CLEARICE_WORKER" not in os.environ:
        make_dataset(arguments.work, device, quick=arguments.quick)
    jobs: list[Job] = [
        {
            "name": f"{target}-{weight}-{seed}",
            "target": target,
            "weight": weight,
            "seed": seed,
            "train": {**settings, "seed": seed},
        }
        for seed in range(arguments.seeds)
        for weight in WEIGHTS
        for target in ("noisy", "clean")
    ]
    results = run_jobs(jobs, work, arguments.work)
    for result in results:
        job, truth = result["job"], result["truth"]
        print(
            job["name"],
            f"{result['training_seconds']:.0f} s",
            "snr",
            {k: round(v, 2) for k, v in truth["snr_db"].items()},
            "frc 8-4",
            round(truth["band_correlation"]["8-4"]["denoised"], 3),
            "rho",
            round(result["reference"]["correlation_with_truth"]["denoised"], 3),
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    simulated = simulation(quick=arguments.quick).model_dump() | {"specimen": "3j9i.pdb.gz"}
    arguments.out.write_text(
        json.dumps({"context": context(device), "simulation": simulated, "results": results}) + "\n"
    )


if __name__ == "__main__":
    main()
