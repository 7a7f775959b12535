"""Is what is generated still what it was when a version's results were made?

A checksum of bits differs between processors, which round differently. So the first micrograph of
each set is also boiled down to numbers that no rounding moves, and compared with those on record.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Final

import torch

from clearice.benchmark.quality.sets import VERSION, Sample
from clearice.metrics import highpassed

_FILE: Final = "fingerprints.json"
_TOLERANCE: Final = 0.005
_BLOCKS: Final = 4


def fingerprint(sample: Sample) -> list[float]:
    """Return the contrast of the truth in 4 × 4 parts of the field, and the relative noise.

    The first are percents of the mean; the last is the noise's variance over the mean count, 1.
    """
    fine = highpassed(sample.truth, sample.pixel_size_angstrom, 100.0).abs()
    parts = torch.nn.functional.adaptive_avg_pool2d(fine[None, None], _BLOCKS)
    mean = sample.truth.double().mean()
    noise = (sample.raw - sample.truth).double().var() / mean
    return [*(100 * parts / mean).flatten().tolist(), float(noise)]


def is_recorded(name: str, sample: Sample) -> bool | None:
    """Say whether a set's first micrograph is as on record; None if there is no record.

    Args:
        name: Of the set.
        sample: Its first micrograph, of full size.
    """
    record = _records().get(f"{name} {VERSION}")
    if record is None:
        return None
    pairs = zip(record, fingerprint(sample), strict=True)
    return all(abs(found - known) <= _TOLERANCE * known for known, found in pairs)


@cache
def _records() -> dict[str, list[float]]:
    return json.loads(files(__package__).joinpath(_FILE).read_text(encoding="utf-8"))
