"""What can be said of trust without halves: how far eight denoised orientations disagree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clearice import __version__, checkpoint, denoise, io
from clearice.errors import InputFileError
from clearice.evaluate import spread, trust
from clearice.evaluate.local import band_limited, bin_factor
from clearice.types import Micrograph

CAVEAT = (
    "a spread of eight orientations is no proof: it shows where the model is unsure, not where it "
    "is wrong; halves would"
)


def map_spread(
    folder: Path,
    denoiser: denoise.Denoiser,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> trust.TrustResult:
    """Write a map of the disagreement of a model with itself for each micrograph of a folder.

    Args:
        folder: Raw micrographs (MRC, TIFF, PNG).
        denoiser: The model.
        out: Folder for `NAME.mrc`, `previews/NAME.png` and `trust.json`.
        progress: Called with (micrographs done, micrographs in all).

    Raises:
        InputFileError: There are no micrographs, or none can be used.
        OutputError: `out` is that folder, or cannot be written.
    """
    trust.refuse_own_input(out, [folder])
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [path for path in found if path.is_file() and io.is_micrograph_name(path)]
    if not paths:
        raise InputFileError(folder, "holds no micrographs", "give a folder of raw ones")
    io.ensure_folder(io.ensure_folder(out) / "previews")
    entries: list[dict[str, Any]] = []
    failures: list[InputFileError] = []
    for done, path in enumerate(paths):
        try:
            entries.append(_map_one(io.read_micrograph(path), denoiser, out))
        except InputFileError as error:
            failures.append(error)
        progress(done + 1, len(paths))
    if not entries:
        raise failures[0]
    told = {
        "kind": "trust",
        "clearice_version": __version__,
        "model": str(denoiser.recipe.model),
        "model_sha256": checkpoint.checksum(denoiser.recipe.model),
        "method": "spread of eight orientations",
        "caveat": CAVEAT,
        **trust.definition(),
        "micrographs": entries,
        "failures": [str(error) for error in failures],
    }
    io.write_json(out / trust.JSON_NAME, told)
    return trust.TrustResult(told, tuple(str(error) for error in failures))


def _map_one(micrograph: Micrograph, denoiser: denoise.Denoiser, out: Path) -> dict[str, Any]:
    pixel = micrograph.pixel_size_angstrom
    views = spread.orientations(denoiser, micrograph.pixels)
    bands = [band_limited(view, pixel) for view in views]
    values = spread.calibrated(spread.disagreement(bands, pixel * bin_factor(pixel)))
    mean = sum(bands[1:], bands[0]) / len(bands)
    return trust.write_map(micrograph, mean, values, out, "spread, no proof")
