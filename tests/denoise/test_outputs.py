"""What is written: formats, types that are never rescaled, folders kept, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from PIL import Image

from clearice import io
from clearice.denoise import Denoiser, OutputOptions, denoise_files
from clearice.denoise.outputs import as_type, picture
from clearice.denoise.plan import find_micrographs, plan_jobs
from clearice.errors import BatchError, ConfigError, InputFileError, OutputError
from helpers import CPU, PIXEL_SIZE, smooth_image, write_image, write_model


@pytest.fixture
def denoiser(tmp_path: Path) -> Denoiser:
    """A three-layer network with random weights."""
    return Denoiser(write_model(tmp_path / "model.safetensors", gain=0.5), CPU)


def _image(path: Path, generator: torch.Generator, scale: float = 1.0) -> Path:
    return write_image(path, scale * (30 + torch.randn(40, 52, generator=generator)))


def _below(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    return [name for name in names if not name.startswith("denoise.")]


@pytest.mark.parametrize(
    ("dtype", "mode", "scale"), [("float32", 2, 1.0), ("float16", 12, 1.0), ("int16", 1, 300.0)]
)
def test_types_of_mrc(
    tmp_path: Path,
    denoiser: Denoiser,
    generator: torch.Generator,
    dtype: Any,
    mode: int,
    scale: float,
) -> None:
    path = _image(tmp_path / "mic.mrc", generator, scale)
    options = OutputOptions(dtype=dtype)
    (result,) = denoise_files([path], denoiser, tmp_path / "out", options=options)
    expected = denoiser(io.read_micrograph(path).pixels)
    half_a_step = {"float32": 0.0, "float16": 2.0**-7, "int16": 0.5}[dtype]
    with mrcfile.open(result) as handle:
        assert int(handle.header.mode) == mode
        assert float(handle.voxel_size.x) == pytest.approx(PIXEL_SIZE)
        error = np.abs(handle.data.astype(np.float64) - expected.double().numpy()).max()
        assert float(handle.header.dmean) == pytest.approx(float(expected.mean()), rel=1e-3)
    assert error <= half_a_step


@pytest.mark.parametrize("dtype", ["float16", "int16"])
def test_what_does_not_fit_a_type_fails_alone(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator, dtype: Any
) -> None:
    large = _image(tmp_path / "large.mrc", generator, 1e5)
    fine = _image(tmp_path / "fine.mrc", generator, 300.0 if dtype == "int16" else 1.0)
    options = OutputOptions(dtype=dtype)
    with pytest.raises(BatchError, match="1 of 2 failed") as caught:
        denoise_files([large, fine], denoiser, tmp_path / "out", options=options)
    (failure,) = caught.value.failures
    assert failure.startswith(f"{large}: has denoised values from ")
    assert failure.endswith(f"which do not fit {dtype}; use --dtype float32")
    assert _below(tmp_path / "out") == ["fine.mrc"]


def test_rounding_that_costs_detail_is_refused(generator: torch.Generator) -> None:
    unit = torch.randn(64, 64, generator=generator)
    # Rounding to whole numbers has the variance 1/12: 3 % of the amplitude of σ = 9.1.
    rounded = as_type(12 * unit + 0.3, "int16", Path("m"))
    assert torch.equal(rounded, (12 * unit + 0.3).round().to(torch.int16))
    with pytest.raises(
        InputFileError, match=r"varies by σ = 5.* too little to be rounded to int16"
    ):
        as_type(5 * unit, "int16", Path("m"))
    with pytest.raises(InputFileError, match="too little to be rounded to float16"):
        as_type(2000 + unit, "float16", Path("m"))
    assert as_type(unit, "float32", Path("m")) is unit


def test_tiff_results_are_turned_back_and_keep_the_pixel_size(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    path = _image(tmp_path / "mic.mrc", generator)
    options = OutputOptions(format="tiff")
    (result,) = denoise_files([path], denoiser, tmp_path / "out", options=options)
    assert result == tmp_path / "out" / "mic.tif"
    read = io.read_micrograph(result)
    assert torch.equal(read.pixels, denoiser(io.read_micrograph(path).pixels))
    assert read.pixel_size_angstrom == pytest.approx(PIXEL_SIZE, rel=1e-6)


def test_tiff_has_no_other_types() -> None:
    with pytest.raises(ConfigError, match="--dtype float16 is for MRC; TIFF results are float32"):
        OutputOptions("tiff", "float16")


def test_folders_are_kept(tmp_path: Path, denoiser: Denoiser, generator: torch.Generator) -> None:
    for name in ("a.mrc", "grid1/a.mrc", "grid1/square2/b.mrc", ".hidden/c.mrc", ".d.mrc"):
        _image(tmp_path / "in" / name, generator)
    out, expected = tmp_path / "in" / "out", ["a.mrc", "grid1/a.mrc", "grid1/square2/b.mrc"]
    for _ in range(2):  # results are never taken for inputs
        results = denoise_files([tmp_path / "in"], denoiser, out)
        assert _below(out) == expected
        assert sorted(path.relative_to(out).as_posix() for path in results) == expected
    assert len(find_micrographs([tmp_path / "in"], tmp_path / "elsewhere")) == 3


def test_links_to_folders_are_followed_but_not_in_circles(
    tmp_path: Path, generator: torch.Generator
) -> None:
    _image(tmp_path / "far" / "a.mrc", generator)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "circle").symlink_to(tmp_path / "in")
    (source,) = find_micrographs([tmp_path / "in"], tmp_path / "out")
    assert source.below == Path("link/a.mrc")


def test_two_inputs_of_one_result_are_named(tmp_path: Path, generator: torch.Generator) -> None:
    files = [_image(tmp_path / name / "a.mrc", generator) for name in ("x", "y")]
    tiff = tmp_path / "x" / "a.tif"
    io.write_tiff(tiff, torch.randn(8, 8), 1.0)
    for pair in (files, [files[0], tiff], [tmp_path / "x"]):
        sources = find_micrographs(pair, tmp_path / "out")
        with pytest.raises(OutputError, match="would write the same file") as caught:
            plan_jobs(sources, tmp_path / "out", ".mrc")
        assert all(str(source.path) in str(caught.value) for source in sources)
    jobs = plan_jobs(find_micrographs([tmp_path], tmp_path / "out")[1:], tmp_path / "out", ".mrc")
    assert [job.target.relative_to(tmp_path / "out").as_posix() for job in jobs] == [
        "x/a.mrc",
        "y/a.mrc",
    ]


def test_a_name_with_wildcards_is_a_file_if_it_exists(
    tmp_path: Path, generator: torch.Generator
) -> None:
    path = _image(tmp_path / "mic[1].mrc", generator)
    assert [source.path for source in find_micrographs([path], tmp_path / "out")] == [path]


def test_previews_are_pictures_of_the_results(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    _image(tmp_path / "in" / "grid" / "a.mrc", generator)
    out, options = tmp_path / "out", OutputOptions(previews=True)
    (result,) = denoise_files([tmp_path / "in"], denoiser, out, options=options)
    assert _below(out) == ["grid/a.mrc", "previews/grid/a.png"]
    with Image.open(out / "previews" / "grid" / "a.png") as shown:
        assert shown.mode == "L"
        pixels = np.asarray(shown)[::-1]
    assert np.array_equal(pixels, picture(io.read_image(result)).numpy())
    # A new result without a preview leaves no preview of the old one.
    denoise_files([tmp_path / "in"], denoiser, out)
    assert _below(out) == ["grid/a.mrc"]


def test_missing_previews_are_made_of_what_is_done(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    path, out, said = _image(tmp_path / "a.mrc", generator), tmp_path / "out", list[str]()
    for options in (OutputOptions(), OutputOptions(previews=True)):
        denoise_files([path], denoiser, out, say=said.append, options=options, settings={})
    assert said == ["1 of 1 are done already"]
    made = (out / "previews" / "a.png").read_bytes()
    denoise_files([path], denoiser, out, options=OutputOptions(previews=True))
    assert (out / "previews" / "a.png").read_bytes() == made


def test_a_picture_is_small_and_stretched(generator: torch.Generator) -> None:
    # Of normal noise, 0.5 to 99.5 % is ±2.576 σ; a few outliers must not flatten it.
    wide = 100 + 5 * smooth_image(generator, 2100, 12.0)[:1500]
    wide[::400, ::400] = 1e4
    shown = picture(wide)
    assert shown.shape == (500, 700)
    assert shown.dtype == torch.uint8
    values = shown.float()
    assert 0.002 < float((values == 0).float().mean()) < 0.01
    assert 0.002 < float((values == 255).float().mean()) < 0.01
    middle = values[(values > 0) & (values < 255)]
    assert float(middle.std()) == pytest.approx(255 / 2 / 2.576, rel=0.25)
    assert picture(torch.ones(3, 5000)).shape == (1, 1000)


def test_only_own_leftovers_are_removed(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    path, out = _image(tmp_path / "a.mrc", generator), tmp_path / "out"
    out.mkdir()
    for name in (".a.mrc.77.partial", ".denoise.json.77.partial", ".other.mrc.77.partial"):
        (out / name).touch()
    denoise_files([path], denoiser, out)
    assert _below(out) == [".other.mrc.77.partial", "a.mrc"]
