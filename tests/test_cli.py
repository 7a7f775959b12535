"""The command line in process: help, listings, options, and every mistake a user can make."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from clearice import __version__, cli, io
from clearice.data import open_dataset
from helpers import noisy_groups, smooth_image, write_dataset, write_image, write_model, write_movie

COMMANDS = (
    "demo",
    "simulate",
    "prepare",
    "train",
    "denoise",
    "evaluate",
    "report",
    "networks",
    "losses",
    "benchmark",
    "doctor",
    "export",
    "import-topaz",
)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what `cli.run` installs."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small data set."""
    return write_dataset(tmp_path / "set", groups=4).folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file."""
    return write_model(tmp_path / "model.safetensors")


def _refused(capsys: Capture, *arguments: str | Path) -> str:
    """Run a command that must fail with exit code 2, and return its one line."""
    capsys.readouterr()
    assert cli.run([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = [line for line in captured.err.splitlines() if line.startswith("clearice: ")]
    assert len(lines) == 1, captured.err
    assert captured.err.endswith(f"{lines[0]}\n")
    return lines[0]


def _done(capsys: Capture, *arguments: str | Path) -> tuple[str, str]:
    capsys.readouterr()
    code = cli.run([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out, captured.err


_SHORT = ("--steps", "2", "--network", "cnn3", "--patch-size", "32", "--batch-size", "2")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys: Capture, command: str) -> None:
    out, err = _done(capsys, command, "--help")
    assert f"Example: clearice {command}" in " ".join(out.split())
    assert err == ""


def test_help_lists_every_command(capsys: Capture) -> None:
    out, _ = _done(capsys, "--help")
    assert all(f" {command} " in out for command in COMMANDS)
    assert _done(capsys, "--version")[0].strip() == __version__


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from clearice import cli\n"
        f"codes = [cli.run([*c, '--help']) for c in ([], *([name] for name in {COMMANDS}))]\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'mrcfile', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'{codes} {heavy}' if any(codes) or heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_networks_as_json(capsys: Capture) -> None:
    rows = {row["name"]: row for row in json.loads(_done(capsys, "networks", "--json")[0])}
    assert (rows["cnn3"]["parameters"], rows["cnn3"]["receptive_field_px"]) == (2625, 7)
    assert (rows["rescnn12"]["parameters"], rows["rescnn12"]["receptive_field_px"]) == (93089, 25)
    assert 300_000 < rows["unet"]["parameters"] < 2_000_000


def test_losses_as_text_and_json(capsys: Capture) -> None:
    rows = {row["name"]: row for row in json.loads(_done(capsys, "losses", "--json")[0])}
    assert rows["mse"]["noisy_targets"] == "safe"
    assert rows["log-power"]["noisy_targets"] == "biased"
    assert all(row["formula"] and row["why"] and row["source"] for row in rows.values())
    assert all(row["instead"] for row in rows.values() if row["noisy_targets"] == "biased")
    assert rows["frc"]["options"] == "bins=64, high=0.5"
    lines = _done(capsys, "losses")[0].splitlines()
    assert len(lines) == 1 + len(rows)
    assert "biased" in next(line for line in lines if line.startswith("log-power"))


def test_doctor_as_json(capsys: Capture) -> None:
    rows = {row["item"]: row["value"] for row in json.loads(_done(capsys, "doctor", "--json")[0])}
    assert rows["clearice"] == __version__
    assert rows["torch"] == torch.__version__
    assert rows["device"]
    assert rows["slow here"]


def _loss_of(run: Path) -> dict[str, float]:
    return yaml.safe_load((run / "config.yaml").read_text())["loss"]


def test_both_spellings_of_the_fourier_weight(
    capsys: Capture, dataset: Path, tmp_path: Path
) -> None:
    for spelling in ("--fourier-weight", "--fourier_weight"):
        _, err = _done(
            capsys,
            *("train", dataset, "--out", tmp_path / spelling, *_SHORT),
            *(spelling, "0.25", "--allow-biased"),
        )
        assert "warning: loss 'log-power' is biased by noisy targets" in err
        assert _loss_of(tmp_path / spelling) == {"mse": 0.75, "log-power": 0.25}
    weights = [io_bytes(tmp_path / name) for name in ("--fourier-weight", "--fourier_weight")]
    assert weights[0] == weights[1]


def io_bytes(run: Path) -> bytes:
    """Return the best weights of a run as they are on disk."""
    return (run / "best.safetensors").read_bytes()


def test_a_loss_is_read_from_words(capsys: Capture, dataset: Path, tmp_path: Path) -> None:
    command = ("train", dataset, "--out", tmp_path / "run", *_SHORT)
    _done(capsys, *command, "--loss", "mse + 0.05 frc(bins=8) + 0->0.1@0.2-0.5 l1")
    ramp = {"initial": 0.0, "final": 0.1, "start": 0.2, "end": 0.5}
    assert _loss_of(tmp_path / "run") == {"mse": 1.0, "frc(bins=8)": 0.05, "l1": ramp}


def test_no_warning_without_noisy_targets_or_bias(capsys: Capture, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "clean", groups=4, truth=True).folder
    options = ("--target", "clean", "--fourier-weight", "0.1")
    _, err = _done(capsys, "train", folder, "--out", tmp_path / "a", *_SHORT, *options)
    assert "warning" not in err
    _, err = _done(capsys, "train", folder, "--out", tmp_path / "b", *_SHORT)
    assert "warning" not in err


def test_results_and_messages_do_not_mix(capsys: Capture, dataset: Path, tmp_path: Path) -> None:
    out, err = _done(capsys, "train", dataset, "--out", tmp_path / "run", *_SHORT)
    assert out.startswith(f"{tmp_path / 'run' / 'best.safetensors'}: 2 steps in ")
    assert "device: cpu" in err or "device: " in err
    assert "\x1b" not in out + err


def test_what_is_not_given_is_picked_and_said(
    capsys: Capture, dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ("--steps", "2", "--patch-size", "32", "--device", "cpu")
    _, err = _done(capsys, "train", dataset, "--out", run, *options)
    assert "preset fast: there is no GPU in use" in err
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert f"network {stored['network']}: preset fast" in err
    assert (stored["network"], stored["steps"], stored["patch_size"]) == ("unet-small", 2, 32)
    _, err = _done(capsys, "train", dataset, "--out", run, "--resume", "--device", "cpu")
    assert "preset" not in err
    other = tmp_path / "other"
    _, err = _done(
        capsys, "train", dataset, "--out", other, *options, "--preset", "best", "--network", "cnn3"
    )
    assert "network" not in err and "preset best" not in err
    assert "quick" in _refused(capsys, "train", dataset, "--out", run, "--preset", "quick")


def test_options_take_precedence_over_the_file(
    capsys: Capture, dataset: Path, tmp_path: Path
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("network: cnn3\nsteps: 50\npatch_size: 32\nbatch_size: 2\nseed: 5\n")
    _done(capsys, "train", dataset, "--out", tmp_path / "run", "--config", file, "--steps", "1")
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (stored["steps"], stored["seed"], stored["network"]) == (1, 5, "cnn3")


def test_mistakes_in_training_options(capsys: Capture, dataset: Path, tmp_path: Path) -> None:
    def refused(*options: str | Path) -> str:
        line = _refused(capsys, "train", dataset, "--out", tmp_path / "run", *options)
        assert not (tmp_path / "run").exists()
        return line

    assert "not both" in refused("--loss", "mse", "--fourier-weight", "0.1")
    line = refused("--network", "rescnn21")
    assert "unknown network 'rescnn21' (did you mean 'rescnn12'?)" in line
    assert all(name in line for name in ("cnn3", "rescnn12", "unet"))
    line = refused("--network", "cnn3", "--loss", "log-pwer")
    assert "unknown loss 'log-pwer' (did you mean 'log-power'?)" in line
    assert all(name in line for name in ("known: ", "frc", "log-power", "mse"))
    assert "cannot read '0.1'" in refused("--loss", "mse + 0.1")
    assert "has no option 'rings' (did you mean 'bins'?); its options" in refused(
        "--loss", "mse + frc(rings=3)"
    )
    assert "no ramp such as 0->0.1" in refused("--loss", "mse + 0->0 frc")
    assert "at least one weight above 0" in refused("--loss", "0 mse")
    line = refused("--loss", "mse + 0.05 log-power")
    assert "biased by noisy targets" in line
    assert "use 'mse + 0.05 frc'" in line
    assert line.endswith("or insist with --allow-biased")
    assert "anchor" in refused("--loss", "frc")
    assert "between 0 and 1" in refused("--fourier-weight", "1.5")
    assert "--stepz" in refused("--stepz", "3")
    assert "--steps" in refused("--steps", "many")
    assert "steps" in refused("--steps", "0")
    assert "gpu" in refused("--cache", "disk")
    file = tmp_path / "train.yaml"
    for text, hint in (
        ("learning_rat: 0.1\n", "unknown key 'learning_rat' (did you mean 'learning_rate'?)"),
        ("steps: [1, 2]\n", "steps"),
        ("steps: {1", "is not valid YAML"),
        ("- 1\n", "is not a YAML mapping"),
        ("", "is not a YAML mapping"),
    ):
        file.write_text(text)
        line = refused("--config", file)
        assert hint in line
        assert str(file) in line
    assert "none.yaml" in refused("--config", tmp_path / "none.yaml")


def test_a_patch_larger_than_the_images(capsys: Capture, dataset: Path, tmp_path: Path) -> None:
    line = _refused(
        capsys, "train", dataset, "--out", tmp_path / "run", "--network", "cnn3",
        "--patch-size", "128",
    )  # fmt: skip
    assert "--patch-size 64 or less" in line
    # What was refused leaves nothing that stands in the way of the next attempt.
    _done(capsys, "train", dataset, "--out", tmp_path / "run", *_SHORT)


def test_unknown_commands_and_missing_arguments(capsys: Capture, tmp_path: Path) -> None:
    assert 'Did you mean "train"?' in _refused(capsys, "trian")
    assert "DATASET" in _refused(capsys, "train", "--out", tmp_path / "run")
    assert "--out" in _refused(capsys, "simulate")
    assert "--wat" in _refused(capsys, "doctor", "--wat")
    assert "train" in _refused(capsys, "benchmark", "everything")
    assert "or --pairs" in _refused(capsys, "prepare", "--out", tmp_path / "set")
    both = ("prepare", tmp_path, "--pairs", "a*", "b*", "--out", tmp_path / "set")
    assert "or --pairs" in _refused(capsys, *both)
    assert "at least one" in _refused(capsys, "report", "--out", tmp_path / "r.html")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps", "quantum"])
def test_a_device_that_is_not_there(
    capsys: Capture, dataset: Path, model: Path, tmp_path: Path, device: str
) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("MPS is here")
    commands: list[tuple[str | Path, ...]] = [
        ("train", dataset, "--out", tmp_path / "out"),
        ("denoise", dataset, "--model", model, "--out", tmp_path / "out"),
        ("demo", "--out", tmp_path / "out"),
        ("simulate", "--out", tmp_path / "out"),
        ("benchmark", "train"),
    ]
    for command in commands:
        line = _refused(capsys, *command, "--device", device)
        assert f"--device {device}" in line
        assert not (tmp_path / "out").exists()


def test_an_output_folder_below_a_file(
    capsys: Capture, dataset: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    image = write_image(tmp_path / "in" / "a.mrc", torch.randn(40, 40))
    movie = write_movie(tmp_path / "movies" / "m.mrc", torch.randn(8, 40, 40))
    _done(capsys, "train", dataset, "--out", tmp_path / "run", *_SHORT)
    commands: list[tuple[str | Path, ...]] = [
        ("demo",),
        ("simulate", "--micrographs", "1", "--size", "64"),
        ("prepare", movie),
        ("prepare", "--pairs", image, image),
        ("train", dataset, *_SHORT),
        ("denoise", image, "--model", model),
        ("evaluate", "--denoised", image, "--raw", image, "--reference", image),
        ("report", tmp_path / "run"),
    ]
    for command in commands:
        for out in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
            line = _refused(capsys, *command, "--out", out)
            assert str(tmp_path / "file") in line
    line = _refused(
        capsys, "benchmark", "losses", "--size", "16", "--json", tmp_path / "file" / "x"
    )
    assert str(tmp_path / "file") in line


def _mrc(path: Path, image: Tensor | np.ndarray[tuple[int, ...], np.dtype[np.complex64]]) -> None:
    """Write what `io` would not."""
    with warnings.catch_warnings(), mrcfile.new(path, overwrite=True) as handle:
        warnings.simplefilter("ignore", RuntimeWarning)
        handle.set_data(image if isinstance(image, np.ndarray) else image.numpy())
        handle.voxel_size = 1.5


def _with(value: float) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with mrcfile.open(path, mode="r+") as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            handle.data[..., 3, 4] = value

    return spoil


def _constant(path: Path) -> None:
    with mrcfile.open(path, mode="r+") as handle:
        handle.data[...] = 4


# What spoils a file, and what its message must say.
_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "stub": (lambda path: path.write_bytes(b"MAP " * 9), "too short"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-70]), "truncated"),
    "text": (lambda path: path.write_text("no image " * 500), "is not an MRC file"),
    "nan": (_with(np.nan), "NaN or infinite"),
    "inf": (_with(np.inf), "NaN or infinite"),
    "constant": (_constant, "is constant"),
    "complex": (lambda path: _mrc(path, np.ones((40, 40), np.complex64)), "mode 4"),
}
_STACK: tuple[Callable[[Path], object], str] = (
    lambda path: _mrc(path, torch.randn(3, 40, 40)), "three-dimensional"
)  # fmt: skip


def _one_line_each(err: str, faults: dict[str, str]) -> None:
    """Each bad file has one line of its own, and nothing else has any."""
    lines = [line for line in err.splitlines() if line.startswith("  ")]
    assert len(lines) == len(faults), err
    for name, reason in faults.items():
        (line,) = [line for line in lines if name in line]
        assert reason in line
    assert "Traceback" not in err
    assert f"{len(faults)} of {len(faults) + 2} failed; the others were done" in err


def test_denoising_a_batch_with_every_fault(capsys: Capture, model: Path, tmp_path: Path) -> None:
    faults = {**_FAULTS, "stack": _STACK}
    folder = tmp_path / "in"
    files = [
        write_image(folder / f"{name}.mrc", 9 + torch.randn(40, 40))
        for name in ("agood", *faults, "zgood")
    ]
    for name, (spoil, _) in faults.items():
        spoil(folder / f"{name}.mrc")
    code = cli.run(["denoise", *map(str, files), "--model", str(model), "--out", f"{tmp_path}/out"])
    assert code == 2
    reasons = {f"{folder / name}.mrc: ": reason for name, (_, reason) in faults.items()}
    _one_line_each(capsys.readouterr().err, reasons)
    assert sorted(f.name for f in (tmp_path / "out").glob("*.mrc")) == ["agood.mrc", "zgood.mrc"]


def test_preparing_movies_with_every_fault(
    capsys: Capture, tmp_path: Path, generator: torch.Generator
) -> None:
    faults = {
        **_FAULTS,
        "plain": (lambda path: _mrc(path, torch.randn(40, 40)), "has one image"),
        "few": (lambda path: _mrc(path, torch.randn(3, 40, 40)), "too few for 4 groups"),
    }
    folder = tmp_path / "in"
    files = []
    for name in ("agood", *faults, "zgood"):
        frames = noisy_groups(smooth_image(generator, 40), 4, 1.0, generator)
        files.append(write_movie(folder / f"{name}.mrc", frames))
    for name, (spoil, _) in faults.items():
        spoil(folder / f"{name}.mrc")
    out = tmp_path / "set"
    assert cli.run(["prepare", *map(str, files), "--groups", "4", "--out", str(out)]) == 2
    reasons = {f"{folder / name}.mrc: ": reason for name, (_, reason) in faults.items()}
    _one_line_each(capsys.readouterr().err, reasons)
    assert [e.name for e in open_dataset(out).manifest.micrographs] == ["agood", "zgood"]


def test_preparing_pairs_with_every_fault(
    capsys: Capture, tmp_path: Path, generator: torch.Generator
) -> None:
    faults = {
        **{name: fault for name, fault in _FAULTS.items() if name != "missing"},
        "stack": _STACK,
        "shape": (lambda path: _mrc(path, torch.randn(40, 44)), "differs in shape"),
        "pixel": (
            lambda path: io.write_mrc(path, torch.randn(40, 40), 3.0),
            "differs in pixel size",
        ),
    }
    folder = tmp_path / "in"
    for name in ("agood", *faults, "zgood"):
        halves = noisy_groups(smooth_image(generator, 40), 2, 1.0, generator)
        for half, image in zip(("odd", "even"), halves, strict=True):
            write_image(folder / f"{name}_{half}.mrc", image)
    for name, (spoil, _) in faults.items():
        spoil(folder / f"{name}_even.mrc")
    out = tmp_path / "set"
    pairs = ("--pairs", f"{folder}/*_odd.mrc", f"{folder}/*_even.mrc")
    assert cli.run(["prepare", *pairs, "--out", str(out)]) == 2
    reasons = {f"{folder / name}_even.mrc: ": reason for name, (_, reason) in faults.items()}
    _one_line_each(capsys.readouterr().err, reasons)
    assert [e.name for e in open_dataset(out).manifest.micrographs] == ["agood", "zgood"]


def test_pairs_without_a_partner_are_listed(capsys: Capture, tmp_path: Path) -> None:
    for name in ("a_odd", "b_odd", "b_even", "c_even"):
        write_image(tmp_path / f"{name}.mrc", torch.randn(16, 16))
    pairs = ("--pairs", f"{tmp_path}/*_odd.mrc", f"{tmp_path}/*_even.mrc")
    line = _refused(capsys, "prepare", *pairs, "--out", tmp_path / "set")
    assert "a_odd.mrc" in line
    assert "c_even.mrc" in line
    none = ("--pairs", f"{tmp_path}/*_foo.mrc", f"{tmp_path}/*_even.mrc")
    assert "_foo.mrc': matches no file" in _refused(
        capsys, "prepare", *none, "--out", tmp_path / "x"
    )


def test_evaluating_a_batch_with_every_fault(
    capsys: Capture, tmp_path: Path, generator: torch.Generator
) -> None:
    faults = {
        **{name: fault for name, fault in _FAULTS.items() if name != "missing"},
        "stack": _STACK,
        "shape": (lambda path: _mrc(path, torch.randn(40, 44)), "40 × 44 px"),
    }
    for name in ("agood", *faults, "zgood"):
        signal = smooth_image(generator, 40)
        for folder in ("raw", "reference", "denoised"):
            image = signal + torch.randn(40, 40, generator=generator)
            write_image(tmp_path / folder / f"{name}.mrc", image)
    for name, (spoil, _) in faults.items():
        spoil(tmp_path / "raw" / f"{name}.mrc")
    options = [f"--{role}={tmp_path / role}" for role in ("denoised", "raw", "reference")]
    out = tmp_path / "scores.json"
    assert cli.run(["evaluate", *options, "--out", str(out)]) == 2
    reasons = {f"{tmp_path / 'raw' / name}.mrc: ": reason for name, (_, reason) in faults.items()}
    _one_line_each(capsys.readouterr().err, reasons)
    assert json.loads(out.read_text())["micrographs"] == ["agood", "zgood"]


@pytest.mark.parametrize("fault", _FAULTS)
def test_evaluating_one_bad_file(capsys: Capture, tmp_path: Path, fault: str) -> None:
    good = write_image(tmp_path / "good.mrc", torch.randn(40, 40))
    bad = write_image(tmp_path / "bad.mrc", torch.randn(40, 40))
    spoil, reason = _FAULTS[fault]
    spoil(bad)
    for denoised, raw in ((good, bad), (bad, good)):
        roles = ("--denoised", denoised, "--raw", raw, "--reference", good)
        line = _refused(capsys, "evaluate", *roles, "--out", tmp_path / "scores.json")
        assert str(bad) in line
        assert reason in line
    assert not (tmp_path / "scores.json").exists()


def test_evaluation_needs_something_to_compare_with(capsys: Capture, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.mrc", torch.randn(40, 40))
    roles = ("--denoised", image, "--raw", image)
    line = _refused(capsys, "evaluate", *roles, "--out", tmp_path / "scores.json")
    assert "--reference or --truth" in line


def test_folders_and_patterns_without_files(capsys: Capture, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    tail = ("--model", model, "--out", tmp_path / "out")
    assert "holds no micrographs" in _refused(capsys, "denoise", tmp_path / "empty", *tail)
    assert "matches no file" in _refused(capsys, "denoise", f"{tmp_path}/*.nothing", *tail)
    assert "give micrographs" in _refused(capsys, "denoise", *tail)
    assert "is no data set" in _refused(
        capsys, "train", tmp_path / "empty", "--out", tmp_path / "run"
    )
    movies = ("prepare", tmp_path / "empty", "--out", tmp_path / "set")
    assert "holds no movies" in _refused(capsys, *movies)


def test_models_that_cannot_be_used(capsys: Capture, model: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.mrc", torch.randn(40, 40))
    content = model.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "folder").mkdir()
    for name in ("cut.safetensors", "empty.safetensors", "none.safetensors", "folder"):
        line = _refused(
            capsys, "denoise", image, "--model", tmp_path / name, "--out", tmp_path / "out"
        )
        assert str(tmp_path / name) in line


def test_resuming_what_was_never_begun(capsys: Capture, dataset: Path, tmp_path: Path) -> None:
    line = _refused(capsys, "train", dataset, "--out", tmp_path / "run", "--resume", *_SHORT)
    assert "does not exist" in line
    _done(capsys, "train", dataset, "--out", tmp_path / "run", *_SHORT)
    line = _refused(capsys, "train", dataset, "--out", tmp_path / "run", *_SHORT)
    assert "--resume" in line


def test_a_header_without_pixel_size_is_told(capsys: Capture, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.mrc"
    with mrcfile.new(path) as handle:
        handle.set_data(torch.randn(40, 40).numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        _, err = _done(capsys, "denoise", path, "--model", model, "--out", tmp_path / "out")
    (line,) = [line for line in err.splitlines() if "no pixel size" in line]
    assert line.startswith(f"clearice: warning: {path}")


def test_folders_files_and_patterns_mean_the_same(
    capsys: Capture, model: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "in" / f"{name}.mrc", torch.randn(40, 40))
    (tmp_path / "in" / ".c.mrc.7.partial").write_bytes(b"half a file")
    (tmp_path / "in" / "notes.txt").touch()
    for number, source in enumerate(("in", "in/*.mrc", "in/?.mrc")):
        out = tmp_path / f"out{number}"
        said, _ = _done(capsys, "denoise", tmp_path / source, "--model", model, "--out", out)
        assert said == f"2 micrographs in {out}\n"
        assert sorted(f.name for f in out.glob("*.mrc")) == ["a.mrc", "b.mrc"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--dose-ratio", "7"), "--dose-ratio is for half-sets"),
        (("--pairs", "a*", "b*"), "or --pairs"),
    ],
)
def test_options_that_do_not_apply_to_movies_are_refused(
    capsys: Capture, tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    movie = write_movie(tmp_path / "mic.mrc", torch.randn(4, 16, 16))
    assert reason in _refused(capsys, "prepare", movie, "--out", tmp_path / "set", *options)
    assert not (tmp_path / "set").exists()


def test_options_that_do_not_apply_to_pairs_or_micrographs_are_refused(
    capsys: Capture, model: Path, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "mic.mrc", torch.randn(16, 16))
    out = tmp_path / "out"
    line = _refused(capsys, "prepare", "--pairs", image, image, "--groups", "4", "--out", out)
    assert "--groups: only for movies" in line
    for option in (("--halves",), ("--split", "train")):
        line = _refused(capsys, "denoise", image, "--model", model, "--out", out, *option)
        assert "for a data set" in line


@pytest.mark.parametrize("tile", ["-1", "-1024"])
def test_a_negative_tile_is_refused(
    capsys: Capture, model: Path, tmp_path: Path, tile: str
) -> None:
    image = write_image(tmp_path / "mic.mrc", torch.randn(16, 16))
    roles = ("--model", model, "--out", tmp_path / "out", f"--tile={tile}")
    assert "--tile" in _refused(capsys, "denoise", image, *roles)
    assert not (tmp_path / "out" / "mic.mrc").exists()


def test_a_failed_preparation_leaves_the_data_set_that_is_there(
    capsys: Capture, dataset: Path
) -> None:
    before = (dataset / "dataset.json").read_bytes()
    assert cli.run(["prepare", "typo.mrc", "--out", str(dataset)]) == 2
    assert "already holds a data set" in capsys.readouterr().err
    assert (dataset / "dataset.json").read_bytes() == before


def test_resuming_before_the_first_save_starts_anew(
    capsys: Capture, dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--network=cnn3", "--steps=2", "--patch-size=16", f"--out={run}"]
    assert cli.run(["train", str(dataset), *options]) == 0
    for name in ("last.safetensors", "best.safetensors"):
        (run / name).unlink()
    assert cli.run(["train", str(dataset), f"--out={run}", "--resume"]) == 0
    assert "before its first save" in capsys.readouterr().err
    assert (run / "best.safetensors").exists()


def test_the_doctor_finds_a_damaged_data_set(capsys: Capture, dataset: Path) -> None:
    assert cli.run(["doctor", "--dataset", str(dataset)]) == 0
    stack = next((dataset / "stacks").glob("*.mrc"))
    content = bytearray(stack.read_bytes())
    content[-1] ^= 1
    stack.write_bytes(bytes(content))
    assert stack.name in _refused(capsys, "doctor", "--dataset", dataset)


def test_demo_steps_are_checked(capsys: Capture, tmp_path: Path) -> None:
    assert "steps" in _refused(capsys, "demo", "--steps", "0", "--out", tmp_path / "demo")


def test_evaluation_without_raw_images_has_no_baselines(
    capsys: Capture, tmp_path: Path, generator: torch.Generator
) -> None:
    signal = smooth_image(generator, 64)
    roles = []
    for role in ("denoised", "reference", "truth"):
        noise = 0.0 if role == "truth" else 1.0
        image = signal + noise * torch.randn(64, 64, generator=generator)
        roles += [f"--{role}", str(write_image(tmp_path / f"{role}.mrc", image))]
    out = tmp_path / "scores.json"
    assert cli.run(["evaluate", *roles, "--out", str(out)]) == 0
    assert "no baselines" in capsys.readouterr().err
    scores = json.loads(out.read_text())
    assert scores["gaussian_sigma_px"] is None
    assert set(scores["truth"]["snr_db"]) == {"denoised"}
    assert "correlation_with_truth" not in scores["reference"]
    assert cli.run(["report", str(out), "--out", str(tmp_path / "r.html")]) == 0
    assert 'data-side="left"' in (tmp_path / "r.html").read_text(encoding="utf-8")
