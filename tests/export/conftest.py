"""What exports to ONNX share."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator

import pytest

_REGISTRY = "torch.onnx._internal.exporter._registration"


@pytest.fixture(scope="package", autouse=True)
def _operators_parsed_once() -> Iterator[None]:
    """Keep the library of operators, which each export parses anew: a third of its time.

    It lies in the insides of the exporter; where these change, exports only take longer.
    """
    with pytest.MonkeyPatch.context() as patch:
        try:
            library = importlib.import_module(_REGISTRY).onnxscript_apis
            patch.setattr(library, "get_torchlib_ops", functools.cache(library.get_torchlib_ops))
        except (ImportError, AttributeError):
            pass
        yield
