"""Is trust what it says? Calibrated on simulated barrels, tested on other specimens and doses.

Each session has a network of its own. Per pixel, the map of each held-out micrograph is compared
with the squared local correlation of the delivered (full-dose) result with the known truth.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import hallucination
from clearice import denoise, io
from clearice.benchmark.timing import context
from clearice.data import Split
from clearice.evaluate import spread, trust
from clearice.evaluate.local import band_limited, local_r2
from clearice.evaluate.overlay import overlay
from trust_sessions import CALIBRATION, HELD_OUT, Session, make, training

BINS = 10
CPU = torch.device("cpu")
# Knots of the calibration, see `trust.calibrated` and `spread.calibrated`.


def places(folder: Path, kind: str, truths: Path, model: Path) -> dict[str, Tensor]:
    """Return what is known of every pixel of a session's micrographs.

    Args:
        folder: Of the results.
        kind: `denoised`, or `scrambled`.
        truths: Folder of the truth.
        model: What made the results.

    Returns:
        `supported` (before calibration), `trust`, `true`, `disagreement` of eight orientations.
    """
    cases = trust.halves_of(folder / kind)
    learnt, failures = trust.learn(cases)
    assert not failures
    denoiser = denoise.Denoiser(model, CPU)
    found: dict[str, list[Tensor]] = {"supported": [], "trust": [], "true": [], "disagreement": []}
    for case in cases:
        full = io.read_micrograph(folder / kind / "denoised" / case.denoised.name)
        raw = io.read_micrograph(folder / kind / "raw" / case.denoised.name)
        truth = io.read_micrograph(truths / case.denoised.name)
        halves = trust.load_halves(case, full)
        pixel = halves.pixel_size_angstrom

        def band(image: Tensor, size: float = full.pixel_size_angstrom) -> Tensor:
            return band_limited(image, size)

        views = [band(view) for view in spread.orientations(denoiser, raw.pixels)]
        found["supported"].append(learnt.supported(halves.strengths()[0]).flatten())
        found["trust"].append(learnt.trust(halves).flatten())
        found["true"].append(local_r2(band(full.pixels), band(truth.pixels), pixel).flatten())
        found["disagreement"].append(spread.disagreement(views, pixel).flatten())
    return {name: torch.cat(values) for name, values in found.items()}


def by_bins(predicted: Tensor, true: Tensor) -> list[dict[str, float]]:
    """Return mean prediction and mean truth in each tenth of the scale."""
    place = (predicted * BINS).long().clamp(0, BINS - 1)
    rows = []
    for index in range(BINS):
        inside = place == index
        if inside.any():
            rows.append(
                {
                    "from": index / BINS,
                    "share": float(inside.double().mean()),
                    "trust": float(predicted[inside].mean()),
                    "true": float(true[inside].mean()),
                    "sd_of_true": float(true[inside].std(correction=0)),
                }
            )
    return rows


def knots(values: Tensor, true: Tensor, at: Tensor) -> list[float | None]:
    """Return the mean truth around each knot, half-way to its neighbours."""
    place = torch.bucketize(values, (at[1:] + at[:-1]) / 2)
    means = []
    for index in range(len(at)):
        inside = place == index
        means.append(float(true[inside].mean()) if int(inside.sum()) > 500 else None)
    return means


def summary(found: dict[str, Tensor]) -> dict[str, Any]:
    """Return how trust and the spread agree with the truth."""
    guessed = spread.calibrated(found["disagreement"])
    rows = by_bins(found["trust"], found["true"])
    return {
        "bins": rows,
        "worst_error_of_bins": max(abs(row["trust"] - row["true"]) for row in rows),
        "correlation_with_true": _correlation(found["trust"], found["true"]),
        "mean_true": float(found["true"].mean()),
        "spread_bins": by_bins(guessed, found["true"]),
        "spread_correlation_with_true": _correlation(guessed, found["true"]),
    }


def _correlation(one: Tensor, other: Tensor) -> float | None:
    """Return Pearson's r; None where the first is the same everywhere."""
    if float(one.std()) == 0:
        return None
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def scrambled_summary(found: dict[str, Tensor]) -> dict[str, float]:
    """Return what is trusted where there is nothing."""
    guessed = spread.calibrated(found["disagreement"])
    return {
        "share_of_trust_up_to_0.1": float((found["trust"] <= 0.1).double().mean()),
        "largest_trust": float(found["trust"].max()),
        "mean_true": float(found["true"].mean()),
        "spread_share_up_to_0.1": float((guessed <= 0.1).double().mean()),
        "spread_mean": float(guessed.mean()),
    }


def pooled(all_found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Put the pixels of sessions together."""
    return {name: torch.cat([found[name] for found in all_found]) for name in all_found[0]}


def of_models(work: Path, *, quick: bool) -> dict[str, Any]:
    """Return how right trust is for the good and the overfitted models of `hallucination.py`."""
    found = {}
    for kind in hallucination.KINDS:
        model = hallucination.make_model(work, kind, 0, quick=quick)
        dataset = hallucination.make_dataset(work, "good", quick=quick)
        results = work / "results" / kind
        denoiser = denoise.Denoiser(model, CPU)
        denoise.denoise_dataset(dataset, denoiser, results / "denoised", Split.TEST, halves=True)
        truths = dataset.parent / "simulated" / "truth"
        found[kind] = summary(places(results, "denoised", truths, model))
    return found


def draw(folder: Path, out: Path) -> None:
    """Write a picture of one held-out micrograph: result, trust, and what is true."""
    cases = trust.halves_of(folder / "denoised")
    model, _ = trust.learn(cases)
    case = cases[0]
    full = io.read_micrograph(folder / "denoised" / "denoised" / case.denoised.name)
    truth = io.read_micrograph(folder / "simulated" / "truth" / case.denoised.name)
    halves = trust.load_halves(case, full)
    band = band_limited(full.pixels, full.pixel_size_angstrom)
    signal = band_limited(truth.pixels, full.pixel_size_angstrom)
    true = local_r2(band, signal, halves.pixel_size_angstrom)
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, 4)
    low, high = torch.quantile(band.flatten(), torch.tensor([0.005, 0.995]).double()).tolist()
    axes[0].imshow(band.numpy(), cmap="gray", vmin=low, vmax=high)
    low, high = torch.quantile(signal.flatten(), torch.tensor([0.005, 0.995]).double()).tolist()
    axes[1].imshow(signal.numpy(), cmap="gray", vmin=low, vmax=high)
    maps = (overlay(band, model.trust(halves)), overlay(band, true))
    for axis, picture in zip(axes[2:], maps, strict=True):
        axis.imshow(picture.numpy())
    titles = ("denoised, 400–20 Å", "truth", "trust", "true squared local correlation")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
        axis.invert_yaxis()
    figure.savefig(out, dpi=110, pil_kwargs={"quality": 82})


def main() -> None:
    """Make what is missing, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/trust"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/trust.json"))
    parser.add_argument("--quick", action="store_true", help="to see that it runs")
    parser.add_argument("--models", type=Path, help="also measure those in this work folder")
    parser.add_argument("--picture", type=Path, help="also draw docs/results/trust.jpg")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        **context(CPU),
        "training": training(0, quick=arguments.quick).model_dump(mode="json"),
        "sessions": {},
    }

    def measure(session: Session, kind: str) -> dict[str, Tensor]:
        folder = make(session, arguments.work, CPU, quick=arguments.quick)
        return places(folder, kind, folder / "simulated" / "truth", folder / "run")

    learnt = [measure(session, "denoised") for session in CALIBRATION]
    tested = [measure(session, "denoised") for session in HELD_OUT]
    nothing = [measure(session, "scrambled") for session in HELD_OUT]
    together = pooled(learnt)
    at = torch.tensor(trust.KNOTS, dtype=torch.float64)
    result["calibration"] = {
        "supported": list(trust.KNOTS),
        "true": knots(together["supported"], together["true"], at),
        "disagreement": list(spread.KNOTS),
        "true_by_disagreement": knots(
            together["disagreement"],
            together["true"],
            torch.tensor(spread.KNOTS, dtype=torch.float64),
        ),
    }
    for session, found in zip((*CALIBRATION, *HELD_OUT), (*learnt, *tested), strict=True):
        result["sessions"][session.name] = {
            **asdict(session),
            "role": "held out" if session in HELD_OUT else "calibration",
            **summary(found),
        }
    for session, found in zip(HELD_OUT, nothing, strict=True):
        result["sessions"][session.name]["scrambled"] = scrambled_summary(found)
    result["held_out"] = summary(pooled(tested))
    result["scrambled"] = scrambled_summary(pooled(nothing))
    if arguments.models is not None:
        result["models"] = of_models(arguments.models, quick=arguments.quick)
    io.write_json(arguments.out, result)
    if arguments.picture is not None:
        draw(arguments.work / HELD_OUT[0].name, arguments.picture)
    for row in result["held_out"]["bins"]:
        print("  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    print(result["scrambled"])


if __name__ == "__main__":
    main()
