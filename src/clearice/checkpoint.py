"""The only save and load of models: one safetensors file, all else as JSON in its header.

One file, because only a single rename is atomic. It holds tensors and text, never code.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from clearice import io
from clearice.errors import CheckpointError, ConfigError, UnknownNameError
from clearice.networks import build_network

BEST_NAME = "best.safetensors"
LAST_NAME = "last.safetensors"
# Models that come with the package, by the names that commands take.
PACKAGED: Final = ("general", "general-small")
_HEADER_KEY = "clearice"
_MODEL_PREFIX = "model."


@dataclass(frozen=True)
class Calibration:
    """How a network treats the amplitudes of micrographs that it was not trained on.

    One value for each of equally wide Fourier rings from 0 to 0.5 cycles/px.

    Attributes:
        gain: Factor that brings its output, from the full dose, to the power of the signal.
        correlation: Of its output with the signal, ρ; None where no signal was found.
        transfer: Share of the signal's amplitude in its output; None where no signal was found.
        micrographs: How many it was measured on.
    """

    gain: tuple[float, ...]
    correlation: tuple[float | None, ...]
    transfer: tuple[float | None, ...]
    micrographs: int

    def __post_init__(self) -> None:
        if not self.gain or not all(0 < gain < math.inf for gain in self.gain):
            raise ValueError("gains of the calibration must be finite and above 0")


@dataclass(frozen=True)
class Domain:
    """What a model of many kinds of micrographs has seen.

    Attributes:
        pixel_size_angstrom: Least and largest, Å/px.
        dose_e_per_A2: Least and largest, e/Å².
        traits: Of micrographs of that kind and what the model makes of them, see `metrics.traits`:
            what all but one in a hundred lie between.
    """

    pixel_size_angstrom: tuple[float, float]
    dose_e_per_A2: tuple[float, float]
    traits: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelInfo:
    """What a user of the model must know.

    Attributes:
        network: Name in the registry.
        pixel_size_angstrom: Of the training data, Å/px.
        dose_e_per_A2: Of the training data, e/Å², if known.
        output_gain: Factor from the network's output to the scale of the normalised input.
        target: `noisy`, `clean` or `masked`.
        step: Optimiser steps taken.
        config: The training configuration.
        clearice_version: That trained it.
        dataset_sha256: Checksum of the manifest of the data set it was trained on.
        normalisation: How inputs are normalised.
        calibration: Of its amplitudes, once it was measured.
        domain: Of a general model; None: one data set, to whose pixel size and dose it is bound.
    """

    network: str
    pixel_size_angstrom: float
    dose_e_per_A2: float | None
    output_gain: float
    target: str
    step: int
    config: dict[str, Any]
    clearice_version: str
    dataset_sha256: str = ""
    normalisation: str = "(x - mean) / std over the whole full-dose micrograph"
    calibration: Calibration | None = None
    domain: Domain | None = None


@dataclass(frozen=True)
class TrainingSnapshot:
    """Everything a run needs to go on where it stopped.

    Attributes:
        tensors: Weights and optimiser state under `raw.` and `optimizer.`.
        progress: Step, seconds, best validation and the like.
    """

    tensors: dict[str, Tensor]
    progress: dict[str, Any]


def save(
    path: Path, weights: dict[str, Tensor], info: ModelInfo, snapshot: TrainingSnapshot | None
) -> None:
    """Write a model, and the state of its training if given, atomically.

    Args:
        path: File to write.
        weights: State of the network to denoise with.
        info: What to know about it.
        snapshot: State of the training.

    Raises:
        OutputError: The file cannot be written; an older one of the name stays whole.
    """
    tensors = {f"{_MODEL_PREFIX}{name}": value for name, value in weights.items()}
    header: dict[str, Any] = {"info": asdict(info)}
    if snapshot is not None:
        tensors |= snapshot.tensors
        header["progress"] = snapshot.progress
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with io.atomic_path(path) as temporary:
        # Not `save_file`: its files cannot be read by others on a shared disk.
        temporary.write_bytes(serialise(tensors, metadata={_HEADER_KEY: json.dumps(header)}))


def _read(path: Path, *, with_tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as handle:
            header = json.loads((handle.metadata() or {})[_HEADER_KEY])
            names = handle.keys() if with_tensors else ()
            return {name: handle.get_tensor(name) for name in names}, header
    except FileNotFoundError:
        raise CheckpointError(f"{path}: does not exist; train first, or check --model") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: is no clearice model or is damaged ({error}); train again, or check --model"
        ) from None


def resolve(model: Path) -> Path:
    """Return the file of a model that comes with the package, of a run's folder (its best weights),
    or the file itself.

    Raises:
        CheckpointError: There is none.
    """
    if str(model) in PACKAGED and not model.exists():
        return Path(__file__).parent / "models" / f"{model}.safetensors"
    path = model / BEST_NAME if model.is_dir() else model
    if not path.is_file():
        raise CheckpointError(f"{path}: does not exist; train first, or check --model")
    return path


def checksum(model: Path) -> str:
    """Return the SHA-256 of a model's file, by which results say what made them.

    Args:
        model: A run's folder or a model file.

    Raises:
        CheckpointError: There is none.
    """
    with resolve(model).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_model(model: Path) -> tuple[nn.Module, ModelInfo]:
    """Load a network to denoise with.

    Args:
        model: A run's folder or a model file.

    Returns:
        The network on the CPU in evaluation mode, and what to know about it.

    Raises:
        CheckpointError: Missing, damaged, or of a network that this version does not have.
    """
    path = resolve(model)
    tensors, header = _read(path)
    info = _info(path, header)
    try:
        # Its fresh weights, which are replaced, must not be drawn from anyone's random numbers.
        with torch.random.fork_rng(devices=[]):
            network = build_network(info.network)
        network.load_state_dict(_part(tensors, _MODEL_PREFIX))
    except (UnknownNameError, ConfigError, RuntimeError) as error:
        raise _misfit(path, error) from None
    return network.eval(), info


def load_info(model: Path) -> ModelInfo:
    """Read what to know about a model.

    Args:
        model: A run's folder or a model file.

    Raises:
        CheckpointError: Missing, damaged, or of another version.
    """
    path = resolve(model)
    return _info(path, _read(path, with_tensors=False)[1])


def load_training(path: Path) -> tuple[ModelInfo, dict[str, Tensor], TrainingSnapshot]:
    """Load what a run needs to go on: its info, averaged weights and snapshot.

    Raises:
        CheckpointError: Missing, damaged, or saved without training state.
    """
    tensors, header = _read(path)
    if "progress" not in header:
        raise CheckpointError(f"{path}: holds no training state; resume from {LAST_NAME}")
    rest = {name: value for name, value in tensors.items() if not name.startswith(_MODEL_PREFIX)}
    snapshot = TrainingSnapshot(rest, header["progress"])
    return _info(path, header), _part(tensors, _MODEL_PREFIX), snapshot


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under a prefix, without it."""
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _info(path: Path, header: dict[str, Any]) -> ModelInfo:
    try:
        info = {**header["info"]}
        if info.get("calibration") is not None:
            info["calibration"] = _calibration(**info["calibration"])
        if info.get("domain") is not None:
            info["domain"] = _domain(**info["domain"])
        return ModelInfo(**info)
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit(path, error) from None


def _calibration(
    gain: list[float],
    correlation: list[float | None],
    transfer: list[float | None],
    micrographs: int,
) -> Calibration:
    return Calibration(tuple(gain), tuple(correlation), tuple(transfer), micrographs)


def _domain(
    pixel_size_angstrom: Sequence[float],
    dose_e_per_A2: Sequence[float],
    traits: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Domain:
    def pair(values: Sequence[float]) -> tuple[float, float]:
        low, high = values
        return float(low), float(high)

    spans = {name: pair(span) for name, span in traits.items()}
    return Domain(pair(pixel_size_angstrom), pair(dose_e_per_A2), spans)


def _misfit(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0]
    return CheckpointError(f"{path}: does not fit this version of clearice ({reason}); train again")


def pack(model: Path, path: Path) -> None:
    """Write a model in half the bytes, its weights in float16, as those of the package are.

    Args:
        model: A run's folder or a model file.
        path: File to write.

    Raises:
        CheckpointError: The model cannot be loaded.
        OutputError: The file cannot be written.
    """
    network, info = load_model(model)
    weights = network.state_dict()
    half = {n: w.half() if w.is_floating_point() else w for n, w in weights.items()}
    save(path, half, info, None)
