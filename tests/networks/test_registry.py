"""Networks by name: options in brackets, what is refused, how they start, what they can go into."""

from __future__ import annotations

import math
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import nn
from torch.export import Dim, export

from clearice.denoise.tiles import plan_tiles, stitch
from clearice.errors import ClearIceError, ConfigError, UnknownNameError
from clearice.networks import (
    NETWORKS,
    CNNOptions,
    UNet,
    UNetOptions,
    build_network,
    cost,
    find_network,
    fold,
    inputs_of,
    measure_geometry,
    parameter_count,
)
from network_cases import fill_weights, narrow, stride_of


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("cnn(depth=3, width=16, init=torch)", "cnn3"),
        ("cnn", "cnn7"),
        (" cnn7( depth = 12 ) ", "cnn12"),
        ("cnn(depth=20,norm=batch)", "cnn20-bn"),
        ("cnn(depth=12, residual=true, init=torch)", "rescnn12"),
        ("resnet(norm=batch)", "resnet8-bn"),
        ("unet(widths=48-96-192-256, blocks=2)", "unet-large"),
        ("unet-large(widths=32-64-96-128)", "unet-two"),
        ("unet-classic(skip=sum)", "unet-classic-sum"),
    ],
)
def test_a_preset_is_a_name_for_options(text: str, same: str) -> None:
    assert find_network(text).options == NETWORKS[same].options


def test_options_are_those_of_the_network_that_is_built() -> None:
    assert find_network("cnn(depth=5, width=8)").options == CNNOptions(depth=5, width=8)
    count = (9 + 1) * 8 + 3 * (8 * 9 + 1) * 8 + 8 * 9 + 1
    assert parameter_count(build_network("cnn(depth=5, width=8)")) == count


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("cnn8", UnknownNameError, "did you mean 'cnn"),
        ("cmn(depth=7)", UnknownNameError, "unknown network 'cmn' (did you mean 'cnn'?)"),
        ("cnn(dept=7)", ConfigError, "unknown key 'dept' (did you mean 'depth'?); known: depth,"),
        ("cnn(depth=1)", ConfigError, "depth: Input should be greater than or equal to 2"),
        ("cnn(depth=seven)", ConfigError, "depth: Input should be a valid integer"),
        ("cnn(norm=instance)", ConfigError, "norm: Input should be 'none' or 'batch'"),
        ("cnn(7)", ConfigError, "cannot read '7'; write for instance 'cnn(depth=7,"),
        ("cnn()", ConfigError, "cannot read ''"),
        ("cnn(depth=7, depth=8)", ConfigError, "'depth' stands twice"),
        ("cnn(depth=7", UnknownNameError, "unknown network 'cnn(depth=7'"),
        ("unet(widths=32--64)", ConfigError, "widths"),
        ("topaz-unet(first=4)", ConfigError, "first"),
        ("", UnknownNameError, "unknown network ''"),
    ],
)
def test_what_cannot_be_built_gets_one_line(
    text: str, error: type[ClearIceError], words: str
) -> None:
    with pytest.raises(error) as caught:
        build_network(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dropout_is_refused_where_there_is_none() -> None:
    for name, info in NETWORKS.items():
        if info.has_dropout:
            layers = build_network(name, 0.3).modules()
            assert any(getattr(layer, "dropout", 0.0) == 0.3 for layer in layers)
        else:
            with pytest.raises(ConfigError, match=f"network '{name}' has no dropout"):
                build_network(name, 0.3)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_network_keeps_the_scale_and_passes_gradients_on(name: str) -> None:
    torch.manual_seed(4)
    network = build_network(name).train()
    image = torch.randn(2, 1, 64, 64)
    out = network(image)
    assert 0.003 < float(out.detach().std()) < 10
    (out * torch.randn_like(out)).mean().backward()
    norms = [p.grad.norm() for p in network.parameters() if p.grad is not None]
    assert all(math.isfinite(norm) for norm in norms)
    # Branches that start at zero get their gradient from the second step on.
    assert any(norm > 1e-7 for norm in norms)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_learns_after_the_first_steps(name: str) -> None:
    # Branches that start at zero hold back what is behind them for a step or two.
    torch.manual_seed(8)
    # With a few channels only, all ReLUs of a layer may be off by chance.
    network = narrow(name, width=16).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    image, target = torch.randn(2, 2, 1, 64, 64)
    for _ in range(4):
        optimizer.zero_grad()
        (network(image) - target).square().mean().backward()
        optimizer.step()
    still = [
        key for key, p in network.named_parameters() if p.grad is None or not p.grad.count_nonzero()
    ]
    assert not still


def test_a_deep_plain_network_starts_with_a_signal() -> None:
    torch.manual_seed(4)
    image = torch.randn(1, 1, 64, 64)
    inside = (..., slice(20, -20), slice(20, -20))
    with torch.no_grad():
        kept = build_network("cnn20")(image)[inside]
        lost = build_network("cnn20(init=torch)")(image)[inside]
    assert float(kept.std()) > 0.03
    assert float(lost.std()) < 1e-5


@pytest.mark.parametrize("name", ["rescnn12-bn", "resnet8", "resnet8-bn"])
def test_what_predicts_noise_starts_as_the_identity(name: str) -> None:
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(build_network(name)(image), image)


def _filled(name: str) -> nn.Module:
    torch.manual_seed(5)
    network = narrow(name, poolings=3).double().eval()
    fill_weights(network)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_make_the_whole_image(name: str) -> None:
    network = _filled(name)
    geometry = measure_geometry(network, stride_of(network))
    network = fold(network)
    size = (2 * -(-geometry.halo // geometry.stride) + 4) * geometry.stride
    image = torch.randn(size, size, dtype=torch.float64)
    with torch.no_grad():
        whole = network(image[None, None])[0, 0]
        tiles = plan_tiles(size, size, size // 2, geometry.halo, geometry.stride)
        tiled = stitch(image, tiles, network)
    assert len(tiles) == 4
    assert len({str(tile.window) for tile in tiles}) == 4
    bound = 1e-9 * float(whole.abs().max())
    torch.testing.assert_close(tiled, whole, rtol=1e-9, atol=bound)


# Every kind of layer at the fewest levels that have it: the time goes with the layers.
FAMILIES = [
    "cnn(depth=3, norm=batch)",
    "resnet(blocks=2)",
    "unet(widths=4-6-8)",
    "unet(widths=4-6, stem=full)",
    "unet-classic(depth=2)",
    "topaz-unet(depth=2)",
    "nafnet(widths=4-6, blocks=1)",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_can_be_exported_for_any_size(name: str) -> None:
    network = _filled(name).float()
    stride = stride_of(network)
    rows, columns = (stride * Dim(n, min=2, max=64) for n in ("rows", "columns"))
    image = torch.randn(2, 1, 3 * stride, 4 * stride)
    shapes = ({0: Dim("images", min=1, max=64), 2: rows, 3: columns},)
    # Shapes cannot be checked while they are symbols.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        program = export(network, (image,), dynamic_shapes=shapes).module()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    other = torch.randn(3, 1, 5 * stride, 2 * stride)
    with torch.no_grad():
        torch.testing.assert_close(program(other), network(other), rtol=1e-5, atol=1e-4)


def test_the_dose_of_an_image_changes_its_result_once_learnt() -> None:
    torch.manual_seed(6)
    network = UNet(UNetOptions(widths=(4, 6), dose=True)).eval()
    image, known = torch.randn(2, 1, 16, 16), torch.tensor([-1.0, 0.0])
    with torch.no_grad():
        plain = network(image)
        assert torch.equal(network(image, known), plain)
        for layer in network.modulate:
            for parameter in layer.parameters():
                parameter.normal_(std=0.3)
        told = network(image, known)
    assert not torch.allclose(told[0], plain[0], atol=1e-3)
    assert torch.equal(told[1], plain[1])


def test_a_dose_is_refused_where_none_was_planned() -> None:
    network = build_network("unet(widths=4-6)")
    image, dose = torch.zeros(1, 1, 8, 8), torch.zeros(1)
    with pytest.raises(ValueError, match="dose"):
        network(image, dose)
    assert inputs_of(network, image, dose) == (image,)
    told = build_network("unet(widths=4-6, dose=true)")
    assert inputs_of(told, image, dose) == (image, dose)
    assert inputs_of(told, image, None) == (image,)


def test_a_network_that_is_told_the_dose_has_the_weights_of_the_plain_one_and_more() -> None:
    states = []
    for dose in ("false", "true"):
        torch.manual_seed(7)
        states.append(build_network(f"unet-small(dose={dose})").state_dict())
    plain, conditioned = states
    assert all(torch.equal(conditioned[key], value) for key, value in plain.items())
    assert len(conditioned) == len(plain) + 3


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_can_be_captured_in_a_graph(name: str) -> None:
    device = torch.device("cuda")
    network = build_network(name).to(device).train()
    image = torch.randn(2, 1, 64, 64, device=device)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            network(image).square().mean().backward()
    torch.cuda.current_stream().wait_stream(stream)
    network.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = network(image)
        out.square().mean().backward()
    image.copy_(torch.randn_like(image))
    graph.replay()
    expected = network(image)
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)


def _rows(marker: str) -> list[list[str]]:
    text = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")
    section = text.split("\n## Networks\n")[1].split("\n## ")[0]
    lines = section.split(marker)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_reference_has_what_networks_cost() -> None:
    rows = {row[0]: row[1:] for row in _rows("| name | parameters ")}
    assert rows.keys() == NETWORKS.keys()
    for name, info in NETWORKS.items():
        network = info.build(0.0)
        geometry, found = measure_geometry(network, stride_of(network)), cost(network, 1024)
        assert rows[name] == [
            f"{parameter_count(network):,}",
            str(geometry.receptive_field),
            str(geometry.stride),
            f"{found.flops / 2 / 1024**2 / 1000:.1f}",
            f"{found.activation_bytes / 4 / 1024**2:,.0f}",
            "yes" if info.has_dropout else "no",
            info.description.strip("` "),
        ]


def test_the_reference_has_every_option_of_every_family() -> None:
    rows = [row[:3] for row in _rows("| family | option ")]
    expected = []
    for family in ("cnn", "resnet", "unet", "unet-classic", "topaz-unet", "nafnet"):
        for key, value in find_network(family).options.model_dump().items():
            text = "-".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
            expected.append([family, key, text])
    assert rows == expected
