"""Models that never saw it on real apoferritin (EMPIAR-10146): one frame in, scored by the others.

`CLEARICE_TEST_DATA` names the folder that holds `apoferritin/`. Further methods are folders of
files that another program made of the frames, under the same names.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from apoferritin import pairs
from clearice import denoise, evaluate, io
from clearice.benchmark.timing import context
from clearice.devices import choose_device


def scored(files: list[Path]) -> dict[str, Any]:
    """Score denoised frames by the mean of the other frames."""
    rows = []
    for path, pair in zip(files, pairs(), strict=True):
        values = evaluate.score([evaluate.Case(path, pair.first, pair.second)]).values
        rows.append(values["reference"]["band_correlation"])
    means = {
        band: {
            name: round(statistics.fmean(r[band][name] for r in rows), 4) for name in rows[0][band]
        }
        for band in rows[0]
    }
    return {"bands": means, "micrographs": rows}


def main() -> None:
    """Denoise, score and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("zero-shot-work"))
    parser.add_argument("--models", nargs="+", default=["general", "general-small"])
    parser.add_argument("--denoised", nargs="*", default=[], help="NAME=FOLDER of other programs")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = choose_device(given.device)
    frames = [pair.first for pair in pairs()]
    found: dict[str, Any] = {}
    for model in given.models:
        denoiser = denoise.Denoiser(Path(model), device)
        results = denoise.denoise_files(frames, denoiser, given.work / Path(model).stem, say=print)
        records = denoise.read_records(given.work / Path(model).stem).values()
        found[model] = scored(results) | {"out_of_depth": [r.out_of_depth for r in records]}
    for text in given.denoised:
        name, _, folder = text.partition("=")
        found[name] = scored([Path(folder) / frame.name for frame in frames])
    for name, values in found.items():
        print(name, json.dumps(values["bands"]["300-15"]))
    io.write_json(given.out, {"context": context(device), "methods": found})


if __name__ == "__main__":
    main()
