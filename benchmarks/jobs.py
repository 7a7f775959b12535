"""Share independent experiments among the GPUs of one machine, a process each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from clearice.io import write_text

Job = dict[str, Any]


def run_jobs(
    jobs: Sequence[Job], work: Callable[[Job, Path], dict[str, Any]], out: Path
) -> list[dict[str, Any]]:
    """Run every job once and return their results in order; finished ones are not repeated.

    The script calls itself again for each GPU (or several times, `CLEARICE_WORKERS_PER_GPU`), so
    `work` runs in a process of its own. Without a GPU the jobs run here, one after the other.

    Args:
        jobs: JSON-able descriptions, each with a unique `name`.
        work: Does one job in a folder of its own and returns its result, the job under `job`.
        out: Folder for `NAME.json` of each job.
    """
    out.mkdir(parents=True, exist_ok=True)
    share = os.environ.get("CLEARICE_WORKER")
    gpus = torch.cuda.device_count()
    count = max(1, gpus) * int(os.environ.get("CLEARICE_WORKERS_PER_GPU", "1"))
    if share is None and count > 1:
        workers = []
        for index in range(count):
            environment = {
                **os.environ,
                "CUDA_VISIBLE_DEVICES": str(index % max(1, gpus)),
                "CLEARICE_WORKER": f"{index}/{count}",
            }
            workers.append(subprocess.Popen([sys.executable, *sys.argv], env=environment))
        codes = [worker.wait() for worker in workers]
        if any(codes):
            raise SystemExit("a worker failed")
    else:
        first, step = map(int, share.split("/")) if share else (0, 1)
        for job in jobs[first::step]:
            target = out / f"{job['name']}.json"
            if not (target.exists() and json.loads(target.read_text())["job"] == job):
                shutil.rmtree(out / job["name"], ignore_errors=True)  # of a job that was killed
                write_text(target, json.dumps(work(job, out / job["name"])))
        if share:
            raise SystemExit(0)
    return [json.loads((out / f"{job['name']}.json").read_text()) for job in jobs]
