"""Gather runs, scores and proofs, and fill the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from clearice import __version__, io
from clearice.errors import ConfigError, OutputError
from clearice.evaluate.card import without_nan
from clearice.report.layout import Section, fill_page
from clearice.report.model_card import describe_subject, write_model_card
from clearice.report.picking import picking_section
from clearice.report.pictures import CROP_PX
from clearice.report.proof import card_section, invention_section, trust_section
from clearice.report.scores import score_section
from clearice.report.side_by_side import side_by_side
from clearice.report.sources import Source, Subject, gather, read_source
from clearice.report.training import run_section
from clearice.report.verdict import judge

_MANY_SETS = 3


def render(
    sources: Sequence[Path],
    out: Path,
    title: str = "clearice report",
    *,
    model_card: Path | None = None,
    licence: str = "not stated",
) -> Path:
    """Write one self-contained page about models, and what it says as JSON beside it.

    Args:
        sources: Folders of runs, of data sets, of `trust` and `hallucinate`, and the JSON files of
            `evaluate`, `evaluate card`, `evaluate picking`, `trust` and `hallucinate`.
        out: The HTML file.
        title: Of the page.
        model_card: Markdown file about the model, which needs its run among the sources.
        licence: Of the model, in the words of whoever publishes it.

    Raises:
        InputFileError: A source is none of these, damaged, or about another model.
        ConfigError: A model card is asked for without exactly one run, or two files would have
            one name.
        CheckpointError: A model card is asked for and the model cannot be loaded.
        OutputError: A file cannot be written, or would overwrite another.
    """
    machine = out.with_suffix(".json")
    if machine == out or model_card in (out, machine):
        raise ConfigError(
            f"{out}: the page, its numbers ({machine.name}) and the model card need names of "
            "their own; name the page .html and the card .md"
        )
    _refuse_overwriting(machine)
    subjects = gather([read_source(source) for source in sources])
    facts = [describe_subject(subject, licence) for subject in subjects]
    sections = side_by_side(subjects)
    sets = sum(len(source.content) for s in subjects for source in s.of("scores"))
    # So that the page stays small enough to be sent.
    edge_px = CROP_PX if sets <= _MANY_SETS else CROP_PX // 2
    for subject, fact in zip(subjects, facts, strict=True):
        sections += _sections_of(subject, edge_px, named=len(subjects) > 1)
        if fact["problem"] is not None:
            sections[-1].notes.append(fact["problem"])
    told = {"kind": "report", "clearice_version": __version__, "title": title, "models": facts}
    if model_card is not None:
        write_model_card(facts, model_card)
    fill_page("report.html.jinja", out, title=title, sections=sections, machine=machine.name)
    io.write_json(machine, without_nan(told))
    return out


def _refuse_overwriting(path: Path) -> None:
    """Raise OutputError if the file that goes with the page is there and no report's."""
    if not path.exists():
        return
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = None
    if kind != "report":
        raise OutputError(
            f"{path}: the report's numbers would overwrite this file; choose another --out"
        )


def _sections_of(subject: Subject, edge_px: int, *, named: bool) -> list[Section]:
    """Return everything about one model, the verdict first."""
    sections: list[Section] = []
    if subject.is_judged:
        sections.append(Section("Verdict", verdict=judge(subject)))
    order = sorted(subject.sources, key=lambda source: _ORDER.get(source.kind, len(_ORDER)))
    for source in order:
        sections += _shown(source, edge_px)
    if named:
        for place, section in enumerate(sections):
            section.title = f"{subject.name}: {section.title}"
            section.listed = place == 0
    return sections


# Scores and runs follow as they were given.
_ORDER = {kind: place for place, kind in enumerate(("card", "trust", "hallucination", "picking"))}


def _shown(source: Source, edge_px: int) -> list[Section]:
    """Return the sections of one source, with crops of at most this size."""
    folder, content = source.path.parent, source.content
    match source.kind:
        case "card":
            sections = [card_section(content)]
        case "trust":
            sections = [trust_section(folder, content)]
        case "hallucination":
            sections = [invention_section(folder, content)]
        case "picking":
            sections = [picking_section(content)]
        case "scores":
            sections = [score_section(name, scores, edge_px) for name, scores in content.items()]
        case "run":
            sections = [run_section(source.path)]
        case _:
            sections = []
    return sections
