"""One epoch of 10,309 patches of 1024² from a data set on disk: time, and memory of both kinds.

The data set is noise, two frame groups in float16, 43 GB: 21.6 GB a side. Every run is a process
of its own. What it reaches is set against the same steps on one batch that stays on the device,
timed before and after the runs of each network. `--fraction-gib` gives a process no more of the
GPU's memory than that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from clearice import io, train
from clearice.benchmark.steps import noise_batch, trainer, wait_for
from clearice.benchmark.timing import WARM_UP, context
from clearice.config import PrepareConfig, Preset, TrainConfig
from clearice.data import (
    MANIFEST_NAME,
    Affine,
    DatasetWriter,
    default_workers,
    open_dataset,
)
from clearice.devices import choose_device
from clearice.types import HalfSet
from processes import device_memory, limited_device, measured_alone, watched

_GROUPS = 2
_ROUNDS = 5
_SECONDS_A_ROUND = 0.5
# Share of the steps before speed counts: the first ones set up what all use.
_LEAD = 0.1


def shapes_of(patches: int, patch: int, edge: int) -> list[tuple[int, int]]:
    """Return micrographs that hold exactly so many patches: square ones, and one with the rest."""
    along = edge // patch
    shapes = [(along * patch, along * patch)] * (patches // along**2)
    rest = patches % along**2
    return [*shapes, (patch, rest * patch)] if rest else shapes


def make_dataset(folder: Path, shapes: list[tuple[int, int]]) -> None:
    """Write micrographs of noise that all differ, once; drawn once and shifted, to be fast."""
    if (folder / MANIFEST_NAME).exists():
        return
    writer = DatasetWriter(folder)
    most = _GROUPS * max(rows * columns for rows, columns in shapes)
    noise = torch.randn(most, generator=torch.Generator().manual_seed(0)).half()
    step = most // (len(shapes) + 1) | 1

    def add(index: int) -> None:
        name = f"noise_{index:05d}"
        values = noise.roll(index * step)[: _GROUPS * shapes[index][0] * shapes[index][1]]
        stack = values.view(_GROUPS, *shapes[index])
        weights = (1 / _GROUPS,) * _GROUPS
        writer.add(HalfSet(name, stack, weights, 1.0, (Path(name),)), stack, Affine(0.0, 1.0))

    with ThreadPoolExecutor(2 * default_workers()) as pool:
        list(pool.map(add, range(len(shapes))))
    config = PrepareConfig(groups=_GROUPS, validation_fraction=0, test_fraction=0)
    writer.finish(config, 1.0, input_target=False, dose_ratio=1.0, target_gain=1.0)


def settings_of(
    dataset: Path, wanted: dict[str, Any], preset: Preset | None, name: str
) -> dict[str, Any]:
    """Return what the program trains with by itself, for one epoch."""
    data = open_dataset(dataset)
    config, _ = train.plan(data, choose_device(name), {**wanted, "epochs": 1}, preset)
    return config.model_dump(mode="json")


def network_only(config: dict[str, Any], name: str, fraction_gib: float | None) -> dict[str, Any]:
    """Time steps on one batch that stays on the device."""
    device = limited_device(name, fraction_gib)
    settings = TrainConfig.model_validate(config)
    batch = noise_batch(device, settings.patch_size, settings.batch_size)
    steps = trainer(settings, batch)
    steps(WARM_UP)
    count = max(2, min(500, int(_SECONDS_A_ROUND / steps(2))))
    step_s = statistics.median(steps(count) for _ in range(_ROUNDS))
    return {
        "step_milliseconds": round(1e3 * step_s, 3),
        "patches_per_second": round(settings.batch_size / step_s, 1),
        **device_memory(device),
    }


def _clock(device: torch.device) -> tuple[Callable[[int, int], None], dict[str, float]]:
    """Return what is to be called after each step, and notes when speed began to count."""
    began: dict[str, float] = {}

    def tick(done: int, total: int) -> None:
        if "step" not in began and done >= _LEAD * total:
            wait_for(device)
            began.update(step=done, time=time.perf_counter())

    return tick, began


def epoch(
    dataset: Path, out: Path, config: dict[str, Any], name: str, fraction_gib: float | None
) -> dict[str, Any]:
    """Train for one epoch, as the command does, and watch time and memory.

    `patches_per_second` counts whatever happens after the first tenth of the steps, saves among it;
    `between_saves` is what training itself reports, the median of its intervals but the first.
    """
    device = limited_device(name, fraction_gib)
    settings = TrainConfig.model_validate(config)
    tick, began = _clock(device)
    said: list[str] = []
    reports: list[train.TrainReport] = []
    start = time.perf_counter()
    with watched() as memory:
        run = (dataset, out, settings, device)
        report = reports.append
        trained = train.run(*run, calibrated=False, tick=tick, say=said.append, report=report)
        wait_for(device)
        end = time.perf_counter()
    counted = trained.steps - began["step"]
    return {
        "steps": trained.steps,
        "wall_seconds": round(end - start, 2),
        "training_seconds": round(trained.seconds, 2),
        "patches_per_second": round(counted * settings.batch_size / (end - began["time"]), 1),
        "between_saves": round(_steady(reports), 1),
        **memory,
        **device_memory(device),
        "said": said,
    }


def _steady(reports: list[train.TrainReport]) -> float:
    """Return patches a second in the middle interval; the first one sets up what all use."""
    return statistics.median(each.patches_per_second for each in reports[1:] or reports)


def drop_from_page_cache(dataset: Path) -> None:
    """Let the system forget the files, so that they must come from the disk."""
    for path in (dataset / "stacks").iterdir():
        with path.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(given: argparse.Namespace, dataset: Path, network: str) -> list[dict[str, Any]]:
    """Run one network with every cache, between two measurements without any."""
    folder = given.work / "".join(c if c.isalnum() else "-" for c in network)
    sizes = {"patch_size": given.patch_size, "batch_size": given.batch_size}
    wanted = {"network": network, **sizes, **json.loads(given.settings)}
    # In a process of its own, so that this one takes no memory of the GPU.
    asked = (dataset, wanted, given.preset, given.device)
    config = measured_alone(settings_of, folder / "settings.json", *asked)
    fixed = (config, given.device, given.fraction_gib)
    alone = [measured_alone(network_only, folder / "network-only.json", *fixed)]
    runs = []
    for cache in given.caches:
        if cache == "stream" and given.cold:
            drop_from_page_cache(dataset)
        run = folder / f"run-{cache}"
        shutil.rmtree(run, ignore_errors=True)
        settings = (dataset, run, {**config, "cache": cache}, given.device, given.fraction_gib)
        runs.append({"cache": cache, **measured_alone(epoch, folder / f"{cache}.json", *settings)})
    alone.append(measured_alone(network_only, folder / "network-only.json", *fixed))
    speed = statistics.fmean(each["patches_per_second"] for each in alone)
    return [
        {
            "network": network,
            "settings": {key: config[key] for key in ("precision", "accumulate", "cuda_graph")},
            **run,
            "network_only": alone,
            "percent_of_network_only": round(100 * run["patches_per_second"] / speed, 1),
            "percent_between_saves": round(100 * run["between_saves"] / speed, 1),
        }
        for run in runs
    ]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("epoch-work"))
    parser.add_argument("--networks", nargs="+", default=["cnn3", "unet"])
    parser.add_argument("--caches", nargs="+", choices=["gpu", "ram", "stream"])
    parser.add_argument("--patches", type=int, default=10_309)
    parser.add_argument("--patch-size", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--edge", type=int, default=4096, help="of a micrograph, px")
    parser.add_argument("--preset", help="of `clearice train`")
    parser.add_argument("--settings", default="{}", help="further training settings, as JSON")
    parser.add_argument("--fraction-gib", type=float, help="most GPU memory of a process, GiB")
    parser.add_argument("--cold", action="store_true", help="stream from the disk, not from memory")
    parser.add_argument("--keep", action="store_true", help="keep the data set")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    cuda = choose_device(given.device).type == "cuda"
    given.caches = given.caches or (["gpu", "ram", "stream"] if cuda else ["ram", "stream"])
    return given


def main() -> None:
    """Write the data set, then measure each network with each cache."""
    given = arguments()
    io.ensure_folder(given.out.parent)
    dataset = given.work / "dataset"
    shapes = shapes_of(given.patches, given.patch_size, given.edge)
    start = time.perf_counter()
    make_dataset(dataset, shapes)
    written = round(time.perf_counter() - start, 1)
    print(f"{len(shapes)} micrographs written in {written} s", flush=True)
    keys = ("patches", "patch_size", "batch_size", "preset", "fraction_gib", "cold")
    found = {
        "context": context(choose_device(given.device)),
        "setup": {key: getattr(given, key) for key in keys},
        "dataset_bytes": 2 * _GROUPS * sum(rows * columns for rows, columns in shapes),
        "writing_seconds": written,
    }
    runs: list[dict[str, Any]] = []
    for network in given.networks:
        for row in measure(given, dataset, network):
            print(json.dumps(row), flush=True)
            runs.append(row)
        io.write_json(given.out, {**found, "runs": runs})  # what is cut off keeps the others
    if not given.keep:
        shutil.rmtree(dataset)


if __name__ == "__main__":
    main()
