"""The likelihood of a movie's shifts: its powers, its slope, and a search over large jumps.

`clearice.prepare.motion` has the model and its symbols.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from clearice.prepare.paths import Smoother

RINGS = 48
_FIRST_BLOCKS = 8
_SEARCH_ROUNDS = 10
_MAX_ITERATIONS = 30
# Then the stiffness of the path is held, or it might go to and fro between two values.
_SETTLING_ITERATIONS = 5
_CONVERGED_PX = 0.01
_HALVINGS = 4
# A jump must be this much more likely than staying, as a difference of log-likelihoods.
_JUMP_NATS = 8.0
_LEAST_NOISE = 0.05
_FRAMES_AT_A_TIME = 8

Spectrum = Complex[Tensor, "n"]


@dataclass(frozen=True)
class Powers:
    """Power of specimen and noise in one frame, for each ring.

    Attributes:
        signal: s, not below 0.
        noise: n.
        frames: T.
    """

    signal: Float[Tensor, "rings"]
    noise: Float[Tensor, "rings"]
    frames: int

    @property
    def weights(self) -> Float[Tensor, "rings"]:
        """w = s / (n (n + T s)); 0 for a ring without pixels."""
        scale = self.noise * (self.noise + self.frames * self.signal)
        return torch.where(scale > 0, self.signal / scale.clamp(min=1e-30), 0.0)


@dataclass(frozen=True)
class FrameStack:
    """Spectra of all frames of a movie at some Fourier pixels.

    Attributes:
        spectra: F_t(k).
        frequency: k as (row, column), cycles/px.
        ring: Ring of each pixel.
        pattern: g, the power of the fixed pattern.
    """

    spectra: Complex[Tensor, "t n"]
    frequency: Float[Tensor, "n 2"]
    ring: Int[Tensor, "n"]
    pattern: float

    def part(self, chosen: slice | Bool[Tensor, "n"]) -> FrameStack:
        """Return the same frames at some of the Fourier pixels."""
        return FrameStack(
            self.spectra[:, chosen], self.frequency[chosen], self.ring[chosen], self.pattern
        )

    def chunks(self) -> Iterator[slice]:
        """Yield a few frames at a time: phases of all of them would double the memory."""
        for first in range(0, len(self.spectra), _FRAMES_AT_A_TIME):
            yield slice(first, first + _FRAMES_AT_A_TIME)

    def phases(self, path: Float[Tensor, "t 2"]) -> Complex[Tensor, "t n"]:
        """Return exp(−2πi k·d) for each shift."""
        angle = (-2 * math.pi * path).to(self.frequency) @ self.frequency.T
        return torch.polar(torch.ones_like(angle), angle)

    def sums(self, path: Float[Tensor, "t 2"]) -> tuple[Spectrum, Spectrum]:
        """Return the sum of the shifted frames and that of the shifts' phases alone."""
        aligned = torch.zeros_like(self.spectra[0])
        total = torch.zeros_like(aligned)
        for chunk in self.chunks():
            phases = self.phases(path[chunk])
            total += phases.sum(0)
            aligned += (phases * self.spectra[chunk]).sum(0)
        return aligned, total

    def ring_count(self) -> Int[Tensor, "rings"]:
        """Return how many of the pixels are in each ring."""
        return torch.bincount(self.ring, minlength=RINGS)

    def ring_mean(self, values: Float[Tensor, "n"]) -> Float[Tensor, "rings"]:
        """Average over rings, in float64; 0 for a ring without pixels."""
        sums = torch.bincount(self.ring, weights=values.double(), minlength=RINGS)
        return sums / self.ring_count().clamp(min=1)

    def frame_power(self) -> Float[Tensor, "rings"]:
        """Return the mean power of one frame."""
        total = torch.zeros_like(self.spectra[0].real)
        for chunk in self.chunks():
            total += torch.view_as_real(self.spectra[chunk]).square().sum((0, 2))
        return self.ring_mean(total) / len(self.spectra)

    def powers(
        self, signal: Float[Tensor, "rings"], power: Float[Tensor, "rings"], samples: float
    ) -> Powers:
        """Split the power of a frame into specimen, pattern and noise.

        Chance gives a ring some signal. It would get weight, and false shifts would feed it, so two
        standard errors are taken off.

        Args:
            signal: Unbiased estimate.
            power: Of one frame.
            samples: Independent products averaged for `signal` in each Fourier pixel.
        """
        error = power / (samples * self.ring_count().clamp(min=1)).sqrt()
        signal = (signal - 2 * error).clamp(min=0)
        noise = power - signal - self.pattern
        return Powers(signal, noise.clamp(min=_LEAST_NOISE * power), len(self.spectra))

    def powers_at(self, sums: tuple[Spectrum, Spectrum], power: Float[Tensor, "rings"]) -> Powers:
        """Estimate the powers from how much frames add up: E|ΣF|² = T²s + Tn + g|Σe|²."""
        frames = len(self.spectra)
        added, pattern = (self.ring_mean(total.abs().square()) for total in sums)
        excess = added - frames * power - self.pattern * (pattern - frames)
        return self.powers(excess / (frames * (frames - 1)), power, frames * (frames - 1))

    def likelihood(self, sums: tuple[Spectrum, Spectrum], powers: Powers) -> float:
        """Return L, nats."""
        gain = sums[0].abs().square() - self.pattern * sums[1].abs().square()
        return float(powers.weights[self.ring] @ gain.double())

    def evidence(
        self,
        path: Float[Tensor, "t 2"],
        other: Float[Tensor, "t 2"],
        powers: Powers,
    ) -> Float[Tensor, "n"]:
        """Return what each Fourier pixel adds to L on one path more than on another, nats."""
        gain = []
        for shifts in (path, other):
            aligned, phases = self.sums(shifts)
            gain.append(aligned.abs().square() - self.pattern * phases.abs().square())
        return powers.weights[self.ring] * (gain[0] - gain[1])

    def score(
        self, path: Float[Tensor, "t 2"], sums: tuple[Spectrum, Spectrum], powers: Powers
    ) -> Float[Tensor, "t 2"]:
        """Return the slope of L with respect to each shift, 1/px."""
        weighted = 4 * math.pi * powers.weights[self.ring][:, None] * self.frequency
        weighted = weighted.to(self.frequency)
        reference, pattern = sums[0].conj(), self.pattern * sums[1].conj()
        rows = []
        for chunk in self.chunks():
            cross = (reference * self.spectra[chunk] - pattern) * self.phases(path[chunk])
            rows.append(cross.imag @ weighted)
        return torch.cat(rows)

    def information(self, powers: Powers) -> tuple[Float[Tensor, "2"], float]:
        """Return the Fisher information of one shift along each axis, and a safe step.

        The information is that about the mean of all frames, 1/px²; the step is a quarter of the
        wavelength that carries it, px.
        """
        expected = (powers.weights * powers.signal)[self.ring]
        moments = expected @ self.frequency.double().square()
        information = 8 * math.pi**2 * len(self.spectra) * moments
        mean_square = float(moments.sum() / expected.sum().clamp(min=1e-30))
        return information, 0.25 / math.sqrt(mean_square) if mean_square > 0 else 0.0


def centred(path: Float[Tensor, "t 2"]) -> Float[Tensor, "t 2"]:
    """Return a path about its mean, which no alignment can tell."""
    return path - path.mean(0)


@dataclass(frozen=True)
class Refined:
    """The most likely path near another.

    Attributes:
        path: (rows, columns) of each frame, px.
        deviation_px: Standard deviation of one coordinate, if the path is as rough as it seems.
        iterations: Rounds that it took.
    """

    path: Float[Tensor, "t 2"]
    deviation_px: float
    iterations: int


def refine(stack: FrameStack, path: Float[Tensor, "t 2"]) -> Refined:
    """Climb to the most likely smooth path near the given one.

    Every frame takes a Newton step with the expected curvature; then the path is smoothed with the
    precision that this curvature stands for, until no frame moves by 0.01 px. Far from the top the
    curvature is underestimated, so a step that leads down is halved.
    """
    smoother = Smoother.of(len(path))
    power, sums = stack.frame_power(), stack.sums(path)
    stiffness = 0.0
    for iteration in range(1, _MAX_ITERATIONS + 1):
        powers = stack.powers_at(sums, power)
        information, longest = stack.information(powers)
        if not bool((information > 0).all()):
            return Refined(path, math.inf, iteration)
        step = stack.score(path, sums, powers).double() / information
        moved = path + step.clamp(-longest, longest).to(path)
        precision = information.to(path)
        if iteration <= _SETTLING_ITERATIONS:
            stiffness = smoother.stiffness(moved, precision)
        moved = centred(smoother.smooth(moved, stiffness))
        prior = partial(smoother.penalty, stiffness=stiffness, information=precision)
        moved, moved_sums = _uphill(stack, powers, prior, (path, sums), moved)
        change = float((moved - path).abs().max())
        path, sums = moved, moved_sums
        if change < _CONVERGED_PX:
            break
    kept = float(smoother.kept(stiffness).mean())
    return Refined(path, math.sqrt(kept * float((1 / information).mean())), iteration)


def _uphill(
    stack: FrameStack,
    powers: Powers,
    prior: Callable[[Float[Tensor, "t 2"]], float],
    start: tuple[Float[Tensor, "t 2"], tuple[Spectrum, Spectrum]],
    path: Float[Tensor, "t 2"],
) -> tuple[Float[Tensor, "t 2"], tuple[Spectrum, Spectrum]]:
    """Return the path and its sums, nearer to the start if it is less likely than that."""
    origin, sums = start
    here = stack.likelihood(sums, powers) - prior(origin)
    sums = stack.sums(path)
    for _ in range(_HALVINGS):
        if stack.likelihood(sums, powers) - prior(path) >= here:
            break
        path = (origin + path) / 2
        sums = stack.sums(path)
    return path, sums


def search(stack: FrameStack, height: int, width: int, reach_px: float) -> Float[Tensor, "t 2"]:
    """Find large motion, first of blocks of neighbouring frames, then of single ones.

    Each block moves to the peak of its correlation with all the others, if that is clearly better
    than where it is. Frequencies count for what neighbouring frames share as they are, so jumps
    from frame to frame must on the whole be shorter than the coarsest features with contrast.

    Args:
        stack: Frames, at frequencies low enough to survive a path that is wrong.
        height: Rows of a frame, px.
        width: Columns of a frame, px.
        reach_px: Largest jump, px.
    """
    frames = len(stack.spectra)
    path = torch.zeros(frames, 2, dtype=torch.float64)
    if len(stack.ring) == 0:
        return path
    grid = _CorrelationGrid.of(stack.frequency, height, width, reach_px)
    power = stack.frame_power()
    blocks = min(_FIRST_BLOCKS, frames)
    while True:
        for _ in range(_SEARCH_ROUNDS):
            jumps = _jumps(stack, path, blocks, grid, power)
            # All move at once, and with them what each was compared with.
            moves = (blocks - 1) / blocks * jumps
            path = centred(path + _interpolation(frames, blocks) @ moves)
            if not bool(jumps.any()):
                break
        if blocks == frames:
            return path
        blocks = min(2 * blocks, frames)


def _interpolation(frames: int, blocks: int) -> Float[Tensor, "t blocks"]:
    """Return the weights that carry values at the middle of blocks to frames, linearly."""
    frame = (torch.arange(frames, dtype=torch.float64) + 0.5) * blocks / frames - 0.5
    block = torch.arange(blocks, dtype=torch.float64)
    return (1 - (frame.clamp(0, blocks - 1)[:, None] - block).abs()).clamp(min=0)


@dataclass(frozen=True)
class _CorrelationGrid:
    """Where spectra stand in a small `rfft2`, and which of its pixels are within reach.

    Attributes:
        index: Place of each Fourier pixel in the flattened half-spectrum.
        shape: Rows and columns of the correlation map.
        shift_px: (row, column) of each of its pixels within reach, px.
        near: Where those stand in the flattened map; the first one is no shift.
    """

    index: Int[Tensor, "n"]
    shape: tuple[int, int]
    shift_px: Float[Tensor, "m 2"]
    near: Int[Tensor, "m"]

    @staticmethod
    def of(
        frequency: Float[Tensor, "n 2"], height: int, width: int, reach_px: float
    ) -> _CorrelationGrid:
        row = (frequency[:, 0] * height).round().long()
        column = (frequency[:, 1] * width).round().long()
        rows, columns = 2 * int(row.abs().max()) + 2, 2 * int(column.max()) + 2
        down = torch.fft.fftfreq(rows, device=frequency.device) * height
        right = torch.fft.fftfreq(columns, device=frequency.device) * width
        distance = torch.hypot(down[:, None], right[None, :])
        y, x = (distance <= reach_px).nonzero(as_tuple=True)
        return _CorrelationGrid(
            row % rows * (columns // 2 + 1) + column,
            (rows, columns),
            torch.stack([down[y], right[x]], 1),
            y * columns + x,
        )

    def peaks(
        self, cross: Complex[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b 2"], Float[Tensor, "b"]]:
        """Return where 2 Re Σ cross exp(−2πi k·d) is largest, and by how much it exceeds d = 0."""
        rows, columns = self.shape
        half = cross.new_zeros(len(cross), rows * (columns // 2 + 1))
        half[:, self.index] = cross.conj()
        maps = torch.fft.irfft2(half.reshape(len(cross), rows, -1), s=self.shape, norm="forward")
        best = maps.flatten(1)[:, self.near].max(1)
        return self.shift_px[best.indices], best.values - maps[:, 0, 0]


def _jumps(
    stack: FrameStack,
    path: Float[Tensor, "t 2"],
    blocks: int,
    grid: _CorrelationGrid,
    power: Float[Tensor, "rings"],
) -> Float[Tensor, "blocks 2"]:
    """Return how far each block should move, 0 where nothing clearly better is within reach."""
    frames = len(stack.spectra)
    phases = stack.phases(path)
    aligned = stack.spectra * phases
    # What neighbours share is the signal wherever the rest of the path may be.
    shared = (aligned[1:].conj() * aligned[:-1]).real
    shared = shared - stack.pattern * (phases[1:].conj() * phases[:-1]).real
    powers = stack.powers(stack.ring_mean(shared.mean(0)), power, 2 * (frames - 1))
    block = torch.arange(frames, device=aligned.device) * blocks // frames
    sums = [
        values.new_zeros(blocks, values.shape[1]).index_add_(0, block, values)
        for values in (aligned, phases)
    ]
    others = [(total.sum(0) - total).conj() for total in sums]
    cross = others[0] * sums[0] - stack.pattern * others[1] * sums[1]
    jump, gain = grid.peaks(cross * powers.weights[stack.ring].to(stack.frequency))
    return jump.where((gain > _JUMP_NATS)[:, None], 0.0).to(path)
