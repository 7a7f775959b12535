"""Weights of Topaz-Denoise: against a network written down with its names and its steps."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clearice import cli
from clearice.denoise import Denoiser
from clearice.errors import CheckpointError, ConfigError, InputFileError, OutputError
from clearice.export import import_topaz
from helpers import CPU

State = dict[str, Tensor]


def _state(depth: int, width: int, first: int, last: int, generator: torch.Generator) -> State:
    """Return random weights with the names and shapes of Topaz's networks."""
    shapes = {"enc1.0": (width, 1, first)}
    shapes |= {f"enc{i}.0": (width, width, 3) for i in range(2, depth + 2)}
    for i in range(depth, 1, -1):
        shapes[f"dec{i}.0"] = (2 * width, (2 if i == depth else 3) * width, 3)
        shapes[f"dec{i}.2"] = (2 * width, 2 * width, 3)
    shapes |= {
        "dec1.0": (64, 2 * width + 1, last),
        "dec1.2": (32, 64, last),
        "dec1.4": (1, 32, last),
    }
    state: State = OrderedDict()
    for name, (n_out, n_in, kernel) in shapes.items():
        spread = (2 / (n_in * kernel**2)) ** 0.5
        drawn = torch.randn(n_out, n_in, kernel, kernel, generator=generator)
        state[f"{name}.weight"] = spread * drawn
        state[f"{name}.bias"] = 0.1 * torch.randn(n_out, generator=generator)
    return state


def _topaz(state: State, depth: int, x: Tensor) -> Tensor:
    """Denoise step by step: encoders that pool, decoders on what they kept, the image last."""

    def convolved(h: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        return functional.conv2d(h, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    kept = [x]
    for i in range(1, depth + 1):
        h = functional.leaky_relu(convolved(kept[-1], f"enc{i}.0"), 0.1)
        kept.append(functional.max_pool2d(h, 2))
    h = functional.leaky_relu(convolved(kept.pop(), f"enc{depth + 1}.0"), 0.1)
    for i in range(depth, 0, -1):
        skip = kept.pop()
        h = torch.cat([functional.interpolate(h, size=skip.shape[-2:], mode="nearest"), skip], 1)
        h = functional.leaky_relu(convolved(h, f"dec{i}.0"), 0.1)
        h = functional.leaky_relu(convolved(h, f"dec{i}.2"), 0.1)
    return convolved(h, "dec1.4")


@pytest.mark.parametrize(
    ("depth", "width", "first", "last", "options"),
    [
        (5, 48, 11, 3, ""),
        (4, 6, 11, 3, "(depth=4, width=6)"),
        (5, 48, 11, 5, "(last=5)"),  # unet
        (3, 48, 11, 5, "(depth=3, last=5)"),  # unet-small
        (5, 48, 7, 3, "(first=7)"),  # unet-v0.2.1
    ],
)
def test_the_imported_model_denoises_as_topaz_does(
    tmp_path: Path,
    generator: torch.Generator,
    depth: int,
    width: int,
    first: int,
    last: int,
    options: str,
) -> None:
    state = _state(depth, width, first, last, generator)
    torch.save(state, tmp_path / "weights.sav")
    info = import_topaz(tmp_path / "weights.sav", tmp_path / "model.safetensors", 1.7)
    assert info.network == f"topaz-unet{options}"
    image = torch.randn(64, 96, generator=generator)
    denoiser = Denoiser(tmp_path / "model.safetensors", CPU, tile=0)
    expected = _topaz(state, depth, image[None, None])[0, 0]
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(denoiser.normalised(image), expected, rtol=1e-4, atol=1e-4)
    assert denoiser.info.pixel_size_angstrom == 1.7
    assert denoiser.info.output_gain == 1.0


def _wrong(state: State) -> dict[str, Any]:
    """Return what may be mistaken for weights, by what is wrong with it."""
    without = {k: v for k, v in state.items() if k != "dec2.0.bias"}
    bent = {**state, "dec2.0.weight": state["dec2.0.weight"][:, :-1]}
    return {
        "other": {"net.0.weight": torch.zeros(4, 1, 11, 11)},
        "without": without,
        "more": {**state, "more": torch.zeros(1)},
        "bent": bent,
        "flat": {**state, "enc1.0.weight": torch.zeros(3)},
        "deep": {k: v[..., None] for k, v in state.items()},
        "list": [torch.zeros(3)],
        "numbers": {"step": 3},
    }


def test_other_weights_are_refused(tmp_path: Path, generator: torch.Generator) -> None:
    path, out = tmp_path / "weights.sav", tmp_path / "model.safetensors"
    for name, wrong in _wrong(_state(3, 4, 11, 3, generator)).items():
        torch.save(wrong, path)
        with pytest.raises(
            InputFileError, match=r"weights\.sav: is no .*; give the state"
        ) as caught:
            import_topaz(path, out, 1.5)
        assert "\n" not in str(caught.value), name
    assert not out.exists()


class _Harm:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_programs_in_a_file_are_never_run(tmp_path: Path) -> None:
    path, touched = tmp_path / "weights.sav", tmp_path / "touched"
    torch.save({"enc1.0.weight": _Harm(touched)}, path)
    pickle.loads(pickle.dumps(_Harm(touched)))  # noqa: S301  (it does harm where it is run)
    touched.unlink()
    with pytest.raises(InputFileError, match=r"holds more than tensors"):
        import_topaz(path, tmp_path / "model.safetensors", 1.5)
    torch.save(nn.Conv2d(1, 1, 3), path)  # as Topaz saves what it trains
    with pytest.raises(InputFileError, match=r"holds more than tensors"):
        import_topaz(path, tmp_path / "model.safetensors", 1.5)
    assert not touched.exists()


def test_files_that_cannot_be_read(tmp_path: Path, generator: torch.Generator) -> None:
    path, out = tmp_path / "weights.sav", tmp_path / "model.safetensors"
    with pytest.raises(InputFileError, match=r"weights\.sav: does not exist; check the path"):
        import_topaz(path, out, 1.5)
    torch.save(_state(3, 4, 11, 3, generator), path)
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputFileError, match=r"weights\.sav: (cannot be read|is no)") as caught:
            import_topaz(path, out, 1.5)
        assert "\n" not in str(caught.value)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"--pixel-size 0: must be above 0"):
        import_topaz(path, out, 0.0)
    with pytest.raises(OutputError, match=r"model\.safetensors: cannot be written"):
        import_topaz(path, tmp_path / "none" / out.name, 1.5)
    with pytest.raises(CheckpointError, match=r"does not exist"):
        Denoiser(out, CPU)


def test_the_command(
    tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(_state(3, 4, 11, 3, generator), tmp_path / "weights.sav")
    out = tmp_path / "models" / "topaz.safetensors"
    command = ["import-topaz", str(tmp_path / "weights.sav"), "--out", str(out)]
    assert cli.run([*command, "--pixel-size", "1.5"]) == 0
    name = "topaz-unet(depth=3, width=4)"
    assert capsys.readouterr().out == f"model: {out}: {name}\n"
    assert Denoiser(out, CPU).info.network == name
    assert cli.run([*command, "--pixel-size", "-1"]) == 2
    assert capsys.readouterr().err.startswith("clearice: --pixel-size -1: must be above 0 Å/px")
