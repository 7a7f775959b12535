"""What lists of inputs have in common: values that say nothing, and paths to be found."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clearice.errors import InputFileError
from clearice.types import InputItem


@dataclass(frozen=True)
class Listing:
    """Entries of a list, with their paths as the list spells them.

    Attributes:
        items: One for each row.
        movies: They are movies, not micrographs.
    """

    items: list[InputItem]
    movies: bool


def path_or_none(text: str) -> Path | None:
    """Return the path that an entry spells; RELION and cryoSPARC have several words for none."""
    # '>' marks cryoSPARC's project folder; ':mrcs' tells RELION how to read the file.
    name = re.sub(r":(mrcs?|tiff?|st)$", "", text.strip().removeprefix(">"))
    return None if name in ("", ".", "None", "none") else Path(name)


def number_or_none(path: Path, label: str, text: str) -> float | None:
    """Return the positive number of an entry; 0, negative values and NaN stand for unknown.

    Raises:
        InputFileError: It is no number.
    """
    if text in ("", "None", "none"):
        return None
    try:
        value = float(text)
    except ValueError:
        raise InputFileError(
            path, f"has '{text}' where {label} should be a number", "write it again"
        ) from None
    return value if value > 0 and math.isfinite(value) else None


def resolve(path: Path, items: Sequence[InputItem]) -> list[InputItem]:
    """Turn the paths of a list into paths of files.

    Paths are relative to the folder of the project, which the list does not name. Tried are the
    current folder, the folder of the list and each one above it; the first in which an entry
    exists holds for all. Entries that are missing there are returned all the same, so that each
    can be reported on its own.

    Args:
        path: The list.
        items: Its entries, as spelt there.

    Raises:
        InputFileError: No entry is found anywhere.
    """
    if not items:
        raise InputFileError(path, "lists nothing", "check how it was made")
    folders = [Path(), *path.absolute().parents]
    # What is absolute exists or not in any folder, and tells nothing of the others.
    needed = sorted((_needed(item) for item in items), key=Path.is_absolute)
    base = next((folder for n in needed for folder in folders if (folder / n).exists()), None)
    if base is None:
        more = f" and {len(items) - 1} more" if len(items) > 1 else ""
        tried = ", ".join(str(folder) for folder in (Path.cwd(), *folders[1:-1]))
        raise InputFileError(
            path,
            f"names {_needed(items[0])}{more}, which is not there (looked in {tried})",
            "run from the project folder that its paths start from",
        )
    return [_placed(item, base) for item in items]


def _needed(item: InputItem) -> Path:
    """Return the file of an entry that must exist: of three images, the halves."""
    return item.even or item.path


def _placed(item: InputItem, base: Path) -> InputItem:
    return replace(
        item,
        path=base / item.path,
        even=item.even and base / item.even,
        odd=item.odd and base / item.odd,
        gain=item.gain and base / item.gain,
    )
