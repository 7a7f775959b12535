"""The explicit registry of losses."""

from __future__ import annotations

from typing import Final

from clearice.errors import UnknownNameError
from clearice.losses import debiased, fourier, frc, gradient, pixel, pyramid, structure
from clearice.losses.info import LossInfo, Verdict

_ANCHOR: Final = "beside mse, for instance 'mse + 0.05 frc'"
_NOT_POWER: Final = "'mse + 0.05 frc' or complex; with two independent targets log-power-debiased"
_SYMMETRIC: Final = "mse, wherever counts are few and noise is skewed"
_TWO: Final = "debiased with two independent targets: "
# What a loss compares that no single pixel has.
_FOURIER: Final = "Fourier transforms, in which every pixel is in every value"
_WINDOWS: Final = "windows of neighbouring pixels"
_GRADIENTS: Final = "differences of neighbouring pixels"
_SCALES: Final = "means of neighbouring pixels"
_WHOLE: Final = "whole patches"

LOSSES: Final[dict[str, LossInfo]] = {
    "mse": LossInfo(
        pixel.mse,
        "mean (p − t)²",
        "Lehtinen et al. 2018",
        Verdict.SAFE,
        "the minimiser is E[signal | input], the same as with clean targets",
        spans="",
    ),
    "l1": LossInfo(
        pixel.l1,
        "mean |p − t|",
        "Lehtinen et al. 2018, section 3",
        Verdict.NEAR_SAFE,
        "the minimiser is the median of the target given the input, which skewed noise shifts",
        _SYMMETRIC,
        spans="",
    ),
    "charbonnier": LossInfo(
        pixel.charbonnier,
        "mean √((p − t)² + eps²) − eps",
        "Charbonnier et al. 1994",
        Verdict.NEAR_SAFE,
        "the minimiser lies between the median and the mean of the target given the input, and "
        "skewed noise shifts the median",
        _SYMMETRIC,
        spans="",
    ),
    "huber": LossInfo(
        pixel.huber,
        "mean of d²/2 where |d| ≤ delta, else delta (|d| − delta/2); d = p − t",
        "Huber 1964",
        Verdict.NEAR_SAFE,
        "the minimiser lies between the mean and the median of the target given the input, and "
        "skewed noise shifts the median",
        _SYMMETRIC,
        spans="",
    ),
    "log-power": LossInfo(
        fourier.log_power,
        "mean over rfft2 bins of (log(1+|F p|²) − log(1+|F t|²))²",
        "E log of an exponential variable = −γ",
        Verdict.BIASED,
        "where there is no signal it asks for 0.561 of the target's noise power, so the output "
        "keeps noise-like power",
        _NOT_POWER,
        free="every phase",
        spans=_FOURIER,
    ),
    "amplitude": LossInfo(
        fourier.amplitude,
        "Σ (|F p| − |F t|)² / pixels²",
        "mean of a Rayleigh variable = √(π/4) σ",
        Verdict.BIASED,
        "where there is no signal it asks for 0.785 of the target's noise power, so the output "
        "keeps noise-like power",
        "'mse + 0.05 frc' or complex; with two independent targets amplitude-debiased",
        free="every phase",
        spans=_FOURIER,
    ),
    "complex": LossInfo(
        fourier.complex_l2,
        "Σ w(k) |F p − F t|² / pixels², w(k) ~ k^power from low to high cycles/px, mean 1",
        "Parseval; Lehtinen et al. 2018",
        Verdict.SAFE,
        "the weights are fixed, so at each frequency that counts the minimiser is "
        "E[signal | input], the same as with clean targets",
        spans=_FOURIER,
    ),
    "fourier-l1": LossInfo(
        fourier.fourier_l1,
        "Σ |F p − F t| / pixels^1.5",
        "Cho et al. 2021",
        Verdict.NEAR_SAFE,
        "the minimiser is the geometric median of each Fourier bin of the target given the input; "
        "noise is nearly symmetric there, whatever it is in a pixel",
        "mse or complex",
        spans=_FOURIER,
    ),
    "whitened": LossInfo(
        fourier.whitened,
        "Σ over rings of share · log(floor + mean |F p − F t|² / pixels)",
        "profile likelihood of white noise in each ring",
        Verdict.NEAR_SAFE,
        "the minimiser is a mean of targets weighted by 1/(power of the residual in the ring): "
        "E[signal | input] up to the relative spread of that power: about √(2/bins in the ring) "
        "where noise rules it, and more where the signal is left open",
        "mse or complex",
        spans=_FOURIER,
    ),
    "phase": LossInfo(
        fourier.phase,
        "1 − mean of Re F p F t* / (|F p| |F t|) over bins from low to high cycles/px",
        "Kuglin & Hines 1975",
        Verdict.DIRECTION,
        "the minimiser has the phases of E[F t / |F t| given the input], those of the signal, and "
        "any amplitude in each bin",
        "beside mse, for instance 'mse + 0.05 phase'",
        free="the amplitude of every bin",
        spans=_FOURIER,
    ),
    "frc": LossInfo(
        frc.frc,
        "1 − mean over rings of Re Σ F p F t* / √(Σ|F p|² Σ|F t|²)",
        "Saxton & Baumeister 1982",
        Verdict.DIRECTION,
        "the minimiser has the direction of E[signal | input] in each ring where noise rules the "
        "target, and any amplitude",
        _ANCHOR,
        free="the amplitude of every ring",
        spans=_FOURIER,
    ),
    "ncc": LossInfo(
        frc.ncc,
        "1 − Pearson's r of the pixels",
        "Pearson 1895",
        Verdict.DIRECTION,
        "the minimiser is proportional to E[signal | input] where noise rules the target, with any "
        "gain and offset",
        "beside mse, for instance 'mse + 0.05 ncc'",
        free="gain and offset",
        spans=_WHOLE,
    ),
    "ssim": LossInfo(
        structure.ssim,
        "1 − mean of (2μpμt+C1)(2cov+C2) / ((μp²+μt²+C1)(var p+var t+C2))",
        "Wang et al. 2004",
        Verdict.BIASED,
        "its contrast term asks for the variance of the noisy target, a gain of √(1 + 1/SNR) on "
        "the signal",
        "frc with mse; with two independent targets ssim-debiased",
        spans=_WINDOWS,
    ),
    "ms-ssim": LossInfo(
        structure.ms_ssim,
        "1 − Π over 5 scales of (mean contrast term)^w, times the luminance term of the coarsest",
        "Wang, Simoncelli & Bovik 2003",
        Verdict.BIASED,
        "its contrast terms ask for the variance of the noisy target at each scale, a gain of "
        "√(1 + 1/SNR) on the signal",
        "frc with mse; with two independent targets pyramid(ssim-debiased)",
        spans=_WINDOWS,
    ),
    "gradient-l2": LossInfo(
        gradient.gradient_l2,
        "Σ over right and lower neighbours of (difference of p − t)² / pixels",
        "Parseval; Lehtinen et al. 2018",
        Verdict.SAFE,
        "it is quadratic in a linear image of the prediction: the minimiser is E[signal | input] "
        "up to an offset",
        free="the mean of the image",
        spans=_GRADIENTS,
    ),
    "sobel-l1": LossInfo(
        gradient.sobel_l1,
        "mean |∂x(p − t)| + |∂y(p − t)|, Sobel filters over 8",
        "median of a difference",
        Verdict.NEAR_SAFE,
        "the minimiser is the median of the target's gradient given the input; independent noise "
        "is symmetric there, but a skewed signal is not",
        "gradient-l2",
        free="the mean of the image",
        spans=_GRADIENTS,
    ),
    "sobel-magnitude": LossInfo(
        gradient.sobel_magnitude,
        "mean | |∇p| − |∇t| |, Sobel filters over 8",
        "median of a Rayleigh variable = √(2 log 2) σ",
        Verdict.BIASED,
        "the minimiser is the median of the target's gradient magnitude, which noise inflates: "
        "1.18 of its standard deviation where there is no signal",
        "gradient-l2 or sobel-l1; with two independent targets gradient-magnitude-debiased",
        free="the direction of every gradient",
        spans=_GRADIENTS,
    ),
    "pyramid": LossInfo(
        pyramid.pyramid,
        "mean of a loss over levels of 2×2 means",
        "linear: leaves the minimiser of the loss inside",
        Verdict.SAFE,
        "averaging is linear: the minimiser is that of the loss inside",
        wraps=True,
        spans=_SCALES,
    ),
    "bandpass": LossInfo(
        pyramid.bandpass,
        "mean of a loss over bands (image − blur) of a pyramid and the low-pass remainder",
        "Burt & Adelson 1983",
        Verdict.SAFE,
        "the bands are linear: the minimiser is that of the loss inside",
        wraps=True,
        spans=_SCALES,
    ),
    "power-debiased": LossInfo(
        debiased.power_debiased,
        "Σ over rings of share · (q − Q)²; q = mean |F p|²/pixels, Q = mean Re F a F b*/pixels",
        "Bregman divergence, Banerjee et al. 2005",
        Verdict.SAFE,
        f"{_TWO}the minimiser has E[power of the signal | input] in each ring, the same as with "
        "clean targets",
        free="every phase",
        targets=2,
        spans=_FOURIER,
    ),
    "amplitude-debiased": LossInfo(
        debiased.amplitude_debiased,
        "Σ over rings of share · (√(q+c) − √(Q+c))²/√(q+c); q and Q as in power-debiased",
        "Bregman divergence, Banerjee et al. 2005",
        Verdict.SAFE,
        f"{_TWO}the minimiser has E[power of the signal | input] in each ring, the same as with "
        "clean targets",
        free="every phase",
        targets=2,
        spans=_FOURIER,
    ),
    "log-power-debiased": LossInfo(
        debiased.log_power_debiased,
        "Σ over rings of share · (r − log r − 1); r = (Q+c)/(q+c), q and Q as in power-debiased",
        "Itakura & Saito 1968; Banerjee et al. 2005",
        Verdict.SAFE,
        f"{_TWO}the minimiser has E[power of the signal | input] in each ring, the same as with "
        "clean targets",
        free="every phase",
        targets=2,
        spans=_FOURIER,
    ),
    "gradient-magnitude-debiased": LossInfo(
        debiased.gradient_magnitude_debiased,
        "mean (⟨|∇p|²⟩ − ⟨∇a·∇b⟩)² under a Gaussian window",
        "E ∇a·∇b = |∇signal|²",
        Verdict.SAFE,
        f"{_TWO}the minimiser has E[|∇signal|² | input] under each window, the same as with clean "
        "targets",
        free="the direction of every gradient",
        targets=2,
        spans=_GRADIENTS,
    ),
    "ssim-debiased": LossInfo(
        debiased.ssim_debiased,
        "1 − SSIM with cov(a, b) for var t and μa μb for μt²",
        "Wang et al. 2004; E cov(a, b) = var signal",
        Verdict.NEAR_SAFE,
        f"{_TWO}the contrast comes out too low, in the order of 1/(4π sigma²) for strong signals, "
        "5 % at an SNR of 0.1 with the default window",
        "mse, or a wider window (sigma)",
        targets=2,
        spans=_WINDOWS,
    ),
}


def find_loss(name: str) -> LossInfo:
    """Look a loss up by name.

    Raises:
        UnknownNameError: No such loss; the message lists those there are.
    """
    if name not in LOSSES:
        raise UnknownNameError("loss", name, LOSSES)
    return LOSSES[name]
