"""How a loss is written down: `mse + 0.05 frc + 0->0.1@0.2-0.5 pyramid(l1, levels=3)`. No torch.

    loss   := weighted ('+' weighted)*
    weighted := [weight ['*']] term
    weight := number | number '->' number ['@' number '-' number]
    term   := name ['(' argument (',' argument)* ')']
    argument := term (the loss that is wrapped, first) | name '=' number

A weight `a->b@s-e` moves from a to b between the shares s and e of the training (0 to 1 where not
given). A term without a weight counts 1; one of weight 0 is watched and not trained with.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clearice.errors import ConfigError

_EXAMPLE: Final = "write for instance 'mse + 0.05 frc'"
_NUMBER: Final = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WEIGHT: Final = re.compile(
    rf"({_NUMBER})(?:\s*->\s*({_NUMBER})(?:\s*@\s*({_NUMBER})\s*-\s*({_NUMBER}))?)?"
    r"(?:\s*\*\s*|\s+)"
)
_NAME: Final = re.compile(r"[a-z][a-z0-9-]*")
_OPTION: Final = re.compile(rf"([a-z][a-z0-9_]*)\s*=\s*(-?{_NUMBER})")


@dataclass(frozen=True)
class LossTerm:
    """One loss with its options, and the loss that it wraps, if any.

    Attributes:
        name: In the registry of losses.
        options: Given by name; what is not given has its default.
        inner: The wrapped loss.
    """

    name: str
    options: tuple[tuple[str, float], ...] = ()
    inner: LossTerm | None = None

    def __str__(self) -> str:
        arguments = [] if self.inner is None else [str(self.inner)]
        arguments += [f"{name}={_shown(value)}" for name, value in self.options]
        return f"{self.name}({', '.join(arguments)})" if arguments else self.name


class Ramp(BaseModel):
    """A weight that moves linearly while training."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    initial: float = Field(ge=0, description="weight up to `start`")
    final: float = Field(ge=0, description="weight from `end` on")
    start: float = Field(0.0, ge=0, le=1, description="share of the training")
    end: float = Field(1.0, ge=0, le=1, description="share of the training")

    @model_validator(mode="after")
    def _is_ordered_and_counts(self) -> Self:
        if self.start >= self.end:
            raise ValueError("start must be before end")
        if self.initial == self.final == 0:
            raise ValueError("a weight that stays 0 does nothing")
        return self

    def at(self, progress: float) -> float:
        """Return the weight when a share of the training is done."""
        share = (progress - self.start) / (self.end - self.start)
        return self.initial + (self.final - self.initial) * min(1.0, max(0.0, share))


Weight = float | Ramp


def parse_loss(text: str) -> dict[str, Weight]:
    """Read a sum of weighted losses.

    Returns:
        Weights by canonical term.

    Raises:
        ConfigError: The text does not follow the grammar.
    """
    weights: dict[str, Weight] = {}
    reader = _Reader(text)
    while True:
        weight = reader.weight()
        term = str(reader.term())
        if term in weights:
            reader.fail(f"'{term}' stands twice; give it one weight")
        weights[term] = weight
        if reader.at_end():
            return weights
        reader.expect("+")


def parse_term(text: str) -> LossTerm:
    """Read one loss without a weight.

    Raises:
        ConfigError: The text does not follow the grammar.
    """
    reader = _Reader(text)
    term = reader.term()
    if not reader.at_end():
        reader.fail()
    return term


def parse_weight(given: object) -> Weight:
    """Read a weight: a number, `a->b@s-e`, or a mapping with the fields of `Ramp`.

    Raises:
        ConfigError: It is none of these.
    """
    if isinstance(given, Ramp):
        return given
    if isinstance(given, str):
        (weight,) = parse_loss(f"{given} term").values()
        return weight
    if isinstance(given, dict):
        try:
            return Ramp.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{key}: " for key in first["loc"])
            raise ConfigError(where + first["msg"].removeprefix("Value error, ")) from None
    if isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
        return float(given)
    raise ConfigError(f"{given!r} is no weight; write a number or for instance 0->0.1@0.2-0.5")


def _shown(value: float) -> str:
    """Write a number so that it is read back the same."""
    return repr(value).removesuffix(".0")


class _Reader:
    """Walks through the text of a loss."""

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        self._at = 0

    def at_end(self) -> bool:
        return self._at == len(self._text)

    def fail(self, problem: str | None = None) -> NoReturn:
        rest = self._text[self._at :]
        found = problem or (f"cannot read '{rest}'" if rest else "ends too early")
        raise ConfigError(f"loss '{self._text}': {found}; {_EXAMPLE}")

    def expect(self, character: str) -> None:
        if not self._take(character):
            self.fail()

    def weight(self) -> Weight:
        found = self._match(_WEIGHT)
        if found is None:
            return 1.0
        first, final, start, end = found.groups()
        if final is None:
            return self._finite(first)
        span = {} if start is None else {"start": float(start), "end": float(end)}
        try:
            return Ramp(initial=self._finite(first), final=self._finite(final), **span)
        except ValueError:
            self.fail(f"'{found[0].strip()}' is no ramp such as 0->0.1 or 0->0.1@0.2-0.5")

    def term(self) -> LossTerm:
        found = self._match(_NAME)
        if found is None:
            self.fail()
        inner: LossTerm | None = None
        options: dict[str, float] = {}
        if self._take("("):
            while True:
                option = self._match(_OPTION)
                if option is not None:
                    if option[1] in options:
                        self.fail(f"'{option[1]}' stands twice in '{found[0]}'")
                    options[option[1]] = self._finite(option[2])
                elif inner is None and not options:
                    inner = self.term()
                else:
                    self.fail()
                if self._take(")"):
                    break
                self.expect(",")
        return LossTerm(found[0], tuple(sorted(options.items())), inner)

    def _finite(self, text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            self.fail(f"'{text}' is too large")
        return value

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
            self._skip()
        return found

    def _take(self, character: str) -> bool:
        if not self._text.startswith(character, self._at):
            return False
        self._at += 1
        self._skip()
        return True

    def _skip(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
