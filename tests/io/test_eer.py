"""EER movies: fractions against two other decoders, and what must be refused."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearice.errors import InputFileError
from clearice.io import PixelSizeFallback, image_shape, open_movie, read_micrograph
from clearice.types import EventFractions
from eer_files import (
    EIGHT_BIT,
    SEVEN_BIT,
    VARIABLE,
    Coding,
    decode,
    encode,
    metadata_xml,
    random_events,
    strips_of,
    write_eer,
)

Array = np.ndarray[Any, np.dtype[Any]]
SHAPE = (48, 80)
# From none to every pixel of the smallest shape, so that runs have any length.
COUNTS = (300, 3, 0, 1, 1200, 33 * 51, 40, 0)
META = {
    "numberOfFrames": (len(COUNTS), ""),
    "sensorPixelSize__width": (0.7e-10, "m"),
    "sensorPixelSize__height": (0.7e-10, "m"),
    "totalDose": (12.0, "e/pixel"),
}
XML = metadata_xml(**META)
ONE_EACH = EventFractions(frames_per_fraction=1)


def _frames(
    coding: Coding = SEVEN_BIT, shape: tuple[int, int] = SHAPE, seed: int = 0
) -> list[Array]:
    generator = np.random.default_rng(seed)
    return [random_events(generator, shape, n, coding) for n in COUNTS]


def _movie(path: Path, **options: Any) -> Path:
    return write_eer(path / "x.eer", _frames(), SHAPE, **{"metadata": XML, **options})


def _refusal(path: Path, events: EventFractions = ONE_EACH, *, read: bool = False) -> str:
    with pytest.raises(InputFileError) as error:
        frames = open_movie(path, 1.0, events).frames
        if read:
            _ = frames[0]
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message.rpartition("; ")[2]) > 8
    return message


@pytest.mark.parametrize("upsampling", [1, 2])
@pytest.mark.parametrize("coding", [EIGHT_BIT, SEVEN_BIT, VARIABLE, Coding(65002, 7, 2, 2)])
@pytest.mark.parametrize("shape", [SHAPE, (64, 64), (33, 51)])
def test_raw_frames_are_what_the_other_decoder_finds(
    tmp_path: Path, coding: Coding, shape: tuple[int, int], upsampling: int
) -> None:
    path = write_eer(tmp_path / "x.eer", _frames(coding, shape), shape, coding, metadata=XML)
    movie = open_movie(path, events=EventFractions(1, upsampling))
    assert (movie.height, movie.width) == (shape[0] * upsampling, shape[1] * upsampling)
    assert movie.electron_events
    for index, content in enumerate(strips_of(path)):
        expected = decode(content, shape, coding, upsampling)
        frame = movie.frames[index]
        assert frame.dtype == torch.float32
        np.testing.assert_array_equal(frame.numpy(), expected)
        assert expected.sum() == COUNTS[index]


@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("coding", "strips"), [(EIGHT_BIT, 1), (EIGHT_BIT, 3), (SEVEN_BIT, 1)])
def test_the_container_makes_no_difference(
    tmp_path: Path, big: bool, order: str, strips: int, coding: Coding
) -> None:
    path = write_eer(
        *(tmp_path / "x.eer", _frames(coding), SHAPE, coding),
        metadata=XML,
        big=big,
        order=order,
        strips=strips,
    )
    movie = open_movie(path, events=EventFractions(len(COUNTS) // 2))
    assert movie.pixel_size_angstrom == pytest.approx(0.7)
    for index, half in enumerate((_frames(coding)[:4], _frames(coding)[4:])):
        expected = sum(decode(encode(e, SHAPE, coding), SHAPE, coding) for e in half)
        np.testing.assert_array_equal(movie.frames[index].numpy(), expected)


def test_a_third_decoder_agrees_on_all_that_it_accepts(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    frames = [random_events(generator, SHAPE, int(n)) for n in generator.integers(0, 3000, 40)]
    path = write_eer(tmp_path / "x.eer", frames, SHAPE)
    movie = open_movie(path, 1.0, ONE_EACH)
    accepted = 0
    for index, content in enumerate(strips_of(path)):
        try:
            expected = imagecodecs.eer_decode(content, SHAPE, 7, 2, 2)
        except RuntimeError:  # it refuses a part of what is valid
            continue
        np.testing.assert_array_equal(movie.frames[index].numpy(), expected)
        accepted += 1
    assert accepted >= 10


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    share=st.floats(0, 1),
    coding=st.sampled_from([EIGHT_BIT, SEVEN_BIT, VARIABLE]),
)
def test_any_events_are_counted_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    rows: int,
    columns: int,
    share: float,
    coding: Coding,
) -> None:
    shape = (rows, columns)
    generator = np.random.default_rng(seed)
    frames = [random_events(generator, shape, int(share * rows * columns), coding) for _ in "ab"]
    path = write_eer(tmp_path_factory.mktemp("any") / "x.eer", frames, shape, coding)
    expected = np.zeros((2 * rows, 2 * columns), dtype=int)
    for events in frames:
        y, x = events[:, 0] >> coding.y_bits - 1, events[:, 1] >> coding.x_bits - 1
        np.add.at(expected, (y, x), 1)
    movie = open_movie(path, 1.0, EventFractions(1, 2))
    np.testing.assert_array_equal((movie.frames[0] + movie.frames[1]).numpy(), expected)


@pytest.mark.parametrize("coding", [EIGHT_BIT, SEVEN_BIT, VARIABLE])
@pytest.mark.parametrize("columns", [254, 255, 256, 510, 127, 126, 63, 62])
def test_runs_of_the_longest_length_end_where_they_should(
    tmp_path: Path, coding: Coding, columns: int
) -> None:
    # First and last pixel, or one of them, with nothing but a run between.
    corners = np.array([[0, 0], [1, columns * 2**coding.x_bits - 1]])
    corners[1, 0] = 2 * 2**coding.y_bits - 1
    frames = [corners, corners[:1], corners[1:], corners[:0]]
    path = write_eer(tmp_path / "x.eer", frames, (2, columns), coding)
    movie = open_movie(path, 1.0, ONE_EACH)
    ends = [[float(f[0, 0]), float(f[1, -1]), float(f.sum())] for f in movie.frames]  # type: ignore[attr-defined]
    assert ends == [[1, 1, 2], [1, 0, 1], [0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(("per_fraction", "fractions"), [(1, 8), (3, 2), (4, 2), (2, 4)])
def test_raw_frames_left_over_are_dropped(
    tmp_path: Path, per_fraction: int, fractions: int
) -> None:
    movie = open_movie(_movie(tmp_path), events=EventFractions(per_fraction))
    assert len(movie.frames) == fractions
    total = sum(float(movie.frames[index].sum()) for index in range(fractions))
    assert total == sum(COUNTS[: per_fraction * fractions])


@pytest.mark.parametrize(("raw", "fractions"), [(40, 40), (79, 39), (100, 50), (200, 40), (1, 1)])
def test_about_forty_fractions_are_made_by_default(
    tmp_path: Path, raw: int, fractions: int
) -> None:
    frames = [np.array([[index % 8, 0]]) for index in range(raw)]
    path = write_eer(tmp_path / "x.eer", frames, (4, 4))
    assert image_shape(path) == (fractions, 4, 4)


def test_a_fraction_of_many_raw_frames_is_summed_in_blocks(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    frames = [random_events(generator, (8, 8), 20) for _ in range(150)]
    path = write_eer(tmp_path / "x.eer", frames, (8, 8))
    movie = open_movie(path, 1.0, EventFractions(75))
    for index in range(2):
        expected = np.zeros((8, 8))
        for events in frames[75 * index : 75 * index + 75]:
            np.add.at(expected, (events[:, 0] // 4, events[:, 1] // 4), 1)
        np.testing.assert_array_equal(movie.frames[index].numpy(), expected)


@pytest.mark.parametrize("coding", [EIGHT_BIT, SEVEN_BIT])
def test_the_first_row_stays_first(tmp_path: Path, coding: Coding) -> None:
    path = write_eer(tmp_path / "x.eer", [np.array([[0, 12]])] * 2, (8, 8), coding)
    assert float(open_movie(path, 1.0, ONE_EACH).frames[0][0, 3]) == 1


@pytest.mark.parametrize("coding", [EIGHT_BIT, SEVEN_BIT])
def test_a_movie_can_cross_to_another_process(tmp_path: Path, coding: Coding) -> None:
    path = write_eer(tmp_path / "x.eer", _frames(coding), SHAPE, coding)
    movie = open_movie(path, 1.0, ONE_EACH)
    copy = pickle.loads(pickle.dumps(movie))  # noqa: S301
    assert torch.equal(copy.frames[0], movie.frames[0])


def test_metadata_give_pixel_size_and_dose(tmp_path: Path) -> None:
    movie = open_movie(_movie(tmp_path), events=EventFractions(2))
    assert movie.pixel_size_angstrom == pytest.approx(0.7)
    # A quarter of 12 electrons on each 0.7² Å².
    assert movie.dose_per_frame_e_per_A2 == pytest.approx(12 / 0.49 / 4)
    fine = open_movie(_movie(tmp_path), events=EventFractions(2, 2))
    assert fine.pixel_size_angstrom == pytest.approx(0.35)
    assert fine.dose_per_frame_e_per_A2 == pytest.approx(12 / 0.49 / 4)
    assert open_movie(_movie(tmp_path), 1.3).pixel_size_angstrom == 1.3


@pytest.mark.parametrize(
    "items",
    [
        {},
        {"sensorPixelSize__width": (1.4e-5, "m"), "sensorPixelSize__height": (1.4e-5, "m")},
        {"sensorPixelSize__width": (0.7, "px"), "sensorPixelSize__height": (0.7, "px")},
        {"sensorPixelSize__width": ("none", "m"), "sensorPixelSize__height": (0.0, "m")},
        {"sensorPixelSize__width": (0.7e-10, "m")},
    ],
)
def test_a_pixel_size_that_cannot_be_right_does_not_count(
    tmp_path: Path, items: dict[str, tuple[object, str]]
) -> None:
    path = _movie(tmp_path, metadata=metadata_xml(totalDose=(12.0, "e/pixel"), **items))
    with pytest.warns(PixelSizeFallback, match="--pixel-size"):
        movie = open_movie(path)
    assert movie.dose_per_frame_e_per_A2 is None


@pytest.mark.parametrize("text", ["<?xml version='1.0' encoding='utf - 8'?>{}", "{}\0\0", " {}\n"])
def test_metadata_are_found_whatever_stands_around_them(tmp_path: Path, text: str) -> None:
    path = _movie(tmp_path, metadata=text.format(XML))
    assert open_movie(path).pixel_size_angstrom == pytest.approx(0.7)


def test_missing_raw_frames_are_counted(tmp_path: Path) -> None:
    declared = metadata_xml(**{**META, "numberOfFrames": (11, "")})
    assert "holds 8 of the 11 raw frames" in _refusal(_movie(tmp_path, metadata=declared))


def test_more_raw_frames_than_declared_are_no_fault(tmp_path: Path) -> None:
    declared = metadata_xml(**{**META, "numberOfFrames": (1, "")})
    movie = open_movie(_movie(tmp_path, metadata=declared), events=ONE_EACH)
    assert len(movie.frames) == 8
    assert movie.dose_per_frame_e_per_A2 == pytest.approx(12 / 0.49 / 8)


def test_a_movie_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = _movie(tmp_path, metadata="")
    whole = path.read_bytes()
    for length in (*range(1, 40), *range(40, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:length])
        message = _refusal(path)
        assert "truncated" in message or length < 16
    path.write_bytes(whole[: len(whole) // 2])
    assert "of at least" in _refusal(path)


@pytest.mark.parametrize("coding", [EIGHT_BIT, SEVEN_BIT])
def test_damaged_events_are_refused_when_they_are_read(tmp_path: Path, coding: Coding) -> None:
    path = write_eer(tmp_path / "x.eer", _frames(coding), SHAPE, coding)
    whole = path.read_bytes()
    bits = strips_of(path)[0]
    for bad in (bytes(len(bits)), b"\xff" * len(bits)):
        path.write_bytes(whole.replace(bits, bad))
        assert "damaged" in _refusal(path, read=True)


@pytest.mark.parametrize(
    ("first", "reason"),
    [([(1, bytes(48 * 80))], "other images"), ([(5, b"abc")], "other images")],
)
def test_another_image_among_the_events_is_refused(
    tmp_path: Path, first: Sequence[tuple[int, bytes]], reason: str
) -> None:
    assert reason in _refusal(_movie(tmp_path, first=first))


def test_raw_frames_in_strips_are_refused_where_they_cannot_be_read(tmp_path: Path) -> None:
    assert "several strips" in _refusal(_movie(tmp_path, strips=3))


def test_what_is_no_eer_movie_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.eer"
    path.write_text("not a movie at all")
    assert "not a TIFF file" in _refusal(path)
    path.write_bytes(b"")
    assert "empty" in _refusal(path)
    write_eer(path, [], SHAPE, first=[(1, bytes(48 * 80))])
    assert "no electron events" in _refusal(path)


def test_damaged_metadata_are_refused(tmp_path: Path) -> None:
    assert "metadata" in _refusal(_movie(tmp_path, metadata=XML[:-8]))


def test_too_few_raw_frames_for_a_fraction_are_refused(tmp_path: Path) -> None:
    path = _movie(tmp_path)
    assert "8 raw frames, fewer than the 9" in _refusal(path, EventFractions(9))
    assert "one image" in _refusal(path, EventFractions(8))
    assert "upsampled 4 times" in _refusal(path, EventFractions(1, 4))


def test_events_without_a_place_in_the_pixel_cannot_be_upsampled(tmp_path: Path) -> None:
    coding = Coding(65002, 7, 0, 0)
    path = write_eer(tmp_path / "x.eer", _frames(coding), SHAPE, coding)
    assert float(open_movie(path, 1.0, ONE_EACH).frames[0].sum()) == COUNTS[0]
    assert "whole pixels only" in _refusal(path, EventFractions(1, 2), read=True)


def test_a_movie_is_no_micrograph(tmp_path: Path) -> None:
    path = _movie(tmp_path)
    with pytest.raises(InputFileError, match=r"three-dimensional \(8 × 48 × 80\)"):
        read_micrograph(path)


def test_events_are_recognised_in_a_file_called_tif(tmp_path: Path) -> None:
    path = _movie(tmp_path).rename(tmp_path / "x.tif")
    assert open_movie(path, events=ONE_EACH).electron_events


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vitrio", None)
    assert "vitrio" in _refusal(_movie(tmp_path), read=True)
