"""From what evaluations found to lights at a glance, each with a line in plain words."""

from __future__ import annotations

import math

from clearice.evaluate.bootstrap import Estimate
from clearice.evaluate.documents import (
    CardDocument,
    DifferenceRow,
    EntryLine,
    LimitsRow,
    PickingDocument,
    Word,
)
from clearice.evaluate.entries import invention_entry
from clearice.evaluate.thresholds import LIMITS, Light
from clearice.report.glossary import TITLES
from clearice.report.layout import Lamp, Verdict
from clearice.report.sources import Subject

# Rounding of the arithmetic, not a number.
_NOTHING = 1e-9
# Micrographs whose intervals are useful, as the how-to says.
_ENOUGH = 8
_ORDER: tuple[Light, ...] = ("red", "amber", "green", "none")
# Which limits of the card each line is judged by.
_LIMITS_OF = {
    "correlation": "improvement",
    "snr_half_dose": "improvement",
    "gain": "gain",
    "signal_transfer": "excess_removal",
    "signal_removed": "excess_removal",
    "error": "error",
    "removed_power": "residual_power",
    "seams": "seams",
    "checkerboard": "checkerboard",
}


def judge(subject: Subject) -> Verdict:
    """Return the lights of a model: of its card, the test for invention, and picking."""
    card, test = subject.card, subject.hallucination
    lamps = [] if card is None else [_from_card(entry, card) for entry in card.entries]
    if test is not None:
        lamps = [lamp for lamp in lamps if lamp.name != "invention"]
        lamps.insert(0, _invention(test.word()))
    lamps += [_picking(document) for document in subject.picking]
    judged = [lamp for lamp in lamps if lamp.light != "none"]
    judged.sort(key=lambda lamp: _ORDER.index(lamp.light))
    told = [lamp for lamp in lamps if lamp.light == "none"]
    light, text = _summary(judged, card)
    return Verdict(light, text, tuple(judged), tuple(told))


def _summary(judged: list[Lamp], card: CardDocument | None) -> tuple[Light, str]:
    lights = [lamp.light for lamp in judged]
    missing = []
    if card is None:
        missing.append("a report card (clearice evaluate card)")
    if not any(lamp.name == "invention" for lamp in judged):
        missing.append("the test for invention (clearice hallucinate)")
    tail = f" Missing: {' and '.join(missing)}." if missing else ""
    if "red" in lights:
        names = ", ".join(lamp.title for lamp in judged if lamp.light == "red")
        return "red", f"Do not rely on these results before this is mended: {names}.{tail}"
    if "amber" in lights:
        names = ", ".join(lamp.title for lamp in judged if lamp.light == "amber")
        few = "" if card is None else _few(len(card.micrographs))
        return "amber", f"Nothing is bad; look at: {names}.{few}{tail}"
    if missing:
        said = "Nothing speaks against this model" if judged else "Nothing is judged"
        return "amber", f"{said}, but not all was asked.{tail}"
    return "green", (
        "Nothing speaks against this model on these micrographs. That is evidence, not proof: look "
        "at the trust of single places, and extract particles from the raw micrographs."
    )


def _few(micrographs: int) -> str:
    """Say that intervals are wide because there are few micrographs."""
    if micrographs >= _ENOUGH:
        return ""
    held = "One micrograph gives no intervals" if micrographs == 1 else ""
    held = held or f"{micrographs} micrographs give wide intervals"
    return f" {held}: with {_ENOUGH} or more, more can be said."


def _from_card(entry: EntryLine, card: CardDocument) -> Lamp:
    key = _LIMITS_OF.get(entry.name)
    limits = card.limits.get(key) if key else None
    return Lamp(
        name=entry.name,
        title=TITLES.get(entry.name, entry.name),
        light=entry.light,
        line=entry.line,
        value=_valued(entry.value, entry.unit),
        interval="" if entry.value is None else span(entry.interval),
        limits=_in_words(entry.name, limits),
    )


def _in_words(name: str, limits: LimitsRow | None) -> str:
    if name == "fixed_pattern":
        return "good: none is found; bad: flagged; check: more than chance, below the limit"
    if limits is None:
        return ""
    what = {
        "correlation": "ρ less that of raw ",
        "snr_half_dose": "ρ less that of raw ",
        "signal_transfer": "ρ² − T ",
    }.get(name, "")
    good, bad = ("≥", "<") if limits.high_is_good else ("≤", ">")
    if limits.innocent:
        return f"good until the whole interval is {bad} {limits.green:g}; bad: {bad} {limits.red:g}"
    words = f"good: {what}{good} {limits.green:g}; bad: {bad} {limits.red:g}"
    return words + ("; gain not bad" if name in ("correlation", "snr_half_dose") else "")


def _invention(word: Word) -> Lamp:
    entry = invention_entry(word)
    return Lamp("invention", TITLES["invention"], entry.light, entry.line)


def _picking(document: PickingDocument) -> Lamp:
    found = document.denoised_minus["best_lowpass"]
    light = LIMITS["picking"].light(_estimate(found))
    if found.interval_95 is None and light == "green":
        light = "amber"
    line = {
        "green": "particles are easier to find than with any low-pass",
        "amber": "no proof that particles are easier to find than with a low-pass",
        "red": "particles are harder to find than with the best low-pass",
    }[light]
    diameter = f"{document.settings.diameter_angstrom:g} Å"
    return Lamp(
        name="picking",
        title=f"{TITLES['picking']}, particles of {diameter}",
        light=light,
        line=f"{line}; average precision less that of {document.best_lowpass}",
        value=f"{found.difference:+.3f}".replace("-", "−"),
        interval=span(found.interval_95),
        limits="good: interval above 0; bad: below 0",
    )


def _estimate(found: DifferenceRow) -> Estimate:
    low, high = found.interval_95 or (math.nan, math.nan)
    return Estimate(found.difference, low, high, math.nan)


def _valued(value: float | None, unit: str) -> str:
    text = short(value)
    if value is None:
        return ""
    return f"{text} {unit}" if unit == "dB" else f"{text} × {unit}" if unit else text


def short(value: float | None) -> str:
    """Return a number with three digits, or a dash."""
    if value is None:
        return "–"
    return "0" if abs(value) < _NOTHING else f"{value:.3g}".replace("-", "−")


def span(interval: tuple[float | None, float | None] | None) -> str:
    """Return an interval in words; an end that nothing bounds is three dots."""
    if interval is None:
        return ""
    if interval == (None, None):
        return "unbounded"
    low, high = ("…" if end is None else short(end) for end in interval)
    return f"{low} to\N{NO-BREAK SPACE}{high}"
