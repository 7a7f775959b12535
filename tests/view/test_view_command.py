"""Which micrographs are compared, and what the user is told when there are none."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch

from clearice import io
from clearice.cli import run
from clearice.view import page
from clearice.view.collection import find_collection
from helpers import write_image, write_movie


def _write(folder: Path, *names: str) -> Path:
    for name in names:
        write_image(folder / name, torch.rand(24, 32))
    return folder


def test_folders_are_matched_by_name_whatever_the_format(tmp_path: Path) -> None:
    raw = _write(tmp_path / "raw", "b.mrc", "a.mrc", "sub/c.mrc")
    denoised = _write(tmp_path / "denoised", "sub/c.mrc", "previews/a.mrc")
    io.write_tiff(denoised / "a.tif", torch.rand(24, 32), 1.5)
    found = find_collection([raw, denoised])
    assert found.labels == ("raw", "denoised")
    assert found.names == ("a", "sub/c")
    assert found.left_out == 1
    assert [source.path for source in found.files[0]] == [raw / "a.mrc", denoised / "a.tif"]


def test_previews_beside_results_are_not_looked_at(tmp_path: Path) -> None:
    folder = _write(tmp_path / "denoised", "a.mrc")
    (folder / "previews").mkdir()
    io.write_png(folder / "previews" / "a.png", torch.zeros(4, 4, dtype=torch.uint8))
    assert find_collection([folder]).names == ("a",)


def test_patterns_are_matched_by_their_wildcards(tmp_path: Path) -> None:
    _write(tmp_path, "m1_even.mrc", "m2_even.mrc", "m2_odd.mrc", "m3_odd.mrc")
    found = find_collection([tmp_path / "*_even.mrc", tmp_path / "*_odd.mrc"])
    assert (found.names, found.left_out) == (("m2",), 2)
    assert [source.path.name for source in found.files[0]] == ["m2_even.mrc", "m2_odd.mrc"]
    assert find_collection([tmp_path / "m2_*"]).names == ("even", "odd")


def test_single_files_need_not_have_the_same_name(tmp_path: Path) -> None:
    _write(tmp_path, "x/a.mrc", "y/a.mrc", "y/b.mrc")
    found = find_collection([tmp_path / "x/a.mrc", tmp_path / "y/a.mrc", tmp_path / "y/b.mrc"])
    assert (found.names, found.labels) == (("a",), ("x/a.mrc", "y/a.mrc", "y/b.mrc"))
    same = find_collection([tmp_path / "x/a.mrc"] * 2)
    assert same.labels == ("a.mrc (1)", "a.mrc (2)")


def test_a_star_list_is_a_version(tmp_path: Path) -> None:
    raw = _write(tmp_path / "raw", "a.mrc", "b.mrc")
    lines = ["data_", "loop_", "_rlnMicrographName", f"{raw / 'a.mrc'}", f"{raw / 'b.mrc'}", ""]
    (tmp_path / "list.star").write_text("\n".join(lines))
    assert find_collection([tmp_path / "list.star", raw]).names == ("a", "b")


def test_mistakes_are_one_line_with_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = _write(tmp_path / "a", "one.mrc"), _write(tmp_path / "b", "two.mrc")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no micrograph")
    (tmp_path / "broken.mrc").write_bytes(b"x" * 2000)
    write_movie(tmp_path / "movie.mrc", torch.rand(3, 8, 8))
    cases = [
        ([], "give micrographs"),
        (["nowhere.mrc"], "nowhere.mrc: does not exist; check the name"),
        (["no*.mrc"], "matches no micrograph; check the pattern"),
        (["empty"], "holds no micrographs"),
        (["notes.txt"], "is no micrograph, going by its name; give MRC"),
        (["broken.mrc"], "broken.mrc: "),
        (["movie.mrc"], "is three-dimensional"),
        (["a", "b"], "no micrograph has the same name in all inputs (one in"),
        (["a/one.mrc"] * 7, "give their folder, or quote the pattern"),
        (["a", "--port", "70000"], "port"),
        (["a", "--pixel-size", "0"], "pixel-size"),
        (["a", "--out", "missing/page.html"], "missing"),
        (["a", "--out", "a/one.mrc"], "give one that ends in .html"),
    ]
    for arguments, told in cases:
        given = [
            word if word.startswith("-") or word.isdigit() else str(tmp_path / word)
            for word in arguments
        ]
        assert run(["view", *given, "--no-open"]) == 2, arguments
        errors = capsys.readouterr().err.strip()
        assert told in errors
        assert len(errors.splitlines()) == 1 or "port" in told or "pixel" in told, errors
    assert io.image_shape(a / "one.mrc") == io.image_shape(b / "two.mrc") == (1, 24, 32)


def test_a_page_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = _write(tmp_path / "secret" / "raw", "a.mrc", "</script><b>.mrc".replace("/", "_"))
    out = tmp_path / "page.html"
    assert run(["view", str(raw), "--out", str(out), "--pixel-size", "2.5"]) == 0
    assert capsys.readouterr().out == f"page: {out}\n"
    text = out.read_text(encoding="utf-8")
    assert "secret" not in text, "a page that is passed on tells no folders"
    content = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert content is not None
    data = json.loads(content[1])
    assert len(data["names"]) == 2
    keys = {key.split("/")[0] for key in data["inside"]}
    assert keys == {"tile", "info", "spectrum"}
    assert data["inside"]["info/0.json"][0]["pixel_size"] == 2.5
    assert data["inside"]["tile/0/0/1-0/0/0_0.png"].startswith("data:image/jpeg;base64,")


def test_a_page_that_would_be_too_large_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_MOST_BYTES", 500)
    raw = _write(tmp_path / "raw", "a.mrc", "b.mrc")
    assert run(["view", str(raw), "--out", str(tmp_path / "page.html")]) == 2
    assert "micrograph 1 of 2; give fewer" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_every_part_of_the_page_is_installed() -> None:
    room = Path(page.__file__).parent
    settings = tomllib.loads((room.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["clearice"]
    parts = [path for path in room.iterdir() if path.is_file() and path.suffix != ".py"]
    assert len(parts) >= 6
    for part in parts:
        assert any(part.relative_to(room.parent).match(pattern) for pattern in patterns), part
