"""Networks of the default kind, each trained on one set of the quality benchmark.

They are what a general model is measured against. `CLEARICE_TEST_DATA` names the folder that holds
`3j9i.pdb.gz`. `CLEARICE_WORKERS_PER_GPU` trainings share each GPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from clearice import checkpoint, io, train
from clearice.benchmark.quality import sets
from clearice.benchmark.quality.run import write_training
from clearice.benchmark.timing import context
from clearice.data import open_dataset
from jobs import Job, run_jobs


def work(job: Job, folder: Path) -> dict[str, Any]:
    """Simulate the training micrographs of one set, train on them, and keep the best weights."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = sets.SETS[job["set"]]
    dataset = write_training(kind, folder, device, micrographs=job["micrographs"], size=job["size"])
    given = {"steps": job["steps"], "validations": 5, "samples": 0, "seed": 0, **job["settings"]}
    config, _ = train.plan(open_dataset(dataset), device, given)
    result = train.run(dataset, folder / "run", config, device, calibrated=False)
    checkpoint.pack(result.model, Path(job["out"]) / f"{kind.name}.safetensors")
    scores = None if result.last is None else result.last.validation
    return {
        "job": job,
        "seconds": result.seconds,
        "correlation": None if scores is None else scores.correlation,
        "config": config.model_dump(mode="json"),
    }


def main() -> None:
    """Train them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    parser.add_argument("--work", type=Path, default=Path("set-models-work"))
    parser.add_argument("--sets", nargs="+", choices=sorted(sets.SETS))
    parser.add_argument("--steps", type=int, default=15_000)
    parser.add_argument("--micrographs", type=int, default=24)
    parser.add_argument("--size", type=int, default=sets.SIZE)
    parser.add_argument("--settings", default="{}", help="further settings of training, as JSON")
    given = parser.parse_args()
    io.ensure_folder(given.out)
    jobs: list[Job] = [
        {
            "name": kind.name,
            "set": kind.name,
            "steps": given.steps,
            "micrographs": given.micrographs,
            "size": given.size,
            "settings": json.loads(given.settings),
            "out": str(given.out.resolve()),
        }
        for kind in sets.choose_sets(given.sets)
    ]
    results = run_jobs(jobs, work, given.work)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    told = {"context": context(device), "models": results}
    io.write_json(given.out / "set-models.json", told)


if __name__ == "__main__":
    main()
