"""Find half-sets in folders by the names that motion correction gives them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clearice import io
from clearice.errors import InputFileError
from clearice.prepare.pairs import HalfPair

_SUFFIXES = (*io.MOVIE_SUFFIXES, *io.MICROGRAPH_SUFFIXES)
_DEPTH = 3
# Sums of the same frames without and with dose weighting.
_WEIGHTINGS = ("", "_nodw", "_dw", "_dws")
_WEIGHTING = re.compile(r"(_noDW|_DWS?)?$", re.IGNORECASE)
# What motion correction writes beside halves: sums, power spectra.
_COMPANION = re.compile(r"(_noDW|_DWS?|_PS)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Convention:
    """How a program names two halves.

    Attributes:
        label: The two names, and who writes them.
        halves: What stands for the first and for the second half, as regular expressions.
        place: Where they stand: after the name, before it, or as the folder.
        sure: Nobody names other files so; otherwise the headers must agree.
    """

    label: str
    halves: tuple[str, str]
    place: str = "suffix"
    sure: bool = True

    def split(self, path: Path, name: str) -> tuple[int, str] | None:
        """Return which half a file is and the name that it shares with the other, if it is one."""
        for which, half in enumerate(self.halves):
            if self.place == "folder":
                if re.fullmatch(half, path.parent.name, re.IGNORECASE):
                    return which, name
                continue
            pattern = (
                rf"(.+){half}((?:_noDW|_DWS?)?)" if self.place == "suffix" else rf"{half}(.+)()"
            )
            if match := re.fullmatch(pattern, name, re.IGNORECASE):
                return which, match[1] + match[2]
        return None


CONVENTIONS = (
    Convention("NAME_EVN and NAME_ODD (RELION, MotionCor)", ("_evn", "_odd")),
    Convention("even/NAME and odd/NAME (Warp)", ("even|evn", "odd"), "folder"),
    Convention("NAME_even and NAME_odd", ("[_.-]even", "[_.-]odd")),
    Convention("even_NAME and odd_NAME", ("even[_.-]", "odd[_.-]"), "prefix"),
    Convention("NAME_half1 and NAME_half2", ("[_.-]half[_-]?1", "[_.-]half[_-]?2")),
    Convention("half1/NAME and half2/NAME", ("half[_-]?1", "half[_-]?2"), "folder"),
    Convention("NAME_A and NAME_B (cryoSPARC)", ("_a", "_b"), sure=False),
)


@dataclass(frozen=True)
class Discovery:
    """What files are, as far as their names tell.

    Attributes:
        pairs: The halves that belong together, sorted by name.
        lonely: Halves without their partner.
        convention: How the halves are named; empty if there are none.
        reason: Why these are pairs, or why there are none, in a few words.
        sums: Full sums and power spectra of the same micrographs, which are not needed.
        others: All other images.
    """

    pairs: list[HalfPair] = field(default_factory=list)
    lonely: list[Path] = field(default_factory=list)
    convention: str = ""
    reason: str = "no two files are named as halves of one micrograph"
    sums: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def find_halves(folder: Path) -> Discovery:
    """Find the half-sets in a folder and the three levels below it.

    Raises:
        InputFileError: The folder cannot be read.
    """
    return pair_up(scan(folder), folder)


def scan(folder: Path) -> list[Path]:
    """Return the images in a folder and the levels below it, sorted; hidden ones are left out.

    Raises:
        InputFileError: The folder cannot be read.
    """
    return list(_scan(folder, _DEPTH))


def _scan(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputFileError(
            folder, f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from None
    for path in entries:
        if path.is_dir():
            if depth > 0:
                yield from _scan(path, depth - 1)
        elif path.name.lower().endswith(_SUFFIXES):
            yield path


def pair_up(files: Sequence[Path], folder: Path | None = None) -> Discovery:
    """Pair files by the convention that pairs most of them.

    Args:
        files: Images.
        folder: The names of folders count below this one only.
    """
    attempts = [_Attempt(convention, files, folder) for convention in CONVENTIONS]
    # The first of equals: max keeps it.
    best = max(attempts, key=lambda attempt: len(attempt.pairs))
    if best.pairs:
        return best.discovery(files)
    lonely = {path for attempt in attempts if attempt.convention.sure for path in attempt.lonely}
    lonely = {path for path in lonely if _is_image(path) is not False}
    return Discovery(
        lonely=[path for path in files if path in lonely],
        others=[path for path in files if path not in lonely],
    )


class _Attempt:
    """What one convention makes of a set of files."""

    def __init__(self, convention: Convention, files: Sequence[Path], folder: Path | None) -> None:
        self.convention = convention
        found: dict[tuple[Path, str, str], dict[int, Path]] = defaultdict(dict)
        for path in files:
            split = None if path.suffix.lower() == ".eer" else self._split(path, folder)
            if split is not None:
                which, name = split
                suffix = path.name[len(io.stem(path)) :].lower()
                found[(home(path.parent), name, suffix)].setdefault(which, path)
        whole = {key: halves for key, halves in found.items() if len(halves) == 2}
        pairs = [HalfPair(name, h[0], h[1]) for (_, name, _), h in whole.items()]
        if not convention.sure and not _are_images(pairs):
            pairs, found = [], defaultdict(dict)
        self.pairs = _one_weighting(pairs)
        self.lonely = [h for halves in found.values() if len(halves) == 1 for h in halves.values()]
        self._halves = {path for halves in found.values() for path in halves.values()}

    def _split(self, path: Path, folder: Path | None) -> tuple[int, str] | None:
        if self.convention.place == "folder" and path.parent == folder:
            return None
        return self.convention.split(path, io.stem(path))

    def discovery(self, files: Sequence[Path]) -> Discovery:
        used = {path for pair in self.pairs for path in (pair.first, pair.second)}
        used.update(self.lonely)
        names = {_WEIGHTING.sub("", pair.name) for pair in self.pairs}
        rest = [path for path in files if path not in used]
        sums = [p for p in rest if p in self._halves or _COMPANION.sub("", io.stem(p)) in names]
        return Discovery(
            pairs=sorted(self.pairs, key=lambda pair: pair.name),
            lonely=self.lonely,
            convention=self.convention.label,
            reason=f"named {self.convention.label}",
            sums=sums,
            others=sorted(set(rest).difference(sums)),
        )


def home(folder: Path) -> Path:
    """Return where both halves are at home: a folder, or the one above if it is only for one."""
    told = any(
        re.fullmatch(half, folder.name, re.IGNORECASE)
        for convention in CONVENTIONS
        if convention.place == "folder"
        for half in convention.halves
    )
    return folder.parent if told else folder


def _are_images(pairs: Iterable[HalfPair]) -> bool:
    """Tell by the first header that can be read whether files are images, not movies."""
    return bool(next((told for p in pairs if (told := _is_image(p.first)) is not None), False))


def _is_image(path: Path) -> bool | None:
    """Tell whether a file has one section; None if it cannot be read, which is reported later."""
    try:
        return io.image_shape(path)[0] == 1
    except InputFileError:
        return None


def _one_weighting(pairs: Sequence[HalfPair]) -> list[HalfPair]:
    """Keep one pair of each micrograph: a second, of the same frames, would be seen twice.

    Without dose weighting, where there is a choice: the noise of the halves stays white.
    """
    kept: dict[tuple[Path, str], HalfPair] = {}
    for pair in sorted(pairs, key=_weighting):
        kept.setdefault((home(pair.first.parent), _WEIGHTING.sub("", pair.name)), pair)
    return list(kept.values())


def _weighting(pair: HalfPair) -> int:
    match = _WEIGHTING.search(pair.name)
    return _WEIGHTINGS.index(match[0].lower() if match else "")
