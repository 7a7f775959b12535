"""Simulate a session to disk: movies, truth, particle coordinates, parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from clearice import __version__, io
from clearice.config import SimulateConfig
from clearice.simulate.movie import SimulatedMovie, simulate_movie
from clearice.simulate.specimen import load_specimen
from clearice.types import AtomCloud, ParticlePicks


def _counting_dtype(frames: torch.Tensor) -> str:
    """Return the smallest MRC type that holds every count."""
    most = float(frames.max())
    return "int8" if most <= 127 else "uint16" if most <= 65535 else "float32"


def _write(movie: SimulatedMovie, name: str, config: SimulateConfig, out: Path) -> None:
    pixel_size = config.pixel_size_angstrom
    io.write_mrc(out / "truth" / name, movie.truth, pixel_size, label="clearice: noise-free signal")
    io.write_mrc(
        out / "movies" / name, movie.frames, pixel_size, dtype=_counting_dtype(movie.frames)
    )


def run(
    config: SimulateConfig,
    out: Path,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Simulate a session and write it.

    Args:
        config: What to simulate.
        out: Folder for `movies/`, `truth/`, `particles.star` and `simulation.json`.
        device: Where to compute.
        progress: Called with (micrographs done, micrographs in all).

    Returns:
        The movies, in order.

    Raises:
        InputFileError: The specimen's file cannot be used.
        OutputError: `out` cannot be written.
    """
    specimen = load_specimen(config.specimen, config.seed)
    specimen = AtomCloud(specimen.positions_angstrom.to(device), specimen.name)
    for folder in ("movies", "truth"):
        io.ensure_folder(out / folder)
    paths, picks, physics = [], [], {}
    for index in range(config.micrographs):
        name = f"mic_{index:04d}.mrc"
        movie = simulate_movie(specimen, config, index, device)
        _write(movie, name, config, out)
        paths.append(out / "movies" / name)
        picks.append(ParticlePicks(name, [(x, y) for x, y in movie.xy_px.tolist()]))
        physics[name] = asdict(movie.physics)
        progress(index + 1, config.micrographs)
    io.write_coordinates(out / "particles.star", picks)
    io.write_json(
        out / "simulation.json",
        {
            "clearice_version": __version__,
            "specimen": specimen.name,
            "heavy_atoms": len(specimen.positions_angstrom),
            "config": config.model_dump(mode="json"),
            "micrographs": physics,
        },
    )
    return paths
