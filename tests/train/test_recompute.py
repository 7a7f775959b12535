"""Activations computed twice: the same gradients from less memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clearice.losses import Objective
from clearice.networks import NETWORKS, build_network
from clearice.train.backward import backward
from clearice.train.recompute import recompute_activations
from clearice.train.state import is_graphed, new_state
from clearice.types import PatchBatch
from helpers import CPU, train_config

# Their twins with other widths or depths are built alike.
SMALL = [name for name in NETWORKS if not name.endswith(("-large", "-deep"))]


def _one_step(name: str, again: bool, dropout: float = 0.0) -> tuple[list[Tensor], nn.Module, int]:
    """Return loss and gradients, the network, and the bytes kept between the passes."""
    config = train_config(network=name, dropout=dropout, recompute_activations=again)
    torch.manual_seed(1)
    network = build_network(name, dropout)
    with torch.no_grad():  # so that what starts at zero has a gradient, too
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    new_state(network.train(), config)
    images = torch.randn(2, 2, 1, 32, 32)
    batch = PatchBatch(images[0], images[1], torch.ones(2))
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        prediction = network(batch.input)
    assert prediction.requires_grad
    torch.manual_seed(2)
    output = backward(network, Objective(config.loss), batch, config, torch.ones(1), None)
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return [output.total, *gradients], network, sum(kept.values())


@pytest.mark.parametrize("name", SMALL)
def test_losses_gradients_and_statistics_are_the_same(name: str) -> None:
    plain, one, _ = _one_step(name, again=False)
    again, other, _ = _one_step(name, again=True)
    assert len(plain) == len(again) > 1
    for expected, value in zip(plain, again, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    weights = one.state_dict()
    assert weights.keys() == other.state_dict().keys()
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["unet", "rescnn12"])
def test_less_is_kept(name: str) -> None:
    assert _one_step(name, again=True)[2] < 0.6 * _one_step(name, again=False)[2]


def test_what_is_dropped_is_dropped_again() -> None:
    plain, _, _ = _one_step("unet-small", again=False, dropout=0.5)
    again, _, _ = _one_step("unet-small", again=True, dropout=0.5)
    for expected, value in zip(plain, again, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_without_gradients_nothing_changes() -> None:
    network = build_network("rescnn12").eval()
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = network(x)
        recompute_activations(network, random=False)
        assert torch.equal(network(x), expected)


def test_random_numbers_drawn_twice_do_not_fit_into_a_graph() -> None:
    gpu = torch.device("cuda")
    assert is_graphed(train_config(), gpu)
    assert is_graphed(train_config(recompute_activations=True), gpu)
    assert not is_graphed(train_config(recompute_activations=True, dropout=0.1), gpu)
    assert not is_graphed(train_config(), CPU)
