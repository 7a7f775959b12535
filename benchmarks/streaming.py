"""Peak memory of `--cache stream` on data sets of 4 GB and of 400 GB.

The data sets are holes on disk with a manifest: any file system with sparse files has room for
them. Each run is a process of its own, which samples its anonymous and its file-backed memory.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import mrcfile
import torch

from clearice import __version__, train
from clearice.benchmark.timing import context
from clearice.config import TrainConfig
from clearice.data import MANIFEST_NAME, Manifest, MicrographEntry, Split
from clearice.devices import choose_device
from clearice.io import write_json
from processes import measured_alone, watched

_GROUPS = 8


def make_sparse_dataset(folder: Path, gigabytes: float, edge: int) -> int:
    """Write a data set whose stacks are holes; returns their number."""
    (folder / "stacks").mkdir(parents=True)
    stack_bytes = 2 * _GROUPS * edge * edge
    count = max(4, round(gigabytes * 1e9 / stack_bytes))
    first = folder / "stacks" / "mic_00000.mrc"
    with mrcfile.new_mmap(first, (_GROUPS, edge, edge), mrc_mode=12) as handle:
        handle.set_image_stack()
        handle.voxel_size = 1.315
    header = first.read_bytes()[:1024]
    entries = []
    for index in range(count):
        file = f"stacks/mic_{index:05d}.mrc"
        with (folder / file).open("wb") as out:
            out.write(header)
            out.truncate(1024 + stack_bytes)
        entries.append(
            MicrographEntry(
                name=f"mic_{index:05d}",
                file=file,
                shape=(_GROUPS, edge, edge),
                split=Split.VALIDATION if index % 50 == 1 else Split.TRAIN,
                mean=0.0,
                std=1.0,
                weights=(1 / _GROUPS,) * _GROUPS,
                sources=(file,),
                sha256="0" * 64,
            )
        )
    manifest = Manifest(
        clearice_version=__version__,
        pixel_size_angstrom=1.315,
        roles="exchangeable",
        micrographs=tuple(entries),
    )
    write_json(folder / MANIFEST_NAME, manifest.model_dump(mode="json"))
    return count


def _train(dataset: Path, out: Path, config: dict[str, Any], device: str) -> dict[str, Any]:
    start = time.monotonic()
    with watched() as memory:
        trained = train.run(dataset, out, TrainConfig(**config), choose_device(device))
    seconds = round(time.monotonic() - start, 1)
    return {"steps": trained.steps, "seconds": seconds, **memory}


def measure(gigabytes: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train on a data set of this size in a new process."""
    folder = arguments.work / f"{gigabytes:g}gb"
    shutil.rmtree(folder, ignore_errors=True)
    count = make_sparse_dataset(folder / "dataset", gigabytes, arguments.edge)
    config = {
        "network": arguments.network,
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "patch_size": arguments.patch_size,
        "cache": "stream",
        "validations": 2,
    }
    given = (folder / "dataset", folder / "run", config, arguments.device)
    values = measured_alone(_train, folder / "result.json", *given)
    shutil.rmtree(folder)
    return {"gigabytes": gigabytes, "micrographs": count, "config": config, **values}


def main() -> None:
    """Measure each size and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("streaming-work"))
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[4.0, 400.0])
    parser.add_argument("--edge", type=int, default=4096, help="of a micrograph, px")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--network", default="unet")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--patch-size", type=int, default=256)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    runs = [measure(size, arguments) for size in arguments.gigabytes]
    ratio = runs[-1]["peak_anonymous_mib"] / runs[0]["peak_anonymous_mib"]
    write_json(
        arguments.out,
        {
            "context": context(torch.device(choose_device(arguments.device))),
            "micrograph": [_GROUPS, arguments.edge, arguments.edge],
            "runs": runs,
            "anonymous_ratio": round(ratio, 4),
        },
    )
    for run in runs:
        print(run)
    print(f"anonymous memory: ratio {ratio:.4f}")


if __name__ == "__main__":
    main()
