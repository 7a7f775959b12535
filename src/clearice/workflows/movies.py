"""Movies straight to denoised micrographs, by way of a data set of their even and odd frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from clearice import denoise, io, prepare
from clearice.config import PrepareConfig, validate_config
from clearice.data import MANIFEST_NAME, Split, open_dataset
from clearice.errors import BatchError, ConfigError, OutputError

DATASET_NAME = "dataset"

Say = Callable[[str], None]
Bar = Callable[[str], AbstractContextManager[Callable[..., None]]]


def denoise_movies(
    inputs: Sequence[Path],
    denoiser: denoise.Denoiser,
    out: Path,
    corrections: Mapping[str, Any],
    bar: Bar,
    say: Say,
    *,
    halves: bool = False,
    **how: Any,
) -> list[Path]:
    """Correct and add up movies, then denoise their sums, and their halves if asked.

    The sums of even and odd frames stay in `out/dataset`, from which the same command goes on.

    Args:
        inputs: Movies, folders of them, or lists, as `clearice prepare` takes them.
        denoiser: The model.
        out: Folder for `dataset/`, `denoised/` and `raw/`.
        corrections: Settings of `PrepareConfig`: gain, align, pixel size, dose.
        bar: Opens a progress bar of a name.
        say: Called with one line for each thing that the user should know.
        halves: Also the even and odd halves.
        how: What `denoise_dataset` takes beside that.

    Returns:
        The denoised full-dose files.

    Raises:
        ConfigError: An input is no movie, or a setting is wrong.
        OutputError: `out/dataset` holds other movies, or was made otherwise.
        BatchError: Some movies could not be used or denoised; the others were.
    """
    # Nothing is trained, so nothing is held out.
    fixed = {"groups": 2, "validation_fraction": 0.0, "test_fraction": 0.0}
    config = validate_config(PrepareConfig, {**corrections, **fixed}, "options")
    found = prepare.find_inputs(inputs)
    if found.pairs or found.singles:
        others = [pair.first for pair in found.pairs] + [item.path for item in found.singles]
        raise ConfigError(f"{others[0]}: is no movie; denoise it without --movies")
    dataset = io.ensure_folder(out) / DATASET_NAME
    failures = list(_prepare(found, dataset, config, denoiser.device, bar, say))
    total = len(found.movies) + len(found.failures)
    with bar("denoise") as update:
        try:
            written = denoise.denoise_dataset(
                dataset, denoiser, out, Split.TRAIN, halves=halves, progress=update, say=say, **how
            )
        except BatchError as error:
            raise BatchError([*failures, *error.failures], total) from None
    if failures:
        raise BatchError(failures, total)
    return written


def _prepare(
    found: prepare.Inputs,
    dataset: Path,
    config: PrepareConfig,
    device: torch.device,
    bar: Bar,
    say: Say,
) -> Sequence[str]:
    """Make the data set, if it is not there; return which movies it lacks, and why."""
    if (dataset / MANIFEST_NAME).exists():
        return _lacking(found, dataset, config, say)
    try:
        with bar("prepare") as update:
            prepare.prepare_inputs(found, dataset, config, device=device, progress=update, say=say)
    except BatchError as error:
        return error.failures
    return ()


def _lacking(
    found: prepare.Inputs, dataset: Path, config: PrepareConfig, say: Say
) -> Sequence[str]:
    """Refuse a data set of other movies or settings; return which movies it lacks."""
    manifest = open_dataset(dataset).manifest
    held = {source for entry in manifest.micrographs for source in entry.sources}
    asked = {item.path.name: item.path for item in found.movies}
    if not held <= set(asked) or manifest.prepared != config.model_dump(mode="json"):
        raise OutputError(
            f"{dataset}: was made of other movies or with other settings; choose another --out, or "
            "delete it"
        )
    say(f"{dataset}: {len(manifest.micrographs)} movies are prepared already")
    return [
        *found.failures,
        *(
            f"{path}: could not be used when {dataset} was made; delete that to try again"
            for name, path in asked.items()
            if name not in held
        ),
    ]
