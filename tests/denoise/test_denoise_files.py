"""Files and data sets: headers kept, nothing overwritten, one bad file stops nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from clearice import io
from clearice.data import Affine, Split
from clearice.denoise import Denoiser, denoise_dataset, denoise_files
from clearice.errors import BatchError, DatasetError, OutputError
from clearice.io import PixelSizeFallback
from helpers import CPU, PIXEL_SIZE, write_dataset, write_image, write_model, write_movie


@pytest.fixture
def denoiser(tmp_path: Path) -> Denoiser:
    """A three-layer network with random weights and a gain."""
    return Denoiser(write_model(tmp_path / "model.safetensors", gain=0.5), CPU, tile=32)


def _images(folder: Path, generator: torch.Generator, *names: str) -> list[Path]:
    return [
        write_image(folder / f"{name}.mrc", 30 + torch.randn(40, 52, generator=generator))
        for name in names
    ]


def test_results_are_denoised_and_keep_their_header(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    (path,) = _images(tmp_path / "in", generator, "mic")
    with mrcfile.open(path, mode="r+") as handle:
        handle.header.origin = (7.0, -3.0, 2.0)
        handle.header.nxstart = 11
        handle.set_extended_header(np.frombuffer(b"stage tilt 3 degrees" * 8, dtype="V1"))
        handle.header.exttyp = b"SERI"
        handle.add_label("recorded on a Tuesday")
    seen: list[tuple[int, int]] = []
    (result,) = denoise_files([path], denoiser, tmp_path / "out", None, lambda *n: seen.append(n))
    assert result == tmp_path / "out" / "mic.mrc"
    assert seen == [(1, 1)]
    assert mrcfile.validate(result)
    with mrcfile.open(result) as handle, mrcfile.open(path) as source:
        expected = denoiser(torch.from_numpy(source.data.copy()))
        assert np.array_equal(handle.data, expected.numpy())
        assert not np.array_equal(handle.data, source.data)
        assert float(handle.voxel_size.x) == pytest.approx(PIXEL_SIZE)
        assert handle.header.origin == source.header.origin
        assert int(handle.header.nxstart) == 11
        assert bytes(handle.header.exttyp) == b"SERI"
        assert handle.extended_header.tobytes() == source.extended_header.tobytes()
        labels = handle.get_labels()
        assert any("recorded on a Tuesday" in label for label in labels)
        assert any("clearice: denoised (cnn3)" in label for label in labels)
        assert float(handle.header.dmean) == pytest.approx(float(expected.mean()), rel=1e-4)


_FAULTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-50]),
    "movie": lambda path: write_movie(path, torch.randn(3, 20, 20)),
    "constant": lambda path: write_image(path, torch.ones(20, 20)),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_one_bad_file_of_three_fails_alone(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator, fault: str
) -> None:
    paths = _images(tmp_path / "in", generator, "a", "bad", "c")
    _FAULTS[fault](paths[1])
    with pytest.raises(BatchError, match="1 of 3 failed") as caught:
        denoise_files(paths, denoiser, tmp_path / "out")
    (failure,) = caught.value.failures
    assert caught.value.exit_code == 2
    assert str(paths[1]) in failure
    assert "\n" not in failure
    assert sorted(p.name for p in (tmp_path / "out").glob("*.mrc")) == ["a.mrc", "c.mrc"]


def test_files_of_one_name_are_refused(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    paths = [_images(tmp_path / folder, generator, "mic")[0] for folder in ("x", "y")]
    with pytest.raises(OutputError, match="would write the same file"):
        denoise_files(paths, denoiser, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_overwritten(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    paths = _images(tmp_path / "in", generator, "a", "b")
    before = [path.read_bytes() for path in paths]
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in (tmp_path / "in", tmp_path / "link", tmp_path / "in" / ".." / "in"):
        with pytest.raises(OutputError, match="would be overwritten; choose another --out"):
            denoise_files(paths, denoiser, out)
    assert [path.read_bytes() for path in paths] == before


def test_another_pixel_size_is_told_and_kept(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    (near,) = _images(tmp_path, generator, "near")
    far = write_image(tmp_path / "far.mrc", torch.randn(40, 40, generator=generator), 3.0)
    said: list[str] = []
    results = denoise_files([near, far], denoiser, tmp_path / "out", say=said.append)
    (line,) = said
    assert line.startswith(f"warning: {far}: has 3 Å/px")
    sizes = [io.read_micrograph(path).pixel_size_angstrom for path in results]
    assert sizes == [PIXEL_SIZE, 3.0]


def _read(path: Path) -> torch.Tensor:
    return io.read_micrograph(path).pixels


def test_a_data_set_with_halves(tmp_path: Path, denoiser: Denoiser) -> None:
    dataset = write_dataset(tmp_path / "set", groups=4)
    out = tmp_path / "out"
    files = denoise_dataset(dataset.folder, denoiser, out, Split.TRAIN, halves=True)
    entries = dataset.entries(Split.TRAIN)
    assert files == [out / "denoised" / f"{entry.name}.mrc" for entry in entries]
    members = {"": [0, 1, 2, 3], "_even": [0, 2], "_odd": [1, 3]}
    assert {f.name for f in out.iterdir() if f.is_dir()} == {
        f"{k}{p}" for k in ("raw", "denoised") for p in members
    }
    for entry in entries:
        affine = Affine(entry.mean, entry.std)
        stack = dataset.stack(entry).float()
        for part, groups in members.items():
            raw = affine.invert(stack[groups].mean(0))
            name = f"{entry.name}.mrc"
            torch.testing.assert_close(_read(out / f"raw{part}" / name), raw, rtol=1e-5, atol=1e-4)
            # Halves are normalised as the full dose is, as they were in training.
            denoised = denoiser(raw, affine)
            torch.testing.assert_close(
                _read(out / f"denoised{part}" / name), denoised, rtol=1e-5, atol=1e-4
            )


def test_a_data_set_without_halves_writes_one_pair_a_micrograph(
    tmp_path: Path, denoiser: Denoiser
) -> None:
    dataset = write_dataset(tmp_path / "set", groups=2)
    seen: list[tuple[int, int]] = []
    denoise_dataset(
        dataset.folder,
        denoiser,
        tmp_path / "out",
        Split.VALIDATION,
        progress=lambda done, total: seen.append((done, total)),
    )
    folders = sorted(f.name for f in (tmp_path / "out").iterdir() if f.is_dir())
    assert folders == ["denoised", "raw"]
    assert len(list((tmp_path / "out" / "raw").iterdir())) == 1
    assert seen == [(1, 1)]


def test_of_unequal_halves_the_input_is_denoised(tmp_path: Path, denoiser: Denoiser) -> None:
    dataset = write_dataset(tmp_path / "set", exchangeable=False)
    out = tmp_path / "out"
    denoise_dataset(dataset.folder, denoiser, out, Split.VALIDATION)
    (entry,) = dataset.entries(Split.VALIDATION)
    affine = Affine(entry.mean, entry.std)
    raw = affine.invert(dataset.stack(entry).float()[0])
    torch.testing.assert_close(_read(out / "raw" / f"{entry.name}.mrc"), raw, rtol=1e-5, atol=1e-4)
    denoised = _read(out / "denoised" / f"{entry.name}.mrc")
    torch.testing.assert_close(denoised, denoiser(raw, affine), rtol=1e-5, atol=1e-4)


def test_unequal_halves_cannot_be_denoised_as_halves(tmp_path: Path, denoiser: Denoiser) -> None:
    dataset = write_dataset(tmp_path / "set", exchangeable=False)
    with pytest.raises(DatasetError, match="differ in dose; denoise without --halves"):
        denoise_dataset(dataset.folder, denoiser, tmp_path / "out", Split.TRAIN, halves=True)
    assert not (tmp_path / "out").exists()


def test_an_empty_split_is_refused(tmp_path: Path, denoiser: Denoiser) -> None:
    dataset = write_dataset(tmp_path / "set")
    with pytest.raises(DatasetError, match="has no test micrographs"):
        denoise_dataset(dataset.folder, denoiser, tmp_path / "out", Split.TEST)


def test_one_damaged_stack_fails_alone(tmp_path: Path, denoiser: Denoiser) -> None:
    dataset = write_dataset(tmp_path / "set")
    first, *others = dataset.entries(Split.TRAIN)
    path = dataset.folder / first.file
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BatchError, match="1 of 3 failed") as caught:
        denoise_dataset(dataset.folder, denoiser, tmp_path / "out", Split.TRAIN)
    assert str(path) in caught.value.failures[0]
    written = sorted(p.stem for p in (tmp_path / "out" / "denoised").iterdir())
    assert written == sorted(entry.name for entry in others)


def test_a_missing_pixel_size_stays_missing_unless_it_is_given(
    tmp_path: Path, denoiser: Denoiser, generator: torch.Generator
) -> None:
    (path,) = _images(tmp_path / "in", generator, "mic")
    with mrcfile.open(path, mode="r+") as handle:
        handle.voxel_size = 0.0
    with pytest.warns(PixelSizeFallback):
        (result,) = denoise_files([path], denoiser, tmp_path / "out")
    with mrcfile.open(result) as handle:
        assert float(handle.voxel_size.x) == 0
    (result,) = denoise_files([path], denoiser, tmp_path / "given", 1.5)
    with mrcfile.open(result) as handle:
        assert float(handle.voxel_size.x) == 1.5
