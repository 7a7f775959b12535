"""Whole collections from disk to disk: speed, memory of both kinds, small cards, several GPUs.

Micrographs are noise in float32 MRC files. Every measurement is a process of its own, and is in the
result file as soon as it is there. `--quick` is small enough for a CPU, to try the script. Files
are written once; larger collections are links to them. Networks have random weights: none of these
numbers depends on them.

What is measured:
- `end_to_end`: the default network on `--files` micrographs beside the disk and the network alone;
  `cold` drops the files from the page cache before each pass;
- `memory`: 16 and 256 micrographs;
- `small_card`: with no more of the GPU's memory than `--fraction-gib`;
- `devices`: the largest collection in a setting that the network bounds (`--bound`), on 1, 2, …
  devices, a process each; the start of the processes counts in `seconds`, not in the rate, which is
  counted from the tenth part of the collection on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clearice import io
from clearice.benchmark import denoise as bench
from clearice.benchmark.timing import context
from clearice.denoise import Recipe, denoise_files
from clearice.devices import choose_device, choose_devices
from processes import device_memory, limited_device, measured_alone, watched

# Before speed counts.
_LEAD = 0.1


def collection(folder: Path, count: int) -> list[Path]:
    """Return so many micrographs: the files of a folder, and links to them for the rest."""
    files = sorted((folder / "in").glob("*.mrc"))
    linked = io.ensure_folder(folder / f"in-{count}")
    paths = [linked / f"m{index:05d}.mrc" for index in range(count)]
    for index, path in enumerate(paths):
        if not path.exists():
            path.symlink_to(files[index % len(files)].resolve())
    return paths


def make_files(folder: Path, count: int, size: int) -> dict[str, Any]:
    """Write the files that all use."""
    bench.Collection.make(folder / "in", count, size)
    return {}


def end_to_end(
    folder: Path, recipe: dict[str, Any], count: int, name: str, cold: bool
) -> dict[str, Any]:
    """Measure the pipeline beside its parts."""
    device = choose_device(name)
    files = bench.Collection(tuple(collection(folder, count)))
    rows = bench.end_to_end(files, _recipe(folder, recipe), device, folder / "out", cold=cold)
    return {"rows": rows}


def one_run(
    folder: Path, recipe: dict[str, Any], count: int, name: str, fraction_gib: float | None
) -> dict[str, Any]:
    """Denoise a collection as the command does, and watch time and memory."""
    device = limited_device(name, fraction_gib)
    denoiser = _recipe(folder, recipe).on(device)
    clock = _Clock()
    with watched() as memory:
        denoise_files(collection(folder, count), denoiser, folder / "out", progress=clock)
    shutil.rmtree(folder / "out")
    return {"micrographs": count, **clock.result(), **memory, **device_memory(device)}


def on_devices(folder: Path, recipe: dict[str, Any], count: int, names: str) -> dict[str, Any]:
    """Denoise a collection on devices with a process each."""
    devices = choose_devices(names)
    denoiser = _recipe(folder, recipe).on(torch.device("cpu"))
    clock, said = _Clock(), list[str]()
    denoise_files(
        collection(folder, count),
        denoiser,
        folder / "out",
        progress=clock,
        say=said.append,
        devices=devices,
    )
    shutil.rmtree(folder / "out")
    return {"devices": len(devices), "micrographs": count, **clock.result(), "said": said}


def _recipe(folder: Path, recipe: dict[str, Any]) -> Recipe:
    io.ensure_folder(folder / "models")
    network = recipe["network"]
    model = bench.write_model(folder / "models", network)
    rest = {key: value for key, value in recipe.items() if key != "network"}
    return Recipe(model, **rest)


class _Clock:
    """Notes when micrographs were done."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._times: list[float] = []

    def __call__(self, done: int, total: int) -> None:
        self._times.append(time.perf_counter())

    def result(self) -> dict[str, float]:
        """Return the time of all, and the rate after the first tenth."""
        lead = max(0, int(_LEAD * len(self._times)) - 1)
        taken = self._times[-1] - self._times[lead]
        return {
            "seconds": round(self._times[-1] - self._start, 3),
            "micrographs_per_second": round((len(self._times) - 1 - lead) / taken, 3),
        }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("denoise-work"))
    parser.add_argument("--size", type=int, default=4096, help="of a micrograph, px")
    parser.add_argument("--files", type=int, default=64, help="micrographs on disk")
    parser.add_argument("--counts", type=int, nargs="+", default=[16, 256])
    parser.add_argument("--network", default="unet")
    parser.add_argument("--bound", default='{"network": "unet", "tta": true}', help="as JSON")
    parser.add_argument("--fraction-gib", type=float, default=6.5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--devices", nargs="+", help="lists, such as cuda:0 cuda:0,cuda:1")
    parser.add_argument("--only", nargs="+", help="of the measurements: these")
    parser.add_argument("--quick", action="store_true", help="a few small micrographs")
    given = parser.parse_args()
    if given.quick:
        given.size, given.files, given.counts = 256, 4, [4, 8]
        given.bound = '{"network": "cnn3", "tta": true}'
    if given.devices is None:
        given.devices = _ladder(given.device)
    return given


def _ladder(name: str) -> list[str]:
    """Return 1, 2, 4, … devices, as lists."""
    if choose_device(name).type != "cuda":
        return ["cpu", "cpu,cpu"]
    most = torch.cuda.device_count()
    counts = [count for count in (1, 2, 4, 8) if count <= most]
    return [",".join(f"cuda:{index}" for index in range(count)) for count in counts]


def plan(given: argparse.Namespace) -> dict[str, tuple[Callable[..., dict[str, Any]], Any]]:
    """Return what is measured, by name, with what each is given."""
    folder, device = given.work, given.device
    default, bound = {"network": given.network}, json.loads(given.bound)
    half = {**default, "precision": "bfloat16"}
    tasks: dict[str, tuple[Callable[..., dict[str, Any]], Any]] = {
        "end_to_end": (end_to_end, (folder, default, given.files, device, False)),
        "end_to_end_cold": (end_to_end, (folder, default, given.files, device, True)),
    }
    if choose_device(device).type == "cuda":
        tasks["end_to_end_bfloat16"] = (end_to_end, (folder, half, given.files, device, False))
    for count in given.counts:
        tasks[f"memory_{count}"] = (one_run, (folder, default, count, device, None))
    small = (folder, default, min(given.counts), device, given.fraction_gib)
    tasks["small_card"] = (one_run, small)
    for names in given.devices:
        most = (folder, bound, max(given.counts), names)
        tasks[f"devices_{len(names.split(','))}"] = (on_devices, most)
    return tasks


def main() -> None:
    """Write the files, measure each thing, and keep what is there after each."""
    given = arguments()
    io.ensure_folder(given.out.parent)
    (given.work / "out").mkdir(parents=True, exist_ok=True)
    measured_alone(make_files, given.work / "files.json", given.work, given.files, given.size)
    keys = ("size", "files", "counts", "network", "bound", "fraction_gib", "devices")
    result: dict[str, Any] = {
        "context": context(choose_device(given.device)),
        "setup": {key: getattr(given, key) for key in keys},
    }
    for name, (work, arguments_) in plan(given).items():
        if given.only and not any(name.startswith(wanted) for wanted in given.only):
            continue
        result[name] = measured_alone(work, given.work / f"{name}.json", *arguments_)
        print(name, json.dumps(result[name]), flush=True)
        io.write_json(given.out, result)
    shutil.rmtree(given.work)


if __name__ == "__main__":
    main()
