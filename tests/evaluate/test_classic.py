"""Non-local means and wavelets: they denoise, are scored on crops, and are missed in one line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clearice.cli import run
from clearice.errors import ConfigError, InputFileError
from clearice.evaluate import Case, classic, score_crops
from clearice.evaluate.classic import nonlocal_means, wavelet
from clearice.evaluate.crops import tapered_sums
from clearice.fourier import gaussian_lowpass
from clearice.metrics import Moments
from helpers import smooth_image, write_image


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand blurs in for the denoisers, which their packages' own tests judge."""
    blurs = {"nlm": 1.0, "wavelet": 2.0}
    for name, sigma in blurs.items():
        monkeypatch.setitem(classic.CLASSIC, name, partial(gaussian_lowpass, sigma_px=sigma))
    monkeypatch.setattr(classic, "find_spec", lambda name: name)


def _noisy(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    clean = smooth_image(generator, size, 4.0)
    return 50 + clean + 3 * torch.randn(size, size, generator=generator), clean


def test_non_local_means_denoise_and_keep_units(generator: torch.Generator) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("pywt")
    raw, clean = _noisy(96, generator)
    for denoise in (nonlocal_means, wavelet):
        result = denoise(raw)
        assert Moments.of(result, clean).correlation > 2 * Moments.of(raw, clean).correlation
        assert float(result.mean()) == pytest.approx(50, abs=0.5)
        assert denoise(10 * raw + 3).sub(10 * result + 3).abs().max() < 0.01 * raw.std()


@pytest.mark.parametrize("denoise", [nonlocal_means, wavelet])
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, denoise: object) -> None:
    assert callable(denoise)
    monkeypatch.setattr(classic, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'clearice\[baselines\]'") as caught:
        denoise(torch.randn(16, 16))
    assert "\n" not in str(caught.value)


def _write(folder: Path, generator: torch.Generator, size: int = 128) -> None:
    raw, clean = _noisy(size, generator)
    write_image(folder / "raw" / "a.mrc", raw)
    write_image(
        folder / "other" / "a.mrc", clean + 3 * torch.randn(size, size, generator=generator)
    )
    write_image(folder / "truth" / "a.mrc", clean)
    write_image(folder / "denoised" / "a.mrc", gaussian_lowpass(raw, 2.0))


@pytest.mark.usefixtures("pretend")
def test_all_methods_are_scored_on_the_same_crop(
    tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path, generator)
    arguments = ["evaluate", "--out", str(tmp_path / "s.json")]
    for option, folder in (("reference", "other"), ("truth", "truth"), ("raw", "raw")):
        arguments += [f"--{option}", str(tmp_path / folder)]
    assert run([*arguments, "--denoised", str(tmp_path / "denoised")]) == 0
    crop = json.loads((tmp_path / "s.json").read_text())["crop"]
    assert crop["size_px"] == 128
    for key in ("snr_db", "band_correlation"):
        scores = crop[key]
        assert list(scores) == ["raw", "gaussian_best", "wiener", "nlm", "wavelet", "denoised"]
        # The stand-in is the same blur that made the denoised image.
        assert scores["wavelet"] == pytest.approx(scores["denoised"], rel=1e-3)
        assert scores["raw"] < scores["nlm"]
    assert crop["snr_db"]["gaussian_best"] >= crop["snr_db"]["wavelet"]
    assert "middle 128 px" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "code"), [([], 0), (["--classic"], 2)])
def test_without_the_packages_they_are_left_out_in_one_line(
    tmp_path: Path,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: list[str],
    code: int,
) -> None:
    monkeypatch.setattr(classic, "find_spec", lambda name: None)
    _write(tmp_path, generator, 48)
    arguments = ["evaluate", "--out", str(tmp_path / "s.json"), "--raw", str(tmp_path / "raw")]
    arguments += ["--truth", str(tmp_path / "truth"), "--denoised", str(tmp_path / "denoised")]
    assert run([*arguments, *option]) == code
    assert "pip install 'clearice[baselines]'" in capsys.readouterr().err
    assert (tmp_path / "s.json").exists() == (code == 0)


@pytest.mark.usefixtures("pretend")
def test_crops_need_raw_images_of_one_shape(tmp_path: Path, generator: torch.Generator) -> None:
    images = torch.randn(2, 40, 44, generator=generator)
    denoised = write_image(tmp_path / "d.mrc", images[0])
    with pytest.raises(ConfigError, match="--raw"):
        score_crops([Case(denoised, truth=denoised)])
    raw = write_image(tmp_path / "r.mrc", images[0, :40, :40])
    with pytest.raises(InputFileError, match="40 × 40"):
        score_crops([Case(denoised, raw, truth=denoised)])


def test_tapered_sums_are_those_of_windowed_images(generator: torch.Generator) -> None:
    image = torch.randn(64, 64, generator=generator)
    sums = tapered_sums(image, 2 * image + 7, 32)
    assert torch.allclose(sums.cross, 2 * sums.power_x)
    assert float(sums.power_x[0]) == pytest.approx(0, abs=1e-9)
