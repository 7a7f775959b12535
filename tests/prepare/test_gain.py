"""Gain references: turned as other programs do, checked against frames that they shaped."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from clearice import io
from clearice.errors import ConfigError, InputFileError
from clearice.prepare import gain as gain_module
from clearice.prepare.defects import defect_map
from clearice.prepare.gain import (
    GainReference,
    check_gain,
    correct,
    fit_gain,
    load_gain,
    orient,
    require_right_gain,
)
from tolerances import RELATIVE

_EIGHT = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (1, 1), (1, 2)]
_FILE = Path("gain.mrc")
_MOVIE = Path("movie.mrc")


def _factors(generator: torch.Generator, height: int = 128, width: int = 128) -> Tensor:
    return 1 + 0.08 * torch.randn(height, width, generator=generator).clamp(-4, 4)


def _mean_frame(
    factors: Tensor, generator: torch.Generator, counts: float = 80.0, frames: int = 40
) -> Tensor:
    """Return the mean of raw frames of a detector that needs these factors."""
    height, width = factors.shape
    dose = counts * (1 + 0.3 * torch.linspace(0, 1, width)[None, :]).expand(height, width)
    return torch.poisson(dose / factors, generator=generator) / frames


def _write(path: Path, image: Tensor) -> Path:
    io.write_mrc(path, image, None)
    return path


def _by_definition(image: Tensor, rotation: int, flip: int) -> Tensor:
    """Turn and mirror pixel by pixel, as RELION's loops do."""
    for _ in range(rotation):
        height, width = image.shape
        turned = torch.empty(width, height)
        for y in range(height):
            for x in range(width):
                turned[x, height - 1 - y] = image[y, x]
        image = turned
    height, width = image.shape
    mirrored = torch.empty(height, width)
    for y in range(height):
        for x in range(width):
            from_y = height - 1 - y if flip == 1 else y
            mirrored[y, x] = image[from_y, width - 1 - x if flip == 2 else x]
    return mirrored


@pytest.mark.parametrize("rotation", range(4))
@pytest.mark.parametrize("flip", range(3))
def test_turns_and_mirrors_as_relion(rotation: int, flip: int) -> None:
    image = torch.arange(15.0).reshape(3, 5)
    assert torch.equal(orient(image, rotation, flip), _by_definition(image, rotation, flip))


def test_half_a_turn_and_three_quarters_by_their_own_loops() -> None:
    image = torch.arange(15.0).reshape(3, 5)
    half, three = orient(image, 2, 0), orient(image, 3, 0)
    for y in range(3):
        for x in range(5):
            assert half[2 - y, 4 - x] == image[y, x]
            assert three[4 - x, y] == image[y, x]


def test_the_eight_orientations_are_eight() -> None:
    image = torch.arange(9.0).reshape(3, 3)
    assert len({tuple(orient(image, *way).flatten().tolist()) for way in _EIGHT}) == 8


@pytest.mark.parametrize(
    ("name", "mode", "events", "divides"),
    [
        ("g.mrc", "auto", False, False),
        ("g.mrc", "auto", True, True),
        ("g.gain", "auto", True, False),
        ("g.GAIN", "auto", True, False),
        ("g.gain", "divide", True, True),
        ("g.mrc", "multiply", True, False),
        ("g.mrc", "divide", False, True),
    ],
)
def test_multiply_or_divide(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    mode: Literal["auto", "multiply", "divide"],
    events: bool,
    divides: bool,
) -> None:
    values = torch.full((4, 5), 2.0)
    values[0, 0], values[1, 1] = 0.0, 4.0
    monkeypatch.setattr("clearice.io.read_image", lambda path: values)
    gain = load_gain(Path(name), mode=mode, electron_events=events)
    assert gain.divides is divides
    expected = values.clone()
    if divides:
        expected = torch.full((4, 5), float(values[values > 0].mean()) / 2)
        expected[0, 0], expected[1, 1] = 0.0, expected[1, 0] / 2
    torch.testing.assert_close(gain.multiplier, expected)
    assert gain.dead.nonzero().tolist() == [[0, 0]]


def test_loading_turns_the_file(tmp_path: Path, generator: torch.Generator) -> None:
    values = _factors(generator, 6, 10)
    gain = load_gain(_write(tmp_path / "g.mrc", values), rotation=1, flip=2)
    torch.testing.assert_close(gain.multiplier, _by_definition(values, 1, 2), rtol=0, atol=0)
    assert (gain.rotation, gain.flip, gain.path) == (1, 2, tmp_path / "g.mrc")


def test_numbers_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--gain-rotation 4: must be"):
        load_gain(tmp_path / "g.mrc", rotation=4)
    with pytest.raises(ConfigError, match="--gain-flip 3: must be"):
        load_gain(tmp_path / "g.mrc", flip=3)


def test_what_is_no_gain_reference(tmp_path: Path, generator: torch.Generator) -> None:
    values = _factors(generator, 20, 20)
    values[3] = -1.0
    with pytest.raises(InputFileError, match="has 20 negative pixels"):
        load_gain(_write(tmp_path / "negative.mrc", values))
    values[:5] = 0.0
    with pytest.raises(InputFileError, match="has 25% zeros"):
        load_gain(_write(tmp_path / "zeros.mrc", values))


def test_the_movies_own_sampling(generator: torch.Generator) -> None:
    gain = GainReference(_factors(generator, 6, 10), _FILE)
    assert fit_gain(gain, _MOVIE, 6, 10) is gain


def test_a_super_resolution_movie_repeats_the_factors(generator: torch.Generator) -> None:
    factors = _factors(generator, 6, 10)
    fitted = fit_gain(GainReference(factors, _FILE, 1, 2, True), _MOVIE, 12, 20)
    assert (fitted.rotation, fitted.flip, fitted.divides) == (1, 2, True)
    for dy in (0, 1):
        for dx in (0, 1):
            assert torch.equal(fitted.multiplier[dy::2, dx::2], factors)


def test_a_super_resolution_reference_adds_up_sensitivities(generator: torch.Generator) -> None:
    factors = _factors(generator, 12, 20)
    factors[4, 7] = 0.0
    fitted = fit_gain(GainReference(factors, _FILE), _MOVIE, 6, 10).multiplier
    # The counts of an even illumination, as the counting movie adds them up, become even.
    counts = (1 / factors).reshape(6, 2, 10, 2).sum((1, 3))
    assert fitted.eq(0).nonzero().tolist() == [[2, 3]]
    even = (counts * fitted)[fitted > 0]
    torch.testing.assert_close(even, torch.full_like(even, 4.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("shape", "way_out"),
    [
        ((6, 11), "give the right --gain"),
        ((24, 40), "give the right --gain"),
        ((10, 6), "turn it with --gain-rotation"),
        ((20, 12), "turn it with --gain-rotation"),
    ],
)
def test_a_reference_of_another_size(shape: tuple[int, int], way_out: str) -> None:
    gain = GainReference(torch.ones(6, 10), _FILE)
    problem = rf"gain\.mrc: is 10×6 px where the movie movie\.mrc is {shape[1]}×{shape[0]}; "
    with pytest.raises(InputFileError, match=problem + way_out):
        fit_gain(gain, _MOVIE, *shape)


def test_correction_is_a_product_with_dead_pixels_replaced(generator: torch.Generator) -> None:
    factors = _factors(generator, 32, 32)
    factors[5, 6] = 0.0
    gain = GainReference(factors, _FILE)
    frame = torch.poisson(torch.full((32, 32), 30.0), generator=generator)
    before = frame.clone()
    defects = defect_map(gain.dead, _FILE)
    corrected = correct(frame, gain, defects)
    alive = ~gain.dead
    assert torch.equal(frame, before)
    torch.testing.assert_close(corrected[alive], (frame * factors)[alive], rtol=1e-6, atol=0)
    assert corrected[5, 6] == corrected.flatten()[defects.donor[0]] > 0
    assert torch.equal(correct(frame, None, None), frame)


@pytest.mark.parametrize("wrong", _EIGHT)
def test_each_orientation_is_recognised(
    tmp_path: Path, generator: torch.Generator, wrong: tuple[int, int]
) -> None:
    file = _write(tmp_path / "gain.mrc", _factors(generator))
    frame = _mean_frame(load_gain(file, rotation=wrong[0], flip=wrong[1]).multiplier, generator)
    gain = load_gain(file)
    check = check_gain(frame, gain)
    assert (check.rotation, check.flip) == wrong
    assert check.sigmas > 50
    if wrong == (0, 0):
        assert check.verdict == "right"
        require_right_gain(check, gain)
        return
    assert check.verdict == "other orientation"
    assert abs(check.correlation) < 6 / 128
    with pytest.raises(InputFileError) as error:
        require_right_gain(check, gain)
    assert str(error.value).endswith(f"--gain-rotation {wrong[0]} --gain-flip {wrong[1]}")
    turned = load_gain(file, rotation=check.rotation, flip=check.flip)
    assert check_gain(frame, turned).verdict == "right"


@pytest.mark.parametrize("given", [(1, 2), (3, 1), (2, 1), (2, 2)])
def test_the_way_out_is_in_numbers_for_the_file(
    generator: torch.Generator, given: tuple[int, int]
) -> None:
    factors = _factors(generator)
    frame = _mean_frame(orient(factors, 3, 0), generator)
    check = check_gain(frame, GainReference(orient(factors, *given), _FILE, *given))
    assert (check.verdict, check.rotation, check.flip) == ("other orientation", 3, 0)


def test_an_orientation_of_two_names_is_right_under_both(generator: torch.Generator) -> None:
    factors = _factors(generator)
    frame = _mean_frame(orient(factors, 2, 1), generator)
    for given in ((2, 1), (0, 2)):
        gain = GainReference(orient(factors, *given), _FILE, *given)
        assert check_gain(frame, gain).verdict == "right"


def test_detectors_that_are_not_square(generator: torch.Generator) -> None:
    factors = _factors(generator, 96, 150)
    frame = _mean_frame(orient(factors, 0, 2), generator)
    check = check_gain(frame, GainReference(factors, _FILE))
    assert (check.verdict, check.rotation, check.flip) == ("other orientation", 0, 2)


@pytest.mark.parametrize("shape", [(150, 131), (131, 150), (129, 129)])
def test_the_middle_tells_as_much(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(gain_module, "_LARGEST_SIDE", 100)
    factors = _factors(generator, *shape)
    frame = _mean_frame(orient(factors, 2, 0), generator)
    check = check_gain(frame, GainReference(factors, _FILE))
    assert (check.verdict, check.rotation, check.flip) == ("other orientation", 2, 0)


def test_a_mirrored_pattern_is_right_either_way(generator: torch.Generator) -> None:
    columns = _factors(generator, 1, 128).expand(128, 128).clone()
    frame = _mean_frame(columns, generator)
    for given in ((0, 0), (0, 1)):
        gain = GainReference(orient(columns, *given), _FILE, *given)
        assert check_gain(frame, gain).verdict == "right"


@pytest.mark.parametrize("divides", [False, True])
def test_the_wrong_sense(generator: torch.Generator, divides: bool) -> None:
    factors = _factors(generator)
    gain = GainReference(1 / factors, _FILE, divides=divides)
    check = check_gain(_mean_frame(factors, generator), gain)
    assert check.verdict == "wrong sense"
    assert check.best < 0
    other = "multiply" if divides else "divide"
    with pytest.raises(InputFileError, match=f"use --gain-mode {other}$"):
        require_right_gain(check, gain)


def test_the_wrong_sense_and_turned(generator: torch.Generator) -> None:
    factors = _factors(generator)
    gain = GainReference(1 / factors, _FILE)
    check = check_gain(_mean_frame(orient(factors, 1, 0), generator), gain)
    with pytest.raises(InputFileError, match=r"--gain-rotation 1 --gain-flip 0 --gain-mode divide"):
        require_right_gain(check, gain)


def test_frames_that_are_corrected_already(generator: torch.Generator) -> None:
    factors = _factors(generator)
    gain = GainReference(factors, _FILE)
    check = check_gain(_mean_frame(factors, generator) * factors, gain)
    assert check.verdict == "already corrected"
    with pytest.raises(InputFileError, match=r"leaves no trace in the frames .*leave --gain out"):
        require_right_gain(check, gain)


def test_too_few_counts_tell_nothing(generator: torch.Generator) -> None:
    gain = GainReference(_factors(generator), _FILE)
    check = check_gain(_mean_frame(gain.multiplier, generator, counts=0.01), gain)
    assert check.verdict == "cannot tell"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_right_gain(check, gain)


@pytest.mark.parametrize("mean", [torch.ones(64, 64), torch.zeros(64, 64), -torch.ones(64, 64)])
def test_frames_without_contrast_or_counts(generator: torch.Generator, mean: Tensor) -> None:
    gain = GainReference(_factors(generator, 64, 64), _FILE)
    assert check_gain(mean, gain).verdict == "cannot tell"


def test_a_reference_of_ones_tells_nothing(generator: torch.Generator) -> None:
    factors = _factors(generator)
    ones = GainReference(torch.ones_like(factors), _FILE)
    assert check_gain(_mean_frame(factors, generator), ones).verdict == "cannot tell"


@pytest.mark.parametrize("counts", [20.0, 200.0])
def test_the_correlation_is_what_counting_noise_leaves(
    generator: torch.Generator, counts: float
) -> None:
    factors = _factors(generator, 256, 256)
    check = check_gain(_mean_frame(factors, generator, counts), GainReference(factors, _FILE))
    modulation = float((1 / factors).std() / (1 / factors).mean())
    noise = 1 / (counts * 1.15)  # the ramp's mean
    expected = modulation / math.sqrt(modulation**2 + noise)
    assert check.expected == pytest.approx(expected, rel=0.02)
    assert check.correlation == pytest.approx(expected, rel=0.02, abs=5 / 256)
    assert check.sigmas == pytest.approx(check.best * 256, rel=RELATIVE[torch.float32])


def test_super_resolution_frames(generator: torch.Generator) -> None:
    factors = _factors(generator)
    fitted = fit_gain(GainReference(factors, _FILE), _MOVIE, 256, 256)
    frame = _mean_frame(fitted.multiplier, generator)
    assert check_gain(frame, fitted).verdict == "right"
    turned = fit_gain(GainReference(orient(factors, 1, 0), _FILE), _MOVIE, 256, 256)
    check = check_gain(frame, turned)
    assert (check.verdict, check.rotation, check.flip) == ("other orientation", 3, 0)


def test_hot_and_dead_pixels_do_not_hide_the_pattern(generator: torch.Generator) -> None:
    factors = _factors(generator)
    frame = _mean_frame(factors, generator)
    frame[3, 5] = 1e7
    frame[torch.rand(frame.shape, generator=generator) < 1e-3] *= 50
    factors[7:9, 20:40] = 0.0
    check = check_gain(frame, GainReference(factors, _FILE))
    assert check.verdict == "right"
    assert check.sigmas > 25
