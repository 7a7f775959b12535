"""Is a general model out of its depth? What it makes of a micrograph, beside what it has seen."""

from __future__ import annotations

from typing import Final

from jaxtyping import Float
from torch import Tensor

from clearice.checkpoint import Domain
from clearice.metrics import traits

# The middle is enough to tell, and costs milliseconds.
CROP_PX: Final = 512
# Of a span's own width: what lies so far outside of it is told.
LARGEST_EXCESS: Final = 0.25
_MEANING: Final = {
    "noise low": "more or less slow noise",
    "noise high": "more or less fast noise",
    "contrast": "another contrast",
    "outliers": "more outliers (hot pixels, X-rays)",
    "signal removed": "structure in what is taken out",
}


def middle(image: Float[Tensor, "h w"]) -> Float[Tensor, "rows columns"]:
    """Return a copy of the middle of an image, on the CPU."""
    rows, columns = (
        slice(max(0, (length - CROP_PX) // 2), max(0, (length - CROP_PX) // 2) + CROP_PX)
        for length in image.shape
    )
    return image[rows, columns].float().cpu().clone()


def excess(
    raw: Float[Tensor, "rows columns"], denoised: Float[Tensor, "rows columns"], domain: Domain
) -> tuple[float, str]:
    """Return how far a micrograph lies outside of what a model has seen, and in what.

    Args:
        raw: Middle of the micrograph.
        denoised: Middle of the result.
        domain: Of the model, with its spans.

    Returns:
        Distance from the nearest end of the worst trait's span, in widths of that span: 0 inside.
        And the name of that trait.
    """
    found = traits(raw, denoised)
    distances = {
        name: max(low - found[name], found[name] - high, 0.0) / max(high - low, 1e-6)
        for name, (low, high) in domain.traits.items()
    }
    worst = max(distances, key=lambda name: distances[name])
    return distances[worst], worst


def warning_of(score: float, trait: str) -> str | None:
    """Return what to tell the user of a score, if it is to be told."""
    if score <= LARGEST_EXCESS:
        return None
    return (
        f"is unlike what the model has seen ({_MEANING.get(trait, trait)}; {score:.1f} times the "
        "usual range outside of it): check the result, or train on this data"
    )
