"""Ready halves: their mean to look at, each by itself to trust, one normalisation for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clearice import cli, io
from clearice.data import Affine
from clearice.denoise import Denoiser, Recipe, denoise_pairs, describe_run
from clearice.errors import BatchError, OutputError
from helpers import CPU, write_image, write_model

Pairs = list[tuple[str, Path, Path]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A three-layer network with random weights."""
    return write_model(tmp_path / "model.safetensors", gain=0.5)


def _halves(folder: Path, generator: torch.Generator, *names: str) -> Pairs:
    pairs = []
    for name in names:
        halves = 30 + torch.randn(2, 40, 52, generator=generator)
        files = [folder / f"{name}_{half}.mrc" for half in ("ODD", "EVN")]
        pairs.append((name, *(write_image(f, h) for f, h in zip(files, halves, strict=True))))
    return pairs  # type: ignore[return-value]


def _read(path: Path) -> torch.Tensor:
    return io.read_micrograph(path).pixels


def test_the_mean_and_each_half_with_the_normalisation_of_the_mean(
    tmp_path: Path, model: Path, generator: torch.Generator
) -> None:
    pairs, out = _halves(tmp_path / "in", generator, "a", "b"), tmp_path / "out"
    denoiser = Denoiser(model, CPU)
    results = denoise_pairs(pairs, denoiser, out)
    assert results == [out / "denoised" / "a.mrc", out / "denoised" / "b.mrc"]
    for name, odd, even in pairs:
        full = (_read(odd) + _read(even)) / 2
        affine = Affine.of(full)
        for part, raw in (("", full), ("_odd", _read(odd)), ("_even", _read(even))):
            assert torch.equal(_read(out / f"raw{part}" / f"{name}.mrc"), raw)
            denoised = _read(out / f"denoised{part}" / f"{name}.mrc")
            assert torch.equal(denoised, denoiser(raw, affine))


def test_a_pair_is_current_until_either_half_or_a_result_changes(
    tmp_path: Path, model: Path, generator: torch.Generator
) -> None:
    pairs, out = _halves(tmp_path / "in", generator, "a"), tmp_path / "out"
    settings = describe_run(Recipe(model))

    def again() -> list[str]:
        said: list[str] = []
        denoise_pairs(pairs, Denoiser(model, CPU), out, say=said.append, settings=settings)
        return said

    assert again() == []
    assert again() == ["1 of 1 are done already"]
    (out / "denoised_even" / "a.mrc").unlink()
    assert again() == []
    write_image(pairs[0][2], 30 + torch.randn(40, 52, generator=generator))
    assert again() == []
    assert again() == ["1 of 1 are done already"]


def test_halves_that_do_not_fit_fail_alone(
    tmp_path: Path, model: Path, generator: torch.Generator
) -> None:
    pairs = _halves(tmp_path / "in", generator, "a", "bad", "c")
    write_image(pairs[1][2], torch.randn(40, 40, generator=generator))
    with pytest.raises(BatchError, match=r"bad_ODD\.mrc: has 40 × 52 px, but .*bad_EVN\.mrc"):
        denoise_pairs(pairs, Denoiser(model, CPU), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "denoised_odd").iterdir()) == [
        "a.mrc",
        "c.mrc",
    ]


def test_halves_are_never_overwritten(
    tmp_path: Path, model: Path, generator: torch.Generator
) -> None:
    halves = [
        write_image(tmp_path / f"raw_{half}" / "a.mrc", torch.randn(40, 52, generator=generator))
        for half in ("odd", "even")
    ]
    before = [path.read_bytes() for path in halves]
    with pytest.raises(OutputError, match="would be overwritten; choose another --out"):
        denoise_pairs([("a", halves[0], halves[1])], Denoiser(model, CPU), tmp_path)
    assert [path.read_bytes() for path in halves] == before


def test_the_command(
    tmp_path: Path, model: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    _halves(tmp_path / "in", generator, "a", "b")
    patterns = [str(tmp_path / "in" / f"*_{half}.mrc") for half in ("ODD", "EVN")]
    tail = ["--model", str(model), "--out", str(tmp_path / "out"), "--device", "cpu"]
    for told in (False, True):
        assert cli.run(["denoise", "--pairs", *patterns, *tail, "--tta"]) == 0
        printed = capsys.readouterr()
        assert printed.out == f"2 micrographs in {tmp_path / 'out'}\n"
        assert ("2 of 2 are done already" in printed.err) is told
    summary = json.loads((tmp_path / "out" / "denoise.json").read_text())
    assert summary["settings"]["tta"] is True
    assert cli.run(["denoise", "--pairs", *patterns, *tail, "--previews"]) == 2
    assert "--previews: for micrographs, not for pairs" in capsys.readouterr().err
    assert cli.run(["denoise", str(tmp_path / "in"), "--pairs", *patterns, *tail]) == 2
    assert "--pairs takes the place of other inputs" in capsys.readouterr().err
