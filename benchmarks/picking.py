"""Are particles easier to find after denoising? One plain picker on simulated T20S proteasome.

Micrographs of a low dose are simulated (atoms of 3J9I), prepared, learnt from, and those that were
held out are denoised and picked. `CLEARICE_TEST_DATA` names the folder that holds `3j9i.pdb.gz`.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from clearice import denoise, evaluate, prepare, simulate, train
from clearice.benchmark.timing import context
from clearice.config import PrepareConfig, SimulateConfig, TrainConfig
from clearice.data import MANIFEST_NAME, Split
from clearice.devices import choose_device
from clearice.evaluate.picker import DogFilter, PickerSettings, find_peaks, inside
from clearice.fourier import gaussian_lowpass, gaussian_transfer, highpass
from clearice.io import read_coordinates, read_micrograph, write_json
from t20s import SPECIMEN

PIXEL_SIZE = 5.26  # four times the physical pixel of EMPIAR-10025: what pickers bin to
# Of the picker: from the width of a T20S proteasome to more than its length, 150 Å.
DIAMETERS = (120.0, 135.0, 150.0, 165.0)
PICTURE_DIAMETER = 150.0
PICTURE_SIGMA = 30.0  # of the best low-pass there, Å
PICTURE_NUMBER = 3  # of those held out: the gain there is near the median


def make_dataset(folder: Path, device: torch.device, arguments: argparse.Namespace) -> Path:
    """Simulate and prepare, once, and return the data set; 14 of 64 micrographs are held out."""
    out, simulated = folder / "dataset", folder / "simulated"
    if (out / MANIFEST_NAME).exists():
        return out
    config = simulation(arguments)
    movies = simulate.run(config, simulated, device)
    settings = PrepareConfig(
        groups=8,
        validation_fraction=0.05,
        test_fraction=0.22,
        dose_e_per_A2=config.dose_e_per_A2,
    )
    prepare.prepare_movies(movies, out, settings, simulated / "truth", device=device)
    shutil.rmtree(simulated / "movies")
    return out


def simulation(arguments: argparse.Namespace) -> SimulateConfig:
    """Return the session: EMPIAR-10025's optics, binned, at a low dose."""
    return SimulateConfig(
        specimen=str(Path(os.environ["CLEARICE_TEST_DATA"]) / SPECIMEN),
        micrographs=12 if arguments.quick else 64,
        size=256 if arguments.quick else 512,
        frames=8,
        seed=1,
        pixel_size_angstrom=PIXEL_SIZE,
        dose_e_per_A2=arguments.dose,
    )


def training(arguments: argparse.Namespace) -> TrainConfig:
    """Return how the network is trained."""
    return TrainConfig(
        network=arguments.network,
        steps=arguments.steps,
        batch_size=8,
        patch_size=128,
        precision=arguments.precision,
        validations=4,
    )


def denoised(
    folder: Path, dataset: Path, config: TrainConfig, device: torch.device
) -> tuple[Path, float]:
    """Train, once, and return the denoised held-out micrographs and the seconds of training."""
    run, results, clock = folder / "run", folder / "results", folder / "seconds.txt"
    if not clock.exists():
        shutil.rmtree(run, ignore_errors=True)
        clock.write_text(f"{train.run(dataset, run, config, device).seconds:.0f}")
    shutil.rmtree(results, ignore_errors=True)
    denoiser = denoise.Denoiser(run / "last.safetensors", device)
    denoise.denoise_dataset(dataset, denoiser, results, Split.TEST)
    return results, float(clock.read_text())


def picked(folder: Path, results: Path, diameter: float) -> dict[str, Any]:
    """Score the picks of one diameter, and those on the truth itself, without curves."""
    coordinates = folder / "simulated" / "particles.star"
    settings = evaluate.PickingSettings(diameter)
    cases = evaluate.match_cases(results / "denoised", results / "raw")
    truth = folder / "simulated" / "truth"
    bound = [evaluate.Case(truth / case.denoised.name, case.raw) for case in cases]
    scores = evaluate.score_picking(cases, coordinates, settings).values
    perfect = evaluate.score_picking(bound, coordinates, settings).values
    scores["methods"]["truth"] = perfect["methods"]["denoised"]
    for method in scores["methods"].values():
        del method["curve"]
    return scores


def draw(folder: Path, results: Path, out: Path) -> None:
    """Show one micrograph raw, low-passed and denoised, each with its best picks.

    There are as many picks as particles; circles found one, crosses did not.
    """
    picker = PickerSettings(PICTURE_DIAMETER)
    file = sorted((results / "raw").glob("*.mrc"))[PICTURE_NUMBER]
    images = {name: read_micrograph(results / name / file.name) for name in ("raw", "denoised")}
    raw, pixel_size = images["raw"].pixels, images["raw"].pixel_size_angstrom
    known = read_coordinates(folder / "simulated" / "particles.star", [file.stem])[file.stem]
    particles = torch.tensor(list(known.xy))
    diameter = PICTURE_DIAMETER / pixel_size
    count = int(inside(particles, raw.shape, picker.margin * diameter).sum())
    figure = Figure(figsize=(15, 5.3), layout="constrained")
    sigma = PICTURE_SIGMA / pixel_size
    room = math.ceil(4 * sigma)
    wide = torch.nn.functional.pad(raw[None, None], [room] * 4, mode="reflect")[0, 0]
    panels = {
        "raw": (raw, raw, None),
        f"low-pass, σ = {PICTURE_SIGMA:g} Å": (
            gaussian_lowpass(wide, sigma)[room:-room, room:-room],
            raw,
            partial(gaussian_transfer, sigma_px=sigma),
        ),
        "denoised": (images["denoised"].pixels, images["denoised"].pixels, None),
    }
    for axis, (name, panel) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        image, source, lowpass = panel
        response = DogFilter(source, pixel_size, picker).response(lowpass)
        best = find_peaks(response, pixel_size, picker).xy_px[:count]
        hit = torch.cdist(best, particles).amin(dim=1) <= 0.25 * diameter
        level = highpass(image, pixel_size / 1000)
        low, high = torch.quantile(level.flatten(), torch.tensor([0.003, 0.997])).tolist()
        axis.imshow(level.numpy(), cmap="gray", vmin=low, vmax=high)
        for which, style in ((hit, {"marker": "o", "s": 130, "facecolors": "none"}), (~hit, {})):
            colour = "#56b4e9" if style else "#e69f00"
            drawn = style | {"edgecolors": colour} if style else {"marker": "x", "color": colour}
            axis.scatter(*best[which].T.numpy(), linewidths=1.3, **drawn)
        axis.set_title(f"{name}: {int(hit.sum())} of {count} picks are particles", fontsize=11)
        axis.set_axis_off()
    figure.savefig(out, dpi=85, pil_kwargs={"quality": 75})


def main() -> None:
    """Run it, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("picking-work"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dose", type=float, default=10.0, help="e/Å²")
    parser.add_argument("--network", default="unet")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--picture", type=Path, help="JPEG to draw")
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    arguments.work.mkdir(parents=True, exist_ok=True)
    dataset = make_dataset(arguments.work, device, arguments)
    config = training(arguments)
    results, seconds = denoised(arguments.work, dataset, config, device)
    scores = {f"{d:g}": picked(arguments.work, results, d) for d in DIAMETERS}
    for diameter, score in scores.items():
        print(diameter, {k: round(m["average_precision"], 3) for k, m in score["methods"].items()})
        print(diameter, score["denoised_minus"])
    if arguments.picture:
        draw(arguments.work, results, arguments.picture)
    write_json(
        arguments.out,
        {
            "context": context(device),
            "simulation": simulation(arguments).model_dump() | {"specimen": SPECIMEN},
            "training": config.model_dump(mode="json") | {"seconds": seconds},
            "diameters": scores,
        },
    )


if __name__ == "__main__":
    main()
