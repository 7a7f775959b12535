"""Which losses help? Simulated T20S with noisy and with clean targets, and real apoferritin pairs.

Every study is one `clearice compare`; all run side by side: `t20s-noisy`, `t20s-clean`, and of
each fold N of real pairs `apoferritin-N` (the last weights) and `watched-N` (one of the six pairs
watches, and the weights that are best there are scored). A stage is `screen` (every loss alone
and combinations, one seed, short) or `full` (those worth it, three seeds, full length).
`CLEARICE_TEST_DATA` names the folder that holds `3j9i.pdb.gz` and `apoferritin/`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from clearice import io, prepare
from clearice.benchmark.timing import context
from clearice.config import PrepareConfig
from clearice.data import MANIFEST_NAME
from clearice.loss_spec import parse_loss
from comparisons import condense, done_cells, finish, start_comparison
from t20s import SPECIMEN, make_dataset, simulation

FOLDS = 4
STUDIES = ["t20s-noisy", "t20s-clean", "apoferritin-0"]
TWO_TARGETS = "debiased"
# Power alone is no picture: these stand beside mse even in the screen of single losses.
POWER_ALONE = [
    "power-debiased",
    "amplitude-debiased",
    "log-power-debiased",
    "gradient-magnitude-debiased",
]
SINGLE = [
    "mse",
    "l1",
    "charbonnier",
    "huber",
    "log-power",
    "amplitude",
    "complex",
    "fourier-l1",
    "whitened",
    "phase",
    "frc",
    "ncc",
    "ssim",
    "ms-ssim",
    "gradient-l2",
    "sobel-l1",
    "sobel-magnitude",
    "pyramid(mse)",
    "bandpass(mse)",
    "ssim-debiased",
    *(f"mse + 0.1 {name}" for name in POWER_ALONE),
]
COMBINATIONS = [
    "mse + 0.1 log-power",
    "mse + 0.05 frc",
    "mse + 0.3 frc",
    "mse + 3 frc",
    "mse + 10 frc",
    "mse + frc(high=0.35)",
    "mse + 3 frc(high=0.35)",
    "mse + 10 frc(high=0.35)",
    "mse + 3 frc(high=0.25)",
    "mse + 0.3 phase(high=0.35)",
    "0.2 mse + complex(power=0, high=0.35)",
    "0.2 mse + complex(power=0.5, high=0.35)",
    "0.2 mse + complex(power=0, high=0.35) + 3 frc(high=0.35)",
    "pyramid(mse) + 3 frc(high=0.35)",
    "mse + 0.02 gradient-l2",
    "mse + 0.1 ssim-debiased",
]
FULL = [
    "mse",
    *(f"{1 - w:g} mse + {w:g} log-power" for w in (0.05, 0.1, 0.2)),
    "mse + ncc",
    "mse + frc(resolution=5)",
    "mse + frc(resolution=4)",
    "mse + ncc + frc(resolution=5)",
    "mse + ncc + frc(resolution=4)",
]
BASE: dict[str, Any] = {
    "batch_size": 4,
    "patch_size": 512,
    "validations": 4,
    "allow_biased": True,
}


def make_apoferritin(work: Path, fold: int, *, watched: bool = False) -> Path:
    """Prepare the real pairs, once; a fold holds two of the eight out, and may watch a third."""
    out = work / f"{'watched' if watched else 'apoferritin'}-{fold}"
    if not (out / MANIFEST_NAME).exists():
        folder = Path(os.environ["CLEARICE_TEST_DATA"]) / "apoferritin"
        pairs = prepare.match_pairs(f"{folder}/*_frame.mrc", f"{folder}/*_rest.mrc")
        settings = PrepareConfig(validation_fraction=0.0, test_fraction=0.0)
        prepare.prepare_pairs(pairs, out, settings)
        manifest = json.loads((out / MANIFEST_NAME).read_text(encoding="utf-8"))
        entries = sorted(manifest["micrographs"], key=lambda entry: entry["name"])
        for entry in entries[fold::FOLDS]:
            entry["split"] = "test"
        if watched:
            entries[(fold + 1) % FOLDS]["split"] = "validation"
        io.write_json(out / MANIFEST_NAME, manifest)
    return out


def grid_of(
    study: str, steps: int, losses: list[str], networks: list[str], seeds: int
) -> dict[str, Any]:
    """Return what `clearice compare` is to train."""
    cuda = torch.cuda.is_available()
    base = {**BASE, "steps": steps, "precision": "bfloat16" if cuda else "float32"}
    if not cuda:
        base |= {"patch_size": 256}
        networks = ["cnn3"]
    if not study.startswith("t20s"):  # few data: see docs/results/apoferritin.md
        base |= {"dropout": 0.0 if not cuda else 0.2}
        losses = [loss for loss in losses if TWO_TARGETS not in loss]
    elif study == "t20s-clean":
        base |= {"target": "clean"}
        losses = [loss for loss in losses if TWO_TARGETS not in loss]
    watched = study.startswith("watched")
    base |= {"validations": 30} if watched else {}
    return {
        "base": base,
        "grid": {"loss": losses, "network": networks},
        "seeds": list(range(seeds)),
        "weights": "best" if watched else "last",
    }


def draw(cells: list[Path], losses: list[str], out: Path) -> None:
    """Draw crops of one held-out micrograph, plain at the truth's grey levels, 8–4 Å at its own."""
    folders = {}
    for record in cells:
        settings = json.loads(record.read_text())["settings"]
        name = next((loss for loss in losses if parse_loss(loss) == settings["loss"]), None)
        if settings["seed"] == 0 and name and (record.parent / "crops").is_dir():
            folders[name] = record.parent / "crops"
    if not folders:
        return
    first = next(iter(folders.values()))
    shown = [("truth", first, "truth"), ("raw", first, "raw")]
    shown += [(loss, folders[loss], "denoised") for loss in losses if loss in folders]
    shown = [each for each in shown if (each[1] / f"{each[2]}.mrc").exists()]
    figure = Figure(figsize=(2.6 * len(shown), 5.6), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    for row, suffix in enumerate(("", "-detail")):
        images = [io.read_micrograph(f / f"{r}{suffix}.mrc").pixels for _, f, r in shown]
        level = torch.quantile(images[0].flatten(), torch.tensor([0.005, 0.995])).tolist()
        for axis, image, (title, _, role) in zip(axes[row], images, shown, strict=True):
            own = torch.quantile(image.flatten(), torch.tensor([0.005, 0.995])).tolist()
            low, high = own if suffix or role == "raw" else level
            axis.imshow(image.numpy(), cmap="gray", vmin=low, vmax=high)
            axis.set_title(title if row == 0 else "8–4 Å", fontsize=8)
            axis.set_axis_off()
    figure.savefig(out, dpi=110, pil_kwargs={"quality": 80})


def line(cell: dict[str, Any]) -> str:
    """Return the scores of a cell in one line."""
    text = " + ".join(f"{w} {term}" for term, w in cell["loss"].items())
    out = f"{text} {cell['network']} s{cell['seed']} {cell['seconds']:.0f} s"
    for part in ("full_dose", "pairs"):
        for against in ("truth", "reference"):
            scores = cell.get(part, {}).get(against)
            if scores is None:
                continue
            if against == "truth":
                out += f" snr {scores['snr_db']['denoised']:.3f}"
            out += "".join(
                f" {band}:{row['denoised']:.3f}" for band, row in scores["band_correlation"].items()
            )
            transfer = scores.get("band_signal_transfer", {})
            out += " T " + " ".join(f"{t:.3f}" for t in list(transfer.values())[-3:] if t)
    return out


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("losses-work"))
    parser.add_argument("--stage", choices=["screen", "full"], default="screen")
    parser.add_argument("--studies", nargs="+", default=STUDIES)
    parser.add_argument("--losses", nargs="+", help="instead of those of the stage")
    parser.add_argument("--networks", nargs="+", default=["unet"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--jobs-per-device", type=int, nargs="+", default=[1], help="a study")
    parser.add_argument("--pictures", type=Path, help="folder for crops of each study")
    parser.add_argument("--limit", type=float, help="seconds after which what is done is collected")
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    given = parser.parse_args()
    screen = given.stage == "screen"
    given.steps = given.steps or (600 if screen else 3000)
    given.seeds = given.seeds or (1 if screen else 3)
    given.losses = given.losses or (SINGLE + COMBINATIONS if screen else FULL)
    return given


def start(given: argparse.Namespace, study: str, jobs: int) -> subprocess.Popen[bytes]:
    """Prepare the data of a study and start its comparison."""
    if study.startswith("t20s"):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dataset = make_dataset(given.work, device, quick=given.quick)
    else:
        kind, fold = study.split("-")
        dataset = make_apoferritin(given.work, int(fold), watched=kind == "watched")
    grid = grid_of(study, given.steps, given.losses, given.networks, given.seeds)
    return start_comparison(dataset, grid, given.work / f"{given.stage}-{study}", jobs)


def main() -> None:
    """Run the studies of one stage side by side, then collect what is done."""
    given = arguments()
    started, began = time.monotonic(), time.time()
    jobs = given.jobs_per_device * len(given.studies)
    folders = {study: given.work / f"{given.stage}-{study}" for study in given.studies}
    running = {
        folders[study]: start(given, study, several)
        for study, several in zip(given.studies, jobs, strict=False)
    }
    limit = None if given.limit is None else started + given.limit
    broken = finish(running, began, limit)
    failures = {study: broken[folder] for study, folder in folders.items()}
    results: dict[str, Any] = {}
    for study, folder in folders.items():
        cells = done_cells(folder)
        curves = given.stage == "full"
        if given.pictures:
            io.ensure_folder(given.pictures)
            out = given.pictures / f"losses-{study}.jpg"
            draw(cells, given.losses, out)
        results[study] = [condense(json.loads(c.read_text()), curves=curves) for c in cells]
        print(study, len(results[study]), "done,", len(failures[study]), "failed")
        for cell in results[study]:
            print("  ", line(cell))
    io.ensure_folder(given.out.parent)
    about = {
        "context": context(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "settings": {"base": BASE, "steps": given.steps, "seeds": given.seeds},
        "simulation": simulation(quick=given.quick).model_dump() | {"specimen": SPECIMEN},
        "seconds": round(time.monotonic() - started),
    }
    io.write_json(given.out, {**about, "failures": failures, "studies": results})


if __name__ == "__main__":
    main()
