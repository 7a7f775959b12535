"""The widget in a real viewer; skipped without napari, pytest-qt and a display that has OpenGL."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clearice.denoise import Denoiser
from clearice.napari_plugin.reader import read
from clearice.napari_plugin.work import MEAN
from helpers import CPU, PIXEL_SIZE, smooth_image, write_image, write_model, write_movie

pytest.importorskip("napari")
pytest.importorskip("pytestqt")
if sys.platform == "linux" and not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
    pytest.skip("no display: run under xvfb-run", allow_module_level=True)


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    return make_napari_viewer()


@pytest.fixture
def panel(viewer: Any) -> Any:
    from clearice.napari_plugin.widget import denoise_widget

    widget = denoise_widget()
    viewer.window.add_dock_widget(widget)
    return widget


def _open(viewer: Any, path: Path) -> Any:
    from napari.layers import Layer

    ((data, described, kind),) = read(str(path))
    layer = viewer.add_layer(Layer.create(data, described, kind))
    viewer.reset_view()
    return layer


def _run(panel: Any, qtbot: Any) -> None:
    panel.run.changed.emit(True)
    assert panel.run.text == "Stop"
    qtbot.waitUntil(lambda: panel.run.text == "Denoise", timeout=20_000)


def test_a_layer_becomes_a_denoised_one(
    tmp_path: Path, viewer: Any, panel: Any, qtbot: Any, generator: torch.Generator
) -> None:
    image = 20 + smooth_image(generator, 64)
    layer = _open(viewer, write_image(tmp_path / "mic.mrc", image))
    model = write_model(tmp_path / "model.safetensors")
    panel.fields.model.value = model
    assert panel.status.value == "cnn3, trained at 1.5 Å/px"
    assert not panel.fields.restore.enabled
    panel.fields.device.value = "cpu"
    _run(panel, qtbot)
    assert panel.status.value == "done"
    denoised = viewer.layers["mic denoised"]
    np.testing.assert_array_equal(denoised.data, Denoiser(model, CPU)(image).numpy())
    np.testing.assert_array_equal(denoised.scale, layer.scale)
    assert denoised.units == layer.units
    assert denoised.metadata["pixel_size_angstrom"] == PIXEL_SIZE
    assert denoised.metadata["clearice"] == "denoised (cnn3)"


def test_the_mean_of_a_movie(
    tmp_path: Path, viewer: Any, panel: Any, qtbot: Any, generator: torch.Generator
) -> None:
    frames = torch.randn(4, 40, 48, generator=generator)
    _open(viewer, write_movie(tmp_path / "movie.mrc", frames))
    panel.fields.model.value = write_model(tmp_path / "model.safetensors")
    panel.fields.device.value, panel.fields.images.value = "cpu", MEAN
    _run(panel, qtbot)
    denoised = viewer.layers["movie denoised"]
    assert denoised.data.shape == (40, 48)
    np.testing.assert_allclose(denoised.scale, PIXEL_SIZE)


def test_mistakes_are_one_line_in_the_panel(
    tmp_path: Path, viewer: Any, panel: Any, qtbot: Any, generator: torch.Generator
) -> None:
    panel.run.changed.emit(True)
    assert "open a micrograph" in panel.status.value
    _open(viewer, write_image(tmp_path / "mic.mrc", smooth_image(generator, 32)))
    panel.run.changed.emit(True)
    assert "choose a model" in panel.status.value
    panel.fields.model.value = tmp_path / "none.safetensors"
    _run(panel, qtbot)
    assert "none.safetensors: does not exist" in panel.status.value
    (tmp_path / "text.safetensors").write_text("no model")
    panel.fields.model.value = tmp_path / "text.safetensors"
    assert "is no clearice model" in panel.status.value
    assert len(viewer.layers) == 1


def test_it_can_be_stopped(
    tmp_path: Path, viewer: Any, panel: Any, qtbot: Any, generator: torch.Generator
) -> None:
    _open(viewer, write_image(tmp_path / "mic.mrc", smooth_image(generator, 512)))
    panel.fields.model.value = write_model(tmp_path / "model.safetensors", "unet-small")
    panel.fields.device.value, panel.fields.tile.value = "cpu", "256 px"
    panel.run.changed.emit(True)
    panel.run.changed.emit(True)
    qtbot.waitUntil(lambda: panel.run.text == "Denoise", timeout=20_000)
    assert panel.status.value == "stopped"
    assert len(viewer.layers) == 1
