"""Global alignment of a simulated movie: error of the shifts, worth of the half-sums, time, memory.

T20S particles (atoms of 3J9I from the folder that `CLEARICE_TEST_DATA` names, or `--specimen
barrel`) drift through the window of the detector, so that frames differ at their edges too; counts
are those behind a detector gain whose inverse corrects them. One case leaves 2 % of the gain
uncorrected and has hot pixels. Every measurement runs in a process of its own, so that its peak
memory is its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from torch import Tensor

from clearice import io
from clearice.benchmark.timing import context
from clearice.config import SimulateConfig
from clearice.fourier import highpass, ring_frequencies, ring_sums, shift_spectrum
from clearice.metrics import frc
from clearice.prepare.motion import alignment_band, estimate_shifts, shifted_spectrum
from clearice.simulate import load_specimen, simulate_movie

PIXEL = 1.315
GAIN = 0.03
# Field beyond each edge of the detector, and what is left out of comparisons, px.
MARGIN = 64
BANDS_ANGSTROM = ((100, 30), (30, 15), (15, 8), (8, 5), (5, 3.5))
HIGHPASS_ANGSTROM = 400


def path_px(drift_angstrom: float, frames: int, jitter_px: float, seed: int) -> Tensor:
    """Return positions that slow down and tremble a little, about their mean."""
    generator = torch.Generator().manual_seed(seed)
    moment = (torch.arange(frames, dtype=torch.float64) + 0.5) / frames
    distance = drift_angstrom / PIXEL * (1 - torch.exp(-4 * moment)) / (1 - math.exp(-4))
    path = distance[:, None] * torch.tensor([math.sin(0.7), math.cos(0.7)], dtype=torch.float64)
    if drift_angstrom > 0:
        path += jitter_px * torch.randn(frames, 2, generator=generator, dtype=torch.float64)
    return path - path.mean(0)


def field(specimen: str, size: int, device: torch.device) -> Tensor:
    """Return the expected counts of the whole exposure on a field larger than the detector."""
    config = SimulateConfig(
        specimen=specimen, size=size + 2 * MARGIN, frames=2, seed=5, pixel_size_angstrom=PIXEL
    )
    atoms = load_specimen(config.specimen, config.seed)
    return simulate_movie(atoms, config, 0, device).truth


def write_movie(
    truth: Tensor, path: Tensor, folder: Path, residual: bool, device: torch.device
) -> None:
    """Write counts as int8 and the gain reference that corrects all of it, or all but 2 %."""
    size = truth.shape[0] - 2 * MARGIN
    generator = torch.Generator(device).manual_seed(11)

    def pattern(deviation: float) -> Tensor:
        noise = torch.randn(size, size, generator=generator, device=device)
        return (1 + deviation * noise).clamp(min=0.2)

    gain = pattern(GAIN)
    left = pattern(0.02) if residual else torch.ones_like(gain)
    hot = torch.rand(size, size, generator=generator, device=device) < (1e-4 if residual else 0)
    spectrum = torch.fft.rfft2(truth.to(device) / len(path))
    window = slice(MARGIN, MARGIN + size)
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(path), size, size)
    with mrcfile.new_mmap(folder / "movie.mrc", shape, mrc_mode=0, overwrite=True) as handle:
        handle.voxel_size = PIXEL
        handle.set_image_stack()
        for index, position in enumerate(path.tolist()):
            torch.manual_seed(1000 + index)
            moved = shift_spectrum(spectrum, truth.shape[1], tuple(position))
            seen = torch.fft.irfft2(moved, s=tuple(truth.shape))[window, window]
            counts = torch.poisson((seen * gain * left).clamp(min=0) + 20.0 * hot)
            handle.data[index] = counts.clamp(max=127).cpu().numpy().astype(np.int8)
    io.write_mrc(folder / "gain.mrc", 1 / gain, PIXEL)


def corrected(folder: Path, index: int, gain: Tensor) -> Tensor:
    """Return one frame, gain-corrected, where the gain reference is."""
    return io.open_movie(folder / "movie.mrc").frames[index].to(gain) * gain


def even_sum(folder: Path, gain: Tensor, shifts: Tensor) -> Tensor:
    """Return the sum of the even frames, each shifted."""
    size = gain.shape[0]
    total = torch.zeros(size, size // 2 + 1, dtype=torch.complex64, device=gain.device)
    for index in range(0, len(shifts), 2):
        total += shifted_spectrum(corrected(folder, index, gain), shifts[index])
    return torch.fft.irfft2(total, s=(size, size)).cpu()


def measure(folder: Path, device: torch.device) -> dict[str, Any]:
    """Estimate the motion of the movie in a folder and shift all of its frames, with the clock."""

    def resident() -> float:
        # Unlike getrusage's, this peak does not start from that of the parent process.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024**2

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    gain = io.read_micrograph(folder / "gain.mrc").pixels.to(device)
    movie = io.open_movie(folder / "movie.mrc")
    frames = len(movie.frames)
    before, start = resident(), clock()
    band = alignment_band(movie.height, movie.width, PIXEL, device=device)
    size = len(band.index)
    spectra = torch.empty(frames, size, dtype=torch.complex64, device=device)
    for index in range(frames):
        spectra[index] = band.spectrum(corrected(folder, index, gain))
    transformed = clock()
    motion = estimate_shifts(spectra, band)
    estimated, peak = clock(), resident()
    for index in range(frames):
        shifted_spectrum(corrected(folder, index, gain), motion.shifts_px[index])
    shifted = clock()
    result = {
        "significant": motion.significant,
        "reason": motion.reason,
        "uncertainty_px": motion.uncertainty_px,
        "iterations": motion.iterations,
        "seconds": {
            "spectra": transformed - start,
            "estimate": estimated - transformed,
            "shifts": shifted - estimated,
            "all": shifted - start,
        },
        "peak_memory_GiB": {
            "before": before,
            "spectra_and_estimate": peak,
            "with_shifts": resident(),
        },
        "shifts_px": motion.shifts_px.tolist(),
    }
    if device.type == "cuda":
        result["peak_device_memory_GiB"] = torch.cuda.max_memory_allocated(device) / 1024**3
    return result


def worth(image: Tensor, truth: Tensor) -> dict[str, float]:
    """Correlate a half-sum with the truth, over all frequencies and by band."""
    inner = slice(MARGIN, -MARGIN)
    pair = [highpass(i, PIXEL / HIGHPASS_ANGSTROM)[inner, inner] for i in (image, truth)]
    taper = torch.hann_window(len(pair[0]))
    rings = len(pair[0]) // 2
    levelled, expected = (image * taper[:, None] * taper for image in pair)
    sums = ring_sums(levelled, expected, rings)
    resolution = PIXEL / ring_frequencies(rings)
    result = {"all": float(torch.corrcoef(torch.stack([i.flatten() for i in pair]))[0, 1])}
    for low, high in BANDS_ANGSTROM:
        band = (resolution <= low) & (resolution > high)
        pooled = sums.map(partial(_total, band))
        result[f"{low}-{high} Å"] = float(frc(pooled)[0])
    return result


def _total(band: Tensor, values: Tensor) -> Tensor:
    return values[band].sum()[None]


def fastest(folder: Path, device: torch.device, repeats: int) -> dict[str, Any]:
    """Measure in processes of their own, and return the one that others disturbed least."""
    command = [sys.executable, __file__, "--measure", str(folder), "--device", str(device)]
    results = []
    for _ in range(repeats):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results.append(json.loads(done.stdout))
    return min(results, key=lambda result: result["seconds"]["all"])


def run_case(
    folder: Path, truth: Tensor, path: Tensor, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Measure one movie and compare with what is known about it."""
    result = fastest(folder, device, repeats)
    shifts = torch.tensor(result.pop("shifts_px"), dtype=torch.float64)
    error = shifts + path
    gain = io.read_micrograph(folder / "gain.mrc").pixels.to(device)
    inner = truth[MARGIN:-MARGIN, MARGIN:-MARGIN]
    halves = {"aligned": shifts, "ideal": -path, "unaligned": torch.zeros_like(path)}
    correlation = {
        name: worth(even_sum(folder, gain, given), inner) for name, given in halves.items()
    }
    ideal = correlation["ideal"]
    return {
        "path_rms_px": float(path.square().mean().sqrt()),
        "error_rms_px": float(error.square().mean().sqrt()),
        "error_largest_px": float(error.abs().max()),
        **result,
        "correlation_with_truth": correlation,
        "aligned_over_ideal": {k: v / ideal[k] for k, v in correlation["aligned"].items()},
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/motion.json"))
    parser.add_argument("--work", type=Path, default=Path("motion-work"))
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--specimen", help="`barrel` or a file; default: 3J9I of the test data")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--drifts", type=float, nargs="+", default=[0.0, 5.0, 20.0], help="Å")
    parser.add_argument("--jitter", type=float, default=0.1, help="px, on top of the drift")
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Simulate, measure and write the table."""
    given = arguments()
    if given.measure:
        print(json.dumps(measure(given.measure, given.device)))
        return
    specimen = given.specimen or f"{os.environ['CLEARICE_TEST_DATA']}/3j9i.pdb.gz"
    truth = field(specimen, given.size, given.device)
    cases = [(drift, False) for drift in given.drifts] + [(5.0, True)]
    results = {}
    for drift, residual in cases:
        name = f"drift {drift:g} Å" + (", gain residual 2 %, hot pixels" if residual else "")
        path = path_px(drift, given.frames, given.jitter, seed=3)
        write_movie(truth, path, given.work, residual, given.device)
        results[name] = run_case(given.work, truth, path, given.device, given.repeats)
        row = results[name]
        print(name, {k: row[k] for k in ("error_rms_px", "reason", "seconds")}, flush=True)
        print("  ", row["aligned_over_ideal"], row["peak_memory_GiB"], flush=True)
    settings = {
        "size": given.size,
        "frames": given.frames,
        "dose_e_per_A2": SimulateConfig().dose_e_per_A2,
        "pixel_size_angstrom": PIXEL,
        "gain": GAIN,
        "jitter_px": given.jitter,
        "repeats": given.repeats,
        "threads": torch.get_num_threads(),
    }
    io.ensure_folder(given.out.parent)
    io.write_json(
        given.out, {"context": context(given.device), "settings": settings, "cases": results}
    )


if __name__ == "__main__":
    main()
