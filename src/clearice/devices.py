"""Which device computes, said aloud."""

from __future__ import annotations

import os
import platform
import subprocess
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch

from clearice.errors import ClearIceWarning, ConfigError

_Kernel = TypeVar("_Kernel")


class KernelFallback(ClearIceWarning):
    """PyTorch does the work of a kernel, since Triton is missing or cannot compile."""


def choose_device(name: str) -> torch.device:
    """Return the device to use.

    Args:
        name: `auto` (CUDA, else CPU), or `cpu`, `cuda`, `cuda:N`, `mps` (untested).

    Raises:
        ConfigError: The device is unknown or not there; nothing falls back in silence.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: unknown; use auto, cpu, cuda, cuda:N or mps") from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise ConfigError(f"--device {name}: not available here; use --device auto or cpu")
    return device


def choose_devices(names: str) -> list[torch.device]:
    """Return one device or several.

    Args:
        names: As for `choose_device`, several of them with commas between, or `all`: each CUDA GPU.

    Raises:
        ConfigError: A device is unknown or not there.
    """
    if names != "all":
        return [choose_device(name.strip()) for name in names.split(",")]
    if not torch.cuda.is_available():
        raise ConfigError("--device all: no GPU found; use --device auto or cpu")
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def describe_device(device: torch.device) -> str:
    """Return what a user would call the device."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"{torch.cuda.get_device_name(device)} ({memory:.0f} GiB)"
    return f"{device.type} ({torch.get_num_threads()} threads)"


def kernel_or_warning(build: Callable[[], _Kernel], work: str) -> _Kernel | None:
    """Return what `build` compiles and runs with Triton; None, said aloud, where that fails.

    Args:
        build: Imports the kernel, tries it, and returns it.
        work: What is then done without it, as the beginning of a sentence.
    """
    try:
        return build()
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        warnings.warn(
            f"{work} without Triton's kernel, which is slower ({reason})",
            KernelFallback,
            stacklevel=3,
        )
        return None


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_bytes() -> int:
    """Return how much main memory can be had without swapping; 0 if the system does not say.

    Page cache counts as available. A container's limit counts, where Linux states it.
    """
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return 0
    fields = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
    available = 1024 * int(fields["MemAvailable"].split()[0])
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return available if text == "max" else min(available, int(text))


def device_memory_bytes(device: torch.device) -> int | None:
    """Return the memory of a GPU; None where nothing tells."""
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory


def free_memory_bytes(device: torch.device) -> int:
    """Return the memory of a GPU that this process can still take, or holds and does not use."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def diagnose() -> dict[str, str]:
    """Return what is installed, which device `auto` picks, and what will be slow here."""
    device = choose_device("auto")
    packages = (
        *("clearice", "torch", "numpy", "mrcfile", "tifffile", "imagecodecs", "vitrio"),
        *("torch-ctf", "pydantic", "safetensors"),
    )
    found = {name: metadata.version(name) for name in packages}
    slow = "training: minutes for the demo, hours for a real session; use a CUDA GPU for that"
    return {
        "python": platform.python_version(),
        **found,
        "device": describe_device(device),
        "bfloat16": "native" if has_fast_bfloat16(device) else "slow or missing: keep float32",
        "slow here": slow if device.type == "cpu" else "nothing known",
    }


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 is native."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
