"""Prepare a data set: read, check, normalise, write; one bad file never stops the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from clearice import io
from clearice.config import PrepareConfig
from clearice.data import Manifest
from clearice.errors import ConfigError, UserError
from clearice.prepare.discover import Inputs
from clearice.prepare.dose import DoseRoles, PairStatistics, find_roles, pair_statistics
from clearice.prepare.job import Job, Progress, Task
from clearice.prepare.movies import MovieRecipe, PreparedMicrograph
from clearice.prepare.pairs import HalfPair, refuse_duplicates
from clearice.prepare.scale import arranged
from clearice.prepare.single import SingleJob, read_single
from clearice.prepare.split import read_pair
from clearice.types import InputItem

Say = Callable[[str], None]
# As many pairs tell the doses apart as well as all do.
_LOOK_AT = 16
# Copies of both halves at the peak: as read, normalised, clipped, and in float64 for statistics.
_COPIES = 5
# Settings that ready half-sets have no use for.
OF_MOVIES = (
    "groups",
    "align",
    "dose_weight",
    "gain",
    "gain_mode",
    "gain_rotation",
    "gain_flip",
    "defects",
    "hot_pixels",
    "frames_per_fraction",
    "upsampling",
)
_CPU = torch.device("cpu")


def _ignore(done: int, total: int) -> None:
    """Report nothing."""


def _be_silent(message: str) -> None:
    """Say nothing."""


def prepare_inputs(
    inputs: Inputs,
    out: Path,
    config: PrepareConfig,
    truth: Path | None = None,
    *,
    device: torch.device = _CPU,
    workers: int | None = None,
    progress: Progress = _ignore,
    say: Say = _be_silent,
) -> Manifest:
    """Make a data set from what was found: movies, half-sets, or single micrographs.

    Args:
        inputs: Of `find_inputs`, `find_pairs` or `find_single`.
        out: Folder of the data set.
        config: How.
        truth: Folder with a noise-free image of the same name for each (simulations).
        device: Where movies are corrected and aligned.
        workers: Micrographs made at a time; None chooses.
        progress: Called with (done, in all).
        say: Called with one line for each thing that the user should know.

    Raises:
        ConfigError: There are both movies and half-sets, or settings that these inputs have no use
            for.
        BatchError: Some could not be used; the data set holds the others.
        DatasetError: None could be used.
    """
    for line in inputs.explanation:
        say(line)
    if inputs.movies and inputs.pairs:
        raise ConfigError(
            f"{len(inputs.movies)} movies and {len(inputs.pairs)} pairs of halves were found; "
            "prepare them apart"
        )
    if inputs.singles:
        return prepare_single(
            inputs.singles, out, config, truth, workers=workers, progress=progress, say=say
        )
    if inputs.pairs:
        return prepare_pairs(
            inputs.pairs,
            out,
            config,
            truth,
            workers=workers,
            progress=progress,
            say=say,
            failures=inputs.failures,
        )
    return prepare_movies(
        inputs.movies,
        out,
        config,
        truth,
        device=device,
        workers=workers,
        progress=progress,
        say=say,
        failures=inputs.failures,
    )


def prepare_movies(
    movies: Sequence[Path | InputItem],
    out: Path,
    config: PrepareConfig,
    truth: Path | None = None,
    *,
    device: torch.device = _CPU,
    workers: int | None = None,
    progress: Progress = _ignore,
    say: Say = _be_silent,
    failures: Sequence[str] = (),
) -> Manifest:
    """Make a data set from movies.

    Args:
        movies: Files, or what a list says of them.
        out: Folder of the data set.
        config: Groups, corrections, splits and overrides.
        truth: Folder with a noise-free image of the same name for each movie (simulations).
        device: Where frames are corrected and aligned.
        workers: Movies made at a time; None chooses.
        progress: Called with (movies done, movies in all).
        say: Called with one line for each thing that the user should know.
        failures: What could not be used before it came to this.

    Raises:
        BatchError: Some movies could not be used; the data set holds the others.
        DatasetError: None could be used.
        PairingError: Two movies have the same name.
        ConfigError: A setting that movies have no use for, or an exposure that is not known.
    """
    if (
        config.gain is None
        and {"gain_mode", "gain_rotation", "gain_flip"} & config.model_fields_set
    ):
        raise ConfigError("--gain-mode, --gain-rotation and --gain-flip need --gain")
    if config.dose_ratio is not None:
        raise ConfigError("--dose-ratio is for half-sets; frames of a movie have the same dose")
    items = [movie if isinstance(movie, InputItem) else InputItem(movie) for movie in movies]
    refuse_duplicates((io.stem(item.path), item.path) for item in items)
    recipe = MovieRecipe(config, device)
    named = {item.gain for item in items if item.gain is not None}
    if config.gain is not None:
        recipe.check_gain(items, say)
    elif named:
        text = ", ".join(map(str, sorted(named)[:3]))
        say(f"{text} named as gain reference; give --gain if it is still to be applied")
    if config.align == "none":
        say("frames are added as they are; give --align global if the movies are not aligned yet")
    if config.fix_pattern and config.align == "global":
        say(
            "warning: --fix-pattern works on the detector's pixels, and --align moves them: what "
            "movies moved by more than a pixel share is found in part only"
        )

    tasks = [
        Task(name, (item.path,), partial(recipe.prepare, name, item), repr(item))
        for name, item in ((io.stem(item.path), item) for item in items)
    ]
    job = Job(out, config, truth, DoseRoles(), say)
    job.failures.extend(failures)
    job.run(tasks, workers, partial(recipe.peak_bytes, items), progress)
    return job.finish(len(items) + len(failures), progress)


def prepare_pairs(
    pairs: Sequence[HalfPair],
    out: Path,
    config: PrepareConfig,
    truth: Path | None = None,
    *,
    workers: int | None = None,
    progress: Progress = _ignore,
    say: Say = _be_silent,
    failures: Sequence[str] = (),
) -> Manifest:
    """Make a data set from ready half-sets.

    Args:
        pairs: The files, paired.
        out: Folder of the data set.
        config: Splits, dose ratio and overrides.
        truth: Folder with a noise-free image of the same name for each pair.
        workers: Pairs made at a time; None chooses.
        progress: Called with (pairs done, pairs in all).
        say: Called with one line on what was recognised.
        failures: What could not be used before it came to this.

    Raises:
        BatchError: Some pairs could not be used; the data set holds the others.
        DatasetError: None could be used.
        ConfigError: A setting that half-sets have no use for.
    """
    _refuse_settings_of_movies(config, "ready half-sets")
    roles, bytes_each = _look_at(pairs, config)
    say(roles.reason)
    ratio = 1 / roles.dose_ratio if roles.swapped else roles.dose_ratio

    def read(pair: HalfPair) -> PreparedMicrograph:
        half_set = read_pair(pair, config.pixel_size_angstrom, ratio)
        return PreparedMicrograph(arranged(half_set, roles))

    job = Job(out, config, truth, roles, say)
    job.failures.extend(failures)
    tasks = [
        Task(pair.name, (pair.first, pair.second), partial(read, pair), repr(pair))
        for pair in pairs
    ]
    job.run(tasks, workers, lambda: bytes_each, progress)
    return job.finish(len(pairs) + len(failures), progress)


def prepare_single(
    items: Sequence[InputItem],
    out: Path,
    config: PrepareConfig,
    truth: Path | None = None,
    *,
    workers: int | None = None,
    progress: Progress = _ignore,
    say: Say = _be_silent,
) -> Manifest:
    """Make a data set from micrographs of which there is one image, for blind-spot training.

    Args:
        items: The files.
        out: Folder of the data set.
        config: Splits and overrides.
        truth: Folder with a noise-free image of the same name for each micrograph.
        workers: Micrographs made at a time; None chooses.
        progress: Called with (micrographs done, micrographs in all).
        say: Called with one line for each thing that the user should know.

    Raises:
        BatchError: Some micrographs could not be used; the data set holds the others.
        DatasetError: None could be used.
        ConfigError: A setting that single micrographs have no use for.
    """
    _refuse_settings_of_movies(config, "single micrographs")
    say(_ONE_IMAGE)

    def read(item: InputItem) -> PreparedMicrograph:
        return PreparedMicrograph(read_single(item, config.pixel_size_angstrom))

    job = SingleJob(out, config, truth, say)
    tasks = [
        Task(io.stem(item.path), (item.path,), partial(read, item), f"single {item!r}")
        for item in items
    ]
    job.run(tasks, workers, partial(_bytes_of, items[0].path), progress)
    return job.finish(len(items), progress)


_ONE_IMAGE = (
    "one image of each micrograph: train with --target masked, which learns less than from halves "
    "and cannot be verified by them"
)


def _bytes_of(path: Path) -> int:
    """Return the memory that one micrograph needs, going by the first."""
    try:
        _, height, width = io.image_shape(path)
    except UserError:  # which is reported when it is prepared
        return 1
    return _COPIES * 4 * height * width


def _refuse_settings_of_movies(config: PrepareConfig, what: str) -> None:
    halves = what != "single micrographs"
    others = () if halves else ("dose_ratio", "fix_pattern")
    given = [name for name in (*OF_MOVIES, *others) if name in config.model_fields_set]
    if halves and config.groups == 2:  # which halves are
        given = [name for name in given if name != "groups"]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{options}: only for movies; these are {what}")


def _look_at(pairs: Sequence[HalfPair], config: PrepareConfig) -> tuple[DoseRoles, int]:
    """Look at some pairs, spread over all; what cannot be read is reported when it is prepared.

    Returns:
        Their roles, and the memory that one pair needs, bytes.
    """
    looked: list[PairStatistics] = []
    largest = 1
    for pair in pairs[:: -(-len(pairs) // _LOOK_AT)]:
        try:
            half_set = read_pair(pair, config.pixel_size_angstrom, 1.0)
        except UserError:
            continue
        largest = max(largest, _COPIES * half_set.groups.nbytes)
        looked.append(pair_statistics(half_set.groups, half_set.pixel_size_angstrom))
    roles = find_roles(looked, config.dose_ratio) if looked else DoseRoles()
    return roles, largest
