"""Does the report card of hundreds of large micrographs run in bounded memory, and how fast?

A few micrographs of 4096² are made (smooth signal, white noise, a blur as the denoiser); the
others are links to them, which cost as much to judge. `clearice evaluate card` runs as a process of
its own, whose memory and time are measured.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from clearice import io
from clearice.benchmark.timing import context
from clearice.fourier import gaussian_lowpass
from clearice.seeds import derive_seed

PIXEL_SIZE = 1.315
FOLDERS = ("raw_even", "raw_odd", "denoised_even", "denoised_odd")


def write_originals(out: Path, count: int, size: int) -> None:
    """Write a few micrographs, each with both halves, raw and blurred."""
    for index in range(count):
        generator = torch.Generator().manual_seed(derive_seed("evaluation scale", index))
        signal = gaussian_lowpass(torch.randn(size, size, generator=generator), 6.0)
        for half in ("even", "odd"):
            noise = torch.randn(size, size, generator=generator)
            raw = 0.2 * signal / signal.std() + noise
            for name, image in (("raw", raw), ("denoised", gaussian_lowpass(raw, 4.0))):
                folder = io.ensure_folder(out / f"{name}_{half}")
                io.write_mrc(folder / f"original_{index}.mrc", image, PIXEL_SIZE)


def link(originals: Path, out: Path, count: int) -> None:
    """Give `count` names to the originals in turn."""
    for name in FOLDERS:
        files = sorted((originals / name).glob("*.mrc"))
        folder = io.ensure_folder(out / name)
        for index in range(count):
            target = folder / f"mic_{index:04d}.mrc"
            if not target.exists():
                os.link(files[index % len(files)], target)


def watched(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command and return its seconds, those of processors, and its most memory, GiB."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    peak = 0
    done = threading.Event()

    def look() -> None:
        nonlocal peak
        status = Path(f"/proc/{process.pid}/status")
        while not done.wait(0.2) and status.exists():
            lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
            peak = max(peak, *(int(line.split()[1]) for line in lines), 0)

    watcher = threading.Thread(target=look)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} failed: {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": worked,
        "peak_gib": peak / 2**20,
    }


def measure(folder: Path, count: int, threads: int) -> dict[str, Any]:
    """Judge `count` micrographs."""
    link(folder / "originals", folder / f"results_{count}", count)
    command = [sys.executable, "-m", "clearice", "evaluate", "card"]
    command += [str(folder / f"results_{count}"), "--out", str(folder / f"card_{count}.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    found = watched(command, environment)
    row = {
        "micrographs": count,
        **{key: round(value, 2) for key, value in found.items()},
        "seconds_a_micrograph": round(found["seconds"] / count, 2),
        "processor_seconds_a_micrograph": round(found["processor_seconds"] / count, 2),
        "load_average": os.getloadavg()[1],
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Run it and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("evaluation-scale-work"))
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--originals", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[4, 200])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--note", default="", help="what else the machine did")
    arguments = parser.parse_args()
    write_originals(arguments.work / "originals", arguments.originals, arguments.size)
    rows = [measure(arguments.work, count, arguments.threads) for count in arguments.counts]
    io.write_json(
        arguments.out,
        {
            "context": context(torch.device("cpu")),
            "size": arguments.size,
            "threads": arguments.threads,
            "note": arguments.note,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
