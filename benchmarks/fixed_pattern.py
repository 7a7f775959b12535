"""What removing the fixed pattern does to simulated movies with a residual gain, and to real pairs.

Each row tells how two halves correlate near Nyquist, where there is only noise, and how far the
images are from the truth, relative to what they were. Beside the method stand what it could have
been: the same with other costs of shared errors (1 is the plain reliability), the same half of the
other micrographs in full, and one mean for both halves, which does harm. `CLEARICE_TEST_DATA` names
the folder that holds `apoferritin/`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearice.benchmark.timing import context
from clearice.config import SimulateConfig
from clearice.data import Affine, dose_weighted_mean
from clearice.fourier import highpass
from clearice.prepare import match_pairs
from clearice.prepare.checks import check_micrograph, summarise
from clearice.prepare.pattern import PatternSource, estimate_pattern
from clearice.prepare.shrinkage import CUTOFF
from clearice.prepare.spectra import half_agreement
from clearice.prepare.split import read_pair
from clearice.simulate import barrel, simulate_movie

Weights = tuple[float, ...]
Rows = list[dict[str, Any]]


def sources(
    stacks: Sequence[Tensor], weights: Weights, scales: Sequence[float]
) -> list[PatternSource]:
    """Describe images in memory as a data set would."""

    def reader(stack: Tensor) -> Callable[[], Tensor]:
        return lambda: stack

    return [
        PatternSource(
            f"mic{index}",
            (stack.shape[0], stack.shape[1], stack.shape[2]),
            reader(stack),
            weights,
            scale,
        )
        for index, (stack, scale) in enumerate(zip(stacks, scales, strict=True))
    ]


def same_half_of_the_others(stacks: Sequence[Tensor]) -> list[Tensor]:
    """Subtract from each group the mean of that group of the other micrographs, in full."""
    total = reduce(add, [stack.float() for stack in stacks])
    n = len(stacks) - 1
    return [stack.float() - highpass((total - stack.float()) / n, CUTOFF) for stack in stacks]


def one_mean_for_all(stacks: Sequence[Tensor], weights: Weights) -> list[Tensor]:
    """Subtract the full-dose mean of the other micrographs from every group."""
    full = [dose_weighted_mean(stack.float(), weights) for stack in stacks]
    total, n = reduce(add, full), len(stacks) - 1
    return [
        stack.float() - highpass((total - own) / n, CUTOFF)
        for stack, own in zip(stacks, full, strict=True)
    ]


def agreement(stacks: Sequence[Tensor], weights: Weights) -> dict[str, float]:
    """Return the correlations of the halves, pooled over all micrographs."""
    pooled = reduce(add, [half_agreement(stack, weights) for stack in stacks])
    kinds = {"near_nyquist": pooled.near_nyquist, "rows": pooled.rows, "columns": pooled.columns}
    values = {kind: round(excess.value, 5) for kind, excess in kinds.items()}
    return values | {f"{kind}_error": round(excess.error, 5) for kind, excess in kinds.items()}


def relative_error(
    clean: Sequence[Tensor], stacks: Sequence[Tensor], truths: Sequence[Tensor]
) -> float:
    """Return the mean squared distance from the truth over what it was."""

    def total(images: Sequence[Tensor]) -> float:
        return sum(
            float((image.float() - truth).square().mean())
            for image, truth in zip(images, truths, strict=True)
        )

    return round(total(clean) / total(stacks), 5)


def full_dose(stacks: Sequence[Tensor]) -> list[Tensor]:
    """Return the means of all groups."""
    return [stack.float().mean(0) for stack in stacks]


def simulated(size: int, count: int, groups: int, gain: float, dose_spread: float) -> Any:
    """Return normalised groups, truth and mean over standard deviation of simulated movies."""
    stacks, truths, scales = [], [], []
    for index in range(count):
        dose = 53.0 * (1 + dose_spread * (2 * (index % 5) / 4 - 1))
        config = SimulateConfig(
            size=size,
            frames=8,
            dose_e_per_A2=dose,
            gain_residual=gain,
            hot_pixels_per_million=50.0 if gain else 0.0,
        )
        movie = simulate_movie(barrel(0), config, index, torch.device("cpu"))
        means = torch.stack([movie.frames[group::groups].mean(0) for group in range(groups)])
        affine = Affine.of(means.mean(0))
        stacks.append(affine.apply(means).half())
        truths.append(affine.apply(movie.truth / config.frames))
        scales.append(affine.mean / affine.std)
    return stacks, truths, scales


def simulated_rows(size: int) -> Rows:
    """Compare methods on simulated movies, with a residual gain and without."""
    rows: Rows = []
    for groups, gain, spread in ((2, 0.02, 0.0), (8, 0.02, 0.0), (2, 0.02, 0.5), (2, 0.0, 0.0)):
        every, truths, scales = simulated(size, 24, groups, gain, spread)
        weights = (1 / groups,) * groups
        for count in (8, 24):
            stacks = every[:count]
            case = {
                "groups": groups,
                "gain_residual": gain,
                "dose_spread": spread,
                "micrographs": count,
            }
            methods: dict[str, list[Tensor]] = {"none": [stack.float() for stack in stacks]}
            for cost in (1.0, 10.0, 100.0):
                pattern = estimate_pattern(
                    sources(stacks, weights, scales[:count]), shared_cost=cost
                )
                methods[f"clearice, shared_cost {cost:g}"] = [
                    pattern.corrected(index, stack) for index, stack in enumerate(stacks)
                ]
            if spread:
                pattern = estimate_pattern(sources(stacks, weights, [1.0] * count))
                methods["clearice, strengths unknown"] = [
                    pattern.corrected(index, stack) for index, stack in enumerate(stacks)
                ]
            methods["same half of the others, in full"] = same_half_of_the_others(stacks)
            methods["one mean for all"] = one_mean_for_all(stacks, weights)
            for method, clean in methods.items():
                known = truths[:count]
                error = {
                    "group": relative_error(clean, stacks, known),
                    "full_dose": relative_error(full_dose(clean), full_dose(stacks), known),
                }
                rows.append(
                    case | {"method": method} | agreement(clean, weights) | {"error": error}
                )
                print(rows[-1])
    return rows


def real_rows() -> dict[str, Any]:
    """Compare methods on real pairs of one frame and the mean of about 49 others."""
    folder = Path(os.environ["CLEARICE_TEST_DATA"]) / "apoferritin"
    pairs = match_pairs(f"{folder}/*_frame.mrc", f"{folder}/*_rest.mrc")
    half_sets = [read_pair(pair, None, 49.0) for pair in pairs]
    weights = half_sets[0].weights
    stacks = [
        torch.stack([Affine.of(group).apply(group) for group in half_set.groups])
        for half_set in half_sets
    ]
    described = sources(stacks, weights, [1.0] * len(stacks))
    methods = {"none": stacks}
    for cost in (1.0, 10.0):
        pattern = estimate_pattern(described, input_target=True, shared_cost=cost)
        methods[f"clearice, shared_cost {cost:g}"] = [
            pattern.corrected(index, stack) for index, stack in enumerate(stacks)
        ]
    methods["same half of the others, in full"] = same_half_of_the_others(stacks)
    methods["one mean for all"] = one_mean_for_all(stacks, weights)
    rows: Rows = []
    for method, clean in methods.items():
        power = {
            role: relative_error(
                [c[group] for c in clean], [s[group] for s in stacks], [torch.zeros(1)] * 8
            )
            for group, role in enumerate(("input", "target"))
        }
        rows.append({"method": method} | agreement(clean, weights) | {"power": power})
        print(rows[-1])
    checks = {}
    for name, images in (("before", stacks), ("after", methods["clearice, shared_cost 10"])):
        looked = [
            check_micrograph(h.name, image, weights, h.pixel_size_angstrom)
            for h, image in zip(half_sets, images, strict=True)
        ]
        results = summarise(looked, dict.fromkeys([h.name for h in half_sets], "train"))
        checks[name] = {r.name: {"value": round(r.value, 4), "verdict": r.verdict} for r in results}
    components = [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
        for row in (vars(component) for component in pattern.components)
    ]
    return {
        "rows": rows,
        "components": components,
        "defects": len(pattern.defects.bad),
        "checks": checks,
    }


def cost(size: int) -> dict[str, Any]:
    """Time one thread on 16 micrographs of 8 groups, and take the memory at its peak."""
    torch.set_num_threads(1)
    groups, count = 8, 16
    stack = torch.randn(groups, size, size, generator=torch.Generator().manual_seed(0)).half()
    described = sources([stack] * count, (1 / groups,) * groups, [1.0] * count)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    pattern = estimate_pattern(described)
    estimated = time.perf_counter()
    pattern.corrected(0, stack)
    corrected = time.perf_counter()
    check_micrograph("mic", stack, (1 / groups,) * groups, 1.0)
    checked = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "size": size,
        "groups": groups,
        "threads": 1,
        "estimate_seconds_per_micrograph": round((estimated - start) / count, 3),
        "correct_seconds_per_micrograph": round(corrected - estimated, 3),
        "check_seconds_per_micrograph": round(checked - corrected, 3),
        "extra_memory_gib": round((peak - held) / 2**20, 2),
        "extra_memory_in_float32_stacks": round((peak - held) * 1024 / (4 * groups * size**2), 2),
    }


def main() -> None:
    """Run all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fixed-pattern.json"))
    parser.add_argument("--size", type=int, default=512, help="of the simulated movies, px")
    parser.add_argument("--large", type=int, default=4096, help="for time and memory, px")
    arguments = parser.parse_args()
    result = {
        "benchmark": "fixed-pattern",
        "context": context(torch.device("cpu")),
        "cost": cost(arguments.large),
        "apoferritin": real_rows(),
        "simulated": {"size": arguments.size, "rows": simulated_rows(arguments.size)},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
