"""What a page is made of, and how it is filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from clearice import __version__, io
from clearice.evaluate.thresholds import Light
from clearice.report.glossary import TERMS, term_of

METHODS = {
    "raw": "raw",
    "gaussian_best": "best Gaussian",
    "wiener": "radial Wiener",
    "denoised": "clearice",
}
# A light is told by its shape and its word as well as by its colour.
WORDS: dict[Light, str] = {"green": "good", "amber": "check", "red": "bad", "none": "not judged"}


@dataclass(frozen=True)
class Table:
    """A table with a caption; unless it is plain, the last row is clearice's own.

    Attributes:
        caption: What it shows.
        columns: Headings; those that `glossary.term_of` knows lead to their definitions.
        rows: Heading and cells of each.
        plain: No row stands out.
        folded: Shown when it is asked for.
    """

    caption: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    plain: bool = False
    folded: bool = False


class Drawing(NamedTuple):
    """A figure.

    Attributes:
        caption: What it shows.
        svg: The drawing.
        terms: Keys of the glossary for what it shows.
    """

    caption: str
    svg: str
    terms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """An image with what is needed to read it.

    Attributes:
        caption: What it shows.
        uri: Data URI.
        bar_share: Length of the scale bar, as a share of the width; 0 for none.
        bar_label: With unit.
        colours: The image ends with a bar of the colours from 0 to 1.
    """

    caption: str
    uri: str
    bar_share: float = 0.0
    bar_label: str = ""
    colours: bool = False


@dataclass(frozen=True)
class Lamp:
    """A light of the verdict.

    Attributes:
        name: Key of the glossary.
        title: For people.
        light: The verdict.
        line: What it says, in plain words.
        value: With unit, or empty.
        interval: 95 %, or empty.
        limits: What is good and what is bad, in words.
    """

    name: str
    title: str
    light: Light
    line: str
    value: str = ""
    interval: str = ""
    limits: str = ""

    @property
    def word(self) -> str:
        """The light in a word."""
        return WORDS[self.light]

    def as_json(self) -> dict[str, str]:
        """Return plain values."""
        term = TERMS.get(self.name)
        return {**vars(self), "word": self.word, "definition": term.text if term else ""}


@dataclass(frozen=True)
class Verdict:
    """All lights at a glance.

    Attributes:
        light: The worst of them; amber too if a test is missing.
        text: What it means.
        lamps: The judged ones, worst first.
        told: Numbers that are neither good nor bad.
    """

    light: Light
    text: str
    lamps: tuple[Lamp, ...]
    told: tuple[Lamp, ...]

    @property
    def word(self) -> str:
        """The light in a word."""
        return WORDS[self.light]

    def count(self, light: Light) -> int:
        """Return how many lights are so."""
        return sum(lamp.light == light for lamp in self.lamps)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "light": self.light,
            "word": self.word,
            "text": self.text,
            "lights": [lamp.as_json() for lamp in (*self.lamps, *self.told)],
        }


@dataclass
class Section:
    """One block of the page; those that are not `listed` have no link at its top."""

    title: str
    text: str = ""
    notes: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    tables: list[Table] = field(default_factory=list)
    figures: list[Drawing] = field(default_factory=list)
    gallery: list[Picture] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)
    edge_angstrom: float = 0.0
    code: str = ""
    listed: bool = True


def number(value: float | None, digits: int = 2) -> str:
    """Return a number for a table, with a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


# Defined on every page.
_ALWAYS = {
    "halves",
    "snr",
    "frc",
    "rho",
    "naive_frc",
    "signal_transfer",
    "residual_noise",
    "bias",
    "best_gaussian",
    "wiener",
}


def used_terms(sections: Sequence[Section]) -> list[str]:
    """Return the keys of the definitions that a page needs, in their order."""
    wanted = set(_ALWAYS)
    for section in sections:
        wanted.update(key for drawing in section.figures for key in drawing.terms)
        for table in section.tables:
            names = [*table.columns, *(name for name, _ in table.rows)]
            wanted.update(key for name in names if (key := term_of(name)))
        if section.verdict is not None:
            wanted |= {"lights", "interval"}
            lamps = (*section.verdict.lamps, *section.verdict.told)
            wanted.update(lamp.name for lamp in lamps)
    return [key for key in TERMS if key in wanted]


def fill_page(template: str, out: Path, *, sections: Sequence[Section], **values: Any) -> Path:
    """Write a page from one of the templates.

    Raises:
        OutputError: The page cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clearice", "report"), autoescape=True
    )
    environment.globals["term_of"] = term_of
    environment.globals["terms"] = TERMS
    glossary = used_terms(sections)
    page = environment.get_template(template).render(
        version=__version__, sections=sections, glossary=glossary, **values
    )
    io.ensure_folder(out.parent)
    io.write_text(out, page)
    return out
