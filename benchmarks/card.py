"""Does the report card, which knows no truth, say what the truth says?

Three specimens at three doses, and a session with an uncorrected gain, before and after its
removal, are simulated and denoised by halves: with a network that saw none of them, with a filter
that is not linear, and with a cheat that draws one picture into everything. Each band's correlation
with the truth, as estimated from the halves, is compared with the one that the truth gives.
`CLEARICE_TEST_DATA` names the folder that holds `3j9i.pdb.gz`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from clearice import denoise, io, prepare, simulate, train
from clearice.benchmark.timing import context
from clearice.config import PrepareConfig, SimulateConfig, TrainConfig
from clearice.data import Split
from clearice.evaluate import estimates, find_halves, half_sums
from clearice.evaluate.bootstrap import Resampled
from clearice.evaluate.card import Measurements, estimate_slots, make_card, measure_all
from clearice.evaluate.cases import Images
from clearice.evaluate.slots import N_BANDS, TOTAL, Spectrum, band_edges, spectrum_of
from clearice.fourier import gaussian_lowpass
from clearice.metrics import snr_db
from clearice.prepare.spectra import periodic_spectrum

CPU = torch.device("cpu")
PIXEL = 2.63
DOSES = (20.0, 53.0, 120.0)
# The standard error up to which an estimate must be right to `CLOSE`.
SURE, CLOSE = 0.01, 0.03
Rows = list[dict[str, Any]]


def write_fibre(path: Path) -> Path:
    """Write the third specimen: a twisted pair of chains of 1,600 atoms, 160 Å long."""
    generator = torch.Generator().manual_seed(3)
    lines = []
    for index in range(1600):
        chain, step = index % 2, index // 2
        angle = 2 * math.pi * step / 80 + math.pi * chain
        wobble = 4 * torch.randn(3, generator=generator)
        x, y, z = 18 * math.cos(angle), 18 * math.sin(angle), 0.2 * step - 80
        x, y, z = (a + float(b) for a, b in zip((x, y, z), wobble, strict=True))
        lines.append(
            f"ATOM  {index + 1:5d}  CA  ALA {'AB'[chain]}{step % 9999 + 1:4d}    "
            f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C  "
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "END"]) + "\n")
    return path


def make_dataset(folder: Path, fix_pattern: bool = False, **settings: Any) -> Path:
    """Simulate a session and split it into even and odd frames, once."""
    config = SimulateConfig(pixel_size_angstrom=PIXEL, frames=8, **settings)
    if not (folder / "simulation.json").exists():
        simulate.run(config, folder, CPU)
    dataset = folder / ("fixed" if fix_pattern else "dataset")
    if not (dataset / "dataset.json").exists():
        plan = PrepareConfig(
            groups=2,
            validation_fraction=0.0,
            test_fraction=0.0,
            dose_e_per_A2=config.dose_e_per_A2,
            fix_pattern=fix_pattern,
        )
        prepare.prepare_movies(
            sorted((folder / "movies").glob("*.mrc")), dataset, plan, folder / "truth"
        )
    return dataset


def train_network(work: Path) -> Path:
    """Train a small network on barrels that are used for nothing else."""
    run = work / "network" / "run"
    if not (run / "best.safetensors").exists():
        folder = work / "network" / "sim"
        config = SimulateConfig(
            micrographs=12, size=512, pixel_size_angstrom=PIXEL, frames=8, seed=100
        )
        movies = simulate.run(config, folder, CPU)
        plan = PrepareConfig(validation_fraction=0.1, test_fraction=0.0, dose_e_per_A2=53.0)
        prepare.prepare_movies(movies, work / "network" / "ds", plan)
        how = TrainConfig(
            network="unet-small", steps=400, batch_size=8, patch_size=96, learning_rate=2e-3
        )
        train.run(work / "network" / "ds", run, how, CPU)
    return run


def median_filter(image: Tensor) -> Tensor:
    """Blur, and take the median of 5 × 5 px: neither linear nor learnt."""
    blurred = gaussian_lowpass(image, 1.5)
    padded = functional.pad(blurred[None, None], (2, 2, 2, 2), mode="reflect")
    return functional.unfold(padded, 5).median(1).values.reshape(image.shape)


def cheat(image: Tensor) -> Tensor:
    """Draw one and the same picture into every image."""
    blurred = gaussian_lowpass(image, 2.0)
    picture = torch.randn(image.shape, generator=torch.Generator().manual_seed(9))
    picture = gaussian_lowpass(picture, 3.0)
    return blurred + picture * blurred.std() / picture.std()


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {"median": median_filter, "cheat": cheat}


def denoise_halves(dataset: Path, model: Path) -> Path:
    """Denoise the halves with all methods, once."""
    out = dataset.with_name(f"{dataset.name}-denoised")
    if not out.exists():
        denoiser = denoise.Denoiser(model, CPU)
        denoise.denoise_dataset(dataset, denoiser, out, Split.TRAIN, halves=True)
    for name, method in FILTERS.items():
        for half in ("even", "odd"):
            target = out / f"{name}_{half}"
            if target.exists():
                continue
            target.mkdir()
            for path in sorted((out / f"raw_{half}").glob("*.mrc")):
                image = io.read_micrograph(path).pixels
                io.write_mrc(target / path.name, method(image), PIXEL)
    return out


def _decibels(correlation: float | None) -> float | None:
    """Return the ratio, None where nothing bounds it."""
    if correlation is None or correlation >= 1:
        return None
    return round(snr_db(max(correlation, 0.0)), 3)


def compare(measured: Measurements) -> dict[str, Any]:
    """Compare the estimates of a set with its truth."""
    rho, true, naive = estimate_slots(
        Resampled.of(measured.sums, len(measured.names), 0),
        estimates.truth_correlation,
        estimates.true_correlation,
        estimates.naive_correlation,
    )
    bands: Rows = []
    resolution = measured.pixel_size_angstrom / band_edges()
    for band in [*range(N_BANDS), TOTAL]:
        if measured.count[band] == 0:
            continue
        estimate, known = rho[band], true[band].value
        sure = estimate.error <= SURE
        round(estimate.error, 4) if math.isfinite(estimate.error) else None
        covered = estimate.low <= known <= estimate.high
        bands.append(
            {
                "to_angstrom": 0.0 if band == TOTAL else round(float(resolution[band + 1]), 2),
                "estimate": round(estimate.value, 4) if math.isfinite(estimate.value) else None,
                "interval": [round(estimate.low, 4), round(estimate.high, 4)],
                "standard_error": round(estimate.error, 4)
                if math.isfinite(estimate.error)
                else None,
                "truth": round(known, 4),
                "naive": round(math.sqrt(max(naive[band].value, 0.0)), 4),
                "sure": sure,
                "covered": covered,
                "right": abs(estimate.value - known) <= CLOSE if sure else covered,
            }
        )
    total, bands = bands[-1], bands[:-1]
    sure_bands = [b for b in bands if b["sure"]]
    others = [b for b in bands if not b["sure"]]
    decibels = [_decibels(value) for value in (total["estimate"], total["truth"])]
    interval = [_decibels(value) for value in total["interval"]]
    return {
        "judged_to_angstrom": round(measured.judged_to_angstrom, 1) or None,
        "bands": bands,
        "total": total,
        "snr_db": {
            "estimate": decibels[0],
            "truth": decibels[1],
            "interval": interval,
            "naive": _decibels(total["naive"]),
        },
        "sure_bands": len(sure_bands),
        "sure_and_right": sum(b["right"] for b in sure_bands),
        "largest_error_where_sure": max(
            (round(abs(b["estimate"] - b["truth"]), 4) for b in sure_bands), default=None
        ),
        "other_bands": len(others),
        "other_covered": sum(b["covered"] for b in others),
        "largest_naive_error": max(round(abs(b["naive"] - b["truth"]), 3) for b in bands),
        "pattern_flagged": measured.pattern.flagged,
        "pattern": {name: round(s.value, 5) for name, s in measured.pattern.shares.items()},
        "leakage": round(measured.pattern.leakage, 4),
    }


def judge(dataset: Path, model: Path, **labels: Any) -> Rows:
    """Compare all methods on one set."""
    results = denoise_halves(dataset, model)
    rows: Rows = []
    for method in ("denoised", *FILTERS):
        measured = measure_all(find_halves(results, method, dataset.parent / "truth"))
        row = labels | {"method": {"denoised": "network"}.get(method, method)} | compare(measured)
        lights = {entry.name: entry.light for entry in make_card(measured).entries}
        rows.append(row | {"lights": lights})
        print(
            labels,
            row["method"],
            f"sure {row['sure_and_right']}/{row['sure_bands']}",
            f"(worst {row['largest_error_where_sure']})",
            f"others {row['other_covered']}/{row['other_bands']}",
            row["snr_db"],
            "flagged" if row["pattern_flagged"] else "",
            flush=True,
        )
    return rows


def flat_spectrum(image: Tensor) -> Spectrum:
    """Return the spectrum without any window."""
    wide = image.double()
    return torch.fft.rfft2(wide - wide.mean())


def windows(dataset: Path, model: Path) -> Rows:
    """Compare what is done against the edges: the estimate must agree with the truth in each."""
    results = denoise_halves(dataset, model)
    cases = find_halves(results, "median", dataset.parent / "truth")
    rows: Rows = []
    spectra: dict[str, Callable[[Tensor], Spectrum]] = {
        "none": flat_spectrum,
        "periodic part (Moisan 2011)": lambda image: periodic_spectrum(image.double()),
        "taper": spectrum_of,
    }
    for name, spectrum in spectra.items():
        with unittest.mock.patch.object(half_sums, "spectrum_of", spectrum):
            compared = compare(measure_all(cases))
        rows.append({"window": name} | compared)
    return rows


def summary(rows: Rows) -> dict[str, Any]:
    """Count over sets and methods."""
    total = {
        key: sum(row[key] for row in rows)
        for key in ("sure_bands", "sure_and_right", "other_bands", "other_covered")
    }
    ratios = [row["snr_db"] for row in rows]
    errors = [abs(s["estimate"] - s["truth"]) for s in ratios if s["estimate"] is not None]
    covered = [
        s["interval"][0] <= s["truth"] <= (s["interval"][1] or math.inf)
        for s in ratios
        if s["interval"][0] is not None
    ]
    bands = [
        b
        for row in rows
        for b in row["bands"]
        if b["estimate"] is not None and b["standard_error"] is not None
    ]
    by_error = {}
    for low, high in itertools.pairwise((-1.0, 0.01, 0.02, 0.05, 0.1, 1.0)):
        inside_range = [b for b in bands if low < b["standard_error"] <= high]
        errors_there = [abs(b["estimate"] - b["truth"]) for b in inside_range]
        by_error[f"{max(low, 0)}-{high}"] = {
            "bands": len(inside_range),
            "largest_error": round(max(errors_there, default=0.0), 4),
            "rms_error": round(math.sqrt(statistics.fmean(e * e for e in errors_there or [0])), 4),
            "covered": sum(b["covered"] for b in inside_range),
        }
    return total | {
        "by_standard_error": by_error,
        "sets": len(rows),
        "snr_largest_error_db": round(max(errors), 3),
        "snr_median_error_db": round(statistics.median(errors), 3),
        "snr_defined": len(errors),
        "snr_covered": sum(covered),
    }


def cost(size: int) -> dict[str, Any]:
    """Time one micrograph of white noise."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, size, size, generator=generator)
    case = Images(images[0], images[1], images[2], None, images[3], PIXEL)
    half_sums.measure(case, 1024)
    start = time.perf_counter()
    half_sums.measure(case, 1024)
    return {"size": size, "threads": 2, "seconds": round(time.perf_counter() - start, 2)}


def draw(rows: Rows, path: Path) -> None:
    """Draw estimates with intervals, the truth, and what the naive FRC would say."""
    shown = [row for row in rows if row["method"] != "median" and row["dose_e_per_A2"] == DOSES[1]]
    figure = Figure(figsize=(11, 6))
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    order = sorted(shown, key=lambda row: row["method"] == "cheat")
    for axis, row in zip(axes.flat, order, strict=True):
        bands = [b for b in row["bands"] if b["estimate"] is not None]
        detail = [1 / b["to_angstrom"] for b in bands]
        low, high = zip(*(b["interval"] for b in bands), strict=True)
        values = [b["estimate"] for b in bands]
        axis.plot(detail, [b["naive"] for b in bands], color="0.6", ls=":", label="√FRC(De,Do)")
        axis.vlines(detail, low, high, color="#0072b2", lw=1.5, alpha=0.6)
        axis.plot(detail, values, "o", ms=4, color="#0072b2", label="card, 95 % interval")
        axis.plot(detail, [b["truth"] for b in bands], color="#d55e00", lw=1.5, label="truth")
        axis.set_title(f"{row['specimen']}, {row['method']}", fontsize=10)
        axis.set_ylim(-0.25, 1.02)
    for axis in axes[1]:
        axis.set_xlabel("spatial frequency, 1/Å")
    for axis in axes[:, 0]:
        axis.set_ylabel("correlation with the truth")
    axes[0, 0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 85})


def main() -> None:
    """Run all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/card.json"))
    parser.add_argument("--work", type=Path, default=Path("card-work"), help="for simulations")
    parser.add_argument("--size", type=int, default=512, help="of the micrographs, px")
    parser.add_argument("--micrographs", type=int, default=8)
    parser.add_argument("--large", type=int, default=4096, help="for the time, px")
    parser.add_argument("--picture", type=Path, help="JPEG of some of it")
    arguments = parser.parse_args()
    work, common = arguments.work, {"size": arguments.size, "micrographs": arguments.micrographs}
    specimens = {
        "barrel": "barrel",
        "3J9I": str(Path(os.environ["CLEARICE_TEST_DATA"]) / "3j9i.pdb.gz"),
        "fibre": str(write_fibre(work / "fibre.pdb")),
    }
    model = train_network(work)
    rows: Rows = []
    for name, specimen in specimens.items():
        for dose in DOSES:
            folder = work / f"{name}-{dose:g}"
            settings = common | {"specimen": specimen, "dose_e_per_A2": dose, "seed": 11}
            dataset = make_dataset(folder, **settings)
            rows += judge(dataset, model, specimen=name, dose_e_per_A2=dose)
    patterned: Rows = []
    for count in (8, 24):
        settings = {"size": arguments.size, "micrographs": count, "seed": 12, "gain_residual": 0.02}
        for fixed in (False, True):
            dataset = make_dataset(work / f"pattern-{count}", fix_pattern=fixed, **settings)
            labels = {"micrographs": count, "fix_pattern": fixed}
            patterned += judge(dataset, model, **labels)
    edges = windows(make_dataset(work / "barrel-53", **common, seed=11), model)
    honest = [row for row in patterned if row["fix_pattern"]]
    result = {
        "benchmark": "card",
        "context": context(CPU),
        "cost": cost(arguments.large),
        "summary": {"plain": summary(rows), "pattern_removed": summary(honest)},
        "sets": rows,
        "fixed_pattern": patterned,
        "windows": edges,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.picture:
        draw(rows, arguments.picture)
    # One line for each set and band.
    arguments.out.write_text(json.dumps(result).replace("}, {", "},\n{") + "\n")
    print(json.dumps(result["summary"], indent=1), result["cost"])


if __name__ == "__main__":
    main()
