"""Which files belong together: one model, several, or none that may be mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clearice import checkpoint, io, train
from clearice.cli import run
from clearice.errors import InputFileError
from clearice.report import render
from clearice.report.sources import gather, read_source
from helpers import CPU, train_config, write_dataset
from report_files import card_values, write_hallucination, write_picking, write_trust


def _card(path: Path, model: str, sha: str | None) -> Path:
    io.ensure_folder(path.parent)
    io.write_json(path, {**card_values(), "model": model, "model_sha256": sha})
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs on one data set."""
    folder = tmp_path_factory.mktemp("runs")
    dataset = write_dataset(folder / "set").folder
    for seed, name in enumerate(("one", "two")):
        train.run(dataset, folder / name, train_config(steps=2, seed=seed), CPU)
    return {name: folder / name for name in ("set", "one", "two")}


def _refused(
    sources: list[Path], out: Path, capsys: pytest.CaptureFixture[str], match: str
) -> None:
    assert run(["report", *map(str, sources), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert match in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_all_of_one_model_are_one_subject(tmp_path: Path, trained: dict[str, Path]) -> None:
    sha = checkpoint.checksum(trained["one"])
    card = _card(tmp_path / "card.json", "one", sha)
    paths = [card, write_trust(tmp_path / "trust", None), trained["set"], trained["one"]]
    (subject,) = gather([read_source(path) for path in paths])
    assert subject.name == "one"
    assert subject.model_sha256 == sha
    assert subject.dataset is not None
    assert len(subject.sources) == 4


def test_an_earlier_checkpoint_of_a_run_is_of_the_run(
    tmp_path: Path, trained: dict[str, Path]
) -> None:
    sha = checkpoint.checksum(trained["one"] / "last.safetensors")
    card = _card(tmp_path / "card.json", "one", sha)
    assert len(gather([read_source(trained["one"]), read_source(card)])) == 1


def test_models_side_by_side(tmp_path: Path, trained: dict[str, Path]) -> None:
    paths = []
    for name in ("one", "two"):
        sha = checkpoint.checksum(trained[name])
        paths += [trained[name], _card(tmp_path / name / "card.json", name, sha)]
    text = render(paths, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Side by side" in text
    assert text.count("two: Verdict") == 2
    assert [m["name"] for m in json.loads((tmp_path / "report.json").read_text())["models"]] == [
        "one",
        "two",
    ]
    # Cards alone are named by their folders.
    assert [s.name for s in gather([read_source(path) for path in paths[1::2]])] == ["one", "two"]


def test_files_about_another_model_are_refused(
    tmp_path: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    card = _card(tmp_path / "card.json", "two", checkpoint.checksum(trained["two"]))
    apple = write_trust(tmp_path / "trust")
    pear = write_picking(tmp_path / "picking.json", "pear")
    _refused([trained["one"], card], out, capsys, "is about another model (two) than")
    _refused([card, apple], out, capsys, "is about another model (apple")
    _refused([apple, pear], out, capsys, "is about another model (pear")


def test_what_does_not_say_its_model_is_not_guessed(
    tmp_path: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [trained["one"], trained["two"]]
    trust = write_trust(tmp_path / "trust", None)
    out = tmp_path / "report.html"
    unknown = [_card(tmp_path / n / "card.json", n, None) for n in ("a", "b")]
    _refused([*unknown, trust], out, capsys, "does not say which model it is about")
    assert len(gather([read_source(trained["one"]), read_source(trust)])) == 1
    assert len(gather([read_source(path) for path in runs])) == 2


def test_two_cards_of_one_model_are_refused(
    tmp_path: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sha = checkpoint.checksum(trained["one"])
    cards = [_card(tmp_path / name / "card.json", "one", sha) for name in ("a", "b")]
    _refused([trained["one"], *cards], tmp_path / "r.html", capsys, "is a second card file")


def test_another_data_set_is_refused(
    tmp_path: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_dataset(tmp_path / "other", seed=5).folder
    match = "is not the data set that the run was trained on"
    _refused([trained["one"], other], tmp_path / "r.html", capsys, match)
    _refused([other], tmp_path / "r.html", capsys, "give the folder of a run too")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"kind": "report"}', "is of a kind that no report shows ('report')"),
        ('{"kind": "cat"}', "is of a kind that no report shows ('cat')"),
        ('{"kind": "card"}', "is no whole card file of this version"),
        ('{"kind": "trust", "micrographs": 3}', "is no whole trust file of this version"),
        ("[3]", "holds no scores"),
        ('{"kind": "scores"}', "holds no scores"),
        ("{", "is not valid JSON"),
    ],
)
def test_other_files_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, match: str
) -> None:
    (tmp_path / "x.json").write_text(content)
    _refused([tmp_path / "x.json"], tmp_path / "report.html", capsys, match)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    test = write_hallucination(tmp_path / "test")
    (test / "hallucination.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputFileError, match=r"hallucination\.png: is no picture"):
        render([test], tmp_path / "report.html")
