"""Time and peak memory of preparing simulated movies with gain and motion, a movie.

The baseline in the same run reads the frames and adds up the even and the odd ones, nothing else.
Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import mrcfile
import numpy as np
import torch

from clearice.benchmark.timing import context
from clearice.config import PrepareConfig
from clearice.io import write_json
from clearice.prepare import prepare_movies
from motion import field, path_px, write_movie

Align = Literal["none", "global"]


def plain_sums(movies: list[Path]) -> None:
    """Add up even and odd frames with mrcfile and numpy."""
    for path in movies:
        with mrcfile.mmap(path, mode="r", permissive=True) as handle:
            sums = np.zeros((2, *handle.data.shape[1:]), dtype=np.float32)
            for index, frame in enumerate(handle.data):
                sums[index % 2] += frame


def measure(work: Path, what: str, workers: int, device: torch.device) -> dict[str, float]:
    """Prepare all movies in a folder, or read them plainly, and return seconds and GiB."""
    movies = sorted(work.glob("movie*.mrc"))
    out = work / "dataset"
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    if what == "plain":
        plain_sums(movies)
    else:
        align: Align = "global" if what == "global" else "none"
        config = PrepareConfig(align=align, gain=work / "gain.mrc", validation_fraction=0.0)
        prepare_movies(movies, out, config, device=device, workers=workers)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 2**20
    result = {"seconds_per_movie": round(seconds / len(movies), 2), "peak_gib": round(peak, 2)}
    if device.type == "cuda":
        result["peak_device_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    return result


def main() -> None:
    """Simulate, measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("prepare-work"))
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--movies", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "WORKERS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        what, workers = given.measure
        print(json.dumps(measure(given.work, what, int(workers), given.device)))
        return
    specimen = f"{os.environ['CLEARICE_TEST_DATA']}/3j9i.pdb.gz"
    path = path_px(10.0, given.frames, 0.1, seed=3)
    write_movie(field(specimen, given.size, given.device), path, given.work, False, given.device)
    (given.work / "movie.mrc").rename(given.work / "movie0.mrc")
    for index in range(1, given.movies):
        shutil.copyfile(given.work / "movie0.mrc", given.work / f"movie{index}.mrc")
    rows: list[dict[str, Any]] = []
    cases = [("plain", 1), *((what, n) for what in ("none", "global") for n in given.workers)]
    for what, workers in cases:
        command = [sys.executable, __file__, "--measure", what, str(workers)]
        command += ["--out", str(given.out), "--work", str(given.work)]
        command += ["--device", str(given.device)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append({"what": what, "workers": workers, **json.loads(done.stdout.splitlines()[-1])})
        rows[-1]["ratio_to_plain"] = round(
            rows[-1]["seconds_per_movie"] / rows[0]["seconds_per_movie"], 2
        )
        print(rows[-1], flush=True)
    settings = {"size": given.size, "frames": given.frames, "groups": PrepareConfig().groups}
    write_json(given.out, {"context": context(given.device), "settings": settings, "rows": rows})
    shutil.rmtree(given.work)


if __name__ == "__main__":
    main()
