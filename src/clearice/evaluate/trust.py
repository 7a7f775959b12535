"""How much of a denoised micrograph is real, place by place: a map beside each of them.

Trust is the squared correlation of the denoised micrograph with the signal that must be expected
in a window of 150 Å around a pixel, both between 400 and 20 Å.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jaxtyping import Float
from torch import Tensor

from clearice import __version__, io
from clearice.errors import InputFileError, OutputError
from clearice.evaluate.cases import Case, load, match_halves
from clearice.evaluate.evidence import (
    Evidence,
    Halves,
    Spread,
    at_places,
    bin_middles,
    gather,
    strength,
    supported_r2,
)
from clearice.evaluate.local import (
    HIGHPASS_ANGSTROM,
    LOWPASS_ANGSTROM,
    WINDOW_ANGSTROM,
    band_limited,
    bin_factor,
    enlarge,
    interpolated,
)
from clearice.evaluate.overlay import overlay
from clearice.evaluate.reading import made_by
from clearice.types import Micrograph

JSON_NAME: Final = "trust.json"
_PARTS = ("denoised", "denoised_even", "denoised_odd", "raw_even", "raw_odd")
# Squared correlation that halves support → mean squared local correlation of the full dose with
# the truth, on simulated barrels: benchmarks/trust.py, under `calibration`.
KNOTS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
_TRUE: Final = (0.0, 0.07, 0.18, 0.33, 0.44, 0.53, 0.625, 0.71, 0.79, 1.0)

Image = Float[Tensor, "h w"]
Progress = Callable[[int, int], None]


def _ignore(*_: object) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class TrustResult:
    """What was found.

    Attributes:
        values: Of `trust.json`.
        failures: One message for each micrograph without a map.
    """

    values: dict[str, Any]
    failures: tuple[str, ...]


def map_trust(results: Path, out: Path, progress: Progress = _ignore) -> TrustResult:
    """Write a map of trust, and a picture of it, for each micrograph that was denoised by halves.

    All images are read once to learn how far a half of some strength is supported by the other raw
    half, and the full-dose ones once more for their maps.

    Args:
        results: What `clearice denoise DATASET --halves` wrote.
        out: Folder for `NAME.mrc` (0 to 1, of the size and pixel size of the micrograph),
            `previews/NAME.png` and `trust.json`.
        progress: Called with (readings done, readings in all).

    Raises:
        InputFileError: There are no halves, or no micrograph can be used.
        PairingError: A half has no partner.
        OutputError: `out` cannot be written.
    """
    cases = halves_of(results)
    refuse_own_input(out, [results / part for part in _PARTS])
    io.ensure_folder(io.ensure_folder(out) / "previews")
    readings = 2 * len(cases)
    model, failures = learn(cases, lambda done: progress(done, readings))
    entries: list[dict[str, Any]] = []
    for done, case in enumerate(case for case in cases if case not in failures):
        full = _full(case)
        band = band_limited(full.pixels, full.pixel_size_angstrom)
        noise = model.noise[case.denoised.name]
        pixel = full.pixel_size_angstrom * bin_factor(full.pixel_size_angstrom)
        values = calibrated(model.supported(strength(band / noise, pixel)))
        entries.append(write_map(full, band, values, out, "trust"))
        progress(len(cases) + done + 1, readings)
    told = {
        "kind": "trust",
        "clearice_version": __version__,
        **made_by(results),
        "method": "halves",
        **definition(),
        "micrographs": entries,
        "evidence": model.table(),
        "failures": [str(error) for error in failures.values()],
    }
    io.write_json(out / JSON_NAME, told)
    return TrustResult(told, tuple(str(error) for error in failures.values()))


def definition() -> dict[str, float | str]:
    """Return what the maps hold, for machines."""
    return {
        "value": "expected squared correlation of the denoised micrograph with the signal",
        "window_fwhm_angstrom": WINDOW_ANGSTROM,
        "lowpass_angstrom": LOWPASS_ANGSTROM,
        "highpass_angstrom": HIGHPASS_ANGSTROM,
    }


def refuse_own_input(out: Path, inputs: Sequence[Path]) -> None:
    """Raise OutputError if results would overwrite what they are made from."""
    if out.resolve() in {folder.resolve() for folder in inputs}:
        raise OutputError(
            f"{out}: holds the input, which maps would overwrite; choose another --out"
        )


def halves_of(results: Path) -> list[Case]:
    """Match the even half of each micrograph with the odd one.

    Raises:
        InputFileError: There are no halves.
        PairingError: A half has no partner.
    """
    missing = [part for part in _PARTS if not (results / part).is_dir()]
    if missing:
        raise InputFileError(
            results,
            f"has no folder {missing[0]}",
            "give what 'clearice denoise DATASET --halves' wrote; without halves, --model RUN maps "
            "a spread instead, which proves nothing",
        )
    cases = match_halves(results)
    return cases[: len(cases) // 2]


@dataclass(frozen=True)
class TrustModel:
    """What was learnt from all micrographs.

    Attributes:
        evidence: Pooled.
        spread: Pooled.
        noise: Of each micrograph by its file's name, see `Halves.noise`.
    """

    evidence: Evidence
    spread: Spread
    noise: dict[str, float] = field(default_factory=dict)

    def trust(self, halves: Halves) -> Image:
        """Return the binned map of a full-dose micrograph, 0 to 1."""
        return calibrated(self.supported(halves.strengths()[0]))

    def supported(self, full: Image) -> Image:
        """Return what halves support at strengths of the full dose, not calibrated."""
        place = self.spread.on_the_scale_of_halves(full)
        return at_places(supported_r2(self.evidence), place)

    def table(self) -> list[dict[str, float]]:
        """Return what each bin that some place is in holds."""
        supported = supported_r2(self.evidence)
        columns = zip(
            bin_middles().tolist(),
            self.evidence.count.tolist(),
            supported.tolist(),
            calibrated(supported).tolist(),
            strict=True,
        )
        names = ("strength", "windows", "supported_r2", "trust")
        return [dict(zip(names, row, strict=True)) for row in columns if row[1] > 0]


def learn(
    cases: Sequence[Case], progress: Callable[[int], None] = _ignore
) -> tuple[TrustModel, dict[Case, InputFileError]]:
    """Pool what the halves of micrographs say of each other.

    Args:
        cases: Even halves with the odd ones, from `halves_of`.
        progress: Called with the micrographs done.

    Returns:
        The model, and the micrographs that cannot be used.

    Raises:
        InputFileError: None can be used; the error is that of the first.
    """
    model: TrustModel | None = None
    failures: dict[Case, InputFileError] = {}
    for done, case in enumerate(cases):
        try:
            halves = load_halves(case, _full(case))
        except InputFileError as error:
            failures[case] = error
        else:
            evidence, spread = gather(halves), Spread.of(*halves.strengths())
            noise = {case.denoised.name: halves.noise}
            if model is not None:
                evidence, spread = model.evidence + evidence, model.spread + spread
                noise |= model.noise
            model = TrustModel(evidence, spread, noise)
        progress(done + 1)
    if model is None:
        raise next(iter(failures.values()))
    return model, failures


def load_halves(case: Case, full: Micrograph) -> Halves:
    """Read the halves of a micrograph.

    Raises:
        InputFileError: A file cannot be used, or differs in shape or pixel size.
    """
    images = load(case)
    if images.denoised.shape != full.pixels.shape:
        sizes = [" × ".join(map(str, im.shape)) for im in (full.pixels, images.denoised)]
        raise InputFileError(
            full.path,
            f"is {sizes[0]} px, but {case.denoised} is {sizes[1]} px",
            "denoise them again",
        )
    assert images.raw is not None
    assert images.reference is not None
    assert images.denoised_other is not None
    return Halves.of(
        full.pixels,
        (images.denoised, images.denoised_other),
        (images.raw, images.reference),
        images.pixel_size_angstrom,
    )


def _full(case: Case) -> Micrograph:
    return io.read_micrograph(case.denoised.parents[1] / "denoised" / case.denoised.name)


def write_map(
    denoised: Micrograph, band: Image, values: Image, out: Path, label: str
) -> dict[str, Any]:
    """Write a map at the size of its micrograph and the picture of it, and return its summary.

    Args:
        denoised: The micrograph.
        band: It, band-limited.
        values: Binned map, 0 to 1.
        out: Folder of the results.
        label: What the map is, for its header.

    Raises:
        OutputError: A file cannot be written.
    """
    (height, width), pixel_size = denoised.pixels.shape, denoised.pixel_size_angstrom
    whole = enlarge(values.float(), (height, width), bin_factor(pixel_size))
    label = f"clearice: {label}, {WINDOW_ANGSTROM:g} A window, {LOWPASS_ANGSTROM:g} A low-pass"
    io.write_mrc(out / f"{denoised.path.stem}.mrc", whole, pixel_size, label=label)
    io.write_png(out / "previews" / f"{denoised.path.stem}.png", overlay(band, values))
    return {
        "name": denoised.path.stem,
        "shape": [height, width],
        "pixel_size_angstrom": pixel_size,
        "mean": float(values.mean()),
        "share_above_half": float((values > 0.5).double().mean()),
        "share_below_tenth": float((values < 0.1).double().mean()),
    }


def calibrated(supported: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the mean true value where halves support one, as simulation says."""
    return interpolated(supported, KNOTS, _TRUE)
