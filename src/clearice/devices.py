"""Which device computes, said aloud."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from clearice.errors import ConfigError


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


def describe_device(device: torch.device) -> str:
    """Return what a user would call the device."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"{torch.cuda.get_device_name(device)} ({memory:.0f} GiB)"
    return f"{device.type} ({torch.get_num_threads()} threads)"


def diagnose() -> dict[str, str]:
    """Return what is installed, which device `auto` picks, and what will be slow here."""
    device = choose_device("auto")
    packages = ("clearice", "torch", "numpy", "mrcfile", "torch-ctf", "pydantic", "safetensors")
    found = {name: metadata.version(name) for name in packages}
    slow = "training: minutes for the demo, hours for a real session; use a CUDA GPU for that"
    return {
        "python": platform.python_version(),
        **found,
        "device": describe_device(device),
        "bfloat16": "native" if _has_fast_bfloat16(device) else "slow or missing: keep float32",
        "slow here": slow if device.type == "cpu" else "nothing known",
    }


def _has_fast_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
