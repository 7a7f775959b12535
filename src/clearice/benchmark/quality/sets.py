"""The sets of the quality benchmark: fixed by their names, `VERSION` and seeds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.benchmark.quality.specimens import SPECIMENS
from clearice.config import SimulateConfig
from clearice.errors import ConfigError, UnknownNameError
from clearice.seeds import derive_seed
from clearice.simulate import simulate_movie
from clearice.types import AtomCloud

# Raised whenever what is generated changes: results of different versions do not compare.
VERSION: Final = 1
MICROGRAPHS: Final = 6
SIZE: Final = 1024
GROUPS: Final = 8
DATA_VARIABLE: Final = "CLEARICE_TEST_DATA"
T20S_FILE: Final = "3j9i.pdb.gz"

Field = Float[Tensor, "h w"]


@dataclass(frozen=True)
class QualitySet:
    """One kind of micrograph.

    Attributes:
        name: Of the set.
        specimen: A name in `SPECIMENS`, or `t20s`, whose atoms come from a file.
        about: What it stands for, in a few words.
        settings: What differs from the simulator's defaults.
    """

    name: str
    specimen: str
    about: str
    settings: dict[str, Any]

    def config(self, purpose: str, size: int = SIZE) -> SimulateConfig:
        """Return the session; `purpose` keeps test and training micrographs apart."""
        seed = derive_seed("quality", VERSION, self.name, purpose)
        return SimulateConfig(frames=GROUPS, size=size, seed=seed, **self.settings)

    def atoms(self) -> AtomCloud:
        """Return the specimen.

        Raises:
            InputFileError: Its file is missing.
        """
        if self.specimen in SPECIMENS:
            return SPECIMENS[self.specimen]()
        return io.read_atoms(_t20s_file())

    @property
    def available(self) -> bool:
        """Whether the atoms are at hand: those of T20S are not part of the program."""
        return self.specimen in SPECIMENS or _t20s_file().is_file()


def _t20s_file() -> Path:
    return Path(os.environ.get(DATA_VARIABLE, "")) / T20S_FILE


def _kind(name: str, specimen: str, about: str, **settings: Any) -> QualitySet:
    low, high = settings.pop("defocus")
    micrometre = {"defocus_min_angstrom": 1e4 * low, "defocus_max_angstrom": 1e4 * high}
    return QualitySet(name, specimen, about, settings | micrometre)


SETS: Final[dict[str, QualitySet]] = {
    kind.name: kind
    for kind in (
        _kind(
            "t20s",
            "t20s",
            "T20S as in EMPIAR-10025",
            pixel_size_angstrom=1.315,
            dose_e_per_A2=53.0,
            defocus=(0.8, 2.8),
        ),
        _kind(
            "t20s-screening",
            "t20s",
            "T20S, screening: coarse pixels, low dose",
            pixel_size_angstrom=2.5,
            dose_e_per_A2=12.0,
            defocus=(1.5, 3.5),
        ),
        _kind(
            "t20s-first-frames",
            "t20s",
            "T20S, the first frames alone",
            pixel_size_angstrom=1.315,
            dose_e_per_A2=5.0,
            defocus=(0.8, 2.8),
        ),
        _kind(
            "barrel-carbon",
            "barrel",
            "barrel beside the carbon film",
            pixel_size_angstrom=1.06,
            dose_e_per_A2=40.0,
            defocus=(0.8, 2.2),
            carbon_share=0.15,
        ),
        _kind(
            "tetramer-fine",
            "tetramer",
            "small tetramer, fine pixels",
            pixel_size_angstrom=0.7,
            dose_e_per_A2=60.0,
            defocus=(0.5, 1.5),
            particle_spacing_angstrom=110.0,
        ),
        _kind(
            "tripod",
            "tripod",
            "three lobes, sparse, fading and drifting",
            pixel_size_angstrom=1.1,
            dose_e_per_A2=50.0,
            defocus=(1.0, 2.5),
            particle_spacing_angstrom=170.0,
            particle_fill=0.4,
            radiation_damage=True,
            drift_angstrom=3.0,
        ),
        _kind(
            "filament-dirty",
            "filament",
            "short filaments, 200 kV, with contamination",
            pixel_size_angstrom=1.7,
            dose_e_per_A2=30.0,
            defocus=(1.0, 2.5),
            voltage_kv=200.0,
            particle_spacing_angstrom=240.0,
            contaminants=5,
        ),
        _kind(
            "capsid",
            "capsid",
            "hollow shells, coarse pixels",
            pixel_size_angstrom=2.2,
            dose_e_per_A2=20.0,
            defocus=(1.0, 3.0),
            particle_spacing_angstrom=310.0,
        ),
        _kind(
            "aggregate-dirty",
            "aggregate",
            "large complexes, carbon and contamination",
            pixel_size_angstrom=1.5,
            dose_e_per_A2=25.0,
            defocus=(1.2, 3.0),
            particle_spacing_angstrom=260.0,
            particle_fill=0.6,
            carbon_share=0.1,
            contaminants=3,
        ),
    )
}


@dataclass(frozen=True)
class Sample:
    """One test micrograph.

    Attributes:
        name: Unique among all sets.
        raw: Counts of the whole exposure.
        even: Counts of every other frame, from the first.
        odd: Counts of the others.
        truth: Expected counts of the whole exposure, without noise.
        pixel_size_angstrom: Å/px.
        defocus_angstrom: Mean underfocus, Å.
    """

    name: str
    raw: Field
    even: Field
    odd: Field
    truth: Field
    pixel_size_angstrom: float
    defocus_angstrom: float


def choose_sets(names: Sequence[str] = ()) -> list[QualitySet]:
    """Return the named sets, or all whose specimens are at hand.

    Raises:
        UnknownNameError: There is no such set.
        ConfigError: A named set needs atoms that are not at hand.
    """
    for name in names:
        if name not in SETS:
            raise UnknownNameError("set", name, SETS)
        if not SETS[name].available:
            raise ConfigError(
                f"set {name}: needs the atoms of T20S; let {DATA_VARIABLE} name a folder that "
                f"holds {T20S_FILE} (entry 3J9I of the PDB)"
            )
    return [kind for name, kind in SETS.items() if kind.available and (not names or name in names)]


def missing_sets() -> list[str]:
    """Return the sets whose specimens are not at hand."""
    return [name for name, kind in SETS.items() if not kind.available]


def samples(kind: QualitySet, count: int = MICROGRAPHS, size: int = SIZE) -> Iterator[Sample]:
    """Generate the test micrographs of a set, on the CPU, whose random numbers are the fixed ones.

    Args:
        kind: The set.
        count: How many.
        size: Edge, px.
    """
    config = kind.config("test", size)
    atoms, cpu = kind.atoms(), torch.device("cpu")
    for index in range(count):
        movie = simulate_movie(atoms, config, index, cpu)
        yield Sample(
            f"{kind.name}_{index:02d}",
            movie.frames.sum(0),
            movie.frames[0::2].sum(0),
            movie.frames[1::2].sum(0),
            movie.truth,
            config.pixel_size_angstrom,
            movie.physics.defocus_angstrom,
        )


def checksum(of: Sequence[Sample]) -> str:
    """Return the SHA-256 of the counts and, as float16 of their deviations, of the truth.

    Equal checksums mean equal data. Another processor or version of PyTorch may round otherwise.
    """
    digest = hashlib.sha256()
    for sample in of:
        deviation = (sample.truth - sample.truth.mean()) / sample.truth.std()
        for part in (sample.even.to(torch.int32), sample.odd.to(torch.int32), deviation.half()):
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()
