"""What each choice in training buys for the same time on a GPU: simulated T20S, known truth.

Each variant differs from what the program trains by itself in one thing. First the real step of
each is timed on the idle GPU, graph and all; a training then takes as many steps as fit into
`--seconds`, however many trainings share the GPU. A stage is `screen` (all variants, one seed,
short) or `full` (the rivals, three seeds). The contrast is such that halves correlate at 0.03 to
0.06, as in real data. `CLEARICE_TEST_DATA` names the folder that holds `3j9i.pdb.gz`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

import topaz_recipe
from clearice import io, train
from clearice.benchmark.steps import noise_batch, timed, trainer
from clearice.benchmark.timing import WARM_UP, context
from clearice.config import CompareConfig, TrainConfig, load_config
from clearice.data import open_dataset
from clearice.errors import ConfigError, DatasetError
from clearice.workflows.compare.variants import variants_of
from comparisons import condense, done_cells, finish, start_comparison
from jobs import Job, run_jobs
from processes import measured_alone
from t20s import SPECIMEN, make_dataset, simulation

CONTRAST = 0.85
DEFAULT, CLEAN, TOPAZ = "default", "clean targets", "Topaz's recipe"
TOPAZ_SHAPE = "network topaz-unet"
_TIMED_STEPS = 60
_MOST_TIMING_SECONDS = 1.0


@dataclass(frozen=True)
class Variant:
    """What is changed.

    Attributes:
        settings: Of the training.
        groups: Frame groups of the data set.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    groups: int = 8


_NETWORKS = (
    *("cnn3", "cnn7", "cnn12", "cnn20", "rescnn12", "resnet8"),
    *("unet", "unet-large", "unet-deep", "unet-two", "unet-full"),
    *("unet-classic", "unet-classic-sum", "topaz-unet", "nafnet"),
    *("cnn3-bn", "cnn7-bn", "cnn12-bn", "cnn20-bn", "rescnn12-bn", "resnet8-bn"),
    *("unet-bn", "unet-classic-bn"),
)
_COARSE = {
    "coarse to fine 2-1, a third": [{"scale": 2, "share": 0.33}, {"scale": 1}],
    "coarse to fine 2-1, two thirds": [{"scale": 2, "share": 0.67}, {"scale": 1}],
}
_COARSER = [{"scale": 4, "share": 0.2}, {"scale": 2, "share": 0.3}, {"scale": 1}]
VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(),
    CLEAN: Variant({"target": "clean"}),
    **{f"network {name}": Variant({"network": name}) for name in _NETWORKS},
    "no augmentation": Variant({"augment": False}),
    "contrast jitter 0.1": Variant({"contrast_jitter": 0.1}),
    "dropout 0.1": Variant({"dropout": 0.1}),
    **{
        f"schedule {name}": Variant({"schedule": name})
        for name in ("constant", "one-cycle", "step", "plateau")
    },
    **{f"precision {name}": Variant({"precision": name}) for name in ("float32", "float16")},
    "no averaged weights": Variant({"ema_decay": 0.0}),
    **{name: Variant({"stages": stages}) for name, stages in _COARSE.items()},
    "16 × 256, coarse to fine 4-2-1": Variant(
        {"patch_size": 256, "batch_size": 16, "stages": _COARSER}
    ),
    "even and odd frames only": Variant(groups=2),
    **{
        f"smallest input {share}": Variant({"smallest_input": share})
        for share in (0.125, 0.5, 0.625, 0.875)
    },
    **{
        f"{n} × {size}": Variant({"patch_size": size, "batch_size": n})
        for n, size in ((8, 256), (16, 256), (4, 512), (8, 512), (1, 1024), (2, 1024))
    },
    **{
        f"learning rate {rate:g}": Variant({"learning_rate": rate})
        for rate in (3e-4, 5e-4, 2e-3, 4e-3)
    },
}
RIVALS = (DEFAULT, CLEAN, TOPAZ, TOPAZ_SHAPE)
# The least that tries everything.
_QUICK = {"network": "cnn3", "patch_size": 64, "batch_size": 2, "validations": 2}
_QUICK_CROP = 64
_QUICK_VARIANTS = (*RIVALS, "even and odd frames only", "coarse to fine 2-1, a third", "1 × 1024")


def base_settings(dataset: Path, device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Return what the program picks by itself, but for the steps and the seed."""
    given: dict[str, Any] = {"validations": 4, "samples": 0}
    config, _ = train.plan(open_dataset(dataset), device, {**given, **(_QUICK if quick else {})})
    values = config.model_dump(mode="json")
    return {key: value for key, value in values.items() if key not in {"steps", "seed"}}


def selected(
    given: argparse.Namespace, base: dict[str, Any]
) -> tuple[dict[str, Variant], dict[str, str]]:
    """Return the variants that patterns ask for; and those that cannot be trained, with the reason.

    Those that change nothing are left out.
    """
    chosen: dict[str, Variant] = {}
    refused: dict[str, str] = {}
    for name, variant in VARIANTS.items():
        settings = {**base, **variant.settings}
        same = settings == base and variant.groups == VARIANTS[DEFAULT].groups
        if not wanted(name, given) or (same and name != DEFAULT):
            continue
        try:
            config = TrainConfig.model_validate(settings)
            train.check(open_dataset(dataset_of(given, variant.groups)), config)
        except (ConfigError, DatasetError) as error:
            refused[name] = str(error)
        else:
            chosen[name] = variant
    return chosen, refused


def wanted(name: str, given: argparse.Namespace) -> bool:
    """Tell whether a variant is asked for."""
    return any(fnmatch(name, pattern) for pattern in given.variants)


def _step_key(settings: dict[str, Any]) -> str:
    """Name what the time of a step depends on."""
    keys = ("network", "precision", "patch_size", "batch_size", "dropout", "loss")
    return json.dumps([settings[key] for key in keys])


def time_steps(wanted: dict[str, dict[str, Any]], dataset: str | None, crop: int) -> dict[str, Any]:
    """Return the time of a step of each of some settings, s; and of Topaz's recipe on a data set.

    Args:
        wanted: Settings by name.
        dataset: Data set; None leaves the recipe out.
        crop: Of the recipe, px.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    times: dict[str, float] = {}
    for key, settings in wanted.items():
        config = TrainConfig.model_validate(settings)
        steps = trainer(config, noise_batch(device, config.patch_size, config.batch_size))
        times[key] = _timed(steps)
        del steps
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if dataset is not None:
        recipe = topaz_recipe.Recipe(open_dataset(Path(dataset)), device, 0, crop)
        times[TOPAZ] = _timed(timed(recipe.step, device))
    return times


def _timed(steps: Any) -> float:
    steps(WARM_UP)
    count = max(3, min(_TIMED_STEPS, int(_MOST_TIMING_SECONDS / steps(3))))
    return float(steps(count))


def step_times(
    given: argparse.Namespace, chosen: dict[str, dict[str, Any]], dataset: Path, *, topaz: bool
) -> dict[str, float]:
    """Time what was not timed before, and remember it: a comparison that goes on must not change.

    Args:
        given: Command line.
        chosen: All settings of each variant.
        dataset: Data set.
        topaz: Also time Topaz's recipe.

    Returns:
        Seconds by variant.
    """
    file = given.work / "step-times.json"
    known: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    keys = {name: _step_key(settings) for name, settings in chosen.items()}
    missing = {key: chosen[name] for name, key in keys.items() if key not in known}
    recipe = str(dataset) if topaz and TOPAZ not in known else None
    if missing or recipe:
        result = given.work / "timing.json"
        known |= measured_alone(time_steps, result, missing, recipe, given.crop)
        io.write_json(file, known)
    times = {name: known[key] for name, key in keys.items()}
    return times | ({TOPAZ: known[TOPAZ]} if topaz else {})


def steps_in(seconds: float, step_s: float, most: int | None) -> int:
    """Return how many steps fit into a time."""
    steps = max(1, round(seconds / step_s))
    return steps if most is None else min(steps, most)


def run_variants(
    given: argparse.Namespace,
    chosen: dict[str, Variant],
    base: dict[str, Any],
    steps: dict[str, int],
    limit: float | None,
) -> dict[str, Any]:
    """Train and score all variants; return their cells by variant, and what failed."""
    began, running, names = time.time(), {}, {}
    for groups in sorted({variant.groups for variant in chosen.values()}):
        same = {name: each for name, each in chosen.items() if each.groups == groups}
        also = [{**each.settings, "steps": steps[name]} for name, each in same.items()]
        grid = {"base": base, "also": also, "seeds": seeds_of(given)}
        out = given.work / f"{given.stage}-{groups}-groups"
        running[out] = start_comparison(dataset_of(given, groups), grid, out, given.jobs_per_device)
        names[out] = list(same)
    failures = finish(running, began, limit)
    cells: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for out, order in names.items():
        grid_file = out.with_suffix(".yaml")
        variants = variants_of(load_config(CompareConfig, grid_file, {}), str(grid_file))
        of_folder = {v.name: name for name, v in zip(order, variants, strict=True)}
        for path in done_cells(out):
            name = of_folder[path.parent.name.rsplit("-seed", 1)[0]]
            cells[name].append(condense(json.loads(path.read_text()), curves=given.curves))
    return {"cells": cells, "failures": [line for lines in failures.values() for line in lines]}


def seeds_of(given: argparse.Namespace) -> list[int]:
    """Return the seeds of each variant."""
    return list(range(given.first_seed, given.first_seed + given.seeds))


def dataset_of(given: argparse.Namespace, groups: int) -> Path:
    """Return the data set of so many frame groups, made once."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = f"dataset-{groups}"
    sizes = {"contrast": CONTRAST, "quick": given.quick, "groups": groups, "name": name}
    return make_dataset(given.work, device, **sizes)


def run_topaz(given: argparse.Namespace, dataset: Path, steps: int) -> list[dict[str, Any]]:
    """Train and score by Topaz's recipe, a process a GPU."""
    jobs: list[Job] = [
        {"name": f"topaz-{steps}-{seed}", "steps": steps, "seed": seed, "crop": given.crop}
        for seed in seeds_of(given)
    ]

    def work(job: Job, folder: Path) -> dict[str, Any]:
        truth = given.work / "simulated" / "truth"
        how = {key: job[key] for key in ("steps", "seed", "crop")}
        cell = topaz_recipe.train_and_score(dataset, truth, folder, **how)
        return {"job": job, "cell": condense(cell, curves=given.curves)}

    return [result["cell"] for result in run_jobs(jobs, work, given.work / "topaz")]


def summary(cells: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over seeds of each variant, the best first."""
    rows = []
    for name, same in cells.items():
        if not same:
            continue
        truth = [cell["full_dose"]["truth"] for cell in same]
        row: dict[str, Any] = {"variant": name, "seeds": len(same)}
        row |= _spread("snr_db", [each["snr_db"]["denoised"] for each in truth])
        row |= _spread("frc_8_4", [each["band_correlation"]["8-4"]["denoised"] for each in truth])
        row["seconds"] = round(statistics.fmean(cell["seconds"] for cell in same), 1)
        rows.append(row)
    return sorted(rows, key=lambda row: -row["snr_db"])


def _spread(name: str, values: list[float]) -> dict[str, float | None]:
    sd = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return {name: round(statistics.fmean(values), 4), f"{name}_sd": sd}


def gap(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return which share of the way from Topaz's recipe to clean targets the default goes, in dB.

    None where one of the three is missing; no share where clean targets are no better than Topaz's
    recipe.
    """
    by_name = {row["variant"]: row for row in rows}
    if not {DEFAULT, CLEAN, TOPAZ} <= set(by_name):
        return None
    default, clean, topaz = (by_name[name]["snr_db"] for name in (DEFAULT, CLEAN, TOPAZ))
    share = None if clean <= topaz else round((default - topaz) / (clean - topaz), 3)
    names = [name for name in RIVALS if name in by_name]
    return {
        "share_of_the_way_in_db": share,
        "default_minus_topaz_db": round(default - topaz, 4),
        "clean_minus_topaz_db": round(clean - topaz, 4),
        "frc_8_4": {name: by_name[name]["frc_8_4"] for name in names},
    }


def half_correlation(cells: dict[str, list[dict[str, Any]]]) -> float | None:
    """Return how raw halves correlate above 1/400 Å, which is the same for all cells."""
    halves = (cell["halves"] for same in cells.values() for cell in same if "halves" in cell)
    first = next(halves, None)  # networks of clean targets have none
    return None if first is None else float(first["reference"]["half_correlation"])


def join(files: list[Path], out: Path) -> None:
    """Write what several runs of one stage found as one: other variants, or other seeds of them.

    Raises:
        SystemExit: They differ in more.
    """
    parts = [json.loads(file.read_text()) for file in files]
    same = ("base", "simulation")
    if any(part[key] != parts[0][key] for part in parts for key in same):
        raise SystemExit("results of different settings cannot be joined")
    if len({part["setup"]["seconds"] for part in parts}) > 1:
        raise SystemExit("results of different times cannot be joined")
    cells: dict[str, list[dict[str, Any]]] = {}
    for name, found in ((name, found) for part in parts for name, found in part["cells"].items()):
        cells.setdefault(name, []).extend(found)
    rows = summary(cells)
    joined = {key: parts[0][key] for key in ("context", "setup", *same)}
    joined["setup"] = {**joined["setup"], "seeds": max(len(each) for each in cells.values())}
    joined["variants"] = {name: each for part in parts for name, each in part["variants"].items()}
    joined |= {"gap": gap(rows), "half_correlation": half_correlation(cells), "summary": rows}
    joined["failures"] = [line for part in parts for line in part["failures"]]
    joined["not_run"] = {name: why for part in parts for name, why in part["not_run"].items()}
    io.write_json(out, {**joined, "cells": cells})
    print(json.dumps({"summary": rows, "gap": joined["gap"]}, indent=1))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("training-work"))
    parser.add_argument("--stage", choices=["screen", "full"], default="screen")
    parser.add_argument("--seconds", type=float, help="of GPU time for each training")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", help="names or patterns, instead of the stage's")
    parser.add_argument("--settings", default="{}", help="base settings to change, as JSON")
    parser.add_argument("--jobs-per-device", type=int, help="trainings that share a GPU")
    parser.add_argument("--limit", type=float, help="seconds after which what is done is collected")
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    parser.add_argument("--join", type=Path, nargs="+", help="only join results of several GPUs")
    given = parser.parse_args()
    screen = given.stage == "screen"
    given.seconds = given.seconds or (12.0 if screen else 75.0)
    given.seeds = given.seeds or (1 if screen else 3)
    given.jobs_per_device = given.jobs_per_device or (4 if screen else 1)
    given.variants = given.variants or (["*"] if screen else list(RIVALS))
    if given.quick:
        given.variants = list(_QUICK_VARIANTS)
    given.curves = not screen
    given.most_steps = 4 if given.quick else None
    given.crop = _QUICK_CROP if given.quick else topaz_recipe.CROP
    return given


def main() -> None:
    """Make the data, time the steps, train, and collect what is done."""
    given = arguments()
    if given.join:
        join(given.join, given.out)
        return
    started = time.monotonic()
    limit = None if given.limit is None else started + given.limit
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = dataset_of(given, 8)
    base = base_settings(dataset, device, quick=given.quick) | json.loads(given.settings)
    chosen, refused = selected(given, base)
    topaz = wanted(TOPAZ, given)
    settings = {name: {**base, **variant.settings} for name, variant in chosen.items()}
    times = step_times(given, settings, dataset, topaz=topaz)
    steps = {name: steps_in(given.seconds, s, given.most_steps) for name, s in times.items()}
    cells: dict[str, list[dict[str, Any]]] = {}
    if topaz:
        cells[TOPAZ] = run_topaz(given, dataset, steps[TOPAZ])
    done = run_variants(given, chosen, base, steps, limit)
    cells |= done["cells"]
    rows = summary(cells)
    for row in rows:
        print(json.dumps(row))
    found = {"gap": gap(rows), "half_correlation": half_correlation(cells)}
    print(json.dumps(found))
    simulated = simulation(quick=given.quick, contrast=CONTRAST).model_dump()
    io.ensure_folder(given.out.parent)
    io.write_json(
        given.out,
        {
            "context": context(device),
            "setup": {key: getattr(given, key) for key in ("stage", "seconds", "seeds", "quick")},
            "base": base,
            "simulation": simulated | {"specimen": SPECIMEN},
            "wall_seconds": round(time.monotonic() - started),
            "variants": {
                name: {**asdict(VARIANTS.get(name, Variant())), "steps": steps[name]}
                | {"step_milliseconds": round(1e3 * times[name], 3)}
                for name in steps
            },
            **found,
            "summary": rows,
            "failures": done["failures"],
            "not_run": refused,
            "cells": cells,
        },
    )


if __name__ == "__main__":
    main()
