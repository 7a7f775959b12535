"""The lines of the card: a number, its interval, a light, and what it means in plain words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from clearice.evaluate import estimates
from clearice.evaluate.artefacts import Artefacts, checkerboard_amplitude, seam_amplitude
from clearice.evaluate.bootstrap import Estimate, Resampled
from clearice.evaluate.documents import Word
from clearice.evaluate.half_sums import HalfSums
from clearice.evaluate.pattern import SIGMAS, Pattern
from clearice.evaluate.slots import HIGHPASS_ANGSTROM, N_BANDS, TOTAL, band_edges
from clearice.evaluate.thresholds import LIMITS, Light
from clearice.metrics import snr_db

Slots = dict[str, list[Estimate]]


@dataclass(frozen=True)
class Entry:
    """One line of the card.

    Attributes:
        name: As in the documentation.
        estimate: The number and its interval.
        unit: Of the number.
        light: Verdict; `none` where a number is neither good nor bad.
        line: What it says, in plain words.
    """

    name: str
    estimate: Estimate
    unit: str
    light: Light
    line: str

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        texts = {"unit": self.unit, "light": self.light, "line": self.line}
        return {"name": self.name, **self.estimate.as_json(), **texts}


def format_card(entries: tuple[Entry, ...]) -> str:
    """Return the card for the terminal."""
    rows = [("light", "measure", "value", "95 % interval")]
    rows += [("" if e.light == "none" else e.light, e.name, *_numbers(e)) for e in entries]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["".join(c.ljust(w + 2) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines[0] += "what it says"
    said = [line + entry.line for line, entry in zip(lines[1:], entries, strict=True)]
    return "\n".join([lines[0].rstrip(), *said])


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"


def _numbers(entry: Entry) -> tuple[str, str]:
    e = entry.estimate
    unit = f" {entry.unit}" if entry.unit == "dB" else ""
    known = math.isfinite(e.value) and not math.isnan(e.low)
    interval = "" if not known else f"{_number(e.low)} to {_number(e.high)}"
    return _number(e.value) + unit, interval


def sum_entries(
    sums: Resampled[HalfSums], by_slot: Slots, pattern: Pattern, scope: str
) -> list[Entry]:
    """Write what the halves say of the signal.

    Args:
        sums: Of the micrographs.
        by_slot: Estimates in each slot.
        pattern: What the halves share that is no specimen.
        scope: Dose and detail that they are about.
    """
    rho, raw = by_slot["correlation_with_truth"][TOTAL], by_slot["correlation_with_truth_raw"]
    better = sums.estimate(lambda s: estimates.truth_correlation(s) - estimates.raw_correlation(s))[
        TOTAL
    ]
    both = sums.estimate(estimates.mean_correlation, 1.0)[TOTAL]
    gain = _gain(by_slot, pattern)
    light = LIMITS["improvement"].light(better)
    if light == "green" and gain.light == "red":
        light = "amber"  # every low-pass is better than raw
    return [
        Entry(
            "correlation",
            rho,
            "",
            light,
            f"of the denoised halves with the unknown truth; raw: {_number(raw[TOTAL].value)}",
        ),
        Entry("snr_half_dose", _decibels(rho), "dB", light, f"signal-to-noise ratio at {scope}"),
        Entry(
            "full_dose",
            _decibels(both),
            "dB",
            "none",
            "of the mean of both denoised halves; the full-dose result itself has no independent "
            "image to be judged by",
        ),
        gain,
        *_signal_entries(by_slot),
    ]


def _decibels(rho: Estimate) -> Estimate:
    def change(value: float) -> float:
        if math.isnan(value):
            return value
        return snr_db(value) if 0 < value < 1 else 0.0 if value <= 0 else math.inf

    return rho.map(change)


def _gain(by_slot: Slots, pattern: Pattern) -> Entry:
    gain = by_slot["gain"][TOTAL]
    light = LIMITS["gain"].light(gain)
    if math.isnan(gain.low) and light == "green":
        light = "amber"
    if light == "green" and pattern.flagged:
        light = "amber"
        line = "no claim: a fixed pattern is flagged, and may look like a gain"
    elif light == "green":
        line = "more of the truth, frequency by frequency, than any radial filter"
    elif light == "red":
        line = "less of the truth than a radial filter of the same response"
    else:
        line = "no proof that it shows more than a radial filter of the same response"
    return Entry("gain", gain, "", light, line)


def _signal_entries(by_slot: Slots) -> list[Entry]:
    transfer, removed = by_slot["signal_transfer"][TOTAL], by_slot["excess_removal"][TOTAL]
    noise, bias, error = (by_slot[name][TOTAL] for name in ("residual_noise", "bias", "error"))
    leaves = LIMITS["excess_removal"].light(removed)
    residual = by_slot["residual_correlation"][TOTAL]
    return [
        Entry("signal_transfer", transfer, "", leaves, "share of the signal's amplitude kept"),
        Entry(
            "signal_removed",
            removed,
            "",
            leaves,
            f"amplitude removed beyond what the uncertainty asks for; what was removed "
            f"correlates with the truth at {_number(residual.value)}",
        ),
        Entry("residual_noise", noise, "var S", "none", "noise left, over the signal's power"),
        Entry("bias", bias, "var S", "none", "error that both halves share, over the signal's"),
        Entry(
            "error",
            error,
            "var S",
            LIMITS["error"].light(error),
            "noise and bias together; an empty image has 1",
        ),
    ]


def whiteness_entry(by_slot: Slots, pixel_size_angstrom: float) -> Entry:
    """Write whether more than noise was removed.

    Taken is the band in which most was removed beyond the noise, judged by its interval.
    """
    bands = by_slot["residual_power"][:N_BANDS]
    resolution = pixel_size_angstrom / band_edges()
    # What is slower is ice, of which a network sees a part.
    judged = [band for band in range(N_BANDS) if resolution[band] <= HIGHPASS_ANGSTROM]

    def surely(band: int) -> float:
        estimate = bands[band]
        low = estimate.value if math.isnan(estimate.low) else estimate.low
        return low if math.isfinite(estimate.value) else -math.inf

    worst = max(judged, key=surely)
    where = f"{resolution[worst]:.3g}–{resolution[worst + 1]:.3g} Å"
    return Entry(
        "removed_power",
        bands[worst],
        "noise",
        LIMITS["residual_power"].light(bands[worst]),
        f"power removed over that of the noise, largest at {where}; above 1 it was not all noise",
    )


def artefact_entries(artefacts: Resampled[Artefacts]) -> list[Entry]:
    """Write what the network draws by itself."""
    seams = artefacts.estimate(lambda a: seam_amplitude(a)[:, None])[0]
    board = artefacts.estimate(lambda a: checkerboard_amplitude(a)[:, None])[0]
    if math.isnan(seams.value):
        seam_light: Light = "none"
        seam_line = "not measured; give --tile, the edge of the tiles"
    else:
        seam_light = LIMITS["seams"].light(seams)
        seam_line = "steps between tiles, over the contrast of the picture"
    return [
        Entry("seams", seams, "", seam_light, seam_line),
        Entry(
            "checkerboard",
            board,
            "",
            LIMITS["checkerboard"].light(board),
            "what repeats every 2 or 4 px, over the contrast of the picture",
        ),
    ]


def pattern_entry(pattern: Pattern) -> Entry:
    """Write whether the detector adds the same to all images."""
    share = pattern.between
    if math.isnan(share.value):
        share = pattern.near_nyquist
    spread = 1.96 * share.error
    estimate = Estimate(share.value, share.value - spread, share.value + spread, share.error)
    if pattern.flagged:
        names = ", ".join(name for name, s in pattern.shares.items() if s.flagged)
        line = (
            f"fixed pattern of the detector ({names}): it counts as signal in every other line; "
            "use clearice prepare --fix-pattern"
        )
        return Entry("fixed_pattern", estimate, "", "red", line)
    weak = any(s.significant and s.conclusive for s in pattern.shares.values())
    line = "a weak fixed pattern is left" if weak else "no fixed pattern of the detector found"
    if pattern.between.value < -SIGMAS * pattern.between.error:
        line += "; below 0, as --fix-pattern leaves it, which hides a rest of the pattern"
    return Entry("fixed_pattern", estimate, "", "amber" if weak else "green", line)


def naive_entry(by_slot: Slots) -> Entry:
    """Write the number that is often taken for quality, and why it is none."""
    return Entry(
        "naive_frc",
        by_slot["naive_frc_denoised_halves"][TOTAL],
        "",
        "none",
        "agreement of the denoised halves: counts inventions as signal, so it is no quality",
    )


def invention_entry(word: Word) -> Entry:
    """Write what the test for invention says; its limits are in `invented.failures`."""
    nothing = Estimate(math.nan, math.nan, math.nan, math.nan)
    if word.passed:
        line = "passed: of noise and empty ice the model makes no particles; that is no proof"
        return Entry("invention", nothing, "", "green", line)
    more = len(word.failures) - 1
    line = f"FAILED: the model invents structure: {word.failures[0]}"
    line += f" (and {more} more)" if more else ""
    return Entry("invention", nothing, "", "red", line)
