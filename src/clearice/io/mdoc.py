"""Metadata that SerialEM writes beside each movie (.mdoc)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from clearice.errors import InputFileError
from clearice.io.entries import number_or_none

# What may follow a movie's name; the mdoc may keep it or drop it.
_SUFFIXES = re.compile(r"\.(mrcs?|st|tiff?|eer)(\.(gz|bz2))?$", re.IGNORECASE)
_SECTION = re.compile(r"\[(FrameSet|ZValue)\s*=\s*(.*)\]")
_ENTRY = re.compile(r"(\w[\w-]*)\s*=\s*(.*)")


@dataclass(frozen=True)
class Mdoc:
    """What SerialEM says of a movie; None where it says nothing.

    Attributes:
        pixel_size_angstrom: Å/px at `binning`. SerialEM states it for the image it shows: frames
            saved in super-resolution while that image is at `Binning = 1` have half of it, so the
            header of the movie, where it has a pixel size, is to be trusted first.
        binning: 1 is the physical pixel, 0.5 super-resolution.
        dose_per_frame_e_per_A2: e/Å², the mean where frames differ.
        voltage_kv: Acceleration voltage, kV.
        frame_count: Frames saved.
        gain_reference: Name of the gain reference that is still to be applied.
        defect_file: Name of the list of defects.
        rotation_and_flip: SerialEM's code for how the frames are turned against the reference:
            quarter turns anticlockwise, + 4 for a flip about the vertical axis before them.
    """

    pixel_size_angstrom: float | None = None
    binning: float | None = None
    dose_per_frame_e_per_A2: float | None = None
    voltage_kv: float | None = None
    frame_count: int | None = None
    gain_reference: str | None = None
    defect_file: str | None = None
    rotation_and_flip: int | None = None


def find_mdoc(movie: Path) -> Path | None:
    """Return the mdoc beside a movie: `NAME.tif.mdoc` or `NAME.mdoc`."""
    names = [movie.name, re.sub(r"\.(gz|bz2)$", "", movie.name), _SUFFIXES.sub("", movie.name)]
    files = (movie.with_name(f"{name}.mdoc") for name in names)
    return next((file for file in files if file.is_file()), None)


def read_mdoc(path: Path) -> Mdoc:
    """Read the mdoc of one movie.

    Raises:
        InputFileError: The file is missing, no mdoc, of several images (a tilt series), or has
            text where a number should be.
    """
    entries = _read_entries(path)
    number = {key: number_or_none(path, key, text) for key, text in entries.items() if _is(key)}
    frames, dose = _frame_doses(path, entries.get("FrameDosesAndNumber", ""))
    count = number.get("NumSubFrames") or frames
    exposure = number.get("ExposureDose")
    if dose is None and exposure is not None and count:
        dose = exposure / count
    turned = entries.get("RotationAndFlip")
    if turned is not None and not re.fullmatch(r"-?\d+", turned):
        raise _not_a_number(path, "RotationAndFlip", turned)
    return Mdoc(
        pixel_size_angstrom=number.get("PixelSpacing"),
        binning=number.get("Binning"),
        dose_per_frame_e_per_A2=dose,
        voltage_kv=number.get("Voltage"),
        frame_count=int(count) if count else None,
        gain_reference=_file_name(entries.get("GainReference")),
        defect_file=_file_name(entries.get("DefectFile")),
        rotation_and_flip=None if turned is None or int(turned) < 0 else int(turned),
    )


def _is(key: str) -> bool:
    return key in ("PixelSpacing", "Binning", "ExposureDose", "NumSubFrames", "Voltage")


def _read_entries(path: Path) -> dict[str, str]:
    """Return the entries of the header and of the only section, the section's first."""
    if not path.is_file():
        raise InputFileError(path, "does not exist", "check the path")
    # Microscope computers write names in whatever encoding they have.
    lines = path.read_bytes().decode("utf-8-sig", "surrogateescape").splitlines()
    entries: dict[str, str] = {}
    sections = 0
    for line in map(str.strip, lines):
        if _SECTION.fullmatch(line):
            sections += 1
        elif match := _ENTRY.fullmatch(line):
            entries[match[1]] = match[2].strip()
    if sections > 1:
        raise InputFileError(
            path, f"describes {sections} images, not one movie", "give each movie its own mdoc"
        )
    if not sections:
        raise InputFileError(path, "is no mdoc of a movie (it has no section)", "check the file")
    return entries


def _frame_doses(path: Path, text: str) -> tuple[float | None, float | None]:
    """Return frames and mean dose of `DOSE NUMBER DOSE NUMBER …`; a dose of 0 is unknown."""
    words = text.split()
    try:
        doses, counts = [float(w) for w in words[::2]], [float(w) for w in words[1::2]]
    except ValueError:
        raise _not_a_number(path, "FrameDosesAndNumber", text) from None
    if not counts or len(doses) != len(counts) or sum(counts) <= 0:
        return None, None
    total = sum(dose * count for dose, count in zip(doses, counts, strict=True))
    return sum(counts), total / sum(counts) if total > 0 else None


def _not_a_number(path: Path, key: str, text: str) -> InputFileError:
    return InputFileError(path, f"has '{text}' where {key} should be a number", "write it again")


def _file_name(text: str | None) -> str | None:
    """Return the last part of a path of whichever system."""
    return re.split(r"[\\/]", text)[-1] or None if text else None
