"""The registry: names, verdicts, options, and what is refused."""

from __future__ import annotations

import inspect

import pytest
import torch

from clearice.errors import ConfigError, UnknownNameError
from clearice.loss_spec import parse_term
from clearice.losses import LOSSES, Verdict, bind, find_loss, options_of
from clearice.losses.pixel import mse

VERDICTS = {
    Verdict.SAFE: {
        "mse",
        "complex",
        "gradient-l2",
        "pyramid",
        "bandpass",
        "power-debiased",
        "amplitude-debiased",
        "log-power-debiased",
        "gradient-magnitude-debiased",
    },
    Verdict.NEAR_SAFE: {
        "l1",
        "charbonnier",
        "huber",
        "fourier-l1",
        "whitened",
        "sobel-l1",
        "ssim-debiased",
    },
    Verdict.DIRECTION: {"frc", "phase", "ncc"},
    Verdict.BIASED: {"log-power", "amplitude", "ssim", "ms-ssim", "sobel-magnitude"},
}


def test_the_registry_gives_every_loss_its_verdict() -> None:
    found = {
        verdict: {name for name, info in LOSSES.items() if info.verdict is verdict}
        for verdict in Verdict
    }
    assert found == VERDICTS
    assert find_loss("mse").function is mse


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_says_all_that_a_user_must_know(name: str) -> None:
    info = LOSSES[name]
    assert info.source
    for text in (info.formula, info.why, info.instead):
        assert "\n" not in text
        assert "  " not in text
        assert not text.endswith(".")
    assert info.formula
    assert info.why
    # Refused or in need of an anchor: the way out must be named, and be there.
    if info.verdict in {Verdict.BIASED, Verdict.DIRECTION}:
        assert any(other in info.instead for other in LOSSES if other != name)
    assert info.function.__doc__
    assert info.targets == (2 if name.endswith("-debiased") else 1)


@pytest.mark.parametrize("name", LOSSES)
def test_options_are_numbers_by_keyword_and_documented(name: str) -> None:
    info = LOSSES[name]
    options = options_of(info)
    parameters = inspect.signature(info.function).parameters
    assert "loss" not in options
    assert ("loss" in parameters) == info.wraps
    for option, default in options.items():
        assert type(default) in {int, float}
        assert f"{option}: " in (info.function.__doc__ or "")


def test_an_unknown_loss_is_refused_inside_and_outside() -> None:
    for text in ("frcc", "pyramid(frcc)"):
        with pytest.raises(UnknownNameError, match=r"'frcc' .did you mean 'frc'"):
            bind(parse_term(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mse(delta=2)", "loss 'mse(delta=2)' has no option 'delta'; it has no options"),
        (
            "frc(bin=8)",
            "loss 'frc(bin=8)' has no option 'bin' (did you mean 'bins'?); its options: bins, high",
        ),
        ("frc(bins=8.5)", "loss 'frc(bins=8.5)': bins must be a whole number from 1"),
        ("frc(bins=0)", "loss 'frc(bins=0)': bins must be a whole number from 1"),
        ("pyramid(l1, levels=-1)", "levels must be a whole number from 1"),
        ("huber(delta=0)", "loss 'huber(delta=0)': delta must be above 0"),
        ("charbonnier(eps=-1)", "eps must be above 0"),
        ("complex(low=-0.1)", "low must be 0 or more"),
        ("pyramid", "loss 'pyramid' needs a loss inside; write for instance 'pyramid(l1)'"),
        (
            "mse(l1)",
            "loss 'mse(l1)': 'mse' wraps no other loss; these do: pyramid, bandpass",
        ),
        ("bandpass(pyramid)", "loss 'pyramid' needs a loss inside"),
        ("pyramid(frc(bin=3))", "has no option 'bin'"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        bind(parse_term(text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_options_reach_the_function() -> None:
    generator = torch.Generator().manual_seed(4)
    images = [torch.randn(2, 1, 12, 12, generator=generator, dtype=torch.float64) for _ in range(2)]
    for text, options in (
        ("huber(delta=0.2)", {"delta": 0.2}),
        ("frc(bins=3, high=0.4)", {"bins": 3, "high": 0.4}),
        ("complex(power=0, low=0)", {"power": 0.0, "low": 0.0}),
    ):
        term = parse_term(text)
        info = find_loss(term.name)
        bound = bind(term)
        assert bound.term == term
        assert torch.equal(bound.function(*images), info.function(*images, **options))
        assert not torch.equal(bound.function(*images), info.function(*images))


def test_a_wrapper_has_the_verdict_of_what_it_wraps() -> None:
    for name, info in LOSSES.items():
        if info.wraps:
            continue
        for text in (f"pyramid({name})", f"bandpass(pyramid({name}, levels=2), levels=2)"):
            bound = bind(parse_term(text))
            assert bound.verdict is info.verdict
            assert (bound.why, bound.instead) == (info.why, info.instead)
            assert bound.targets == info.targets
            assert str(bound.term) == text
