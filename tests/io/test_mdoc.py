"""What SerialEM says of a movie."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearice.errors import InputFileError
from clearice.io.mdoc import Mdoc, find_mdoc, read_mdoc

# A super-resolution movie of a K2.
_K2 = r"""T = SerialEM: Krios, Gatan K2                                   23-Dec-17  13:01:44
Voltage = 300

[FrameSet = 0]
TiltAngle = 0.000999
StagePosition = -230.439 310.021
Magnification = 18000
Intensity = 0.115
ExposureDose = 34.9645
PixelSpacing = 0.694291
SpotSize = 8
Defocus = -3.33245
ImageShift = -2.22045e-016 -7.77156e-016
RotationAngle = -94.0936
ExposureTime = 7
Binning = 0.5
CountsPerElectron = 35.3
SubFramePath = X:\2017\1015B_g1_0000_Dec23_13.20.21.tif
NumSubFrames = 35
FrameDosesAndNumber = 0.99898 35
DateTime = 23-Dec-17  13:20:32
GainReference = X:\2017\CountRef_1015B_g1_0000_Dec23_13.20.21.dm4
DefectFile = defects_1015B_g1_0000.txt
RotationAndFlip = 7
"""


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_all_that_is_read(tmp_path: Path) -> None:
    assert read_mdoc(_write(tmp_path / "a.mdoc", _K2)) == Mdoc(
        pixel_size_angstrom=0.694291,
        binning=0.5,
        dose_per_frame_e_per_A2=0.99898 * 35 / 35,
        voltage_kv=300.0,
        frame_count=35,
        gain_reference="CountRef_1015B_g1_0000_Dec23_13.20.21.dm4",
        defect_file="defects_1015B_g1_0000.txt",
        rotation_and_flip=7,
    )


@pytest.mark.parametrize(
    ("old", "new", "dose", "frames"),
    [
        ("FrameDosesAndNumber = 0.99898 35\n", "", 34.9645 / 35, 35),
        ("FrameDosesAndNumber = 0.99898 35", "FrameDosesAndNumber = 0 35", 34.9645 / 35, 35),
        ("FrameDosesAndNumber = 0.99898 35", "FrameDosesAndNumber = 2 5 0.5 30", 25 / 35, 35),
        ("NumSubFrames = 35\n", "", 0.99898, 35),
        ("ExposureDose = 34.9645\n", "", 0.99898, 35),
    ],
)
def test_doses(tmp_path: Path, old: str, new: str, dose: float, frames: int) -> None:
    assert old in _K2
    mdoc = read_mdoc(_write(tmp_path / "a.mdoc", _K2.replace(old, new)))
    assert mdoc.dose_per_frame_e_per_A2 == pytest.approx(dose)
    assert mdoc.frame_count == frames


def test_what_is_unknown_is_none(tmp_path: Path) -> None:
    # Uncalibrated doses are written as 0.
    text = "[FrameSet = 0]\nExposureDose = 0\nNumSubFrames = 18\nFrameDosesAndNumber = 0 18\n"
    assert read_mdoc(_write(tmp_path / "a.mdoc", text)) == Mdoc(frame_count=18)


def test_windows_line_endings(tmp_path: Path) -> None:
    path = tmp_path / "a.mdoc"
    path.write_bytes(b"\xef\xbb\xbf[FrameSet = 0]\r\nPixelSpacing = 1.151\r\nNote = caf\xe9\r\n")
    assert read_mdoc(path) == Mdoc(pixel_size_angstrom=1.151)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[FrameSet = 0]\nPixelSpacing = wide\n", "'wide' where PixelSpacing should be a number"),
        ("[FrameSet = 0]\nFrameDosesAndNumber = a 5\n", "'a 5' where FrameDosesAndNumber"),
        ("[FrameSet = 0]\nRotationAndFlip = x\n", "'x' where RotationAndFlip"),
        ("[ZValue = 0]\nTiltAngle = 1\n[ZValue = 1]\nTiltAngle = 2\n", "describes 2 images"),
        ("PixelSpacing = 1\n", "no section"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputFileError, match=problem):
        read_mdoc(_write(tmp_path / "a.mdoc", text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="does not exist"):
        read_mdoc(tmp_path / "a.mdoc")


@pytest.mark.parametrize(
    ("movie", "mdoc"),
    [
        ("a.tif", "a.tif.mdoc"),
        ("a.tif", "a.mdoc"),
        ("May08_03.05.02.mrc", "May08_03.05.02.mdoc"),
        ("a.mrc.bz2", "a.mrc.mdoc"),
        ("a.mrc.gz", "a.mdoc"),
        ("a.eer", "a.eer.mdoc"),
    ],
)
def test_names_of_mdocs(tmp_path: Path, movie: str, mdoc: str) -> None:
    assert find_mdoc(tmp_path / movie) is None
    (tmp_path / mdoc).touch()
    assert find_mdoc(tmp_path / movie) == tmp_path / mdoc
    assert find_mdoc(tmp_path / "other.tif") is None
