"""The dock widget "Denoise": choose a layer and a model, get a layer back.

Source: napari.org, "Multithreading in napari"; juglab/napari-n2v, whose worker tells the widget how
far it is. Here the widget holds no numerics, and the worker no widgets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, final

import torch

from clearice.checkpoint import load_info
from clearice.errors import ClearIceError, UserError
from clearice.napari_plugin import work
from clearice.napari_plugin.layers import contrast_of, pixel_size_of

_TILES: Final = {
    "as memory allows": None,
    "whole image": 0,
    **{f"{edge} px": edge for edge in (256, 512, 1024, 2048, 4096)},
}
_START, _STOP = "Denoise", "Stop"
# What the field gives while it is empty.
_NO_MODEL: Final = Path()


def denoise_widget() -> Any:
    """Return the widget, for the viewer that is current when it is used."""
    return _Panel().container


@final
class _Panel:
    """The fields, and what happens when they are used."""

    def __init__(self) -> None:
        from magicgui import widgets
        from superqt.utils import ensure_main_thread

        self._worker: Any = None
        self._layer = widgets.create_widget(
            annotation="napari.layers.Image", name="layer", label="layer"
        )
        self._model = widgets.FileEdit(
            mode="r",
            filter="Models (*.safetensors)",
            name="model",
            label="model",
            tooltip="A model file, or the folder of a run",
        )
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        self._device = widgets.ComboBox(
            choices=["auto", "cpu", *gpus], name="device", label="device"
        )
        self._tile = widgets.ComboBox(choices=list(_TILES), name="tile", label="tile")
        self._images = widgets.ComboBox(
            choices=[work.SHOWN, work.EACH, work.MEAN], name="images", label="of a stack"
        )
        self._restore = widgets.CheckBox(
            name="restore",
            text="restore amplitude",
            tooltip="By the model's calibration",
            enabled=False,
        )
        self._button = widgets.PushButton(name="run", text=_START)
        # Not a label, which could not break the long path in an error.
        self._status = widgets.TextEdit(name="status", value="choose a model")
        fields = widgets.Container(
            name="fields",
            widgets=[
                *(self._layer, self._model, self._device, self._tile, self._images, self._restore)
            ],
        )
        self.container = widgets.Container(
            widgets=[fields, self._button, self._status], labels=False
        )
        self._status.native.setReadOnly(True)
        # Called by the worker's thread, done by that of the widgets.
        self._say_soon = ensure_main_thread(self._say)
        # Signals hold methods weakly: as closures they keep the panel as long as its widgets.
        self._model.changed.connect(lambda path: self._look_at(path))  # noqa: PLW0108
        self._button.changed.connect(lambda: self._start_or_stop())  # noqa: PLW0108

    def _say(self, text: str) -> None:
        self._status.value = text

    def _look_at(self, model: Path) -> None:
        """Say what a model is, once its path is whole."""
        self._restore.enabled = False
        if model == _NO_MODEL or not model.exists():
            return
        try:
            info = load_info(model)
        except ClearIceError as error:
            self._say(str(error))
            return
        self._restore.enabled = info.calibration is not None
        self._say(f"{info.network}, trained at {info.pixel_size_angstrom:g} Å/px")

    def _start_or_stop(self) -> None:
        if self._worker is not None:
            self._worker.quit()
            self._say("stopping after this tile")
            return
        from napari.qt.threading import create_worker

        try:
            request = self._request()
        except ClearIceError as error:
            self._say(str(error))
            return
        layer = self._layer.value
        self._button.text = _STOP
        self._say("loading the model")
        self._worker = create_worker(
            self._work, request, _start_thread=False, _progress={"desc": "clearice", "total": 0}
        )
        self._worker.returned.connect(lambda result: self._show(layer, result))
        self._worker.errored.connect(lambda error: self._say(f"{type(error).__name__}: {error}"))
        self._worker.finished.connect(self._end)
        self._worker.start()

    def _request(self) -> work.Request:
        """Collect what was asked for."""
        layer = self._layer.value
        if layer is None:
            raise UserError("open a micrograph first, or choose its layer")
        if layer.rgb:
            raise UserError(f"layer '{layer.name}': has colours; choose a grey one")
        if self._model.value == _NO_MODEL:
            raise UserError("choose a model file, or type the folder of a run")
        pixels = layer.data[0] if layer.multiscale else layer.data
        return work.Request(
            name=layer.name,
            pixels=pixels,
            pixel_size_angstrom=pixel_size_of(layer.name, layer.scale, layer.units),
            model=self._model.value,
            device=self._device.value,
            tile=_TILES[self._tile.value],
            restore_amplitude=self._restore.enabled and self._restore.value,
            images=self._images.value,
            shown=_shown_image(layer) if layer.ndim == 3 else 0,
        )

    def _work(self, request: work.Request) -> work.Denoised | str:
        """Denoise, in the worker's thread; return a line instead if that cannot be."""
        try:
            return work.denoise(request, self._tick)
        except work.StoppedError:
            return "stopped"
        except ClearIceError as error:
            return str(error)

    def _tick(self, text: str) -> None:
        if self._worker.abort_requested:
            raise work.StoppedError
        self._say_soon(text)

    def _show(self, layer: Any, result: work.Denoised | str) -> None:
        """Add the result to the viewer, with the layer's scale and metadata."""
        from napari import current_viewer
        from napari.layers import Image

        if not isinstance(result, work.Denoised):
            self._say(result)
            return
        ndim = result.pixels.ndim
        denoised = Image(
            result.pixels,
            name=f"{layer.name} denoised",
            scale=layer.scale[-ndim:],
            translate=layer.translate[-ndim:],
            units=layer.units[-ndim:],
            metadata={**layer.metadata, "clearice": f"denoised ({result.label})"},
            contrast_limits=contrast_of(result.pixels if ndim == 2 else result.pixels[0]),
        )
        current_viewer().add_layer(denoised)
        self._say("; ".join(("done", *result.caveats)))

    def _end(self) -> None:
        if self._worker.abort_requested:
            self._say("stopped")
        self._worker = None
        self._button.text = _START


def _shown_image(layer: Any) -> int:
    """Return the number of the image of a stack that the viewer shows."""
    from napari import current_viewer

    point = layer.world_to_data(current_viewer().dims.point)
    return int(min(max(round(float(point[0])), 0), layer.data.shape[0] - 1))
