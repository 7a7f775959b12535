"""What the card warns of, and that it does not warn without a reason."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clearice import cli
from clearice.evaluate import card, find_halves
from clearice.evaluate.bootstrap import Estimate
from clearice.evaluate.card import measure_all
from clearice.evaluate.cases import load
from clearice.evaluate.half_sums import measure
from clearice.evaluate.pattern import Shared
from clearice.evaluate.slots import FAST
from clearice.evaluate.thresholds import Limits
from clearice.fourier import gaussian_lowpass, gaussian_transfer, radial_filter
from half_files import write_halves
from helpers import write_image

SIZE = 128
Capture = pytest.CaptureFixture[str]


def _smooth(raw: Tensor) -> Tensor:
    return gaussian_lowpass(raw, 1.5)


def _lights(folder: Path, **how: Any) -> dict[str, str]:
    return {entry.name: entry.light for entry in card(folder, **how).entries}


def _noise(seed: int) -> Tensor:
    return torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def _wiener(raw: Tensor) -> Tensor:
    """Return E[S | raw] for signals of a Gaussian spectrum, σ 2 px, and noise of variance 1."""
    sigma = 2.0
    peak = 4 * math.pi * sigma**2

    def response(frequency: Tensor) -> Tensor:
        power = peak * gaussian_transfer(frequency, sigma).square()
        return power / (power + 1)

    return radial_filter(raw - 10, response)


def test_a_faultless_model_has_no_red_light(tmp_path: Path) -> None:
    folder = write_halves(tmp_path, _wiener, size=SIZE, sigma_px=2.0)
    lights = _lights(folder, tile=64)
    assert "red" not in lights.values()
    assert lights.pop("gain") == "amber"  # a low-pass is no better than a low-pass
    lights = {name: light for name, light in lights.items() if light != "none"}
    for name in lights:
        assert lights[name] == "green", name


@pytest.mark.parametrize(
    ("pattern", "share"),
    [
        (0.3 * _noise(1), "between_micrographs"),
        (0.3 * _noise(2)[:, :1].expand(-1, SIZE), "row_means"),
        (0.3 * _noise(3)[:1].expand(SIZE, -1), "column_means"),
    ],
    ids=["pixels", "rows", "columns"],
)
def test_a_fixed_pattern_is_flagged(tmp_path: Path, pattern: Tensor, share: str) -> None:
    folder = write_halves(tmp_path, _smooth, size=SIZE, sigma_px=2.0, pattern=pattern)
    result = card(folder)
    assert result.values["pattern"][share]["flagged"]
    assert result.values["pattern"]["flagged"]
    entry = next(e for e in result.entries if e.name == "fixed_pattern")
    assert entry.light == "red"
    assert "--fix-pattern" in entry.line


def test_signal_near_nyquist_is_no_pattern_with_large_pixels(tmp_path: Path) -> None:
    folder = write_halves(tmp_path, _smooth, size=SIZE, sigma_px=0.3, pixel=2.6)
    pattern = card(folder).values["pattern"]
    assert pattern["near_nyquist"]["value"] > 0.05
    assert not pattern["flagged"]


def test_pairs_of_different_micrographs_are_all_compared(tmp_path: Path) -> None:
    folder = write_halves(
        tmp_path, _smooth, micrographs=4, size=64, pattern=0.2 * _noise(1)[:64, :64]
    )
    measured = [measure(load(case)) for case in find_halves(folder)]
    shared = Shared()
    for one in measured:
        shared.add(one)
    slots = measured[0].slots
    raw, denoised = shared.between()
    pairs = [(a, b) for a in measured for b in measured if a is not b]
    expected = torch.stack([slots.cross(a.raw[0], b.raw[1]) for a, b in pairs]).mean(0)
    torch.testing.assert_close(raw[FAST], expected[FAST], rtol=1e-4, atol=0)
    seen = [
        slots.cross(a.denoised[0], b.raw[1]) + slots.cross(a.denoised[1], b.raw[0])
        for a, b in pairs
    ]
    kept = torch.stack(seen).mean(0) / 2
    torch.testing.assert_close(denoised[FAST], kept[FAST], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("period", "kind"), [(2, "modulated"), (4, "added")])
def test_a_checkerboard_is_seen(tmp_path: Path, period: int, kind: str) -> None:
    wave = torch.zeros(SIZE)
    wave[::period] = 1
    board = wave[:, None] + wave - (wave[:, None] + wave).mean()

    def denoise(raw: Tensor) -> Tensor:
        smooth = _smooth(raw) - 10
        return smooth + 0.3 * board * (smooth if kind == "modulated" else 0.3)

    folder = write_halves(tmp_path, denoise, size=SIZE, sigma_px=5.0)
    lights = _lights(folder)
    assert lights["checkerboard"] in {"amber", "red"}
    assert lights["fixed_pattern"] == "green"


def test_seams_are_seen_where_they_are(tmp_path: Path) -> None:
    tiles = (torch.arange(SIZE) // 64).float()

    def denoise(raw: Tensor) -> Tensor:
        return _smooth(raw) + 0.3 * (tiles[:, None] - tiles)

    folder = write_halves(tmp_path, denoise, size=SIZE, sigma_px=2.0)
    amplitude = next(e for e in card(folder, tile=64).entries if e.name == "seams")
    assert amplitude.light == "red"
    assert amplitude.estimate.value > 0.2
    assert _lights(folder, tile=48)["seams"] == "green"
    assert _lights(folder)["seams"] == "none"


def test_a_lattice_of_steps_is_no_seam(tmp_path: Path) -> None:
    steps = (torch.arange(SIZE) // 16 % 2).float()

    def denoise(raw: Tensor) -> Tensor:
        return _smooth(raw) + 0.1 * steps

    folder = write_halves(tmp_path, denoise, size=SIZE, sigma_px=2.0)
    assert _lights(folder, tile=64)["seams"] == "green"


def test_more_than_noise_was_removed(tmp_path: Path) -> None:
    folder = write_halves(tmp_path, lambda raw: 0.2 * _smooth(raw), size=SIZE, sigma_px=2.0)
    lights = _lights(folder)
    assert lights["removed_power"] == "red"
    assert lights["signal_removed"] == "red"


@pytest.mark.parametrize(
    ("low", "value", "high", "light"),
    [(1.1, 1.2, 1.3, "green"), (0.9, 1.0, 1.1, "amber"), (0.7, 0.8, 0.9, "red")],
)
def test_lights_need_the_whole_interval(low: float, value: float, high: float, light: str) -> None:
    good = Limits(green=1.0, red=1.0, high_is_good=True)
    assert good.light(Estimate(value, low, high, 0.05)) == light
    mirrored = {"green": "red", "red": "green", "amber": "amber"}[light]
    bad = Limits(green=1.0, red=1.0, high_is_good=False)
    assert bad.light(Estimate(value, low, high, 0.05)) == mirrored
    innocent = Limits(green=1.0, red=1.0, high_is_good=False, innocent=True)
    assert innocent.light(Estimate(value, low, high, 0.05)) == (
        "red" if light == "green" else "green"
    )


def test_the_command_writes_and_prints_the_card(tmp_path: Path, capsys: Capture) -> None:
    folder = write_halves(tmp_path / "halves", _smooth, micrographs=3, size=64, sigma_px=2.0)
    out = tmp_path / "new" / "card.json"
    assert cli.run(["evaluate", "card", str(folder), "--out", str(out)]) == 0
    values = json.loads(out.read_text())
    assert values["micrographs"] == ["mic0", "mic1", "mic2"]
    printed = capsys.readouterr().out
    for entry in values["entries"]:
        assert entry["name"] in printed
        assert {"value", "interval", "unit", "light", "line"} <= set(entry)
    assert len(values["bands"]) <= 24
    again = tmp_path / "again.json"
    assert cli.run(["evaluate", "card", str(folder), "--out", str(again)]) == 0
    assert again.read_text() == out.read_text()


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_without("raw_odd"), "holds no halves: raw_odd/ is missing"),
        (_without("denoised_even"), "--halves"),
        (lambda folder: (folder / "raw_odd" / "mic1.mrc").unlink(), "no partner for"),
        (lambda folder: (folder / "denoised_even" / "mic1.mrc").unlink(), "no even half for"),
    ],
)
def test_without_halves_there_is_one_clear_line(
    tmp_path: Path, capsys: Capture, spoil: Callable[[Path], None], reason: str
) -> None:
    folder = write_halves(tmp_path / "halves", _smooth, micrographs=2, size=64)
    spoil(folder)
    assert cli.run(["evaluate", "card", str(folder), "--out", str(tmp_path / "card.json")]) == 2
    error = capsys.readouterr().err.strip()
    assert reason in error
    assert "\n" not in error
    assert not (tmp_path / "card.json").exists()


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
def test_a_bad_micrograph_is_named_and_the_others_are_judged(
    tmp_path: Path, capsys: Capture
) -> None:
    folder = write_halves(tmp_path / "halves", _smooth, micrographs=5, size=64)
    write_image(folder / "denoised_odd" / "mic1.mrc", torch.full((64, 64), torch.nan))
    write_image(folder / "raw_even" / "mic2.mrc", torch.randn(64, 60))
    for name in ("raw_even", "raw_odd", "denoised_even", "denoised_odd"):
        write_image(folder / name / "mic3.mrc", torch.randn(64, 64), 3.0)
    out = tmp_path / "card.json"
    assert cli.run(["evaluate", "card", str(folder), "--out", str(out)]) == 2
    assert json.loads(out.read_text())["micrographs"] == ["mic0", "mic4"]
    error = capsys.readouterr().err
    for text in ("denoised_odd/mic1.mrc", "NaN", "64 × 60 px", "3 Å/px where those before"):
        assert text in error


def test_micrographs_of_two_sizes_are_pooled(tmp_path: Path) -> None:
    folder = write_halves(tmp_path, _smooth, micrographs=2, size=64)
    write_halves(tmp_path / "large", _smooth, micrographs=1, size=96, seed=4)
    for path in (tmp_path / "large").glob("*_*/mic0.mrc"):
        path.rename(folder / path.parent.name / "mic2.mrc")
    measured = measure_all(find_halves(folder))
    assert len(measured.names) == 3
    counts = [measure(load(case)).slots.count for case in find_halves(folder)]
    torch.testing.assert_close(measured.count, sum(counts))
    assert counts[2][FAST] > 2 * counts[0][FAST]
