"""The page of card, trust, invention and picking says what their files say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from clearice import io
from clearice.errors import ConfigError, OutputError
from clearice.report import render
from clearice.report.layout import Verdict
from clearice.report.sources import gather, read_source
from clearice.report.verdict import judge, short, span
from report_files import (
    card_values,
    write_card,
    write_hallucination,
    write_picking,
    write_trust,
)

MOST_BYTES = 3_000_000


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind, all about one model."""
    folder = tmp_path_factory.mktemp("proof")
    return {
        "card": write_card(folder / "card.json"),
        "trust": write_trust(folder / "trust", count=6),
        "hallucination": write_hallucination(folder / "hallucination"),
        "picking": write_picking(folder / "picking.json"),
    }


@pytest.fixture(scope="session")
def page(
    everything: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    """The report of all of them, and its numbers."""
    return _page([*everything.values()], tmp_path_factory.mktemp("page") / "report.html")


def _page(sources: list[Path], out: Path) -> tuple[str, dict[str, Any]]:
    render(sources, out)
    return out.read_text(encoding="utf-8"), json.loads(out.with_suffix(".json").read_text())


def _verdict(tmp_path: Path, *paths: Path, **lights: str) -> Verdict:
    io.write_json(tmp_path / "card.json", card_values(**lights))
    sources = [read_source(path) for path in (tmp_path / "card.json", *paths)]
    return judge(gather(sources)[0])


def test_every_part_is_on_the_page(page: tuple[str, dict[str, Any]]) -> None:
    text, _ = page
    for part in (
        "Verdict",
        "Report card",
        "Trust: what is real",
        "Invention: what the model makes of nothing",
        "Picking particles of 150",
        "wrong as a measure of quality",
        "The first 4 of 6 micrographs",
        "≤ 0.34",
        "a false particle as strong as real ones",
    ):
        assert part in text
    # Four maps with their scales, five panels of the test for invention.
    assert text.count('class="ticks"') == text.count('class="length"') == 4
    assert text.count("<img ") == 9
    # 128 px of 2.5 Å are 320 Å.
    assert 'style="width: 15.62%">50 Å' in text
    assert len(text.encode()) < MOST_BYTES


def test_every_link_leads_to_a_definition(page: tuple[str, dict[str, Any]]) -> None:
    text, _ = page
    targets = set(re.findall(r'href="#([^"]+)"', text))
    assert {"t-gain", "t-naive_frc", "t-lights", "t-blobs", "t-average_precision"} <= targets
    assert targets <= set(re.findall(r'id="([^"]+)"', text))
    assert "http" not in re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)


def test_figures_name_their_axes_and_units(page: tuple[str, dict[str, Any]]) -> None:
    text, _ = page
    figures = re.findall(r"<svg (?!class).*?</svg>", text, re.DOTALL)
    assert len(figures) == 5
    for figure in figures[:4]:
        assert "spatial frequency, 1/Å" in figure
    labels = ("correlation", "gain", "signal transfer", "share of var S", "precision")
    for figure, label in zip(figures, labels, strict=True):
        assert label in figure


def test_lights_are_told_by_shape_and_word(
    everything: dict[str, Path], page: tuple[str, dict[str, Any]]
) -> None:
    text, told = page
    lamps = re.findall(r'<article class="lamp (\w+)">.*?<span class="says">([^<]+)<', text, re.S)
    words = {"green": "good", "amber": "check", "red": "bad", "none": "not judged"}
    assert all(words[light] == word for light, word in lamps)
    lights = told["models"][0]["verdict"]["lights"]
    assert [light for light, _ in lamps] == [one["light"] for one in lights]
    card = json.loads(everything["card"].read_text())
    for entry in card["entries"]:
        mine = next(one for one in lights if one["name"] == entry["name"])
        assert (mine["light"], mine["line"]) == (entry["light"], entry["line"])
        assert mine["definition"]
        assert entry["line"].split(";")[0].replace("'", "&#39;") in text
    assert len(set(re.findall(r'<svg class="shape"[^>]*>(.*?)</svg>', text))) == 3


def test_the_numbers_for_machines_hold_every_source(
    everything: dict[str, Path], page: tuple[str, dict[str, Any]]
) -> None:
    _, told = page
    assert told["kind"] == "report"
    (model,) = told["models"]
    for source in model["sources"]:
        path = Path(source["path"])
        assert source["values"] == json.loads(path.read_text())
    assert [source["kind"] for source in model["sources"]] == [*everything]


def test_the_worst_light_is_the_verdict(tmp_path: Path) -> None:
    passed = write_hallucination(tmp_path / "passed")
    failed = write_hallucination(tmp_path / "failed", failures=("it draws cats",))
    assert _verdict(tmp_path, passed).light == "green"
    assert _verdict(tmp_path, passed, gain="amber").light == "amber"
    red = _verdict(tmp_path, passed, gain="amber", error="red")
    assert red.light == "red"
    assert "Error" in red.text
    assert [lamp.light for lamp in red.lamps][:2] == ["red", "amber"]
    found = _verdict(tmp_path, failed)
    assert found.light == "red"
    assert found.lamps[0].name == "invention"
    assert "it draws cats" in found.lamps[0].line
    # What nobody asked is not taken for good.
    silent = _verdict(tmp_path)
    assert silent.light == "amber"
    assert "clearice hallucinate" in silent.text
    assert silent.count("amber") == 0
    assert "2 micrographs give wide intervals" in _verdict(tmp_path, passed, gain="amber").text


@pytest.mark.parametrize(("difference", "light"), [(0.1, "green"), (0.01, "amber"), (-0.1, "red")])
def test_picking_is_judged_by_its_interval(tmp_path: Path, difference: float, light: str) -> None:
    path = write_picking(tmp_path / "picking.json", difference=difference)
    verdict = _verdict(tmp_path, path)
    (lamp,) = (lamp for lamp in verdict.lamps if lamp.name == "picking")
    assert lamp.light == light
    assert "low-pass 30 Å" in lamp.line


def test_the_test_itself_counts_more_than_its_word_in_the_card(tmp_path: Path) -> None:
    failed = write_hallucination(tmp_path / "failed", failures=("it draws cats",))
    path = write_card(tmp_path / "card.json", hallucination=failed / "hallucination.json")
    subject = gather([read_source(path), read_source(failed)])[0]
    assert [lamp.name for lamp in judge(subject).lamps].count("invention") == 1
    assert judge(gather([read_source(path)])[0]).light == "red"


def test_a_card_alone_is_shown_with_its_gaps(tmp_path: Path) -> None:
    values = card_values()
    io.write_json(tmp_path / "card.json", values)
    text, _ = _page([tmp_path / "card.json"], tmp_path / "report.html")
    assert "∞–40" in text
    assert "… to\N{NO-BREAK SPACE}0.6" in text
    values["micrographs"] = ["mic0"]
    io.write_json(tmp_path / "card.json", values)
    assert "nothing is proven by it" in _page([tmp_path / "card.json"], tmp_path / "r.html")[0]


def test_pictures_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    trust = write_trust(tmp_path / "trust", count=1)
    test = write_hallucination(tmp_path / "test", failures=("it draws cats",))
    (trust / "previews" / "mic0.png").unlink()
    (test / "hallucination.png").unlink()
    text, _ = _page([trust, test], tmp_path / "report.html")
    assert text.count("not there") == 2
    assert "It draws cats." in text
    assert "FAILED" in text


def test_a_spread_is_called_no_proof(tmp_path: Path) -> None:
    trust = write_trust(tmp_path / "trust", count=1) / "trust.json"
    told = json.loads(trust.read_text()) | {"method": "spread", "caveat": "it is no proof"}
    trust.write_text(json.dumps(told))
    text, _ = _page([trust], tmp_path / "report.html")
    assert "Spread: no proof of what is real" in text
    assert "It is no proof." in text
    assert "Nothing is judged" in text


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    test = write_hallucination(tmp_path / "test", failures=("<script>alert(1)</script>",))
    text, _ = _page([test], tmp_path / "report.html")
    assert "<script>alert" not in text


def test_another_file_is_not_overwritten(tmp_path: Path, everything: dict[str, Path]) -> None:
    card = tmp_path / "card.json"
    card.write_bytes(everything["card"].read_bytes())
    with pytest.raises(OutputError, match="would overwrite"):
        render([card], tmp_path / "card.html")
    assert not (tmp_path / "card.html").exists()
    for name, model_card in (("report.json", None), ("a.html", "a.html"), ("a.html", "a.json")):
        other = None if model_card is None else tmp_path / model_card
        with pytest.raises(ConfigError, match="names of their own"):
            render([card], tmp_path / name, model_card=other)
    render([card], tmp_path / "report.html")
    render([card], tmp_path / "report.html")  # its own


def test_numbers_in_words() -> None:
    assert short(-2e-16) == "0"
    assert short(None) == "–"
    assert span((None, -0.5)) == "… to\N{NO-BREAK SPACE}−0.5"
    assert span(None) == ""
    assert span((None, None)) == "unbounded"
