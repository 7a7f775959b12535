"""Which micrographs are meant, and which file each is denoised to."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clearice import io
from clearice.denoise.records import CSV_NAME, JSON_NAME
from clearice.errors import InputFileError, OutputError

_JOB = re.compile(r"job\d{3,}")
_LEFTOVER = re.compile(r"\.(.+)\.\d+\.partial")


@dataclass(frozen=True)
class Source:
    """One micrograph to denoise.

    Attributes:
        path: The file.
        below: Its place among the inputs, which its result takes below the folder of results.
        pixel_size_angstrom: Å/px, if a list says so; overrides the header.
    """

    path: Path
    below: Path
    pixel_size_angstrom: float | None = None


@dataclass(frozen=True)
class Job:
    """A micrograph and the file to denoise it to.

    Attributes:
        source: The micrograph, or the first of two halves.
        target: Its result.
        partner: The second half.
        beside: Further files that are written.
    """

    source: Source
    target: Path
    partner: Path | None = None
    beside: tuple[Path, ...] = ()

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        return (self.source.path,) if self.partner is None else (self.source.path, self.partner)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that are written, but for pictures."""
        return (self.target, *self.beside)


def find_micrographs(inputs: Sequence[Path], out: Path) -> list[Source]:
    """Return the micrographs that files, folders, patterns and STAR lists stand for.

    Folders are searched with those below them, links too. Left out are hidden files, `out`, and
    folders that hold results of an earlier run.

    Args:
        inputs: What was given; a file that is missing is reported when it is read.
        out: Folder for the results.

    Raises:
        InputFileError: A folder, pattern or list stands for no micrograph.
    """
    found: list[Source] = []
    for item in inputs:
        if item.is_dir():
            found += _in_folder(item, out)
        elif not item.exists() and glob.has_magic(str(item)):
            found += _matching(item)
        elif is_list(item):
            found += _listed(item)
        else:
            found.append(Source(item, Path(item.name)))
    return found


def is_list(path: Path) -> bool:
    """Tell whether an input is a STAR list rather than a micrograph."""
    return path.suffix.lower() == ".star"


def walk_micrographs(folder: Path, out: Path) -> list[Path]:
    """Return the files of a folder and of those below it that can be micrographs, by their names.

    Args:
        folder: The folder; links are followed.
        out: Folder for the results, which is left out, as are hidden files and folders that hold
            results of an earlier run.
    """
    files: list[Path] = []
    seen = {out.resolve()} - {folder.resolve()}
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(root)
        if here.resolve() in seen or (here != folder and JSON_NAME in names):
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (here / name for name in sorted(names) if not name.startswith("."))
        files += filter(io.is_micrograph_name, visible)
    return files


def _in_folder(folder: Path, out: Path) -> list[Source]:
    files = walk_micrographs(folder, out)
    if not files:
        raise InputFileError(folder, "holds no micrographs", "check the folder")
    return [Source(path, path.relative_to(folder)) for path in files]


def _matching(pattern: Path) -> list[Source]:
    files = map(Path, sorted(glob.glob(str(pattern), recursive=True)))
    found = [Source(path, Path(path.name)) for path in files]
    if not found:
        raise InputFileError(pattern, "matches no file", "check the pattern")
    return found


def _listed(path: Path) -> list[Source]:
    """Return the micrographs of a STAR list, placed as in the tree of RELION."""
    items = io.read_input_list(path, halves=False)
    places = _places_in_tree([item.path for item in items])
    return [
        Source(item.path, below, item.pixel_size_angstrom)
        for item, below in zip(items, places, strict=True)
    ]


def _places_in_tree(paths: Sequence[Path]) -> list[Path]:
    """Return the places of results that RELION's own jobs would give them.

    `MotionCorr/job002/Movies/a.mrc` lies at `Movies/a.mrc` of a job, and so wherever other rows
    of the list are: a longer list later leaves the results in their places. Where that does not
    tell all apart, or says nothing, places start at the folder that the files have in common.
    """
    inside = [_inside_job(path) for path in paths]
    places = [path for path in inside if path is not None]
    if len(set(places)) == len(paths):
        return places
    top = os.path.commonpath([path.absolute().parent for path in paths])
    return [path.absolute().relative_to(top) for path in paths]


def _inside_job(path: Path) -> Path | None:
    """Return the place of a file inside a job of RELION, if it lies in one."""
    for at in range(len(path.parts) - 2, 0, -1):
        if _JOB.fullmatch(path.parts[at]):
            return Path(*path.parts[at + 1 :])
    return None


def plan_jobs(sources: Sequence[Source], out: Path, suffix: str) -> list[Job]:
    """Give each micrograph its own result.

    Args:
        sources: The micrographs.
        out: Folder for the results.
        suffix: Of the results.

    Raises:
        OutputError: Results would overwrite each other, or their input.
    """
    jobs: list[Job] = []
    taken: dict[Path, Path] = {}
    for source in sources:
        target = out / source.below.with_name(output_name(source.path, suffix))
        if target in taken:
            raise OutputError(
                f"{source.path} and {taken[target]} would write the same file ({target}); "
                "denoise them apart"
            )
        taken[target] = source.path
        if target.resolve() == source.path.resolve():
            raise OutputError(f"{source.path}: would be overwritten; choose another --out")
        jobs.append(Job(source, target))
    return jobs


def output_name(micrograph: Path, suffix: str = ".mrc") -> str:
    """Return the name of the file that a micrograph of any format is denoised to."""
    kept = {".mrc": {".mrc", ".mrcs"}, ".tif": {".tif", ".tiff"}}[suffix]
    if micrograph.suffix.lower() in kept:
        return micrograph.name
    return f"{io.stem(micrograph)}{suffix}"


def preview_of(target: Path, out: Path) -> Path:
    """Return the PNG file that shows a result."""
    plain = target.suffix in {".mrc", ".tif"}
    name = f"{target.stem if plain else target.name}.png"
    return (out / "previews" / target.relative_to(out)).with_name(name)


def remove_leftovers(outputs: Iterable[Path], out: Path) -> None:
    """Remove what a killed run left half-written of these files, and of nothing else."""
    names: dict[Path, set[str]] = {out: {JSON_NAME, CSV_NAME}}
    for path in outputs:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, known in names.items():
        for leftover in folder.glob(".*.partial"):
            match = _LEFTOVER.fullmatch(leftover.name)
            if match and match[1] in known:
                leftover.unlink(missing_ok=True)
