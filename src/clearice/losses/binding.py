"""From a term as it is written to a function with its options filled in."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from torch import Tensor

from clearice.errors import ConfigError, did_you_mean
from clearice.loss_spec import LossTerm
from clearice.losses.info import LossInfo, Verdict
from clearice.losses.registry import LOSSES, find_loss

# Any other option must be above 0.
_MAY_BE_ZERO: Final = frozenset({"low", "power"})
# Of ssim-debiased: the contrast comes out too low by 7 % here at SNR 1, by 60 % with half a pixel.
_LEAST_SIGMA: Final = 3.0


@dataclass(frozen=True)
class BoundLoss:
    """A loss with its options filled in.

    Attributes:
        term: As it was written.
        function: (prediction, target or targets) → one value a sample.
        verdict: For noisy targets; of the wrapped loss, if there is one.
        why: The minimiser against a noisy target, in one sentence.
        instead: What to use instead or beside it.
        free: What its minimiser leaves free.
        targets: How many independent targets it takes.
    """

    term: LossTerm
    function: Callable[..., Tensor]
    verdict: Verdict
    why: str
    instead: str
    free: str
    targets: int


def options_of(info: LossInfo) -> dict[str, float | int]:
    """Return the options of a loss with their defaults."""
    parameters = inspect.signature(info.function).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "loss"
    }


def in_pixels(term: LossTerm, pixel_size_angstrom: float) -> LossTerm:
    """Turn the option `resolution`, Å, of a loss that has `high` into that, cycles/px.

    Args:
        term: Any loss; without that option it is returned as it is.
        pixel_size_angstrom: Å/px.

    Raises:
        ConfigError: `resolution` beside `high`, not above 0, or inside of another loss, where
            images of several pixel sizes are compared.
    """
    if term.inner is not None and "resolution" in dict(term.inner.options):
        raise ConfigError(
            f"loss '{term}': resolution has no one meaning inside of {term.name}; give high"
        )
    options = dict(term.options)
    if "resolution" not in options or "high" not in options_of(find_loss(term.name)):
        return term
    resolution = options.pop("resolution")
    if "high" in options or resolution <= 0:
        raise ConfigError(f"loss '{term}': give a resolution above 0 Å, or high, not both")
    finest = options_of(find_loss(term.name))["high"]
    options["high"] = min(finest, pixel_size_angstrom / resolution)
    return LossTerm(term.name, tuple(sorted(options.items())), term.inner)


def bind(term: LossTerm) -> BoundLoss:
    """Look a loss and what it wraps up, and fill its options in.

    Raises:
        UnknownNameError: No such loss.
        ConfigError: An option that the loss does not have, a value out of range, a wrapper without
            a loss inside, or a loss inside what does not wrap.
    """
    info = find_loss(term.name)
    options: dict[str, Any] = dict(_checked(term, options_of(info)))
    if info.wraps and term.inner is None:
        raise ConfigError(
            f"loss '{term}' needs a loss inside; write for instance '{term.name}(l1)'"
        )
    if term.inner is None:
        narrow = term.name == "ssim-debiased" and options.get("sigma", math.inf) < _LEAST_SIGMA
        return BoundLoss(
            term,
            partial(info.function, **options),
            Verdict.BIASED if narrow else info.verdict,
            info.why,
            info.instead,
            info.free or _left_out(term.name, {**options_of(info), **options}),
            info.targets,
        )
    if not info.wraps:
        wrappers = ", ".join(name for name, other in LOSSES.items() if other.wraps)
        raise ConfigError(f"loss '{term}': '{term.name}' wraps no other loss; these do: {wrappers}")
    inner = bind(term.inner)
    function = partial(info.function, loss=inner.function, **options)
    return replace(inner, term=term, function=function)


def _left_out(name: str, options: Mapping[str, float | int]) -> str:
    """Return which frequencies `complex` says nothing of, if any."""
    if name != "complex" or (options["low"] == 0 and options["high"] >= math.sqrt(0.5)):
        return ""
    return "what is slower than low or faster than high"


def _checked(term: LossTerm, known: Mapping[str, float | int]) -> dict[str, float | int]:
    """Return the options of a term, whole numbers as such."""
    for name, value in term.options:
        if name not in known:
            listed = f"its options: {', '.join(known)}" if known else "it has no options"
            raise ConfigError(
                f"loss '{term}' has no option '{name}'{did_you_mean(name, known)}; {listed}"
            )
        if not math.isfinite(value):
            raise ConfigError(f"loss '{term}': {name} must be a finite number")
        whole = isinstance(known[name], int)
        if whole and (value < 1 or value != int(value)):
            raise ConfigError(f"loss '{term}': {name} must be a whole number from 1")
        if value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
            least = "0 or more" if name in _MAY_BE_ZERO else "above 0"
            raise ConfigError(f"loss '{term}': {name} must be {least}")
    return {
        name: int(value) if isinstance(known[name], int) else value for name, value in term.options
    }
