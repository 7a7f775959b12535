"""Training on 1, 2 and 4 GPUs: speed with the same batch on each, and what comes out.

Steps on a batch that stays on each device, gradients averaged as in training, tell the speed. Then
`clearice train` runs under torchrun: with the same patches in each step however many GPUs share
them, and with as many on each GPU however many there are, the same number in all. Further seeds on
one process say how far results differ by chance. `CLEARICE_TEST_DATA` names the folder that holds
`3j9i.pdb.gz`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from clearice import io, train
from clearice.benchmark.steps import noise_batch, trainer
from clearice.benchmark.timing import WARM_UP, context
from clearice.config import TrainConfig, dump_config
from clearice.data import open_dataset
from clearice.devices import choose_device
from clearice.train.distributed import Ranks, connected
from t20s import SPECIMEN, make_dataset, simulation

_ROUNDS = 5
_SEEDS = 3


def torchrun(processes: int, *command: str | Path) -> None:
    """Run a script or module in so many processes of this machine.

    Raises:
        SystemExit: They failed.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    full = [*launcher, f"--nproc-per-node={processes}", *map(str, command)]
    if subprocess.run(full, check=False).returncode:
        raise SystemExit(f"failed: {' '.join(full)}")


def time_rank(given: argparse.Namespace) -> None:
    """Be one of the processes whose steps are timed; the first one writes the result."""
    place = train.find_place()
    device = choose_device(place.device_name(given.device))
    config = TrainConfig.model_validate(json.loads(given.rank))
    with connected(place, device) as ranks:
        seconds = _step_seconds(config, given, device, ranks)
    if place.first:
        rate = place.size * given.batch_size / seconds
        values = {"processes": place.size, "step_milliseconds": round(1e3 * seconds, 3)}
        io.write_json(given.out, {**values, "patches_per_second": round(rate, 1)})


def _step_seconds(
    config: TrainConfig, given: argparse.Namespace, device: torch.device, ranks: Ranks
) -> float:
    """Return the median time of a step that all ranks take together."""
    steps = trainer(config, noise_batch(device, given.patch_size, given.batch_size), ranks)
    steps(WARM_UP)
    times = []
    for _ in range(_ROUNDS):
        ranks.wait()
        times.append(steps(given.timed_steps))
    return statistics.median(times)


def time_steps(given: argparse.Namespace, base: dict[str, Any]) -> list[dict[str, Any]]:
    """Time steps on each number of processes."""
    rows: list[dict[str, Any]] = []
    for processes in given.processes:
        out = given.work / f"steps-{processes}.json"
        config = json.dumps({**base, "batch_size": processes * given.batch_size})
        same = ("patch_size", "batch_size", "timed_steps", "device")
        options = [f"--{key.replace('_', '-')}={getattr(given, key)}" for key in same]
        torchrun(processes, __file__, "--rank", config, "--out", out, *options)
        rows.append(json.loads(out.read_text()))
    alone = rows[0]["patches_per_second"]
    return [{**row, "ratio": round(row["patches_per_second"] / alone, 3)} for row in rows]


def run_training(
    given: argparse.Namespace, dataset: Path, name: str, processes: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """Train by the command and return speed and the last validation."""
    run = given.work / name
    shutil.rmtree(run, ignore_errors=True)
    file = given.work / f"{name}.yaml"
    config = TrainConfig.model_validate(settings)
    io.write_text(file, dump_config(config))
    start = time.perf_counter()
    command = ("clearice", "train", dataset, "--out", run, "--config", file)
    torchrun(processes, "-m", *command, "--device", given.device)
    records = train.read_metrics(run / train.METRICS_NAME)
    return {
        "name": name,
        "processes": processes,
        **{key: settings[key] for key in ("batch_size", "steps", "seed")},
        "wall_seconds": round(time.perf_counter() - start, 1),
        "patches_per_second": round(max(each["patches_per_second"] for each in records), 1),
        "validation": records[-1]["validation"],
    }


def trainings(
    given: argparse.Namespace, dataset: Path, base: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Train with the same batch in all, with the same batch a process, and with other seeds."""
    most = max(given.processes)
    whole = {**base, "batch_size": most * given.batch_size, "steps": given.steps, "seed": 0}
    for n in given.processes:
        yield run_training(given, dataset, f"same-batch-{n}", n, whole)
        if n < most:
            each = {"batch_size": n * given.batch_size, "steps": given.steps * most // n}
            yield run_training(given, dataset, f"same-share-{n}", n, whole | each)
    for seed in range(1, _SEEDS):
        yield run_training(given, dataset, f"seed-{seed}", most, whole | {"seed": seed})


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how far the last validations lie apart, by the number of processes and by seed."""

    on_all = f"same-batch-{max(row['processes'] for row in rows)}"

    def spread(prefixes: tuple[str, ...]) -> dict[str, float | None]:
        same = [row["validation"] for row in rows if row["name"].startswith(prefixes)]
        found = {
            score: [each[score] for each in same if each[score] is not None]
            for score in ("mse", "correlation")
        }
        return {
            score: round(max(values) - min(values), 6) if values else None
            for score, values in found.items()
        }

    return {
        "range_over_processes_same_batch": spread(("same-batch",)),
        "range_over_processes_same_share": spread(("same-share", on_all)),
        "range_over_seeds": spread(("seed", on_all)),
    }


def base_settings(given: argparse.Namespace, dataset: Path) -> dict[str, Any]:
    """Return what the program picks by itself for such patches."""
    wanted = {"network": given.network, "patch_size": given.patch_size, "samples": 0}
    device = choose_device(given.device)
    config, _ = train.plan(open_dataset(dataset), device, {**wanted, "validations": 4})
    return config.model_dump(mode="json")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("scaling-work"))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="GPUs, from 1")
    parser.add_argument("--network", default="unet")
    parser.add_argument("--patch-size", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=4, help="on each GPU")
    parser.add_argument("--timed-steps", type=int, default=60)
    parser.add_argument("--steps", type=int, default=150, help="of each training on all GPUs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.network, given.patch_size, given.timed_steps, given.steps = "cnn3", 64, 3, 8
    return given


def main() -> None:
    """Measure as many processes as there are GPUs for, and say what was left out."""
    given = arguments()
    if given.rank is not None:
        time_rank(given)
        return
    io.ensure_folder(given.out.parent)
    device = choose_device(given.device)
    dataset = make_dataset(given.work, device, quick=given.quick)
    there = torch.cuda.device_count() if device.type == "cuda" else max(given.processes)
    missing = [n for n in given.processes if n > there]
    given.processes = sorted(set(given.processes) - set(missing))
    for n in missing:
        print(f"not run: {n} GPUs, as there are {there}")
    base = base_settings(given, dataset)
    simulated = simulation(quick=given.quick).model_dump() | {"specimen": SPECIMEN}
    found: dict[str, Any] = {
        "context": context(device),
        "settings": base,
        "simulation": simulated,
        "not_run": missing,
        "network_only": time_steps(given, base),
    }
    print(json.dumps(found["network_only"]), flush=True)
    io.write_json(given.out, found)
    rows: list[dict[str, Any]] = []
    for row in trainings(given, dataset, base):
        print(json.dumps(row), flush=True)
        rows.append(row)
        io.write_json(given.out, {**found, "trainings": rows})  # what is cut off keeps the others
    io.write_json(given.out, {**found, "trainings": rows, **summary(rows)})


if __name__ == "__main__":
    main()
