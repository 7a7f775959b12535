"""The verdicts of several models in one table, and their curves in one figure."""

from __future__ import annotations

from collections.abc import Sequence

from clearice.report.figures import Line, line_figure
from clearice.report.layout import Drawing, Lamp, Section, Table
from clearice.report.proof import band_line, gain_limits
from clearice.report.sources import Subject
from clearice.report.verdict import judge

_SHAPES = {"green": "●", "amber": "▲", "red": "■", "none": "–"}
# As many models as can be told apart are drawn; the table has all.
_STYLES = (
    ("#0072b2", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#e69f00", "v"),
    ("#a6761d", "P"),
)


def side_by_side(subjects: Sequence[Subject]) -> list[Section]:
    """Return one section about all models that are judged; none for a single one."""
    judged = [subject for subject in subjects if subject.is_judged]
    if len(judged) < 2:
        return []
    verdicts = [judge(subject) for subject in judged]
    lamps = [{lamp.title: lamp for lamp in (*v.lamps, *v.told)} for v in verdicts]
    titles = list(dict.fromkeys(title for of_model in lamps for title in of_model))
    rows = [("all", [f"{_SHAPES[v.light]} {v.word}" for v in verdicts])]
    rows += [(title, [_cell(of_model.get(title)) for of_model in lamps]) for title in titles]
    section = Section(
        "Side by side",
        "Models that were measured on different micrographs compare with care: their intervals "
        "are over the micrographs of each.",
    )
    section.notes = _scopes(judged)
    caption = "Lights and values with 95 % intervals"
    section.tables = [Table(caption, [subject.name for subject in judged], rows, plain=True)]
    section.figures = _curves(judged)
    return [section]


def _cell(lamp: Lamp | None) -> str:
    if lamp is None:
        return "–"
    text = f"{_SHAPES[lamp.light]} {lamp.word}"
    text += f"\n{lamp.value}" if lamp.value else ""
    return text + (f"\n{lamp.interval}" if lamp.interval else "")


def _scopes(judged: Sequence[Subject]) -> list[str]:
    """Say where cards differ in what they are about, which makes their totals incomparable."""
    cards = [subject.card for subject in judged if subject.card is not None]
    notes = []
    if len({card.micrographs for card in cards}) > 1:
        notes.append("The cards are about different micrographs.")
    if len({card.judged_to_angstrom for card in cards}) > 1:
        notes.append("The cards sum to different resolutions: their totals do not compare.")
    return notes


def _curves(judged: Sequence[Subject]) -> list[Drawing]:
    cards = [(subject.name, card) for subject in judged if (card := subject.card) is not None]
    drawn = list(zip(cards, _STYLES, strict=False))
    gains = gain_limits([row for _, card in cards for row in card.bands])
    figures = []
    for name, caption, label, limits, level in (
        ("correlation_with_truth", "Correlation with the unknown truth", "ρ", (-0.1, 1.05), None),
        ("gain", "Gain over a low-pass of the same response", "gain", gains, 1.0),
        ("signal_transfer", "Signal transfer", "T", (-0.1, 1.3), 1.0),
    ):
        lines: list[Line] = [
            band_line(card.bands, name, model, colour, marker)
            for (model, card), (colour, marker) in drawn
        ]
        if lines:
            svg = line_figure(
                lines,
                "spatial frequency, 1/Å",
                label,
                y_limits=limits,
                resolution_axis=True,
                level=level,
            )
            term = "correlation" if name == "correlation_with_truth" else name
            figures.append(Drawing(caption, svg, (term,)))
    return figures
