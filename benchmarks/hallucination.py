"""Does the hallucination test tell a good model from one that was overfitted on purpose?

Both learn the same simulated specimen. The good one: eight micrographs of 512² px, eight frame
groups, orientations varied. The overfitted ones: a single micrograph of 256² px, even and odd
frames only, no augmentation, no weight decay, three times the steps, the last weights instead of
the best; once from noisy targets (they learn the noise of their targets by heart), once from clean
ones (they learn the particles by heart).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from clearice import io, prepare, simulate, train
from clearice.benchmark.timing import context
from clearice.config import PrepareConfig, SimulateConfig, TrainConfig
from clearice.data import MANIFEST_NAME
from clearice.workflows import hallucinate
from trust_sessions import PIXEL_SIZE, training

CPU = torch.device("cpu")
KINDS = ("good", "overfitted-noisy", "overfitted-clean")
SEEDS = (0, 1, 2)
_SPECIMEN_SEED = 8


def make_dataset(work: Path, kind: str, *, quick: bool) -> Path:
    """Simulate and prepare what a kind of model learns from, once."""
    good = kind == "good"
    folder = work / ("many" if good else "few")
    if (folder / "dataset" / MANIFEST_NAME).exists():
        return folder / "dataset"
    small = quick or not good
    config = SimulateConfig(
        micrographs=15 if good and not quick else 3,
        size=256 if small else 512,
        seed=_SPECIMEN_SEED,
        pixel_size_angstrom=PIXEL_SIZE,
        particle_fill=0.5,
    )
    movies = simulate.run(config, folder / "simulated", CPU)
    settings = PrepareConfig(
        groups=8 if good else 2,
        validation_fraction=0.1 if good and not quick else 0.34,
        test_fraction=0.34,
        dose_e_per_A2=53.0,
    )
    prepare.prepare_movies(movies, folder / "dataset", settings, folder / "simulated" / "truth")
    return folder / "dataset"


def settings(kind: str, seed: int, *, quick: bool) -> TrainConfig:
    """Return how a kind of model is trained."""
    base = training(seed, quick=quick)
    if kind == "good":
        return base
    return base.model_copy(
        update={
            "augment": False,
            "weight_decay": 0.0,
            "steps": 3 * (base.steps or 0),
            "target": "clean" if kind == "overfitted-clean" else "noisy",
        }
    )


def make_model(work: Path, kind: str, seed: int, *, quick: bool) -> Path:
    """Train a model, once, and return its file."""
    dataset = make_dataset(work, kind, quick=quick)
    run = work / f"{kind}-{seed}"
    name = "best.safetensors" if kind == "good" else "last.safetensors"
    if not (run / name).exists():
        train.run(dataset, run, settings(kind, seed, quick=quick), CPU)
    return run / name


def examine(work: Path, kind: str, seed: int, *, quick: bool) -> dict[str, Any]:
    """Give a model the hallucination test, on held-out micrographs of the many."""
    model = make_model(work, kind, seed, quick=quick)
    data = make_dataset(work, "good", quick=quick)
    found = hallucinate.run(model, work / "examined" / f"{kind}-{seed}", CPU, data)
    return {**found, "model": f"{kind}, seed {seed}", "measured_on": "held-out micrographs"}


def numbers(found: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of one examination under flat names."""
    flat = {name: found[name] for name in ("unsupported", "moves_along")}
    for probe, values in found["from_nothing"].items():
        flat |= {f"{probe}: {name}": value for name, value in values.items()}
    return flat


def spread_over_seeds(all_found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return mean, least and most of every number over the seeds."""
    rows = [numbers(found) for found in all_found]
    return {
        name: {
            "mean": statistics.mean(row[name] for row in rows),
            "least": min(row[name] for row in rows),
            "most": max(row[name] for row in rows),
        }
        for name in rows[0]
    }


def draw(work: Path, out: Path) -> None:
    """Put what the first model of each kind made of everything into one picture."""
    figure = Figure(figsize=(13, 8.4), layout="constrained")
    axes = figure.subplots(len(KINDS), 1)
    for axis, kind in zip(axes, KINDS, strict=True):
        picture = io.read_image(work / "examined" / f"{kind}-0" / hallucinate.PICTURE_NAME)
        axis.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=255, origin="lower")
        axis.set_ylabel(kind, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_title(
        "real micrograph  |  white noise  |  noise of the data  |  ice without particles  |  "
        "scrambled phases",
        fontsize=10,
    )
    figure.savefig(out, dpi=100, pil_kwargs={"quality": 82})


def main() -> None:
    """Train what is missing, examine, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/hallucination"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/hallucination.json"))
    parser.add_argument("--picture", type=Path, help="also draw docs/results/hallucination.jpg")
    parser.add_argument("--quick", action="store_true", help="to see that it runs")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**context(CPU), "kinds": {}}
    for kind in KINDS:
        found = [examine(arguments.work, kind, s, quick=arguments.quick) for s in SEEDS]
        result["kinds"][kind] = {
            "training": settings(kind, 0, quick=arguments.quick).model_dump(mode="json"),
            "passed": [one["passed"] for one in found],
            "over_seeds": spread_over_seeds(found),
            "models": found,
        }
        print(kind, result["kinds"][kind]["passed"], [one["failures"] for one in found])
    io.write_json(arguments.out, result)
    if arguments.picture is not None:
        draw(arguments.work, arguments.picture)


if __name__ == "__main__":
    main()
