"""Trust: right where it is known in closed form, nothing where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clearice import io
from clearice.cli import run
from clearice.evaluate.evidence import Evidence, Halves, Spread, gather, supported_r2
from clearice.evaluate.spread import calibrated, disagreement, orientations
from clearice.evaluate.trust import TrustModel, map_trust
from clearice.fourier import gaussian_lowpass
from helpers import write_image, write_model

PIXEL = 5.0
PARTS = ("denoised", "denoised_even", "denoised_odd", "raw_even", "raw_odd")


def _white(generator: torch.Generator, count: int, size: int = 256) -> Tensor:
    return torch.randn(count, size, size, generator=generator)


def _model(halves: Halves) -> TrustModel:
    return TrustModel(gather(halves), Spread.of(*halves.strengths()))


def test_a_uniform_signal_in_white_noise_is_trusted_alike_everywhere(
    generator: torch.Generator,
) -> None:
    signal, even, odd = _white(generator, 3)
    raw = (signal + even, signal + odd)
    # Nothing is denoised, so r² of the mean of the halves is 1/(1 + ½).
    halves = Halves.of((raw[0] + raw[1]) / 2, raw, raw, PIXEL)
    supported = _model(halves).supported(halves.strengths()[0])
    assert float(supported.mean()) == pytest.approx(2 / 3, abs=0.03)
    assert float(supported.std()) < 0.06


def test_halves_without_a_common_signal_are_not_trusted(generator: torch.Generator) -> None:
    raw = _white(generator, 2)
    smooth = gaussian_lowpass(raw, 2.0)
    halves = Halves.of(smooth.mean(0), (smooth[0], smooth[1]), (raw[0], raw[1]), PIXEL)
    assert float(_model(halves).trust(halves).quantile(0.95)) < 0.1


def test_what_both_halves_invent_alike_is_not_trusted(generator: torch.Generator) -> None:
    even, odd, picture = _white(generator, 3)
    halves = Halves.of(picture, (picture, picture), (even, odd), PIXEL)
    assert float(_model(halves).trust(halves).quantile(0.95)) < 0.1


def test_trust_is_where_the_signal_is(generator: torch.Generator) -> None:
    signal, even, odd = _white(generator, 3)
    weight = (torch.arange(256) < 128).float()
    raw = (2 * weight * signal + even, 2 * weight * signal + odd)
    shown = [image * (0.2 + 0.8 * weight) for image in raw]
    halves = Halves.of((shown[0] + shown[1]) / 2, (shown[0], shown[1]), raw, PIXEL)
    trust = _model(halves).trust(halves)
    assert float(trust[:, :100].mean()) > 0.75
    assert float(trust[:, 160:].mean()) < 0.1


def test_scales_change_nothing(generator: torch.Generator) -> None:
    signal, even, odd = _white(generator, 3, 128)
    raw = (signal + even, signal + odd)

    def trust(factor: float, offset: float) -> Tensor:
        one, other = (factor * image + offset for image in raw)
        halves = Halves.of((one + other) / 2, (one, other), (one, other), PIXEL)
        return _model(halves).trust(halves)

    torch.testing.assert_close(trust(1, 0), trust(300, 1000), rtol=1e-3, atol=1e-4)


def test_evidence_adds_up(generator: torch.Generator) -> None:
    raw = _white(generator, 2, 64)
    halves = Halves.of(raw.mean(0), (raw[0], raw[1]), (raw[0], raw[1]), PIXEL)
    one = gather(halves)
    twice = one + one
    assert isinstance(twice, Evidence)
    torch.testing.assert_close(twice.support, 2 * one.support)
    assert float(supported_r2(one).min()) >= 0


def test_orientations_of_an_equivariant_filter_agree(generator: torch.Generator) -> None:
    image = _white(generator, 1, 64)[0].double()
    views = orientations(lambda x: gaussian_lowpass(x, 2.0), image)
    assert len(views) == 8
    for view in views:
        torch.testing.assert_close(view, views[0])
    noisy = [view + 0.5 * torch.randn(view.shape, generator=generator) for view in views]
    assert float(disagreement(noisy, PIXEL).mean()) > float(disagreement(views, PIXEL).mean()) + 5
    assert float(calibrated(disagreement(views, PIXEL)).min()) > 0.7


def _write_results(folder: Path, generator: torch.Generator, size: int = 96) -> Path:
    for name in ("a", "b"):
        signal, even, odd = _white(generator, 3, size)
        raw = {"_even": 9 + signal + even, "_odd": 9 + signal + odd}
        raw[""] = (raw["_even"] + raw["_odd"]) / 2
        for part in PARTS:
            half = part.removeprefix("denoised").removeprefix("raw")
            write_image(folder / part / f"{name}.mrc", raw[half], PIXEL)
    return folder


def test_the_command_writes_maps_pictures_and_numbers(
    tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    results = _write_results(tmp_path / "results", generator)
    assert run(["trust", str(results), "--out", str(tmp_path / "maps")]) == 0
    assert "2 maps" in capsys.readouterr().out
    found = io.read_micrograph(tmp_path / "maps" / "a.mrc")
    assert found.pixels.shape == (96, 96)
    assert found.pixel_size_angstrom == pytest.approx(PIXEL)
    assert float(found.pixels.min()) >= 0
    assert float(found.pixels.max()) <= 1
    assert (tmp_path / "maps" / "previews" / "b.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((tmp_path / "maps" / "trust.json").read_text())
    assert told["method"] == "halves"
    assert [entry["name"] for entry in told["micrographs"]] == ["a", "b"]


def _shape(results: Path) -> None:
    write_image(results / "raw_odd" / "a.mrc", torch.randn(96, 80), PIXEL)


def _full_shape(results: Path) -> None:
    write_image(results / "denoised" / "a.mrc", torch.randn(96, 80), PIXEL)


def _nan(results: Path) -> None:
    image = torch.randn(96, 96)
    image[3, 4] = torch.nan
    write_image(results / "denoised_even" / "a.mrc", image, PIXEL)


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
@pytest.mark.parametrize(
    ("spoil", "word"), [(_shape, "96 × 80 px"), (_full_shape, "96 × 80 px"), (_nan, "NaN")]
)
def test_a_bad_micrograph_is_named_and_the_others_are_mapped(
    tmp_path: Path,
    generator: torch.Generator,
    capsys: pytest.CaptureFixture[str],
    spoil: object,
    word: str,
) -> None:
    results = _write_results(tmp_path / "results", generator)
    assert callable(spoil)
    spoil(results)
    assert run(["trust", str(results), "--out", str(tmp_path / "maps")]) == 2
    error = capsys.readouterr().err
    assert "1 of 2 failed" in error
    assert word in error
    assert (tmp_path / "maps" / "b.mrc").exists()
    assert not (tmp_path / "maps" / "a.mrc").exists()


def test_without_halves_it_says_so_in_one_line(
    tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "results" / "denoised" / "a.mrc", _white(generator, 1, 64)[0])
    assert run(["trust", str(tmp_path / "results"), "--out", str(tmp_path / "maps")]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "--halves" in error


def test_the_input_is_not_overwritten(
    tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    results = _write_results(tmp_path / "results", generator)
    assert run(["trust", str(results), "--out", str(results / "denoised")]) == 2
    assert "would overwrite" in capsys.readouterr().err


def test_the_maps_do_not_depend_on_which_half_is_called_even(
    tmp_path: Path, generator: torch.Generator
) -> None:
    results = _write_results(tmp_path / "results", generator, 64)
    first = map_trust(results, tmp_path / "one")
    for kind in ("denoised", "raw"):
        (results / f"{kind}_even").rename(results / "aside")
        (results / f"{kind}_odd").rename(results / f"{kind}_even")
        (results / "aside").rename(results / f"{kind}_odd")
    second = map_trust(results, tmp_path / "two")
    for one, two in zip(first.values["micrographs"], second.values["micrographs"], strict=True):
        assert one["mean"] == pytest.approx(two["mean"])


def test_with_a_model_its_spread_is_mapped_and_called_no_proof(
    tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "raw" / "a.mrc", _white(generator, 1, 64)[0])
    model = write_model(tmp_path / "model.safetensors")
    out = tmp_path / "maps"
    arguments = ["trust", str(tmp_path / "raw"), "--model", str(model), "--out", str(out)]
    assert run([*arguments, "--device", "cpu"]) == 0
    assert "no proof" in capsys.readouterr().err
    assert io.read_micrograph(out / "a.mrc").pixels.shape == (64, 64)
    assert json.loads((out / "trust.json").read_text())["method"].startswith("spread")
    assert run([*arguments[:2], "--model", str(model), "--out", str(tmp_path / "raw")]) == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(["trust", str(empty), "--model", str(model), "--out", str(out)]) == 2
