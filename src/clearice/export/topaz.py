"""The weights of Topaz-Denoise's 2D U-Nets, taken into a model of the network `topaz-unet`."""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from torch import Tensor

from clearice import __version__, checkpoint
from clearice.checkpoint import ModelInfo
from clearice.errors import ConfigError, InputFileError
from clearice.networks import TopazUNetOptions, build_network

_KEY: Final = re.compile(r"(enc|dec)(\d+)\.(\d)\.(weight|bias)")
_REMEDY: Final = "give the state dictionary of Topaz's unet or unet-small"
# Of the layers of a decoder there, by their place here.
_UP: Final = {"0": "0.0", "2": "1.0"}
_HEAD: Final = {"0": "0.0", "2": "1.0", "4": "2"}


def import_topaz(weights: Path, out: Path, pixel_size_angstrom: float) -> ModelInfo:
    """Write a model with the weights of `UDenoiseNet` or `UDenoiseNetSmall`.

    Source: Bepler et al. 2020; `topaz/denoising/models.py` of tbepler/topaz.

    Args:
        weights: State dictionary that `torch.save` wrote.
        out: Model file to write; an older one is replaced.
        pixel_size_angstrom: Of the micrographs that it was trained on, Å/px.

    Returns:
        What the model says of itself.

    Raises:
        InputFileError: Not there, more than tensors, or of another network.
        ConfigError: The pixel size is no length.
        OutputError: `out` cannot be written.
    """
    if not 0 < pixel_size_angstrom < float("inf"):
        raise ConfigError(f"--pixel-size {pixel_size_angstrom:g}: must be above 0 Å/px")
    state = _read(weights)
    name, renamed = _converted(weights, state)
    info = ModelInfo(
        network=name,
        pixel_size_angstrom=pixel_size_angstrom,
        dose_e_per_A2=None,
        output_gain=1.0,
        target="noisy",
        step=0,
        config={"network": name, "imported_from": f"Topaz-Denoise, {weights.name}"},
        clearice_version=f"{__version__}, from weights of Topaz-Denoise",
    )
    checkpoint.save(out, renamed, info, None)
    return info


def _read(path: Path) -> dict[str, Tensor]:
    """Read tensors by their names, and nothing that would have to be run."""
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputFileError(path, "does not exist", "check the path") from None
    except UnpicklingError:
        raise InputFileError(
            path, "is no file of PyTorch, or holds more than tensors", _REMEDY
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).split(". ")[0] or "it ends early"
        raise InputFileError(path, f"cannot be read ({reason})", "copy the file again") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputFileError(path, "is no state dictionary", _REMEDY)
    return {str(name): value.float() for name, value in state.items()}


def _converted(path: Path, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the network, options in brackets, and its weights by the names they have here."""
    blocks = [int(match[2]) for key in state if (match := _KEY.fullmatch(key))]
    depth = max(blocks, default=0) - 1  # the deepest encoder has no pooling, and no decoder
    try:
        name = _network(state, depth)
        renamed = {_renamed(key, depth): value for key, value in state.items()}
        with torch.random.fork_rng(devices=[]):
            build_network(name).load_state_dict(renamed)
    except (KeyError, IndexError, ConfigError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip(" .\t")
        raise InputFileError(path, f"is no 2D U-Net of Topaz ({reason})", _REMEDY) from None
    return name, renamed


def _network(state: dict[str, Tensor], depth: int) -> str:
    """Return the network that has weights of these shapes, its usual options left out."""
    first, head, last = (state[f"{k}.weight"].shape for k in ("enc1.0", "dec1.0", "dec1.4"))
    options = {
        "depth": depth,
        "width": first[0],
        "first": first[-1],
        "head": head[0],
        "last": last[-1],
    }
    usual = TopazUNetOptions().model_dump()
    given = ", ".join(f"{key}={value}" for key, value in options.items() if value != usual[key])
    return f"topaz-unet({given})" if given else "topaz-unet"


def _renamed(key: str, depth: int) -> str:
    """Return the name here of `enc1.0.weight`, `dec5.2.bias` and the like."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise KeyError(key)
    side, number, layer, kind = match[1], int(match[2]), match[3], match[4]
    if side == "enc":
        return f"down.{number - 1}.{layer}.{kind}"
    if number == 1:
        return f"head.{_HEAD[layer]}.{kind}"
    return f"up.{depth - number}.{_UP[layer]}.{kind}"
