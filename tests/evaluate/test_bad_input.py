"""Every evaluate command refuses what it cannot compare, in one line that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clearice import io
from clearice.cli import run
from clearice.types import ParticlePicks
from helpers import write_image

SIZE = 96
FOLDERS = ("raw_even", "raw_odd", "denoised_even", "denoised_odd")


def _commands(folder: Path) -> dict[str, list[str]]:
    denoised, raw = folder / "denoised_even", folder / "raw_even"
    two = ["--denoised", str(denoised), "--raw", str(raw), "--out", str(folder / "out.json")]
    return {
        "evaluate": [*two, "--reference", str(folder / "raw_odd"), "--no-classic"],
        "evaluate card": [str(folder), "--out", str(folder / "out.json")],
        "evaluate ctf": two,
        "evaluate picking": [
            *two,
            "--coordinates",
            str(folder / "particles.star"),
            "--diameter",
            "20",
        ],
    }


def _nan(path: Path) -> None:
    image = torch.randn(SIZE, SIZE)
    image[3, 4] = torch.nan
    write_image(path, image)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another size": (lambda path: write_image(path, torch.randn(SIZE, 90)), f"is {SIZE} × 90 px"),
    "NaN": (_nan, "has 1 NaN or infinite"),
    "another pixel size": (
        lambda path: write_image(path, torch.randn(SIZE, SIZE), 3.0),
        "differs in pixel size",
    ),
    "no halves": (lambda path: path.unlink(), "raw_even"),
    "several sections": (
        lambda path: io.write_mrc(path, torch.randn(3, 9, 9), 1.5),
        "three-dimensional",
    ),
    "nothing in it": (lambda path: path.write_bytes(b""), "is empty"),
}


@pytest.fixture
def results(tmp_path: Path, generator: torch.Generator) -> Path:
    for name in FOLDERS:
        write_image(tmp_path / name / "a.mrc", torch.randn(SIZE, SIZE, generator=generator))
    picks = [ParticlePicks("a.mrc", [(48.0, 48.0)])]
    io.write_coordinates(tmp_path / "particles.star", picks)
    return tmp_path


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
@pytest.mark.parametrize(
    "command", ["evaluate", "evaluate card", "evaluate ctf", "evaluate picking"]
)
@pytest.mark.parametrize("fault", FAULTS)
def test_one_line_names_the_file(
    results: Path, capsys: pytest.CaptureFixture[str], command: str, fault: str
) -> None:
    arguments = [*command.split(), *_commands(results)[command]]
    assert run(arguments) == 0, "what is whole is accepted"
    capsys.readouterr()
    (results / "out.json").unlink()
    spoil, words = FAULTS[fault]
    spoil(results / "raw_even" / "a.mrc")
    assert run(arguments) == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    assert words in told
    assert "raw_even" in told
    assert not (results / "out.json").exists()


def test_a_card_needs_all_four_folders(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "denoised_odd" / "a.mrc").unlink()
    (results / "denoised_odd").rmdir()
    assert run(["evaluate", "card", str(results), "--out", str(results / "out.json")]) == 2
    told = capsys.readouterr().err.strip()
    assert "denoised_odd/ is missing" in told
    assert "--halves" in told


def test_of_several_micrographs_the_others_are_judged(
    results: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FOLDERS:
        write_image(results / name / "b.mrc", torch.randn(SIZE, SIZE, generator=generator))
    write_image(results / "raw_odd" / "b.mrc", torch.randn(SIZE, 90))
    assert run(["evaluate", "card", str(results), "--out", str(results / "out.json")]) == 2
    told = capsys.readouterr().err
    assert "1 of 2 failed; the others were done" in told
    assert "raw_odd" in told
    assert (results / "out.json").exists()
