"""Denoising: the network by itself, seams between tiles, collections from disk to disk."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import checkpoint, io
from clearice.benchmark.timing import seconds
from clearice.config import TrainConfig
from clearice.denoise import Denoiser, OutputOptions, Recipe, denoise_files
from clearice.denoise.pipeline import Lanes, Listed, Overlapped
from clearice.denoise.plan import Job, Source
from clearice.denoise.run import FileWork
from clearice.denoise.work import Loaded
from clearice.networks import build_network

Row = dict[str, Any]
Precision = Literal["float32", "bfloat16"]
# One of each kind; `clearice networks` lists more.
NETWORKS: Final = ("cnn3", "rescnn12", "unet-small", "unet", "unet-large", "topaz-unet")
_PIXEL_SIZE: Final = 1.0
_FILES: Final = {"cuda": 64, "cpu": 4}
# As large as memory allows by default; 0 is the whole image.
_TILES: Final[tuple[int | None, ...]] = (None, 0, 2048, 1024, 512)
# Small enough for the untiled result to fit anywhere.
_SEAM_PX: Final = 768
_SEAM_TILES: Final = (128, 256)


def measure(device: torch.device, size: int, batch_size: int) -> list[Row]:
    """Measure networks, tiles, seams, and a collection of noise with the default network.

    Args:
        device: Where.
        size: Edge of the micrographs, px.
        batch_size: Not used.
    """
    default = TrainConfig().network
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {network: write_model(folder, network) for network in (*NETWORKS, default)}
        rows = _networks(models, device, size)
        rows += _tiles(models[default], device, size)
        edge = min(size, _SEAM_PX)
        rows += [seam(models[default], device, tile, edge) for tile in _SEAM_TILES if tile < edge]
        collection = Collection.make(folder / "in", _FILES.get(device.type, 4), size)
        rows += end_to_end(collection, Recipe(models[default]), device, folder)
    return rows


def write_model(folder: Path, network: str) -> Path:
    """Write a model with random weights of the size that training leaves.

    Those that a network starts with would do nothing in its last layers, and so hide seams.
    """
    generator = torch.Generator().manual_seed(0)
    weights = build_network(network).state_dict()
    for name, value in weights.items():
        if value.ndim > 1:
            noise = torch.randn(value.shape, generator=generator)
            weights[name] = noise * value[0].numel() ** -0.5
    path = folder / f"{network}.safetensors"
    info = checkpoint.ModelInfo(network, _PIXEL_SIZE, None, 1.0, "noisy", 0, {}, "")
    checkpoint.save(path, weights, info, None)
    return path


def _precisions(device: torch.device) -> tuple[Precision, ...]:
    return ("float32", "bfloat16") if device.type == "cuda" else ("float32",)


def _networks(models: dict[str, Path], device: torch.device, size: int) -> list[Row]:
    """Time each network, without disks; the baseline is the first."""
    rows = [
        {"network": name, **network_only(Recipe(model, precision=precision), device, size)}
        for name, model in models.items()
        for precision in _precisions(device)
    ]
    return _with_ratio(rows)


def _tiles(model: Path, device: torch.device, size: int) -> list[Row]:
    """Time one network with several tiles; the baseline is what is chosen by itself."""
    rows = [
        {
            "tile": "by memory" if tile is None else tile or "whole",
            **network_only(Recipe(model, tile, precision), device, size),
        }
        for tile in _TILES
        if tile is None or tile < size
        for precision in _precisions(device)
    ]
    return _with_ratio(rows)


def _with_ratio(rows: list[Row]) -> list[Row]:
    for row in rows:
        ratio = row["micrographs_per_second"] / rows[0]["micrographs_per_second"]
        row["ratio_to_first"] = round(ratio, 3)
    return rows


def network_only(recipe: Recipe, device: torch.device, size: int) -> Row:
    """Time one micrograph that stays on the device, normalisation included."""
    denoiser = recipe.on(device)
    image = torch.randn(1, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken = seconds(lambda: denoiser.together(image), device)
    return {
        "precision": recipe.precision,
        "micrographs_per_second": round(1 / taken, 3),
        **_device_peak(device),
    }


def _device_peak(device: torch.device) -> Row:
    """Return the most that PyTorch held of a GPU's memory."""
    if device.type != "cuda":
        return {}
    return {"device_mib": round(torch.cuda.max_memory_reserved(device) / 2**20)}


def seam(model: Path, device: torch.device, tile: int, size: int) -> Row:
    """Compare the steps across tile boundaries with those at the same places without tiles."""
    image = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    whole, tiled = (Denoiser(model, device, edge)(image) for edge in (0, tile))
    return {
        "seams_of_tile": tile,
        "excess_percent": round(100 * seam_excess(tiled, whole, tile), 6),
    }


def seam_excess(tiled: Float[Tensor, "h w"], whole: Float[Tensor, "h w"], tile: int) -> float:
    """Return by how much steps across boundaries are larger, in root mean square, than without.

    √(Σ (t[b] − t[b−1])² / Σ (u[b] − u[b−1])²) − 1 over all boundaries b of rows and columns, t the
    tiled and u the untiled result.

    Args:
        tiled: Stitched from tiles.
        whole: Computed as one.
        tile: Edge of the tiles, px; smaller than the image.
    """
    sums = [
        sum(
            float((image[edge] - image[edge - 1]).double().square().sum())
            for image in (result, result.T)
            for edge in range(tile, len(image), tile)
        )
        for result in (tiled, whole)
    ]
    return float((sums[0] / sums[1]) ** 0.5 - 1)


@final
@dataclass(frozen=True)
class Collection:
    """Micrographs of noise on disk, all of one size, float32.

    Attributes:
        files: Where.
    """

    files: tuple[Path, ...]

    def forget(self) -> None:
        """Let the system drop them from its cache, so that they must come from the disk."""
        for path in self.files:
            with path.open("rb") as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    @classmethod
    def make(cls, folder: Path, count: int, size: int) -> Collection:
        """Write them, drawn once and shifted, to be fast."""
        io.ensure_folder(folder)
        noise = 100 + 10 * torch.randn(size, size, generator=torch.Generator().manual_seed(0))
        files = tuple(folder / f"noise_{index:05d}.mrc" for index in range(count))
        for index, file in enumerate(files):
            io.write_mrc(file, noise.roll(index, 0), _PIXEL_SIZE)
        return cls(files)


def end_to_end(
    collection: Collection,
    recipe: Recipe,
    device: torch.device,
    folder: Path,
    *,
    cold: bool = False,
) -> list[Row]:
    """Time a collection from disk to disk, beside the network and the disk by themselves.

    `disk` reads and writes side by side as the pipeline does, with nothing between; `serial` does
    one thing at a time and is the baseline. Files come from the page cache if they fit there,
    unless they are to be read `cold`, which Linux can do.
    """
    denoiser = recipe.on(device)
    files, size = collection.files, io.image_shape(collection.files[0])[1]
    alone = network_only(recipe, device, size)["micrographs_per_second"]
    timed = {
        "serial": lambda out: _serial(files[: max(2, len(files) // 8)], denoiser, out),
        "read": lambda out: _disk(files, device, out, write=False),
        "disk": lambda out: _disk(files, device, out, write=True),
        "pipeline": lambda out: len(denoise_files(files, denoiser, out)),
    }
    rates = {}
    for name, work in timed.items():
        if cold:
            collection.forget()
        rates[name] = _rate(work, folder / name)
    rates["network"] = alone
    slower = min(rates["disk"], alone)
    rows = [
        {
            "from_disk_to_disk": name,
            "micrographs_per_second": round(rates[name], 3),
            "ratio_to_serial": round(rates[name] / rates["serial"], 3),
            "percent_of_slower": round(100 * rates[name] / slower, 1),
        }
        for name in ("serial", "read", "disk", "network", "pipeline")
    ]
    memory = {**_device_peak(device), **_resident_peak()}
    return [*rows, {"memory_of": f"{len(files)} micrographs", **memory}]


def _rate(work: Callable[[Path], int], out: Path) -> float:
    start = time.perf_counter()
    count = work(out)
    rate = count / (time.perf_counter() - start)
    shutil.rmtree(out, ignore_errors=True)
    return rate


def _serial(files: Sequence[Path], denoiser: Denoiser, out: Path) -> int:
    io.ensure_folder(out)
    for file in files:
        micrograph = io.read_micrograph(file)
        io.write_mrc(out / file.name, denoiser(micrograph.pixels), _PIXEL_SIZE, like=file)
    return len(files)


def _disk(files: Sequence[Path], device: torch.device, out: Path, *, write: bool) -> int:
    """Read files in as many threads as the pipeline does, and write them again if asked."""
    io.ensure_folder(out)
    work = FileWork(out, OutputOptions(), None, "benchmark")
    jobs = [Job(Source(file, Path(file.name)), out / file.name) for file in files]

    def save(job: Job, loaded: Loaded) -> None:
        if write:
            work.save(job, loaded, loaded.images)

    def done(job: Job, result: object) -> None:
        if isinstance(result, Exception):
            raise result

    Overlapped(Listed(jobs), work.load, lambda loaded: loaded, save, done, Lanes.of(device)).run()
    return len(files)


def _resident_peak() -> Row:
    """Return the most memory that this process took of the host, since it began."""
    if sys.platform == "win32":
        return {}
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"resident_mib": round(peak / (2**20 if sys.platform == "darwin" else 1024))}
