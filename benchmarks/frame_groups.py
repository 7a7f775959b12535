"""How many frame groups, how small an input, and which weights: trained and scored on known truth.

Two sessions are simulated from the T20S proteasome: an ideal one, and one whose particles fade
with exposure and drift, aligned by `--align global`. `CLEARICE_TEST_DATA` names the folder that
holds `3j9i.pdb.gz`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

from clearice import denoise, evaluate, prepare, simulate, train
from clearice.benchmark.timing import context
from clearice.config import PrepareConfig, SimulateConfig, TrainConfig
from clearice.data import Split
from clearice.io import write_json
from jobs import Job, run_jobs

FRAMES = 48
# Groups, smallest share of them that makes an input, and whether errors are weighted by dose.
VARIANTS: tuple[tuple[int, float, bool], ...] = (
    (2, 0.5, False),
    (4, 0.25, True),
    (4, 0.5, True),
    (8, 0.125, True),
    (8, 0.375, False),
    (8, 0.375, True),
    (8, 0.625, True),
    (8, 0.875, True),
    (16, 0.375, True),
    (16, 0.625, True),
)


def simulation(session: str, *, quick: bool) -> SimulateConfig:
    """Return a session with EMPIAR-10025's optics and dose at its physical pixel."""
    size, count = (512, 6) if quick else (1024, 32)
    real = session == "fading and drifting"
    return SimulateConfig(
        specimen=str(Path(os.environ["CLEARICE_TEST_DATA"]) / "3j9i.pdb.gz"),
        micrographs=count,
        size=size,
        frames=FRAMES,
        seed=1,
        drift_angstrom=10.0 if real else 0.0,
        radiation_damage=real,
    )


SESSIONS = ("ideal", "fading and drifting")


def make_datasets(folder: Path, device: torch.device, *, quick: bool) -> None:
    """Simulate both sessions and prepare each with every number of groups, once."""
    for session in SESSIONS:
        root = folder / session.replace(" ", "-")
        missing = [
            k
            for k in sorted({v[0] for v in VARIANTS})
            if not (root / f"{k}" / "dataset.json").exists()
        ]
        if not missing:
            continue
        movies = simulate.run(simulation(session, quick=quick), root / "simulated", device)
        for groups in missing:
            settings = PrepareConfig(
                groups=groups,
                align="none" if session == "ideal" else "global",
                validation_fraction=0.05,
                test_fraction=0.15,
                dose_e_per_A2=53.0,
            )
            truth = root / "simulated" / "truth"
            prepare.prepare_movies(movies, root / f"{groups}", settings, truth, device=device)
        shutil.rmtree(root / "simulated" / "movies")


def work(job: Job, folder: Path) -> dict[str, Any]:
    """Train one variant and score the held-out micrographs against the truth."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    root = folder.parent / job["session"].replace(" ", "-")
    dataset = root / str(job["groups"])
    trained = train.run(dataset, folder / "run", TrainConfig(**job["train"]), device)
    denoiser = denoise.Denoiser(folder / "run" / "last.safetensors", device)
    results = folder / "denoised"
    denoise.denoise_dataset(dataset, denoiser, results, Split.TEST, halves=True)
    cases = evaluate.match_cases(
        results / "denoised", results / "raw", truth=root / "simulated" / "truth"
    )
    truth = evaluate.score(cases).values["truth"]
    shutil.rmtree(results)
    return {
        "job": job,
        "training_seconds": round(trained.seconds, 1),
        "snr_db": truth["snr_db"],
        "band_correlation": truth["band_correlation"],
    }


def jobs(arguments: argparse.Namespace, *, cuda: bool) -> list[Job]:
    """Return every variant, and the bound that clean targets give, for each session and seed."""
    settings = {
        "network": arguments.network,
        "steps": arguments.steps,
        "batch_size": 8,
        "patch_size": 256,
        "precision": "bfloat16" if cuda else "float32",
        "validations": 4,
    }
    variants = [
        (groups, {"smallest_input": share, "weight_by_dose": weighted, "target": "noisy"})
        for groups, share, weighted in VARIANTS
    ]
    variants.append((8, {"target": "clean"}))
    return [
        {
            "name": f"{session[:5]}-{groups}-{'-'.join(str(v) for v in how.values())}-{seed}",
            "session": session,
            "groups": groups,
            "seed": seed,
            "train": {**settings, **how, "seed": seed},
        }
        for seed in range(arguments.seeds)
        for session in SESSIONS
        for groups, how in variants
    ]


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and range over seeds for each session and variant."""
    rows = []
    kinds = {
        (
            r["job"]["session"],
            r["job"]["groups"],
            r["job"]["train"]["target"],
            r["job"]["train"].get("smallest_input"),
            r["job"]["train"].get("weight_by_dose"),
        )
        for r in results
    }
    for kind in sorted(kinds, key=str):
        session, groups, target, share, weighted = kind
        same = [
            r
            for r in results
            if (r["job"]["session"], r["job"]["groups"], r["job"]["train"]["target"])
            == (session, groups, target)
            and r["job"]["train"].get("smallest_input") == share
            and r["job"]["train"].get("weight_by_dose") == weighted
        ]
        snr = [r["snr_db"]["denoised"] for r in same]
        fine = [r["band_correlation"]["8-4"]["denoised"] for r in same]
        rows.append(
            {
                "session": session,
                "groups": groups,
                "target": target,
                "smallest_input": share,
                "weight_by_dose": weighted,
                "seeds": len(same),
                "snr_db": round(statistics.mean(snr), 3),
                "snr_db_range": round(max(snr) - min(snr), 3),
                "correlation_8_4": round(statistics.mean(fine), 4),
                "raw_snr_db": round(same[0]["snr_db"]["raw"], 3),
            }
        )
    return rows


def main() -> None:
    """Run all variants, sessions and seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("frame-groups-work"))
    parser.add_argument("--network", default="unet-small")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if "CLEARICE_WORKER" not in os.environ:
        make_datasets(arguments.work, device, quick=arguments.quick)
    rows = summarise(run_jobs(jobs(arguments, cuda=cuda), work, arguments.work))
    for row in rows:
        print(json.dumps(row))
    simulated = {
        session: simulation(session, quick=arguments.quick).model_dump()
        | {"specimen": "3j9i.pdb.gz"}
        for session in SESSIONS
    }
    training = {"network": arguments.network, "steps": arguments.steps, "batch_size": 8}
    write_json(
        arguments.out,
        {
            "context": context(device),
            "training": {**training, "patch_size": 256},
            "simulations": simulated,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
