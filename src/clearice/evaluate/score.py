"""Score denoised micrographs against an independent reference, or the truth, or both."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import __version__, io, metrics
from clearice.errors import ConfigError, InputFileError
from clearice.evaluate.accumulate import (
    CaseSums,
    band_window,
    case_sums,
    filtered_correlation,
    pooled,
)
from clearice.evaluate.baselines import best_gaussian, wiener_response
from clearice.evaluate.cases import Case, Images, load
from clearice.evaluate.reading import made_by
from clearice.fourier import RingSums, apply_ring_gain, gaussian_transfer, highpass_transfer

HIGHPASS_ANGSTROM = 400.0
BANDS_ANGSTROM = ((300, 15), (300, 100), (100, 50), (50, 33), (33, 25), (25, 15), (15, 8), (8, 4))
_CURVE_POINTS = 96

Rings = Float[Tensor, "rings"]


@dataclass(frozen=True)
class Scores:
    """All scores of a set of micrographs, ready to be written as JSON.

    Attributes:
        values: Nested dictionaries of numbers, lists and text; None where undefined.
        failures: One message for each micrograph that could not be scored.
    """

    values: dict[str, Any]
    failures: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


def score(
    cases: Sequence[Case],
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    baselines: bool = True,
) -> Scores:
    """Score denoised micrographs beside the raw ones and the best that plain filters can do.

    Curves and totals pool micrographs by summing numerators and denominators; means over
    micrographs are named so.

    Args:
        cases: What to compare; all with a reference, or all with truth, or both.
        progress: Called with (micrographs done, micrographs in all).
        baselines: Score the raw ones and the filters too, which takes most of the time.

    Raises:
        ConfigError: Neither reference nor truth.
        InputFileError: No micrograph can be scored; the error is that of the first.
    """
    has_reference = all(case.reference is not None for case in cases)
    has_truth = all(case.truth is not None for case in cases)
    if not cases or not (has_reference or has_truth):
        raise ConfigError("evaluation needs --reference or --truth; give one of them")
    steps = len(cases) * (2 if has_truth else 1)
    readable, sums, failures = _sum_all(cases, lambda done: progress(done, steps))
    flat = torch.ones_like(sums[0].frequency)
    filters = _filters(sums) if baselines else _Filters(flat, {}, None)
    values: dict[str, Any] = {
        "kind": "scores",
        "clearice_version": __version__,
        **made_by(readable[0].denoised.parent),
        "micrographs": [case.denoised.stem for case in readable],
        "pixel_size_angstrom": sums[0].pixel_size_angstrom,
        "highpass_angstrom": HIGHPASS_ANGSTROM,
        "gaussian_sigma_px": filters.sigma_px,
        "wiener": "learnt from the reference" if has_reference else "oracle, learnt from the truth",
        "curves": _curves(pooled(sums)),
        "files": [_files(case) for case in readable],
    }
    if has_reference:
        values["reference"] = _reference_scores(sums, filters)
    if has_truth:
        values["truth"] = _truth_scores(
            readable, sums, filters, lambda done: progress(len(readable) + done, steps)
        )
    return Scores(values, tuple(str(error) for error in failures))


def _sum_all(
    cases: Sequence[Case], progress: Callable[[int], None]
) -> tuple[list[Case], list[CaseSums], list[InputFileError]]:
    """Sum over rings for every case whose files can be read and fit together."""
    failures: dict[Case, InputFileError] = {}
    edges: dict[Case, int] = {}
    for case in cases:
        try:
            edges[case] = min(io.image_shape(case.denoised)[1:])
        except InputFileError as error:
            failures[case] = error
    sums: dict[Case, CaseSums] = {}
    for done, case in enumerate(edges):
        try:
            # All on the rings of the smallest micrograph, so that they can be pooled.
            measured = case_sums(load(case), min(edges.values()) // 2)
            _refuse_other_pixels(case, measured, next(iter(sums.values()), measured))
            sums[case] = measured
        except InputFileError as error:
            failures[case] = error
        progress(done + 1)
    errors = [failures[case] for case in cases if case in failures]
    if not sums:
        raise errors[0]
    return list(sums), list(sums.values()), errors


def _refuse_other_pixels(case: Case, sums: CaseSums, first: CaseSums) -> None:
    if not io.same_pixel_size(sums.pixel_size_angstrom, first.pixel_size_angstrom):
        raise InputFileError(
            case.denoised,
            f"has {sums.pixel_size_angstrom:g} Å/px where those before it have "
            f"{first.pixel_size_angstrom:g}",
            "evaluate it apart",
        )


@dataclass(frozen=True)
class _Filters:
    """Radial filters of the raw image beside which a network is judged, up to the corner.

    Attributes:
        flat: The filter that does nothing.
        named: By method; empty without raw images.
        sigma_px: Of the best Gaussian.
    """

    flat: Rings
    named: dict[str, Rings]
    sigma_px: float | None


def _highpass(sums: CaseSums) -> Rings:
    return highpass_transfer(sums.frequency, sums.pixel_size_angstrom / HIGHPASS_ANGSTROM)


def _filters(sums: list[CaseSums]) -> _Filters:
    """Choose the Gaussian by truth if it is known, else by the reference between 300 and 15 Å."""
    frequency = sums[0].frequency
    flat = torch.ones_like(frequency)
    with_truth = [(s.raw_truth, _highpass(s)) for s in sums if s.raw_truth]
    with_reference = [(s.raw_reference, _widest_band(s)) for s in sums if s.raw_reference]
    judged = with_truth or with_reference
    if not judged:
        return _Filters(flat, {}, None)

    def quality(response: Rings) -> float:
        return _mean(filtered_correlation(pair, response, window) for pair, window in judged)

    sigma = best_gaussian(frequency, quality)
    wiener = wiener_response(
        [pair for pair, _ in with_reference or with_truth], oracle=not with_reference
    )
    named = {"raw": flat, "gaussian_best": gaussian_transfer(frequency, sigma), "wiener": wiener}
    return _Filters(flat, named, sigma)


def _widest_band(sums: CaseSums) -> Rings:
    return band_window(sums.frequency, sums.pixel_size_angstrom, *BANDS_ANGSTROM[0])


def _mean(values: Any) -> float:
    return statistics.fmean(values)


def _reference_scores(sums: list[CaseSums], filters: _Filters) -> dict[str, Any]:
    """Score against an independent image of the same signal."""
    by_band: dict[str, dict[str, float]] = {}
    for band, window in _bands(sums[0]).items():
        row = {
            name: _mean(_correlation(s.raw_reference, response, window) for s in sums)
            for name, response in filters.named.items()
        }
        row["denoised"] = _mean(
            _correlation(s.denoised_reference, filters.flat, window) for s in sums
        )
        by_band[band] = row
    total = pooled(sums)
    scores: dict[str, Any] = {"band_correlation": by_band}
    if total.raw_reference is None:
        return scores
    transfer = _band_transfer(total.denoised_reference, total.raw_reference, total)
    return scores | {"band_signal_transfer": transfer} | _half_scores(total, filters)


def _bands(sums: CaseSums) -> dict[str, Rings]:
    """Return the bands that the images resolve, named by their limits in Å."""
    windows = {
        f"{low}-{high}": band_window(sums.frequency, sums.pixel_size_angstrom, low, high)
        for low, high in BANDS_ANGSTROM
        if low > 2 * sums.pixel_size_angstrom
    }
    return {name: window for name, window in windows.items() if window.any()}


def _band_transfer(
    denoised: RingSums | None, raw: RingSums | None, total: CaseSums
) -> dict[str, float | None]:
    """Return Re Σ De Y* / Re Σ Re Y* of each band, Y the reference or the truth."""
    assert denoised is not None
    assert raw is not None
    transfer: dict[str, float | None] = {}
    for name, window in _bands(total).items():
        signal = float((raw.cross * window).sum())
        transfer[name] = float((denoised.cross * window).sum()) / signal if signal > 0 else None
    return transfer


def _correlation(sums: RingSums | None, response: Rings, window: Rings) -> float:
    assert sums is not None
    return filtered_correlation(sums, response, window)


def _half_scores(total: CaseSums, filters: _Filters) -> dict[str, Any]:
    """Return what the halves say of the unknown truth, which needs halves of equal dose."""
    window = _highpass(total)
    raw = _correlation(total.raw_reference, filters.flat, window)
    equal = _have_equal_dose(total)
    scores: dict[str, Any] = {"half_correlation": raw, "equal_dose": equal}
    if not equal:
        return scores | {"correlation_with_truth": None}
    scores["correlation_with_truth"] = {}
    for name, response in filters.named.items():
        scores["correlation_with_truth"][name] = _rho(
            _correlation(total.raw_reference, response, window), raw
        )
    denoised = _correlation(total.denoised_reference, filters.flat, window)
    scores["correlation_with_truth"]["denoised"] = _rho(denoised, raw)
    if total.denoised_other is not None:
        scores |= _noise_and_bias(total, window)
    return scores


def _have_equal_dose(total: CaseSums) -> bool:
    assert total.raw_reference is not None
    return metrics.colours(total.raw_reference, total.n_rings, total.pixel_size_angstrom).equal_dose


def _rho(correlation: float, half_correlation: float) -> float | None:
    return correlation / half_correlation**0.5 if half_correlation > 0 else None


def _noise_and_bias(total: CaseSums, window: Rings) -> dict[str, float | None]:
    """Return residual noise and bias as shares of the signal's variance.

    noise = var(De) − cov(De, Do); bias = cov(De, Do) + var_S − 2 cov(De, Ro), var_S = cov(Re, Ro).
    """
    assert total.denoised_other and total.denoised_reference and total.raw_reference
    w = window.square()
    signal = float((total.raw_reference.cross * w).sum())
    both = float((total.denoised_other.cross * w).sum())
    variance = float(((total.denoised_other.power_x + total.denoised_other.power_y) * w).sum()) / 2
    with_raw = float((total.denoised_reference.cross * w).sum())
    if signal <= 0:
        return {"residual_noise": None, "bias": None}
    return {
        "residual_noise": (variance - both) / signal,
        "bias": (both + signal - 2 * with_raw) / signal,
    }


def _truth_scores(
    cases: Sequence[Case],
    sums: list[CaseSums],
    filters: _Filters,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Score against the noise-free image: means over micrographs."""
    snr: dict[str, list[float]] = {}
    for s in sums:
        window = _highpass(s)
        for name, response in filters.named.items():
            r = _correlation(s.raw_truth, response, window)
            snr.setdefault(name, []).append(metrics.snr_db(r))
        r = _correlation(s.denoised_truth, filters.flat, window)
        snr.setdefault("denoised", []).append(metrics.snr_db(r))
    psnr: dict[str, list[float]] = {}
    ssim: dict[str, list[float]] = {}
    for done, case in enumerate(cases):
        images = load(case)
        assert images.truth is not None
        clean = metrics.highpassed(images.truth, images.pixel_size_angstrom)
        for name, image in _versions(images, filters, sums[0].n_rings).items():
            shown = metrics.highpassed(image, images.pixel_size_angstrom)
            psnr.setdefault(name, []).append(metrics.psnr_db(shown, clean))
            ssim.setdefault(name, []).append(metrics.ssim(shown, clean))
        progress(done + 1)
    total = pooled(sums)
    by_band = {
        band: {"denoised": _correlation(total.denoised_truth, filters.flat, window)}
        for band, window in _bands(total).items()
    }
    scores: dict[str, Any] = {"band_correlation": by_band}
    if total.raw_truth is not None:
        for band, window in _bands(total).items():
            by_band[band]["raw"] = _correlation(total.raw_truth, filters.flat, window)
        transfer = _band_transfer(total.denoised_truth, total.raw_truth, total)
        scores["band_signal_transfer"] = transfer
    return scores | {
        "snr_db": {name: _mean(values) for name, values in snr.items()},
        "snr_db_per_micrograph": snr,
        "psnr_db": {name: _mean(values) for name, values in psnr.items()},
        "ssim": {name: _mean(values) for name, values in ssim.items()},
    }


def _versions(images: Images, filters: _Filters, n_rings: int) -> dict[str, Float[Tensor, "h w"]]:
    """Return the raw image, its filtered versions and the denoised one."""
    if images.raw is None or not filters.named:
        return {"denoised": images.denoised}
    versions = {
        name: images.raw if name == "raw" else apply_ring_gain(images.raw, response, n_rings)
        for name, response in filters.named.items()
    }
    return {**versions, "denoised": images.denoised}


def _curves(total: CaseSums) -> dict[str, Any]:
    """Return pooled curves over frequency, at most ~100 points up to Nyquist."""
    n = total.n_rings

    def thin(sums: RingSums | None) -> RingSums | None:
        if sums is None:
            return None
        return metrics.pool(sums.map(lambda values: values[:n]), _CURVE_POINTS)

    any_denoised = thin(total.denoised_reference or total.denoised_truth)
    assert any_denoised is not None
    points = len(any_denoised.cross)
    width = -(-n // _CURVE_POINTS)
    frequency = (torch.arange(points, dtype=torch.float64) + 0.5) * width / (2 * n)
    curves: dict[str, Any] = {
        "frequency_per_angstrom": (frequency / total.pixel_size_angstrom).tolist(),
        "power_denoised": (any_denoised.power_x / any_denoised.count).tolist(),
    }
    any_raw = thin(total.raw_reference or total.raw_truth)
    if any_raw is not None:
        curves["power_raw"] = (any_raw.power_x / any_raw.count).tolist()
    raw, denoised = thin(total.raw_reference), thin(total.denoised_reference)
    if denoised is not None:
        curves["frc_denoised"] = _list(metrics.frc(denoised))
    if raw is not None and denoised is not None:
        curves |= {
            "frc_raw": _list(metrics.frc(raw)),
            "gain": _list(metrics.correlation_gain(denoised, raw)),
            "signal_transfer": _list(metrics.signal_transfer(denoised, raw)),
        }
        if _have_equal_dose(total):
            rho = metrics.truth_correlation(denoised, raw)
            curves["correlation_with_truth_estimate"] = _list(rho)
    if total.denoised_other is not None:
        other = thin(total.denoised_other)
        assert other is not None
        curves["frc_denoised_halves"] = _list(metrics.frc(other))
    raw, denoised = thin(total.raw_truth), thin(total.denoised_truth)
    if denoised is not None:
        curves |= {
            "power_truth": (denoised.power_y / denoised.count).tolist(),
            "correlation_with_truth_denoised": _list(metrics.frc(denoised)),
        }
    if raw is not None and denoised is not None:
        curves |= {
            "correlation_with_truth_raw": _list(metrics.frc(raw)),
            "signal_transfer_truth": _list(metrics.signal_transfer(denoised, raw)),
        }
    return curves


def _list(values: Tensor) -> list[float | None]:
    """Return a list in which undefined points are None, as JSON has no NaN."""
    return [value if abs(value) < float("inf") else None for value in values.tolist()]


def _files(case: Case) -> dict[str, str | None]:
    named = {
        "denoised": case.denoised,
        "raw": case.raw,
        "reference": case.reference,
        "truth": case.truth,
    }
    return {role: None if path is None else str(path.resolve()) for role, path in named.items()}
