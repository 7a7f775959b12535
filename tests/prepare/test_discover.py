"""Half-sets and movies are found by their names, and it is said why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clearice.errors import InputFileError, PairingError, UserError
from clearice.prepare.discover import find_inputs, format_discovery
from clearice.prepare.halves import find_halves
from clearice.prepare.pairs import HalfPair
from helpers import write_image, write_movie


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _images(folder: Path, *names: str) -> None:
    for name in names:
        write_image(folder / name, torch.arange(12.0).reshape(3, 4))


def _names(pairs: list[HalfPair]) -> list[str]:
    return [pair.name for pair in pairs]


_CONVENTIONS = [
    ("{}_EVN.mrc", "{}_ODD.mrc", "RELION, MotionCor"),
    ("{}_evn.mrcs", "{}_odd.mrcs", "RELION, MotionCor"),
    ("average/even/{}.mrc", "average/odd/{}.mrc", "Warp"),
    ("EVN/{}.mrc", "ODD/{}.mrc", "Warp"),
    ("{}_even.mrc", "{}_odd.mrc", "NAME_even"),
    ("{}-Even.tif", "{}-Odd.tif", "NAME_even"),
    ("{}.even.mrc.gz", "{}.odd.mrc.gz", "NAME_even"),
    ("even_{}.mrc", "odd_{}.mrc", "even_NAME"),
    ("{}_half1.mrc", "{}_half2.mrc", "NAME_half1"),
    ("{}-half-1.png", "{}-half-2.png", "NAME_half1"),
    ("half1/{}.mrc", "half2/{}.mrc", "half1/NAME"),
    ("even/{}_EVN.mrc", "odd/{}_ODD.mrc", "RELION, MotionCor"),
    ("job002/Movies/{}_EVN.mrc", "job002/Movies/{}_ODD.mrc", "RELION, MotionCor"),
]


@pytest.mark.parametrize(("first", "second", "label"), _CONVENTIONS)
def test_each_convention(tmp_path: Path, first: str, second: str, label: str) -> None:
    names = ["May08_03.05.02", "a_2", "even_b", "odd"]
    _touch(tmp_path, *(form.format(name) for name in names for form in (first, second)))
    found = find_halves(tmp_path)
    assert _names(found.pairs) == names
    for pair in found.pairs:
        assert pair.first == tmp_path / first.format(pair.name)
        assert pair.second == tmp_path / second.format(pair.name)
    assert label in found.convention
    assert found.convention in found.reason
    assert found.lonely == found.sums == found.others == []


def test_a_and_b_are_halves_where_the_files_are_single_images(tmp_path: Path) -> None:
    _images(tmp_path, "m1_A.mrc", "m1_B.mrc", "m2_A.mrc", "m2_B.mrc", "m3_B.mrc")
    found = find_halves(tmp_path)
    assert _names(found.pairs) == ["m1", "m2"]
    assert "cryoSPARC" in found.convention
    assert found.lonely == [tmp_path / "m3_B.mrc"]


def test_a_and_b_are_two_movies_where_they_have_frames(tmp_path: Path) -> None:
    for name in ("grid_A", "grid_B"):
        write_movie(tmp_path / f"{name}.mrc", torch.ones(3, 4, 4))
    _touch(tmp_path / "tif", "grid_A.tif", "grid_B.tif")
    found = find_halves(tmp_path)
    assert (found.pairs, found.lonely) == ([], [])
    assert len(found.others) == 4


def test_a_first_file_that_is_damaged_hides_no_halves(tmp_path: Path) -> None:
    _images(tmp_path, "m2_A.mrc", "m2_B.mrc", "m1_B.mrc")
    _touch(tmp_path, "m1_A.mrc")
    assert _names(find_halves(tmp_path).pairs) == ["m1", "m2"]


def test_a_folder_of_relion_with_sums_beside_the_halves(tmp_path: Path) -> None:
    endings = (".mrc", "_EVN.mrc", "_ODD.mrc", "_noDW.mrc", "_PS.mrc", ".star", ".log")
    _touch(tmp_path / "Movies", *(f"{n}{end}" for n in ("a", "b") for end in endings))
    found = find_halves(tmp_path)
    assert _names(found.pairs) == ["a", "b"]
    assert sorted(path.name for path in found.sums) == sorted(
        f"{n}{end}" for n in ("a", "b") for end in (".mrc", "_noDW.mrc", "_PS.mrc")
    )
    (line,) = find_inputs([tmp_path]).explanation
    assert line == (
        f"{tmp_path}: 2 pairs of halves, named NAME_EVN and NAME_ODD (RELION, MotionCor); "
        "6 full sums and the like, not needed beside halves"
    )


def test_a_folder_of_warp_with_averages_and_spectra(tmp_path: Path) -> None:
    kinds = ("average", "average/even", "average/odd", "powerspectrum", "deconv")
    _touch(tmp_path, *(f"{kind}/{n}.mrc" for n in ("a", "b") for kind in kinds))
    found = find_halves(tmp_path)
    assert [(p.name, p.first.parent.name, p.second.parent.name) for p in found.pairs] == [
        ("a", "even", "odd"),
        ("b", "even", "odd"),
    ]
    assert len(found.sums) == 6
    assert _names(find_halves(tmp_path / "average").pairs) == ["a", "b"]


def test_each_micrograph_counts_once_whatever_its_weighting(tmp_path: Path) -> None:
    stems = ("a_{}", "a_DW_{}", "a_{}_DWS", "b_{}_DW", "b_{}_noDW", "c_DW_{}")
    _touch(tmp_path, *(f"{s.format(half)}.mrc" for s in stems for half in ("EVN", "ODD")))
    _touch(tmp_path, "a.mrc", "a_DW.mrc", "a_DWS.mrc", "c.mrc")
    found = find_halves(tmp_path)
    assert [(pair.name, pair.first.name) for pair in found.pairs] == [
        ("a", "a_EVN.mrc"),
        ("b_noDW", "b_EVN_noDW.mrc"),
        ("c_DW", "c_DW_EVN.mrc"),
    ]
    assert len(found.sums) == 4 + 2 * 3
    assert found.others == []


def test_halves_without_a_partner_are_listed(tmp_path: Path) -> None:
    _touch(tmp_path, "a_EVN.mrc", "a_ODD.mrc", "b_EVN.mrc", "c_ODD.mrc", "d.mrc")
    found = find_halves(tmp_path)
    assert _names(found.pairs) == ["a"]
    assert found.lonely == [tmp_path / "b_EVN.mrc", tmp_path / "c_ODD.mrc"]
    assert found.sums == []
    assert found.others == [tmp_path / "d.mrc"]
    inputs = find_inputs([tmp_path])
    assert [f.partition(":")[0] for f in inputs.failures] == [str(p) for p in found.lonely]
    assert "2 halves without a partner" in inputs.explanation[0]
    assert "1 files of other names, left out" in inputs.explanation[0]


def test_halves_pair_with_their_own_kind_only(tmp_path: Path) -> None:
    _touch(tmp_path, "a_EVN.mrc", "a_ODD.tif", "x/b_EVN.mrc", "y/b_ODD.mrc")
    found = find_halves(tmp_path)
    assert found.pairs == []
    assert len(found.lonely) == 4
    with pytest.raises(InputFileError, match=r"has 4 halves without a partner \(a_EVN\.mrc, "):
        find_inputs([tmp_path])


def test_a_folder_of_one_kind_of_halves_is_no_folder_of_movies(tmp_path: Path) -> None:
    _touch(tmp_path, "a_EVN.mrc", "b_EVN.mrc", "a.mrc", "b.mrc")
    with pytest.raises(InputFileError, match="has 2 halves without a partner"):
        find_inputs([tmp_path])


def test_the_name_of_the_given_folder_says_nothing(tmp_path: Path) -> None:
    _touch(tmp_path, "odd/a.tif", "odd/b.tif")
    inputs = find_inputs([tmp_path / "odd"])
    assert [item.path.name for item in inputs.movies] == ["a.tif", "b.tif"]
    assert inputs.failures == []


def test_names_keep_their_dots(tmp_path: Path) -> None:
    _touch(tmp_path, "May08_03.05.02_frame.mrc", "b.c.mrc.gz", "d.TIFF")
    assert set(find_inputs([tmp_path]).reasons) == {"May08_03.05.02_frame", "b.c", "d"}


def test_how_deep_a_folder_is_searched(tmp_path: Path) -> None:
    _touch(
        tmp_path, *(f"{d}/m_{h}.mrc" for d in ("1/2/3", "w/x/y/z", ".h") for h in ("EVN", "ODD"))
    )
    found = find_halves(tmp_path)
    assert [pair.first for pair in found.pairs] == [tmp_path / "1/2/3/m_EVN.mrc"]


def test_a_folder_of_movies(tmp_path: Path) -> None:
    _touch(tmp_path, "b.tif", "a.mrc.gz", "Grid/Data/c.eer", "notes.txt", "CountRef_May.mrc")
    inputs = find_inputs([tmp_path])
    assert [item.path.name for item in inputs.movies] == ["c.eer", "a.mrc.gz", "b.tif"]
    assert (inputs.pairs, inputs.failures) == ([], [])
    assert inputs.explanation == [
        f"{tmp_path}: 3 movies (no two files are named as halves of one micrograph); "
        "1 references, left out"
    ]


def test_what_epu_writes_beside_the_frames_is_left_out(tmp_path: Path) -> None:
    _touch(tmp_path, "F_1.mrc", "F_1_Fractions.tiff", "F_2.mrc", "F_2_EER.eer", "F_3.mrc")
    inputs = find_inputs([tmp_path])
    names = [item.path.name for item in inputs.movies]
    assert names == ["F_1_Fractions.tiff", "F_2_EER.eer", "F_3.mrc"]
    assert "2 sums of the same frames, left out" in inputs.explanation[0]


def test_movies_that_are_called_like_a_reference_are_movies(tmp_path: Path) -> None:
    _touch(tmp_path, "gain_of_function_1.tif", "gain_of_function_2.tif")
    assert len(find_inputs([tmp_path]).movies) == 2
    assert len(find_inputs([tmp_path / "gain_of_function_1.tif"]).movies) == 1


def test_a_movie_that_only_sounds_like_a_half_is_a_movie(tmp_path: Path) -> None:
    write_movie(tmp_path / "looks_odd.mrc", torch.ones(3, 4, 4))
    assert [m.path.name for m in find_inputs([tmp_path]).movies] == ["looks_odd.mrc"]


def test_named_files_are_sorted_like_those_of_a_folder(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mrc", "a_EVN.mrc", "a_ODD.mrc")
    files = sorted(tmp_path.iterdir())
    for given in (files, [tmp_path / "*.mrc"]):
        inputs = find_inputs(given)
        assert inputs.pairs == [HalfPair("a", files[1], files[2])]
        assert inputs.movies == []
        assert inputs.explanation[0].startswith("3 files: 1 pair of halves")


def test_two_folders_of_halves_belong_together(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{half}/{n}.mrc" for half in ("even", "odd") for n in "ab"))
    inputs = find_inputs([tmp_path / "even", tmp_path / "odd"])
    assert _names(inputs.pairs) == ["a", "b"]
    assert len(inputs.explanation) == 1


def test_a_mixture_of_all_kinds(tmp_path: Path) -> None:
    _touch(tmp_path / "halves", "h_EVN.mrc", "h_ODD.mrc", "h.mrc")
    _touch(tmp_path / "movies", "m.tif")
    _touch(tmp_path / "project", "Movies/l.tif")
    _touch(tmp_path, "x.eer")
    star = tmp_path / "project/movies.star"
    star.write_text("data_movies\nloop_\n_rlnMicrographMovieName #1\nMovies/l.tif\n")
    named = [tmp_path / "halves", star, tmp_path / "x.eer", tmp_path / "movies"]
    inputs = find_inputs(named)
    assert _names(inputs.pairs) == ["h"]
    assert [item.path.name for item in inputs.movies] == ["m.tif", "l.tif", "x.eer"]
    assert len(inputs.explanation) == 4
    assert set(inputs.reasons) == {"h", "m", "l", "x"}
    assert inputs.failures == []


def test_a_list_with_halves(tmp_path: Path) -> None:
    folder = tmp_path / "MotionCorr/job002"
    _touch(folder, "M/a.mrc", "M/a_EVN.mrc", "M/a_ODD.mrc")
    star = folder / "corrected_micrographs.star"
    star.write_text(
        "data_optics\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographPixelSize #2\n1 1.315\n\n"
        "data_micrographs\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
        "MotionCorr/job002/M/a.mrc 1\nMotionCorr/job002/M/b.mrc 1\n"
    )
    inputs = find_inputs([star])
    expected = [
        HalfPair(n, folder / f"M/{n}_EVN.mrc", folder / f"M/{n}_ODD.mrc", 1.315) for n in "ab"
    ]
    assert inputs.pairs == expected
    assert inputs.explanation == [f"{star}: lists 2 pairs of halves"]
    assert inputs.reasons["a"] == "even and odd sums, by corrected_micrographs.star"


_MDOC = "[FrameSet = 0]\nPixelSpacing = 0.7\nFrameDosesAndNumber = 1.25 30\nGainReference = g.mrc\n"


def test_a_movie_with_its_mdoc(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tif", "b.tif")
    (tmp_path / "a.tif.mdoc").write_text(_MDOC)
    for given in ([tmp_path], [tmp_path / "*"]):
        inputs = find_inputs(given)
        a, b = inputs.movies
        assert (a.dose_per_frame_e_per_A2, a.gain) == (1.25, tmp_path / "g.mrc")
        assert (b.dose_per_frame_e_per_A2, b.gain) == (None, None)
        # It may be that of the binned image: only for movies whose header has none.
        assert a.pixel_size_angstrom is None
        assert inputs.movies[0].fallback_pixel_size_angstrom == 0.7
        assert "a.tif.mdoc" in inputs.reasons["a"]
        assert inputs.failures == []


def test_a_damaged_mdoc_stops_its_movie_only(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tif", "b.tif")
    (tmp_path / "a.mdoc").write_text(_MDOC.replace("0.7", "?"))
    inputs = find_inputs([tmp_path])
    assert [item.path.name for item in inputs.movies] == ["b.tif"]
    assert len(inputs.failures) == 1
    assert str(tmp_path / "a.mdoc") in inputs.failures[0]


def test_missing_and_foreign_files_stop_nothing_else(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tif", "notes.txt")
    names = ("a.tif", "notes.txt", "gone.txt", "gone.tif")
    inputs = find_inputs([tmp_path / name for name in names])
    # What has the name of a movie is reported when it is read, with the others.
    assert [item.path.name for item in inputs.movies] == ["a.tif", "gone.tif"]
    assert [
        "notes.txt: is no movie" in f or "gone.txt: does not" in f for f in inputs.failures
    ] == [
        True,
        True,
    ]


@pytest.mark.parametrize("name", ["notes.txt", "gone", "a.mdoc"])
def test_nothing_that_can_be_used(tmp_path: Path, name: str) -> None:
    _touch(tmp_path, "notes.txt", "a.mdoc")
    with pytest.raises(UserError, match=name):
        find_inputs([tmp_path / name])
    with pytest.raises(InputFileError, match="holds no movies and no half-sets"):
        find_inputs([tmp_path])
    with pytest.raises(InputFileError, match="matches no file"):
        find_inputs([tmp_path / "*.tif"])


def _folders(base: Path) -> list[Path]:
    _touch(base, "one/a.tif", "two/a.mrc")
    return [base / "one", base / "two"]


def _files(base: Path) -> list[Path]:
    _touch(base, "one/a.tif", "two/a.mrc.gz")
    return [base / "one/a.tif", base / "two/a.mrc.gz"]


def _pairs(base: Path) -> list[Path]:
    _touch(base, *(f"{d}/a_{h}.mrc" for d in ("one", "two") for h in ("EVN", "ODD")))
    return [base]


def _pair_and_movie(base: Path) -> list[Path]:
    _touch(base, "one/a_EVN.mrc", "one/a_ODD.mrc", "two/a.tif")
    return [base / "one", base / "two"]


@pytest.mark.parametrize("build", [_folders, _files, _pairs, _pair_and_movie])
def test_names_that_occur_twice(tmp_path: Path, build: Callable[[Path], list[Path]]) -> None:
    with pytest.raises(PairingError, match="would both be called 'a'") as caught:
        find_inputs(build(tmp_path))
    assert str(tmp_path / "one/a") in str(caught.value)
    assert str(tmp_path / "two/a") in str(caught.value)


def test_a_file_that_is_given_twice(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tif")
    with pytest.raises(PairingError, match=r"a\.tif is given twice"):
        find_inputs([tmp_path, tmp_path / "a.tif"])


def test_the_table_of_a_dry_run(tmp_path: Path) -> None:
    _touch(tmp_path, "h/long_name_EVN.mrc", "h/long_name_ODD.mrc", "h/x_ODD.mrc", "m/m.tif")
    inputs = find_inputs([tmp_path / "h", tmp_path / "m"])
    lines = format_discovery(inputs).splitlines()
    assert lines[:2] == inputs.explanation
    head, pair, movie = lines[3:6]
    assert head.split() == ["name", "first", "second", "why"]
    assert pair.split()[:3] == [
        "long_name",
        str(tmp_path / "h/long_name_EVN.mrc"),
        str(tmp_path / "h/long_name_ODD.mrc"),
    ]
    assert pair.endswith("named NAME_EVN and NAME_ODD (RELION, MotionCor)")
    assert movie.split()[:3] == ["m", str(tmp_path / "m/m.tif"), "(movie)"]
    assert {line.index(word) for line, word in ((head, "why"), (pair, "named"))} == {
        movie.index("movie: its")
    }
    assert lines[6].startswith(f"not used: {tmp_path / 'h/x_ODD.mrc'}: is half of a micrograph")
    assert len(lines) == 7
