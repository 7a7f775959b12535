"""How right is the fit of Thon rings on the quality sets, and what does denoising do to it?

The fit to raw micrographs, to their noise-free truth and, with a model, to denoised ones, beside
the defocus that they were simulated with. `CLEARICE_TEST_DATA` names the folder that holds
`3j9i.pdb.gz`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from clearice.benchmark import quality
from clearice.benchmark.timing import context
from clearice.denoise import Denoiser
from clearice.evaluate import Optics
from clearice.evaluate.thon import fit_ctf, ring_power, visibility
from clearice.io import write_json

CPU = torch.device("cpu")


def measure(kind: quality.QualitySet, denoiser: Denoiser | None) -> list[dict[str, Any]]:
    """Fit every micrograph of a set, in each version."""
    config = kind.config("test")
    optics = Optics(config.voltage_kv, config.spherical_aberration_mm, config.amplitude_contrast)
    rows = []
    for sample in quality.samples(kind):
        images = {"raw": sample.raw, "truth": sample.truth}
        if denoiser is not None:
            images["denoised"] = denoiser(sample.raw)
        row: dict[str, Any] = {"micrograph": sample.name, "defocus": sample.defocus_angstrom}
        for name, image in images.items():
            rings = ring_power(image, sample.pixel_size_angstrom)
            fit = fit_ctf(rings, optics)
            bands = visibility(rings, optics, sample.defocus_angstrom)
            row[name] = asdict(fit) | {
                "found": fit.found,
                "error": abs(fit.defocus_angstrom - sample.defocus_angstrom),
                "bands": {f"{a:g}-{b:g}": asdict(seen) for (a, b), seen in bands.items()},
            }
        rows.append(row)
    return rows


def summary(rows: Sequence[dict[str, Any]], version: str) -> dict[str, Any]:
    """Return how many have rings, and the errors of their defocus, Å."""
    found = [row[version]["error"] for row in rows if version in row and row[version]["found"]]
    return {
        "micrographs": sum(version in row for row in rows),
        "found": len(found),
        "median_error": statistics.median(found) if found else None,
        "largest_error": max(found, default=None),
    }


def main() -> None:
    """Run it, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="also fit what it makes of --denoise")
    parser.add_argument("--denoise", nargs="+", default=["t20s"], help="sets")
    arguments = parser.parse_args()
    denoiser = None if arguments.model is None else Denoiser(arguments.model, CPU)
    rows: list[dict[str, Any]] = []
    told: dict[str, Any] = {}
    for kind in quality.choose_sets():
        mine = measure(kind, denoiser if kind.name in arguments.denoise else None)
        told[kind.name] = {v: summary(mine, v) for v in ("raw", "truth", "denoised")}
        print(kind.name, told[kind.name], flush=True)
        rows += mine
    told["all"] = {version: summary(rows, version) for version in ("raw", "truth", "denoised")}
    print("all", told["all"])
    write_json(arguments.out, {"context": context(CPU), "summary": told, "micrographs": rows})


if __name__ == "__main__":
    main()
