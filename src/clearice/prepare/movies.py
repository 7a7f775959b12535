"""One movie: gain, defects, motion and exposure, then groups of frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from clearice import io
from clearice.config import PrepareConfig
from clearice.errors import ConfigError, InputFileError
from clearice.prepare.defects import DefectMap, defect_map
from clearice.prepare.exposure import ExposureWeights, exposure_weights
from clearice.prepare.gain import (
    GainReference,
    check_gain,
    correct,
    fit_gain,
    load_gain,
    require_right_gain,
)
from clearice.prepare.motion import alignment_band, estimate_shifts
from clearice.prepare.split import corrected_frames, split
from clearice.types import EventFractions, HalfSet, InputItem, Movie

# Read ahead, raw, corrected, and their spectra and filters.
_FRAMES_AT_A_TIME = 10


@dataclass(frozen=True)
class PreparedMovie:
    """What became of a movie.

    Attributes:
        half_set: Groups of its frames.
        moved_px: (rows, columns) by which the content of each frame had moved, if it was looked
            for.
    """

    half_set: HalfSet
    moved_px: tuple[tuple[float, float], ...] | None


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

    def prepare(self, name: str, item: InputItem) -> PreparedMovie:
        """Correct a movie and split it into groups.

        Raises:
            InputFileError: The movie, the gain reference or the defects cannot be used.
            ConfigError: Frames cannot be weighted by exposure, since the dose is not known.
        """
        movie = self.open(item)
        gain, defects = self._references(movie)

        def apply(frame: Tensor) -> Tensor:
            return correct(frame.to(self._device), gain, defects)

        shifts = None
        if self._config.align == "global":
            band = alignment_band(
                movie.height, movie.width, movie.pixel_size_angstrom, device=self._device
            )
            spectra = [band.spectrum(frame) for frame in corrected_frames(movie, apply)]
            shifts = estimate_shifts(torch.stack(spectra), band).shifts_px
        half_set = split(
            movie,
            self._config.groups,
            name=name,
            correct=apply,
            shifts_px=shifts,
            weights=self._exposure(movie, item),
        )
        moved = None if shifts is None else tuple((-r, -c) for r, c in shifts.tolist())
        return PreparedMovie(half_set, moved)

    def peak_bytes(self, item: InputItem | None) -> int:
        """Return what making one movie like this takes of main memory, bytes.

        That is its groups (sums, and their normalised copy), and a few frames on their way.
        """
        if item is None:
            return 1
        movie = self.open(item)
        frame = 4 * movie.height * movie.width
        return frame * (3 * self._config.groups + _FRAMES_AT_A_TIME)

    def check_gain(self, item: InputItem, say: Callable[[str], None]) -> None:
        """Compare the gain reference with the raw frames of one movie.

        Raises:
            InputFileError: It is turned, or applied in the wrong sense, beyond doubt.
        """
        movie = self.open(item)
        gain, _ = self._references(movie)
        if gain is None:
            return
        total = torch.zeros(movie.height, movie.width, device=self._device)
        for frame in corrected_frames(movie, lambda frame: frame.to(self._device)):
            total += frame
        check = check_gain(total / len(movie.frames), gain)
        require_right_gain(check, gain)
        say(check.text)

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

    def _exposure(self, movie: Movie, item: InputItem) -> ExposureWeights | None:
        if not self._config.dose_weight:
            return None
        total = self._config.dose_e_per_A2
        dose = (
            total / len(movie.frames)
            if total is not None
            else item.dose_per_frame_e_per_A2 or movie.dose_per_frame_e_per_A2
        )
        if dose is None:
            raise ConfigError(f"--dose-weight: the dose of {movie.path} is not known; give --dose")
        return exposure_weights(
            len(movie.frames),
            dose,
            (movie.height, movie.width),
            movie.pixel_size_angstrom,
            self._config.voltage_kv,
            device=self._device,
        )


def first_usable(recipe: MovieRecipe, items: Sequence[InputItem]) -> InputItem | None:
    """Return the first movie that can be opened; the others are reported when they are prepared."""
    for item in items:
        try:
            recipe.open(item)
        except InputFileError:
            continue
        return item
    return None
