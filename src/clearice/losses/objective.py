"""A weighted sum of losses, its parts kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from jaxtyping import Float
from torch import Tensor

from clearice.losses.registry import Verdict, find_loss
from clearice.types import LossOutput


@final
class Objective:
    """Σ weight · loss, averaged over samples, always computed in float32 or wider.

    Args:
        weights: Weight of each loss.

    Raises:
        UnknownNameError: A loss that is not in the registry.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self._terms = {name: find_loss(name) for name in weights}

    def __call__(
        self,
        prediction: Float[Tensor, "n c h w"],
        target: Float[Tensor, "n c h w"],
        sample_weight: Float[Tensor, "n"] | None = None,
    ) -> LossOutput:
        """Return the weighted total and each part without its weight.

        Args:
            prediction: Of the network.
            target: On the same scale.
            sample_weight: How much each sample's error counts; None: all the same.
        """
        wide = prediction if prediction.dtype.itemsize >= 4 else prediction.float()
        parts = {}
        for name, term in self._terms.items():
            values = term.function(wide, target.to(wide.dtype))
            parts[name] = (values if sample_weight is None else sample_weight * values).mean()
        total = sum((self.weights[name] * part for name, part in parts.items()), wide.new_zeros(()))
        return LossOutput(total, {name: part.detach() for name, part in parts.items()})

    def warnings_for_noisy_targets(self) -> list[str]:
        """Return one sentence for each loss whose minimiser is biased by noise in the target."""
        return [
            f"loss '{name}' is biased by noisy targets: {term.why}; "
            "use 'mse' alone, or clean targets"
            for name, term in self._terms.items()
            if term.verdict is Verdict.BIASED
        ]
