"""The sections of what needs no truth: report card, trust, invention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from clearice.evaluate import invented
from clearice.evaluate.documents import (
    BandRow,
    CardDocument,
    HallucinationDocument,
    Number,
    TrustDocument,
    TrustRow,
)
from clearice.report.figures import Line, line_figure
from clearice.report.layout import Drawing, Picture, Section, Table, number
from clearice.report.pictures import picture_uri
from clearice.report.verdict import short, span

_MOST_MAPS = 4
# Between the panels of hallucination.png.
_GAP_PX = 4
_UNJUDGED = "not\N{NO-BREAK SPACE}judged"
_FREQUENCY = "spatial frequency, 1/Å"
# A frame in which one wild band hides nothing.
_HIGHEST_GAIN, _HIGHEST_SHARE = 3.0, 2.0
_WIDE = 1.0
# Beyond all frames: an end that nothing bounds.
_FAR = 100.0


def card_section(card: CardDocument) -> Section:
    """Show the report card band by band."""
    count = len(card.micrographs)
    end = f", judged to {card.judged_to_angstrom:.3g} Å" if card.judged_to_angstrom else ""
    section = Section(
        "Report card: what the halves say",
        f"From independently denoised halves of {count} micrograph{'s' if count > 1 else ''} that "
        f"the network was not trained on, without any truth: half of the dose, "
        f"{card.pixel_size_angstrom:g} Å/px, high-pass at 1/{card.highpass_angstrom:g} Å{end}. "
        + (
            "Shades are 95 % intervals over micrographs; one over the whole height says that "
            "nothing is known there."
            if count > 1
            else ""
        ),
    )
    if count == 1:
        section.notes.append("One micrograph gives no intervals: nothing is proven by it.")
    section.figures = _card_figures(card.bands)
    section.tables = [_pattern_table(card), _band_table(card.bands)]
    return section


def band_line(
    bands: tuple[BandRow, ...],
    name: str,
    label: str,
    colour: str,
    marker: str,
    *,
    dashed: bool = False,
) -> Line:
    """Return one number of all bands as a curve with its intervals; dashed ones have none."""
    numbers: list[Number] = [getattr(row, name) for row in bands]
    return Line(
        label,
        colour,
        [(_edge(row.from_angstrom) + 1 / row.to_angstrom) / 2 for row in bands],
        [one.value for one in numbers],
        dashed,
        band=None if dashed else [_ends(one) for one in numbers],
        marker=marker,
    )


def _card_figures(bands: tuple[BandRow, ...]) -> list[Drawing]:
    line = partial(band_line, bands)
    correlation = [
        line("correlation_with_truth", "ρ, denoised half with the truth", "denoised", "o"),
        line("correlation_with_truth_raw", "the same of the raw half", "raw", "s"),
        line(
            "naive_frc_denoised_halves",
            "✗ FRC(De, Do): wrong as a measure of quality",
            "other",
            "x",
            dashed=True,
        ),
    ]
    gain = [line("gain", "gain; 1 (dotted): any radial filter", "denoised", "o")]
    transfer = [line("signal_transfer", "T; 1 (dotted): nothing is lost", "denoised", "o")]
    rest = [
        line("residual_noise", "residual noise", "truth", "^"),
        line("bias", "bias", "wiener", "v"),
    ]
    highest = _top(bands, ("residual_noise", "bias"), _HIGHEST_SHARE, 1.05)
    figures = [
        (
            "Correlation with the unknown truth. What both denoised halves agree on counts what "
            "the network adds to both.",
            correlation,
            "correlation",
            (-0.1, 1.05),
            None,
            ("correlation", "naive_frc"),
        ),
        (
            "Gain over a low-pass of the same response",
            gain,
            "gain",
            gain_limits(bands),
            1.0,
            ("gain",),
        ),
        (
            "How much of the true amplitude survives",
            transfer,
            "signal transfer",
            (-0.1, 1.3),
            1.0,
            ("signal_transfer",),
        ),
        (
            "What is left of the noise and what is lost or invented, over the signal's power",
            rest,
            "share of var S",
            (-0.1, highest),
            None,
            ("residual_noise", "bias"),
        ),
    ]
    return [
        Drawing(
            caption,
            line_figure(
                lines,
                _FREQUENCY,
                label,
                y_limits=limits,
                resolution_axis=True,
                level=level,
            ),
            terms,
        )
        for caption, lines, label, limits, level, terms in figures
    ]


def gain_limits(bands: Sequence[BandRow]) -> tuple[float, float]:
    """Return the ends of an axis for gains."""
    return 0.5, _top(bands, ("gain",), _HIGHEST_GAIN, 1.4)


def _edge(resolution: float | None) -> float:
    return 0.0 if resolution is None else 1 / resolution


def _ends(one: Number) -> tuple[float, float] | None:
    """Return the ends of an interval to be drawn; None for one that says nothing."""
    if one.value is None or one.interval is None:
        return None
    low, high = one.interval
    return (-_FAR if low is None else low, _FAR if high is None else high)


def _top(bands: Sequence[BandRow], names: tuple[str, ...], most: float, least: float) -> float:
    """Return an upper limit that holds what is known well, within bounds."""
    values = [least]
    for one in (getattr(row, name) for row in bands for name in names):
        ends = _ends(one)
        if ends is not None and ends[1] - ends[0] < _WIDE:
            values.append(1.1 * ends[1])
    return min(max(values), most)


def _pattern_table(card: CardDocument) -> Table:
    pattern = card.pattern
    shares = {
        "single pixels, other micrographs": pattern.between_micrographs,
        "halves near Nyquist": pattern.near_nyquist,
        "row means": pattern.row_means,
        "column means": pattern.column_means,
    }
    rows = [
        (
            name,
            [
                short(share.value),
                short(share.error),
                short(share.limit),
                "flagged" if share.flagged else "none" if share.conclusive else "not conclusive",
            ],
        )
        for name, share in shares.items()
    ]
    caption = "Signs of a fixed pattern of the detector: correlation where there should be none"
    columns = ["correlation is", "standard error", "limit", "verdict"]
    return Table(caption, columns, rows, plain=True)


def _band_table(bands: tuple[BandRow, ...]) -> Table:
    names = (
        "correlation_with_truth",
        "correlation_with_truth_raw",
        "gain",
        "signal_transfer",
        "residual_noise",
        "bias",
        "naive_frc_denoised_halves",
    )
    rows = []
    for row in bands:
        numbers: list[Number] = [getattr(row, name) for name in names]
        start = "∞" if row.from_angstrom is None else f"{row.from_angstrom:.3g}"
        cells = [
            f"{short(one.value)}\n{span(one.interval)}" if one.interval else short(one.value)
            for one in numbers
        ]
        rows.append((f"{start}–{row.to_angstrom:.3g} Å", cells))
    columns = ["ρ", "ρ, raw", "gain", "T", "residual noise", "bias", "FRC(De, Do)"]
    caption = "All bands, with 95 % intervals; FRC(De, Do) is no measure of quality"
    return Table(caption, columns, rows, plain=True, folded=True)


def trust_section(folder: Path, trust: TrustDocument) -> Section:
    """Show maps of trust over their micrographs."""
    proven = trust.method == "halves"
    section = Section(
        "Trust: what is real, place by place" if proven else "Spread: no proof of what is real",
        "Each micrograph between "
        f"{trust.highpass_angstrom:g} and {trust.lowpass_angstrom:g} Å, coloured by the squared "
        "correlation with the true signal that is to be expected in a window of "
        f"{trust.window_fwhm_angstrom:g} Å: blue 0, nothing of what you see is borne out; white ½; "
        "orange 1, all of it is.",
    )
    if trust.caveat:
        section.notes.append(trust.caveat[:1].upper() + trust.caveat[1:] + ".")
    shown, missing = [], []
    for row in trust.micrographs[:_MOST_MAPS]:
        path = folder / "previews" / f"{row.name}.png"
        if path.is_file():
            shown.append(_trust_picture(row, path))
        else:
            missing.append(str(path))
    if missing:
        section.notes.append(f"Pictures that are not there: {', '.join(missing)}.")
    if len(trust.micrographs) > _MOST_MAPS:
        section.notes.append(f"The first {_MOST_MAPS} of {len(trust.micrographs)} micrographs.")
    section.gallery = shown
    rows = [
        (
            row.name,
            [
                number(row.mean),
                f"{100 * row.share_above_half:.0f} %",
                f"{100 * row.share_below_tenth:.0f} %",
            ],
        )
        for row in trust.micrographs
    ]
    columns = ["mean trust", "trust > ½", "trust < 0.1"]
    caption = "Maps: mean, and the shares of the area with much and with little trust"
    section.tables = [Table(caption, columns, rows, plain=True, folded=len(rows) > _MOST_MAPS)]
    section.notes += [f"Without a map: {failure}" for failure in trust.failures]
    return section


def _trust_picture(row: TrustRow, path: Path) -> Picture:
    caption = f"{row.name}: mean trust {row.mean:.2f}"
    if row.shape is None or row.pixel_size_angstrom is None:
        return Picture(caption, picture_uri(path), colours=True)
    width = row.shape[1] * row.pixel_size_angstrom
    length = _round_length(width / 4)
    label = f"{length / 10:g} nm" if length >= 1000 else f"{length:g} Å"
    return Picture(caption, picture_uri(path), length / width, label, colours=True)


def _round_length(longest: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is no longer."""
    power = 10.0 ** math.floor(math.log10(longest))
    return max(step * power for step in (1, 2, 5) if step * power <= longest)


def invention_section(folder: Path, test: HallucinationDocument) -> Section:
    """Say what a model made of nothing, with the limits."""
    section = Section(
        "Invention: what the model makes of nothing",
        f"{'Passed' if test.passed else 'FAILED'}, on {test.micrographs} micrographs "
        f"({test.measured_on}). Compared between 400 and 20 Å with results of real micrographs.",
    )
    section.notes = [_sentence(failure) for failure in test.failures]
    if test.passed:
        section.notes.append(
            "A model that passes can still be wrong: it was asked about noise and about the "
            "micrographs at hand."
        )
    section.tables = [_share_table(test), _nothing_table(test)]
    path = folder / "hallucination.png"
    if path.is_file():
        names = ["a real micrograph, which sets the grey scale of all", *test.from_nothing]
        section.gallery = [
            Picture(f"Result of {name}", picture_uri(path, (place, len(names)), _GAP_PX))
            for place, name in enumerate(names)
        ]
    else:
        section.notes.append(f"The picture is not there: {path}.")
    return section


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _share_table(test: HallucinationDocument) -> Table:
    limit = invented.MOST_UNSUPPORTED
    rows = [
        ("of unseen micrographs", [number(test.unsupported), f"≤ {limit:g}"]),
        ("of a strange specimen", [number(test.unsupported_of_a_strange_specimen), _UNJUDGED]),
        (
            "result of a shifted micrograph with the shifted result (correlation)",
            [number(test.moves_along), _UNJUDGED],
        ),
    ]
    caption = "Power of results that the other half does not bear out, and whether results move"
    return Table(caption, ["share", "limit"], rows, plain=True)


def _nothing_table(test: HallucinationDocument) -> Table:
    def judged(name: str, wanted: bool, text: str) -> str:
        return text if wanted and name in invented.NOISES else _UNJUDGED

    rows = []
    for name, probe in test.from_nothing.items():
        independent = name != invented.ICE
        cells = [
            f"{probe.power:.2f}\n{judged(name, True, f'≤ {probe.filter_power:.2f}')}",
            f"{probe.blobs:.2f}\n{judged(name, True, f'≤ {invented.MOST_BLOBS:g}')}",
            f"{number(probe.correlation)}\n"
            f"{judged(name, independent, f'± {invented.MOST_CORRELATION:g}')}",
            f"{probe.highest:.1f}\n({probe.highest_of_gaussian:.1f})",
        ]
        rows.append((name, cells))
    caption = (
        "Results of inputs that hold nothing, over those of real micrographs; below each its limit"
    )
    return Table(caption, ["power", "blobs", "correlation", "highest |z|"], rows, plain=True)
