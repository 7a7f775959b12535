"""One movie: gain, defects, motion and exposure, then groups of frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clearice import io
from clearice.config import PrepareConfig
from clearice.data import dose_weighted_mean
from clearice.errors import InputFileError
from clearice.prepare.defects import DefectMap, defect_map, find_hot_pixels
from clearice.prepare.exposure import ExposureWeights, exposure_weights
from clearice.prepare.gain import (
    GainReference,
    check_gain,
    correct,
    fit_gain,
    load_gain,
    require_right_gain,
)
from clearice.prepare.motion import Motion, alignment_band, estimate_shifts
from clearice.prepare.split import Correction, corrected_frames, split
from clearice.types import EventFractions, HalfSet, InputItem, Movie

# Read ahead, raw, corrected, and their spectra and filters.
_FRAMES_AT_A_TIME = 14
# Sums, normalised and as they are written, with what is measured on them.
_COPIES_OF_GROUPS = 4
# Spectra to align on: as a list, as a stack, and shifted.
_COPIES_OF_SPECTRA = 4
# As many movies tell a bad gain reference from bad movies.
_LOOK_AT = 8


@dataclass(frozen=True)
class PreparedMicrograph:
    """What became of a movie or a pair.

    Attributes:
        half_set: Groups of its frames.
        moved_px: (rows, columns) by which the content of each frame had moved, if it had.
        motion: What was found of it, in words, if it was looked for.
        dose_e_per_A2: Total dose, e/Å², if known.
        hot_pixels: How many were replaced; None if too many stood out to be defects.
    """

    half_set: HalfSet
    moved_px: tuple[tuple[float, float], ...] | None = None
    motion: str | None = None
    dose_e_per_A2: float | None = None
    hot_pixels: int | None = 0


class MovieRecipe:
    """How the movies of a session are corrected and split; threads may share it.

    Args:
        config: Groups, gain, defects, alignment, exposure.
        device: Where frames are corrected and transformed.
    """

    def __init__(self, config: PrepareConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._lock = threading.Lock()
        self._gains: dict[bool, GainReference] = {}
        self._fitted: dict[tuple[int, int, bool], tuple[GainReference | None, DefectMap | None]]
        self._fitted = {}

    def open(self, item: InputItem) -> Movie:
        """Open a movie, with the pixel size of the user, of the list or of the file.

        Raises:
            InputFileError: The movie cannot be used.
        """
        config = self._config
        size = config.pixel_size_angstrom or item.pixel_size_angstrom
        events = EventFractions(config.frames_per_fraction, config.upsampling)
        return io.open_movie(item.path, size, events, item.fallback_pixel_size_angstrom)

    def prepare(self, name: str, item: InputItem) -> PreparedMicrograph:
        """Correct a movie and split it into groups.

        Raises:
            InputFileError: The movie, the gain reference or the defects cannot be used, or frames
                cannot be weighted by exposure since the dose is not known.
        """
        movie = self.open(item)
        gain, defects = self._references(movie)
        dose = self._dose(movie, item)
        weights = self._exposure(movie, dose)

        def apply(frame: Tensor) -> Tensor:
            return correct(frame.to(self._device), gain, defects)

        if self._config.align == "none" and weights is None:
            half_set = split(movie, self._config.groups, name=name, correct=apply)
            mean = dose_weighted_mean(half_set.groups, half_set.weights)
            hot, count = self._hot_pixels(mean, movie)
            groups = torch.stack([hot.repair(group) for group in half_set.groups])
            half_set = replace(half_set, groups=groups)
            return PreparedMicrograph(half_set, hot_pixels=count, dose_e_per_A2=dose)
        # Shifts and weights would spread hot pixels: they are found in a pass of their own.
        motion, mean = self._look_ahead(movie, apply)
        shifts = motion.shifts_px if motion is not None and motion.significant else None
        hot, count = self._hot_pixels(mean, movie)
        half_set = split(
            movie,
            self._config.groups,
            name=name,
            correct=lambda frame: hot.repair(apply(frame)),
            shifts_px=shifts,
            weights=weights,
        )
        moved = None if shifts is None else tuple((-r, -c) for r, c in shifts.tolist())
        found = None if motion is None else motion.reason
        return PreparedMicrograph(half_set, moved, found, dose, count)

    def _look_ahead(
        self, movie: Movie, apply: Correction
    ) -> tuple[Motion | None, Float[Tensor, "h w"]]:
        """Return the motion, if it is to be undone, and the mean frame."""
        band = None
        if self._config.align == "global":
            band = alignment_band(
                movie.height, movie.width, movie.pixel_size_angstrom, device=self._device
            )
        spectra = []
        total = torch.zeros(movie.height, movie.width, device=self._device)
        for frame in corrected_frames(movie, apply):
            total += frame
            if band is not None:
                spectra.append(band.spectrum(frame))
        mean = total / len(movie.frames)
        if band is None:
            return None, mean
        return estimate_shifts(torch.stack(spectra), band), mean

    def _hot_pixels(self, mean: Float[Tensor, "h w"], movie: Movie) -> tuple[DefectMap, int | None]:
        """Find pixels that stand out in the mean frame, as RELION and MotionCor do.

        Returns:
            How to replace them, and how many there are; None if too many stand out to be hot.
        """
        bad = find_hot_pixels(mean) if self._config.hot_pixels else torch.zeros_like(mean) > 0
        if bad is None:
            return defect_map(torch.zeros_like(mean) > 0, movie.path), None
        found = defect_map(bad, movie.path)
        return found, len(found.bad)

    def peak_bytes(self, items: Sequence[InputItem]) -> int:
        """Return what making one movie takes of main memory, bytes, going by the first that opens.

        That is its groups, a few frames on their way, what is kept of each frame to align it, and
        the whole movie where it is compressed as a whole.
        """
        for item in items:
            try:
                movie = self.open(item)
            except InputFileError:
                continue
            pixels = movie.height * movie.width
            needed = 4 * pixels * (_COPIES_OF_GROUPS * self._config.groups + _FRAMES_AT_A_TIME)
            if self._config.align == "global":
                band = alignment_band(movie.height, movie.width, movie.pixel_size_angstrom)
                needed += 8 * _COPIES_OF_SPECTRA * len(band.index) * len(movie.frames)
            if item.path.suffix.lower() in {".gz", ".bz2"}:
                needed += 4 * pixels * len(movie.frames)
            return needed
        return 1

    def check_gain(self, items: Sequence[InputItem], say: Callable[[str], None]) -> None:
        """Compare the gain reference with the raw frames of the first movie that can be read.

        Raises:
            InputFileError: It is turned, or applied in the wrong sense, beyond doubt; or it fits
                none of the movies.
        """
        failure: InputFileError | None = None
        for item in items[:_LOOK_AT]:
            try:
                movie = self.open(item)
                gain, _ = self._references(movie)
                mean = self._raw_mean(movie)
            except InputFileError as error:
                failure = failure or error
                continue
            assert gain is not None  # or there would be nothing to check
            check = check_gain(mean, gain)
            require_right_gain(check, gain)
            say(check.text)
            return
        if failure is not None:
            raise failure

    def _raw_mean(self, movie: Movie) -> Float[Tensor, "h w"]:
        total = torch.zeros(movie.height, movie.width, device=self._device)
        for frame in corrected_frames(movie, lambda frame: frame.to(self._device)):
            total += frame
        return total / len(movie.frames)

    def _references(self, movie: Movie) -> tuple[GainReference | None, DefectMap | None]:
        """Return the gain reference and the defects that fit a movie, read once."""
        key = (movie.height, movie.width, movie.electron_events)
        with self._lock:
            if key not in self._fitted:
                self._fitted[key] = self._fit(movie)
            return self._fitted[key]

    def _fit(self, movie: Movie) -> tuple[GainReference | None, DefectMap | None]:
        config, gain = self._config, None
        bad: Bool[Tensor, "h w"] = torch.zeros(movie.height, movie.width, dtype=torch.bool)
        source = config.defects or config.gain or movie.path
        if config.gain is not None:
            events = movie.electron_events
            if events not in self._gains:
                self._gains[events] = load_gain(
                    config.gain,
                    mode=config.gain_mode,
                    rotation=config.gain_rotation,
                    flip=config.gain_flip,
                    electron_events=events,
                )
            gain = fit_gain(self._gains[events], movie.path, movie.height, movie.width)
            bad |= gain.dead
            gain = gain.to(self._device)
        if config.defects is not None:
            bad |= io.read_defects(config.defects, (movie.height, movie.width))
        defects = defect_map(bad, source).to(self._device) if bool(bad.any()) else None
        return gain, defects

    def _dose(self, movie: Movie, item: InputItem) -> float | None:
        """Return the total dose that the user, a list or the file names, e/Å²."""
        if self._config.dose_e_per_A2 is not None:
            return self._config.dose_e_per_A2
        per_frame = item.dose_per_frame_e_per_A2 or movie.dose_per_frame_e_per_A2
        return None if per_frame is None else per_frame * len(movie.frames)

    def _exposure(self, movie: Movie, dose: float | None) -> ExposureWeights | None:
        if not self._config.dose_weight:
            return None
        if dose is None:
            raise InputFileError(movie.path, "has no known dose to weigh frames by", "give --dose")
        return exposure_weights(
            len(movie.frames),
            dose / len(movie.frames),
            (movie.height, movie.width),
            movie.pixel_size_angstrom,
            self._config.voltage_kv,
            device=self._device,
        )
