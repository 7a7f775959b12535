"""Losses once more, image by image in numpy, written from their formulas and from other packages.

Each takes images [h, w] and returns a number. Rings are masks of the full spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim
from skimage.metrics import structural_similarity

Image = NDArray[np.float64]


def _difference_of_spectra(p: Image, t: Image) -> NDArray[np.complex128]:
    return np.fft.fft2(p) - np.fft.fft2(t)


def frequencies(shape: tuple[int, ...]) -> Image:
    """Return cycles/px of the full spectrum."""
    fy, fx = np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), indexing="ij")
    return np.hypot(fy, fx)


def ring_masks(shape: tuple[int, ...], bins: int, high: float) -> Iterator[NDArray[np.bool_]]:
    """Yield the bins of each ring that ends at `high` at most and holds any."""
    k = frequencies(shape)
    for ring in range(2 * bins):
        low_edge, high_edge = ring / (2 * bins), (ring + 1) / (2 * bins)
        inside = (k >= low_edge) & (k < high_edge)
        if high_edge <= high + 1e-9 and inside.any():
            yield inside


def _mse(p: Image, t: Image) -> float:
    return float(np.mean((p - t) ** 2))


def _l1(p: Image, t: Image) -> float:
    return float(np.mean(np.abs(p - t)))


def _charbonnier(p: Image, t: Image, eps: float = 1e-3) -> float:
    return float(np.mean(np.sqrt((p - t) ** 2 + eps**2) - eps))


def _huber(p: Image, t: Image, delta: float = 1.0) -> float:
    d = np.abs(p - t)
    return float(np.mean(np.where(d <= delta, d**2 / 2, delta * (d - delta / 2))))


def _log_power(p: Image, t: Image) -> float:
    columns = p.shape[1] // 2 + 1
    logs = [np.log(1 + np.abs(np.fft.fft2(image)[:, :columns]) ** 2) for image in (p, t)]
    return float(np.mean((logs[0] - logs[1]) ** 2))


def _amplitude(p: Image, t: Image) -> float:
    difference = np.abs(np.fft.fft2(p)) - np.abs(np.fft.fft2(t))
    return float(np.sum(difference**2) / p.size**2)


def _complex(p: Image, t: Image, power: float = 1.0, low: float = 0.0, high: float = 1.0) -> float:
    k = frequencies(p.shape)
    weights = np.maximum(k, 1 / max(p.shape)) ** power * ((k >= low) & (k <= high))
    weights /= weights.mean()
    return float(np.sum(weights * np.abs(_difference_of_spectra(p, t)) ** 2) / p.size**2)


def _fourier_l1(p: Image, t: Image) -> float:
    return float(np.sum(np.abs(_difference_of_spectra(p, t))) / p.size**1.5)


def _whitened(p: Image, t: Image, bins: int = 64, floor: float = 1e-6) -> float:
    error = np.abs(_difference_of_spectra(p, t)) ** 2 / p.size
    rings = ring_masks(p.shape, bins, 1.0)
    return float(sum(np.log(error[r].mean() + floor) * r.sum() / p.size for r in rings))


def _phase(p: Image, t: Image, low: float = 0.0, high: float = 0.5) -> float:
    k = frequencies(p.shape)
    turn = np.angle(np.fft.fft2(p)) - np.angle(np.fft.fft2(t))
    return float(1 - np.cos(turn)[(k > 0) & (k >= low) & (k <= high)].mean())


def _frc(p: Image, t: Image, bins: int = 64, high: float = 0.5) -> float:
    f, g = (np.fft.fft2(image - image.mean()) for image in (p, t))
    f[0, 0] = g[0, 0] = 0
    correlations = []
    for ring in ring_masks(p.shape, bins, high):
        norm = np.linalg.norm(f[ring]) * np.linalg.norm(g[ring])
        if np.any(frequencies(p.shape)[ring] > 0):
            correlations.append(np.vdot(g[ring], f[ring]).real / norm)
    return float(1 - np.mean(correlations))


def _ncc(p: Image, t: Image) -> float:
    return float(1 - np.corrcoef(p.ravel(), t.ravel())[0, 1])


def _ssim(p: Image, t: Image, data_range: float = 8.0, sigma: float = 1.5) -> float:
    value = structural_similarity(  # type: ignore[no-untyped-call]
        p,
        t,
        data_range=data_range,
        gaussian_weights=True,
        sigma=sigma,
        use_sample_covariance=False,
    )
    return float(1 - value)


def _ms_ssim(p: Image, t: Image, data_range: float = 8.0) -> float:
    images = [torch.from_numpy(image)[None, None] for image in (p, t)]
    window = torch.from_numpy(_window_1d(1.5))[None, None, None]  # its own has but 32 bits
    return float(1 - ms_ssim(*images, data_range=data_range, win=window))


def _gradient_l2(p: Image, t: Image) -> float:
    squares = [np.sum(np.diff(p - t, axis=axis) ** 2) for axis in (0, 1)]
    return float(sum(squares) / p.size)


def slopes(image: Image) -> tuple[Image, Image]:
    """Return the Sobel slopes across and down, pixel by pixel."""
    padded = np.pad(image, 1, mode="edge")
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    across, down = np.empty_like(image), np.empty_like(image)
    for y, x in np.ndindex(*image.shape):
        around = padded[y : y + 3, x : x + 3]
        across[y, x], down[y, x] = np.sum(around * kernel), np.sum(around * kernel.T)
    return across, down


def _sobel_l1(p: Image, t: Image) -> float:
    return float(sum(np.mean(np.abs(slope)) for slope in slopes(p - t)))


def _sobel_magnitude(p: Image, t: Image) -> float:
    sizes = [np.hypot(*slopes(image)) for image in (p, t)]
    return float(np.mean(np.abs(sizes[0] - sizes[1])))


def _pool(image: Image) -> Image:
    height, width = (-(-side // 2) for side in image.shape)
    blocks = [
        [image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() for x in range(width)]
        for y in range(height)
    ]
    return np.array(blocks)


def _pyramid(p: Image, t: Image, levels: int = 3) -> float:
    values = []
    for _ in range(levels):
        values.append(_l1(p, t))
        p, t = _pool(p), _pool(t)
    return float(np.mean(values))


def _blur(image: Image) -> Image:
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    padded = np.pad(image, 2, mode="edge")
    blurred = np.empty_like(image)
    for y, x in np.ndindex(*image.shape):
        blurred[y, x] = np.sum(padded[y : y + 5, x : x + 5] * kernel)
    return blurred


def _bandpass(p: Image, t: Image, levels: int = 3) -> float:
    values = []
    for _ in range(levels):
        low_p, low_t = _blur(p), _blur(t)
        values.append(_l1(p - low_p, t - low_t))
        p, t = low_p[::2, ::2], low_t[::2, ::2]
    return float(np.mean([*values, _l1(p, t)]))


def _ring_powers(p: Image, a: Image, b: Image, bins: int, high: float) -> list[tuple[float, ...]]:
    """Return share, power of p and cross power of a and b of each ring."""
    f, g, h = (np.fft.fft2(image) for image in (p, a, b))
    moving = frequencies(p.shape) > 0
    rings = [ring & moving for ring in ring_masks(p.shape, bins, high) if np.any(ring & moving)]
    total = sum(ring.sum() for ring in rings)
    return [
        (
            ring.sum() / total,
            float(np.mean(np.abs(f[ring]) ** 2) / p.size),
            float(np.mean((g[ring] * h[ring].conj()).real) / p.size),
        )
        for ring in rings
    ]


def _power_debiased(p: Image, a: Image, b: Image, bins: int = 64, high: float = 0.5) -> float:
    return sum(share * (q - Q) ** 2 for share, q, Q in _ring_powers(p, a, b, bins, high))


def _amplitude_debiased(
    p: Image, a: Image, b: Image, bins: int = 64, high: float = 0.5, floor: float = 0.3
) -> float:
    total = 0.0
    for share, q, Q in _ring_powers(p, a, b, bins, high):
        root = math.sqrt(q + floor)
        total += share * (root + (Q + floor) / root - 2 * math.sqrt(max(Q + floor, 0)))
    return total


def _log_power_debiased(
    p: Image, a: Image, b: Image, bins: int = 64, high: float = 0.5, floor: float = 0.3
) -> float:
    total = 0.0
    for share, q, Q in _ring_powers(p, a, b, bins, high):
        ratio = (Q + floor) / (q + floor)
        log = math.log(max(Q + floor, floor / 10) / (q + floor))
        total += share * (ratio - log - 1)
    return total


def _window_1d(sigma: float) -> Image:
    reach = int(3.5 * sigma + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum())


def _local(values: Image, sigma: float) -> Image:
    window = np.outer(_window_1d(sigma), _window_1d(sigma))
    windows = np.lib.stride_tricks.sliding_window_view(values, window.shape)
    return np.einsum("yxij,ij->yx", windows, window)


def _gradient_magnitude_debiased(p: Image, a: Image, b: Image, sigma: float = 4.0) -> float:
    found = np.sum(np.square(slopes(p)), axis=0)
    wanted = np.sum(np.multiply(slopes(a), slopes(b)), axis=0)
    return float(np.mean(_local(found - wanted, sigma) ** 2))


def _ssim_debiased(
    p: Image, a: Image, b: Image, data_range: float = 8.0, sigma: float = 8.0
) -> float:
    def covariance(x: Image, y: Image) -> Image:
        return _local(x * y, sigma) - _local(x, sigma) * _local(y, sigma)

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    t = (a + b) / 2
    mp, mt = _local(p, sigma), _local(t, sigma)
    mean_power = np.maximum(_local(a, sigma) * _local(b, sigma), 0)
    luminance = (2 * mp * mt + c1) / (mp**2 + mean_power + c1)
    contrast = (2 * covariance(p, t) + c2) / (
        covariance(p, p) + np.maximum(covariance(a, b), 0) + c2
    )
    return float(1 - np.mean(luminance * contrast))


REFERENCES: dict[str, Callable[..., Any]] = {
    "mse": _mse,
    "l1": _l1,
    "charbonnier": _charbonnier,
    "huber": _huber,
    "log-power": _log_power,
    "amplitude": _amplitude,
    "complex": _complex,
    "fourier-l1": _fourier_l1,
    "whitened": _whitened,
    "phase": _phase,
    "frc": _frc,
    "ncc": _ncc,
    "ssim": _ssim,
    "ms-ssim": _ms_ssim,
    "gradient-l2": _gradient_l2,
    "sobel-l1": _sobel_l1,
    "sobel-magnitude": _sobel_magnitude,
    "pyramid": _pyramid,
    "bandpass": _bandpass,
    "power-debiased": _power_debiased,
    "amplitude-debiased": _amplitude_debiased,
    "log-power-debiased": _log_power_debiased,
    "gradient-magnitude-debiased": _gradient_magnitude_debiased,
    "ssim-debiased": _ssim_debiased,
}
"""By name in the registry; losses that wrap another are around L1."""
