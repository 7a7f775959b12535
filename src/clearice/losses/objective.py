"""A weighted sum of losses, its parts kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice.errors import ConfigError
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
        self._trained = [
            text for text, weight in weights.items() if isinstance(weight, Ramp) or weight != 0
        ]
        self._fused = [text for text in self._trained if is_fused(self._terms[text].term)]
        if self.needs_halves and all(self._terms[text].targets == 1 for text in self._trained):
            watched = next(t for t, bound in self._terms.items() if bound.targets == 2)
            raise ConfigError(
                f"loss '{watched}' cannot be watched alone: for two targets the sampler draws "
                "other inputs; train with it, or leave it out"
            )

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
            if name in self._fused:
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and name in self._trained):
                values[name] = term.function(wide, *(one if term.targets == 1 else both))
        return values

    def check(self, patch_size: int) -> None:
        """Try every loss on empty patches, before anything is trained.

        Args:
            patch_size: Edge of the square patch, px.

        Raises:
            ConfigError: A loss cannot compare patches of that size.
        """
        patch = torch.zeros(1, 1, patch_size, patch_size)
        for name, term in self._terms.items():
            try:
                with torch.no_grad():
                    term.function(patch, *[patch] * term.targets)
            except ConfigError as error:
                raise ConfigError(f"loss '{name}', patches of {patch_size} px: {error}") from None

    def refusal(self, *, noisy: bool) -> str | None:
        """Return in one sentence why this sum should not be trained with, if so.

        Args:
            noisy: Whether targets hold noise, as in Noise2Noise.
        """
        trained = {name: self._terms[name] for name in self._trained}
        if noisy:
            for name, term in trained.items():
                if term.verdict is Verdict.BIASED:
                    return (
                        f"loss '{name}' is biased by noisy targets: {term.why}; use "
                        f"{term.instead}, or clean targets"
                    )
        # A weight that ends at 0 holds nothing at the end.
        last = {name: t for name, t in trained.items() if weight_at(self.weights[name], 1.0) > 0}
        if last and all(term.free for term in last.values()):
            name, term = next(iter(last.items()))
            return (
                f"loss '{name}' leaves {term.free} free; put an anchor beside it, for instance "
                f"'mse + 0.05 {name}'"
            )
        return None


def weight_at(weight: Weight, progress: float) -> float:
    """Return a weight when a share of the training is done."""
    return weight.at(progress) if isinstance(weight, Ramp) else weight


def balancing_scales(norms: Float[Tensor, "terms"]) -> Float[Tensor, "terms"]:
    """Return factors that give each loss a gradient as long as that of the first one that has any.

    Weights are then shares of the first loss's gradient. A loss without a gradient (one that is
    watched) is left alone.

    Source: the static form of GradNorm (Chen et al., ICML 2018, with α = 0), in the prediction
    instead of the last shared weights, which costs no pass through the network.
    """
    measured = norms > 0
    first = norms.gather(0, measured.float().argmax().view(1))
    return torch.where(measured, first / norms.clamp(min=1e-30), 1.0)


def _gradient_norm(value: Float[Tensor, "n"], leaf: Tensor) -> Float[Tensor, ""]:
    if not value.requires_grad:
        return leaf.new_zeros(())
    (gradient,) = torch.autograd.grad(value.mean(), leaf, retain_graph=True)
    return gradient.norm()


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()
