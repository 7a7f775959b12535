"""The score on held-out micrographs: from two halves, what only the truth could say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clearice.data import Affine, Dataset, DatasetWriter, GridSampler, PatchLoader, open_dataset
from clearice.fourier import highpass
from clearice.losses import Objective
from clearice.train.validate import Validation, Validator
from clearice.types import HalfSet
from helpers import CPU, PIXEL_SIZE, noisy_groups, prepare_config, smooth_image

_SIZE, _PATCH, _MICROGRAPHS = 96, 48, 16


class _Blur(nn.Module):
    """A box filter: a denoiser whose result is known."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.full((1, 1, 3, 3), 1 / 9))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, padding=1)


def _simulate(folder: Path, groups: int, noise: float) -> tuple[Dataset, list[Tensor]]:
    generator = torch.Generator().manual_seed(11)
    writer, truths = DatasetWriter(folder), []
    for index in range(_MICROGRAPHS):
        signal = smooth_image(generator, _SIZE, 1.5)
        raw = noisy_groups(signal, groups, noise, generator)
        affine = Affine.of(raw.mean(0))
        half_set = HalfSet(f"m{index:02d}", raw, (1 / groups,) * groups, PIXEL_SIZE, ())
        writer.add(half_set, affine.apply(raw), affine)
        truths.append(signal)
    config = prepare_config()
    writer.finish(config, PIXEL_SIZE, input_target=False, dose_ratio=1.0, target_gain=1.0)
    return open_dataset(folder), truths


def _score(
    dataset: Dataset, index: int, network: nn.Module, comparable: bool = True
) -> tuple[Validation, GridSampler, PatchLoader]:
    entry = dataset.manifest.micrographs[index]
    grid = GridSampler([entry.shape], _PATCH, 3)
    loader = PatchLoader(dataset, [entry], grid, _PATCH, CPU, "ram")
    objective = Objective({"mse": 1.0})
    validator = Validator(loader, len(grid), objective, PIXEL_SIZE, comparable=comparable)
    return validator(network, dict(network.state_dict())), grid, loader


def _true_correlation(
    network: nn.Module, truth: Tensor, grid: GridSampler, loader: PatchLoader
) -> float:
    moments = torch.zeros(3, dtype=torch.float64)
    cutoff = PIXEL_SIZE / 400
    for step in range(len(grid)):
        crops = [
            truth[p.row : p.row + _PATCH, p.column : p.column + _PATCH] for p in grid.plan(step)
        ]
        s = highpass(torch.stack(crops)[:, None], cutoff).double()
        with torch.no_grad():
            d = highpass(network(loader.batch(step).input), cutoff).double()
        moments += torch.stack([(d * s).sum(), (d * d).sum(), (s * s).sum()])
    return float(moments[0] / (moments[1] * moments[2]).sqrt())


@pytest.mark.parametrize("groups", [2, 8])
def test_the_estimate_is_the_correlation_with_the_truth(tmp_path: Path, groups: int) -> None:
    dataset, truths = _simulate(tmp_path, groups, 0.7 * groups**0.5)
    network = _Blur()
    differences = []
    for index, truth in enumerate(truths):
        scores, grid, loader = _score(dataset, index, network)
        assert scores.correlation is not None
        assert scores.snr_db is not None
        differences.append(scores.correlation - _true_correlation(network, truth, grid, loader))
    spread = torch.tensor(differences, dtype=torch.float64)
    sigma = float(spread.std()) / len(differences) ** 0.5
    assert sigma < 0.005
    assert abs(float(spread.mean())) < 4 * sigma


def test_scores_of_a_known_network(tmp_path: Path) -> None:
    dataset, _ = _simulate(tmp_path, 2, 1.0)
    scores, grid, loader = _score(dataset, 0, nn.Identity())
    batches = [loader.batch(step) for step in range(len(grid))]
    errors = torch.cat([(b.input - b.target).square().flatten() for b in batches])
    # Batches of three and one: each patch counts once.
    assert scores.mse == pytest.approx(float(errors.mean()), rel=1e-5)
    assert scores.parts == pytest.approx({"mse": scores.mse})


def test_halves_of_unequal_dose_have_no_estimate(tmp_path: Path) -> None:
    dataset, _ = _simulate(tmp_path, 2, 1.0)
    scores, _, _ = _score(dataset, 0, _Blur(), comparable=False)
    assert scores.correlation is None
    assert scores.snr_db is None


def test_halves_without_common_signal_have_no_estimate(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path)
    image = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    raw = torch.stack([image, -image])
    writer.add(HalfSet("m", raw, (0.5, 0.5), PIXEL_SIZE, ()), raw, Affine(0.0, 1.0))
    config = prepare_config()
    writer.finish(config, PIXEL_SIZE, input_target=False, dose_ratio=1.0, target_gain=1.0)
    scores, _, _ = _score(open_dataset(tmp_path), 0, _Blur())
    assert scores.correlation is None


def test_validation_leaves_the_network_in_training_mode_and_unchanged(tmp_path: Path) -> None:
    dataset, _ = _simulate(tmp_path, 2, 1.0)
    network = _Blur().train()
    before = network.kernel.detach().clone()
    entry = dataset.manifest.micrographs[0]
    grid = GridSampler([entry.shape], _PATCH, 3)
    loader = PatchLoader(dataset, [entry], grid, _PATCH, CPU, "ram")
    validator = Validator(loader, len(grid), Objective({"mse": 1.0}), PIXEL_SIZE, comparable=True)
    zero = validator(network, {"kernel": torch.zeros(1, 1, 3, 3)})
    assert network.training
    assert torch.equal(network.kernel, before)
    # A network that returns nothing has no correlation, and its error is the target's power.
    targets = torch.cat([loader.batch(step).target for step in range(len(grid))])
    assert zero.correlation is None
    assert zero.mse == pytest.approx(float(targets.square().mean()), rel=1e-5)
