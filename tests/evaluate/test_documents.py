"""Files of evaluations are read back whole, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clearice import io
from clearice.cli import run
from clearice.errors import InputFileError
from clearice.evaluate import card
from clearice.evaluate.documents import CardDocument, HallucinationDocument
from clearice.evaluate.reading import kind_of, made_by, parse, read_document
from half_files import write_halves
from report_files import (
    about,
    card_values,
    lowpassed,
    write_card,
    write_hallucination,
    write_picking,
    write_trust,
)

WRITTEN = ("card", "trust", "hallucination", "picking")


def _values(folder: Path, kind: str) -> dict[str, Any]:
    path = {
        "card": lambda: write_card(folder / "card.json", micrographs=2),
        "trust": lambda: write_trust(folder) / "trust.json",
        "hallucination": lambda: write_hallucination(folder) / "hallucination.json",
        "picking": lambda: write_picking(folder / "picking.json"),
    }[kind]()
    values: dict[str, Any] = json.loads(path.read_text())
    return values


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_written_is_read_back(tmp_path: Path, kind: str) -> None:
    values = _values(tmp_path, kind)
    assert kind_of(values) == kind
    document = parse(tmp_path / "x.json", kind, values)
    assert document.model_sha256 == about("apple")["model_sha256"]
    assert json.loads(document.model_dump_json(exclude_unset=True)) == values
    if kind != "card":  # of the first versions
        del values["kind"]
        assert kind_of(values) == kind


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_missing_or_wrong_value_is_named_in_one_line(tmp_path: Path, kind: str) -> None:
    values = _values(tmp_path, kind)
    for broken in (
        {**values, "micrographs": "none"},
        {k: values[k] for k in values if k != "micrographs"},
    ):
        with pytest.raises(InputFileError, match="micrographs") as caught:
            parse(tmp_path / "x.json", kind, broken)
        assert "\n" not in str(caught.value)
        assert "clearice" in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", '{"kind": 3}', "[" * 100_000])
def test_what_is_no_such_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputFileError):
        read_document(path, CardDocument)


def test_numbers_must_be_finite(tmp_path: Path) -> None:
    values = card_values()
    values["pixel_size_angstrom"] = float("nan")
    (tmp_path / "card.json").write_text(json.dumps(values))
    with pytest.raises(InputFileError, match="pixel_size_angstrom"):
        read_document(tmp_path / "card.json", CardDocument)


@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        ("card", {"bands": []}, "bands"),
        ("card", {"micrographs": []}, "micrographs"),
        ("card", {"pixel_size_angstrom": 0}, "pixel_size_angstrom"),
        ("trust", {"micrographs": []}, "micrographs"),
        ("picking", {"best_lowpass": "low-pass 7 Å"}, "methods lacks low-pass 7 Å"),
        ("picking", {"denoised_minus": {}}, "denoised_minus lacks best_lowpass"),
    ],
)
def test_what_a_page_cannot_be_made_of(
    tmp_path: Path, kind: str, change: dict[str, Any], match: str
) -> None:
    values = {**_values(tmp_path, kind), **change}
    with pytest.raises(InputFileError, match=match):
        parse(tmp_path / "x.json", kind, values)


def test_another_kind_is_refused(tmp_path: Path) -> None:
    write_trust(tmp_path)
    with pytest.raises(InputFileError, match="no hallucination file"):
        read_document(tmp_path / "trust.json", HallucinationDocument)


def test_the_model_stands_in_the_records_beside_or_above(tmp_path: Path) -> None:
    (tmp_path / "denoised_even").mkdir()
    assert made_by(tmp_path / "denoised_even") == {"model": None, "model_sha256": None}
    io.write_json(tmp_path / "denoise.json", {"settings": about("apple")})
    wanted = {key: about("apple")[key] for key in ("model", "model_sha256")}
    assert made_by(tmp_path) == made_by(tmp_path / "denoised_even") == wanted
    # Another program's results in there are not the model's.
    assert made_by(tmp_path / "other")["model"] is None
    (tmp_path / "denoise.json").write_text("[]")
    with pytest.raises(InputFileError, match=r"denoise\.json: is damaged"):
        made_by(tmp_path)


def test_a_model_that_fails_says_so_in_its_card(tmp_path: Path) -> None:
    results = write_halves(tmp_path / "check", lowpassed, micrographs=2)
    io.write_json(results / "denoise.json", {"settings": about("apple")})
    failed = write_hallucination(tmp_path / "failed", failures=("it draws cats", "and dogs"))
    passed = write_hallucination(tmp_path / "passed")
    for folder, light in ((failed, "red"), (passed, "green")):
        found = card(results, hallucination=folder / "hallucination.json")
        first = found.values["entries"][0]
        assert (first["name"], first["light"]) == ("invention", light)
        assert found.values["hallucination"]["passed"] == (light == "green")
        assert found.values["model_sha256"] == about("apple")["model_sha256"]
        json.dumps(found.values, allow_nan=False)
    assert "FAILED" in card(results, hallucination=failed / "hallucination.json").entries[0].line
    assert all(e.name != "invention" for e in card(results).entries)


def test_the_word_about_another_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_halves(tmp_path / "check", lowpassed, micrographs=2)
    io.write_json(results / "denoise.json", {"settings": about("pear")})
    test = write_hallucination(tmp_path / "test") / "hallucination.json"
    command = ["evaluate", "card", str(results), "--out", str(tmp_path / "card.json")]
    assert run([*command, "--hallucination", str(test)]) == 2
    error = capsys.readouterr().err
    assert "is about another model" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "card.json").exists()
    (results / "denoise.json").unlink()  # nothing says
    assert run([*command, "--hallucination", str(test)]) == 0
    assert "invention" in capsys.readouterr().out
