"""Micrographs of which there is one image: no movie, no halves."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.config import PrepareConfig
from clearice.data import Split
from clearice.errors import InputFileError
from clearice.fourier import axis_distance, frequency_grid, highpass
from clearice.prepare.checks import CheckResult
from clearice.prepare.discover import Inputs, expanded, references_among
from clearice.prepare.dose import DoseRoles
from clearice.prepare.halves import pair_up, scan
from clearice.prepare.job import Job
from clearice.prepare.pairs import refuse_duplicates
from clearice.prepare.spectra import centre, periodic_spectrum
from clearice.types import HalfSet, InputItem

# Of two sums of the same frames, the noise of that without dose weighting is white.
_WEIGHTING = re.compile(r"(_noDW|_DWS?)$", re.IGNORECASE)
_POWER_SPECTRUM = re.compile(r"_PS$", re.IGNORECASE)
# Where hardly any signal is left, cycles/px, and how far from an axis stripes reach.
_FAST, _AXIS = (0.3, 0.5), 0.02
_HIGHPASS_ANGSTROM = 400.0
# Above, real micrographs came out no better than behind a Gaussian filter (docs/science.md).
_MOST_NOISE = 0.15
_SIGMAS = 5.0
_LEAST_SPREAD = 1e-6
_CHECK = "neighbours"
_HALVES_LEARN_MORE = "prepared without --single they learn more"


def find_single(paths: Sequence[Path]) -> Inputs:
    """Find micrographs without halves in what the user named.

    In folders, halves, movies, references, power spectra and second sums of the same frames are
    left out; files that are named one by one are taken as they are.

    Args:
        paths: Micrographs, folders of them, patterns, STAR or .cs lists, mixed.

    Raises:
        InputFileError: A folder or pattern holds nothing usable, or a list cannot be read.
        PairingError: Two inputs have the same name; both files are named.
    """
    found = Inputs()
    for path in (file for named in paths for file in expanded(named)):
        if path.is_dir():
            _add_folder(found, path)
        elif path.suffix.lower() in io.LIST_SUFFIXES:
            _add_list(found, path)
        else:
            _add(found, InputItem(path), "named")
    refuse_duplicates((io.stem(item.path), item.path) for item in found.singles)
    return found


def _add(found: Inputs, item: InputItem, why: str) -> None:
    found.singles.append(item)
    found.reasons[io.stem(item.path)] = f"{why}: single"


def _add_list(found: Inputs, path: Path) -> None:
    items = io.read_input_list(path)
    for item in items:
        _add(found, item, f"by {path.name}")
    halves = sum(item.even is not None and item.even.exists() for item in items)
    note = f"; {halves} have halves: {_HALVES_LEARN_MORE}" if halves else ""
    found.explanation.append(f"{path}: lists {len(items)} micrographs{note}")


def _add_folder(found: Inputs, folder: Path) -> None:
    discovery = pair_up(scan(folder), folder)
    files = sorted([*discovery.sums, *discovery.others])
    references = references_among(files)
    kept = _one_sum_each([p for p in files if p not in references and _is_single(p)])
    if not kept:
        halves = "nothing but halves" if discovery.pairs else "no single micrographs"
        raise InputFileError(folder, f"holds {halves}", "leave --single out, or name the files")
    for path in kept:
        _add(found, InputItem(path), "one section")
    pairs = len(discovery.pairs)
    left = [
        (2 * pairs + len(discovery.lonely), f"halves, left out: {_HALVES_LEARN_MORE}"),
        (len(files) - len(kept), "movies, references, power spectra or second sums, left out"),
    ]
    found.explanation.append(
        f"{folder}: {len(kept)} single micrographs"
        + "".join(f"; {count} {what}" for count, what in left if count)
    )


def _is_single(path: Path) -> bool:
    """Tell a micrograph from what lies beside it; a damaged one is reported when it is read."""
    name = io.stem(path)
    if not io.is_micrograph_name(path) or _POWER_SPECTRUM.search(name):
        return False
    try:
        return io.image_shape(path)[0] == 1
    except InputFileError:
        return True


def _one_sum_each(files: Sequence[Path]) -> list[Path]:
    """Keep one sum of each micrograph, the one without dose weighting where there are several."""

    def order(path: Path) -> int:
        match = _WEIGHTING.search(io.stem(path))
        return 0 if match is None else 1 if "no" in match[0].lower() else 2

    kept: dict[tuple[Path, str], Path] = {}
    for path in sorted(files, key=order):
        kept.setdefault((path.parent, _WEIGHTING.sub("", io.stem(path))), path)
    return sorted(kept.values())


def read_single(item: InputItem, pixel_size_angstrom: float | None) -> HalfSet:
    """Read a micrograph as a stack of one image.

    Args:
        item: The file, and the pixel size that a list gives it.
        pixel_size_angstrom: Å/px; overrides the list and the header.

    Raises:
        InputFileError: The file cannot be used.
    """
    size = item.pixel_size_angstrom if pixel_size_angstrom is None else pixel_size_angstrom
    micrograph = io.read_micrograph(item.path, size)
    return HalfSet(
        name=io.stem(item.path),
        groups=micrograph.pixels[None],
        weights=(1.0,),
        pixel_size_angstrom=micrograph.pixel_size_angstrom,
        sources=(item.path,),
    )


@dataclass(frozen=True)
class Neighbours:
    """Covariance of neighbouring pixels of a micrograph whose variance is 1.

    Attributes:
        noise: Of the noise alone.
        noise_error: Standard error of that.
        total: Of noise and signal.
    """

    noise: float
    noise_error: float
    total: float


def compare_neighbours(image: Float[Tensor, "h w"], pixel_size_angstrom: float) -> Neighbours:
    """Measure what neighbouring pixels have in common, and how much of it is noise.

    At 0.3–0.5 cycles/px hardly any signal is left. If the noise of neighbours along rows and
    columns has the covariance c, its power is a + 2c (cos 2πfx + cos 2πfy) there: c is half of the
    slope, by least squares. The axes, on which stripes lie, are left out. Measured in the middle
    2048² px at most, behind a high-pass at 1/400 Å.

    Args:
        image: Of any scale.
        pixel_size_angstrom: Å/px.
    """
    image = centre(image)
    image = highpass((image - image.mean()) / image.std(), pixel_size_angstrom / _HIGHPASS_ANGSTROM)
    down, across = image[1:] * image[:-1], image[:, 1:] * image[:, :-1]
    total = float(down.mean() + across.mean()) / 2
    height, width = image.shape
    frequency = frequency_grid(height, width, device=image.device)
    rows, columns = axis_distance(height, width, device=image.device)
    off_axes = (rows > _AXIS * height) & (columns > _AXIS * width)
    chosen = (frequency >= _FAST[0]) & (frequency < _FAST[1]) & off_axes
    turns = [2 * math.pi * bins / length for bins, length in ((rows, height), (columns, width))]
    slope_of = (turns[0].cos() + turns[1].cos())[chosen].double()
    slope_of = slope_of - slope_of.mean()
    power = periodic_spectrum(image).abs().square()[chosen].double() / image.numel()
    norm = float(slope_of.square().sum())
    if not norm > _LEAST_SPREAD:  # too small to tell, and covariances are 1 at most
        return Neighbours(0.0, 1.0, total)
    noise = float((slope_of * power).sum()) / norm / 2
    # The power of noise in a bin is as large as its standard deviation.
    error = float((slope_of * power).square().sum().sqrt()) / norm / 2
    return Neighbours(noise, error, total)


class SingleJob(Job):
    """Makes micrographs of one image, of which the checks of halves say nothing."""

    def __init__(
        self, out: Path, config: PrepareConfig, truth: Path | None, say: Callable[[str], None]
    ) -> None:
        super().__init__(out, config, truth, DoseRoles(), say)
        self._found: dict[str, Neighbours] = {}

    def _look(
        self,
        name: str,
        groups: Float[Tensor, "k h w"],
        weights: tuple[float, ...],
        pixel_size_angstrom: float,
        dose_e_per_A2: float | None,
    ) -> dict[str, Any]:
        found = compare_neighbours(groups[0].half().float(), pixel_size_angstrom)  # as written
        self._found[name] = found
        return {_CHECK: asdict(found)}

    def _check(self, splits: dict[str, Split]) -> list[CheckResult]:
        """Judge whether neighbouring pixels can stand in for halves."""
        result = judge_neighbours({e.name: self._found[e.name] for e in self._writer.entries})
        self._say(f"{result.name} {result.value:.2f}: {result.meaning}")
        return [result]


def judge_neighbours(found: Mapping[str, Neighbours]) -> CheckResult:
    """Judge by the share of noise in what neighbouring pixels have in common, over all micrographs.

    Args:
        found: By the names of the micrographs, at least one.
    """
    noise, total = sum(n.noise for n in found.values()), sum(n.total for n in found.values())
    error = math.hypot(*(n.noise_error for n in found.values()))
    coloured = noise - _MOST_NOISE * total > _SIGMAS * error
    meaning = (
        "neighbouring pixels share noise, which --target masked learns as signal, and may end up "
        "worse than a low-pass filter; give sums that are neither dose-weighted nor interpolated, "
        "or movies"
        if coloured
        else "noise looks independent from pixel to pixel, as --target masked assumes"
    )
    return CheckResult(
        "noise of neighbours",
        min(1.0, max(0.0, noise / total)) if total > 0 else 0.0,
        _MOST_NOISE,
        "warning" if coloured else "ok",
        max(found, key=lambda name: found[name].noise),
        meaning,
    )
