"""A data set on disk: what is written is read back, and what is damaged is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mrcfile
import pytest
import torch

from clearice.data import Affine, DatasetWriter, Split, open_dataset
from clearice.errors import DatasetError, OutputError
from clearice.types import HalfSet
from helpers import PIXEL_SIZE, noisy_groups, prepare_config, smooth_image, write_dataset
from tolerances import ABSOLUTE, RELATIVE


def _write_one(folder: Path, raw: torch.Tensor, truth: torch.Tensor | None = None) -> Affine:
    affine = Affine.of(raw.mean(0))
    writer = DatasetWriter(folder)
    half_set = HalfSet("mic", raw, (0.5, 0.3, 0.2), PIXEL_SIZE, (Path("raw/mic.mrc"),))
    writer.add(half_set, affine.apply(raw), affine, truth)
    writer.finish(
        prepare_config(dose_e_per_A2=53.0),
        PIXEL_SIZE,
        input_target=False,
        dose_ratio=1.0,
        target_gain=1.0,
    )
    return affine


def _flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 0x40
    path.write_bytes(bytes(content))


def test_round_trip(tmp_path: Path, generator: torch.Generator) -> None:
    raw = noisy_groups(smooth_image(generator, 48), 3, 0.7, generator)[:, :, :40]
    truth = smooth_image(generator, 48)[:, :40]
    affine = _write_one(tmp_path / "set", raw, truth)
    dataset = open_dataset(tmp_path / "set")
    manifest, (entry,) = dataset.manifest, dataset.manifest.micrographs
    assert (manifest.pixel_size_angstrom, manifest.dose_e_per_A2) == (PIXEL_SIZE, 53.0)
    assert (manifest.roles, manifest.dose_ratio, manifest.target_gain) == ("exchangeable", 1, 1)
    assert (entry.name, entry.shape, entry.split) == ("mic", (3, 48, 40), Split.TRAIN)
    assert (entry.mean, entry.std) == (affine.mean, affine.std)
    assert (entry.weights, entry.sources) == ((0.5, 0.3, 0.2), ("mic.mrc",))
    rtol, atol = RELATIVE[torch.float16], ABSOLUTE[torch.float16]
    for mapped in (False, True):
        stack = dataset.stack(entry, mapped=mapped)
        assert stack.dtype == torch.float16
        torch.testing.assert_close(stack.float(), affine.apply(raw), rtol=rtol, atol=atol)
        image = dataset.truth(entry, mapped=mapped)
        torch.testing.assert_close(image.float(), truth[None], rtol=rtol, atol=atol)
    assert dataset.verify() == []


def test_any_program_can_open_the_stacks(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", micrographs=1, groups=3)
    file = tmp_path / "set" / dataset.manifest.micrographs[0].file
    assert mrcfile.validate(file)
    with mrcfile.open(file) as handle:
        assert handle.is_image_stack()
        assert float(handle.voxel_size.x) == pytest.approx(PIXEL_SIZE, rel=1e-6)
        assert float(handle.header.rms) == pytest.approx(float(handle.data.astype("f8").std()))


def test_values_beyond_float16_are_clipped_and_stay_finite(tmp_path: Path) -> None:
    raw = torch.zeros(3, 16, 16)
    writer = DatasetWriter(tmp_path)
    normalised = raw.clone()
    normalised[0, 0, 0], normalised[1, 0, 0] = 1e6, -1e6
    half_set = HalfSet("mic", raw, (0.4, 0.3, 0.3), PIXEL_SIZE, ())
    writer.add(half_set, normalised, Affine(0.0, 1.0))
    writer.finish(prepare_config(), PIXEL_SIZE, input_target=False, dose_ratio=1.0, target_gain=1.0)
    dataset = open_dataset(tmp_path)
    stack = dataset.stack(dataset.manifest.micrographs[0])
    assert float(stack.max()) == 65504
    assert float(stack.min()) == -65504


def test_entries_of_a_split(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, micrographs=4, size=16)
    names = {s: {e.name for e in dataset.entries(s)} for s in Split}
    assert [len(names[s]) for s in (Split.TRAIN, Split.VALIDATION, Split.TEST)] == [3, 1, 0]
    assert not names[Split.TRAIN] & names[Split.VALIDATION]


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no data set .*clearice prepare"):
        open_dataset(tmp_path)


def test_a_preparation_that_did_not_finish_is_refused(tmp_path: Path) -> None:
    DatasetWriter(tmp_path)
    with pytest.raises(DatasetError, match="no data set"):
        open_dataset(tmp_path)


def test_a_data_set_is_never_overwritten(tmp_path: Path) -> None:
    write_dataset(tmp_path, micrographs=1, size=16)
    before = (tmp_path / "dataset.json").read_bytes()
    with pytest.raises(OutputError, match="already holds a data set"):
        DatasetWriter(tmp_path)
    assert (tmp_path / "dataset.json").read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"version": 1', '"version": 99'),
        lambda text: text.replace('"roles"', '"parts"'),
    ],
    ids=["cut", "newer version", "unknown key"],
)
def test_a_manifest_that_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, damage: Callable[[str], str]
) -> None:
    write_dataset(tmp_path, micrographs=1, size=16)
    path = tmp_path / "dataset.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DatasetError, match=r"dataset\.json: cannot be read") as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_stack_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, micrographs=2, size=16)
    (tmp_path / "stacks" / "mic1.mrc").unlink()
    with pytest.raises(DatasetError, match=r"misses stacks/mic1\.mrc"):
        open_dataset(tmp_path)


def test_a_missing_truth_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, micrographs=2, size=16, truth=True)
    (tmp_path / "truth" / "mic1.mrc").unlink()
    with pytest.raises(DatasetError, match=r"misses truth/mic1\.mrc"):
        open_dataset(tmp_path)


def test_verify_finds_a_corrupted_stack(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, micrographs=3, size=16)
    _flip_byte(tmp_path / "stacks" / "mic1.mrc")
    assert dataset.verify() == ["stacks/mic1.mrc"]


def test_verify_finds_a_corrupted_truth(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, micrographs=2, size=16, truth=True)
    _flip_byte(tmp_path / "truth" / "mic0.mrc")
    assert dataset.verify() == ["truth/mic0.mrc"]


def test_asking_for_a_truth_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, micrographs=1, size=16)
    with pytest.raises(DatasetError, match=r"no truth for 'mic0'; prepare it with --truth"):
        dataset.truth(dataset.manifest.micrographs[0])


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    write_dataset(tmp_path, micrographs=1, size=16, exchangeable=False, target_gain=0.25)
    manifest = json.loads((tmp_path / "dataset.json").read_text())
    assert manifest["format"] == "clearice-dataset"
    assert (manifest["roles"], manifest["target_gain"]) == ("input-target", 0.25)
    assert manifest["dose_ratio"] == 49
