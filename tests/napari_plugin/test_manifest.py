"""The manifest names what there is, and what `io` reads."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import clearice.napari_plugin
from clearice import io
from helpers import PIXEL_SIZE, write_image

FOLDER = Path(clearice.napari_plugin.__file__).parent
FILE = FOLDER / "napari.yaml"
MANIFEST: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
GIVEN = MANIFEST["contributions"]


def test_every_command_can_be_imported() -> None:
    for command in GIVEN["commands"]:
        module, name = command["python_name"].split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_every_contribution_has_its_command() -> None:
    commands = {command["id"] for command in GIVEN["commands"]}
    used = {item["command"] for kind in ("readers", "writers", "widgets") for item in GIVEN[kind]}
    assert used == commands
    assert all(command.startswith(f"{MANIFEST['name']}.") for command in commands)


def test_what_napari_offers_us_is_what_io_reads() -> None:
    (reader,) = GIVEN["readers"]
    assert {pattern.removeprefix("*") for pattern in reader["filename_patterns"]} == set(
        io.MOVIE_SUFFIXES
    )


def test_the_package_brings_its_manifest() -> None:
    path = Path(__file__).parents[2] / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))
    assert project["project"]["name"] == MANIFEST["name"]
    assert project["project"]["entry-points"]["napari.manifest"] == {
        "clearice": "clearice.napari_plugin:napari.yaml"
    }
    assert "napari_plugin/napari.yaml" in project["tool"]["setuptools"]["package-data"]["clearice"]


def test_napari_is_imported_only_when_the_widget_is_made() -> None:
    modules = [f"clearice.napari_plugin.{path.stem}" for path in FOLDER.glob("[a-z]*.py")]
    code = (
        f"import sys, importlib\nfor name in {modules}: importlib.import_module(name)\n"
        "sys.exit(bool({'napari', 'qtpy', 'magicgui', 'superqt'} & set(sys.modules)))"
    )
    assert len(modules) == 5
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_npe2_takes_it_and_reads_and_writes(
    tmp_path: Path, generator: torch.Generator, request: pytest.FixtureRequest
) -> None:
    npe2 = pytest.importorskip("npe2")
    plugins = request.getfixturevalue("npe2pm")
    manifest = npe2.PluginManifest.from_file(FILE)
    manifest.validate_imports()
    source = write_image(tmp_path / "mic.mrc", torch.randn(8, 9, generator=generator))
    target = tmp_path / "out.mrc"
    with plugins.tmp_plugin(manifest=manifest):
        layers = npe2.read([str(source)], stack=False, plugin_name="clearice")
        assert npe2.write(str(target), layers, plugin_name="clearice") == [str(target)]
    expected, written = io.read_micrograph(source), io.read_micrograph(target)
    assert torch.equal(written.pixels, expected.pixels)
    assert written.pixel_size_angstrom == PIXEL_SIZE
