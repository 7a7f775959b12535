"""Networks: size, shape, how far they look, and that they shift with their input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from clearice.errors import ClearIceError, UnknownNameError
from clearice.networks import (
    NETWORKS,
    Geometry,
    build_network,
    measure_geometry,
    pad_to_multiple,
    parameter_count,
)

_CACHE: dict[tuple[str, bool], tuple[nn.Module, int]] = {}


def _network(name: str, *, positive: bool = False) -> tuple[nn.Module, int]:
    """Return a network with no weight at zero, in float64, and its total stride.

    Args:
        name: In the registry.
        positive: Positive weights, no biases: no two paths cancel and no unit is dead.
    """
    key = (name, positive)
    if key not in _CACHE:
        torch.manual_seed(1)
        network = build_network(name).double().eval()
        stride = network.total_stride
        assert isinstance(stride, int)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    spread = (2 / parameter[0].numel()) ** 0.5
                    drawn = torch.randn(parameter.shape, dtype=torch.float64) * spread
                    parameter.copy_(drawn.abs() / 10 if positive else drawn)
                else:
                    parameter.fill_(0.0 if positive else 0.1)
        _CACHE[key] = network, stride
    return _CACHE[key]


def _apply(network: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        out = network(image[None, None])
    assert isinstance(out, Tensor)
    return out[0, 0]


def _noise(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(height, width, generator=generator, dtype=torch.float64)


def test_parameter_counts_are_those_of_the_yardsticks() -> None:
    assert parameter_count(build_network("cnn3")) == 2_625
    assert parameter_count(build_network("rescnn12")) == 93_089
    assert 300_000 <= parameter_count(build_network("unet")) <= 2_000_000


def test_frozen_parameters_are_not_counted() -> None:
    network = build_network("cnn3")
    for parameter in list(network.parameters())[:2]:
        parameter.requires_grad_(False)
    assert parameter_count(network) == 2_625 - 16 * 9 - 16


def test_an_unknown_network_gets_the_nearest_one_and_the_list() -> None:
    with pytest.raises(UnknownNameError) as error:
        build_network("unett")
    assert str(error.value) == (
        f"unknown network 'unett' (did you mean 'unet'?); known: {', '.join(sorted(NETWORKS))}"
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_come_from_the_global_random_state(name: str) -> None:
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(_apply(build_network(name).double(), _noise(16, 16)))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("name", NETWORKS)
@given(st.integers(1, 70), st.integers(1, 70))
def test_any_size_comes_out_as_it_went_in(name: str, height: int, width: int) -> None:
    network, _ = _network(name)
    out = _apply(network, _noise(height, width))
    assert out.shape == (height, width)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_is_its_single_images(name: str) -> None:
    network, _ = _network(name)
    batch = torch.stack([_noise(20, 24) * s for s in (1, 2, 3)])[:, None]
    before = batch.clone()
    with torch.no_grad():
        together = network(batch)
    assert torch.equal(batch, before)
    for image, out in zip(batch, together, strict=True):
        torch.testing.assert_close(out[0], _apply(network, image[0]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (2, 3)])
def test_networks_shift_with_their_input_by_the_stride(name: str, down: int, right: int) -> None:
    network, stride = _network(name)
    halo = measure_geometry(network, stride).halo
    margin = -(-halo // stride) * stride
    shift = down * stride, right * stride
    size = 2 * margin + 8 * stride
    image = _noise(size + shift[0], size + shift[1])
    moved = _apply(network, image[shift[0] :, shift[1] :])
    inside = _apply(network, image)[shift[0] :, shift[1] :]
    core = slice(margin, size - margin)
    torch.testing.assert_close(moved[core, core], inside[core, core], rtol=1e-10, atol=1e-10)


def test_the_halo_is_known_for_plain_stacks() -> None:
    assert measure_geometry(build_network("cnn3"), 1) == Geometry(3, 1)
    assert measure_geometry(build_network("rescnn12"), 1) == Geometry(12, 1)
    assert Geometry(12, 1).receptive_field == 25


@pytest.mark.parametrize("name", NETWORKS)
def test_measuring_leaves_the_network_as_it_was(name: str) -> None:
    network = build_network(name).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    stride = network.total_stride
    assert isinstance(stride, int)
    first, second = (measure_geometry(network, stride) for _ in range(2))
    assert first == second
    assert network.training
    for key, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


def _change(
    network: nn.Module, stride: int, distance: int, direction: tuple[int, int], size: int
) -> float:
    """Return how much an aligned block changes with an input pixel that far outside of it."""
    start = size // 2 // stride * stride
    place = [
        {-1: start - distance, 0: start, 1: start + stride - 1 + distance}[d] for d in direction
    ]
    image = _noise(size, size).abs() + 1
    other = image.clone()
    other[place[0], place[1]] += 1e4
    block = slice(start, start + stride)
    change = _apply(network, other) - _apply(network, image)
    return float(change[block, block].abs().max())


DIRECTIONS = [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1)]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_halo_is_exactly_how_far_a_network_looks(name: str) -> None:
    network, stride = _network(name)
    positive, _ = _network(name, positive=True)
    halo = measure_geometry(network, stride).halo
    size = (2 * halo // stride + 6) * stride
    for direction in DIRECTIONS:
        for net in (network, positive):
            assert _change(net, stride, halo + 1, direction, size) == 0, direction
    # It need not look equally far to both sides, but to one side it must look as far as it says.
    assert max(_change(positive, stride, halo, d, size) for d in DIRECTIONS) > 0
    assert _change(positive, stride, 1, (0, 1), size) > 0


def test_a_network_that_sees_everything_is_refused() -> None:
    class Everything(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.mean((-2, -1), keepdim=True)

    with pytest.raises(ClearIceError, match="cannot be tiled"):
        measure_geometry(Everything(), 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_layer_looks_at_the_whole_image(name: str) -> None:
    # Such layers would make a tile depend on where it was cut.
    for module in build_network(name).modules():
        kind = type(module).__name__
        assert not any(word in kind for word in ("Norm", "Adaptive", "Upsample")), kind


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 32))
def test_padding_mirrors_beyond_the_lower_right_edge(
    height: int, width: int, multiple: int
) -> None:
    image = _noise(height, width)[None, None]
    padded = pad_to_multiple(image, multiple)
    rows, columns = padded.shape[-2:]
    assert rows % multiple == columns % multiple == 0
    assert 0 <= rows - height < multiple
    assert 0 <= columns - width < multiple
    assert torch.equal(padded[..., :height, :width], image)
    if rows - height < height and columns - width < width:
        expected = nn.functional.pad(image, (0, columns - width, 0, rows - height), mode="reflect")
        assert torch.equal(padded, expected)
