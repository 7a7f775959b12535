"""Each fault of a data set raises its own alarm, and a sound set raises none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearice.fourier import shift_spectrum
from clearice.prepare import match_pairs
from clearice.prepare.checks import (
    CheckResult,
    MicrographChecks,
    check_micrograph,
    format_table,
    summarise,
)
from clearice.prepare.spectra import Agreement, centre
from clearice.prepare.split import read_pair
from helpers import smooth_image

_SIZE, _PIXEL = 256, 2.0
_HALVES = (0.5, 0.5)


def _groups(
    generator: torch.Generator,
    groups: int = 2,
    size: int = _SIZE,
    signal: Tensor | None = None,
    common: Tensor | float = 0.0,
) -> Tensor:
    """Return groups of one field with white noise of variance K, 1 at full dose."""
    field = smooth_image(generator, size, 4.0) if signal is None else signal
    noise = groups**0.5 * torch.randn(groups, *field.shape, generator=generator)
    return field + noise + common


def _check(groups: Tensor, name: str = "mic", **options: float) -> MicrographChecks:
    return check_micrograph(name, groups, (1 / len(groups),) * len(groups), _PIXEL, **options)


def _summary(
    checks: Sequence[MicrographChecks], splits: dict[str, str] | None = None
) -> dict[str, CheckResult]:
    given = splits or {check.name: "train" for check in checks}
    return {result.name: result for result in summarise(checks, given)}


def _set(
    generator: torch.Generator, count: int = 5, groups: int = 2, common: Tensor | float = 0.0
) -> list[MicrographChecks]:
    return [
        _check(_groups(generator, groups, common=common), f"mic{index}") for index in range(count)
    ]


@pytest.mark.parametrize("groups", [2, 3, 8])
def test_a_sound_set_is_ok(generator: torch.Generator, groups: int) -> None:
    results = _summary(_set(generator, groups=groups))
    assert {name: r.verdict for name, r in results.items() if r.verdict != "ok"} == {}
    assert len(results) == 13


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_shared_noise_is_measured_and_flagged(generator: torch.Generator, share: float) -> None:
    checks = []
    for index in range(4):
        shared = math.sqrt(2 * share / (1 - share)) * torch.randn(_SIZE, _SIZE, generator=generator)
        checks.append(_check(_groups(generator, common=shared), f"mic{index}"))
        near = checks[-1].agreement.near_nyquist
        assert near.value == pytest.approx(share, abs=4 * near.error)
    results = _summary(checks)
    assert results["independence"].verdict == ("warning" if share < 0.1 else "failed")
    assert results["independence"].value == pytest.approx(share, abs=0.02)
    # It differs from micrograph to micrograph, so it is not the detector's.
    assert results["fixed pattern"].verdict == "ok"


def test_a_fixed_pattern_is_told_from_other_shared_noise(generator: torch.Generator) -> None:
    pattern = 0.4 * torch.randn(_SIZE, _SIZE, generator=generator)
    results = _summary(_set(generator, 6, common=pattern))
    expected = 0.16 / 2.16
    assert results["independence"].verdict == "warning"
    assert results["fixed pattern"].verdict == "warning"
    assert results["fixed pattern"].value == pytest.approx(expected, abs=0.01)
    assert "--fix-pattern" in results["fixed pattern"].meaning
    assert results["row means"].verdict == results["column means"].verdict == "ok"


@pytest.mark.parametrize(("kind", "other"), [("row", "column"), ("column", "row")])
def test_stripes_are_told_by_their_direction(
    generator: torch.Generator, kind: str, other: str
) -> None:
    shape = (_SIZE, 1) if kind == "row" else (1, _SIZE)
    stripes = 0.2 * torch.randn(shape, generator=generator)
    flat = torch.zeros(_SIZE, _SIZE)
    checks = [_check(_groups(generator, signal=flat, common=stripes), f"mic{i}") for i in range(5)]
    # Means of 256 pixels have noise of variance 2/256 in each half.
    expected = 0.04 / (0.04 + 2 / _SIZE)
    results = _summary(checks)
    assert results[f"{kind} means"].verdict == "warning"
    assert results[f"{kind} means"].value == pytest.approx(expected, abs=0.05)
    assert results[f"{other} means"].verdict == "ok"
    assert results["independence"].verdict == "ok"


def test_an_ice_gradient_is_no_stripe(generator: torch.Generator) -> None:
    ramp = torch.linspace(-4, 4, _SIZE)
    checks = _set(generator, common=ramp[:, None] + 0.5 * ramp.square()[None, :])
    results = _summary(checks)
    assert results["row means"].verdict == results["column means"].verdict == "ok"
    assert results["independence"].verdict == "ok"


def test_the_same_half_twice_has_failed(generator: torch.Generator) -> None:
    checks = _set(generator)
    half = _groups(generator)[0]
    checks.append(_check(torch.stack([half, half]), "twice"))
    result = _summary(checks)["independence"]
    assert (result.verdict, result.worst) == ("failed", "twice")
    assert result.value == pytest.approx(1.0)
    assert "same image" in result.meaning


def test_halves_of_different_fields_have_no_common_signal(generator: torch.Generator) -> None:
    checks = _set(generator)
    others = torch.stack([_groups(generator)[0], _groups(generator)[0]])
    one = _summary([*checks, _check(others, "mixed")])["common signal"]
    assert (one.verdict, one.worst) == ("warning", "mixed")
    assert _summary([_check(others, "mixed")])["common signal"].verdict == "failed"


@pytest.mark.parametrize("shift", [(0.7, 0.0), (-0.3, 0.7), (0.0, 0.0), (-6.2, 3.6)])
@pytest.mark.parametrize("groups", [2, 8])
def test_drift_is_found_to_a_tenth_of_a_pixel(
    generator: torch.Generator, shift: tuple[float, float], groups: int
) -> None:
    field = 3 * smooth_image(generator, 320, 1.5)
    moved = torch.fft.irfft2(shift_spectrum(torch.fft.rfft2(field), 320, shift), s=field.shape)
    halves = [centre(field, _SIZE), centre(moved, _SIZE)]
    fields = torch.stack([halves[index % 2] for index in range(groups)])
    noise = groups**0.5 * torch.randn(fields.shape, generator=generator)
    drift = _check(fields + noise).drift
    assert (drift.rows, drift.columns) == pytest.approx(shift, abs=0.1)
    assert drift.error < 0.03
    assert drift.significant == (shift != (0.0, 0.0))
    length = math.hypot(*shift)
    expected = "ok" if length < 0.3 else "warning" if length < 5 else "failed"
    assert _summary([_check(fields + noise)])["drift"].verdict == expected


def test_the_error_of_a_drift_is_its_scatter(generator: torch.Generator) -> None:
    drifts = [_check(_groups(generator)).drift for _ in range(40)]
    scaled = torch.tensor([[d.rows / d.error, d.columns / d.error] for d in drifts])
    # 80 numbers of standard deviation 1, known to 1/√160.
    assert float(scaled.square().mean().sqrt()) == pytest.approx(1.0, abs=4 / math.sqrt(160))


def test_noise_alone_has_no_drift(generator: torch.Generator) -> None:
    for _ in range(10):
        drift = _check(torch.randn(2, 128, 128, generator=generator)).drift
        assert not drift.significant
        assert drift.length < 32


def test_hot_pixels_are_counted(generator: torch.Generator) -> None:
    hot = torch.zeros(_SIZE, _SIZE)
    for row, column in [(0, 0), (3, 200), (100, 100), (100, 102), (255, 17), (60, 60)]:
        hot[row, column] = 40.0 if row != 60 else -40.0
    checks = _set(generator, common=hot)
    assert [check.hot_pixels for check in checks] == [6] * 5
    assert _summary(checks)["hot pixels"].verdict == "warning"
    one_half = _groups(generator)
    one_half[0] += hot
    assert _check(one_half).hot_pixels == 0


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.45, 0.55), (0.02, 0.98)])
def test_noise_of_the_halves_is_compared_at_equal_dose(
    generator: torch.Generator, weights: tuple[float, float]
) -> None:
    field = smooth_image(generator, _SIZE, 4.0)
    noise = torch.randn(2, _SIZE, _SIZE, generator=generator)
    variance = torch.tensor(weights)[:, None, None]
    good = check_micrograph("a", field + noise / variance.sqrt(), weights, _PIXEL)
    assert good.noise_ratio == pytest.approx(1.0, abs=0.05)
    assert _summary([good])["noise ratio"].verdict == "ok"
    noise[1] *= 1.2
    bad = check_micrograph("b", field + noise / variance.sqrt(), weights, _PIXEL)
    assert bad.noise_ratio == pytest.approx(1.44, abs=0.07)
    # Halves of unequal dose are normalised apart: nothing is known of their noise.
    assert _summary([bad])["noise ratio"].verdict == ("ok" if weights[0] < 0.1 else "warning")


def _second_look(check: MicrographChecks, name: str) -> MicrographChecks:
    return replace(check, name=name)


def test_duplicates_are_found_under_independent_noise(generator: torch.Generator) -> None:
    fields = [smooth_image(generator, _SIZE, 3.0) for _ in range(8)]
    checks = [_check(_groups(generator, signal=f), f"mic{i}") for i, f in enumerate(fields)]
    again = _check(_groups(generator, signal=fields[2]), "again")
    splits = dict.fromkeys([f"mic{i}" for i in range(8)], "train") | {"again": "test"}
    assert _summary(checks, splits)["duplicates"].verdict == "ok"
    across = _summary([*checks, again], splits)["duplicates"]
    assert (across.verdict, across.worst) == ("failed", "mic2 and again")
    within = _summary([*checks, again], splits | {"again": "train"})["duplicates"]
    assert (within.verdict, within.worst) == ("warning", "mic2 and again")
    assert "1 pairs" in within.meaning


@pytest.mark.parametrize("count", [2, 4])
def test_duplicates_are_found_where_there_is_little_else(
    generator: torch.Generator, count: int
) -> None:
    fields = [smooth_image(generator, _SIZE, 3.0) for _ in range(count // 2)] * 2
    checks = [_check(_groups(generator, signal=f), f"mic{i}") for i, f in enumerate(fields)]
    result = _summary(checks)["duplicates"]
    assert result.verdict == "warning"
    assert f"{count // 2} pairs" in result.meaning


def test_the_same_file_under_two_names_correlates_fully(generator: torch.Generator) -> None:
    checks = _set(generator)
    result = _summary([*checks, _second_look(checks[0], "copy")])["duplicates"]
    assert result.value == pytest.approx(1.0, abs=1e-3)
    assert result.verdict == "warning"


def test_shared_illumination_makes_no_duplicates(generator: torch.Generator) -> None:
    axis = torch.linspace(-1, 1, _SIZE)
    vignette = -5 * (axis[:, None].square() + axis[None, :].square())
    assert _summary(_set(generator, 8, common=vignette))["duplicates"].verdict == "ok"


def test_what_does_not_fit_the_others_is_named(generator: torch.Generator) -> None:
    checks = _set(generator)

    def judged(name: str, change: Callable[[MicrographChecks], MicrographChecks]) -> CheckResult:
        return _summary([*checks[:-1], change(checks[-1])])[name]

    shape = judged("shapes", lambda c: replace(c, shape=(2, 256, 200)))
    assert (shape.verdict, shape.worst, shape.value) == ("warning", "mic4", 2)
    pixel = judged("pixel size", lambda c: replace(c, pixel_size_angstrom=2.1))
    assert (pixel.verdict, pixel.worst) == ("failed", "mic4")
    assert judged("pixel size", lambda c: replace(c, pixel_size_angstrom=2.01)).verdict == "ok"
    dose = judged("dose", lambda c: replace(c, weights=(0.2, 0.8)))
    assert (dose.verdict, dose.worst) == ("warning", "mic4")
    name = judged("names", lambda c: replace(c, name="mic0"))
    assert (name.verdict, name.worst) == ("failed", "mic0")
    doses = [replace(c, dose_e_per_A2=50.0) for c in checks[:-1]]
    low = _summary([*doses, replace(checks[-1], dose_e_per_A2=30.0)])["dose"]
    assert (low.verdict, low.worst) == ("warning", "mic4")
    assert low.value == pytest.approx(0.4)


@pytest.mark.parametrize(
    "shape", [(2, 16, 16), (2, 17, 33), (3, 64, 21), (8, 20, 47), (8, 1, 1), (2, 5, 3)]
)
@pytest.mark.parametrize("kind", ["noise", "constant", "float16"])
def test_any_shape_gives_finite_numbers(
    generator: torch.Generator, shape: tuple[int, int, int], kind: str
) -> None:
    groups = torch.randn(shape, generator=generator)
    groups = torch.ones(shape) if kind == "constant" else groups
    groups = groups.half() if kind == "float16" else groups
    checks = [_check(groups, f"mic{index}") for index in range(2)]
    results = summarise(checks, {"mic0": "train", "mic1": "test"})
    numbers = [r.as_json() for r in results] + [c.as_json() for c in checks]
    json.dumps(numbers, allow_nan=False)
    assert "nan" not in format_table(results)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    groups=st.sampled_from([2, 3, 8]),
    height=st.integers(64, 160),
    width=st.integers(64, 160),
)
def test_independent_noise_stays_within_its_errors(
    seed: int, groups: int, height: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    agreement = _check(torch.randn(groups, height, width, generator=generator)).agreement
    for excess in (agreement.near_nyquist, agreement.rows, agreement.columns):
        assert abs(excess.sigmas) < 5.5


def test_errors_are_the_scatter(generator: torch.Generator) -> None:
    found: list[Agreement] = [
        _check(torch.randn(2, 96, 90, generator=generator)).agreement for _ in range(60)
    ]
    for kind in ("near_nyquist", "rows", "columns"):
        sigmas = torch.tensor([getattr(agreement, kind).sigmas for agreement in found])
        assert float(sigmas.square().mean().sqrt()) == pytest.approx(1, abs=4 / math.sqrt(120))
        assert abs(float(sigmas.mean())) < 4 / math.sqrt(60)


def test_only_the_middle_of_a_large_image_is_looked_at(generator: torch.Generator) -> None:
    image = torch.randn(2, 2100, 2200, generator=generator)
    image[:, :20] = 1000 * torch.randn(20, 2200, generator=generator)
    check = _check(image)
    assert check.looked_at_pixels == 2048**2
    assert check.shape == (2, 2100, 2200)
    assert abs(check.agreement.near_nyquist.sigmas) < 5


def test_the_table_has_a_line_a_check_and_advice_for_what_is_wrong(
    generator: torch.Generator,
) -> None:
    pattern = 0.4 * torch.randn(_SIZE, _SIZE, generator=generator)
    results = summarise(
        _set(generator, common=pattern), dict.fromkeys([f"mic{i}" for i in range(5)], "train")
    )
    lines = format_table(results).splitlines()
    assert lines[0].split() == ["check", "value", "limit", "verdict", "worst"]
    assert len(lines) == 1 + len(results) + sum(r.verdict != "ok" for r in results)
    assert any(line.startswith("warning: fixed pattern: ") for line in lines)
    assert [r.as_json()["name"] for r in results] == [r.name for r in results]


def test_real_pairs_show_a_pattern_and_drift_and_nothing_else(test_data: Path) -> None:
    folder = test_data / "apoferritin"
    pairs = match_pairs(f"{folder}/*_frame.mrc", f"{folder}/*_rest.mrc")
    checks = []
    for pair in pairs:
        half_set = read_pair(pair, None, 49.0)
        checks.append(check_micrograph(pair.name, half_set.groups, half_set.weights, 1.5))
    results = _summary(checks)
    alarms = {name for name, r in results.items() if r.verdict != "ok"}
    # One frame is displaced against the mean of all, since movies drift.
    assert alarms == {"independence", "fixed pattern", "drift"}
    assert {r.verdict for r in results.values()} == {"ok", "warning"}
    assert results["independence"].value == pytest.approx(0.021, abs=0.003)
    assert results["fixed pattern"].value == pytest.approx(0.024, abs=0.006)
    mixed = [
        check_micrograph(
            str(index),
            torch.stack([read_pair(a, None, 1.0).groups[0], read_pair(b, None, 1.0).groups[1]]),
            _HALVES,
            1.5,
        )
        for index, (a, b) in enumerate(pairwise(pairs[:4]))
    ]
    assert _summary(mixed)["common signal"].verdict == "failed"
