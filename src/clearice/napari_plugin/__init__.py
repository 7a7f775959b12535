"""napari's door to clearice: a reader, a writer and a widget, as `napari.yaml` lists them.

Nothing here is imported until napari asks for it, and napari and Qt only by the widget.
"""
