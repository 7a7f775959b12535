"""The founding comparison: MSE against MSE + 0.1 log-power, three layers, one epoch of 1024².

One epoch of 10,309 patches in steps of four, `cnn3`, on simulated T20S; noisy and clean targets.
The run without the Fourier loss watches it (weight 0), as a published run did. `CLEARICE_TEST_DATA`
names the folder that holds `3j9i.pdb.gz`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch

from clearice import denoise, evaluate, io, prepare, simulate, train
from clearice.benchmark.timing import context
from clearice.config import PrepareConfig, SimulateConfig, TrainConfig
from clearice.data import Split
from jobs import Job, run_jobs

PATCHES, BATCH = 10_309, 4
LOSSES = {
    "MSE (log-power watched)": "mse + 0 log-power",
    "MSE + 0.1 log-power": "mse + 0.1 log-power",
}


def make_dataset(folder: Path, device: torch.device, *, quick: bool) -> None:
    """Simulate and prepare, once."""
    if (folder / "dataset" / "dataset.json").exists():
        return
    specimen = str(Path(os.environ["CLEARICE_TEST_DATA"]) / "3j9i.pdb.gz")
    size, count = (256, 4) if quick else (3072, 12)
    settings = SimulateConfig(specimen=specimen, micrographs=count, size=size, frames=16, seed=2)
    movies = simulate.run(settings, folder / "simulated", device)
    split = PrepareConfig(validation_fraction=0.2, test_fraction=0.2, dose_e_per_A2=53.0)
    truth = folder / "simulated" / "truth"
    prepare.prepare_movies(movies, folder / "dataset", split, truth, device=device)


def work(job: Job, folder: Path) -> dict[str, Any]:
    """Train for one epoch and score the held-out micrographs against the truth."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    root = folder.parent
    config = TrainConfig.model_validate(job["train"])
    start = time.perf_counter()
    trained = train.run(root / "dataset", folder / "run", config, device)
    minutes = (time.perf_counter() - start) / 60
    records = train.read_metrics(folder / "run" / train.METRICS_NAME)
    # The last weights, not those with the least error against noisy targets.
    denoiser = denoise.Denoiser(folder / "run" / "last.safetensors", device)
    results = folder / "denoised"
    denoise.denoise_dataset(root / "dataset", denoiser, results, Split.TEST)
    truth = root / "simulated" / "truth"
    scores = evaluate.score(
        evaluate.match_cases(results / "denoised", results / "raw", truth=truth)
    ).values["truth"]
    return {
        "job": job,
        "steps": trained.steps,
        "minutes": minutes,
        "curve": [
            {
                "step": record["step"],
                "training": record["parts"],
                "validation": record["validation"]["parts"],
            }
            for record in records
            if record["validation"]
        ],
        "truth": scores,
    }


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return one row: first and last values of both losses, time, and scores against the truth."""
    first, last = result["curve"][0], result["curve"][-1]
    row: dict[str, Any] = {"name": result["job"]["name"], "minutes": round(result["minutes"], 2)}
    for where in ("training", "validation"):
        for name in ("mse", "log-power"):
            row[f"{where} {name}"] = [first[where][name], last[where][name]]
        row[f"{where} rmse"] = [math.sqrt(point[where]["mse"]) for point in (first, last)]
    truth = result["truth"]
    bands = {band: values["denoised"] for band, values in truth["band_correlation"].items()}
    transfer = truth["band_signal_transfer"]
    return row | {"snr_db": truth["snr_db"], "frc_to_truth": bands, "signal_transfer": transfer}


def main() -> None:
    """Run both losses on both targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("founding-work"))
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if "CLEARICE_WORKER" not in os.environ:
        make_dataset(arguments.work, device, quick=arguments.quick)
    settings = {
        "network": "cnn3",
        "steps": 20 if arguments.quick else math.ceil(PATCHES / BATCH),
        "batch_size": BATCH,
        "patch_size": 128 if arguments.quick else 1024,
        "precision": "bfloat16" if cuda else "float32",
        "validations": 10 if arguments.quick else 100,
        "allow_biased": True,
    }
    jobs: list[Job] = [
        {
            "name": f"{target}, {name}",
            "train": {**settings, "loss": loss, "target": target},
        }
        for target in ("noisy", "clean")
        for name, loss in LOSSES.items()
    ]
    results = run_jobs(jobs, work, arguments.work)
    rows = [summary(result) for result in results]
    for row in rows:
        print(json.dumps(row))
    io.ensure_folder(arguments.out.parent)
    io.write_json(arguments.out, {"context": context(device), "rows": rows, "results": results})


if __name__ == "__main__":
    main()
