"""What `clearice relion` writes, read by others; RELION itself runs it, where installed."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import torch

from clearice import cli, io
from helpers import write_image, write_model

_LISTS = ("corrected_micrographs.star", "micrographs_ctf.star")
_JOB = Path("External/job004")
_JOB_STAR = """
# version 30001

data_job

_rlnJobType                            99
_rlnJobIsContinue                       0

# version 30001

data_joboptions_values

loop_
_rlnJobOptionVariable #1
_rlnJobOptionValue #2
  do_queue         No
    fn_exe         ./clearice
    in_mic         list.star
nr_threads          1
other_args         ""
param1_label       model
param1_value       model.safetensors
param2_label       device
param2_value       cpu
param3_label       previews
param3_value       ""
"""
_PIPELINE_STAR = "data_pipeline_general\n\n_rlnPipeLineJobCounter 4\n"


def _relion(program: str, *arguments: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        [found, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=_LISTS)
def project(
    request: pytest.FixtureRequest,
    test_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    generator: torch.Generator,
) -> Path:
    """A project with a real list, and small micrographs where it says they are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.star").write_bytes((test_data / "star" / request.param).read_bytes())
    for name in io.read_star(Path("list.star"))["micrographs"]["rlnMicrographName"]:
        write_image(tmp_path / name, 900 + 90 * torch.randn(20, 24, generator=generator), 0.885)
    write_model(tmp_path / "model.safetensors")
    return tmp_path


def _denoise(*options: str) -> None:
    given = ["--in_mics", "list.star", "--model", "model.safetensors", "--device", "cpu"]
    assert cli.run(["relion", "--o", f"{_JOB}/", *given, *options]) == 0


def _columns(path: Path) -> dict[str, list[str]]:
    loop = gemmi.cif.read(str(path)).find_block("micrographs")[0].loop
    rows = np.array(loop.values).reshape(loop.length(), loop.width())
    return {tag: list(map(str, rows[:, at])) for at, tag in enumerate(loop.tags)}


def test_gemmi_and_starfile_find_every_column(project: Path) -> None:
    _denoise()
    before, after = _columns(Path("list.star")), _columns(_JOB / "micrographs_denoised.star")
    names = before.pop("_rlnMicrographName")
    denoised = [f"{_JOB}/Movies/{Path(name).name}" for name in names]
    assert after.pop("_rlnMicrographName") == denoised
    assert after == before
    starfile = pytest.importorskip("starfile")
    tables = starfile.read(_JOB / "micrographs_pairs.star")
    assert list(tables["micrographs"]["rlnMicrographName"]) == names
    assert list(tables["micrographs"]["rlnMicrographNameDenoised"]) == denoised
    assert tables["optics"].equals(starfile.read("list.star")["optics"])


def test_relion_prints_both_lists(project: Path) -> None:
    _denoise()
    raw = io.read_star(Path("list.star"))["micrographs"]
    names = raw["rlnMicrographName"]
    denoised = [f"{_JOB}/Movies/{Path(name).name}" for name in names]
    for file, label, expected in (
        ("denoised", "rlnMicrographName", denoised),
        ("pairs", "rlnMicrographName", names),
        ("pairs", "rlnMicrographNameDenoised", denoised),
        ("pairs", "rlnOpticsGroup", raw["rlnOpticsGroup"]),
    ):
        said = _relion(
            "relion_star_printtable", f"{_JOB}/micrographs_{file}.star", "data_micrographs", label
        )
        assert said.split() == expected


@pytest.mark.parametrize("project", _LISTS[:1], indirect=True)
@pytest.mark.parametrize("dtype", ["float32", "int16", "float16"])
def test_relion_reads_the_images(project: Path, dtype: str) -> None:
    _denoise("--dtype", dtype)
    image = sorted((_JOB / "Movies").glob("*.mrc"))[0]
    version = _relion("relion_image_handler", "--version")
    if dtype == "float16" and "version: 3" in version:
        pytest.skip("RELION reads MRC mode 12 from version 4 on")
    said = _relion("relion_image_handler", "--stats", "--i", str(image))
    with mrcfile.open(image) as handle:
        pixels = handle.data.astype(np.float64)
    words = said.replace("=", " ").replace(";", " ").split()
    told = {name: float(words[words.index(name) + 1]) for name in ("avg", "stddev", "angpix")}
    assert "24 x 20 x 1 x 1" in said
    assert told["avg"] == pytest.approx(pixels.mean(), rel=1e-5)
    assert told["stddev"] == pytest.approx(pixels.std(), rel=1e-4)
    assert told["angpix"] == pytest.approx(0.885, rel=1e-5)


@pytest.mark.parametrize("project", _LISTS[:1], indirect=True)
def test_relion_runs_the_job_and_takes_its_outputs(project: Path) -> None:
    # RELION gives its options before those of the user: the executable names the command.
    program = Path("clearice")
    source = Path(cli.__file__).parents[1]
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="{source}" exec "{sys.executable}" -m clearice relion "$@"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    Path("job.star").write_text(_JOB_STAR)
    Path("default_pipeline.star").write_text(_PIPELINE_STAR)
    _relion("relion_pipeliner", "--addJobFromStar", "job.star")
    _relion("relion_pipeliner", "--RunJobs", f"{_JOB}/", "--sec_wait_after", "0")
    pipeline = io.read_star(Path("default_pipeline.star"))
    finished = "2"
    assert pipeline["pipeline_processes"]["rlnPipeLineProcessStatus"] == [finished]
    outputs = [f"{_JOB}/micrographs_{kind}.star" for kind in ("denoised", "pairs")]
    assert pipeline["pipeline_output_edges"]["rlnPipeLineEdgeToNode"] == outputs
    assert "micrographs_denoised.star" in (_JOB / "run.out").read_text()
    assert (_JOB / "run.err").read_text() == ""
