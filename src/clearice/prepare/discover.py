"""Decide what the inputs of a data set are, and say why."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from clearice import io
from clearice.errors import InputFileError, UserError
from clearice.prepare.halves import (
    Discovery,
    find_halves,
    home,
    pair_up,
    scan,
)
from clearice.prepare.pairs import HalfPair, match_pairs, refuse_duplicates
from clearice.types import InputItem

# References lie among the movies that they belong to.
_REFERENCE = re.compile(
    r"(^|[_.-])(gain|gain[_-]?ref(erence)?|countref|superref|dark|darkref|defects?)([_.-]|$)",
    re.IGNORECASE,
)
_WHAT_TO_GIVE = "give movies (MRC, TIFF, EER), a folder of movies or halves, or a STAR or .cs list"
# EPU writes a sum NAME.mrc beside the frames.
_FRAMES = ("_fractions", "_eer")


@dataclass(frozen=True)
class Inputs:
    """What a data set is to be made from.

    Attributes:
        movies: Movies, with what lists and mdocs say of them.
        pairs: Ready half-sets.
        singles: Micrographs without halves.
        explanation: One line for each folder, list or set of files: what it was taken for and why.
        reasons: Why each input is what it is, in a few words, by name.
        failures: What cannot be used, one message each: halves without a partner, bad mdocs, files
            of other kinds. Files that are missing are found out when they are read.
    """

    movies: list[InputItem] = field(default_factory=list)
    pairs: list[HalfPair] = field(default_factory=list)
    singles: list[InputItem] = field(default_factory=list)
    explanation: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def find_inputs(paths: Sequence[Path]) -> Inputs:
    """Find movies and half-sets in what the user named.

    Args:
        paths: Movies, folders (of movies or of half-sets), patterns, STAR or .cs lists, mixed.

    Returns:
        All that was found, under names that occur once.

    Raises:
        InputFileError: A folder or pattern holds nothing usable, or a list cannot be read.
        UserError: Nothing at all can be used.
        PairingError: Two inputs have the same name; both files are named.
    """
    found = Inputs()
    named = [file for path in paths for file in expanded(path)]
    for folders in _folders_together(path for path in named if path.is_dir()):
        _add_folders(found, folders)
    for path in named:
        if path.suffix.lower() in io.LIST_SUFFIXES:
            _add_list(found, path)
    rest = [p for p in named if not p.is_dir() and p.suffix.lower() not in io.LIST_SUFFIXES]
    _add_loose(found, rest)
    if not found.movies and not found.pairs:
        raise _nothing_at_all(paths, found.failures)
    refuse_duplicates(
        [(pair.name, pair.first) for pair in found.pairs]
        + [(io.stem(movie.path), movie.path) for movie in found.movies]
    )
    return found


def find_pairs(first_pattern: str, second_pattern: str) -> Inputs:
    """Find half-sets by two patterns whose wildcards match the same names.

    Raises:
        PairingError: A pattern matches nothing, or a file has no partner.
    """
    pairs = match_pairs(first_pattern, second_pattern)
    line = f"{len(pairs)} pairs by the wildcards of '{first_pattern}' and '{second_pattern}'"
    why = "same wildcards"
    return Inputs(pairs=pairs, explanation=[line], reasons={pair.name: why for pair in pairs})


def expanded(path: Path) -> list[Path]:
    """Return the files that a pattern stands for; what is missing is reported when it is read.

    Raises:
        InputFileError: It stands for none.
    """
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    files = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
    if not files:
        raise InputFileError(path, "matches no file", "check the pattern")
    return files


def _folders_together(folders: Iterable[Path]) -> list[list[Path]]:
    """Return folders, with `even/` and `odd/` of the same place together."""
    groups: dict[Path, list[Path]] = {}
    for folder in folders:
        groups.setdefault(home(folder), []).append(folder)
    return list(groups.values())


def _add_folders(found: Inputs, folders: Sequence[Path]) -> None:
    what = " and ".join(map(str, folders))
    if len(folders) == 1:
        _add_files(found, what, find_halves(folders[0]))
    else:
        _add_files(found, what, pair_up([file for folder in folders for file in scan(folder)]))


def _add_loose(found: Inputs, files: Sequence[Path]) -> None:
    """Add files that were named one by one."""
    images = [path for path in files if io.is_movie_name(path) or io.is_micrograph_name(path)]
    if images:
        what = f"{images[0]}" if len(images) == 1 else f"{len(images)} files"
        _add_files(found, what, pair_up(images))
    known = set(images)
    for path in files:
        # Patterns such as 'movies/*' also match what lies beside the movies.
        if path not in known and not (images and path.suffix.lower() == ".mdoc"):
            problem = "is no movie" if path.exists() else "does not exist"
            found.failures.append(str(InputFileError(path, problem, _WHAT_TO_GIVE)))


def _add_list(found: Inputs, path: Path) -> None:
    pairs = movies = 0
    for item in io.read_input_list(path):
        if item.even is not None and item.odd is not None:
            name = io.stem(item.path)
            found.pairs.append(HalfPair(name, item.even, item.odd, item.pixel_size_angstrom))
            found.reasons[name] = f"even and odd sums, by {path.name}"
            pairs += 1
        else:
            _add_movie(found, item, f"movie, by {path.name}: its frames are split")
            movies += 1
    counts = [(movies, _count(movies, "movie")), (pairs, f"{_count(pairs, 'pair')} of halves")]
    found.explanation.append(f"{path}: lists " + " and ".join(text for n, text in counts if n))


def _add_files(found: Inputs, what: str, discovery: Discovery) -> None:
    """Add the pairs among some files or, where there are none, their movies."""
    movies, references, sums = _sort_movies(discovery.others)
    lonely = discovery.lonely
    if discovery.pairs:
        found.pairs.extend(discovery.pairs)
        found.reasons.update({pair.name: discovery.reason for pair in discovery.pairs})
        counts = f"{_count(len(discovery.pairs), 'pair')} of halves, {discovery.reason}"
        left = [
            (len(discovery.sums) + len(sums), "full sums and the like, not needed beside halves"),
            (len(references), "references, left out"),
            (len(movies), "files of other names, left out: give them apart"),
        ]
    elif len(movies) > len(lonely):
        for movie in movies:
            _add_movie(found, InputItem(movie), "movie: its frames are split")
        counts = f"{_count(len(movies), 'movie')} ({discovery.reason})"
        left = [
            (len(references), "references, left out"),
            (len(sums), "sums of the same frames, left out"),
        ]
    else:
        raise _nothing(what, lonely)
    found.failures.extend(
        f"{path}: is half of a micrograph and has no partner; restore it" for path in lonely
    )
    left.append((len(lonely), "halves without a partner"))
    found.explanation.append(
        f"{what}: {counts}" + "".join(f"; {n} {text}" for n, text in left if n)
    )


def _nothing(what: str, lonely: Sequence[Path]) -> InputFileError:
    if lonely:
        names = ", ".join(path.name for path in lonely[:5])
        return InputFileError(
            what,
            f"has {len(lonely)} halves without a partner ({names}{', …' if lonely[5:] else ''})",
            "give the folder that holds both, or pair them with --pairs",
        )
    return InputFileError(what, "holds no movies and no half-sets", _WHAT_TO_GIVE)


def _nothing_at_all(paths: Sequence[Path], failures: Sequence[str]) -> UserError:
    if failures:
        return UserError("\n".join(failures))
    return UserError(f"{len(paths)} inputs hold nothing to prepare; {_WHAT_TO_GIVE}")


def _sort_movies(files: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Tell movies from references and from the sums that microscopes write beside the frames."""
    names = {io.stem(path).lower() for path in files}
    references = references_among(files)
    sums = {p for p in files if any(io.stem(p).lower() + end in names for end in _FRAMES)}
    left_out = references | sums
    movies = [path for path in files if path not in left_out and io.is_movie_name(path)]
    return movies, sorted(references), sorted(sums - references)


def references_among(files: Sequence[Path]) -> set[Path]:
    """Return the gain and dark references among some files, going by their names."""
    references = {path for path in files if _REFERENCE.search(io.stem(path))}
    # More than half: it is what the images are called.
    return set() if 2 * len(references) > len(files) else references


def _add_movie(found: Inputs, movie: InputItem, reason: str) -> None:
    """Add a movie, completed by what its mdoc says."""
    name = io.stem(movie.path)
    mdoc = io.find_mdoc(movie.path)
    if mdoc is not None:
        try:
            says = io.read_mdoc(mdoc)
        except InputFileError as error:
            found.failures.append(str(error))
            return
        movie = _completed(movie, mdoc, says)
        reason += f", with {mdoc.name}"
    found.movies.append(movie)
    found.reasons[name] = reason


def _completed(movie: InputItem, mdoc: Path, says: io.Mdoc) -> InputItem:
    gain = mdoc.with_name(says.gain_reference) if says.gain_reference else None
    dose = movie.dose_per_frame_e_per_A2 or says.dose_per_frame_e_per_A2
    return replace(
        movie,
        dose_per_frame_e_per_A2=dose,
        gain=movie.gain or gain,
        # It may be that of the binned image that SerialEM shows: the file's own is better.
        fallback_pixel_size_angstrom=says.pixel_size_angstrom,
    )


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def format_discovery(inputs: Inputs) -> str:
    """Return a table of all inputs (name, files, why) under the lines that explain them."""
    header = ("name", "first", "second", "why")
    rows = [
        (pair.name, str(pair.first), str(pair.second), inputs.reasons.get(pair.name, ""))
        for pair in inputs.pairs
    ]
    for movie in inputs.movies:
        name = io.stem(movie.path)
        rows.append((name, str(movie.path), "(movie)", inputs.reasons.get(name, "")))
    for single in inputs.singles:
        name = io.stem(single.path)
        rows.append((name, str(single.path), "(none)", inputs.reasons.get(name, "")))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(
        [*inputs.explanation, "", *lines, *(f"not used: {f}" for f in inputs.failures)]
    )
