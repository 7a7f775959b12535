"""Specimen, optics, dose and detector: movies whose noise-free signal is known."""

from clearice.simulate.complexes import Complex, procedural_complex
from clearice.simulate.conditions import DOSE_E_PER_A2, PIXEL_SIZE_ANGSTROM
from clearice.simulate.imaging import MicrographPhysics, expected_image, projected_potential
from clearice.simulate.movie import SimulatedMovie, simulate_movie
from clearice.simulate.run import run
from clearice.simulate.specimen import barrel, load_specimen
from clearice.simulate.world import VERSION as WORLD_VERSION
from clearice.simulate.world import Views, World, highpass_cutoff, signal_power

__all__ = [
    "DOSE_E_PER_A2",
    "PIXEL_SIZE_ANGSTROM",
    "WORLD_VERSION",
    "Complex",
    "MicrographPhysics",
    "SimulatedMovie",
    "Views",
    "World",
    "barrel",
    "expected_image",
    "highpass_cutoff",
    "load_specimen",
    "procedural_complex",
    "projected_potential",
    "run",
    "signal_power",
    "simulate_movie",
]
