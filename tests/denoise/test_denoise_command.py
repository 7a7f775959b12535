"""`clearice denoise`: its options reach what is written, and go where they belong."""

from __future__ import annotations

import json
from pathlib import Path

import mrcfile
import pytest
import torch

from clearice import cli
from helpers import write_dataset, write_image, write_model

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A three-layer network with random weights."""
    return write_model(tmp_path / "model.safetensors", gain=0.5)


def _run(capsys: Capture, *arguments: str | Path) -> tuple[int, str, str]:
    code = cli.run(["denoise", "--device", "cpu", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_folder_twice_and_by_force(
    capsys: Capture, tmp_path: Path, model: Path, generator: torch.Generator
) -> None:
    for name in ("a", "grid/b"):
        write_image(tmp_path / "in" / f"{name}.mrc", 30 + torch.randn(40, 52, generator=generator))
    out = tmp_path / "out"
    options = ("--model", model, "--out", out, "--dtype", "float16", "--previews")
    for extra, told in (((), False), ((), True), (("--force",), False)):
        code, printed, err = _run(capsys, tmp_path / "in", *options, *extra)
        assert (code, printed) == (0, f"2 micrographs in {out}\n")
        assert ("2 of 2 are done already" in err) is told
    with mrcfile.open(out / "grid" / "b.mrc") as handle:
        assert int(handle.header.mode) == 12
    assert (out / "previews" / "grid" / "b.png").is_file()
    summary = json.loads((out / "denoise.json").read_text())
    assert summary["settings"]["dtype"] == "float16"
    assert summary["settings"]["model"] == str(model)


@pytest.mark.parametrize(
    "options",
    [("--format", "tiff"), ("--dtype", "float16"), ("--previews",), ("--pixel-size", "2")],
)
def test_what_is_for_micrographs_is_refused_for_data_sets(
    capsys: Capture, tmp_path: Path, model: Path, options: tuple[str, ...]
) -> None:
    write_dataset(tmp_path / "set")
    code, _, err = _run(
        capsys, tmp_path / "set", "--model", model, "--out", tmp_path / "out", *options
    )
    assert code == 2
    assert f"{options[0]}: for " in err
    assert "not for a data set; leave them out" in err
    assert not (tmp_path / "out").exists()


def test_types_that_tiff_has_not_are_refused(capsys: Capture, tmp_path: Path, model: Path) -> None:
    image = write_image(tmp_path / "a.mrc", torch.randn(40, 40))
    tail = ("--out", tmp_path / "out", "--format", "tiff", "--dtype", "int16")
    code, _, err = _run(capsys, image, "--model", model, *tail)
    assert code == 2
    assert "TIFF results are float32" in err
