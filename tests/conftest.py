"""Shared fixtures. Shapes in annotations are checked while tests run."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is loaded, and for the processes that tests start: on images as small as those of
# tests, more threads only take the processor from other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

with install_import_hook("clearice", "beartype.beartype"):
    import clearice  # noqa: F401  (every clearice module imported after this is checked)

import pytest
import torch
from hypothesis import settings

settings.register_profile("clearice", deadline=None, max_examples=25)
settings.load_profile("clearice")


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator, so that a random test fails the same way twice."""
    return torch.Generator().manual_seed(20)


@pytest.fixture
def test_data() -> Path:
    """The folder of real micrographs, named by CLEARICE_TEST_DATA; the test skips without it."""
    folder = os.environ.get("CLEARICE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CLEARICE_TEST_DATA names no folder")
    return Path(folder)
