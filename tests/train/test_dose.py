"""A network that wants to know the dose of its input is told it, wherever it is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from clearice import denoise, train
from clearice.data import Split
from clearice.networks import UNet, build_network
from helpers import CPU, train_config, write_dataset

NETWORK = "unet(widths=4-6, dose=true)"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, list[float]]]:
    """Return whether the network was training, and which doses it was told, call by call."""
    calls: list[tuple[bool, list[float]]] = []
    plain = UNet.forward

    def forward(self: UNet, x: Tensor, dose: Tensor | None = None) -> Tensor:
        doses = [] if dose is None else (2.0**dose).tolist()
        calls.append((self.training, [round(value, 4) for value in doses]))
        return plain(self, x, dose)

    monkeypatch.setattr(UNet, "forward", forward)
    return calls


def test_doses_in_training_validation_and_denoising(
    tmp_path: Path, told: list[tuple[bool, list[float]]]
) -> None:
    folder = write_dataset(tmp_path / "set", groups=8).folder
    config = train_config(network=NETWORK, steps=4, validations=2, accumulate=2)
    train.run(folder, tmp_path / "run", config, CPU)
    while_training = {dose for training, doses in told if training for dose in doses}
    assert while_training <= {k / 8 for k in range(3, 8)}  # three to seven of eight groups
    assert len(while_training) > 1
    elsewhere = {dose for training, doses in told if not training for dose in doses}
    assert elsewhere == {0.5, 0.75, 1.0}  # halves of validation; folds and sum of calibration
    told.clear()
    denoiser = denoise.Denoiser(tmp_path / "run", CPU)
    told.clear()  # the network was looked at
    denoise.denoise_dataset(folder, denoiser, tmp_path / "out", Split.VALIDATION, halves=True)
    assert [doses for _, doses in told] == [[1.0], [0.5], [0.5]]


def test_of_unequal_pairs_the_input_is_the_measure(
    tmp_path: Path, told: list[tuple[bool, list[float]]]
) -> None:
    folder = write_dataset(tmp_path / "set", exchangeable=False).folder
    train.run(folder, tmp_path / "run", train_config(network=NETWORK, steps=2), CPU)
    assert {dose for _, doses in told for dose in doses} == {1.0}


def test_other_networks_are_told_nothing(
    tmp_path: Path, told: list[tuple[bool, list[float]]]
) -> None:
    folder = write_dataset(tmp_path / "set", groups=8).folder
    train.run(folder, tmp_path / "run", train_config(network="unet(widths=4-6)", steps=2), CPU)
    assert told
    assert all(not doses for _, doses in told)


def test_what_was_learnt_of_the_dose_changes_the_result() -> None:
    torch.manual_seed(0)
    network = build_network(NETWORK).eval()
    for parameter in network.parameters():
        parameter.data.normal_(std=0.2)
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        half, whole, silent = (
            network(image, torch.tensor([-1.0])),
            network(image, torch.zeros(1)),
            network(image),
        )
    assert torch.equal(whole, silent)
    assert float((half - whole).abs().max()) > 1e-3
