"""Measurements in processes of their own, and the memory that they take."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from clearice.devices import choose_device
from clearice.io import ensure_folder, write_json

_LOOK_SECONDS = 0.05
_CGROUP = Path("/sys/fs/cgroup/memory.stat")


def measured_alone(
    work: Callable[..., dict[str, Any]], result: Path, *given: Any
) -> dict[str, Any]:
    """Do work in a new process and return what it returns.

    Args:
        work: A function of a module, whose result can be written as JSON.
        result: File for it.
        given: Arguments.

    Raises:
        SystemExit: The process failed.
    """
    ensure_folder(result.parent)
    result.unlink(missing_ok=True)
    process = multiprocessing.get_context("spawn").Process(
        target=_write_result, args=(work, result, given)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{result.stem} failed")
    values: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return values


def _write_result(
    work: Callable[..., dict[str, Any]], result: Path, given: tuple[Any, ...]
) -> None:
    write_json(result, work(*given))


def limited_device(name: str, fraction_gib: float | None) -> torch.device:
    """Return the device, after taking care that this process takes no more of its memory."""
    device = choose_device(name)
    if device.index is not None:
        torch.cuda.set_device(device)
    if device.type == "cuda" and fraction_gib is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(fraction_gib * 2**30 / total)
    return device


def device_memory(device: torch.device) -> dict[str, float]:
    """Return the most that PyTorch reserved, and what the driver says is in use in all, MiB."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "peak_reserved_mib": round(torch.cuda.max_memory_reserved(device) / 2**20, 1),
        "driver_used_mib": round((total - free) / 2**20, 1),
    }


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Yield what will hold the most memory that this process took meanwhile, MiB.

    File-backed memory is the system's: it takes it back when it needs it. `peak_resident_mib` is
    the kernel's own count, of both and from the start of the process.
    """
    peaks: dict[str, float] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_SECONDS):
            for name, kib in _memory_kib().items():
                peaks[name] = max(peaks.get(name, 0.0), kib)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()
        for name, kib in _memory_kib().items():
            peaks[name] = round(max(peaks.get(name, 0.0), kib) / 1024, 1)


def _memory_kib() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("Rss", "VmHWM")))
    kib = {name: float(text.split()[0]) for name, text in fields.items()}
    values = {
        "peak_anonymous_mib": kib["RssAnon"],
        "peak_file_backed_mib": kib["RssFile"],
        "peak_resident_mib": kib["VmHWM"],
    }
    if _CGROUP.is_file():
        first = _CGROUP.read_text(encoding="utf-8").splitlines()[0].split()
        values |= (
            {"peak_cgroup_anonymous_mib": float(first[1]) / 1024} if first[0] == "anon" else {}
        )
    return values
