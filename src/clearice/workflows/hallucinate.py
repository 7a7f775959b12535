"""Noise, empty ice and scrambled micrographs through a model: what does it invent?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import __version__, checkpoint, denoise, io
from clearice.config import SimulateConfig
from clearice.data import Affine, Split, dose_weighted_mean, open_dataset
from clearice.errors import DatasetError
from clearice.evaluate import invented
from clearice.evaluate.local import band_limited
from clearice.seeds import derive_seed
from clearice.simulate import load_specimen, simulate_movie

JSON_NAME: Final = "hallucination.json"
PICTURE_NAME: Final = "hallucination.png"
_COUNT = 3
_SIZE = 512
_LARGEST = 1024
_DOSE = 53.0
_WIDE_PIXEL = 2.63
# No user's specimen: chains drawn from a seed that the demo and the benchmarks do not use.
_SPECIMEN_SEED = 4711
_CONTRAST = 4.0

Image = Float[Tensor, "h w"]
Progress = Callable[[int, int], None]


def run(
    model: Path,
    out: Path,
    device: torch.device,
    data: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Examine a model and write `hallucination.json` and `hallucination.png`.

    Args:
        model: A run's folder or a model file.
        out: Folder for the results.
        device: Where to compute.
        data: Data set with halves; its test micrographs are what results are measured against.
            Without it they are simulated, of a specimen that the model was not trained on.
        progress: Called with (steps done, steps in all).

    Returns:
        What `hallucination.json` holds; `passed` says whether there is nothing under `failures`.

    Raises:
        CheckpointError: The model cannot be loaded.
        DatasetError: The data set has no test micrographs or no exchangeable halves.
        OutputError: `out` cannot be written.
    """
    io.ensure_folder(out)
    denoiser = denoise.Denoiser(model, device)
    # A general model knows many: one at which a field is many particles wide.
    general = denoiser.info.domain is not None
    pixel = _WIDE_PIXEL if general else denoiser.info.pixel_size_angstrom
    dose = denoiser.info.dose_e_per_A2 or _DOSE
    strange = [_simulated(pixel, dose, index) for index in range(_COUNT)]
    progress(1, 4)
    fields = strange if data is None else _from_dataset(data)
    ice = [_simulated(pixel, dose, _COUNT + i, fill=0.0).full for i in range(_COUNT)]
    nothing = invented.inputs_of_nothing(fields, ice, _COUNT)
    progress(2, 4)

    def full(image: Image) -> Image:
        return denoiser.normalised(image.float()).cpu() * denoiser.info.output_gain

    def half(image: Image) -> Image:
        return denoiser.normalised(image.float(), 0.5).cpu() * denoiser.info.output_gain

    measured = invented.examine(full, half, fields, nothing, pixel)
    progress(3, 4)
    found = invented.failures(measured)
    told = {
        "kind": "hallucination",
        "clearice_version": __version__,
        "model": str(model),
        "model_sha256": checkpoint.checksum(model),
        "network": denoiser.info.network,
        "measured_on": "simulated specimen" if data is None else str(data),
        "micrographs": len(fields),
        "passed": not found,
        "failures": found,
        "limits": invented.LIMITS,
        **measured,
        "unsupported_of_a_strange_specimen": invented.unsupported(
            [half(field.even) for field in strange], [field.odd for field in strange], pixel
        ),
    }
    io.write_json(out / JSON_NAME, told)
    shown = [fields[0].full, *(images[0] for images in nothing.values())]
    io.write_png(out / PICTURE_NAME, panels([full(image) for image in shown], pixel))
    progress(4, 4)
    return told


def panels(results: list[Image], pixel_size_angstrom: float) -> Tensor:
    """Return results side by side, all on the grey scale of the first one."""
    bands = [band_limited(result, pixel_size_angstrom) for result in results]
    height = min(band.shape[0] for band in bands)
    deviation = max(float(bands[0].std(correction=0)), 1e-30)
    row = torch.cat([torch.nn.functional.pad(b[:height], (0, 4), value=1e9) for b in bands], 1)
    grey = 127.5 * (1 + row / (_CONTRAST * deviation))
    return grey.clamp(0, 255).round().to(torch.uint8)


def _simulated(pixel: float, dose: float, index: int, fill: float = 0.5) -> invented.Field:
    """Simulate a micrograph with halves."""
    config = SimulateConfig(
        size=_SIZE,
        frames=8,
        seed=derive_seed(_SPECIMEN_SEED, "session"),
        pixel_size_angstrom=pixel,
        dose_e_per_A2=dose,
        particle_fill=fill,
    )
    specimen = load_specimen("barrel", _SPECIMEN_SEED)
    frames = simulate_movie(specimen, config, index, torch.device("cpu")).frames
    affine = Affine.of(frames.mean(0))
    parts = (frames, frames[0::2], frames[1::2])
    return invented.Field(*(affine.apply(part.mean(0)) for part in parts))


def _from_dataset(folder: Path) -> list[invented.Field]:
    dataset = open_dataset(folder)
    entries = dataset.entries(Split.TEST)
    if not entries:
        raise DatasetError(f"{folder}: has no test micrographs; prepare it with --test-fraction")
    if dataset.manifest.roles != "exchangeable":
        raise DatasetError(f"{folder}: has no halves of equal dose; leave --data out")
    fields = []
    for entry in entries[: 2 * _COUNT]:
        stack = _middle(dataset.stack(entry).float())
        chosen = (range(len(stack)), range(0, len(stack), 2), range(1, len(stack), 2))
        parts = [
            dose_weighted_mean(stack[list(groups)], [entry.weights[i] for i in groups])
            for groups in chosen
        ]
        fields.append(invented.Field(*parts))
    smallest = [min(int(f.full.shape[axis]) for f in fields) for axis in (0, 1)]
    return [
        invented.Field(*(i[: smallest[0], : smallest[1]] for i in (f.full, f.even, f.odd)))
        for f in fields
    ]


def _middle(stack: Float[Tensor, "k h w"]) -> Float[Tensor, "k ch cw"]:
    """Return the middle of a micrograph, at most 1024 px wide."""
    starts = [max(0, (length - _LARGEST) // 2) for length in stack.shape[1:]]
    return stack[:, starts[0] : starts[0] + _LARGEST, starts[1] : starts[1] + _LARGEST]
