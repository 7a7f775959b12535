"""The report in a real Chromium: three widths, light and dark, on paper, without a network."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from chromium import find_chromium, open_page
from clearice.report import render
from report_files import write_card, write_hallucination, write_picking, write_trust

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium"),
]
# Smallest contrast of text with the page.
_CONTRAST = """(() => {
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (text) => { const [r, g, b] = text.match(/[0-9.]+/g).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const page = light(getComputedStyle(document.body).backgroundColor);
  const contrast = (text) => { const other = light(text);
    return (Math.max(page, other) + 0.05) / (Math.min(page, other) + 0.05); };
  return Math.min(...[...document.querySelectorAll("p, figcaption, .says, a, td, th, dd")].map(
    (node) => contrast(getComputedStyle(node).color))); })()"""
# What sticks out, but for what scrolls by itself.
_OUTSIDE = """[...document.querySelectorAll("body *")].filter((node) =>
  !node.closest(".scroll, pre, svg") &&
  node.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"""
# Of the text in figures, px on the screen.
_SMALLEST = """Math.min(...[...document.querySelectorAll("figure svg text")].map((text) => {
  const { a, b } = text.getScreenCTM();
  return Math.hypot(a, b) * parseFloat(getComputedStyle(text).fontSize); }))"""
_LOADED = """performance.getEntriesByType("resource").filter((entry) =>
  !entry.name.startsWith("data:")).length"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two models, which has all that a report of one has."""
    folder = tmp_path_factory.mktemp("chromium")
    sources = []
    for model in ("apple", "pear"):
        test = write_hallucination(folder / model / "test", model)
        card = write_card(folder / model / "card.json", model, test / "hallucination.json")
        trust = write_trust(folder / model / "trust", model, count=5)
        sources += [card, test, trust, write_picking(folder / model / "picking.json", model)]
    return render(sources, folder / "report.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 800, 390])
def test_it_fits_and_can_be_read(page_file: Path, tmp_path: Path, width: int, scheme: str) -> None:
    with open_page(page_file.as_uri(), tmp_path / "profile", (width, 900)) as page:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.call("Emulation.setEmulatedMedia", media="screen", features=features)
        page.wait("document.readyState === 'complete'")
        page.run("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        assert page.run("document.documentElement.clientWidth") <= width
        assert page.run(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
        assert page.run("[...document.images].every((image) => image.naturalWidth > 0)")
        assert page.run(_OUTSIDE) == 0
        assert page.run(_CONTRAST) >= 4.5  # WCAG AA
        assert page.run(_SMALLEST) >= 9
        assert page.run(_LOADED) == 0
        assert page.troubles() == []


def test_a_term_is_one_click_away(page_file: Path, tmp_path: Path) -> None:
    with open_page(page_file.as_uri(), tmp_path / "profile") as page:
        page.wait("document.readyState === 'complete'")
        page.run("document.querySelector('.lamp summary').click()")
        assert page.run("document.querySelector('.lamp details').open")
        page.run("document.querySelector('figcaption a.term').click()")
        page.wait("document.querySelector('dt:target') !== null")
        assert page.troubles() == []


def test_it_prints_on_light_paper(page_file: Path, tmp_path: Path) -> None:
    with open_page(page_file.as_uri(), tmp_path / "profile") as page:
        page.wait("document.readyState === 'complete'")
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        page.call("Emulation.setEmulatedMedia", media="print", features=features)
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.run(_CONTRAST) >= 4.5
        page.call("Emulation.setEmulatedMedia", media="", features=[])
        printed = page.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        pdf = base64.b64decode(printed["data"])
        assert 4 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 30
        assert page.troubles() == []
