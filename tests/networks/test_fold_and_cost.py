"""Folded networks give the same numbers; costs agree with another count and with hand counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from clearice.checkpoint import load_model, save
from clearice.denoise import Denoiser
from clearice.errors import CheckpointError
from clearice.networks import NETWORKS, build_network, cost, fold, parameter_count, place
from clearice.networks.blocks import BatchNorm
from helpers import CPU, model_info, random_weights, write_model
from network_cases import fill_weights, narrow
from tolerances import RELATIVE

NORMALISED = [name for name in NETWORKS if name.endswith("-bn")]


def _trained(name: str, *, wide: bool = False) -> nn.Module:
    """Return a network whose running statistics are those of what it was shown."""
    torch.manual_seed(2)
    network = build_network(name) if wide else narrow(name)
    fill_weights(network)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(3 * torch.randn(4, 1, 48, 48) + 1)
    return network.eval()


@pytest.mark.parametrize("name", NORMALISED)
def test_a_folded_network_gives_the_same_numbers(name: str) -> None:
    network = _trained(name)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold(network)
    assert not any(isinstance(layer, BatchNorm) for layer in folded.modules())
    image = torch.randn(2, 1, 37, 52)
    with torch.no_grad():
        expected, found = network(image), folded(image)
    bound = RELATIVE[torch.float32] * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=RELATIVE[torch.float32], atol=bound)
    assert float(expected.std()) > 1e-3
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key])


def test_every_normalised_network_can_be_folded() -> None:
    assert len(NORMALISED) >= 7
    for name, info in NETWORKS.items():
        normalised = any(isinstance(layer, BatchNorm) for layer in narrow(name).modules())
        assert normalised == name.endswith("-bn") == (getattr(info.options, "norm", "") == "batch")


def test_folding_without_normalisation_changes_nothing() -> None:
    network = narrow("unet")
    fill_weights(network)
    folded = fold(network)
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(folded(image), network.eval()(image))


def test_folding_keeps_channels_last_and_lets_gradients_flow() -> None:
    folded = fold(place(_trained("cnn7-bn", wide=True), CPU))
    for layer in folded.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
            assert layer.weight.requires_grad


def test_a_normalisation_that_follows_no_convolution_is_not_dropped() -> None:
    with pytest.raises(ValueError, match="does not follow"):
        fold(nn.Sequential(nn.ReLU(), BatchNorm(4)))


def test_normalisation_is_that_of_pytorch() -> None:
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    image = 2 * torch.randn(4, 3, 8, 8) + 1
    torch.testing.assert_close(ours(image), theirs(image))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image))
    assert all(value.is_floating_point() for value in ours.state_dict().values())


@pytest.mark.parametrize("name", ["cnn3-bn", "unet(widths=4-6, norm=batch)"])
def test_a_model_is_folded_to_denoise_and_gives_the_same(tmp_path: Path, name: str) -> None:
    model = write_model(tmp_path / "model.safetensors", name)
    denoiser = Denoiser(model, CPU, tile=0)
    assert not any(isinstance(layer, BatchNorm) for layer in denoiser.network.modules())
    image = torch.randn(44, 36)
    with torch.no_grad():
        expected = load_model(model)[0](image[None, None])[0, 0]
    bound = RELATIVE[torch.float32] * float(expected.abs().max())
    found = denoiser.normalised(image)
    torch.testing.assert_close(found, expected, rtol=RELATIVE[torch.float32], atol=bound)


def test_a_model_of_options_that_are_no_more_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(path, random_weights("cnn3"), model_info("cnn(depht=3)"), None)
    with pytest.raises(CheckpointError, match="unknown key 'depht'"):
        load_model(path)


def test_the_cost_of_the_smallest_network_by_hand() -> None:
    found = cost(build_network("cnn3"), 10)
    assert found.flops == 2 * 100 * 9 * (16 + 16 * 16 + 16)
    assert found.activation_bytes == 4 * 100 * (1 + 16 + 16 + 16 + 16 + 1)
    assert found.parameter_bytes == 4 * 2_625
    half = cost(build_network("cnn3"), 10, bytes_per_value=2)
    assert (half.flops, 2 * half.activation_bytes) == (found.flops, found.activation_bytes)


@pytest.mark.parametrize("name", NETWORKS)
def test_arithmetic_is_as_pytorch_counts_it(name: str) -> None:
    network = narrow(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 64, 64))
    assert cost(network, 64).flops == counter.get_total_flops()


def test_counting_leaves_the_network_where_it_was() -> None:
    network = build_network("unet-small").train()
    cost(network, 64)
    assert network.training
    assert next(network.parameters()).device == CPU
    assert all(not layer._forward_hooks for layer in network.modules())
    assert cost(network, 64).parameter_bytes == 4 * parameter_count(network)
