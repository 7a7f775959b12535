"""Does denoising help to find particles? One plain picker, run on each version of micrographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clearice import __version__, io
from clearice.errors import ConfigError, InputFileError
from clearice.evaluate.accumulate import case_sums
from clearice.evaluate.baselines import wiener_response
from clearice.evaluate.cases import Case, Images, load
from clearice.evaluate.detection import Curve, Matches, Ranking, curve, draw_images, match, rank
from clearice.evaluate.picker import DogFilter, PickerSettings, find_peaks, inside
from clearice.evaluate.reading import made_by
from clearice.evaluate.score import Scores
from clearice.fourier import gaussian_transfer
from clearice.seeds import derive_seed
from clearice.types import ParticlePicks

# Standard deviations of the Gaussian low-passes that are tried, in diameters of the particle.
LOWPASS_SIGMAS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
_CURVE_POINTS = 200
# Micrographs that are enough to tell whether particles are dark or bright.
_FOR_CONTRAST = 8
# Values of a bootstrap held at a time.
_CHUNK = 4_000_000

Transfer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PickingSettings:
    """How picks are made and judged, the same for every version of the micrographs.

    Attributes:
        diameter_angstrom: Of the particle, Å.
        bright: Particles are brighter than the ice; None: as at the known coordinates of the raw
            micrographs.
        separation: Smallest distance between two picks, in diameters.
        margin: Nothing nearer to an edge counts, in diameters.
        tolerance: Largest distance of a pick from its particle, in diameters.
        precision: At which the recall is given.
        draws: Of the bootstrap over micrographs.
        seed: Of the bootstrap.
    """

    diameter_angstrom: float
    bright: bool | None = None
    separation: float = 0.7
    margin: float = 0.5
    tolerance: float = 0.25
    precision: float = 0.8
    draws: int = 1000
    seed: int = 0

    def picker(self) -> PickerSettings:
        """Return what the picker needs, dark particles unless they are known to be bright."""
        return PickerSettings(
            self.diameter_angstrom, bool(self.bright), self.separation, self.margin
        )


def score_picking(
    cases: Sequence[Case],
    coordinates: Path,
    settings: PickingSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Pick particles on raw, low-passed and denoised micrographs, and compare with known ones.

    Picks of all micrographs share one ranking. The best low-pass is the one of highest average
    precision on these very micrographs, and in each draw of the bootstrap on those of the draw,
    which favours the low-pass.

    Args:
        cases: Denoised and raw micrographs; all with a reference for the radial Wiener filter.
        coordinates: Of the known particles, see `io.read_coordinates`.
        settings: How to pick and to judge.
        progress: Called with (micrographs done, micrographs in all).

    Raises:
        ConfigError: A micrograph has no raw version.
        InputFileError: The coordinates cannot be used, or no micrograph can be scored.
    """
    if not cases or any(case.raw is None for case in cases):
        raise ConfigError("picking is compared with that on raw micrographs; give --raw")
    known = io.read_coordinates(coordinates, [io.stem(case.denoised) for case in cases])
    listed = [case for case in cases if io.stem(case.denoised) in known]
    settings = _with_contrast(listed, coordinates, known, settings)
    wiener = _wiener(listed)
    failures: list[InputFileError] = []
    matches: dict[str, list[Matches]] = {}
    done: list[Case] = []
    pixel_size = None
    for number, case in enumerate(listed, 1):
        try:
            images = load(case)
            particles = _particles(coordinates, known[io.stem(case.denoised)], images)
        except InputFileError as error:
            failures.append(error)
        else:
            pixel_size = pixel_size or images.pixel_size_angstrom
            for name, found in _match_all(images, particles, wiener, settings).items():
                matches.setdefault(name, []).append(found)
            done.append(case)
        progress(number, len(listed))
    if not done:
        raise failures[0]
    if not sum(m.particles for m in matches["raw"]):
        raise InputFileError(
            coordinates, "has no particle away from the edges", "check --diameter and the names"
        )
    values = {
        "kind": "picking",
        "clearice_version": __version__,
        **made_by(done[0].denoised.parent),
        "micrographs": [io.stem(case.denoised) for case in done],
        "without_coordinates": [io.stem(c.denoised) for c in cases if c not in listed],
        "pixel_size_angstrom": pixel_size,
        "settings": asdict(settings),
    }
    return Scores(values | _judge(matches, settings), tuple(str(error) for error in failures))


def _particles(path: Path, picks: ParticlePicks, images: Images) -> Float[Tensor, "m 2"]:
    """Return known centres in the pixels of the images."""
    height, width = images.denoised.shape
    xy = torch.tensor(list(picks.xy), dtype=torch.float32).reshape(-1, 2)
    if picks.shape is not None:
        xy = xy * torch.tensor([width / picks.shape[1], height / picks.shape[0]])
    if not inside(xy, images.denoised.shape, -1.0).all():
        raise InputFileError(
            path,
            f"has particles of {picks.micrograph} outside of its {height} × {width} px",
            "give coordinates in the pixels of these micrographs",
        )
    return xy


def _with_contrast(
    cases: Sequence[Case],
    path: Path,
    known: dict[str, ParticlePicks],
    settings: PickingSettings,
) -> PickingSettings:
    """Find out whether the known particles are brighter than the ice, unless it is given."""
    if settings.bright is not None:
        return settings
    total = 0.0
    for case in cases[:_FOR_CONTRAST]:
        try:
            images = load(case)
            xy = _particles(path, known[io.stem(case.denoised)], images)
        except InputFileError:  # is reported when its turn comes
            continue
        assert images.raw is not None
        response = DogFilter(images.raw, images.pixel_size_angstrom, settings.picker()).response()
        last = torch.tensor([response.shape[1] - 1, response.shape[0] - 1])
        column, row = xy.round().long().clamp(min=0).minimum(last).unbind(1)
        total += float((response[row, column] / response.std()).sum())
    return replace(settings, bright=total < 0)


def _wiener(cases: Sequence[Case]) -> Transfer | None:
    """Return the radial Wiener filter, learnt from these raw images and their references."""
    if any(case.reference is None for case in cases):
        return None
    n_rings = min(min(io.image_shape(case.denoised)[1:]) for case in cases) // 2
    sums = []
    for case in cases:
        pair = case_sums(load(case), n_rings).raw_reference
        assert pair is not None
        sums.append(pair)
    gain = wiener_response(sums, oracle=False)

    def transfer(frequency: Tensor) -> Tensor:
        ring = (frequency * 2 * n_rings).floor().long().clamp(max=len(gain) - 1)
        return gain.to(frequency)[ring]

    return transfer


def lowpass_name(sigma_angstrom: float) -> str:
    """Return the name under which a Gaussian low-pass is listed."""
    return f"low-pass {sigma_angstrom:.3g} Å"


def _match_all(
    images: Images,
    particles: Float[Tensor, "m 2"],
    wiener: Transfer | None,
    settings: PickingSettings,
) -> dict[str, Matches]:
    """Pick on each version of a micrograph and match the picks with its known particles."""
    assert images.raw is not None
    pixel_size, picker = images.pixel_size_angstrom, settings.picker()
    diameter = settings.diameter_angstrom / pixel_size
    counted = inside(particles, images.raw.shape, settings.margin * diameter)
    raw = DogFilter(images.raw, pixel_size, picker)
    filters: dict[str, Transfer | None] = {"raw": None}
    for share in LOWPASS_SIGMAS:
        name = lowpass_name(share * settings.diameter_angstrom)
        filters[name] = partial(gaussian_transfer, sigma_px=share * diameter)
    if wiener is not None:
        filters["wiener"] = wiener

    def judged(response: Float[Tensor, "h w"]) -> Matches:
        picks = find_peaks(response, pixel_size, picker)
        return match(picks.xy_px, picks.score, particles, settings.tolerance * diameter, counted)

    found = {name: judged(raw.response(transfer)) for name, transfer in filters.items()}
    found["denoised"] = judged(DogFilter(images.denoised, pixel_size, picker).response())
    return found


def _judge(matches: dict[str, list[Matches]], settings: PickingSettings) -> dict[str, Any]:
    """Return the scores of each method, and by how much denoising is better."""
    rankings = {name: rank(of_images) for name, of_images in matches.items()}
    curves = {name: curve(ranking) for name, ranking in rankings.items()}
    ap = {name: float(c.average_precision()) for name, c in curves.items()}
    best = max((name for name in ap if name.startswith("low-pass")), key=ap.__getitem__)
    drawn = _bootstrap(rankings, settings)
    lowpassed = [drawn[name] for name in drawn if name.startswith("low-pass")]
    against = {"raw": drawn["raw"], "best_lowpass": torch.stack(lowpassed).amax(dim=0)}
    plain = {"raw": ap["raw"], "best_lowpass": ap[best]}
    if "wiener" in ap:
        against["wiener"], plain["wiener"] = drawn["wiener"], ap["wiener"]
    return {
        "particles": int(sum(m.particles for m in matches["raw"])),
        "best_lowpass": best,
        "methods": {
            name: {
                "average_precision": ap[name],
                "average_precision_95": _interval(drawn[name]),
                "recall_at_precision": curves[name].recall_at(settings.precision),
                "best_f1": curves[name].best_f1(),
                "picks": len(rankings[name].score),
                "average_precision_of_each": [
                    float(curve(rank([one])).average_precision()) if one.particles else None
                    for one in matches[name]
                ],
                "curve": _thinned(curves[name]),
            }
            for name in matches
        },
        "denoised_minus": {
            other: {"difference": ap["denoised"] - plain[other], "interval_95": _interval(gain)}
            for other, gain in ((o, drawn["denoised"] - d) for o, d in against.items())
        },
    }


def _bootstrap(
    rankings: dict[str, Ranking], settings: PickingSettings
) -> dict[str, Float[Tensor, "draws"]]:
    """Draw micrographs with replacement, the same ones for every method; a single one never."""
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "picking"))
    count = len(rankings["raw"].particles)
    weight = draw_images(count, settings.draws if count > 1 else 0, generator)
    usable: Bool[Tensor, "draws"] = (weight * rankings["raw"].particles).sum(dim=1) > 0
    weight = weight[usable]
    return {
        name: torch.cat(
            [
                curve(ranking, part).average_precision()
                for part in torch.split(weight, max(1, _CHUNK // max(1, len(ranking.score))))
            ]
        )
        for name, ranking in rankings.items()
    }


def _interval(values: Float[Tensor, "draws"]) -> list[float] | None:
    """Return the 2.5th and 97.5th percentiles, None without draws."""
    if not len(values):
        return None
    return torch.quantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()


def _thinned(whole: Curve) -> dict[str, list[float]]:
    step = max(1, -(-whole.recall.shape[-1] // _CURVE_POINTS))
    return {"recall": whole.recall[::step].tolist(), "precision": whole.precision[::step].tolist()}
