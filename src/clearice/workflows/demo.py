"""From nothing to denoised micrographs with proof: simulate → prepare → train → denoise →
evaluate → test for invention → card → trust → report.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clearice import denoise, evaluate, io, prepare, report, simulate, train
from clearice.config import PrepareConfig, SimulateConfig, TrainConfig
from clearice.data import Split
from clearice.errors import OutputError
from clearice.evaluate import trust
from clearice.train import TrainReport
from clearice.workflows import hallucinate

Bar = Callable[[str], AbstractContextManager[Callable[..., None]]]


@dataclass(frozen=True)
class DemoPlan:
    """What the demo does; the defaults take a few minutes on two cores.

    Pixels are twice the physical ones of EMPIAR-10025, at which simulated halves correlate as real
    ones do.
    """

    simulate: SimulateConfig = field(
        default_factory=lambda: SimulateConfig(micrographs=16, size=512, pixel_size_angstrom=2.63)
    )
    prepare: PrepareConfig = field(
        default_factory=lambda: PrepareConfig(
            validation_fraction=0.1, test_fraction=0.2, dose_e_per_A2=53.0
        )
    )
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            network="unet-small",
            steps=1000,
            batch_size=8,
            patch_size=128,
            learning_rate=2e-3,
            validations=12,
        )
    )


def run(
    out: Path,
    device: torch.device,
    bar: Bar,
    say: Callable[[str], None],
    plan: DemoPlan | None = None,
) -> dict[str, Any]:
    """Run the whole path.

    Args:
        out: Folder for everything: `simulated/`, `dataset/`, `run/`, `denoised/`, `scores.json`,
            `hallucination/`, `card.json`, `trust/`, `report.html`, `report.json`, `MODEL.md`.
        device: Where to compute.
        bar: Makes a progress bar from a label.
        say: Called with one line for each thing that the user should know.
        plan: What to do.

    Returns:
        What `scores.json` holds.

    Raises:
        OutputError: `out` holds an earlier demo, or cannot be written.
    """
    plan = plan or DemoPlan()
    if (out / "run").exists():
        raise OutputError(f"{out}: already holds a demo; choose another --out, or delete it")
    with bar("simulate") as update:
        movies = simulate.run(plan.simulate, out / "simulated", device, update)
    truth = out / "simulated" / "truth"
    with bar("prepare") as update:
        prepare.prepare_movies(movies, out / "dataset", plan.prepare, truth, progress=update)
    with bar("train") as update:
        trained = train.run(
            out / "dataset",
            out / "run",
            plan.train,
            device,
            report=_tell(update),
            tick=update,
            say=say,
        )
    denoiser = denoise.Denoiser(out / "run", device)
    results = out / "denoised"
    with bar("denoise") as update:
        denoise.denoise_dataset(
            out / "dataset",
            denoiser,
            results,
            Split.TEST,
            halves=True,
            progress=update,
            settings=denoise.describe_run(denoiser.recipe),
        )
    with bar("evaluate") as update:
        scores = _evaluate(results, truth, update)
    scores = {"training_seconds": trained.seconds, "device": str(device), **scores}
    io.write_json(out / "scores.json", scores)
    proofs = _prove(out, device, bar)
    report.render(
        [*proofs, out / "scores.json", out / "run", out / "dataset"],
        out / "report.html",
        "clearice demo",
        model_card=out / "MODEL.md",
    )
    return scores


def _prove(out: Path, device: torch.device, bar: Bar) -> list[Path]:
    """Ask without truth what is right and what is invented; return what a report is made from."""
    test, card, maps = out / "hallucination", out / "card.json", out / "trust"
    with bar("hallucinate") as update:
        hallucinate.run(out / "run", test, device, out / "dataset", update)
    word = test / hallucinate.JSON_NAME
    with bar("card") as update:
        found = evaluate.card(out / "denoised", hallucination=word, progress=update)
    io.write_json(card, found.values)
    with bar("trust") as update:
        trust.map_trust(out / "denoised", maps, update)
    return [card, maps, test]


def _tell(update: Callable[..., None]) -> Callable[[TrainReport], None]:
    def tell(progress: TrainReport) -> None:
        note = f"loss {progress.loss:.3f}, {progress.patches_per_second:.0f} patches/s"
        if progress.validation and progress.validation.snr_db is not None:
            note += f", validation SNR {progress.validation.snr_db:.2f} dB"
        update(progress.step, progress.total, note)

    return tell


def _evaluate(results: Path, truth: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Score the full-dose images against the truth, and the halves against each other."""
    full = evaluate.score(
        evaluate.match_cases(results / "denoised", results / "raw", truth=truth), progress
    )
    halves = evaluate.score(evaluate.match_halves(results), progress)
    return {
        "snr_db": full["truth"]["snr_db"],
        "half_correlation": halves["reference"]["half_correlation"],
        "full_dose": full.values,
        "halves": halves.values,
    }
