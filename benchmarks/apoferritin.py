"""Four-fold cross-validation on real apoferritin pairs (EMPIAR-10146).

One frame in, the mean of about 49 others as reference. Six pairs train, two are denoised; every
fold holds out another two. `CLEARICE_TEST_DATA` names the folder that holds `apoferritin/`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from clearice import checkpoint, denoise, evaluate, prepare, train
from clearice.benchmark.timing import context
from clearice.config import PrepareConfig, TrainConfig
from clearice.networks import parameter_count
from jobs import Job, run_jobs

FOLDS = 4


def pairs() -> list[prepare.HalfPair]:
    """Return the eight pairs, sorted by name."""
    folder = Path(os.environ["CLEARICE_TEST_DATA"]) / "apoferritin"
    return prepare.match_pairs(f"{folder}/*_frame.mrc", f"{folder}/*_rest.mrc")


def work(job: Job, folder: Path) -> dict[str, Any]:
    """Train on six pairs and score the other two."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    everything = pairs()
    held_out = everything[job["fold"] :: FOLDS]
    training = [pair for pair in everything if pair not in held_out]
    settings = PrepareConfig(validation_fraction=0.0, test_fraction=0.0)
    prepare.prepare_pairs(training, folder / "dataset", settings)
    config = TrainConfig(**job["train"])
    start = time.perf_counter()
    trained = train.run(folder / "dataset", folder / "run", config, device)
    wall = time.perf_counter() - start
    denoiser = denoise.Denoiser(folder / "run", device)
    frames = [pair.first for pair in held_out]
    results = denoise.denoise_files(frames, denoiser, folder / "denoised")
    cases = [
        evaluate.Case(result, pair.first, pair.second)
        for result, pair in zip(results, held_out, strict=True)
    ]
    scores = [evaluate.score([case]).values for case in cases]
    return {
        "job": job,
        "parameters": parameter_count(denoiser.network),
        "training_seconds": trained.seconds,
        "wall_seconds": wall,
        "micrographs": {
            pair.name: {
                "band_correlation": s["reference"]["band_correlation"],
                "gaussian_sigma_px": s["gaussian_sigma_px"],
            }
            for pair, s in zip(held_out, scores, strict=True)
        },
    }


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Average the correlations of all held-out micrographs, by band and method.

    The best Gaussian is that of each micrograph, chosen on the reference itself, which favours it.
    """
    rows = [m["band_correlation"] for result in results for m in result["micrographs"].values()]
    return {
        band: {
            method: statistics.fmean(row[band][method] for row in rows) for method in rows[0][band]
        }
        for band in rows[0]
    }


_BASE: dict[str, Any] = {
    "network": "unet",
    "steps": 3000,
    "batch_size": 4,
    "patch_size": 512,
    "dropout": 0.2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "unet": _BASE,
    "unet, seed 1": _BASE | {"seed": 1},
    "unet, seed 2": _BASE | {"seed": 2},
    "unet, no dropout": _BASE | {"dropout": 0.0},
    "rescnn12": _BASE | {"network": "rescnn12", "dropout": 0.0},
}


TUNED = "fine-tuned"


def tuned(model: Path, base: dict[str, Any]) -> dict[str, Any]:
    """Return how to go on from a model in a quarter of the steps."""
    network = checkpoint.load_info(model).network
    how = {"network": network, "start": str(model), "learning_rate": 3e-4}
    return base | how | {"steps": base["steps"] // 4}


def main() -> None:
    """Run the folds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("apoferritin-work"))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=sorted(VARIANTS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--settings", default="{}", help="of all trainings, as JSON")
    parser.add_argument("--folds", type=int, default=FOLDS, help="of the four, so many")
    parser.add_argument("--start", type=Path, help="also go on from this model, a quarter as long")
    arguments = parser.parse_args()
    changed = json.loads(arguments.settings)
    if arguments.steps:
        changed["steps"] = arguments.steps
    VARIANTS.update({name: settings | changed for name, settings in VARIANTS.items()})
    if arguments.start is not None:
        VARIANTS[TUNED] = tuned(arguments.start, _BASE | changed)
        arguments.variants.append(TUNED)
    cuda = torch.cuda.is_available()
    jobs: list[Job] = []
    for variant in arguments.variants:
        settings = {"precision": "bfloat16" if cuda else "float32", **VARIANTS[variant]}
        jobs += [
            {
                "name": f"{variant}-{fold}".replace(", ", "-").replace(" ", "-"),
                "variant": variant,
                "fold": fold,
                "train": settings,
            }
            for fold in range(arguments.folds)
        ]
    results = run_jobs(jobs, work, arguments.work)
    device = torch.device("cuda" if cuda else "cpu")
    summary = {}
    for variant in arguments.variants:
        chosen = [r for r in results if r["job"]["variant"] == variant]
        summary[variant] = {
            "bands": summarise(chosen),
            "parameters": chosen[0]["parameters"],
            "training_seconds": [r["training_seconds"] for r in chosen],
            "train": chosen[0]["job"]["train"],
            "micrographs": {k: v for r in chosen for k, v in r["micrographs"].items()},
        }
        bands = summary[variant]["bands"]
        print(variant, [round(s, 1) for s in summary[variant]["training_seconds"]])
        for band, row in bands.items():
            print("  ", band, {name: round(value, 3) for name, value in row.items()})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"context": context(device), "variants": summary}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
