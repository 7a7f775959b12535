"""Files of two patterns are paired by what their wildcards stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearice.errors import PairingError
from clearice.prepare import match_pairs
from clearice.prepare.pairs import HalfPair, refuse_duplicates


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_pairs_by_wildcard(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{n}_{h}.mrc" for n in ("b", "a", "a_10", "a_9") for h in ("ODD", "EVN")))
    pairs = match_pairs(f"{tmp_path}/*_ODD.mrc", f"{tmp_path}/*_EVN.mrc")
    assert [p.name for p in pairs] == ["a", "a_10", "a_9", "b"]
    for pair in pairs:
        assert pair.first == tmp_path / f"{pair.name}_ODD.mrc"
        assert pair.second == tmp_path / f"{pair.name}_EVN.mrc"


def test_pairs_of_two_folders(tmp_path: Path) -> None:
    _touch(tmp_path, "odd/m1.mrc", "odd/m2.mrc", "even/m1.mrc", "even/m2.mrc")
    pairs = match_pairs(f"{tmp_path}/odd/*.mrc", f"{tmp_path}/even/*.mrc")
    assert [(p.name, p.first.parent.name, p.second.parent.name) for p in pairs] == [
        ("m1", "odd", "even"),
        ("m2", "odd", "even"),
    ]


def test_pairs_below_folders(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{d}/m_{h}.mrc" for d in ("x", "x/y", "z") for h in "oe"))
    pairs = match_pairs(f"{tmp_path}/**/m_o.mrc", f"{tmp_path}/**/m_e.mrc")
    assert len(pairs) == 3
    assert len({p.name for p in pairs}) == 3
    assert all(p.first.parent == p.second.parent for p in pairs)


def test_question_marks(tmp_path: Path) -> None:
    _touch(tmp_path, "m1o.mrc", "m2o.mrc", "m1e.mrc", "m2e.mrc")
    pairs = match_pairs(f"{tmp_path}/m?o.mrc", f"{tmp_path}/m?e.mrc")
    assert [p.name for p in pairs] == ["1", "2"]


def test_two_plain_files(tmp_path: Path) -> None:
    _touch(tmp_path, "first.mrc", "other.mrc")
    (pair,) = match_pairs(f"{tmp_path}/first.mrc", f"{tmp_path}/other.mrc")
    assert (pair.first.name, pair.second.name) == ("first.mrc", "other.mrc")
    assert "/" not in pair.name


def test_files_without_partner_are_listed(tmp_path: Path) -> None:
    _touch(tmp_path, "a_o.mrc", "b_o.mrc", "b_e.mrc", "c_e.mrc")
    with pytest.raises(PairingError) as caught:
        match_pairs(f"{tmp_path}/*_o.mrc", f"{tmp_path}/*_e.mrc")
    message = str(caught.value)
    assert "a_o.mrc" in message
    assert "c_e.mrc" in message
    assert "b_o.mrc" not in message
    assert "2 files match" in message


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    _touch(tmp_path, "x_e.mrc", *(f"{n:02d}_o.mrc" for n in range(11)))
    with pytest.raises(PairingError, match=r"and 2 more$"):
        match_pairs(f"{tmp_path}/*_o.mrc", f"{tmp_path}/*_e.mrc")


def test_a_pattern_that_matches_nothing(tmp_path: Path) -> None:
    _touch(tmp_path, "a_o.mrc")
    with pytest.raises(PairingError, match=r"\*_e\.mrc': matches no file"):
        match_pairs(f"{tmp_path}/*_o.mrc", f"{tmp_path}/*_e.mrc")


def test_wildcards_that_join_to_the_same_name_lose_no_file(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{n}_{h}.mrc" for n in ("a_b/c", "a/b_c") for h in "oe"))
    try:
        pairs = match_pairs(f"{tmp_path}/*/*_o.mrc", f"{tmp_path}/*/*_e.mrc")
    except PairingError:
        return
    assert len({p.name for p in pairs}) == 2
    assert all(p.first.parent == p.second.parent for p in pairs)


def test_a_pair_needs_no_pixel_size() -> None:
    assert HalfPair("a", Path("1.mrc"), Path("2.mrc")).pixel_size_angstrom is None
    assert HalfPair("a", Path("1.mrc"), Path("2.mrc"), 1.3).pixel_size_angstrom == 1.3


def test_names_that_occur_once_are_allowed() -> None:
    refuse_duplicates([("a", Path("x/a.mrc")), ("b", Path("x/b.mrc"))])


def test_names_that_occur_twice_are_refused() -> None:
    named = [("a", Path("x/a.mrc")), ("b", Path("b.mrc")), ("a", Path("y/a.tif"))]
    with pytest.raises(PairingError, match=r"y/a\.tif and x/a\.mrc would both be called 'a'"):
        refuse_duplicates(named)


def test_a_file_that_is_given_twice_is_refused() -> None:
    with pytest.raises(PairingError, match=r"x/a\.mrc is given twice; name it once"):
        refuse_duplicates([("a", Path("x/a.mrc"))] * 2)
