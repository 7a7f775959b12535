"""Find which files of two patterns belong together."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clearice.errors import PairingError


@dataclass(frozen=True)
class HalfPair:
    """Two images of the same field of view.

    Attributes:
        name: Unique name of the micrograph.
        first: One image.
        second: The other.
        pixel_size_angstrom: Å/px, if a list says so; overrides the headers.
    """

    name: str
    first: Path
    second: Path
    pixel_size_angstrom: float | None = None


def refuse_duplicates(named: Iterable[tuple[str, Path]]) -> None:
    """Refuse two inputs of the same name: the second would overwrite the first.

    Raises:
        PairingError: Two have; both files are named.
    """
    seen: dict[str, Path] = {}
    for name, path in named:
        if name in seen:
            if seen[name] == path:
                raise PairingError(f"{path} is given twice; name it once")
            raise PairingError(
                f"{path} and {seen[name]} would both be called '{name}'; rename one of them, or "
                "prepare them apart"
            )
        seen[name] = path


def _matches(pattern: str) -> dict[str, Path]:
    """Return the files of a pattern, keyed by what its wildcards stand for."""
    if "[" in pattern:
        raise PairingError(f"--pairs '{pattern}': '[' is no wildcard here; use *, ? and **/")
    pattern = re.sub(r"/{2,}", "/", pattern)  # as the file names come back
    literal = re.split(r"(\*\*/|\*|\?)", pattern)
    wild = {"**/": "((?:.*/)?)", "*": "([^/]*)", "?": "([^/])"}
    expression = re.compile("".join(wild.get(part) or re.escape(part) for part in literal))
    found: dict[str, Path] = {}
    for file in sorted(glob.glob(pattern, recursive=True)):
        match = expression.fullmatch(file)
        key = "_".join(g for g in match.groups() if g) if match else file
        name = key.replace("/", "_") or Path(file).stem
        if name in found:
            raise PairingError(
                f"--pairs '{pattern}': {found[name]} and {file} would both be called '{name}'; "
                "prepare them apart"
            )
        found[name] = Path(file)
    if not found:
        raise PairingError(f"--pairs '{pattern}': matches no file; quote the pattern and check it")
    return found


def _listing(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def match_pairs(first_pattern: str, second_pattern: str) -> list[HalfPair]:
    """Pair the files of two patterns by what their wildcards match.

    Args:
        first_pattern: For instance ``halves/*_ODD.mrc``.
        second_pattern: For instance ``halves/*_EVN.mrc``.

    Returns:
        The pairs, sorted by name.

    Raises:
        PairingError: A pattern matches nothing, or a file has no partner (each is listed).
    """
    first, second = _matches(first_pattern), _matches(second_pattern)
    if len(first) == len(second) == 1 and "*" not in first_pattern + second_pattern:
        ((name, path),) = first.items()
        return [HalfPair(name, path, next(iter(second.values())))]
    lonely = [str(first[name]) for name in sorted(first.keys() - second.keys())]
    lonely += [str(second[name]) for name in sorted(second.keys() - first.keys())]
    if lonely:
        raise PairingError(
            f"--pairs: {len(first)} files match '{first_pattern}' and {len(second)} match "
            f"'{second_pattern}'; without a partner: {_listing(lonely)}"
        )
    return [HalfPair(name, first[name], second[name]) for name in sorted(first)]
