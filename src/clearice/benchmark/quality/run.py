"""Generate the sets, apply every method, score against the truth; or write the data for others."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from clearice import __version__, io, prepare
from clearice.benchmark.quality import sets
from clearice.benchmark.quality.fingerprint import is_recorded
from clearice.benchmark.quality.methods import Method
from clearice.benchmark.quality.score import Rulers, Score, radial_baselines, summary
from clearice.benchmark.quality.sets import QualitySet, Sample
from clearice.benchmark.timing import context
from clearice.config import PrepareConfig
from clearice.data import MANIFEST_NAME
from clearice.errors import OutputError
from clearice.simulate import simulate_movie
from clearice.types import AtomCloud

QUICK_MICROGRAPHS: Final = 2
QUICK_SIZE: Final = 256
QUICK_TRAINING: Final = 4
TRAINING_MICROGRAPHS: Final = 24

Progress = Callable[[int, int], None]


def run(
    kinds: Sequence[QualitySet],
    methods: Mapping[str, Method],
    device: torch.device,
    *,
    quick: bool = False,
    write: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Score methods on sets.

    Args:
        kinds: The sets.
        methods: By name, beside raw, Gaussian and Wiener.
        device: Of the models, for the record.
        quick: Few and small micrographs, to try things out; the numbers mean nothing.
        write: Folder for the micrographs, see `write_samples`.
        progress: Called with (sets done, sets in all).

    Returns:
        What goes into the JSON file: scores of each method on each set.

    Raises:
        ClearIceError: A model or a file of another program cannot be used.
    """
    told: dict[str, Any] = {}
    count, size = shape_of(quick=quick)
    for done, kind in enumerate(kinds, 1):
        of = list(sets.samples(kind, count, size))
        told[kind.name] = _describe(kind, of) | _scores(kind, of, methods)
        if write is not None:
            write_samples(of, write)
        progress(done, len(kinds))
    return {
        "kind": "quality",
        "version": sets.VERSION,
        "quick": quick,
        "clearice_version": __version__,
        "context": context(device),
        "sets": told,
    }


def shape_of(*, quick: bool) -> tuple[int, int]:
    """Return how many test micrographs a set has, and their edge, px."""
    return (QUICK_MICROGRAPHS, QUICK_SIZE) if quick else (sets.MICROGRAPHS, sets.SIZE)


def _describe(kind: QualitySet, of: Sequence[Sample]) -> dict[str, Any]:
    return {
        "about": kind.about,
        "specimen": kind.specimen,
        "settings": kind.settings,
        "micrographs": [sample.name for sample in of],
        "size": len(of[0].raw),
        "sha256": sets.checksum(of),
        "as_recorded": is_recorded(kind.name, of[0]) if len(of[0].raw) == sets.SIZE else None,
    }


def _scores(
    kind: QualitySet, of: Sequence[Sample], methods: Mapping[str, Method]
) -> dict[str, Any]:
    scores, sigma = radial_baselines(of)
    rulers = Rulers.of(of[0])
    for name, method in methods.items():
        images = zip(method(kind, of), of, strict=True)
        scores[name] = [rulers.judge(image, sample.truth) for image, sample in images]
    told: dict[str, list[Score]] = scores
    return {
        "gaussian_sigma_px": sigma,
        "methods": {name: summary(each) for name, each in told.items()},
    }


def write_samples(of: Sequence[Sample], out: Path) -> None:
    """Write micrographs for other programs: `raw/`, `even/`, `odd/` and `truth/`, as float32.

    Raises:
        OutputError: `out` cannot be written.
    """
    for sample in of:
        for part in ("raw", "even", "odd", "truth"):
            folder = io.ensure_folder(out / part)
            pixels = getattr(sample, part)
            io.write_mrc(folder / f"{sample.name}.mrc", pixels, sample.pixel_size_angstrom)


def write_training(
    kind: QualitySet,
    out: Path,
    device: torch.device,
    *,
    micrographs: int = TRAINING_MICROGRAPHS,
    size: int = sets.SIZE,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Write a data set of other micrographs of the same kind, in groups of frames, with truth.

    Args:
        kind: The set.
        out: Folder; the data set goes into `SET/`.
        device: Where to simulate.
        micrographs: How many; a tenth are for validation, none for testing.
        size: Edge, px.
        progress: Called with (micrographs done, micrographs in all).

    Returns:
        The data set.

    Raises:
        OutputError: There is one already.
    """
    config = kind.config("train", size)
    dataset, simulated = out / kind.name, out / f"{kind.name}-simulated"
    if (dataset / MANIFEST_NAME).exists():
        raise OutputError(f"{dataset}: already holds a data set; choose another folder")
    plan = PrepareConfig(
        groups=sets.GROUPS,
        validation_fraction=0.1,
        test_fraction=0.0,
        dose_e_per_A2=config.dose_e_per_A2,
    )
    atoms, pixel = kind.atoms(), config.pixel_size_angstrom
    atoms = AtomCloud(atoms.positions_angstrom.to(device), atoms.name)
    for folder in ("movies", "truth"):
        io.ensure_folder(simulated / folder)
    movies = []
    for index in range(micrographs):
        movie = simulate_movie(atoms, config, index, device)
        path = simulated / "movies" / f"{kind.name}_train_{index:03d}.mrc"
        io.write_mrc(path, movie.frames, pixel, dtype="uint16")
        io.write_mrc(simulated / "truth" / path.name, movie.truth, pixel)
        movies.append(path)
        progress(index + 1, micrographs)
    prepare.prepare_movies(movies, dataset, plan, simulated / "truth", device=device)
    shutil.rmtree(simulated)
    return dataset


def write_all_training(
    kinds: Sequence[QualitySet],
    out: Path,
    device: torch.device,
    micrographs: int | None = TRAINING_MICROGRAPHS,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write a training data set for each set, see `write_training`; None: tiny ones, to try it."""
    count, size = (micrographs, sets.SIZE) if micrographs else (QUICK_TRAINING, QUICK_SIZE)
    total = count * len(kinds)

    def tell(before: int, done: int, _: int) -> None:
        progress(before + done, total)

    for number, kind in enumerate(kinds):
        write_training(
            kind,
            out,
            device,
            micrographs=count,
            size=size,
            progress=partial(tell, number * count),
        )


def caveats(result: Mapping[str, Any], kinds: Sequence[QualitySet]) -> list[str]:
    """Return what a reader of the result must know, a sentence each."""
    told = []
    if result["quick"]:
        told.append("--quick: few and small micrographs, whose numbers mean nothing")
    changed = [name for name, values in result["sets"].items() if values["as_recorded"] is False]
    if changed:
        told.append(
            f"{', '.join(changed)}: generated other micrographs than those of version "
            f"{result['version']} on record; compare with no other results"
        )
    missing = sets.missing_sets()
    if missing and len(kinds) + len(missing) == len(sets.SETS):
        told.append(
            f"left out: {', '.join(missing)} ({sets.DATA_VARIABLE} names no folder with "
            f"{sets.T20S_FILE})"
        )
    return told


def tables(result: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Return the SNR and the fine correlation, a row a set and a column a method.

    The last row is the mean over sets.
    """
    captions = {
        "snr_db": "SNR against the truth, dB (± standard error over micrographs)",
        "frc_8_4": "correlation with the truth, 8–4 Å",
    }
    return {caption: _table(result["sets"], key) for key, caption in captions.items()}


def _table(of: Mapping[str, Any], key: str) -> list[dict[str, str]]:
    rows, means = [], dict[str, list[float]]()
    for name, told in of.items():
        row = {"set": name}
        for method, scores in told["methods"].items():
            error = scores[f"{key}_error"]
            row[method] = f"{scores[key]:.3f}" + ("" if error is None else f" ± {error:.3f}")
            means.setdefault(method, []).append(scores[key])
        rows.append(row)
    mean = {method: f"{statistics.fmean(values):.3f}" for method, values in means.items()}
    return [*rows, {"set": "mean"} | mean]
