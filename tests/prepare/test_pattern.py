"""What a detector adds to every image is removed, and where it adds nothing nothing is touched."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clearice.config import SimulateConfig
from clearice.data import Affine
from clearice.fourier import highpass
from clearice.prepare import match_pairs
from clearice.prepare.pattern import PatternSource, _Plan, estimate_pattern
from clearice.prepare.pattern_fix import PatternReport, fix_pattern
from clearice.prepare.shrinkage import CUTOFF, CellMap, CellPowers, Transfer
from clearice.prepare.spectra import Agreement, half_agreement, periodic_spectrum
from clearice.prepare.split import read_pair
from clearice.simulate import barrel, simulate_movie
from helpers import CPU, smooth_image
from tolerances import ABSOLUTE, RELATIVE


def _sources(
    stacks: Sequence[Tensor],
    weights: tuple[float, ...] | None = None,
    scales: Sequence[float] | None = None,
) -> list[PatternSource]:
    def reader(stack: Tensor) -> Callable[[], Tensor]:
        return lambda: stack

    return [
        PatternSource(
            name=f"mic{index}",
            shape=(stack.shape[0], stack.shape[1], stack.shape[2]),
            read=reader(stack),
            weights=weights or (1 / len(stack),) * len(stack),
            scale=1.0 if scales is None else scales[index],
        )
        for index, stack in enumerate(stacks)
    ]


def _agreement(stacks: Sequence[Tensor], weights: tuple[float, ...] | None = None) -> Agreement:
    return reduce(add, [half_agreement(s, weights or (1 / len(s),) * len(s)) for s in stacks])


def _corrected(stacks: Sequence[Tensor], **options: bool) -> list[Tensor]:
    pattern = estimate_pattern(_sources(stacks), **options)
    return [pattern.corrected(index, stack) for index, stack in enumerate(stacks)]


def _noise(
    micrographs: int, groups: int, height: int, width: int, seed: int, pattern: Tensor | None = None
) -> list[Tensor]:
    """Return groups of white noise of variance K, 1 at full dose, over one pattern."""
    generator = torch.Generator().manual_seed(seed)
    shape = (groups, height, width)
    still = torch.zeros(height, width) if pattern is None else pattern
    return [
        still + groups**0.5 * torch.randn(shape, generator=generator) for _ in range(micrographs)
    ]


@functools.cache
def _simulated(
    groups: int, gain_residual: float, hot: float
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[float, ...]]:
    """Return the groups of simulated movies, their truth, and mean over standard deviation."""
    config = SimulateConfig(
        size=192,
        frames=groups,
        micrographs=16,
        gain_residual=gain_residual,
        hot_pixels_per_million=hot,
    )
    stacks, truths, scales = [], [], []
    for index in range(config.micrographs):
        movie = simulate_movie(barrel(0), config, index, CPU)
        affine = Affine.of(movie.frames.mean(0))
        stacks.append(affine.apply(movie.frames).half())
        truths.append(affine.apply(movie.truth / config.frames))
        scales.append(affine.mean / affine.std)
    return tuple(stacks), tuple(truths), tuple(scales)


def _error(stacks: Sequence[Tensor], truths: Sequence[Tensor]) -> float:
    """Return the mean squared distance of the full dose from the truth."""
    squares = [
        (stack.float().mean(0) - truth).square().mean()
        for stack, truth in zip(stacks, truths, strict=True)
    ]
    return float(torch.stack(squares).mean())


@pytest.mark.parametrize("groups", [2, 8])
def test_correlation_of_simulated_halves_falls_ten_times(groups: int) -> None:
    stacks, truths, scales = _simulated(groups, 0.03, 200.0)
    pattern = estimate_pattern(_sources(stacks, scales=scales))
    clean = [pattern.corrected(index, stack) for index, stack in enumerate(stacks)]
    before, after = _agreement(stacks).near_nyquist, _agreement(clean).near_nyquist
    assert before.sigmas > 10
    assert abs(after.value) < before.value / 10 + 4 * after.error
    assert _error(clean, truths) < _error(stacks, truths)
    pixels = pattern.components[0]
    # The gain residual of 3 % over the counting noise of 92 electrons a pixel, 1/√92, of which
    # stripes and slow waves have some; specimen counts as noise.
    assert 0.8 < pixels.rms / (0.03 * 92**0.5) < 1.0
    assert pixels.removed > 0.9


def test_hot_pixels_are_found_and_replaced() -> None:
    stacks, truths, _ = _simulated(8, 0.03, 200.0)
    cool, _, _ = _simulated(8, 0.03, 0.0)
    hot = (torch.stack(stacks).float() - torch.stack(cool).float()).mean((0, 1)) > 1.0
    pattern = estimate_pattern(_sources(stacks))
    assert hot.sum() >= 4
    assert sorted(pattern.defects.bad.tolist()) == hot.flatten().nonzero()[:, 0].tolist()
    clean = pattern.corrected(0, stacks[0])
    assert float((clean.mean(0) - truths[0])[hot].abs().max()) < 5
    assert float((stacks[0].float().mean(0) - truths[0])[hot].abs().min()) > 5


@pytest.mark.parametrize("groups", [2, 8])
def test_no_harm_where_there_is_no_pattern(groups: int) -> None:
    stacks, truths, scales = _simulated(groups, 0.0, 0.0)
    pattern = estimate_pattern(_sources(stacks, scales=scales))
    clean = [pattern.corrected(index, stack) for index, stack in enumerate(stacks)]
    before, after = _agreement(stacks).near_nyquist, _agreement(clean).near_nyquist
    assert abs(after.value - before.value) < 3 * after.error
    assert _error(clean, truths) < 1.001 * _error(stacks, truths)
    assert all(component.rms == 0 for component in pattern.components)


def test_no_false_alarm_in_noise() -> None:
    # 33 classes of frequencies, five standard errors each: one alarm in 100,000 sets.
    for seed in range(20):
        stacks = _noise(6, 2, 48, 56, seed)
        clean = _corrected(stacks)
        assert all(torch.equal(c, s) for c, s in zip(clean, stacks, strict=True))


def test_one_mean_for_both_halves_would_add_noise_that_they_share() -> None:
    micrographs = 6
    stacks = _noise(micrographs, 2, 128, 128, 0)
    full = [stack.mean(0) for stack in stacks]
    naive = [
        stack - highpass((sum(full, torch.zeros(128, 128)) - own) / (micrographs - 1), CUTOFF)
        for stack, own in zip(stacks, full, strict=True)
    ]
    # Halves have noise of variance 2, and the mean of five others, of 1 each, 1/5.
    shared = (1 / (micrographs - 1)) / (2 + 1 / (micrographs - 1))
    harmed = _agreement(naive).near_nyquist
    assert harmed.value == pytest.approx(shared, abs=5 * harmed.error)
    assert harmed.sigmas > 10
    unharmed = _agreement(_corrected(stacks)).near_nyquist
    assert abs(unharmed.value) < 4 * unharmed.error


@pytest.mark.parametrize("groups", [2, 3, 8])
def test_a_strong_pattern_leaves_no_correlation_behind(groups: int) -> None:
    generator = torch.Generator().manual_seed(1)
    pattern = 0.5 * torch.randn(96, 80, generator=generator)
    stacks = _noise(24, groups, 96, 80, 2, pattern)
    before, after = (_agreement(s).near_nyquist for s in (stacks, _corrected(stacks)))
    assert before.sigmas > 20
    assert abs(after.value) < 5 * after.error + before.value / 30


def test_many_micrographs_tell_a_weak_pattern() -> None:
    generator = torch.Generator().manual_seed(22)
    stacks = _noise(200, 2, 64, 64, 23, 0.2 * torch.randn(64, 64, generator=generator))
    pattern = estimate_pattern(_sources(stacks))
    clean = [pattern.corrected(index, stack) for index, stack in enumerate(stacks)]
    before, after = (_agreement(s).near_nyquist for s in (stacks, clean))
    assert before.value == pytest.approx(0.04 / 2.04, abs=4 * before.error)
    assert abs(after.value) < 4 * after.error
    # κP²/(κP² + N²/n) of 10·0.04 against 1/99.
    assert pattern.components[0].removed == pytest.approx(0.999, abs=0.001)
    # The mean of 100 others brings 1 % of the noise at full dose, which is half that of a group.
    assert float(clean[0].var() / stacks[0].var()) < 1.005


@pytest.mark.parametrize("axis", [0, 1])
def test_stripes_are_removed(axis: int) -> None:
    generator = torch.Generator().manual_seed(3)
    shape = (96, 1) if axis == 0 else (1, 96)
    stripes = (0.2 * torch.randn(shape, generator=generator)).expand(96, 96)
    stacks = _noise(12, 2, 96, 96, 4, stripes)
    clean = _corrected(stacks)
    before, after = _agreement(stacks), _agreement(clean)
    hit, spared = ("rows", "columns") if axis == 0 else ("columns", "rows")
    assert getattr(before, hit).value > 0.5
    assert getattr(before, hit).sigmas > 10
    assert abs(getattr(after, hit).value) < 4 * getattr(after, hit).error
    assert abs(getattr(before, spared).value) < 4 * getattr(before, spared).error
    # All else is left as it was: 1 or 2 of 96 lines of frequencies were touched.
    changed = sum(float((c - s).square().sum()) for c, s in zip(clean, stacks, strict=True)) / sum(
        float(s.square().sum()) for s in stacks
    )
    assert changed < 0.04


def test_a_pattern_is_the_mean_of_the_others() -> None:
    generator = torch.Generator().manual_seed(5)
    stacks = _noise(7, 2, 40, 48, 6, torch.randn(40, 48, generator=generator))
    scales = [0.5, 1.0, 1.5, 1.0, 0.7, 1.2, 0.9]
    pattern = estimate_pattern(_sources(stacks, scales=scales))
    assert len(pattern.defects.bad) == 0
    for index, stack in enumerate(stacks):
        removed = stack - pattern.corrected(index, stack)
        for group in range(2):
            others = [m for m in range(group, 7, 2) if m != index]
            weight = sum(scales[m] ** 2 for m in others)
            mean = sum((scales[m] * stacks[m].mean(0) for m in others), torch.zeros(40, 48))
            expected = torch.fft.irfft2(
                periodic_spectrum(mean / weight) * pattern._response, s=(40, 48)
            )
            torch.testing.assert_close(
                removed[group], scales[index] * expected, rtol=1e-4, atol=1e-4
            )


@given(groups=st.integers(2, 12), micrographs=st.integers(4, 40))
def test_no_two_groups_share_what_they_are_cleaned_with(groups: int, micrographs: int) -> None:
    plan = _Plan.exchangeable(groups, micrographs)

    def images(group: int, without: int | None = None) -> set[tuple[int, int]]:
        return {
            (m, g)
            for p in plan.uses[group]
            for m in range(plan.parts[p].subset, micrographs, plan.subsets)
            for g in plan.parts[p].groups
            if m != without
        }

    used = [images(group) for group in range(groups)]
    assert sum(len(u) for u in used) == len(set().union(*used))
    assert all(images(group, without=m) for group in range(groups) for m in range(micrographs))
    if micrographs >= 2 * groups:
        fields = [{m for m, _ in u} for u in used]
        assert sum(len(f) for f in fields) == micrographs


def test_a_weak_input_is_cleaned_by_what_the_targets_know() -> None:
    generator = torch.Generator().manual_seed(7)
    shared = torch.randn(128, 128, generator=generator)
    signal = [smooth_image(generator, 128, 3.0) for _ in range(8)]
    stacks = [
        torch.stack(
            [
                0.2 * s + 0.1 * shared + torch.randn(128, 128, generator=generator),
                s + 0.4 * shared + torch.randn(128, 128, generator=generator),
            ]
        )
        for s in signal
    ]
    sources = _sources(stacks, weights=(0.02, 0.98))
    pattern = estimate_pattern(sources, input_target=True)
    clean = [pattern.corrected(index, stack) for index, stack in enumerate(stacks)]
    before, after = (_agreement(s, (0.02, 0.98)).near_nyquist for s in (stacks, clean))
    assert before.sigmas > 5
    assert abs(after.value) < 4 * after.error + before.value / 10
    untouched = [torch.equal(c[1], s[1]) for c, s in zip(clean, stacks, strict=True)]
    assert all(untouched)
    # Frames gain 0.1²/(0.4²·7) of variance at most, and lose as much as the pattern has.
    ratio = [float(c[0].var() / s[0].var()) for c, s in zip(clean, stacks, strict=True)]
    assert max(ratio) < 1.01


def test_strengths_that_are_known_help() -> None:
    generator = torch.Generator().manual_seed(8)
    shared = torch.randn(96, 96, generator=generator)
    scales = [0.3, 0.3, 1.0, 1.0, 1.7, 1.7] * 2
    stacks = [
        scale * shared + stack
        for scale, stack in zip(scales, _noise(12, 2, 96, 96, 9), strict=True)
    ]
    left = []
    for known in (None, scales):
        pattern = estimate_pattern(_sources(stacks, scales=known))
        clean = [pattern.corrected(index, stack) for index, stack in enumerate(stacks)]
        left.append(_agreement(clean).near_nyquist)
    assert left[0].sigmas > 10
    assert abs(left[1].value) < left[0].value / 5


def test_one_event_does_not_spread() -> None:
    generator = torch.Generator().manual_seed(10)
    stacks = _noise(8, 2, 64, 64, 11, torch.randn(64, 64, generator=generator))
    struck = [stack.clone() for stack in stacks]
    struck[0][:, 30, 30] += 1000.0
    clean, hit = _corrected(stacks), _corrected(struck)
    # It counts as 10 standard deviations of its image, in the mean of three or four.
    limit = 10 * float(struck[0].mean(0).std()) / 3
    assert max(float((h - c).abs().max()) for h, c in zip(hit[1:], clean[1:], strict=True)) < limit
    assert len(estimate_pattern(_sources(struck)).defects.bad) == 0


@pytest.mark.parametrize("shape", [(2, 5, 7), (3, 17, 16), (8, 33, 20), (2, 1, 64)])
@pytest.mark.parametrize("input_target", [False, True])
def test_any_shape(shape: tuple[int, int, int], input_target: bool) -> None:
    if input_target and shape[0] != 2:
        pytest.skip("an input and a target are two")
    generator = torch.Generator().manual_seed(12)
    stacks = _noise(5, *shape, 13, 3 * torch.randn(shape[1:], generator=generator))
    for clean in _corrected(stacks, input_target=input_target):
        assert clean.shape == shape
        assert clean.dtype == torch.float32
        assert torch.isfinite(clean).all()


def test_arguments_are_left_alone() -> None:
    stacks = _noise(4, 2, 32, 32, 14, torch.ones(32, 1).expand(32, 32) * torch.randn(32, 1))
    copies = [stack.clone() for stack in stacks]
    _corrected(stacks)
    assert all(torch.equal(a, b) for a, b in zip(stacks, copies, strict=True))


def test_too_few_are_an_error_and_mixed_shapes_too() -> None:
    few = _sources(_noise(3, 2, 16, 16, 0))
    with pytest.raises(ValueError, match="4 micrographs or more"):
        estimate_pattern(few)
    with pytest.raises(ValueError, match="one shape"):
        estimate_pattern([*few, *_sources(_noise(1, 2, 16, 20, 0))])


def _fix(
    sources: Sequence[PatternSource],
) -> tuple[list[PatternReport], dict[int, Tensor], list[int]]:
    written: dict[int, Tensor] = {}
    seen: list[int] = []
    reports = fix_pattern(
        sources, written.__setitem__, progress=lambda done, total: seen.append(done)
    )
    return reports, written, seen


def test_each_shape_is_fixed_by_itself() -> None:
    generator = torch.Generator().manual_seed(15)
    shared = torch.randn(64, 64, generator=generator)
    many, few = _noise(9, 2, 64, 64, 16, shared), _noise(3, 2, 40, 64, 17)
    mixed = [*many[:4], few[0], *many[4:], *few[1:]]
    reports, written, seen = _fix(_sources(mixed))
    places = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert sorted(written) == places
    assert seen == list(range(1, 10))
    alone = _corrected(many)
    for place, clean in zip(places, alone, strict=True):
        torch.testing.assert_close(written[place], clean)
    fixed, left = reports
    assert (fixed.micrographs, left.micrographs) == (9, 3)
    assert fixed.after is not None
    assert fixed.before.near_nyquist.value > 10 * abs(fixed.after.near_nyquist.value)
    assert left.after is None
    assert "left as it is; at least 4" in str(left)
    assert sum(c.rms**2 for c in fixed.components) == pytest.approx(1.0, rel=0.15)
    assert f"pixels {fixed.components[0].rms:.3f} σ" in str(fixed)
    as_json = json.loads(json.dumps([r.as_json() for r in reports], allow_nan=False))
    assert as_json[0]["components"][0]["name"] == "pixels"
    assert as_json[1]["after"] is None


def test_periodic_part_agrees_with_the_definition() -> None:
    generator = torch.Generator().manual_seed(18)
    image = torch.randn(9, 14, generator=generator, dtype=torch.float64)
    jumps = torch.zeros_like(image)
    jumps[0] += image[-1] - image[0]
    jumps[-1] -= image[-1] - image[0]
    jumps[:, 0] += image[:, -1] - image[:, 0]
    jumps[:, -1] -= image[:, -1] - image[:, 0]
    smooth = image - torch.fft.irfft2(periodic_spectrum(image), s=image.shape)
    # The discrete Laplacian with periodic neighbours.
    neighbours = sum(smooth.roll(step, axis) for axis in (0, 1) for step in (1, -1))
    torch.testing.assert_close(
        neighbours - 4 * smooth, jumps, rtol=RELATIVE[torch.float64], atol=ABSOLUTE[torch.float64]
    )
    assert float(smooth.mean()) == pytest.approx(0, abs=1e-12)


def test_a_gradient_makes_no_stripes() -> None:
    generator = torch.Generator().manual_seed(19)
    ramp = torch.linspace(-3, 3, 256)[:, None].expand(256, 256)
    groups = ramp + torch.randn(2, 256, 256, generator=generator)
    assert abs(half_agreement(groups, (0.5, 0.5)).rows.value) < 0.2


def test_cells_hold_every_frequency_once() -> None:
    cells = CellMap(30, 41, CPU)
    assert float(cells.count.sum()) == 30 * 41
    image = torch.randn(30, 41, generator=torch.Generator().manual_seed(0))
    power = cells.total(torch.fft.rfft2(image).abs().square())
    assert float(power.sum()) == pytest.approx(30 * 41 * float(image.square().sum()), rel=1e-5)


def test_weights_minimise_what_they_say() -> None:
    pattern, noise, images, cost = 0.3, 7.0, 5.0, 10.0
    powers = CellPowers(torch.tensor([pattern]), torch.tensor([noise]))
    weight = float(powers.weights(images, torch.ones(1), cost))
    w = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    harm = cost * (1 - w).square() * pattern + w.square() * noise / images
    assert weight == pytest.approx(float(w[harm.argmin()]), abs=1e-4)


def test_powers_and_slope_of_a_known_pattern() -> None:
    generator = torch.Generator().manual_seed(21)
    shared, cells = torch.randn(256, 256, generator=generator), CellMap(256, 256, CPU)

    def spectra(amplitude: float, noise: float) -> list[Tensor]:
        drawn = torch.randn(2, 256, 256, generator=generator)
        return [torch.fft.rfft2(amplitude * shared + noise * image) for image in drawn]

    sources, images = spectra(0.5, 1.0), spectra(0.1, 2.0)
    powers = CellPowers.measure(cells, sources, [4.0, 4.0])
    fast = cells.by_class(powers.pattern)[0][8:16] / 256**2
    assert float(fast.mean()) == pytest.approx(0.25, abs=0.03)
    assert float(powers.noise[8:16].mean()) / 256**2 == pytest.approx(4.0, rel=0.05)
    transfer = Transfer.measure(cells, powers, sources, images)
    # Cross powers are known to 1/√65536 of the power in the images, over the pattern's.
    assert float(transfer.slope[8]) == pytest.approx(0.2, abs=4 * 2.2 / 256 / 0.25 / 2**0.5)


def test_real_frames_lose_the_correlation_that_they_share(test_data: Path) -> None:
    folder = test_data / "apoferritin"
    pairs = match_pairs(f"{folder}/*_frame.mrc", f"{folder}/*_rest.mrc")
    stacks = [read_pair(pair, None, 49.0).groups / 25 for pair in pairs]
    weights = (0.02, 0.98)
    pattern = estimate_pattern(_sources(stacks, weights=weights), input_target=True)
    clean = [pattern.corrected(index, stack) for index, stack in enumerate(stacks)]
    before, after = (_agreement(s, weights).near_nyquist for s in (stacks, clean))
    assert before.value == pytest.approx(0.021, abs=0.002)
    assert abs(after.value) < before.value / 8
    assert all(c[0].var() < s[0].var() for c, s in zip(clean, stacks, strict=True))
