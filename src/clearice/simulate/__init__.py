"""Specimen, optics, dose and detector: movies whose noise-free signal is known."""

from clearice.simulate.imaging import MicrographPhysics, expected_image, projected_potential
from clearice.simulate.movie import SimulatedMovie, simulate_movie
from clearice.simulate.run import run
from clearice.simulate.specimen import barrel, load_specimen

__all__ = [
    "MicrographPhysics",
    "SimulatedMovie",
    "barrel",
    "expected_image",
    "load_specimen",
    "projected_potential",
    "run",
    "simulate_movie",
]
