"""Lists of inputs name files of their project: RELION's STAR files and cryoSPARC's .cs files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearice.errors import InputFileError
from clearice.io.cryosparc import read_cs, write_cs
from clearice.io.lists import read_input_list
from clearice.io.star import read_star

_OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
{extra_label}
opticsGroup1            1     0.6575   300.000000 {extra_1}
opticsGroup2            2     0.8850   200.000000 {extra_2}


# version 30001

"""


def _optics(binned: tuple[float, float] | None = None) -> str:
    label = "_rlnMicrographPixelSize #5" if binned else ""
    one, two = binned or ("", "")
    return _OPTICS.format(extra_label=label, extra_1=one, extra_2=two)


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _movies_star(folder: Path, *names: str, job: str = "Import/job001") -> Path:
    rows = "".join(f"{name}            {1 + n % 2} \n" for n, name in enumerate(names))
    head = "data_movies\n\nloop_ \n_rlnMicrographMovieName #1 \n_rlnOpticsGroup #2 \n"
    return _write(folder, f"{job}/movies.star", f"{_optics()}{head}{rows} \n")


def test_movies_of_a_relion_import(tmp_path: Path) -> None:
    names = ("Movies/a.tif", "Movies/b.tif")
    _touch(tmp_path, *names)
    items = read_input_list(_movies_star(tmp_path, *names))
    assert [item.path for item in items] == [tmp_path / name for name in names]
    assert [item.pixel_size_angstrom for item in items] == [0.6575, 0.885]
    assert all(i.even is None and i.odd is None and i.gain is None for i in items)
    assert all(item.dose_per_frame_e_per_A2 is None for item in items)


def test_paths_from_the_current_folder_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    star = _movies_star(tmp_path / "copy", "Movies/a.tif")
    _touch(tmp_path, "project/Movies/a.tif", "copy/Movies/a.tif")
    monkeypatch.chdir(tmp_path / "project")
    assert [item.path for item in read_input_list(star)] == [Path("Movies/a.tif")]
    monkeypatch.chdir(tmp_path)
    assert [i.path for i in read_input_list(star)] == [tmp_path / "copy/Movies/a.tif"]


def test_a_list_beside_its_files_and_absolute_paths(tmp_path: Path) -> None:
    _touch(tmp_path, "far/a.tif", "near/b.tif")
    far = str(tmp_path / "far/a.tif")
    for names in ((far, "b.tif"), (far,), ("b.tif",), ("gone.tif", far, "b.tif")):
        star = _movies_star(tmp_path / "near", *names, job=".")
        items = read_input_list(star)
        assert [item.path for item in items] == [tmp_path / "near" / name for name in names]


def test_single_missing_files_are_returned_all_the_same(tmp_path: Path) -> None:
    names = ("Movies/gone.tif", "Movies/there.tif", "Movies/gone too.tif")
    _touch(tmp_path, "Movies/there.tif")
    star = _movies_star(tmp_path, *names[:2], f"'{names[2]}'")
    items = read_input_list(star)
    assert [item.path for item in items] == [tmp_path / name for name in names]
    assert [item.path.exists() for item in items] == [False, True, False]


def test_a_list_whose_files_are_all_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    star = _movies_star(tmp_path / "project", "Movies/a.tif", "Movies/b.tif")
    with pytest.raises(InputFileError) as caught:
        read_input_list(star)
    message = str(caught.value)
    assert message.startswith(f"{star}: names Movies/a.tif and 1 more")
    for tried in (tmp_path, star.parent, tmp_path / "project"):
        assert str(tried) in message
    assert "run from the project folder" in message


def test_even_and_odd_columns(tmp_path: Path) -> None:
    # As the runner of RELION's motion correction fills them for tilt series.
    stem = "MotionCorr/job002/frames/TS_01_{:03d}"
    rows = [
        f"frames/TS_01_{n:03d}.eer 8 {s}_PS.mrc {s}_EVN.mrc {s}_ODD.mrc {s}.mrc {s}.star"
        for n in range(3)
        for s in [stem.format(n)]
    ]
    labels = ["MicrographMovieName", "TomoTiltMovieFrameCount", "CtfPowerSpectrum"]
    labels += ["MicrographNameEven", "MicrographNameOdd", "MicrographName", "MicrographMetadata"]
    head = "".join(f"_rln{label} #{n} \n" for n, label in enumerate(labels, 1))
    text = "# version 50001\n\ndata_TS_01\n\nloop_ \n" + head + "\n".join(rows) + "\n"
    star = _write(tmp_path, "MotionCorr/job002/tilt_series/TS_01.star", text)
    _touch(tmp_path, *(f"{stem.format(n)}_{half}.mrc" for n in range(3) for half in ("EVN", "ODD")))
    items = read_input_list(star)
    assert [item.path.name for item in items] == [f"TS_01_{n:03d}.mrc" for n in range(3)]
    for n, item in enumerate(items):
        assert item.even == tmp_path / f"{stem.format(n)}_EVN.mrc"
        assert item.odd == tmp_path / f"{stem.format(n)}_ODD.mrc"


def _corrected_star(folder: Path, *names: str, columns: str = "") -> Path:
    """Write what motion correction writes for single particles, with dose weighting."""
    job = "MotionCorr/job002"
    labels = ["MicrographNameNoDW", "MicrographName", "MicrographMetadata", "OpticsGroup"]
    head = "".join(f"_rln{label} #{n} \n" for n, label in enumerate([*labels, *columns.split()], 1))
    rows = ""
    for n, name in enumerate(names):
        stem = f"{job}/Movies/{name}"
        halves = f" {stem}_EVN.mrc {stem}_ODD.mrc" if columns else ""
        rows += f"{stem}_noDW.mrc {stem}.mrc {stem}.star {1 + n % 2}{halves} \n"
    text = f"{_optics((1.315, 1.77))}data_micrographs\n\nloop_ \n{head}{rows} \n"
    return _write(folder, f"{job}/corrected_micrographs.star", text)


def test_even_and_odd_columns_with_optics(tmp_path: Path) -> None:
    star = _corrected_star(tmp_path, "a", "b", columns="MicrographNameEven MicrographNameOdd")
    folder = tmp_path / "MotionCorr/job002/Movies"
    # The full sums may be gone: halves are what counts.
    _touch(folder, "a_EVN.mrc", "a_ODD.mrc")
    items = read_input_list(star)
    assert [(i.path, i.even, i.odd) for i in items] == [
        (folder / f"{n}.mrc", folder / f"{n}_EVN.mrc", folder / f"{n}_ODD.mrc") for n in "ab"
    ]
    assert [item.pixel_size_angstrom for item in items] == [1.315, 1.77]


def test_columns_hold_whatever_the_halves_are_called(tmp_path: Path) -> None:
    text = (
        "data_\nloop_\n_rlnMicrographName\n_rlnMicrographNameEven\n_rlnMicrographNameOdd\n"
        "average/a.mrc average/even/a.mrc average/odd/a.mrc\n"
    )
    _touch(tmp_path, "average/even/a.mrc", "average/a_EVN.mrc", "average/a_ODD.mrc")
    (item,) = read_input_list(_write(tmp_path, "a.star", text))
    assert item.even == tmp_path / "average/even/a.mrc"
    assert item.odd == tmp_path / "average/odd/a.mrc"


def test_halves_that_no_column_names_are_found_beside_the_sums(tmp_path: Path) -> None:
    star = _corrected_star(tmp_path, "a", "b")
    folder = tmp_path / "MotionCorr/job002/Movies"
    _touch(folder, "a.mrc", "b.mrc", "b_EVN.mrc", "b_ODD.mrc")
    items = read_input_list(star)
    assert [i.even for i in items] == [folder / "a_EVN.mrc", folder / "b_EVN.mrc"]
    assert [i.odd for i in items] == [folder / "a_ODD.mrc", folder / "b_ODD.mrc"]
    (folder / "b_ODD.mrc").unlink()
    assert all(i.even is None and i.odd is None for i in read_input_list(star))


@pytest.mark.parametrize("name", ["corrected_micrographs.star", "micrographs_ctf.star"])
def test_real_lists_of_micrographs(test_data: Path, tmp_path: Path, name: str) -> None:
    source = test_data / "star" / name
    expected = read_star(source)["micrographs"]["rlnMicrographName"]
    job = tmp_path / "CtfFind/job003"
    job.mkdir(parents=True)
    shutil.copyfile(source, job / name)
    _touch(tmp_path, *expected)
    items = read_input_list(job / name)
    assert [item.path for item in items] == [tmp_path / mic for mic in expected]
    assert len(items) == 24
    assert {item.pixel_size_angstrom for item in items} == {0.885}


def test_the_real_metadata_of_a_movie(test_data: Path, tmp_path: Path) -> None:
    _touch(tmp_path, "Movies/20170629_00030_frameImage.tiff")
    star = tmp_path / "x.star"
    shutil.copyfile(test_data / "star/movie_frameImage.star", star)
    (item,) = read_input_list(star)
    assert item.path == tmp_path / "Movies/20170629_00030_frameImage.tiff"
    assert (item.pixel_size_angstrom, item.dose_per_frame_e_per_A2) == (0.885, 1.277)


def test_the_metadata_of_a_movie_with_its_gain(tmp_path: Path) -> None:
    text = (
        "data_general\n\n_rlnMicrographMovieName  Movies/a.mrc:mrcs\n"
        "_rlnMicrographGainName gain.mrc\n_rlnMicrographBinning 2.0\n"
        "_rlnMicrographOriginalPixelSize 0.5\n"
        "_rlnMicrographDoseRate -1.000000\n"
    )
    _touch(tmp_path, "Movies/a.mrc")
    (item,) = read_input_list(_write(tmp_path, "a.star", text))
    assert (item.path, item.gain) == (tmp_path / "Movies/a.mrc", tmp_path / "gain.mrc")
    assert (item.pixel_size_angstrom, item.dose_per_frame_e_per_A2) == (0.5, None)


def test_old_lists_without_optics(tmp_path: Path) -> None:
    head = (
        "\ndata_\n\nloop_\n_rlnMicrographName #1\n_rlnMagnification #2\n_rlnDetectorPixelSize #3\n"
    )
    _touch(tmp_path, "Micrographs/a.mrc")
    star = _write(tmp_path, "a.star", f"{head}Micrographs/a.mrc 31000.0 5.0\n\n")
    (item,) = read_input_list(star)
    assert item.path == tmp_path / "Micrographs/a.mrc"
    assert item.pixel_size_angstrom == pytest.approx(5.0 * 1e4 / 31000)
    (item,) = read_input_list(
        _write(tmp_path, "b.star", "data_\nloop_\n_rlnMicrographName\nMicrographs/a.mrc\n")
    )
    assert item.pixel_size_angstrom is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("relion31.star", "lists particles"),
        ("relion5.star", "lists particles"),
        ("20170629_00049_frameImage_autopick.star", "lists no movies or micrographs"),
        ("cryosparc_P12_J24_001_particles.cs", "lists particles"),
        ("empiar_10076_7.cs", "lists particles"),
    ],
)
def test_real_files_that_list_something_else(test_data: Path, name: str, problem: str) -> None:
    with pytest.raises(InputFileError, match=problem):
        read_input_list(test_data / "star" / name)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("0.6575", "unknown", "'unknown' where rlnMicrographOriginalPixelSize should be a number"),
        ("            2 \n", "            7 \n", "row 2 is of optics group 7"),
        ("Movies/a.tif", "None", "has no name in row 1"),
    ],
)
def test_bad_values_in_a_list(tmp_path: Path, old: str, new: str, problem: str) -> None:
    star = _movies_star(tmp_path, "Movies/a.tif", "Movies/b.tif")
    text = star.read_text()
    assert old in text
    star.write_text(text.replace(old, new))
    with pytest.raises(InputFileError, match=problem):
        read_input_list(star)


def test_empty_lists_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="lists nothing"):
        read_input_list(_movies_star(tmp_path))
    with pytest.raises(InputFileError, match="is no STAR or"):
        read_input_list(_write(tmp_path, "a.txt", "a.tif"))


# cryoSPARC


def _table(count: int = 2, **columns: Any) -> np.ndarray[Any, Any]:
    """Return a structured array as cryoSPARC saves it; '__' in a name stands for '/'."""
    values = {"uid": np.arange(count, dtype="u8") + 2**63}
    values |= {name.replace("__", "/"): np.asarray(column) for name, column in columns.items()}
    fields = [(name, v.dtype, v.shape[1:]) for name, v in values.items()]
    table = np.empty(count, dtype=fields)
    for name, column in values.items():
        table[name] = column
    return table


def _movie_columns(count: int = 2) -> dict[str, Any]:
    return {
        "movie_blob__path": [b"J1/imported/%d_m.tif" % n for n in range(count)],
        "movie_blob__psize_A": np.full(count, 0.6575, "f4"),
        "movie_blob__shape": np.tile(np.array([38, 7676, 7420], "u4"), (count, 1)),
        "movie_blob__is_gain_corrected": np.zeros(count, "u4"),
        "gain_ref_blob__path": [b"J1/imported/gain.mrc"] * count,
        "mscope_params__total_dose_e_per_A2": np.full(count, 53.2, "f4"),
    }


def _micrograph_columns(count: int = 2) -> dict[str, Any]:
    return {
        "micrograph_blob__path": [b">J2/motioncorrected/%d.mrc" % n for n in range(count)],
        "micrograph_blob__psize_A": np.full(count, 1.315, "f4"),
    }


def _save(folder: Path, name: str, table: np.ndarray[Any, Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        np.save(handle, table, allow_pickle=False)
    return path


@pytest.mark.parametrize("name", ["cryosparc_P12_J24_001_particles.cs", "empiar_10076_7.cs"])
def test_real_cs_files_are_round_tripped(test_data: Path, tmp_path: Path, name: str) -> None:
    source = test_data / "star" / name
    table = read_cs(source)
    expected = np.load(source, allow_pickle=False)
    assert table.dtype == expected.dtype
    assert table.tobytes() == expected.tobytes()
    write_cs(tmp_path / name, table)
    again = np.load(tmp_path / name, allow_pickle=False)
    assert again.dtype == expected.dtype
    assert again.tobytes() == expected.tobytes()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_movies_of_a_cryosparc_import(tmp_path: Path) -> None:
    _touch(tmp_path, "J1/imported/0_m.tif")
    cs = _save(tmp_path, "J1/imported_movies.cs", _table(**_movie_columns()))
    items = read_input_list(cs)
    assert [item.path for item in items] == [tmp_path / f"J1/imported/{n}_m.tif" for n in (0, 1)]
    assert {item.pixel_size_angstrom for item in items} == {0.6575}
    assert {item.gain for item in items} == {tmp_path / "J1/imported/gain.mrc"}
    assert items[0].dose_per_frame_e_per_A2 == pytest.approx(53.2 / 38)


def test_a_gain_that_is_applied_already(tmp_path: Path) -> None:
    _touch(tmp_path, "J1/imported/0_m.tif")
    columns = _movie_columns() | {"movie_blob__is_gain_corrected": np.array([1, 0], "u4")}
    items = read_input_list(_save(tmp_path, "J1/m.cs", _table(**columns)))
    assert [item.gain for item in items] == [None, tmp_path / "J1/imported/gain.mrc"]


@pytest.mark.parametrize("kind", ["S", "U"])
def test_micrographs_alone(tmp_path: Path, kind: str) -> None:
    _touch(tmp_path, "J2/motioncorrected/1.mrc")
    columns = _micrograph_columns()
    paths = np.array(columns["micrograph_blob__path"])
    columns["micrograph_blob__path"] = paths.astype(kind)
    items = read_input_list(_save(tmp_path, "J2/exposures.cs", _table(**columns)))
    assert [item.path for item in items] == [tmp_path / f"J2/motioncorrected/{n}.mrc" for n in "01"]
    assert items[0].pixel_size_angstrom == 1.315
    assert items[0].gain is None


def test_passthrough_files_complete_a_list_by_uid(tmp_path: Path) -> None:
    _touch(tmp_path, "J1/imported/0_m.tif")
    movies = _table(4, **_movie_columns(4))
    sums = _table(4, **_micrograph_columns(4))
    main = _save(tmp_path, "J2/exposures_accepted.cs", sums[[2, 0]])
    _save(tmp_path, "J2/J2_passthrough_exposures_accepted.cs", movies[[0, 3, 2]])
    # Sorted first, but of other exposures.
    _save(tmp_path, "J2/J2_passthrough_a_rejected.cs", movies[[1]])
    assert [item.path.name for item in read_input_list(main)] == ["2_m.tif", "0_m.tif"]
    alone = _save(tmp_path, "J3/exposures_accepted.cs", sums[[2, 0]])
    _touch(tmp_path, "J2/motioncorrected/0.mrc")
    assert [item.path.name for item in read_input_list(alone)] == ["2.mrc", "0.mrc"]
    assert read_input_list(main)[0].dose_per_frame_e_per_A2 == pytest.approx(1.4)


@pytest.mark.parametrize(("one", "two"), [("_A", "_B"), ("_even", "_odd")])
def test_halves_in_a_cs_file(tmp_path: Path, one: str, two: str) -> None:
    _touch(tmp_path, "J2/0_1.mrc")
    halves: dict[str, Any] = {}
    for number, ending in enumerate((one, two), 1):
        blob = f"micrograph_blob_non_dw{ending}"
        halves[f"{blob}__path"] = [b"J2/%d_%d.mrc" % (n, number) for n in range(2)]
        halves[f"{blob}__psize_A"] = np.full(2, 1.3, "f4")
    table = _table(**_movie_columns(), **_micrograph_columns(), **halves)
    items = read_input_list(_save(tmp_path, "J2/exposures.cs", table))
    assert [(i.even, i.odd) for i in items] == [
        (tmp_path / f"J2/{n}_1.mrc", tmp_path / f"J2/{n}_2.mrc") for n in range(2)
    ]
    assert items[1].path == tmp_path / "J2/motioncorrected/1.mrc"
    assert items[1].pixel_size_angstrom == 1.3
    assert items[1].gain is None


def test_pickled_content_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "x.cs"
    table = np.array([(1, "J1/a.tif")], dtype=[("uid", "u8"), ("movie_blob/path", "O")])
    with path.open("wb") as handle:
        np.save(handle, table, allow_pickle=True)
    with pytest.raises(InputFileError, match="pickled Python objects"):
        read_input_list(path)


def test_damaged_cs_files_are_refused(tmp_path: Path) -> None:
    whole = _save(tmp_path, "x.cs", _table(**_movie_columns())).read_bytes()
    path = tmp_path / "bad.cs"
    for content, problem in [
        (whole[:-10], "truncated or damaged"),
        (whole[:20], "truncated or damaged"),
        (b"", "no .cs file in NumPy's format"),
        (b"\x94CSDAT" + bytes(50), "no .cs file in NumPy's format"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputFileError, match=problem):
            read_input_list(path)
    with pytest.raises(InputFileError, match="is no table"):
        read_input_list(_save(tmp_path, "plain.cs", np.zeros(3)))
    with pytest.raises(InputFileError, match="does not exist"):
        read_input_list(tmp_path / "none.cs")
    with pytest.raises(InputFileError, match="lists no movies or micrographs"):
        read_input_list(_save(tmp_path, "ctf/ctf.cs", _table(ctf__df1_A=np.ones(2, "f4"))))
