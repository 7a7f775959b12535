"""Which files are compared with which."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.errors import InputFileError, PairingError

Image = Float[Tensor, "h w"]


@dataclass(frozen=True)
class Case:
    """One denoised micrograph and what it is compared with.

    Attributes:
        denoised: The result, De.
        raw: What was denoised, Re; without it there is nothing to compare the result with.
        reference: An independent image of the same signal, Ro, if there is one.
        truth: The noise-free image, S, if it is known.
        denoised_other: The denoised reference, Do, if there is one.
    """

    denoised: Path
    raw: Path | None = None
    reference: Path | None = None
    truth: Path | None = None
    denoised_other: Path | None = None


@dataclass(frozen=True)
class Images:
    """The images of one case, all of one shape and pixel size.

    `pixel_size_assumed`: the denoised one's header has none, and 1 Å/px was taken.
    """

    denoised: Image
    raw: Image | None
    reference: Image | None
    truth: Image | None
    denoised_other: Image | None
    pixel_size_angstrom: float
    pixel_size_assumed: bool = False


def _files(path: Path) -> dict[str, Path]:
    """Return the MRC files of a folder by name, or the file itself under an empty name."""
    if path.is_dir():
        files = {file.name: file for file in sorted(path.glob("*.mrc"))}
        if not files:
            raise InputFileError(path, "holds no .mrc files", "check the folder")
        return files
    return {"": path}


def match_cases(
    denoised: Path,
    raw: Path | None = None,
    reference: Path | None = None,
    truth: Path | None = None,
    denoised_other: Path | None = None,
) -> list[Case]:
    """Match files, or the files of folders by their names.

    Raises:
        PairingError: A denoised micrograph has no partner of its name (each is listed).
        InputFileError: A folder holds no MRC files.
    """
    results = _files(denoised)
    partners = {
        "raw": None if raw is None else _files(raw),
        "reference": None if reference is None else _files(reference),
        "truth": None if truth is None else _files(truth),
        "denoised_other": None if denoised_other is None else _files(denoised_other),
    }
    missing = [
        f"{role}/{name}"
        for role, files in partners.items()
        if files is not None
        for name in results
        if name not in files
    ]
    if missing:
        raise PairingError(f"no partner for {', '.join(missing[:10])}; names must be the same")
    return [
        Case(path, **{role: files[name] for role, files in partners.items() if files is not None})
        for name, path in results.items()
    ]


def match_halves(results: Path, method: str = "denoised") -> list[Case]:
    """Match each half of a denoised data set with the other one, both ways.

    Args:
        results: What `clearice denoise DATASET --halves` wrote.
        method: Folders `METHOD_even` and `METHOD_odd` hold the images to judge.

    Raises:
        PairingError: A half has no partner.
        InputFileError: A folder is missing or empty.
    """
    return [
        case
        for one, other in (("even", "odd"), ("odd", "even"))
        for case in match_cases(
            results / f"{method}_{one}",
            results / f"raw_{one}",
            reference=results / f"raw_{other}",
            denoised_other=results / f"{method}_{other}",
        )
    ]


def load(case: Case) -> Images:
    """Read the images of a case.

    Raises:
        InputFileError: A file cannot be used, or differs in shape or pixel size.
    """
    first = io.read_micrograph(case.denoised)

    def read(path: Path | None) -> Image | None:
        if path is None:
            return None
        micrograph = io.read_micrograph(path)
        if micrograph.pixels.shape != first.pixels.shape:
            shapes = [" × ".join(map(str, m.pixels.shape)) for m in (micrograph, first)]
            raise InputFileError(
                path, f"is {shapes[0]} px, but {case.denoised} is {shapes[1]} px", "compare like"
            )
        if not io.same_pixel_size(micrograph.pixel_size_angstrom, first.pixel_size_angstrom):
            raise InputFileError(
                path, f"differs in pixel size from {case.denoised}", "check the headers"
            )
        return micrograph.pixels

    return Images(
        first.pixels,
        read(case.raw),
        read(case.reference),
        read(case.truth),
        read(case.denoised_other),
        first.pixel_size_angstrom,
        first.pixel_size_assumed,
    )
