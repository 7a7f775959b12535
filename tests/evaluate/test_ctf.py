"""The CTF is found in raw micrographs, and what a filter does to its rings is seen."""

from __future__ import annotations

import json
from pathlib import Path

import mrcfile
import pytest
import torch
from torch import Tensor

from clearice.cli import run
from clearice.config import SimulateConfig
from clearice.errors import ConfigError, InputFileError
from clearice.evaluate import Case, Optics, match_cases, score_ctf
from clearice.evaluate.thon import Visibility, fit_ctf, ring_power, visibility
from clearice.fourier import gaussian_lowpass
from clearice.simulate import barrel, simulate_movie
from clearice.simulate.imaging import MicrographPhysics, contrast_transfer
from helpers import CPU, write_image

PIXEL = 1.5
OPTICS = Optics(300.0, 2.7, 0.07)


def _simulated(size: int = 640, contrast: float = 1.0) -> tuple[Tensor, Tensor, float]:
    """Return counts, their truth and the defocus."""
    config = SimulateConfig(
        size=size, frames=2, pixel_size_angstrom=PIXEL, contrast=contrast, dose_e_per_A2=60.0
    )
    movie = simulate_movie(barrel(0), config, 0, CPU)
    return movie.frames.sum(0), movie.truth, movie.physics.defocus_angstrom


@pytest.fixture(scope="module")
def micrograph() -> tuple[Tensor, Tensor, float]:
    return _simulated()


@pytest.mark.parametrize("defocus", [8_000.0, 17_350.0, 31_000.0])
@pytest.mark.parametrize("voltage", [200.0, 300.0])
def test_the_defocus_of_filtered_noise_is_found_to_a_few_angstrom(
    defocus: float, voltage: float, generator: torch.Generator
) -> None:
    """The CTF is that of the simulator, which follows an independent program."""
    config = SimulateConfig(size=512, pixel_size_angstrom=PIXEL, voltage_kv=voltage)
    ctf = contrast_transfer(config, MicrographPhysics(defocus, 0.0, 0.0), CPU)
    noise = torch.randn(2, 512, 512, generator=generator)
    image = torch.fft.irfft2(torch.fft.rfft2(noise[0]) * ctf) + 0.3 * noise[1]
    fit = fit_ctf(ring_power(image, PIXEL), Optics(voltage, 2.7, 0.07))
    assert fit.found
    assert fit.defocus_angstrom == pytest.approx(defocus, abs=60)
    assert fit.resolution_angstrom is not None
    assert fit.resolution_angstrom < 5


def test_the_defocus_of_simulated_particles_is_found(
    micrograph: tuple[Tensor, Tensor, float],
) -> None:
    raw, truth, defocus = micrograph
    assert fit_ctf(ring_power(truth, PIXEL), OPTICS).defocus_angstrom == pytest.approx(
        defocus, abs=30
    )
    fit = fit_ctf(ring_power(raw, PIXEL), OPTICS)
    assert fit.found
    assert fit.defocus_angstrom == pytest.approx(defocus, abs=200)


def test_noise_has_no_rings(generator: torch.Generator) -> None:
    fits = [
        fit_ctf(ring_power(torch.randn(300, 320, generator=generator), PIXEL), OPTICS)
        for _ in range(20)
    ]
    assert not any(fit.found for fit in fits)


def test_a_smooth_filter_leaves_the_rings_as_they_are(
    micrograph: tuple[Tensor, Tensor, float],
) -> None:
    raw, _, defocus = micrograph
    rings = ring_power(raw, PIXEL)
    filtered = ring_power(gaussian_lowpass(raw, 1.0), PIXEL)
    assert fit_ctf(filtered, OPTICS).defocus_angstrom == pytest.approx(
        fit_ctf(rings, OPTICS).defocus_angstrom, abs=50
    )
    before, after = (visibility(power, OPTICS, defocus) for power in (rings, filtered))
    assert before.keys() == after.keys()
    assert (5.0, 4.0) in before
    for band in before:
        assert after[band].correlation == pytest.approx(before[band].correlation, abs=0.05)


def test_the_modulation_is_that_of_the_power(generator: torch.Generator) -> None:
    """Power 1 + CTF²/2 has a mean of 5/4; narrow rings are blurred a little."""
    config = SimulateConfig(size=1024, pixel_size_angstrom=PIXEL)
    ctf = contrast_transfer(config, MicrographPhysics(20_000.0, 0.0, 0.0), CPU)
    spectrum = torch.fft.rfft2(torch.randn(1024, 1024, generator=generator))
    image = torch.fft.irfft2(spectrum * (1 + 0.5 * ctf.square()).sqrt())
    measured: Visibility = visibility(ring_power(image, PIXEL), OPTICS, 20_000.0)[10.0, 7.0]
    assert measured.modulation == pytest.approx(0.4, abs=0.06)


def test_scores_and_their_warning(
    tmp_path: Path,
    micrograph: tuple[Tensor, Tensor, float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw, _, defocus = micrograph
    write_image(tmp_path / "raw" / "a.mrc", raw)
    write_image(tmp_path / "denoised" / "a.mrc", gaussian_lowpass(raw, 1.0))
    arguments = ["evaluate", "ctf", "--denoised", str(tmp_path / "denoised"), "--raw"]
    arguments += [str(tmp_path / "raw"), "--out", str(tmp_path / "ctf.json")]
    assert run([*arguments, "--amplitude-contrast", "0.07"]) == 0
    printed = capsys.readouterr()
    assert "estimate the CTF from raw micrographs" in printed.err
    assert "found in 1 of 1 raw" in printed.out
    told = json.loads((tmp_path / "ctf.json").read_text())
    assert told["micrographs"][0]["raw"]["defocus_angstrom"] == pytest.approx(defocus, abs=200)
    assert list(told["bands"]) == ["30-15", "15-10", "10-7", "7-5", "5-4"]


def _without_pixel_size(path: Path) -> None:
    with mrcfile.open(path, "r+") as file:
        file.voxel_size = 0.0


@pytest.mark.filterwarnings("ignore:.*assuming 1 Å/px")
def test_what_has_no_ctf(tmp_path: Path, generator: torch.Generator) -> None:
    image = torch.randn(64, 64, generator=generator)
    case = Case(write_image(tmp_path / "d.mrc", image), write_image(tmp_path / "r.mrc", image))
    with pytest.raises(InputFileError, match="resolves too little"):
        score_ctf([case], OPTICS)
    _without_pixel_size(tmp_path / "d.mrc")
    _without_pixel_size(tmp_path / "r.mrc")
    with pytest.raises(InputFileError, match="no pixel size"):
        score_ctf([case], OPTICS)
    with pytest.raises(ConfigError, match="--raw"):
        score_ctf(match_cases(tmp_path / "d.mrc"), OPTICS)
