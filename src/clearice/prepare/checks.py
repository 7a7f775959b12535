"""Verdicts on a data set before training: what was measured, what it means, the way out."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any, Literal

import torch

from clearice.io import same_pixel_size
from clearice.prepare.measure import MicrographChecks, check_micrograph
from clearice.prepare.spectra import Agreement, Excess

__all__ = ["CheckResult", "MicrographChecks", "check_micrograph", "format_table", "summarise"]

Verdict = Literal["ok", "warning", "failed"]
_SIGMAS = 5.0
# Shared noise of a hundredth of the noise is as strong as the signal near 4 Å; of a tenth, it is
# what a network would mostly learn to keep.
_SHARED, _FAR_TOO_SHARED = 0.01, 0.1
_STRIPES = 0.1
_SAME_IMAGE = 0.9
_PATTERN = 0.005
# Of the pixels of a fingerprint of the detector, so many are independent: it is a high-pass.
_DETECTOR_SHARE = 0.8
_HOT_PER_MILLION = 10.0
_FEWEST_HOT = 5
# At a quarter cycle per px, 0.3 px leave cos(2π·0.3/4) = 0.89 of the signal in phase.
_DRIFT_PX, _FAR_DRIFT_PX = 0.3, 5.0
_NOISE_RATIO = 1.2
_DOSE = 0.25
_UNEQUAL_DOSE = 1.25
_DUPLICATE = 0.15
_DUPLICATE_SIGMAS = 7.0
# Where most pairs are duplicates, these are the most that illumination and chance can account for.
_LARGEST_USUAL, _LARGEST_SPREAD = 0.1, 0.05


@dataclass(frozen=True)
class CheckResult:
    """One line of the table.

    Attributes:
        name: What was checked.
        value: What was found, in the set as a whole or in its worst micrograph.
        limit: Beyond which it is no longer `ok`.
        verdict: `failed` means that training on it would not give what is meant.
        worst: The micrograph (or two) that it is worst in; empty if none stands out.
        meaning: What it means, and what to do if it is not `ok`.
    """

    name: str
    value: float
    limit: float
    verdict: Verdict
    worst: str
    meaning: str

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def summarise(checks: Sequence[MicrographChecks], splits: Mapping[str, str]) -> list[CheckResult]:
    """Judge a data set.

    Args:
        checks: Of each micrograph, at least one.
        splits: What each micrograph, by name, is for.

    Returns:
        One result for each check, in a fixed order.
    """
    alike = _largest_shape(checks)
    pairs = _duplicates(alike)
    twice = {name for pair in pairs for name in (pair.first, pair.second)}
    apart = [check for check in alike if check.name not in twice]
    if 2 * len(apart) < len(alike):  # what most have in common is no field of view
        apart = alike
    return [
        _names(checks),
        _shapes(checks),
        _pixel_sizes(checks),
        _doses(checks),
        _common_signal(checks),
        _independence(checks),
        _stripes(checks, "row", lambda agreement: agreement.rows),
        _stripes(checks, "column", lambda agreement: agreement.columns),
        _fixed_pattern(apart),
        _hot_pixels(checks),
        _drift(checks),
        _noise_ratio(checks),
        _overlap(pairs, splits),
    ]


def format_table(results: Sequence[CheckResult]) -> str:
    """Return a table for the terminal, with a line of advice for each check that is not ok."""
    rows = [("check", "value", "limit", "verdict", "worst")]
    rows += [(r.name, f"{r.value:.3g}", f"{r.limit:.3g}", r.verdict, r.worst) for r in results]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += [f"{r.verdict}: {r.name}: {r.meaning}" for r in results if r.verdict != "ok"]
    return "\n".join(lines)


def _verdict(warning: bool, failed: bool = False) -> Verdict:
    return "failed" if failed else "warning" if warning else "ok"


def _largest_shape(checks: Sequence[MicrographChecks]) -> list[MicrographChecks]:
    """Return the micrographs of the most frequent image size."""
    usual = Counter(check.shape[1:] for check in checks).most_common(1)[0][0]
    return [check for check in checks if check.shape[1:] == usual]


def _odd_one_out(checks: Sequence[MicrographChecks], of: Callable[[MicrographChecks], Any]) -> str:
    """Return the first micrograph that differs from the most frequent kind."""
    usual = Counter(of(check) for check in checks).most_common(1)[0][0]
    return next((check.name for check in checks if of(check) != usual), "")


def _names(checks: Sequence[MicrographChecks]) -> CheckResult:
    counts = Counter(check.name for check in checks)
    name, most = counts.most_common(1)[0]
    return CheckResult(
        "names",
        float(most),
        1.0,
        _verdict(most > 1, most > 1),
        name if most > 1 else "",
        "every name stands for one micrograph; rename those that occur twice",
    )


def _shapes(checks: Sequence[MicrographChecks]) -> CheckResult:
    n_shapes = len({check.shape for check in checks})
    return CheckResult(
        "shapes",
        float(n_shapes),
        1.0,
        _verdict(n_shapes > 1),
        _odd_one_out(checks, lambda check: check.shape),
        "micrographs of one session have one shape and number of groups; prepare others apart, "
        "since only those of one shape can share a fixed pattern",
    )


def _pixel_sizes(checks: Sequence[MicrographChecks]) -> CheckResult:
    usual = statistics.median_low(check.pixel_size_angstrom for check in checks)
    worst = max(checks, key=lambda check: abs(math.log(check.pixel_size_angstrom / usual)))
    off = not same_pixel_size(worst.pixel_size_angstrom, usual)
    return CheckResult(
        "pixel size",
        abs(worst.pixel_size_angstrom / usual - 1),
        0.01,
        _verdict(off, off),
        worst.name if off else "",
        "all have the same pixel size to 1 %; prepare others apart, or give --pixel-size",
    )


def _doses(checks: Sequence[MicrographChecks]) -> CheckResult:
    """Compare the share of the dose of each group, and the dose where it is known."""
    deviations: list[tuple[float, str]] = []
    for alike in _by_groups(checks):
        shares = [check.weights for check in alike]
        usual = [statistics.median(group) for group in zip(*shares, strict=True)]
        deviations += [
            (max(abs(w / u - 1) for w, u in zip(c.weights, usual, strict=True)), c.name)
            for c in alike
        ]
    doses = {c.name: c.dose_e_per_A2 for c in checks if c.dose_e_per_A2}
    median = statistics.median(doses.values()) if doses else 1.0
    deviations += [(abs(dose / median - 1), name) for name, dose in doses.items()]
    value, name = max(deviations)
    return CheckResult(
        "dose",
        value,
        _DOSE,
        _verdict(value > _DOSE),
        name if value > 0 else "",
        "dose and its share in each group deviate little from the median; movies cut short or "
        "from another session are better prepared apart",
    )


def _by_groups(checks: Sequence[MicrographChecks]) -> list[list[MicrographChecks]]:
    counts = sorted({len(check.weights) for check in checks})
    return [[check for check in checks if len(check.weights) == count] for count in counts]


def _common_signal(checks: Sequence[MicrographChecks]) -> CheckResult:
    def sigmas(check: MicrographChecks) -> float:
        return check.common_signal / check.common_signal_error

    worst = min(checks, key=sigmas)
    without = sum(sigmas(check) < _SIGMAS for check in checks)
    return CheckResult(
        "common signal",
        sigmas(worst),
        _SIGMAS,
        _verdict(without > 0, 2 * without > len(checks)),
        worst.name,
        f"correlation of the halves between 400 and 30 Å in standard errors; {without} of "
        f"{len(checks)} micrographs have none: wrong pairing, empty ice or a wrong pixel size",
    )


def _pooled(checks: Sequence[MicrographChecks]) -> Agreement:
    return reduce(add, [check.agreement for check in checks])


def _independence(checks: Sequence[MicrographChecks]) -> CheckResult:
    def shared(check: MicrographChecks) -> float:
        excess = check.agreement.near_nyquist
        same = check.correlation > 1 - 1e-6
        return 1.0 if same else excess.value * (excess.sigmas > _SIGMAS)

    worst = max(checks, key=shared)
    pooled = _pooled(checks).near_nyquist
    highest = shared(worst)
    value = highest if highest > _FAR_TOO_SHARED else pooled.value
    if highest > _SAME_IMAGE:
        meaning = f"both halves of {worst.name} are the same image; give the two half-sets"
    else:
        meaning = (
            "the halves share noise near Nyquist; --fix-pattern removes it if it is the "
            "detector's (see 'fixed pattern'), else one of the programs before mixed the halves "
            "or interpolated both alike"
        )
    return CheckResult(
        "independence",
        value,
        _SHARED,
        _verdict(pooled.value > _SHARED and pooled.sigmas > _SIGMAS, highest > _FAR_TOO_SHARED),
        worst.name,
        meaning,
    )


def _stripes(
    checks: Sequence[MicrographChecks], kind: str, of: Callable[[Agreement], Excess]
) -> CheckResult:
    worst = max(checks, key=lambda check: of(check.agreement).value)
    pooled = of(_pooled(checks))
    return CheckResult(
        f"{kind} means",
        pooled.value,
        _STRIPES,
        _verdict(pooled.value > _STRIPES and pooled.sigmas > _SIGMAS),
        worst.name,
        f"the {kind} means of both halves correlate, beyond what specimen and single pixels cause: "
        f"stripes of the detector; use --fix-pattern, or a better gain reference",
    )


def _fixed_pattern(checks: Sequence[MicrographChecks]) -> CheckResult:
    """Correlate single pixels of one half with the other half of other micrographs, all pairs."""
    n, value, error, worst = len(checks), 0.0, math.inf, ""
    if n > 1:
        # One micrograph at a time is widened: there may be thousands.
        odd = reduce(add, (check.detector[1].double() for check in checks))
        each = [float(c.detector[0].double() @ (odd - c.detector[1].double())) for c in checks]
        value = sum(each) / (n * (n - 1))
        error = 1 / math.sqrt(n * (n - 1) * _DETECTOR_SHARE * len(odd))
        worst = checks[each.index(max(each))].name
    return CheckResult(
        "fixed pattern",
        value,
        _PATTERN,
        _verdict(value > _PATTERN and value > _SIGMAS * error),
        worst,
        "single pixels correlate between halves of different micrographs: what the gain reference "
        "left, the same everywhere; use --fix-pattern, or a better gain reference",
    )


def _hot_pixels(checks: Sequence[MicrographChecks]) -> CheckResult:
    def per_million(check: MicrographChecks) -> float:
        return 1e6 * check.hot_pixels / check.looked_at_pixels

    worst = max(checks, key=per_million)
    many = worst.hot_pixels >= _FEWEST_HOT and per_million(worst) > _HOT_PER_MILLION
    return CheckResult(
        "hot pixels",
        per_million(worst),
        _HOT_PER_MILLION,
        _verdict(many),
        worst.name,
        "pixels in a million that stand out in both halves; give a defect map with --defects, or "
        "use --fix-pattern",
    )


def _drift(checks: Sequence[MicrographChecks]) -> CheckResult:
    worst = max(checks, key=lambda check: check.drift.length * check.drift.significant)
    value = worst.drift.length * worst.drift.significant
    return CheckResult(
        "drift",
        value,
        _DRIFT_PX,
        _verdict(value > _DRIFT_PX, value > _FAR_DRIFT_PX),
        worst.name if value > 0 else "",
        "the halves are displaced by so many px, which blurs what is learnt; align the movies "
        "with --align global, or split them into even and odd frames rather than early and late",
    )


def _noise_ratio(checks: Sequence[MicrographChecks]) -> CheckResult:
    """Compare the halves' noise, unless they were normalised apart because of unequal doses."""
    halves = [(sum(c.weights[0::2]), sum(c.weights[1::2]), c) for c in checks]
    equal = [c for even, odd, c in halves if max(even, odd) < _UNEQUAL_DOSE * min(even, odd)]
    ratios = {c.name: max(c.noise_ratio, 1 / c.noise_ratio) for c in equal}
    worst = max(ratios, key=lambda name: ratios[name], default="")
    value = ratios.get(worst, 1.0)
    return CheckResult(
        "noise ratio",
        value,
        _NOISE_RATIO,
        _verdict(value > _NOISE_RATIO),
        worst,
        "one half is noisier than its dose explains; export both in the same way, or give "
        "--dose-ratio",
    )


@dataclass(frozen=True)
class _Pair:
    """Two micrographs of one field of view, and how their fields correlate."""

    first: str
    second: str
    correlation: float


def _duplicates(checks: Sequence[MicrographChecks]) -> list[_Pair]:
    """Return pairs whose fields of view agree far more than those of other pairs do."""
    if len(checks) < 2:
        return []
    views = torch.stack([check.view for check in checks])
    correlation = (views @ views.T).triu(1)
    upper = torch.ones_like(correlation, dtype=torch.bool).triu(1)
    others = correlation[upper]
    usual = float(others.median())
    spread = 1.4826 * float((others - usual).abs().median())
    limit = min(usual, _LARGEST_USUAL) + _DUPLICATE_SIGMAS * min(spread, _LARGEST_SPREAD)
    limit = max(limit, _DUPLICATE)
    found = (upper & (correlation > limit)).nonzero().tolist()
    return [_Pair(checks[i].name, checks[j].name, float(correlation[i, j])) for i, j in found]


def _overlap(pairs: Sequence[_Pair], splits: Mapping[str, str]) -> CheckResult:
    """Judge duplicates: within a split they only cost time, across splits they spoil the test."""

    def across(pair: _Pair) -> bool:
        return splits[pair.first] != splits[pair.second]

    worst = max(pairs, key=lambda pair: (across(pair), pair.correlation), default=None)
    n_across = sum(across(pair) for pair in pairs)
    return CheckResult(
        "duplicates",
        0.0 if worst is None else worst.correlation,
        _DUPLICATE,
        _verdict(len(pairs) > 0, n_across > 0),
        "" if worst is None else f"{worst.first} and {worst.second}",
        f"{len(pairs)} pairs of micrographs show the same field of view, {n_across} of them across "
        "splits, where they would make the test too good; leave one of each out",
    )
