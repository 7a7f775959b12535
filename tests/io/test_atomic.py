"""Outputs appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from clearice import io
from clearice.errors import OutputError

_root = hasattr(os, "geteuid") and os.geteuid() == 0


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_under_its_name_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    with io.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert _names(tmp_path) == ["x.txt"]


def test_a_copy_is_whole_and_a_file_of_its_own(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"12345")
    io.copy_file(source, path)
    source.write_bytes(b"6")
    assert path.read_bytes() == b"12345"
    with pytest.raises(OutputError, match="cannot be written"):
        io.copy_file(tmp_path / "missing", path)
    assert path.read_bytes() == b"12345"
    assert _names(tmp_path) == ["copy", "source"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with io.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_reader_of_the_old_file_never_sees_a_half_written_one(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with path.open() as reader:
        io.write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_whole_and_no_temporary(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(failure), io.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["x.txt"]


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="No space left") as error,
        io.atomic_path(tmp_path / "x.txt") as temporary,
    ):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert "\n" not in str(error.value)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("place", ["file/x.txt", "missing/x.txt"])
def test_a_place_that_is_no_folder_is_an_output_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(OutputError, match=r"x\.txt.*--out"):
        io.write_text(tmp_path / place, "text")
    assert (tmp_path / "file").read_text() == "here"


def test_a_folder_is_made_with_its_parents_and_left_clean(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert io.ensure_folder(folder) == folder
    assert io.ensure_folder(folder) == folder
    assert _names(folder) == []


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_in_place_of_a_file_is_an_output_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot create this folder.*--out"):
        io.ensure_folder(tmp_path / place)


@pytest.mark.skipif(_root, reason="root writes everywhere")
def test_a_read_only_folder_is_an_output_error(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match=r"not writable.*--out"):
        io.ensure_folder(folder)
    with pytest.raises(OutputError, match=r"x\.json.*--out"):
        io.write_json(folder / "x.json", {})


def test_text_is_utf8(tmp_path: Path) -> None:
    io.write_text(tmp_path / "x.txt", "1.3 Å/px\n")
    assert (tmp_path / "x.txt").read_bytes() == "1.3 Å/px\n".encode()


def test_json_is_read_back(tmp_path: Path) -> None:
    value = {"name": "é", "numbers": [1, 2.5, None, True], "nested": {"a": {}}}
    io.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_it_cannot_hold_and_keeps_the_old_file(
    tmp_path: Path, value: float
) -> None:
    path = tmp_path / "x.json"
    io.write_json(path, {"a": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        io.write_json(path, {"a": [value]})
    assert json.loads(path.read_text()) == {"a": 1.0}
    assert _names(tmp_path) == ["x.json"]
