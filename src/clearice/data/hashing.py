"""Random numbers that are functions of what they are for, without a state."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def scramble(values: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Scramble 64-bit numbers; neighbours become unrelated.

    Source: the output function of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014).
    """
    z = values * -7046029254386353131  # the golden ratio, 0x9E3779B97F4A7C15, as a signed number
    z = (z ^ _shifted(z, 30)) * -4658895280553007687
    z = (z ^ _shifted(z, 27)) * -7723592293110705685
    return z ^ _shifted(z, 31)


def _shifted(values: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Shift right and fill with zeros; int64 is signed, and `>>` would fill with the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def below(bits: Int[Tensor, "n"], limit: Int[Tensor, "*n"]) -> Int[Tensor, "n"]:
    """Turn 64 random bits into a random integer from 0 to limit − 1."""
    return (uniform(bits) * limit).long()


def uniform(bits: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Turn 64 random bits into a random number from 0 to below 1."""
    return _shifted(bits, 11).double() * 2.0**-53
