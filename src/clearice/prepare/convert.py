"""Older flat training sets as data sets: one sample, one entry with its own stack."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clearice import io
from clearice.config import PrepareConfig
from clearice.data import DatasetWriter, Manifest, Split
from clearice.errors import BatchError, ConfigError, DatasetError, InputFileError, UserError
from clearice.prepare.dose import DoseRoles, find_roles, pair_statistics
from clearice.prepare.run import OF_MOVIES
from clearice.prepare.scale import arranged, normalise
from clearice.types import HalfSet

# As many samples tell the doses apart as well as all do.
_LOOK_AT = 16


def is_flat(path: Path) -> bool:
    """Tell whether a folder or file is an older flat training set, by its names."""
    if path.is_dir():
        return any((path / f"{kind}_input.bin").is_file() for kind in ("train", "test"))
    return path.suffix.lower() == ".bin"


def describe_flat(path: Path, sample_size: int) -> str:
    """Return what an older flat training set holds, one line a part.

    Raises:
        InputFileError: A file is missing or truncated.
        PairingError: There are not as many inputs as targets.
    """
    return "\n".join(
        f"{part.input} and {part.target}: {part.n} {'test' if part.test else 'training'} pairs of "
        f"{part.width}×{part.height} px"
        for part in io.open_flat(path, sample_size)
    )


@dataclass(frozen=True)
class FlatSample:
    """One sample of a flat training set, not yet read.

    Attributes:
        name: Unique name.
        split: What it is for.
        pairs: Where it is.
        index: Its number there.
    """

    name: str
    split: Split
    pairs: io.FlatPairs
    index: int

    def read(self, pixel_size_angstrom: float, roles: DoseRoles) -> HalfSet:
        """Read input and target, in the order and on the scale that their doses ask for.

        Raises:
            InputFileError: It has NaN pixels, is constant, or its images differ in scale.
        """
        ratio = 1 / roles.dose_ratio if roles.swapped else roles.dose_ratio
        half_set = HalfSet(
            self.name,
            self.pairs.pair(self.index),
            (1 / (1 + ratio), ratio / (1 + ratio)),
            pixel_size_angstrom,
            (self.pairs.input, self.pairs.target),
        )
        return arranged(half_set, roles)


def convert_flat(
    source: Path,
    out: Path,
    config: PrepareConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
    sample_size: int = 1024,
    say: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """Make a data set from an older flat training set, one sample at a time.

    What was held out as `test` stays the test split; validation samples are taken from the others.

    Args:
        source: Folder with `train_input.bin` and so on, or a file with a header.
        out: Folder of the data set.
        config: Fractions, dose ratio and pixel size, which these files do not hold.
        progress: Called with (samples done, samples in all).
        sample_size: Edge of a sample in a folder, px.
        say: Called with one line on what was recognised.

    Raises:
        InputFileError: A file is missing or truncated; nothing was written.
        PairingError: There are not as many inputs as targets; nothing was written.
        BatchError: Some samples could not be used; the data set holds the others.
        DatasetError: None could be used.
        ConfigError: A setting that patches have no use for.
    """
    given = [name for name in (*OF_MOVIES, "fix_pattern") if name in config.model_fields_set]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{options}: not for flat training sets, which are patches")
    samples = assign_samples(io.open_flat(source, sample_size), config)
    pixel_size = _pixel_size(source, config)
    roles = _roles(samples, config, pixel_size)
    say(roles.reason)
    writer = DatasetWriter(out)
    failures: list[str] = []
    for done, sample in enumerate(samples):
        try:
            half_set = sample.read(pixel_size, roles)
            writer.add(half_set, *normalise(half_set, roles))
        except InputFileError as error:
            failures.append(str(error))
        progress(done + 1, len(samples))
    if len(failures) == len(samples):
        raise DatasetError(f"{out}: no sample could be used:\n  " + "\n  ".join(failures))
    manifest = writer.finish(
        config,
        pixel_size,
        input_target=not roles.equal,
        dose_ratio=roles.dose_ratio,
        target_gain=roles.target_gain,
        splits={sample.name: sample.split for sample in samples},
    )
    if failures:
        raise BatchError(failures, len(samples))
    return manifest


def assign_samples(parts: Sequence[io.FlatPairs], config: PrepareConfig) -> list[FlatSample]:
    """Name all samples and decide what each is for.

    Samples were cut from micrographs, in order, and nothing says from which. So validation, and
    test where the source holds none out, are blocks at the end of the others: a block shares one
    micrograph with its neighbour at most, where samples drawn at random would share all of theirs.
    """
    has_test = any(part.test for part in parts)
    samples: list[FlatSample] = []
    for part in parts:
        prefix = "test_sample" if part.test else "sample"
        splits = [Split.TEST] * part.n if part.test else _blocks(part.n, config, has_test)
        samples += [
            FlatSample(f"{prefix}_{index:06d}", split, part, index)
            for index, split in enumerate(splits)
        ]
    return samples


def _blocks(n: int, config: PrepareConfig, has_test: bool) -> list[Split]:
    """Return the splits of n samples: train, then validation, then test."""

    def share(fraction: float, left: int) -> int:
        return 0 if fraction == 0 else min(left, max(1, round(fraction * n)))

    validation = share(config.validation_fraction, n - 1)
    test = 0 if has_test else share(config.test_fraction, n - 1 - validation)
    blocks = (
        (Split.TRAIN, n - validation - test),
        (Split.VALIDATION, validation),
        (Split.TEST, test),
    )
    return [split for split, length in blocks for _ in range(length)]


def _pixel_size(source: Path, config: PrepareConfig) -> float:
    if config.pixel_size_angstrom is not None:
        return config.pixel_size_angstrom
    warnings.warn(
        f"{source}: flat files have no pixel size; assuming 1 Å/px (give --pixel-size)",
        io.PixelSizeFallback,
        stacklevel=3,
    )
    return 1.0


def _roles(samples: Sequence[FlatSample], config: PrepareConfig, pixel_size: float) -> DoseRoles:
    """Look at some samples, spread over all; what cannot be read is reported when it is written."""
    looked = []
    for sample in samples[:: -(-len(samples) // _LOOK_AT)]:
        try:
            looked.append(pair_statistics(sample.pairs.pair(sample.index), pixel_size))
        except UserError:
            continue
    return find_roles(looked, config.dose_ratio) if looked else DoseRoles()
