"""How losses are written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearice.errors import ConfigError
from clearice.loss_spec import LossTerm, Ramp, parse_loss, parse_term


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("mse", {"mse": 1.0}),
        ("mse + 0.05 log-power", {"mse": 1.0, "log-power": 0.05}),
        ("mse+0.05 log-power", {"mse": 1.0, "log-power": 0.05}),
        ("2 * mse", {"mse": 2.0}),
        ("2*mse", {"mse": 2.0}),
        ("2 *mse + 0.1 *frc", {"mse": 2.0, "frc": 0.1}),
        ("0->0.1@0.2-0.5*frc", {"frc": Ramp(initial=0, final=0.1, start=0.2, end=0.5)}),
        ("frc(bins=1234567)", {"frc(bins=1234567)": 1.0}),
        (".5 mse", {"mse": 0.5}),
        ("1e-3 mse + 2e+2 l1", {"mse": 1e-3, "l1": 200.0}),
        ("0 mse", {"mse": 0.0}),
        ("frc( bins = 32 )", {"frc(bins=32)": 1.0}),
        ("mse + 0->0.1 frc", {"mse": 1.0, "frc": Ramp(initial=0, final=0.1)}),
        ("0.1 -> 0 @ 0.2 - 0.5 frc", {"frc": Ramp(initial=0.1, final=0, start=0.2, end=0.5)}),
        ("3 pyramid(frc(high=0.3), levels=2)", {"pyramid(frc(high=0.3), levels=2)": 3.0}),
    ],
)
def test_a_loss_is_read_as_a_weighted_sum(text: str, weights: dict[str, float | Ramp]) -> None:
    assert parse_loss(text) == weights


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "mse +",
        "mse log-power",
        "-1 mse",
        "mse - l1",
        "0.5",
        "1.2.3 mse",
        ". mse",
        "mse + mse",
        "frc(",
        "frc()",
        "frc(bins=)",
        "frc(bins=2, bins=3)",
        "frc(bins=2, mse)",
        "pyramid(mse, l1)",
        "mse)",
        "0->0 frc",
        "1e999 mse",
        "frc(bins=1e999)",
        "0->1@0.5-0.5 frc",
        "0->1@0.5-2 frc",
        "MSE",
    ],
)
def test_a_loss_that_cannot_be_read_comes_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"mse \+ 0\.05 frc") as error:
        parse_loss(text)
    message = str(error.value)
    assert f"'{text}'" in message
    assert "\n" not in message


_NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
_KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
_VALUES = st.floats(allow_nan=False, allow_infinity=False)


def _terms(inner: st.SearchStrategy[LossTerm | None]) -> st.SearchStrategy[LossTerm]:
    options = st.dictionaries(_KEYS, _VALUES, max_size=3).map(lambda o: tuple(sorted(o.items())))
    return st.builds(LossTerm, _NAMES, options, inner)


@given(_terms(st.none() | _terms(st.none())))
def test_any_term_is_read_back(term: LossTerm) -> None:
    assert parse_term(str(term)) == term


@given(st.dictionaries(_NAMES, st.floats(1e-6, 1e6), min_size=1, max_size=4))
def test_any_weighted_sum_is_read_back(weights: dict[str, float]) -> None:
    text = " + ".join(f"{weight:.6f} {name}" for name, weight in weights.items())
    expected = {name: float(f"{weight:.6f}") for name, weight in weights.items()}
    assert parse_loss(text) == expected


def test_a_weight_moves_linearly_between_its_ends() -> None:
    ramp = Ramp(initial=0.1, final=0.5, start=0.25, end=0.75)
    found = [ramp.at(progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5])
