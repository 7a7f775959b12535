"""The command, and the documented examples: each runs where clearice cannot be imported."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import mrcfile
import pytest
import torch
from torch import Tensor

from clearice import cli
from clearice.denoise import Denoiser
from helpers import CPU, write_image, write_model

GUIDE = Path(__file__).parents[2] / "docs" / "how-to.md"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what `cli.run` installs."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file of the network that the guide writes out."""
    return write_model(tmp_path / "trained.safetensors", "cnn3", gain=0.6)


@pytest.fixture
def image(generator: torch.Generator) -> Tensor:
    """A micrograph."""
    return 7 + 2 * torch.randn(70, 91, generator=generator)


def _export(model: Path, form: str, *more: str) -> Path:
    out = model.parent / "made" / f"model.{form}"
    arguments = ["export", str(model), "--format", form, "--out", str(out), *more]
    assert cli.run(arguments) == 0
    return out


def _refused(capsys: Capture, *arguments: str | Path) -> str:
    capsys.readouterr()
    assert cli.run(["export", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def _example(marker: str) -> str:
    """Return the one Python block of the guide that holds a text."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if marker in block]
    assert "import clearice" not in found
    return str(found)


def _run(folder: Path, code: str) -> str:
    """Run code in a process of its own in which `import clearice` fails."""
    code = f"import sys\nsys.modules['clearice'] = None\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _equal(result: Tensor, native: Tensor) -> None:
    assert result.shape == native.shape
    assert float((result - native).abs().max()) <= 1e-4 * float(native.std())


@pytest.mark.parametrize(
    ("form", "marker"), [("safetensors", "torch.nn.Sequential"), ("pt2", "torch.export.load")]
)
def test_the_pytorch_examples(model: Path, image: Tensor, form: str, marker: str) -> None:
    folder = _export(model, form).parent
    torch.save(image, folder / "image.pt")
    used = "torch.save(denoise(torch.load('image.pt')), 'denoised.pt')\n"
    _run(folder, _example(marker) + used)
    _equal(torch.load(folder / "denoised.pt"), Denoiser(model, CPU, tile=0)(image))


def test_the_onnx_example(model: Path, image: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = _export(model, "onnx", "--licence", "CC0").parent
    said = capfd.readouterr()
    assert (said.out, said.err) == (f"model: {folder / 'model.onnx'}\n", "")
    write_image(folder / "micrograph.mrc", image, 1.25)
    assert _run(folder, _example("onnxruntime")) == "cnn3, trained at 1.5 Å/px, licence CC0\n"
    with mrcfile.open(folder / "denoised.mrc") as denoised:
        assert float(denoised.voxel_size.x) == pytest.approx(1.25)
        _equal(torch.from_numpy(denoised.data.copy()), Denoiser(model, CPU, tile=0)(image))


def test_the_command_says_what_it_wrote(model: Path, capsys: Capture) -> None:
    out = _export(model, "safetensors", "--license", "CC0")
    captured = capsys.readouterr()
    assert captured.out == f"model: {out}\n"
    assert captured.err == ""
    assert b"CC0" in out.read_bytes()


def test_normalisation_can_be_left_out(model: Path, image: Tensor) -> None:
    run = torch.export.load(_export(model, "pt2", "--no-normalise")).module()
    native = 0.6 * Denoiser(model, CPU, tile=0).normalised(image)
    _equal(run(image[None, None])[0, 0], native)


def test_mistakes_are_told_in_one_line(model: Path, capsys: Capture) -> None:
    out = model.parent / "out"
    wrong = _refused(capsys, model, "--format", "tensorflow", "--out", out)
    assert '"tensorflow"' in wrong
    assert all(name in wrong for name in ("safetensors", "pt2", "onnx"))
    line = _refused(capsys, model, "--format", "safetensors", "--normalise", "--out", out)
    assert line == ("clearice: --normalise and --no-normalise are for pt2 and onnx; leave them out")
    line = _refused(capsys, model.parent / "none", "--format", "pt2", "--out", out)
    assert "none: does not exist; train first" in line
    line = _refused(capsys, model, "--format", "pt2", "--out", model / "out.pt2")
    assert "cannot create this folder" in line or "is not writable" in line
    assert [p.name for p in model.parent.iterdir()] == [model.name]
