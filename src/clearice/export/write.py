"""Writing a model as weights, as a PyTorch program or as an ONNX graph."""

from __future__ import annotations

import io as memory
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors.torch import save as serialise
from torch import nn

from clearice import io
from clearice.checkpoint import ModelInfo, load_model, resolve
from clearice.errors import ConfigError, OutputError
from clearice.export.card import as_text, describe
from clearice.export.portable import Portable, trace
from clearice.networks import fold

Format = Literal["safetensors", "pt2", "onnx"]
CARD: Final = "clearice_export"


def export_model(
    model: Path,
    out: Path,
    form: Format,
    *,
    normalise: bool = True,
    licence: str = "not stated",
) -> None:
    """Write a model for other programs, whole or not at all.

    Args:
        model: A run's folder or a model file.
        out: File to write; an older one is replaced.
        form: safetensors (weights), pt2 (torch.export) or onnx.
        normalise: Intensities in, intensities out, for pt2 and onnx; else normalised images.
        licence: Of the weights.

    Raises:
        CheckpointError: The model cannot be loaded.
        OutputError: The file cannot be written, or is the model itself.
        ConfigError: ONNX is asked for and its packages are missing.
    """
    if form == "onnx":
        _require_onnx()
    if out.is_dir():
        raise OutputError(f"{out}: is a folder; name a file in it")
    if out.exists() and out.samefile(resolve(model)):
        raise OutputError(f"{out}: is the model itself; choose another --out")
    network, info = load_model(model)
    folded = fold(network).requires_grad_(False)
    if form == "safetensors":
        content = _weights(folded, info, licence)
    else:
        portable = Portable(folded, info.output_gain, normalise=normalise).eval()
        card = describe(folded, info, licence, "inside" if normalise else "outside")
        content = (_pt2 if form == "pt2" else _onnx)(portable, card)
    with io.atomic_path(out) as temporary:
        temporary.write_bytes(content)


def _weights(network: nn.Module, info: ModelInfo, licence: str) -> bytes:
    card = json.dumps(describe(network, info, licence, "weights"))
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    return serialise(tensors, metadata={CARD: card})


def _pt2(portable: Portable, card: dict[str, object]) -> bytes:
    buffer = memory.BytesIO()
    extra = {f"{CARD}.json": json.dumps(card)}
    program = trace(portable)
    program.example_inputs = None  # would be stored
    torch.export.save(program, buffer, extra_files=extra)
    return buffer.getvalue()


def _onnx(portable: Portable, card: dict[str, object]) -> bytes:
    with _quiet():
        program = torch.onnx.export(
            trace(portable),
            input_names=["image"],
            output_names=["denoised"],
            dynamic_shapes={"image": {0: "batch", 2: "height", 3: "width"}},  # their names
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the ONNX exporter gave nothing")
    for node in program.model.graph:
        node.metadata_props.clear()  # names of source files and layers
    program.model.metadata_props.update(as_text(card))
    return program.model_proto.SerializeToString()


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--format onnx needs the package {' and '.join(missing)}: pip install 'clearice[onnx]'"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about its own insides to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
