"""Out of its depth: traits against closed forms, and warnings for what a model has not seen."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearice import checkpoint
from clearice.checkpoint import Domain
from clearice.denoise import Denoiser, denoise_files, depth, read_records
from clearice.fourier import gaussian_lowpass
from clearice.metrics import traits
from helpers import CPU, write_image, write_model

WIDE = dict.fromkeys(traits(torch.randn(64, 64), torch.zeros(64, 64)), (-100.0, 100.0))


def white(size: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed))


def test_white_noise_is_flat_and_leaves_nothing_behind() -> None:
    signal = 0.2 * gaussian_lowpass(white(seed=1), 4.0) * 30
    found = traits(white() + signal, signal)
    assert found["noise low"] == pytest.approx(0, abs=0.2)
    assert found["noise high"] == pytest.approx(0, abs=0.05)
    assert found["outliers"] == -5
    assert found["signal removed"] == pytest.approx(0, abs=0.03)
    assert found["contrast"] == pytest.approx(math.log(float(signal.var())), abs=0.25)


def test_traits_do_not_depend_on_the_unit() -> None:
    raw, denoised = white(), 0.3 * gaussian_lowpass(white(seed=1), 3.0)
    one, other = traits(raw, denoised), traits(7 + 250 * raw, 7 + 250 * denoised)
    assert all(one[name] == pytest.approx(other[name], abs=1e-3) for name in one)


def test_what_a_detector_does_is_seen() -> None:
    nothing = torch.zeros(256, 256)
    smooth = traits(gaussian_lowpass(white(), 0.8), nothing)
    assert smooth["noise high"] < -1
    hot = white()
    hot.view(-1)[:: 1 << 10] = 40.0
    assert traits(hot, nothing)["outliers"] == pytest.approx(math.log10(1 / 1024), abs=0.05)
    raw = white() + 6 * gaussian_lowpass(white(seed=2), 3.0)
    assert traits(raw, 0.5 * (raw - white()))["signal removed"] > 0.2


def test_excess_counts_in_widths_of_the_span() -> None:
    raw, denoised = white(), torch.zeros(256, 256)
    domain = Domain((1.0, 2.0), (1.0, 2.0), {**WIDE, "noise high": (2.0, 3.0)})
    score, trait = depth.excess(raw, denoised, domain)
    assert trait == "noise high"
    assert score == pytest.approx(2.0, abs=0.1)
    assert depth.warning_of(score, trait) is not None
    assert depth.warning_of(0.1, trait) is None


def test_the_middle_of_small_and_large_images() -> None:
    assert depth.middle(torch.zeros(100, 700)).shape == (100, 512)
    image = torch.arange(600.0)[:, None].expand(600, 600)
    assert depth.middle(image)[0, 0] == 44


def test_a_general_model_says_when_it_is_out_of_its_depth(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.safetensors")
    network, info = checkpoint.load_model(model)
    files = [write_image(tmp_path / "in" / f"m{i}.mrc", white(64, i)) for i in range(2)]
    narrow = Domain((0.5, 3.0), (1.0, 80.0), {**WIDE, "outliers": (3.0, 3.1)})
    said: list[str] = []
    for name, domain in (("inside", replace(narrow, traits=WIDE)), ("outside", narrow)):
        path = tmp_path / f"{name}.safetensors"
        checkpoint.save(path, network.state_dict(), replace(info, domain=domain), None)
        said.clear()
        denoise_files(files, Denoiser(path, CPU), tmp_path / name, say=said.append)
        warned = [line for line in said if "is unlike what the model has seen" in line]
        assert len(warned) == (2 if name == "outside" else 0)
        scores = [record.out_of_depth for record in read_records(tmp_path / name).values()]
        assert all(score is not None and (score > 10) == (name == "outside") for score in scores)


def test_a_general_model_sees_halves_by_their_own_spread(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.safetensors")
    network, info = checkpoint.load_model(model)
    general = tmp_path / "general.safetensors"
    known = replace(info, domain=Domain((0.5, 3.0), (1.0, 80.0)))
    checkpoint.save(general, network.state_dict(), known, None)
    denoiser, image = Denoiser(general, CPU), white(64)
    image = (image - image.mean()) / image.std(correction=0)
    alone = denoiser.normalised(image) * info.output_gain
    half = denoiser.normalised(2.5 * image + 0.7, 0.5) * info.output_gain
    torch.testing.assert_close(half, 2.5 * alone + 0.7, atol=1e-4, rtol=1e-4)
    bound = Denoiser(model, CPU).normalised(image) * info.output_gain
    torch.testing.assert_close(alone, bound, atol=1e-5, rtol=1e-4)


def test_a_general_model_warns_of_pixels_that_it_has_not_seen(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.safetensors")
    network, info = checkpoint.load_model(model)
    domain = Domain((0.5, 1.2), (1.0, 80.0))
    checkpoint.save(model, network.state_dict(), replace(info, domain=domain), None)
    said: list[str] = []
    image = write_image(tmp_path / "in" / "a.mrc", white(64))  # 1.5 Å/px
    denoise_files(
        [image], Denoiser(model, CPU), tmp_path / "out", dose_e_per_A2=200, say=said.append
    )
    assert any(
        "has 1.5 Å/px, but the model was trained on 0.5 to 1.2 Å/px" in line for line in said
    )
    assert any("the dose is 200 e/Å²" in line for line in said)
