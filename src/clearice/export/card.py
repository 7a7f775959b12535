"""What an exported model says of itself, for programs and people without clearice."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from torch import nn

from clearice import __version__
from clearice.checkpoint import ModelInfo
from clearice.networks import find_network, measure_geometry

Normalisation = Literal["weights", "inside", "outside"]

_BEFORE: Final = (
    "x = (image - mean) / std, both over the whole full-dose micrograph, std of n pixels"
)
_RECIPES: Final[dict[Normalisation, str]] = {
    "weights": f"{_BEFORE}; denoised = network(x) * output_gain * std + mean",
    "inside": "inside: takes the intensities of whole micrographs and gives denoised intensities",
    "outside": f"outside: {_BEFORE}; denoised = y * std + mean; output_gain is inside",
}


def describe(
    network: nn.Module, info: ModelInfo, licence: str, normalisation: Normalisation
) -> dict[str, Any]:
    """Return what a user of an exported model must know, as JSON values.

    Args:
        network: Of the model.
        info: Of the model.
        licence: Of the weights, in the words of whoever exports them.
        normalisation: Who normalises: a user of weights, the graph, or the user of a graph.
    """
    stride: int = network.total_stride  # type: ignore[assignment]
    return {
        "network": info.network,
        "options": find_network(info.network).options.model_dump(mode="json"),
        "stride_px": stride,
        "receptive_field_px": measure_geometry(network, stride).receptive_field,
        "pixel_size_angstrom": info.pixel_size_angstrom,
        "dose_e_per_A2": info.dose_e_per_A2,
        "target": info.target,
        "output_gain": info.output_gain,
        "normalisation": _RECIPES[normalisation],
        "licence": licence,
        "trained_by": f"clearice {info.clearice_version}",
        "exported_by": f"clearice {__version__}",
        "step": info.step,
        "dataset_sha256": info.dataset_sha256,
    }


def as_text(card: dict[str, Any]) -> dict[str, str]:
    """Return each value as text: text as it is, all else as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in card.items()}
