"""The command line: parse, call one function, print. Heavy imports stand inside the commands."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

from cyclopts import App, CycloptsError, Parameter, validators

from clearice import __version__
from clearice.errors import (
    BatchError,
    ClearIceError,
    ClearIceWarning,
    ConfigError,
    DatasetError,
)

if TYPE_CHECKING:
    from clearice.train import Place, TrainReport, TrainResult

app = App(
    name="clearice",
    help="Denoise cryo-EM micrographs with Noise2Noise, and measure what is real in the result.",
    version=__version__,
    help_format="plaintext",  # elsewhere the patterns in examples would be taken for markup
)

Out = Annotated[Path, Parameter(name=["--out", "-o"])]
Device = Annotated[str, Parameter(name="--device")]
Json = Annotated[bool, Parameter(name="--json", negative="")]
Cache = Literal["auto", "gpu", "ram", "stream"]
Precision = Literal["float32", "bfloat16"]
Preset = Literal["fast", "balanced", "best", "8gb"]  # as config.Preset, which takes long to import


@app.command
def demo(
    *, out: Out = Path("clearice-demo"), device: Device = "auto", steps: int | None = None
) -> None:
    """Simulate, prepare, train, denoise, evaluate, prove and report, with nothing to download.

    Example: clearice demo --out demo

    Args:
        out: Folder for the data, the model, the results and `report.html`.
        device: auto, cpu, cuda, cuda:N or mps.
        steps: Training steps (default: a few minutes on two cores).
    """
    from dataclasses import replace

    from clearice.config import TrainConfig, validate_config
    from clearice.console import progress_bar, say
    from clearice.workflows.demo import DemoPlan, run

    plan = DemoPlan()
    if steps is not None:
        values = {**plan.train.model_dump(), "steps": steps}
        plan = replace(plan, train=validate_config(TrainConfig, values, "options"))
    scores = run(out, _device(device), progress_bar, say, plan)
    _print_table(
        f"SNR against the truth, dB (raw halves correlate at {scores['half_correlation']:.3f}; "
        f"trained {scores['training_seconds']:.0f} s)",
        scores["snr_db"],
    )
    print(f"report: {out / 'report.html'}")


@app.command
def simulate(
    *,
    out: Out,
    config: Path | None = None,
    specimen: str | None = None,
    micrographs: int | None = None,
    size: int | None = None,
    frames: int | None = None,
    seed: int | None = None,
    pixel_size: float | None = None,
    dose: float | None = None,
    contrast: float | None = None,
    drift: float | None = None,
    damage: Annotated[bool | None, Parameter(negative="")] = None,
    gain_residual: float | None = None,
    hot_pixels: float | None = None,
    device: Device = "auto",
) -> None:
    """Simulate movies whose noise-free signal is known.

    Example: clearice simulate --out sim --micrographs 20 --size 1024

    Args:
        out: Folder for movies/, truth/, particles.star and simulation.json.
        config: YAML file with any of the settings; options given here take precedence.
        specimen: `barrel`, or a PDB/mmCIF file.
        micrographs: How many.
        size: Edge of a micrograph, px.
        frames: Frames in a movie.
        seed: Seed of everything random.
        pixel_size: Å/px.
        dose: Total dose, e/Å².
        contrast: Empirical factor on the phase shift.
        drift: Total drift over a movie, Å.
        damage: Let the signal fade with exposure.
        gain_residual: Standard deviation of the uncorrected pixel gain.
        hot_pixels: Hot pixels a million.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from clearice import simulate as room
    from clearice.config import SimulateConfig, load_config
    from clearice.console import progress_bar

    overrides = {
        "specimen": specimen,
        "micrographs": micrographs,
        "size": size,
        "frames": frames,
        "seed": seed,
        "pixel_size_angstrom": pixel_size,
        "dose_e_per_A2": dose,
        "contrast": contrast,
        "drift_angstrom": drift,
        "radiation_damage": damage,
        "gain_residual": gain_residual,
        "hot_pixels_per_million": hot_pixels,
    }
    settings = load_config(SimulateConfig, config, overrides)
    with progress_bar("simulate") as update:
        movies = room.run(settings, out, _device(device), update)
    print(f"{len(movies)} movies in {out / 'movies'}")


@app.command
def prepare(
    *inputs: Path,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    pairs: Annotated[tuple[str, str] | None, Parameter(negative="")] = None,
    single: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    config: Path | None = None,
    groups: int | None = None,
    align: Literal["none", "global"] | None = None,
    gain: Path | None = None,
    gain_mode: Literal["auto", "multiply", "divide"] | None = None,
    gain_rotation: int | None = None,
    gain_flip: int | None = None,
    defects: Path | None = None,
    hot_pixels: bool | None = None,
    frames_per_fraction: int | None = None,
    upsampling: int | None = None,
    dose_weight: Annotated[bool | None, Parameter(negative="")] = None,
    fix_pattern: Annotated[bool | None, Parameter(negative="")] = None,
    truth: Path | None = None,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
    dose_ratio: float | None = None,
    dose: float | None = None,
    voltage: float | None = None,
    pixel_size: float | None = None,
    sample_size: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 1024,
    seed: int | None = None,
    workers: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    device: Device = "auto",
) -> None:
    """Make a data set from movies, or from ready half-sets.

    Example: clearice prepare movies/*.tiff --gain gain.mrc --align global --out dataset
    Example: clearice prepare MotionCorr/job002 --dry-run
    Example: clearice prepare --pairs 'halves/*_ODD.mrc' 'halves/*_EVN.mrc' --out dataset
    Example: clearice prepare --single micrographs --out dataset

    Args:
        inputs: Movies, folders of movies or half-sets, STAR or .cs lists, or one older flat
            training set (a folder of .bin files).
        out: Folder of the data set.
        pairs: Two quoted patterns whose wildcards match the same names.
        single: The inputs are micrographs without halves, to be trained on with --target masked.
        dry_run: Show what is found and why, and write nothing.
        config: YAML file with any of the settings; options given here take precedence.
        groups: Frame groups kept of each movie; 2 is even/odd.
        align: Whole-frame motion of movies.
        gain: Gain reference of the movies.
        gain_mode: How it is applied; auto multiplies, but divides EER by all but .gain files.
        gain_rotation: Quarter turns, as MotionCor's -RotGain.
        gain_flip: 1 upside down, 2 left-right, as MotionCor's -FlipGain.
        defects: Defect list (text) or map (MRC, TIFF).
        hot_pixels: Replace pixels of movies that stand out from their neighbours.
        frames_per_fraction: Raw EER frames summed into one (default: about 40 fractions).
        upsampling: Of EER: 2 renders half of the physical pixel.
        dose_weight: Weigh frames by exposure.
        fix_pattern: Remove what the detector adds to every image of the session.
        truth: Folder of noise-free images of the same names (simulations).
        validation_fraction: Share of the micrographs to watch training with.
        test_fraction: Share of the micrographs to keep for evaluation.
        dose_ratio: Dose of the second pattern over that of the first (default: look).
        dose: Total dose, e/Å².
        voltage: Acceleration voltage, kV, for --dose-weight.
        pixel_size: Å/px; overrides the headers.
        sample_size: Edge of the samples of a flat training set, px.
        seed: Seed of the random split by micrograph.
        workers: Micrographs made at a time (default: by processors and memory).
        device: Where movies are corrected and aligned: auto, cpu, cuda, cuda:N or mps.
    """
    from clearice import prepare as room
    from clearice.config import PrepareConfig, load_config
    from clearice.console import progress_bar, say

    overrides = {
        "groups": groups,
        "align": align,
        "gain": gain,
        "gain_mode": gain_mode,
        "gain_rotation": gain_rotation,
        "gain_flip": gain_flip,
        "defects": defects,
        "hot_pixels": hot_pixels,
        "frames_per_fraction": frames_per_fraction,
        "upsampling": upsampling,
        "dose_weight": dose_weight,
        "fix_pattern": fix_pattern,
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
        "dose_ratio": dose_ratio,
        "dose_e_per_A2": dose,
        "voltage_kv": voltage,
        "pixel_size_angstrom": pixel_size,
        "seed": seed,
    }
    settings = load_config(PrepareConfig, config, overrides)
    if bool(inputs) == (pairs is not None):
        raise ConfigError("give either movies, halves or lists, or --pairs 'FIRST*' 'SECOND*'")
    if single and pairs:
        raise ConfigError("give --single or --pairs, not both")
    flat = len(inputs) == 1 and not single and room.is_flat(inputs[0])
    find = room.find_single if single else room.find_inputs
    found = None if flat else room.find_pairs(*pairs) if pairs else find(inputs)
    if dry_run:
        print(room.format_discovery(found) if found else room.describe_flat(inputs[0], sample_size))
        return
    if flat and truth is not None:
        raise ConfigError("--truth is not for flat training sets")
    if out is None:
        raise ConfigError("--out is missing: name a folder for the data set, or use --dry-run")
    with progress_bar("prepare") as update:
        if found is None:
            manifest = room.convert_flat(inputs[0], out, settings, update, sample_size, say)
        else:
            manifest = room.prepare_inputs(
                found,
                out,
                settings,
                truth,
                device=_device(device),
                workers=workers,
                progress=update,
                say=say,
            )
    counts = {s: sum(e.split.value == s for e in manifest.micrographs) for s in _SPLITS}
    print(f"{out}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))


_SPLITS = ("train", "validation", "test")


@app.command
def train(
    dataset: Path,
    /,
    *,
    out: Out,
    config: Path | None = None,
    preset: Preset | None = None,
    start: Annotated[str | None, Parameter(name="--from")] = None,
    network: str | None = None,
    loss: str | None = None,
    fourier_weight: Annotated[
        float | None, Parameter(name=["--fourier-weight", "--fourier_weight"])
    ] = None,
    allow_biased: Annotated[bool | None, Parameter(negative="")] = None,
    balance: Annotated[bool | None, Parameter(negative="")] = None,
    log_gradients: Annotated[bool | None, Parameter(negative="")] = None,
    target: Literal["noisy", "clean", "masked"] | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    patch_size: int | None = None,
    learning_rate: float | None = None,
    dropout: float | None = None,
    cache: Cache | None = None,
    stream: Annotated[bool, Parameter(negative="")] = False,
    workers: int | None = None,
    precision: Precision | Literal["float16"] | None = None,
    schedule: Literal["constant", "cosine", "one-cycle", "step", "plateau"] | None = None,
    accumulate: int | None = None,
    recompute_activations: Annotated[bool | None, Parameter(negative="")] = None,
    stop_after: int | None = None,
    keep: int | None = None,
    samples: int | None = None,
    tensorboard: Annotated[bool | None, Parameter(negative="")] = None,
    compile: bool | None = None,  # noqa: A002  (the option's name)
    cuda_graph: bool | None = None,
    seed: int | None = None,
    device: Device = "auto",
    resume: bool = False,
) -> None:
    """Train a network on a data set.

    Example: clearice train dataset --out run --network unet --epochs 100

    Args:
        dataset: Folder made by `clearice prepare`.
        out: Folder for the model, `config.yaml` and `metrics.jsonl`.
        config: YAML file with any of the settings; options given here take precedence.
        preset: How much to spend: settings that are not given are picked from it, the data and
            the device, and printed with the reason (default: by the device).
        start: Go on from the weights of a model, in a quarter of the steps: general, general-small,
            a run's folder or a model file.
        network: A name that `clearice networks` lists.
        loss: For instance 'mse + 0.05 frc + 0->0.02@0-0.5 gradient-l2'.
        fourier_weight: w gives (1−w)·MSE + w·log-power.
        allow_biased: Train with a loss that noise in the target biases.
        balance: Weights are shares of the first loss's gradient instead of factors.
        log_gradients: Report the norm of each loss's gradient at each validation.
        target: noisy (Noise2Noise), clean (needs truth), or masked (no halves: Noise2Void).
        epochs: Passes over the data.
        steps: Optimiser steps; overrides epochs.
        batch_size: Patches in a step.
        patch_size: Edge of a patch, px.
        learning_rate: Peak of the schedule.
        dropout: Share of channels dropped while training; 0.2 helps where data are few.
        cache: Where the data are held; auto takes the fastest that fits.
        stream: The same as --cache stream.
        workers: Threads that read patches.
        precision: Of the network.
        schedule: Of the learning rate.
        accumulate: Pieces in which each batch is worked on, to save memory.
        recompute_activations: Compute activations twice instead of keeping them, to save memory.
        stop_after: Validations without a higher held-out correlation that end the run.
        keep: Numbered checkpoints kept beside the last and the best.
        samples: Most held-out patches in the picture of each validation.
        tensorboard: Write scalars and pictures for TensorBoard (an extra package).
        compile: Use torch.compile.
        cuda_graph: On CUDA, replay the step as one graph.
        seed: Seed of weights and samples.
        device: auto, cpu, cuda, cuda:N or mps.
        resume: Go on with the run in --out, with the same settings.
    """
    from clearice import train as room
    from clearice.config import TrainConfig, fourier_weighted_loss, load_config, read_settings
    from clearice.console import say
    from clearice.data import open_dataset
    from clearice.loss_spec import parse_loss

    if stream and cache not in {None, "stream"}:
        raise ConfigError(f"give --stream or --cache {cache}, not both")
    if loss is not None and fourier_weight is not None:
        raise ConfigError("give --loss or --fourier-weight, not both")
    weights = parse_loss(loss) if loss is not None else None
    if fourier_weight is not None:
        weights = fourier_weighted_loss(fourier_weight)
    overrides = {
        "start": start,
        "network": network,
        "loss": weights,
        "allow_biased": allow_biased,
        "balance": balance,
        "log_gradients": log_gradients,
        "target": target,
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "patch_size": patch_size,
        "learning_rate": learning_rate,
        "dropout": dropout,
        "cache": "stream" if stream else cache,
        "workers": workers,
        "precision": precision,
        "schedule": schedule,
        "accumulate": accumulate,
        "recompute_activations": recompute_activations,
        "stop_after": stop_after,
        "keep": keep,
        "samples": samples,
        "tensorboard": tensorboard,
        "compile": compile,
        "cuda_graph": cuda_graph,
        "seed": seed,
    }
    given = read_settings(config, overrides)
    here = room.find_place()
    chosen = _device(here.device_name(device), quiet=not here.first)
    if (stored := _stored_settings(out, resume)) is not None:
        values = load_config(TrainConfig, stored, given)
    else:
        data = open_dataset(dataset)
        where = str(config or "options")
        values, reasons = room.plan(data, chosen, given, preset, processes=here.size, where=where)
        for reason in reasons if here.first else ():
            say(reason)
    result = _trained("train", partial(room.run, dataset, out, values, chosen), here, resume)
    if here.first:
        print(f"{result.model}: {result.steps} steps in {result.seconds:.0f} s")


@app.command
def pretrain(
    *,
    out: Out,
    config: Path | None = None,
    start: Annotated[str | None, Parameter(name="--from")] = None,
    network: str | None = None,
    loss: str | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    patch_size: int | None = None,
    learning_rate: float | None = None,
    schedule: Literal["constant", "cosine"] | None = None,
    precision: Precision | None = None,
    complexes: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 256,
    specimen: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    pack: Path | None = None,
    keep: int | None = None,
    seed: int | None = None,
    device: Device = "auto",
    resume: bool = False,
) -> None:
    """Train a general model on micrographs of all kinds, simulated while it learns.

    Example: clearice pretrain --out general --steps 20000

    Args:
        out: Folder for the model, `config.yaml` and `metrics.jsonl`.
        config: YAML file with any of the settings of `train`; options given here take precedence.
        start: Go on from the weights of a model: general, general-small, a run's folder or a file.
        network: A name that `clearice networks` lists (default: unet-large).
        loss: For instance 'mse + 0.1 frc'; frequencies are counted in cycles/px.
        steps: Optimiser steps (default: 20,000).
        batch_size: Micrographs in a step (default: 16).
        patch_size: Their edge, px (default: 512).
        learning_rate: Peak of the schedule.
        schedule: Of the learning rate.
        precision: Of the network.
        complexes: Procedural complexes to draw particles from.
        specimen: PDB or mmCIF files of further ones.
        pack: Also write the model to this file in half the bytes, its weights in float16.
        keep: Numbered checkpoints kept beside the last and the best.
        seed: Seed of weights, complexes and micrographs.
        device: auto, cpu, cuda, cuda:N or mps.
        resume: Go on with the run in --out, with the same settings.
    """
    from clearice import checkpoint
    from clearice import train as room
    from clearice.console import say
    from clearice.workflows.pretrain import measure_depth, plan_general

    here = room.find_place()
    chosen = _device(here.device_name(device), quiet=not here.first)
    given = {
        "start": start,
        "network": network,
        "loss": loss,
        "steps": steps,
        "batch_size": batch_size,
        "patch_size": patch_size,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "precision": precision,
        "keep": keep,
        "seed": seed,
    }
    values, world = plan_general(given, config, complexes, specimen, chosen)
    work = partial(room.run_general, out, values, chosen, world)
    result = _trained("pretrain", work, here, resume)
    if here.first:
        say("measuring what the model knows")
        measure_depth(result.model, chosen, world)
        if pack is not None:
            checkpoint.pack(result.model, pack)
        print(f"{result.model}: {result.steps} steps in {result.seconds:.0f} s")


def _trained(
    label: str, work: Callable[..., TrainResult], here: Place, resume: bool
) -> TrainResult:
    """Train with a progress bar, which only the first process draws."""
    from clearice.console import progress_bar, say

    with progress_bar(label, quiet=not here.first) as update:
        return work(
            resume=resume,
            here=here,
            report=lambda progress: update(progress.step, progress.total, _note(progress)),
            tick=update,
            say=say,
        )


def _stored_settings(out: Path, resume: bool) -> Path | None:
    """Return the configuration of the run in `out`, so that --resume needs no other option."""
    from clearice.train import CONFIG_NAME

    stored = out / CONFIG_NAME
    return stored if resume and stored.is_file() else None


def _note(progress: TrainReport) -> str:
    parts = ", ".join(f"{name} {value:.4g}" for name, value in progress.parts.items())
    note = f"{parts}, {progress.patches_per_second:.0f} patches/s"
    if progress.device_memory_bytes is not None:
        note += f", {progress.device_memory_bytes / 2**30:.1f} GiB"
    if progress.validation is not None:
        note += f", validation mse {progress.validation.mse:.5g}"
        if progress.validation.correlation is not None:
            note += f", correlation {progress.validation.correlation:.3f}"
    if progress.skipped:
        note += f", {progress.skipped} steps left out (no finite gradient)"
    return note


@app.command
def denoise(
    *inputs: Path,
    model: Path | None = None,
    out: Out,
    pairs: Annotated[tuple[str, str] | None, Parameter(negative="")] = None,
    movies: Annotated[bool, Parameter(negative="")] = False,
    gain: Path | None = None,
    align: Literal["none", "global"] = "none",
    device: Device = "auto",
    tile: int | None = None,
    precision: Precision = "float32",
    tta: Annotated[bool, Parameter(negative="")] = False,
    pixel_size: float | None = None,
    dose: float | None = None,
    format: Literal["mrc", "tiff"] = "mrc",  # noqa: A002  (the option's name)
    dtype: Literal["float32", "float16", "int16"] = "float32",
    previews: Annotated[bool, Parameter(negative="")] = False,
    force: Annotated[bool, Parameter(negative="")] = False,
    split: Literal["train", "validation", "test"] | None = None,
    halves: bool = False,
    restore_amplitude: bool = False,
) -> None:
    """Denoise micrographs, keeping names, headers and intensity scale.

    Example: clearice denoise micrographs/*.mrc --out denoised
    Example: clearice denoise micrographs/*.mrc --model run --out denoised
    Example: clearice denoise --pairs 'halves/*_ODD.mrc' 'halves/*_EVN.mrc' --model run --out check
    Example: clearice denoise --movies movies/*.tif --gain gain.mrc --model run --out denoised

    Args:
        inputs: Micrographs, folders of them, one STAR list of them, or one data set.
        model: A run's folder, a model file, general or general-small (default: general, or
            general-small on a CPU).
        out: Folder for the results.
        pairs: Two quoted patterns of halves, whose mean and each of which are denoised.
        movies: Inputs are movies, whose frames are added up first, into OUT/dataset.
        gain: Of movies: gain reference still to be applied.
        align: Of movies: whole-frame motion: left, or found and corrected.
        device: auto, cpu, cuda, cuda:N or mps; several, such as cuda:0,cuda:1, or all GPUs: all.
        tile: Edge of a tile, px; 0 is the whole image (default: as memory allows).
        precision: Of the network.
        tta: Average over the eight ways to turn and mirror each image; takes eight times as long.
        pixel_size: Å/px; overrides lists and headers.
        dose: Of each micrograph, e/Å², to be told if it is far from the model's.
        format: Of the results of micrographs.
        dtype: Of the pixels of MRC results; never rescaled.
        previews: Also write pictures, into previews/.
        force: Do again what is done already.
        split: Of a data set: which micrographs (default: test).
        halves: Of a data set or movies: also denoise the even and odd halves, for evaluation.
        restore_amplitude: Raise what was damped to the power of the signal, as the model's
            calibration says.
    """
    from clearice import denoise as room
    from clearice.console import progress_bar, say
    from clearice.data import Split
    from clearice.workflows.movies import denoise_movies

    options = room.OutputOptions(format, dtype, previews)
    kind = _denoise_kind(inputs, pairs, movies=movies)
    _refuse_options(
        kind,
        {
            "--format": format != "mrc",
            "--dtype": dtype != "float32",
            "--previews": previews,
            "--gain": gain is not None,
            "--align": align != "none",
            "--split": split is not None,
            "--halves": halves,
            "--pixel-size": pixel_size is not None,
            "--dose": dose is not None,
        },
    )
    named = [] if pairs is None else _named_pairs(*pairs)
    devices = _devices(device)
    recipe = room.Recipe(model or _general(devices[0]), tile, precision, restore_amplitude, tta)
    denoiser = recipe.on(devices[0])
    if denoiser.caveat is not None:
        say(f"warning: {denoiser.caveat}")
    settings = room.describe_run(recipe)
    how: dict[str, Any] = {"settings": settings, "devices": devices[1:], "force": force}
    if kind == "movies":
        known = {"pixel_size_angstrom": pixel_size, "dose_e_per_A2": dose}
        corrections = {"gain": gain, "align": align, **known}
        written = denoise_movies(
            inputs, denoiser, out, corrections, progress_bar, say, halves=halves, **how
        )
        print(f"{len(written)} micrographs in {out}")
        return
    with progress_bar("denoise", unit="micrographs") as update:
        if kind == "a data set":
            kept = Split(split or "test")
            written = room.denoise_dataset(
                inputs[0], denoiser, out, kept, halves=halves, progress=update, say=say, **how
            )
        elif kind == "pairs":
            written = room.denoise_pairs(
                named, denoiser, out, pixel_size, update, say, dose_e_per_A2=dose, **how
            )
        else:
            how |= {"options": options, "dose_e_per_A2": dose}
            written = room.denoise_files(inputs, denoiser, out, pixel_size, update, say, **how)
    print(f"{len(written)} micrographs in {out}")


def _general(device: Any) -> Path:
    """Return the model for those who have trained none."""
    from clearice.console import say

    name = "general-small" if device.type == "cpu" else "general"
    say(f"model: {name}, trained on simulated micrographs of all kinds; --model takes your own")
    return Path(name)


def _denoise_kind(inputs: tuple[Path, ...], pairs: tuple[str, str] | None, *, movies: bool) -> str:
    """Tell what is to be denoised: micrographs, movies, a data set or pairs."""
    from clearice.data import MANIFEST_NAME

    if pairs is not None:
        if inputs or movies:
            raise ConfigError("--pairs takes the place of other inputs; leave one of them out")
        return "pairs"
    if not inputs:
        raise ConfigError("give micrographs, a folder of them, a data set, or --pairs")
    if movies:
        return "movies"
    is_dataset = len(inputs) == 1 and (inputs[0] / MANIFEST_NAME).is_file()
    return "a data set" if is_dataset else "micrographs"


def _named_pairs(odd: str, even: str) -> list[tuple[str, Path, Path]]:
    from clearice.prepare import match_pairs

    return [(pair.name, pair.first, pair.second) for pair in match_pairs(odd, even)]


# What options of `denoise` are for; the others are for all.
_KINDS = {
    **dict.fromkeys(("--format", "--dtype", "--previews"), ("micrographs",)),
    **dict.fromkeys(("--gain", "--align"), ("movies",)),
    "--split": ("a data set",),
    "--halves": ("a data set", "movies"),
    **dict.fromkeys(("--pixel-size", "--dose"), ("micrographs", "movies", "pairs")),
}


def _refuse_options(kind: str, given: dict[str, bool]) -> None:
    """Refuse options that were given but are for inputs of another kind."""
    wrong = [name for name, is_given in given.items() if is_given and kind not in _KINDS[name]]
    if wrong:
        owner = " or ".join(_KINDS[wrong[0]])
        raise ConfigError(f"{', '.join(wrong)}: for {owner}, not for {kind}; leave them out")


@app.command
def watch(
    folder: Path,
    /,
    *,
    model: Path | None = None,
    out: Out,
    device: Device = "auto",
    tile: int | None = None,
    precision: Precision = "float32",
    pixel_size: float | None = None,
    format: Literal["mrc", "tiff"] = "mrc",  # noqa: A002  (the option's name)
    dtype: Literal["float32", "float16", "int16"] = "float32",
    restore_amplitude: bool = False,
    interval: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 2.0,
    once: Annotated[bool, Parameter(negative="")] = False,
    idle_exit: Annotated[float | None, Parameter(validator=validators.Number(gt=0))] = None,
) -> None:
    """Denoise micrographs as they arrive in a folder, and show them on a page.

    Example: clearice watch MotionCorr/job002/Movies --out denoised
    Example: clearice watch MotionCorr/job002/Movies --model run --out denoised

    Args:
        folder: Where they arrive, with all folders below it.
        model: A run's folder, a model file, general or general-small (default: general, or
            general-small on a CPU).
        out: Folder for the results and the page, `index.html`.
        device: auto, cpu, cuda, cuda:N or mps.
        tile: Edge of a tile, px; 0 is the whole image (default: as memory allows).
        precision: Of the network.
        pixel_size: Å/px; overrides headers.
        format: Of the results.
        dtype: Of the pixels of MRC results; never rescaled.
        restore_amplitude: Raise what was damped to the power of the signal, as the model's
            calibration says.
        interval: Between two looks into the folder, s.
        once: End when what is there is done.
        idle_exit: End when nothing has come for so many minutes.
    """
    from clearice import denoise as room
    from clearice.console import say
    from clearice.workflows.watch import WatchPlan
    from clearice.workflows.watch import watch as work

    options = room.OutputOptions(format, dtype, previews=True)
    chosen = _device(device)
    recipe = room.Recipe(model or _general(chosen), tile, precision, restore_amplitude)
    denoiser = recipe.on(chosen)
    if denoiser.caveat is not None:
        say(f"warning: {denoiser.caveat}")
    settings = room.describe_run(recipe)
    plan = WatchPlan(folder, out, interval, once, idle_exit)
    done = work(
        plan, denoiser, settings, _print_now, options=options, pixel_size_angstrom=pixel_size
    )
    print(f"{done} micrographs denoised; see {out / 'index.html'}")


def _print_now(line: str) -> None:
    """Print a line that is seen at once, also in a file."""
    print(line, flush=True)


@app.command
def relion(
    *,
    out: Annotated[Path, Parameter(name=["--o", "--out"])],
    micrographs: Annotated[Path, Parameter(name="--in_mics")],
    picks: Annotated[Path | None, Parameter(name="--in_coords")] = None,
    model: Path | None = None,
    threads: Annotated[int, Parameter(name="--j", validator=validators.Number(gte=1))] = 1,
    device: Device = "auto",
    tile: int | None = None,
    precision: Precision = "float32",
    dtype: Literal["float32", "float16", "int16"] = "float32",
    previews: Annotated[bool, Parameter(negative="")] = False,
    force: Annotated[bool, Parameter(negative="")] = False,
    restore_amplitude: Annotated[bool, Parameter(negative="")] = False,
    pipeline_control: Annotated[str, Parameter(name="--pipeline_control", show=False)] = "",
) -> None:
    """Denoise as an external job of RELION, which gives the first options and --j by itself.

    Example: clearice relion --o External/job004/ --in_mics CtfFind/job003/micrographs_ctf.star \
    --model run --j 4

    Args:
        out: Folder of the job.
        micrographs: STAR list of micrographs.
        picks: Instead of denoising: list of picks made on denoised micrographs, to be named
            after the raw ones; --in_mics is then micrographs_pairs.star.
        model: A run's folder or a model file; needed to denoise.
        threads: Of the processor.
        device: auto, cpu, cuda, cuda:N or mps.
        tile: Edge of a tile, px; 0 is the whole image (default: as memory allows).
        precision: Of the network.
        dtype: Of the pixels of the results; never rescaled.
        previews: Also write pictures, into previews/.
        force: Do again what is done already.
        restore_amplitude: Raise what was damped to the power of the signal, as the model's
            calibration says.
        pipeline_control: The folder once more, which RELION adds to programs of its own.
    """
    from clearice.denoise import OutputOptions
    from clearice.workflows.relion import RelionJob, run

    options = OutputOptions("mrc", dtype, previews)
    job = RelionJob(
        folder=out,
        micrographs=micrographs,
        model=model,
        picks=picks,
        threads=threads,
        device=device,
        tile=tile,
        precision=precision,
        options=options,
        restore_amplitude=restore_amplitude,
        force=force,
    )
    run(job, _print_now)


evaluate_app = App(
    name="evaluate",
    help_format="plaintext",
    usage="Usage: clearice evaluate [COMMAND] --denoised PATH --out PATH [OPTIONS]",
)
app.command(evaluate_app)


@evaluate_app.default
def evaluate(
    *,
    denoised: Path,
    out: Out,
    reference: Path | None = None,
    raw: Path | None = None,
    truth: Path | None = None,
    denoised_other: Path | None = None,
    classic: bool | None = None,
) -> None:
    """Score denoised micrographs beside the raw ones and the best Gaussian low-pass.

    Example: clearice evaluate --denoised d_even --raw even --reference odd --out scores.json

    Args:
        denoised: Denoised file, or folder of files.
        reference: Independent images of the same signal (the other halves), of the same names.
        raw: What was denoised, of the same names; without it nothing is said of what was gained.
        truth: Noise-free images, of the same names.
        denoised_other: The denoised references, for residual noise and bias.
        out: JSON file.
        classic: Also non-local means and wavelets, all on the middle of each micrograph (default:
            if their packages are installed).
    """
    from clearice import evaluate as room
    from clearice import io
    from clearice.console import progress_bar, say

    if raw is None:
        say("warning: without --raw there are no baselines to compare with")
    io.ensure_folder(out.parent)
    crops = (raw is not None or bool(classic)) and _wants_classic(classic)
    cases = room.match_cases(denoised, raw, reference, truth, denoised_other)
    with progress_bar("evaluate") as update:
        scores = room.score(cases, update)
    scored = [case for case in cases if case.denoised.stem in scores["micrographs"]]
    if crops:
        with progress_bar("classic") as update:
            scores.values["crop"] = room.score_crops(scored, update)
    io.write_json(out, scores.values)
    if reference is not None:
        _print_reference_scores(scores["reference"])
    if truth is not None:
        _print_table("SNR against the truth, dB", scores["truth"]["snr_db"])
    _print_crop(scores.values.get("crop"))
    print(f"scores: {out}")
    if scores.failures:
        raise BatchError(scores.failures, len(cases))


def _wants_classic(classic: bool | None) -> bool:
    """Decide on non-local means and wavelets, by default by what is installed."""
    from clearice import evaluate as room
    from clearice.console import say

    if classic is False or room.is_installed():
        return classic is not False
    if classic:
        raise ConfigError(f"{room.MISSING}; install them, or leave --classic out")
    say(f"left out: {room.MISSING}")
    return False


def _print_crop(crop: dict[str, Any] | None) -> None:
    if crop is None:
        return
    middle = f"middle {crop['size_px']} px, tapered"
    if "band_correlation" in crop:
        caption = f"correlation with the reference, 300-15 Å, {middle}"
        _print_table(caption, crop["band_correlation"])
    if "snr_db" in crop:
        _print_table(f"SNR against the truth, dB, {middle}", crop["snr_db"])


@evaluate_app.command
def picking(
    *,
    denoised: Path,
    raw: Path,
    coordinates: Path,
    diameter: Annotated[float, Parameter(validator=validators.Number(gt=0))],
    out: Out,
    reference: Path | None = None,
    bright: bool | None = None,
    tolerance: Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1))] = 0.25,
    separation: Annotated[float, Parameter(validator=validators.Number(gt=0, lte=3))] = 0.7,
    precision: Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1))] = 0.8,
) -> None:
    """Pick particles on raw, low-passed and denoised micrographs, and compare with known ones.

    Example: clearice evaluate picking --denoised denoised --raw raw --coordinates particles.star
    --diameter 150 --out picking.json

    Args:
        denoised: Denoised file, or folder of files.
        raw: What was denoised, of the same names.
        coordinates: Known particles: STAR, .cs or .box file, or a folder of STAR or .box files.
        diameter: Of the particle, Å.
        out: JSON file.
        reference: Other halves, if `raw` are halves: adds the radial Wiener filter.
        bright: Particles are brighter than the ice (default: as at the known coordinates).
        tolerance: Largest distance of a pick from its particle, in diameters.
        separation: Smallest distance between two picks, in diameters.
        precision: At which the recall is given.
    """
    from clearice import evaluate as room
    from clearice import io
    from clearice.console import progress_bar

    settings = room.PickingSettings(
        diameter, bright, separation=separation, tolerance=tolerance, precision=precision
    )
    io.ensure_folder(out.parent)
    cases = room.match_cases(denoised, raw, reference)
    with progress_bar("pick") as update:
        scores = room.score_picking(cases, coordinates, settings, update)
    io.write_json(out, scores.values)
    _print_picking(scores.values)
    print(f"scores: {out}")
    if scores.failures:
        raise BatchError(scores.failures, len(cases))


def _print_picking(values: dict[str, Any]) -> None:
    from clearice.console import say

    missing = values["without_coordinates"]
    if missing:
        say(f"warning: no coordinates of {', '.join(missing[:5])} ({len(missing)}): left out")
    settings = values["settings"]
    side = "brighter" if settings["bright"] else "darker"
    print(f"{values['particles']} particles, {side} than the ice")
    _print_rows(
        [
            {
                "method": name + (" (best)" if name == values["best_lowpass"] else ""),
                "average precision": f"{method['average_precision']:.3f}",
                "95 %": _span(method["average_precision_95"]),
                f"recall at {settings['precision']:g}": f"{method['recall_at_precision']:.3f}",
                "best F1": f"{method['best_f1']:.3f}",
            }
            for name, method in values["methods"].items()
        ],
        as_json=False,
    )
    for other, gain in values["denoised_minus"].items():
        against = values["best_lowpass"] if other == "best_lowpass" else other
        span = _span(gain["interval_95"])
        print(f"denoised − {against}: {gain['difference']:+.3f}, 95 % {span}")


def _span(interval: list[float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


@evaluate_app.command
def card(
    results: Path,
    /,
    *,
    out: Out,
    hallucination: Path | None = None,
    tile: int | None = None,
    seed: int = 0,
) -> None:
    """Judge a model without truth, by halves of micrographs that it was not trained on.

    Example: clearice evaluate card check --hallucination hallucination.json --out card.json

    Args:
        results: Folder that `clearice denoise DATASET --halves` wrote.
        out: JSON file.
        hallucination: What `clearice hallucinate` wrote about the same model: its word is added.
        tile: Edge of the tiles that were denoised, px, to look for seams.
        seed: Of the resampling of micrographs that gives the intervals.
    """
    from clearice import evaluate as room
    from clearice import io
    from clearice.console import progress_bar

    io.ensure_folder(out.parent)
    with progress_bar("evaluate") as update:
        result = room.card(
            results, tile=tile, seed=seed, hallucination=hallucination, progress=update
        )
    io.write_json(out, result.values)
    print(room.format_card(result.entries))
    print(f"card: {out}")
    if result.failures:
        n_done = len(result.values["micrographs"])
        raise BatchError(result.failures, n_done + len(result.failures))


@evaluate_app.command
def ctf(
    *,
    denoised: Path,
    raw: Path,
    out: Out,
    voltage: Annotated[float, Parameter(validator=validators.Number(gte=60, lte=1000))] = 300.0,
    cs: Annotated[float, Parameter(validator=validators.Number(gte=0, lte=10))] = 2.7,
    amplitude_contrast: Annotated[float, Parameter(validator=validators.Number(gte=0, lt=1))] = 0.1,
    phase_shift: Annotated[float, Parameter(validator=validators.Number(gte=0, lte=180))] = 0.0,
) -> None:
    """See what denoising does to Thon rings: fit the CTF to raw and to denoised micrographs.

    Example: clearice evaluate ctf --denoised denoised --raw raw --out ctf.json

    Args:
        denoised: Denoised file, or folder of files.
        raw: What was denoised, of the same names.
        out: JSON file.
        voltage: Acceleration voltage, kV.
        cs: Spherical aberration, mm.
        amplitude_contrast: Fraction, 0 to 1.
        phase_shift: Of a phase plate, degrees.
    """
    from clearice import evaluate as room
    from clearice import io
    from clearice.console import progress_bar

    optics = room.Optics(voltage, cs, amplitude_contrast, phase_shift)
    io.ensure_folder(out.parent)
    cases = room.match_cases(denoised, raw)
    with progress_bar("ctf") as update:
        scores = room.score_ctf(cases, optics, update)
    io.write_json(out, scores.values)
    _print_ctf(scores.values)
    print(f"scores: {out}")
    if scores.failures:
        raise BatchError(scores.failures, len(cases))


def _print_ctf(values: dict[str, Any]) -> None:
    from clearice.console import say

    total = len(values["micrographs"])
    print(f"Thon rings found in {values['fitted_raw']} of {total} raw micrographs")
    _print_rows(
        [
            {"band": f"{band} Å"}
            | {
                f"{version} {key}": f"{measures[key]:.3f}"
                for key in ("modulation", "correlation")
                for version, measures in versions.items()
            }
            for band, versions in values["bands"].items()
        ],
        as_json=False,
    )
    if (shift := values["median_defocus_difference_angstrom"]) is not None:
        print(
            f"defocus fitted to denoised differs by {shift:.0f} Å (median of "
            f"{values['fitted_both']}), {values['largest_defocus_difference_angstrom']:.0f} at most"
        )
    say(f"warning: {values['warning']}")


@app.command
def trust(
    results: Path,
    /,
    *,
    out: Out,
    model: Path | None = None,
    device: Device = "auto",
) -> None:
    """Map how much of each denoised micrograph is real, place by place.

    Example: clearice trust denoised --out trust

    Args:
        results: What `clearice denoise DATASET --halves` wrote; with --model, a folder of raw
            micrographs.
        out: Folder for maps (MRC, 0 to 1), previews/ and trust.json.
        model: Without halves: how far this model disagrees with itself, which proves nothing.
        device: With --model: auto, cpu, cuda, cuda:N or mps.
    """
    from clearice.console import progress_bar, say
    from clearice.evaluate.trust import map_trust
    from clearice.workflows.trust import CAVEAT, map_spread

    if model is not None:
        from clearice.denoise import Denoiser

        denoiser = Denoiser(model, _device(device))
        say(f"warning: {CAVEAT}")
    with progress_bar("trust") as update:
        if model is not None:
            found = map_spread(results, denoiser, out, update)
        else:
            found = map_trust(results, out, update)
    mean = sum(entry["mean"] for entry in found.values["micrographs"])
    count = len(found.values["micrographs"])
    print(f"{count} maps in {out}, mean trust {mean / count:.2f}")
    if found.failures:
        raise BatchError(found.failures, count + len(found.failures))


@app.command
def hallucinate(
    model: Path,
    /,
    *,
    out: Out,
    data: Path | None = None,
    device: Device = "auto",
) -> None:
    """Feed noise, empty ice and scrambled micrographs to a model, and measure what it invents.

    Example: clearice hallucinate run --data dataset --out hallucination

    Args:
        model: A run's folder or a model file.
        out: Folder for hallucination.json and hallucination.png.
        data: Data set with halves, to measure on its test micrographs (default: simulated ones).
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from clearice.console import progress_bar
    from clearice.workflows.hallucinate import run as examine

    with progress_bar("hallucinate") as update:
        found = examine(model, out, _device(device), data, update)
    for failure in found["failures"]:
        print(f"  {failure}")
    print(f"{model}: " + ("passed" if found["passed"] else "FAILED: it invents structure"))


@app.command
def report(
    *sources: Path,
    out: Out = Path("report.html"),
    model_card: Path | None = None,
    licence: Annotated[str, Parameter(name=["--licence", "--license"])] = "not stated",
) -> None:
    """Write one self-contained HTML page about runs and what was measured of them.

    Example: clearice report run scores.json card.json trust hallucination --out report.html

    Args:
        sources: Folders of training runs, of data sets, of `trust` and `hallucinate`; JSON files
            of `evaluate`, `evaluate card` and `evaluate picking`.
        out: HTML file; the numbers are written beside it as JSON.
        model_card: Also write a model card (Markdown) to this file; needs the run's folder.
        licence: Of the model, in your words, for the model card.
    """
    from clearice import report as room

    if not sources:
        raise ConfigError("give at least one run's folder or scores.json")
    page = room.render(sources, out, model_card=model_card, licence=licence)
    print(f"report: {page}" + (f", model card: {model_card}" if model_card else ""))


@app.command
def view(
    *inputs: Path,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    pixel_size: Annotated[float | None, Parameter(validator=validators.Number(gt=0))] = None,
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))] = 0,
    open: bool = True,  # noqa: A002  (the option's name)
) -> None:
    """Look at micrographs in the browser, versions of the same name compared.

    Example: clearice view micrographs denoised
    Example: clearice view 'halves/*_even.mrc' 'halves/*_odd.mrc' --no-open --port 8123
    Example: clearice view raw.mrc denoised.mrc --out page.html

    Args:
        inputs: Files, folders, quoted patterns or STAR lists; each is one version.
        out: Write one page with a few micrographs inside, instead of serving all.
        pixel_size: Å/px; overrides lists and headers.
        port: Of this machine, where the page is served (default: any that is free).
        open: Open the browser.
    """
    from clearice import view as room
    from clearice.console import say

    store = room.open_store(inputs, pixel_size, say)
    if out is not None:
        print(f"page: {room.write_page(store, out)}")
        return
    viewer = room.Viewer(store, port)
    print(f"view: {viewer.address} (Ctrl-C stops it)", flush=True)
    room.serve(viewer, open_browser=open)


@app.command
def compare(
    dataset: Path,
    /,
    *,
    grid: Path,
    out: Out,
    truth: Path | None = None,
    jobs_per_device: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 1,
    rank_by: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    device: Device = "auto",
) -> None:
    """Train a grid of losses, networks and other settings, and rank them side by side.

    Example: clearice compare dataset --grid grid.yaml --out comparison

    Args:
        dataset: Folder made by `clearice prepare`.
        grid: YAML file: base, grid, also, seeds, weights.
        out: Folder for the trainings, `results.json` and `report.html`; the same command goes on.
        truth: Folder of noise-free images of the same names (default: the data set's own).
        jobs_per_device: Trainings that share a GPU at a time.
        rank_by: Column of results.json, such as frc_8-4 (default: SNR, else ρ, else frc_300-15).
        dry_run: Show what would be trained, and write nothing.
        device: auto or cuda (all GPUs), cpu, cuda:N or mps.
    """
    from clearice.console import progress_bar, say
    from clearice.workflows import compare as workflow

    todo = workflow.plan(dataset, grid, out, truth)
    for line in todo.lines():
        (print if dry_run else say)(line)
    if dry_run:
        return
    results = workflow.run(todo, device, jobs_per_device, progress_bar, say, rank_by)
    key = results["ranked_by"]
    _print_rows(
        [
            {
                "rank": "bound" if row["bound"] else row["rank"] or "–",
                "variant": row["label"],
                key: _with_spread(row["mean"].get(key), row["spread"].get(key)),
                "seeds": row["n"],
            }
            for row in results["variants"]
        ],
        as_json=False,
    )
    print(f"report: {out / 'report.html'}")


def _with_spread(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.4f}" if spread is None else f"{mean:.4f} ± {spread:.4f}"


@app.command
def networks(*, json: Json = False) -> None:
    """List the networks there are.

    Example: clearice networks --json

    Args:
        json: Print JSON.
    """
    from clearice import networks as room

    rows = []
    for name, info in room.NETWORKS.items():
        network = info.build(0.0)
        geometry = room.measure_geometry(network, network.total_stride)  # type: ignore[arg-type]
        rows.append(
            {
                "name": name,
                "parameters": room.parameter_count(network),
                "receptive_field_px": geometry.receptive_field,
                "stride_px": geometry.stride,
                "description": info.description,
            }
        )
    _print_rows(rows, as_json=json)


@app.command
def losses(*, json: Json = False) -> None:
    """List the losses there are, and whether noisy targets bias them.

    Example: clearice losses --json

    Args:
        json: Print JSON.
    """
    from clearice.losses import LOSSES, options_of

    rows = [
        {
            "name": name,
            "noisy_targets": info.verdict.value,
            "options": ", ".join(f"{key}={value:g}" for key, value in options_of(info).items()),
            "formula": info.formula,
            "why": info.why,
            "instead": info.instead,
            "source": info.source,
        }
        for name, info in LOSSES.items()
    ]
    _print_rows(rows, as_json=json)


benchmark_app = App(
    name="benchmark",
    help_format="plaintext",
    usage="Usage: clearice benchmark train|denoise|losses|loader|quality [OPTIONS]",
)
app.command(benchmark_app)


@benchmark_app.default
def benchmark(
    what: Literal["train", "denoise", "losses", "loader"],
    /,
    *,
    device: Device = "auto",
    size: Annotated[int, Parameter(validator=validators.Number(gte=16))] = 256,
    batch_size: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 4,
    json: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Measure speed, as ratios against a baseline in the same run.

    Example: clearice benchmark train --size 1024 --json result.json

    Args:
        what: What to measure.
        device: auto, cpu, cuda, cuda:N or mps.
        size: Edge of a patch, or of a micrograph, px.
        batch_size: Patches in a step.
        json: Also write the result, with device, versions and date, to this file.
    """
    from clearice import benchmark as room
    from clearice import io

    if json is not None:
        io.ensure_folder(json.parent)
    result = room.run(what, _device(device), size, batch_size)
    _print_rows(result["rows"], as_json=False)
    if json is not None:
        io.write_json(json, result)


@benchmark_app.command
def quality(
    *,
    sets: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    model: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    denoised: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    classic: bool | None = None,
    write: Path | None = None,
    write_training: Path | None = None,
    training_micrographs: Annotated[int, Parameter(validator=validators.Number(gte=2))] = 24,
    quick: Annotated[bool, Parameter(negative="")] = False,
    device: Device = "auto",
    json: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Score denoisers on fixed simulated sets of known truth, beside what needs no network.

    Example: clearice benchmark quality --model run --json quality.json

    Args:
        sets: Only these sets.
        model: A run or model file, or NAME=PATH, several times; {set} in it stands for each set.
        denoised: NAME=DIR with what another program made of --write's raw/; several times.
        classic: Also non-local means and wavelets (default: if their packages are installed).
        write: Also write raw/, even/, odd/ and truth/ of all sets into this folder.
        write_training: Write a data set of other micrographs for each set instead, and stop.
        training_micrographs: In each of those data sets.
        quick: Few and small micrographs, to try things out.
        device: auto, cpu, cuda, cuda:N or mps.
        json: Also write all scores to this file.
    """
    from clearice import io
    from clearice.benchmark import quality as room
    from clearice.console import progress_bar, say

    if json is not None:
        io.ensure_folder(json.parent)
    kinds, chosen = room.choose_sets(sets), _device(device)
    if write_training is not None:
        number = None if quick else training_micrographs
        with progress_bar("training data") as update:
            room.write_all_training(kinds, write_training, chosen, number, update)
        return
    room.check_paths(kinds, [*model, *denoised])
    methods = room.gather(model, denoised, chosen, classic=_wants_classic(classic))
    with progress_bar("quality") as update:
        result = room.run(kinds, methods, chosen, quick=quick, write=write, progress=update)
    for warning in room.caveats(result, kinds):
        say(f"warning: {warning}")
    for caption, rows in room.tables(result).items():
        print(caption)
        _print_rows(rows, as_json=False)
    if json is not None:
        io.write_json(json, result)


@app.command
def doctor(*, dataset: Path | None = None, json: Json = False) -> None:
    """Say what is installed, which device will be used and what will be slow.

    Example: clearice doctor --dataset dataset

    Args:
        dataset: Also check that every file of this data set is as it was written.
        json: Print JSON.
    """
    from clearice.devices import diagnose

    if dataset is not None:
        _verify(dataset)
    _print_rows([{"item": key, "value": value} for key, value in diagnose().items()], as_json=json)


def _verify(dataset: Path) -> None:
    """Compare the files of a data set with their checksums."""
    from clearice.console import say
    from clearice.data import open_dataset

    damaged = open_dataset(dataset).verify()
    if damaged:
        raise DatasetError(f"{dataset}: damaged: {', '.join(damaged)}; prepare the data again")
    say(f"{dataset}: every file is as it was written")


@app.command
def export(
    model: Path,
    /,
    *,
    format: Literal["safetensors", "pt2", "onnx"],  # noqa: A002  (the option's name)
    out: Out,
    normalise: bool | None = None,
    licence: Annotated[str, Parameter(name=["--licence", "--license"])] = "not stated",
) -> None:
    """Write a model for programs without clearice.

    Example: clearice export run --format onnx --out model.onnx

    Args:
        model: A run's folder or a model file.
        format: safetensors (weights), pt2 (PyTorch program) or onnx (needs an extra package).
        out: File to write; an older one is replaced.
        normalise: Of pt2 and onnx: intensities in, intensities out (default), or normalised images.
        licence: Of the weights, in your words, to be written into the file.
    """
    from clearice import export as room
    from clearice import io

    if format == "safetensors" and normalise is not None:
        raise ConfigError("--normalise and --no-normalise are for pt2 and onnx; leave them out")
    io.ensure_folder(out.parent)
    room.export_model(model, out, format, normalise=normalise is not False, licence=licence)
    print(f"model: {out}")


@app.command
def import_topaz(
    weights: Path,
    /,
    *,
    out: Out,
    pixel_size: float,
) -> None:
    """Make a model of the weights of a 2D U-Net of Topaz-Denoise.

    Example: clearice import-topaz unet_L2_v0.2.2.sav --pixel-size 1.5 --out topaz.safetensors

    Args:
        weights: State dictionary saved by PyTorch; programs in it are never run.
        out: Model file, for `clearice denoise --model`.
        pixel_size: Å/px of the micrographs that it was trained on, or is meant for.
    """
    from clearice import export as room
    from clearice import io

    io.ensure_folder(out.parent)
    info = room.import_topaz(weights, out, pixel_size)
    print(f"model: {out}: {info.network}")


def _device(name: str, *, quiet: bool = False) -> Any:
    """Choose the device and say which one it is."""
    from clearice.console import say
    from clearice.devices import choose_device, describe_device

    device = choose_device(name)
    fallback = ": no GPU found" if name == "auto" and device.type == "cpu" else ""
    if not quiet:
        say(f"device: {describe_device(device)}{fallback}")
    return device


def _devices(names: str) -> list[Any]:
    """Choose where to compute and say so: one device, or the CPU followed by several.

    Of several each gets a process of its own, so that this one needs none of their memory.
    """
    from clearice.console import say
    from clearice.devices import choose_devices, describe_device

    devices = choose_devices(names)
    if len(devices) == 1:
        return [_device(names)]
    for device, text in {device: describe_device(device) for device in devices}.items():
        say(f"device: {device}: {text}")
    return [*choose_devices("cpu"), *devices]


def _print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for keys, same in groupby(rows, key=tuple):  # rows of other columns get a table of their own
        table = list(same)
        widths = {key: max(len(key), *(len(str(row[key])) for row in table)) for key in keys}
        print("  ".join(key.ljust(width) for key, width in widths.items()).rstrip())
        for row in table:
            print("  ".join(str(row[key]).ljust(width) for key, width in widths.items()).rstrip())


def _print_table(caption: str, values: dict[str, float | None]) -> None:
    print(caption)
    for name, value in values.items():
        print(f"  {name:<14}" + ("–" if value is None else f"{value:8.3f}"))


def _print_reference_scores(reference: dict[str, Any]) -> None:
    """Print the correlation with the truth, or else that with the reference."""
    rho = reference.get("correlation_with_truth")
    if rho is not None:
        _print_table("correlation with the unknown truth, from the halves", rho)
        return
    band, values = next(iter(reference["band_correlation"].items()))
    unequal = reference.get("equal_dose") is False
    why = " (doses differ: nothing is said of the truth)" if unequal else ""
    _print_table(f"correlation with the reference, {band} Å{why}", values)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print our own warnings as one line, and nobody else's."""
    if issubclass(category, ClearIceWarning):
        print(f"clearice: warning: {message}", file=sys.stderr)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0 only if all was done, 2 for a user's mistake."""
    warnings.showwarning = _show_warning
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        print(f"clearice: {str(error).strip()}", file=sys.stderr)
        if arguments[:1] == ["relion"]:
            from clearice.workflows.relion import refuse

            refuse(arguments)
        return 2
    except ClearIceError as error:
        print(f"clearice: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read our output has enough of it
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        return 1
    except KeyboardInterrupt:
        print("clearice: interrupted", file=sys.stderr)
        return 130
    return 0


def main() -> None:
    """Entry point of the `clearice` command."""
    sys.exit(run(sys.argv[1:]))
