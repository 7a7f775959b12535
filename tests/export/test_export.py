"""Exported models: the same numbers as the native path, and nothing else needed to run them."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from clearice import checkpoint
from clearice.denoise import Denoiser
from clearice.errors import CheckpointError, ConfigError, OutputError
from clearice.export import Format, Portable, export_model
from clearice.networks import NETWORKS as REGISTERED
from clearice.networks import find_network
from helpers import CPU, PIXEL_SIZE, model_info, random_weights, write_model

GAIN = 0.7
# One of every family, then every other option that changes the kind of layers.
FAMILIES = (
    "cnn(depth=4, width=4, norm=batch, residual=true)",
    "resnet(blocks=2, width=4)",
    "unet(widths=4-6-8)",
    "unet-classic(depth=2, width=4)",
    "topaz-unet(depth=2, width=4, head=4)",
    "nafnet(widths=4-6, blocks=1)",
)
OPTIONS = (
    "cnn(depth=3, width=4)",
    "resnet(blocks=1, width=4, norm=batch)",
    "unet(widths=4-6, norm=batch, blocks=2)",
    "unet(widths=4-6, stem=full, dose=true)",
    "unet-classic(depth=1, width=4, skip=sum, norm=batch)",
)
# Of one and of several images; both, one or no edge a multiple of the strides.
SHAPES = ((1, 1, 64, 96), (3, 1, 45, 64), (1, 1, 51, 83))
Run = Callable[[Tensor], Tensor]


def _pt2(path: Path) -> Run:
    module: Run = torch.export.load(path).module()
    return module


def _onnx(path: Path) -> Run:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def _require(form: str) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript")


GRAPHS: dict[Format, Callable[[Path], Run]] = {"pt2": _pt2, "onnx": _onnx}


def _card(path: Path) -> dict[str, Any]:
    """Read what an exported file says of itself, each format by a reader of its own."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as handle:
            card: dict[str, Any] = json.loads(handle.metadata()["clearice_export"])
            return card
    if path.suffix == ".pt2":
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("clearice_export.json"))
            found: dict[str, Any] = json.loads(archive.read(name))
            return found
    properties = pytest.importorskip("onnx").load(path).metadata_props
    return {p.key: p.value for p in properties}


def _equal(result: Tensor, native: Tensor) -> None:
    assert result.shape == native.shape
    assert result.dtype == torch.float32
    assert float(native.std()) > 0.01
    assert float((result - native).abs().max()) <= 1e-4 * float(native.std())


def _lively(path: Path, network: str) -> Path:
    """Write a model whose normalisation layers do not damp the image away."""
    weights = random_weights(network)
    for name, value in weights.items():
        if name.endswith("weight") and value.ndim == 1:
            weights[name] = 2 + value
    checkpoint.save(path, weights, model_info(network, GAIN), None)
    return path


def test_every_family_is_compared() -> None:
    families = {type(info.options) for info in REGISTERED.values()}
    assert {type(find_network(name).options) for name in FAMILIES} == families


def _compare(folder: Path, network: str, form: Format, generator: torch.Generator) -> None:
    _require(form)
    model = _lively(folder / "model.safetensors", network)
    export_model(model, folder / f"out.{form}", form)
    run, native = GRAPHS[form](folder / f"out.{form}"), Denoiser(model, CPU, tile=0)
    for shape in SHAPES:
        images = 90 + 12 * torch.randn(shape, generator=generator)
        images[-1] *= 3  # each image has a normalisation of its own
        result = run(images)
        for image, denoised in zip(images, result, strict=True):
            _equal(denoised[0], native(image[0]))


@pytest.mark.parametrize("network", FAMILIES)
def test_onnx_equals_the_native_path(
    tmp_path: Path, generator: torch.Generator, network: str
) -> None:
    _compare(tmp_path, network, "onnx", generator)


@pytest.mark.slow
@pytest.mark.parametrize("network", OPTIONS)
def test_onnx_equals_the_native_path_for_all_options(
    tmp_path: Path, generator: torch.Generator, network: str
) -> None:
    _compare(tmp_path, network, "onnx", generator)


def test_pt2_equals_the_native_path(tmp_path: Path, generator: torch.Generator) -> None:
    _compare(tmp_path, "unet(widths=4-6)", "pt2", generator)


@pytest.mark.slow
@pytest.mark.parametrize("network", FAMILIES + OPTIONS)
def test_pt2_equals_the_native_path_for_all_networks(
    tmp_path: Path, generator: torch.Generator, network: str
) -> None:
    _compare(tmp_path, network, "pt2", generator)


@pytest.mark.parametrize("form", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_normalisation_can_stay_outside(
    tmp_path: Path, generator: torch.Generator, form: Format
) -> None:
    _require(form)
    model = write_model(tmp_path / "model.safetensors", "unet(widths=4-6)", gain=GAIN)
    path = tmp_path / f"out.{form}"
    export_model(model, path, form, normalise=False)
    image = torch.randn(44, 61, generator=generator) + 0.5  # which must not be normalised away
    native = GAIN * Denoiser(model, CPU, tile=0).normalised(image)
    _equal(GRAPHS[form](path)(image[None, None])[0, 0], native)
    assert _card(path)["normalisation"].startswith("outside: x = (image - mean) / std")


def test_the_smallest_image_is_twice_the_stride(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors", "unet(widths=4-6)")  # its stride is 4
    export_model(model, tmp_path / "out.pt2", "pt2")
    image = torch.arange(64.0).reshape(8, 8).sin()
    native = Denoiser(model, CPU, tile=0)(image)
    _equal(_pt2(tmp_path / "out.pt2")(image[None, None])[0, 0], native)


def test_sums_are_accurate_far_from_zero(tmp_path: Path, generator: torch.Generator) -> None:
    model = write_model(tmp_path / "model.safetensors", "cnn(depth=2, width=2)")
    image = 20_000 + 40 * torch.randn(700, 900, generator=generator)
    portable = Portable(checkpoint.load_model(model)[0], 1.0, normalise=True)
    with torch.inference_mode():
        result = portable(image[None, None])[0, 0]
    _equal(result, Denoiser(model, CPU, tile=0)(image))


@pytest.mark.parametrize("form", ["safetensors", "pt2", "onnx"])
def test_the_file_says_what_a_user_must_know_and_no_more(tmp_path: Path, form: Format) -> None:
    _require(form)
    network = "cnn(depth=2, width=4)"
    model = write_model(tmp_path / "model.safetensors", network, gain=GAIN)
    export_model(model, tmp_path / f"out.{form}", form, licence="CC-BY-4.0")
    card = _card(tmp_path / f"out.{form}")
    assert card["licence"] == "CC-BY-4.0"
    assert card["network"] == network
    assert card["target"] == "noisy"
    assert card["trained_by"] == "clearice 0.0"
    assert float(card["pixel_size_angstrom"]) == PIXEL_SIZE
    assert float(card["output_gain"]) == GAIN
    assert int(card["stride_px"]) == 1
    assert card["dose_e_per_A2"] in {None, "null"}
    options = card["options"]
    assert (json.loads(options) if form == "onnx" else options)["depth"] == 2
    content = (tmp_path / f"out.{form}").read_bytes()
    for trace_of_the_machine in (b".py", b"site-packages", bytes(Path.cwd())):
        assert trace_of_the_machine not in content


def test_onnx_has_named_free_sizes_and_passes_its_checker(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = write_model(tmp_path / "model.safetensors", "unet(widths=4-6)")
    export_model(model, tmp_path / "out.onnx", "onnx")
    graph = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(graph, full_check=True)
    for value in (graph.graph.input[0], graph.graph.output[0]):
        sizes = value.type.tensor_type.shape.dim
        assert [d.dim_param or d.dim_value for d in sizes] == ["batch", 1, "height", "width"]


def test_batch_normalisation_is_folded_into_the_weights(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors", "cnn3-bn")
    export_model(model, tmp_path / "out.safetensors", "safetensors")
    with safe_open(tmp_path / "out.safetensors", framework="pt") as handle:
        names = set(handle.keys())
    assert names == {f"layers.{i}.{kind}" for i in (0, 2, 5) for kind in ("weight", "bias")}


def test_an_older_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors")
    out = tmp_path / "here" / "out.safetensors"
    out.parent.mkdir()
    out.write_text("older")
    export_model(model, out, "safetensors")
    assert _card(out)["network"] == "cnn3"
    assert list(out.parent.iterdir()) == [out]


def test_a_failed_export_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    out = tmp_path / "here" / "out.safetensors"
    out.parent.mkdir()
    out.write_text("older")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OutputError, match=r"out\.safetensors: cannot be written \(No space left"):
        export_model(model, out, "safetensors")
    assert out.read_text() == "older"
    assert list(out.parent.iterdir()) == [out]


def test_what_cannot_be_exported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    before = model.read_bytes()
    with pytest.raises(OutputError, match=r"is the model itself; choose another --out"):
        export_model(model, model, "safetensors")
    assert model.read_bytes() == before
    with pytest.raises(OutputError, match=r"is a folder; name a file in it"):
        export_model(model, tmp_path, "pt2")
    with pytest.raises(CheckpointError, match=r"nowhere: does not exist"):
        export_model(tmp_path / "nowhere", tmp_path / "out.pt2", "pt2")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"pip install 'clearice\[onnx\]'"):
        export_model(model, tmp_path / "out.onnx", "onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
