"""A weighted sum of losses, its parts kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.loss_spec import Ramp, Weight, parse_term
from clearice.losses.binding import bind, in_pixels
from clearice.losses.fused import fourier_terms, is_fused
from clearice.losses.info import Verdict
from clearice.types import LossOutput


@final
class Objective:
    """Σ weight · loss, averaged over samples, always computed in float32 or wider.

    Args:
        weights: Weight of each loss, by term: `mse`, `pyramid(frc(bins=32), levels=3)`. A loss of
            weight 0 is watched and not trained with.
        pixel_size_angstrom: Å/px, for losses with an option `resolution`.

    Raises:
        UnknownNameError: A loss that is not in the registry.
        ConfigError: A loss has no such option, or a term cannot be read.
    """

    def __init__(self, weights: Mapping[str, Weight], pixel_size_angstrom: float = 1.0) -> None:
        self.weights = dict(weights)
        self._terms = {
            text: bind(in_pixels(parse_term(text), pixel_size_angstrom)) for text in weights
        }
        self._fused = [text for text, bound in self._terms.items() if is_fused(bound.term)]

    @property
    def needs_halves(self) -> bool:
        """Whether a loss wants two independent targets."""
        return any(term.targets == 2 for term in self._terms.values())

    def __call__(
        self,
        prediction: Float[Tensor, "n c h w"],
        target: Float[Tensor, "n c h w"],
        sample_weight: Float[Tensor, "n"] | None = None,
        *,
        halves: Float[Tensor, "n 2 h w"] | None = None,
        factors: Float[Tensor, "terms"] | None = None,
    ) -> LossOutput:
        """Return the weighted total, and each part without and with its weight.

        Args:
            prediction: Of the network.
            target: On the same scale.
            sample_weight: How much each sample's error counts; None: all the same.
            halves: Two independent targets, if `needs_halves`.
            factors: Weight of each loss in the total; None: those at the end of the training.
        """
        values = self._values(prediction, target, halves)
        parts, weighted = {}, {}
        for index, (name, value) in enumerate(values.items()):
            part = (value if sample_weight is None else sample_weight * value).mean()
            weight = weight_at(self.weights[name], 1.0) if factors is None else factors[index]
            weighted[name] = part * weight
            parts[name] = part.detach()
        total = torch.stack(list(weighted.values())).sum()
        return LossOutput(total, parts, {name: part.detach() for name, part in weighted.items()})

    def gradient_norms(
        self,
        prediction: Float[Tensor, "n c h w"],
        target: Float[Tensor, "n c h w"],
        halves: Float[Tensor, "n 2 h w"] | None = None,
    ) -> Float[Tensor, "terms"]:
        """Return the norm of each loss's gradient in the prediction, without its weight."""
        with torch.enable_grad():
            leaf = _wide(prediction.detach()).requires_grad_()
            values = self._values(leaf, target, halves)
            norms = [_gradient_norm(value, leaf) for value in values.values()]
        return torch.stack(norms)

    def _values(
        self, prediction: Tensor, target: Tensor, halves: Tensor | None
    ) -> dict[str, Float[Tensor, "n"]]:
        wide = _wide(prediction)
        one = (target.to(wide.dtype),)
        both = one if halves is None else torch.split(halves.to(wide.dtype), 1, 1)
        values: dict[str, Tensor] = dict.fromkeys(self._terms, wide)
        if self._fused:
            terms = [self._terms[name].term for name in self._fused]
            values |= zip(self._fused, fourier_terms(wide, *one, terms), strict=True)
        for name, term in self._terms.items():
            if name not in self._fused:
                values[name] = term.function(wide, *(one if term.targets == 1 else both))
            if self.weights[name] == 0:
                values[name] = values[name].detach()
        return values

    def refusal(self, *, noisy: bool) -> str | None:
        """Return in one sentence why this sum should not be trained with, if so.

        Args:
            noisy: Whether targets hold noise, as in Noise2Noise.
        """
        trained = {n: term for n, term in self._terms.items() if self.weights[n] != 0}
        if noisy:
            for name, term in trained.items():
                if term.verdict is Verdict.BIASED:
                    return (
                        f"loss '{name}' is biased by noisy targets: {term.why}; use "
                        f"{term.instead}, or clean targets"
                    )
        if all(term.free for term in trained.values()):
            name, term = next(iter(trained.items()))
            return (
                f"loss '{name}' leaves {term.free} free; put an anchor beside it, for instance "
                f"'mse + 0.05 {name}'"
            )
        return None


def weight_at(weight: Weight, progress: float) -> float:
    """Return a weight when a share of the training is done."""
    return weight.at(progress) if isinstance(weight, Ramp) else weight


def balancing_scales(norms: Float[Tensor, "terms"]) -> Float[Tensor, "terms"]:
    """Return factors that give each loss a gradient as long as that of the first one.

    Weights are then shares of the first loss's gradient. A loss without a gradient is left alone.

    Source: the static form of GradNorm (Chen et al., ICML 2018, with α = 0), in the prediction
    instead of the last shared weights, which costs no pass through the network.
    """
    return torch.where(norms > 0, norms[0] / norms.clamp(min=1e-30), 1.0)


def _gradient_norm(value: Float[Tensor, "n"], leaf: Tensor) -> Float[Tensor, ""]:
    if not value.requires_grad:
        return leaf.new_zeros(())
    (gradient,) = torch.autograd.grad(value.mean(), leaf, retain_graph=True)
    return gradient.norm()


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()
