"""Global motion of a movie: how far each frame has to be shifted to lie on the others.

Model: Fourier pixel k of frame t is S(k) exp(−2πi k·p_t) + G(k) + noise, with the specimen S at
p_t, a fixed pattern G of the detector (what the gain reference left over) and counting noise. For a
Gaussian S of power s in each ring, noise power n and pattern power g, the log-likelihood of the
shifts d = −p is, up to a constant and for a weak pattern,

    L(d) = Σ_k w (|Σ_t F_t exp(−2πi k·d_t)|² − g |Σ_t exp(−2πi k·d_t)|²),  w = s / (n (n + T s)).

Without the pattern its gradient is that of the correlation of each frame with the sum of all
others, so the reference is as good as the movie allows, and w is a Wiener filter that lets each
ring count for what it knows. All powers come from the movie: s and n from how much better the
frames agree once aligned, g from frequencies where no specimen is left. Nothing pins the frames to
where they are: the pattern's own correlation at zero shift is subtracted, and both axes of the
spectrum (rows and columns that read out alike) and the slowest frequencies (illumination) are left
out. A path of frames that are near one another is smoothed as much as its own roughness, against
the known precision of one frame, calls for (restricted maximum likelihood).

Two estimates from disjoint halves of the Fourier pixels are made first: motion counts as found when
each raises the likelihood of the other's pixels, and they tell how precise it is.

`estimate_global_motion` of torch-motion-correction 0.6 was tried first; it correlates each frame
with the middle frame alone, to whole pixels, which at 1 e/Å² a frame is neither precise nor safe.

Use: one `alignment_band`, its `spectrum` of each frame, `estimate_shifts`, and `shifted` (or
`shifted_spectrum`, to add up groups of frames before the inverse transform) in a second pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from clearice.fourier import frequency_grid, shift_keeping_power
from clearice.prepare.alignment import RINGS, FrameStack, Refined, refine, search

# Counting noise buries what one frame shows beyond this, and memory grows with its square.
_FINEST_ANGSTROM = 10.0
_COARSEST_ANGSTROM = 300.0
# The search starts from what survives large errors of the path.
_SEARCH_ANGSTROM = 20.0
_LARGEST_SIGNAL_FREQUENCY = 0.33  # cycles/px
_PATTERN_FREQUENCIES = (0.35, 0.48)  # cycles/px, beyond any signal of a single frame
_PATTERN_SAMPLES = 65_536
_AXIS_PX = 1
_FEWEST_PIXELS = 64
_OUTLIER_SIGMAS = 6.0
_OUTLIER_SHARE = 0.001
# Motion must be this many standard errors more likely than none.
_MOTION_SIGMAS = 3.0


@dataclass(frozen=True)
class AlignmentBand:
    """The Fourier pixels that shifts are measured on, for frames of one shape.

    Attributes:
        height: Rows of a frame, px.
        width: Columns of a frame, px.
        pixel_size_angstrom: Å/px.
        index: Where they stand in a flattened `rfft2`; first the signal's, then the pattern's.
        frequency: (row, column) frequency of the signal's, cycles/px.
        ring: Ring of each of the signal's.
    """

    height: int
    width: int
    pixel_size_angstrom: float
    index: Int[Tensor, "n"]
    frequency: Float[Tensor, "m 2"]
    ring: Int[Tensor, "m"]

    def spectrum(self, frame: Float[Tensor, "h w"]) -> Complex[Tensor, "n"]:
        """Return the spectrum of one gain-corrected frame at these pixels, without hot pixels."""
        flat = torch.fft.rfft2(_without_outliers(frame)).flatten()
        return flat[self.index] / math.sqrt(frame.numel())


@lru_cache(maxsize=4)
def alignment_band(
    height: int,
    width: int,
    pixel_size_angstrom: float,
    *,
    device: torch.device | None = None,
) -> AlignmentBand:
    """Choose the Fourier pixels to align on: 300 to 10 Å, off the axes, and a sample near Nyquist.

    Args:
        height: Rows of a frame, px.
        width: Columns of a frame, px.
        pixel_size_angstrom: Å/px.
        device: Where the frames are.
    """
    rows = torch.fft.fftfreq(height, device=device)
    columns = torch.fft.rfftfreq(width, device=device)
    frequency = frequency_grid(height, width, device=device)
    off_axes = (rows.abs()[:, None] * height > _AXIS_PX) & (columns[None, :] * width > _AXIS_PX)
    finest = min(pixel_size_angstrom / _FINEST_ANGSTROM, _LARGEST_SIGNAL_FREQUENCY)
    signal = off_axes & (frequency < finest)
    signal &= frequency > pixel_size_angstrom / _COARSEST_ANGSTROM
    lowest, highest = _PATTERN_FREQUENCIES
    pattern = (off_axes & (frequency > lowest) & (frequency < highest)).flatten().nonzero()[:, 0]
    pattern = pattern[:: max(1, len(pattern) // _PATTERN_SAMPLES)]
    # Rings of less than two Fourier pixels hold too few to tell signal from chance.
    rings = max(1, min(RINGS, int(finest * min(height, width) / 2)))
    row, column = signal.nonzero(as_tuple=True)
    return AlignmentBand(
        height,
        width,
        pixel_size_angstrom,
        index=torch.cat([row * len(columns) + column, pattern]),
        frequency=torch.stack([rows[row], columns[column]], 1),
        ring=(frequency[signal] / finest * rings).long().clamp(max=rings - 1),
    )


def _without_outliers(frame: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Return the frame about its mean with 0 for pixels that no count explains."""
    sample = frame[::8, ::8].float()
    centred = frame.float() - sample.mean()
    distance = centred[::8, ::8].abs()
    # Of sparse electron events most pixels are 0, and one count alone is many deviations.
    usual = distance.flatten().kthvalue(math.ceil((1 - _OUTLIER_SHARE) * distance.numel())).values
    spread = distance[distance <= usual].square().mean().sqrt()
    limit = torch.maximum(_OUTLIER_SIGMAS * spread, usual)
    return centred.where(centred.abs() <= limit, 0.0)


@dataclass(frozen=True)
class Motion:
    """Shifts that bring the frames of a movie onto each other.

    Attributes:
        shifts_px: (rows, columns) to shift each frame by, px; their mean is 0.
        uncertainty_px: Standard deviation of one coordinate, px: what the likelihood and the
            roughness of the path lead to expect, or by what two independent estimates differ, if
            that is more.
        significant: Motion was found; otherwise all shifts are 0.
        reason: What was found, in words.
        iterations: Rounds of refinement after the search.
    """

    shifts_px: Float[Tensor, "t 2"]
    uncertainty_px: float
    significant: bool
    reason: str
    iterations: int

    @property
    def margin_px(self) -> tuple[int, int]:
        """Rows and columns at each edge that some frame fills from the opposite edge."""
        rows, columns = self.shifts_px.abs().amax(0).ceil().int().tolist()
        return rows, columns


def estimate_shifts(
    spectra: Complex[Tensor, "t n"], band: AlignmentBand, *, max_shift_angstrom: float = 100.0
) -> Motion:
    """Estimate the shifts of all frames of a movie.

    Args:
        spectra: `band.spectrum` of each frame.
        band: Where the spectra were taken.
        max_shift_angstrom: Largest jump that is looked for, Å.

    Returns:
        Shifts on the CPU, in float64.
    """
    signal = len(band.frequency)
    if signal < _FEWEST_PIXELS:
        still = torch.zeros(len(spectra), 2, dtype=torch.float64)
        return Motion(still, math.inf, False, "frames too small to align", 0)
    pattern = _pattern_power(spectra[:, signal:])
    whole = FrameStack(spectra[:, :signal], band.frequency, band.ring, pattern)
    # Neighbours along a row go to different halves, so that both see every frequency.
    halves = [whole.part(slice(first, None, 2)) for first in (0, 1)]
    found = [_estimate(half, band, max_shift_angstrom) for half in halves]
    paths = [half.path for half in found]
    scatter = float((paths[0] - paths[1]).square().mean().sqrt()) / 2
    evidence = torch.cat([_evidence(halves[i], paths[i], paths[1 - i]) for i in (0, 1)])
    deviations = float(evidence.sum() / evidence.square().sum().sqrt().clamp(min=1e-30))
    if not deviations > _MOTION_SIGMAS:
        # Of two independent estimates, as of all the pixels.
        expected = math.sqrt(sum(half.deviation_px**2 for half in found)) / 2
        uncertainty = max(scatter, expected)
        reason = (
            f"no motion beyond its uncertainty of {uncertainty:.2f} px"
            if math.isfinite(uncertainty)
            else "too little signal to tell motion"
        )
        return Motion(torch.zeros_like(paths[0]), uncertainty, False, reason, 0)
    final = refine(whole, (paths[0] + paths[1]) / 2)
    uncertainty = max(scatter, final.deviation_px)
    extent = float(torch.linalg.vector_norm(final.path.amax(0) - final.path.amin(0)))
    reason = f"moved by {extent:.1f} px, known to {uncertainty:.2f} px"
    return Motion(final.path, uncertainty, True, reason, final.iterations)


def _estimate(stack: FrameStack, band: AlignmentBand, max_shift_angstrom: float) -> Refined:
    frequency = torch.linalg.vector_norm(stack.frequency, dim=1)
    slow = stack.part(frequency < band.pixel_size_angstrom / _SEARCH_ANGSTROM)
    reach = max_shift_angstrom / band.pixel_size_angstrom
    return refine(stack, search(slow, band.height, band.width, reach))


def _evidence(
    stack: FrameStack, own: Float[Tensor, "t 2"], other: Float[Tensor, "t 2"]
) -> Float[Tensor, "n"]:
    """Return how much likelier the other half's path makes these pixels than no motion does."""
    powers = stack.powers_at(stack.sums(own), stack.frame_power())
    return stack.evidence(other, torch.zeros_like(other), powers)


def shifted_spectrum(
    frame: Float[Tensor, "h w"], shift_px: Float[Tensor, "2"]
) -> Complex[Tensor, "h wf"]:
    """Return the half-spectrum of a shifted frame; sums of them need one inverse transform.

    The shift is exact in Fourier space, so white noise stays white. The frame keeps its size and
    what leaves at one edge enters at the opposite one, as in RELION: coordinates stay those of the
    detector, and noise has the same variance everywhere, which a fill or a crop by frame would not
    give. In that margin (`Motion.margin_px`) the signal is a mixture of both edges, nearly the same
    one in interleaved groups; leave it out where that matters.
    """
    rows, columns = shift_px.tolist()
    return shift_keeping_power(torch.fft.rfft2(frame), frame.shape[1], (rows, columns))


def shifted(frame: Float[Tensor, "h w"], shift_px: Float[Tensor, "2"]) -> Float[Tensor, "h w"]:
    """Return a frame shifted by (rows, columns) px, see `shifted_spectrum`."""
    return torch.fft.irfft2(shifted_spectrum(frame, shift_px), s=tuple(frame.shape))


def _pattern_power(spectra: Complex[Tensor, "t n"]) -> float:
    """Return the power that all frames share at these pixels, or 0 if it may be chance."""
    frames, samples = spectra.shape
    if samples == 0:
        return 0.0
    power = float(spectra.abs().square().mean())
    shared = float(spectra.sum(0).abs().square().mean()) / frames - power
    chance = 3 * power / math.sqrt(samples)
    return shared / (frames - 1) if shared > chance else 0.0
