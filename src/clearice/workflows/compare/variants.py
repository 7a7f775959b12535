"""From a grid to variants, each with a name for its folder and a label for people."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from clearice.config import CompareConfig, TrainConfig, validate_config
from clearice.errors import ConfigError

_LONGEST_NAME = 100
_ALWAYS_NAMED = ("loss", "network")
# It lets a loss through and changes nothing else.
_NEVER_NAMED = ("allow_biased",)


@dataclass(frozen=True)
class Variant:
    """One set of training settings.

    Attributes:
        name: Unique, fit for a folder.
        label: What sets it apart from the others, for tables.
        config: The settings; its seed counts for nothing.
    """

    name: str
    label: str
    config: TrainConfig


@dataclass(frozen=True)
class Cell:
    """One variant with one seed: one training."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.variant.name}-seed{self.seed}"

    @property
    def config(self) -> TrainConfig:
        """The settings with the seed."""
        return self.variant.config.model_copy(update={"seed": self.seed})


def cells_of(variants: list[Variant], seeds: list[int]) -> list[Cell]:
    """Return all cells, every variant once before any second seed."""
    return [Cell(variant, seed) for seed in seeds for variant in variants]


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Return settings as JSON values, without the seed."""
    values = config.model_dump(mode="json")
    del values["seed"]
    return values


def variants_of(compare: CompareConfig, source: str) -> list[Variant]:
    """Return the product of the grid, then the further variants.

    Args:
        compare: The grid.
        source: Its file, for messages.

    Raises:
        ConfigError: A setting cannot be used, or two variants are the same.
    """
    chosen = _product(compare.grid) if compare.grid or not compare.also else []
    chosen += compare.also
    configs = [
        validate_config(TrainConfig, {**compare.base, **values}, f"{source}, variant {number}")
        for number, values in enumerate(chosen, 1)
    ]
    settings = [settings_of(config) for config in configs]
    _refuse_repeats(settings, source)
    varying = {key for key in settings[0] if any(s[key] != settings[0][key] for s in settings)}
    common = settings_of(validate_config(TrainConfig, compare.base, f"{source}, base"))
    names = _names(chosen, settings, common)
    labels = [_label(own, values, varying) for own, values in zip(chosen, settings, strict=True)]
    repeated = {label for label, count in Counter(labels).items() if count > 1}
    return [
        Variant(name, f"{label} ({name})" if label in repeated else label, config)
        for name, label, config in zip(names, labels, configs, strict=True)
    ]


def _product(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _refuse_repeats(settings: list[dict[str, Any]], source: str) -> None:
    for number, values in enumerate(settings):
        if values in settings[:number]:
            first = settings.index(values)
            raise ConfigError(
                f"{source}: variants {first + 1} and {number + 1} are the same; leave one out"
            )


def _label(chosen: dict[str, Any], settings: dict[str, Any], varying: set[str]) -> str:
    parts = [_value_text(key, settings[key]) for key in _ALWAYS_NAMED if key in varying]
    parts += [_value_text(k, settings[k]) for k in _further_keys(chosen) if k in varying]
    return ", ".join(parts) or loss_text(settings["loss"])


def _further_keys(chosen: dict[str, Any]) -> list[str]:
    return [key for key in chosen if key not in _ALWAYS_NAMED + _NEVER_NAMED]


def _value_text(key: str, value: Any) -> str:
    if key == "loss":
        return loss_text(value)
    if key == "network":
        return str(value)
    words = key.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def loss_text(loss: dict[str, Any]) -> str:
    """Return the weights of a loss, as JSON values, as the text that stands for them."""
    return " + ".join(f"{_weight_text(weight)}{term}" for term, weight in loss.items())


def _weight_text(weight: Any) -> str:
    if not isinstance(weight, dict):
        return "" if weight == 1 else f"{weight:g} "
    span = f"@{weight['start']:g}-{weight['end']:g}"
    ramp = f"{weight['initial']:g}->{weight['final']:g}"
    return f"{ramp} " if span == "@0-1" else f"{ramp}{span} "


def _names(
    chosen: list[dict[str, Any]], settings: list[dict[str, Any]], common: dict[str, Any]
) -> list[str]:
    """Name each variant by itself, so that a grid can grow around cells that are done."""
    names = [_name(own, values, common) for own, values in zip(chosen, settings, strict=True)]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name[: _LONGEST_NAME - 9]}-{_digest(values)}"
        if name in repeated or len(name) > _LONGEST_NAME
        else name
        for name, values in zip(names, settings, strict=True)
    ]


def _name(chosen: dict[str, Any], settings: dict[str, Any], common: dict[str, Any]) -> str:
    """Name what is not common to all, so that a further key with its old value renames nothing."""
    keys = [key for key in _further_keys(chosen) if settings[key] != common[key]]
    parts = [settings["network"], loss_text(settings["loss"])]
    parts += [f"{key}={settings[key]}" for key in keys]
    tight = [re.sub(r"\s*\+\s*", "+", part) for part in parts]
    return "_".join(re.sub(r"[^A-Za-z0-9.+=_]+", "-", part).strip("-") for part in tight)


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
