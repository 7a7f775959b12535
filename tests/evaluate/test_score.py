"""Scores against closed forms and brute force in image space."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearice import io, metrics
from clearice.errors import ConfigError
from clearice.evaluate import Case, match_cases, score
from clearice.fourier import apply_ring_gain, gaussian_lowpass
from helpers import smooth_image, write_image

SIZE = 128
SIGMAS = [0.5 + 0.25 * i for i in range(59)]


@dataclass(frozen=True)
class Field:
    """One simulated field of view: the signal and two halves."""

    signal: Tensor
    even: Tensor
    odd: Tensor


def _field(
    generator: torch.Generator, noise: float = 1.0, size: int = SIZE, sigma_px: float = 2.0
) -> Field:
    signal = smooth_image(generator, size, sigma_px)
    first, second = noise * torch.randn(2, size, size, generator=generator)
    return Field(signal, 10 + signal + first, 10 + signal + second)


def _case(
    folder: Path,
    images: Field,
    denoised: Tensor,
    *,
    reference: bool = True,
    truth: bool = True,
    other: Tensor | None = None,
    pixel: float = 1.5,
) -> Case:
    """Write the images of a case."""

    def write(name: str, image: Tensor) -> Path:
        return write_image(folder / f"{name}.mrc", image, pixel)

    return Case(
        write("denoised", denoised),
        write("raw", images.even),
        write("reference", images.odd) if reference else None,
        write("truth", images.signal) if truth else None,
        None if other is None else write("other", other),
    )


def _correlation(x: Tensor, y: Tensor, pixel: float = 1.5) -> float:
    """Correlate after the high-pass, in image space."""
    x, y = metrics.highpassed(x, pixel).flatten(), metrics.highpassed(y, pixel).flatten()
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def test_snr_is_what_the_noise_says(tmp_path: Path, generator: torch.Generator) -> None:
    noise = 1.5
    images = _field(generator, noise)
    result = score([_case(tmp_path, images, images.odd)])["truth"]["snr_db"]
    r = _correlation(images.even, images.signal)
    assert result["raw"] == pytest.approx(-10 * math.log10(1 - r**2), abs=0.01)
    expected = 1 / math.sqrt(1 + noise**2)
    slope = 20 / math.log(10) * expected / (1 - expected**2)
    bound = 5 * slope * (1 - expected**2) / SIZE
    for version in ("raw", "denoised"):
        assert result[version] == pytest.approx(10 * math.log10(1 + noise**-2), abs=bound + 0.02)


def test_the_halves_tell_the_correlation_with_the_unknown_truth(
    tmp_path: Path, generator: torch.Generator
) -> None:
    images = _field(generator)
    denoised = gaussian_lowpass(images.even, 1.5) + 0.2 * torch.randn(
        SIZE, SIZE, generator=generator
    )
    scores = score([_case(tmp_path, images, denoised)])["reference"]
    rho = scores["correlation_with_truth"]
    # One standard error of a correlation near ½ between halves of this noise is about 1 %.
    for version, image in (("raw", images.even), ("denoised", denoised)):
        assert rho[version] == pytest.approx(_correlation(image, images.signal), abs=5 * 0.013)
    assert scores["half_correlation"] == pytest.approx(0.5, abs=5 * 0.75 / SIZE)
    assert rho["denoised"] > rho["raw"] + 0.1


def test_a_radial_filter_is_recovered_as_signal_transfer(
    tmp_path: Path, generator: torch.Generator
) -> None:
    size, rings = 96, 48
    images = _field(generator, noise=0.2, size=size, sigma_px=0.4)
    factors = 0.1 + torch.rand(2 * rings, generator=generator)
    denoised = apply_ring_gain(images.even, factors, rings)
    curves = score([_case(tmp_path, images, denoised)])["curves"]
    wanted = factors[:rings].tolist()
    # The first ring holds nothing but the mean.
    for name in ("signal_transfer", "signal_transfer_truth"):
        assert curves[name][1:] == pytest.approx(wanted[1:], rel=1e-3)
    assert curves["gain"][1:] == pytest.approx([1.0] * (rings - 1), rel=1e-4)
    nyquist = 0.5 / 1.5
    assert curves["frequency_per_angstrom"] == pytest.approx(
        [(k + 0.5) / rings * nyquist for k in range(rings)]
    )


def test_the_ring_that_holds_only_the_mean_is_undefined(
    tmp_path: Path, generator: torch.Generator
) -> None:
    images = _field(generator, noise=0.2, size=96)
    curves = score([_case(tmp_path, images, images.even, other=images.odd)])["curves"]
    for name, values in curves.items():
        if name.startswith(("signal_transfer", "gain", "frc", "correlation")):
            # The mean is subtracted; what is left there is rounding, and no score.
            assert values[0] in {None, 0.0}, name


def test_a_smooth_filter_gains_nothing_and_damps_detail(
    tmp_path: Path, generator: torch.Generator
) -> None:
    size, sigma = 96, 0.8
    images = _field(generator, noise=0.2, size=size, sigma_px=0.4)
    denoised = gaussian_lowpass(images.even, sigma)
    scores = score([_case(tmp_path, images, denoised, pixel=4.0)])
    curves = scores["curves"]
    expected = [math.exp(-2 * (math.pi * sigma * (k + 0.5) / size) ** 2) for k in range(size // 2)]
    # The response changes across a ring, by at most its slope times half the ring's width.
    assert curves["signal_transfer"][1:] == pytest.approx(expected[1:], abs=0.02)
    assert max(curves["gain"][1:]) <= 1 + 1e-3
    transfer = list(scores["reference"]["band_signal_transfer"].values())
    assert all(0 < value <= 1 for value in transfer)
    edges = ["100-50", "50-33", "33-25", "25-15", "15-8"]
    by_band = [scores["reference"]["band_signal_transfer"][edge] for edge in edges]
    assert all(coarse > fine for coarse, fine in pairwise(by_band))


@pytest.mark.parametrize("a", [1.0, 0.6])
def test_residual_noise_and_bias_in_closed_form(
    tmp_path: Path, generator: torch.Generator, a: float
) -> None:
    noise = 0.7
    images = _field(generator, noise)
    case = _case(tmp_path, images, a * images.even, other=a * images.odd)
    scores = score([case])["reference"]
    # De = a (S + N): var(De) − cov(De, Do) is a² σ², and the bias is (1 − a)² var S.
    assert scores["bias"] == pytest.approx((1 - a) ** 2, abs=1e-4)
    expected = a**2 * noise**2
    assert scores["residual_noise"] == pytest.approx(expected, abs=5 * 3 * expected / SIZE)
    even, odd = (metrics.highpassed(x, 1.5) for x in (images.even, images.odd))
    moments = metrics.Moments.of(even, odd)
    exact = a**2 * ((moments.xx + moments.yy) / 2 - moments.xy) / moments.xy
    assert scores["residual_noise"] == pytest.approx(exact, rel=0.01)


def test_without_denoised_halves_there_is_no_residual_noise(
    tmp_path: Path, generator: torch.Generator
) -> None:
    images = _field(generator)
    scores = score([_case(tmp_path, images, images.even)])
    assert "residual_noise" not in scores["reference"]
    assert "frc_denoised_halves" not in scores["curves"]


def test_the_best_gaussian_is_that_of_a_scan_against_the_truth(
    tmp_path: Path, generator: torch.Generator
) -> None:
    fields = [_field(generator, 1.0) for _ in range(2)]
    cases = [_case(tmp_path / str(i), f, f.even) for i, f in enumerate(fields)]
    scores = score(cases)
    found = {
        sigma: [_correlation(gaussian_lowpass(f.even, sigma), f.signal) for f in fields]
        for sigma in SIGMAS
    }
    best = max(SIGMAS, key=lambda sigma: sum(found[sigma]))
    assert scores["gaussian_sigma_px"] == best
    for db, r in zip(
        scores["truth"]["snr_db_per_micrograph"]["gaussian_best"], found[best], strict=True
    ):
        assert math.sqrt(1 - 10 ** (-db / 10)) == pytest.approx(r, abs=2e-3)


def _in_band(shape: tuple[int, int], pixel: float, low: float, high: float) -> NDArray[np.bool_]:
    """Tell which pixels of the full spectrum lie in rings between two resolutions."""
    rows, columns = (np.fft.fftfreq(length) for length in shape)
    frequency = np.hypot(rows[:, None], columns[None, :])
    rings = min(shape) // 2
    middle = (np.floor(frequency * 2 * rings) + 0.5) / (2 * rings)
    resolution = pixel / middle
    return (resolution <= low) & (resolution > high)


def _band_correlation(x: Tensor, y: Tensor, inside: NDArray[np.bool_]) -> float:
    """Return Re Σ D R* / √(Σ|D|² Σ|R|²) over chosen pixels of the full spectrum."""
    d, r = (np.fft.fft2((i.double() - i.double().mean()).numpy())[inside] for i in (x, y))
    power = float(np.sqrt((abs(d) ** 2).sum() * (abs(r) ** 2).sum()))
    return float((d * r.conj()).real.sum()) / power


def test_without_truth_the_gaussian_is_that_of_the_widest_band(
    tmp_path: Path, generator: torch.Generator
) -> None:
    pixel, size = 4.0, 128
    images = _field(generator, 2.0, size)
    scores = score([_case(tmp_path, images, images.even, truth=False, pixel=pixel)])
    inside = _in_band((size, size), pixel, 300, 15)
    found = {s: _band_correlation(gaussian_lowpass(images.even, s), images.odd, inside)
             for s in SIGMAS}  # fmt: skip
    best = max(SIGMAS, key=lambda sigma: found[sigma])
    assert scores["gaussian_sigma_px"] == best
    got = scores["reference"]["band_correlation"]["300-15"]["gaussian_best"]
    assert got == pytest.approx(found[best], abs=2e-3)


@pytest.mark.parametrize("shape", [(128, 128), (96, 131)])
def test_band_correlation_is_the_direct_sum_over_pixels(
    tmp_path: Path, generator: torch.Generator, shape: tuple[int, int]
) -> None:
    pixel = 4.0
    cases, expected = [], []
    bands = ((300, 15), (300, 100), (100, 50), (50, 33), (33, 25), (25, 15), (15, 8))
    for index in range(2):
        signal = gaussian_lowpass(torch.randn(shape, generator=generator), 1.0) * 3
        raw, reference = signal + torch.randn(2, *shape, generator=generator)
        denoised = raw.sign() * raw.abs().sqrt()
        images = Field(signal, raw, reference)
        cases.append(_case(tmp_path / str(index), images, denoised, pixel=pixel))
        masks = [_in_band(shape, pixel, *band) for band in bands]
        expected.append(
            [
                {
                    "raw": _band_correlation(raw, reference, mask),
                    "denoised": _band_correlation(denoised, reference, mask),
                }
                for mask in masks
            ]
        )
    got = score(cases)["reference"]["band_correlation"]
    for band, first, second in zip(bands, *expected, strict=True):
        row = got[f"{band[0]}-{band[1]}"]
        for version in ("raw", "denoised"):
            mean = (first[version] + second[version]) / 2
            assert row[version] == pytest.approx(mean, abs=1e-6)


def test_wiener_filters_are_no_worse_than_raw_or_gaussian(
    tmp_path: Path, generator: torch.Generator
) -> None:
    images = _field(generator, 2.0)
    halves = score([_case(tmp_path / "halves", images, images.even, truth=False)])
    rho = halves["reference"]["correlation_with_truth"]
    assert halves["wiener"] == "learnt from the reference"
    assert rho["wiener"] > rho["raw"] + 0.1
    assert rho["wiener"] >= rho["gaussian_best"]
    oracle = score([_case(tmp_path / "oracle", images, images.even, reference=False)])
    assert "oracle" in oracle["wiener"]
    snr = oracle["truth"]["snr_db"]
    assert snr["wiener"] >= snr["gaussian_best"]
    assert snr["gaussian_best"] > snr["raw"] + 1


def test_scores_do_not_depend_on_the_scale_of_the_result(
    tmp_path: Path, generator: torch.Generator
) -> None:
    images = _field(generator)
    denoised = gaussian_lowpass(images.even, 1.5)
    one = score([_case(tmp_path / "one", images, denoised)])
    other = score([_case(tmp_path / "other", images, -5 + 37 * denoised)])
    for name in ("snr_db", "psnr_db", "ssim"):
        assert other["truth"][name] == pytest.approx(one["truth"][name], rel=1e-4)
    assert other["reference"]["correlation_with_truth"] == pytest.approx(
        one["reference"]["correlation_with_truth"], rel=1e-4
    )
    for version in ("snr_db", "psnr_db", "ssim"):
        assert one["truth"][version]["denoised"] > one["truth"][version]["raw"]


def test_psnr_and_ssim_are_those_of_the_metrics(tmp_path: Path, generator: torch.Generator) -> None:
    images = _field(generator)
    denoised = gaussian_lowpass(images.even, 1.5)
    truth = score([_case(tmp_path, images, denoised)])["truth"]
    shown, clean = (metrics.highpassed(x, 1.5) for x in (denoised, images.signal))
    assert truth["psnr_db"]["denoised"] == pytest.approx(metrics.psnr_db(shown, clean), abs=1e-3)
    assert truth["ssim"]["denoised"] == pytest.approx(metrics.ssim(shown, clean), abs=1e-4)


def _strict(values: dict[str, Any]) -> Any:
    return json.loads(json.dumps(values, allow_nan=False))


def test_scores_are_valid_json_even_of_pure_noise(
    tmp_path: Path, generator: torch.Generator
) -> None:
    noise = torch.randn(3, 96, 120, generator=generator)
    # Opposite noise: the halves anticorrelate in every ring, and nothing is defined.
    images = Field(noise[0], noise[1], -noise[1])
    case = _case(tmp_path, images, noise[2], other=noise[2].flip(0))
    scores = score([case])
    assert _strict(scores.values) == scores.values
    assert set(scores["curves"]["gain"]) == {None}
    assert scores["reference"]["correlation_with_truth"]["denoised"] is None
    assert scores["reference"]["bias"] is None


def test_a_perfect_result_has_finite_scores(tmp_path: Path, generator: torch.Generator) -> None:
    images = _field(generator)
    scores = score([_case(tmp_path, images, images.signal)])
    _strict(scores.values)
    assert scores["truth"]["snr_db"]["denoised"] > 60
    assert scores["truth"]["ssim"]["denoised"] == pytest.approx(1, abs=1e-5)


def test_micrographs_of_several_sizes_are_pooled(
    tmp_path: Path, generator: torch.Generator
) -> None:
    fields = [_field(generator, size=size) for size in (96, 128)]
    cases = [_case(tmp_path / str(i), f, f.even) for i, f in enumerate(fields)]
    seen: list[tuple[int, int]] = []
    scores = score(cases, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    _strict(scores.values)
    assert scores["micrographs"] == ["denoised", "denoised"]
    for db, f in zip(scores["truth"]["snr_db_per_micrograph"]["raw"], fields, strict=True):
        r = _correlation(f.even, f.signal)
        assert db == pytest.approx(-10 * math.log10(1 - r**2), abs=0.03)
    per_micrograph = scores["truth"]["snr_db_per_micrograph"]["raw"]
    assert scores["truth"]["snr_db"]["raw"] == pytest.approx(sum(per_micrograph) / 2)


def test_micrographs_of_another_pixel_size_are_left_out(
    tmp_path: Path, generator: torch.Generator
) -> None:
    fields = [_field(generator), _field(generator)]
    cases = [
        _case(tmp_path / str(pixel), f, f.even, pixel=pixel)
        for pixel, f in zip((1.5, 2.0), fields, strict=True)
    ]
    scores = score(cases)
    assert scores["pixel_size_angstrom"] == 1.5
    assert len(scores["micrographs"]) == 1
    assert len(scores.failures) == 1
    assert "has 2 Å/px where those before it have 1.5" in scores.failures[0]


def test_neither_reference_nor_truth_is_refused(tmp_path: Path, generator: torch.Generator) -> None:
    images = _field(generator)
    case = _case(tmp_path, images, images.even, reference=False, truth=False)
    with pytest.raises(ConfigError, match=r"--reference or --truth"):
        score([case])
    with pytest.raises(ConfigError):
        score([])


def test_cases_are_matched_by_name(tmp_path: Path, generator: torch.Generator) -> None:
    image = torch.randn(16, 16, generator=generator)
    for folder in ("denoised", "raw", "truth"):
        for name in ("b", "a"):
            write_image(tmp_path / folder / f"{name}.mrc", image)
    # A leftover of an interrupted writer is no micrograph.
    (tmp_path / "denoised" / ".c.mrc.17.partial").write_bytes(b"half")
    # A partner more is no harm: one may denoise some of many.
    write_image(tmp_path / "raw" / "c.mrc", image)
    cases = match_cases(tmp_path / "denoised", tmp_path / "raw", truth=tmp_path / "truth")
    assert [case.denoised.name for case in cases] == ["a.mrc", "b.mrc"]
    for case in cases:
        assert case.raw == tmp_path / "raw" / case.denoised.name
        assert case.truth == tmp_path / "truth" / case.denoised.name
        assert case.reference is None
    files = match_cases(tmp_path / "denoised" / "a.mrc", tmp_path / "raw" / "b.mrc")
    assert files == [Case(tmp_path / "denoised" / "a.mrc", tmp_path / "raw" / "b.mrc")]
    assert io.read_micrograph(files[0].raw or Path()).pixels.shape == (16, 16)
