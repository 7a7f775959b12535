"""Optics against closed forms: interaction constant, projection, CTF, envelope, detector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clearice.config import SimulateConfig
from clearice.simulate import MicrographPhysics, expected_image, projected_potential
from clearice.simulate.imaging import (
    ATOM_SHARES,
    add_atoms,
    contrast_transfer,
    interaction_constant,
)

Array = np.ndarray[Any, np.dtype[np.float64]]

ATOM, SOLVENT = 144.0, 85.0  # V·Å³
PLANCK, CHARGE, MASS, LIGHT = 6.62607015e-34, 1.602176634e-19, 9.1093837015e-31, 299_792_458.0


def _wavelength_angstrom(voltage_kv: float) -> float:
    energy = CHARGE * voltage_kv * 1e3
    momentum = math.sqrt(2 * MASS * energy * (1 + energy / (2 * MASS * LIGHT**2)))
    return PLANCK / momentum * 1e10


def test_the_interaction_constant_at_300_kv() -> None:
    assert interaction_constant(300.0) == pytest.approx(6.526e-4, rel=1e-3)


@given(st.floats(60, 1000))
def test_the_interaction_constant_is_2_pi_m_e_lambda_over_h_squared(voltage_kv: float) -> None:
    gamma = 1 + CHARGE * voltage_kv * 1e3 / (MASS * LIGHT**2)
    wavelength = _wavelength_angstrom(voltage_kv) * 1e-10
    sigma = 2 * math.pi * gamma * MASS * CHARGE * wavelength / PLANCK**2  # rad/(V·m)
    assert interaction_constant(voltage_kv) == pytest.approx(sigma * 1e-10, rel=1e-6)


def _grid(positions: list[tuple[float, float]], size: int = 32) -> Tensor:
    counts = torch.zeros(size, size, dtype=torch.int64)
    add_atoms(counts, torch.tensor(positions, dtype=torch.float64))
    return counts


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=1, max_size=10))
def test_every_atom_lands_whole_on_the_periodic_grid(places: list[tuple[float, float]]) -> None:
    # In float64: whole numbers divide to float32, whose own rounding exceeds the bound.
    counts = _grid(places, 16).double() / ATOM_SHARES
    # Four rounded shares an atom.
    assert float(counts.sum()) == pytest.approx(len(places), abs=2 * len(places) / ATOM_SHARES)
    assert float(counts.min()) >= 0


@given(st.floats(3, 12), st.floats(3, 12))
def test_an_atom_keeps_its_centre(row: float, column: float) -> None:
    counts = _grid([(row, column)], 16).double() / ATOM_SHARES
    axis = torch.arange(16, dtype=torch.float64)
    assert float((counts.sum(1) * axis).sum()) == pytest.approx(row, abs=1e-5)
    assert float((counts.sum(0) * axis).sum()) == pytest.approx(column, abs=1e-5)


def test_an_atom_at_the_corner_wraps_around() -> None:
    counts = _grid([(15.5, 15.5)], 16)
    for row in (0, 15):
        for column in (0, 15):
            assert float(counts[row, column]) / ATOM_SHARES == pytest.approx(0.25)


@given(
    st.lists(st.tuples(st.floats(0, 32), st.floats(0, 32)), min_size=1, max_size=20),
    st.floats(0.5, 5),
)
def test_the_integral_of_the_potential_counts_atoms_less_solvent(
    places: list[tuple[float, float]], pixel_size: float
) -> None:
    potential = projected_potential(_grid(places), pixel_size)
    integral = float(potential.sum()) * pixel_size**2
    assert integral == pytest.approx((ATOM - SOLVENT) * len(places), rel=1e-5)


def test_the_potential_moves_with_its_atom_by_whole_pixels() -> None:
    here = projected_potential(_grid([(10.3, 12.6)]), 1.3)
    there = projected_potential(_grid([(13.3, 28.6)]), 1.3)
    torch.testing.assert_close(torch.roll(here, (3, 16), (0, 1)), there)


def test_the_potential_of_an_atom_is_a_gaussian_less_a_wider_one() -> None:
    # Averaged over places within the pixel, spreading is the sinc² that is divided out again.
    size, pixel, steps = 48, 1.0, 24
    offsets = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps - 0.5
    total = torch.zeros(size, size, dtype=torch.complex128)
    frequency = torch.fft.fftfreq(size, dtype=torch.float64)
    for dy in offsets.tolist():
        for dx in offsets.tolist():
            potential = projected_potential(_grid([(24 + dy, 24 + dx)], size), pixel).double()
            angle = 2 * math.pi * (frequency[:, None] * (24 + dy) + frequency[None] * (24 + dx))
            total += torch.fft.fft2(potential) * torch.polar(torch.ones_like(angle), angle)
    form = total.real / steps**2 * pixel**2
    k2 = (frequency[:, None].square() + frequency[None].square()) / pixel**2
    expected = ATOM * torch.exp(-2 * (math.pi * 0.6) ** 2 * k2) - SOLVENT * torch.exp(
        -2 * (math.pi * 2.6) ** 2 * k2
    )
    low = k2 < 0.25**2
    torch.testing.assert_close(form[low], expected[low], rtol=0, atol=0.05)


def _config(**changes: Any) -> SimulateConfig:
    return SimulateConfig.model_validate({"size": 64, **changes})


def _frequencies(config: SimulateConfig) -> tuple[Array, Array]:
    """Return (along rows, along columns) frequencies of the half-spectrum, 1/Å."""
    fy = np.fft.fftfreq(config.size, config.pixel_size_angstrom)
    fx = np.fft.rfftfreq(config.size, config.pixel_size_angstrom)
    y, x = np.meshgrid(fy, fx, indexing="ij")
    return y, x


def _reference_ctf(config: SimulateConfig, physics: MicrographPhysics) -> Array:
    """−√(1−A²) sin χ − A cos χ, χ = πλΔf k² − π/2 Cs λ³ k⁴, with Δf > 0 for underfocus."""
    y, x = _frequencies(config)
    k2 = x**2 + y**2
    # Angles are counted from x, along the columns.
    angle = np.arctan2(y, x) - math.radians(physics.astigmatism_angle_degrees)
    defocus = physics.defocus_angstrom + physics.astigmatism_angstrom * np.cos(2 * angle)
    wavelength = _wavelength_angstrom(config.voltage_kv)
    cs = config.spherical_aberration_mm * 1e7
    chi = math.pi * wavelength * defocus * k2 - math.pi / 2 * cs * wavelength**3 * k2**2
    a = config.amplitude_contrast
    return np.asarray(-math.sqrt(1 - a**2) * np.sin(chi) - a * np.cos(chi))


@pytest.mark.parametrize("astigmatism", [0.0, 400.0])
@pytest.mark.parametrize("angle", [0.0, 30.0, 125.0])
@pytest.mark.parametrize(
    ("defocus", "microscope"),
    [(8_000.0, (300.0, 2.7, 0.07)), (28_000.0, (200.0, 1.2, 0.1)), (15_000.0, (300.0, 0.0, 0.0))],
)
def test_the_ctf_is_the_textbook_one(
    astigmatism: float, angle: float, defocus: float, microscope: tuple[float, float, float]
) -> None:
    voltage, cs, contrast = microscope
    config = _config(voltage_kv=voltage, spherical_aberration_mm=cs, amplitude_contrast=contrast)
    physics = MicrographPhysics(defocus, astigmatism, angle)
    ctf = contrast_transfer(config, physics, torch.device("cpu"))
    np.testing.assert_allclose(ctf.numpy(), _reference_ctf(config, physics), atol=3e-3)


def test_protein_is_dark_at_underfocus() -> None:
    config = _config()
    ctf = contrast_transfer(config, MicrographPhysics(15_000, 0, 0), torch.device("cpu"))
    assert float(ctf[0, 0]) == pytest.approx(-config.amplitude_contrast, abs=1e-6)
    y, x = _frequencies(config)
    # Up to the first zero, near k = 1/√(λΔf) = 0.058/Å.
    low = torch.from_numpy(np.hypot(x, y) < 0.05)
    assert float(ctf[low].max()) < 0
    potential = projected_potential(_grid([(32.0, 32.0)] * 500, 64), 1.315)
    image = expected_image(potential, config, MicrographPhysics(15_000, 0, 0))
    assert float(image[32, 32]) < 1
    spectrum = torch.fft.rfft2(image - 1) * torch.fft.rfft2(potential).conj()
    assert float(spectrum.real[low].sum()) < 0


def test_the_expected_image_is_the_weak_phase_formula(generator: torch.Generator) -> None:
    config = _config(contrast=0.7, b_factor_A2=50.0, mtf_at_nyquist=0.3)
    physics = MicrographPhysics(12_000, 150, 40)
    potential = 20 * torch.randn(64, 64, generator=generator)
    y, x = _frequencies(config)
    k2 = x**2 + y**2
    mtf = 0.3 ** (k2 * (2 * config.pixel_size_angstrom) ** 2)
    transfer = 2 * interaction_constant(300.0) * 0.7 * np.exp(-50 / 4 * k2) * mtf
    spectrum = np.fft.rfft2(potential.double().numpy()) * transfer * _reference_ctf(config, physics)
    expected = 1 + np.fft.irfft2(spectrum, s=(64, 64))
    assert expected.std() > 0.002
    found = expected_image(potential, config, physics)
    np.testing.assert_allclose(found.numpy(), expected, atol=3e-3 * expected.std())


def test_no_specimen_is_an_even_image() -> None:
    image = expected_image(torch.zeros(64, 64), _config(), MicrographPhysics(15_000, 100, 0))
    assert torch.equal(image, torch.ones(64, 64))


def test_the_envelope_and_the_detector_only_weaken(generator: torch.Generator) -> None:
    potential = torch.randn(64, 64, generator=generator)
    physics = MicrographPhysics(15_000, 0, 0)
    free = _config(b_factor_A2=0.0, mtf_at_nyquist=1.0)
    power = [
        (torch.fft.rfft2(expected_image(potential, config, physics) - 1)).abs()
        for config in (free, free.model_copy(update={"b_factor_A2": 80.0}), _config())
    ]
    for weaker, stronger in ((power[1], power[0]), (power[2], power[1])):
        assert bool((weaker <= stronger + 1e-4 * stronger.max()).all())
        assert float(weaker.square().sum()) < 0.95 * float(stronger.square().sum())
