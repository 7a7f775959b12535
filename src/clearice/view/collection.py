"""Which micrographs are looked at, and which versions of each belong together."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clearice import io
from clearice.denoise.plan import Source, find_micrographs, is_list
from clearice.errors import InputFileError, PairingError, UserError

MOST_VERSIONS = 6
# Where `clearice denoise --previews` puts its pictures, below the results.
_PREVIEWS = "previews"


@dataclass(frozen=True)
class Collection:
    """Micrographs, each in the same versions.

    Attributes:
        labels: What each version is called, unique.
        names: What each micrograph is called.
        files: For each micrograph, the file of each version.
        left_out: Micrographs that some version lacks.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[tuple[Source, ...], ...]
    left_out: int = 0


def find_collection(inputs: Sequence[Path]) -> Collection:
    """Match the micrographs of files, folders, quoted patterns and STAR lists by their names.

    Each input is one version. The name is what a folder's files are called below it, without the
    suffix; of a pattern, what its wildcards stand for. Single files need not have the same name.

    Args:
        inputs: One to six of them.

    Raises:
        InputFileError: One is missing, or stands for no micrograph.
        PairingError: They have no name in common.
        UserError: There are none, or too many.
    """
    if not inputs:
        raise UserError("give micrographs to look at: a file, or a folder of them")
    if len(inputs) > MOST_VERSIONS:
        raise UserError(
            f"{len(inputs)} inputs would be compared as versions of one micrograph, at most "
            f"{MOST_VERSIONS} can be; give their folder, or quote the pattern, to go through them"
        )
    versions = [_files_of(path) for path in inputs]
    if all(path.is_file() and not is_list(path) for path in inputs):
        files = tuple(next(iter(version.values())) for version in versions)
        return Collection(_labels(inputs), (io.stem(inputs[0]),), (files,))
    common = [name for name in versions[0] if all(name in version for version in versions)]
    if not common:
        raise PairingError(_nothing_in_common(inputs, versions))
    everything = set[str]().union(*versions)
    return Collection(
        _labels(inputs),
        tuple(common),
        tuple(tuple(version[name] for version in versions) for name in common),
        len(everything) - len(common),
    )


def _files_of(path: Path) -> dict[str, Source]:
    """Return the micrographs of one input by name."""
    if path.is_dir() or (path.is_file() and is_list(path)):
        # A folder counts as its own results, which are not passed over.
        found = find_micrographs([path], path)
        return {
            _name(source.below): source for source in found if source.below.parts[0] != _PREVIEWS
        }
    if path.is_file():
        if not io.is_micrograph_name(path):
            raise InputFileError(
                path, "is no micrograph, going by its name", "give MRC, TIFF or grey PNG files"
            )
        return {io.stem(path): Source(path, Path(path.name))}
    if glob.has_magic(str(path)):
        return _matching(str(path))
    raise InputFileError(path, "does not exist", "check the name")


def _matching(pattern: str) -> dict[str, Source]:
    """Return the files of a pattern by what stands between its outermost fixed parts."""
    before, after = re.split(r"[*?\[]", pattern)[0], re.split(r"[*?\]]", pattern)[-1]
    found = {}
    for file in sorted(glob.glob(pattern, recursive=True)):
        path = Path(file)
        if io.is_micrograph_name(path):
            name = file[len(before) : len(file) - len(after)] or path.name
            found[name if after else _name(Path(name))] = Source(path, Path(path.name))
    if not found:
        raise InputFileError(pattern, "matches no micrograph", "check the pattern")
    return found


def _name(below: Path) -> str:
    return below.with_name(io.stem(below)).as_posix()


def _labels(inputs: Sequence[Path]) -> tuple[str, ...]:
    """Return the shortest ends of the paths that differ."""
    paths = [path.absolute() for path in inputs]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        labels = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(labels)) == len(labels):
            return tuple(labels)
    return tuple(f"{path.name} ({number})" for number, path in enumerate(paths, 1))


def _nothing_in_common(inputs: Sequence[Path], versions: Sequence[dict[str, Source]]) -> str:
    examples = ", ".join(
        f"{next(iter(version))} in {path}" for path, version in zip(inputs, versions, strict=True)
    )
    return (
        f"no micrograph has the same name in all inputs ({examples}); rename them, or quote "
        "patterns whose wildcards match the same part: 'a/*_raw.mrc' 'b/*_denoised.mrc'"
    )
