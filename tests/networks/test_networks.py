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
from clearice.networks.blocks import BatchNorm, PixelNorm
from network_cases import fill_weights, narrow, stride_of

_CACHE: dict[tuple[str, bool], tuple[nn.Module, int]] = {}


def _network(name: str, *, positive: bool = False) -> tuple[nn.Module, int]:
    """Return a narrow network with no weight at zero, in float64, and its total stride.

    How far a network looks does not depend on how many channels it has.

    Args:
        name: In the registry.
        positive: Positive weights, no biases: no two paths cancel and no unit is dead.
    """
    key = (name, positive)
    if key not in _CACHE:
        torch.manual_seed(1)
        network = narrow(name, poolings=3).double().eval()
        fill_weights(network, positive=positive)
        _CACHE[key] = network, stride_of(network)
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
    assert 6_300_000 <= parameter_count(build_network("unet-large")) <= 6_500_000
    assert 1_000_000 <= parameter_count(build_network("nafnet")) <= 3_000_000


@pytest.mark.parametrize(
    ("name", "tensors", "first", "spread", "inside", "corner"),
    [
        ("cnn3", 6, "layers.0.weight", 0.02453167, -0.09196680, -0.02358731),
        ("rescnn12", 24, "layers.0.weight", 0.50223710, 0.92986202, 0.07743686),
        ("unet", 44, "stem.weight", 0.22288047, 0.11872487, -0.06607931),
        ("unet-small", 32, "stem.weight", 0.17535831, -0.09727253, 0.03447476),
    ],
)
def test_yardsticks_start_where_they_always_did(
    name: str, tensors: int, first: str, spread: float, inside: float, corner: float
) -> None:
    # Numbers that older versions gave, so that results measured then still hold.
    torch.manual_seed(1)
    network = build_network(name).eval()
    image = torch.sin(torch.arange(40.0)[:, None] * 0.7) * torch.cos(torch.arange(48.0) * 0.3)
    out = _apply(network, image)
    assert (len(network.state_dict()), next(iter(network.state_dict()))) == (tensors, first)
    found = float(out.double().std()), float(out[7, 9]), float(out[-1, -1])
    assert found == pytest.approx((spread, inside, corner), rel=1e-4)


def test_the_shape_of_topaz_is_counted_by_hand() -> None:
    down = (48 * 11**2 + 48) + 5 * (48 * 48 * 9 + 48)
    up = 2 * (96 * 96 * 9 + 96) + 3 * (144 * 96 * 9 + 96 + 96 * 96 * 9 + 96)
    head = (97 * 64 * 9 + 64) + (64 * 32 * 9 + 32) + (32 * 9 + 1)
    assert parameter_count(build_network("topaz-unet")) == down + up + head == 973_201


def test_frozen_parameters_are_not_counted() -> None:
    network = build_network("cnn3")
    for parameter in list(network.parameters())[:2]:
        parameter.requires_grad_(False)
    assert parameter_count(network) == 2_625 - 16 * 9 - 16


def test_an_unknown_network_gets_the_nearest_one_and_the_list() -> None:
    with pytest.raises(UnknownNameError) as error:
        build_network("unett")
    assert str(error.value) == (
        "unknown network 'unett' (did you mean 'unet'?); known: "
        + ", ".join(sorted({*NETWORKS, "cnn", "resnet"}))
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_come_from_the_global_random_state(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([v.flatten() for v in narrow(name).state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 70), (64, 33), (2, 41)])
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
def test_networks_shift_with_their_input_by_the_stride(name: str) -> None:
    network, stride = _network(name)
    halo = measure_geometry(network, stride).halo
    margin = -(-halo // stride) * stride
    shift = stride, 2 * stride
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
    network = narrow(name).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    stride = stride_of(network)
    assert measure_geometry(network, stride) == measure_geometry(network, stride)
    assert network.training
    for key, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", ["unet", "topaz-unet", "nafnet"])
def test_how_far_a_network_looks_does_not_depend_on_its_channels(name: str) -> None:
    wide, few = build_network(name), narrow(name)
    assert measure_geometry(wide, stride_of(wide)) == measure_geometry(few, stride_of(few))


DIRECTIONS = [(-1, 0), (1, 0), (0, -1), (0, 1), (1, 1)]


def _outside(block: slice, distance: int, direction: tuple[int, int]) -> tuple[int, int]:
    """Return the pixel so far outside of an aligned block, in a direction."""
    at = {-1: block.start - distance, 0: block.start, 1: block.stop - 1 + distance}
    return at[direction[0]], at[direction[1]]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_halo_is_exactly_how_far_a_network_looks(name: str) -> None:
    network, stride = _network(name)
    halo = measure_geometry(network, stride).halo
    size = (2 * halo // stride + 6) * stride
    block = slice(size // 2 // stride * stride, size // 2 // stride * stride + stride)
    image = _noise(size, size).abs() + 1
    before = _apply(network, image)[block, block]
    for direction in DIRECTIONS:
        other = image.clone()
        other[_outside(block, halo + 1, direction)] += 1e4
        assert torch.equal(_apply(network, other)[block, block], before)
    # It need not look equally far to both sides, but to one side it must look as far as it says.
    assert any(_reaches(name, block, halo, direction, size) for direction in DIRECTIONS)
    assert _reaches(name, block, 1, (0, 1), size)


def _reaches(name: str, block: slice, distance: int, direction: tuple[int, int], size: int) -> bool:
    """Return whether a pixel so far outside of a block has a gradient: far ones change too little.

    The pixel is bright, so that it comes through every max-pooling.
    """
    network, _ = _network(name, positive=True)
    image = _noise(size, size).abs() + 1
    place = _outside(block, distance, direction)
    image[place] += 1e4
    image.requires_grad_(True)
    (gradient,) = torch.autograd.grad(network(image[None, None])[..., block, block].sum(), image)
    return bool(gradient[place] != 0)


def test_a_network_that_sees_everything_is_refused() -> None:
    class Everything(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.mean((-2, -1), keepdim=True)

    with pytest.raises(ClearIceError, match="cannot be tiled"):
        measure_geometry(Everything(), 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_layer_looks_at_the_whole_image(name: str) -> None:
    # Such layers would make a tile depend on where it was cut.
    for module in narrow(name).modules():
        if isinstance(module, BatchNorm | PixelNorm):
            continue
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
