"""What one can watch while a network trains: pictures, TensorBoard, numbers."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clearice import io
from clearice.cli import _note
from clearice.data import open_dataset
from clearice.errors import ConfigError
from clearice.train import TrainReport, read_metrics, run
from clearice.train.samples import Samples, sample_patches
from clearice.train.state import new_state
from clearice.train.validate import Validation
from clearice.types import PatchBatch
from helpers import CPU, train_config, write_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small data set of eight groups."""
    return write_dataset(tmp_path / "set", groups=8).folder


def _pictures(out: Path) -> list[str]:
    return [path.name for path in sorted((out / "samples").iterdir())]


def test_each_validation_leaves_a_picture(dataset: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "run", train_config(validations=3), CPU)
    assert _pictures(tmp_path / "run") == [f"step-{step:09d}.png" for step in (2, 4, 6)]
    picture = io.read_image(tmp_path / "run" / "samples" / "step-000000006.png")
    # Every other one of four patches of 32 px, three pictures of each, with 4 px between them.
    assert picture.shape == (68, 104)
    assert (picture[32:36] == 255).all()
    assert picture[:32, :32].std() > 20


def test_pictures_can_be_turned_off(dataset: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "run", train_config(samples=0), CPU)
    assert not (tmp_path / "run" / "samples").exists()


def test_pictures_change_nothing_in_the_training(dataset: Path, tmp_path: Path) -> None:
    for name, samples in (("with", 3), ("without", 0)):
        run(dataset, tmp_path / name, train_config(samples=samples), CPU)
    one, other = (read_metrics(tmp_path / n / "metrics.jsonl") for n in ("with", "without"))
    assert [record["loss"] for record in one] == [record["loss"] for record in other]


def test_the_patches_are_held_out_and_always_the_same(dataset: Path) -> None:
    data, config = open_dataset(dataset), train_config(samples=2)
    first, again = sample_patches(data, config), sample_patches(data, config)
    assert first is not None
    assert again is not None
    assert first.input.shape == (2, 1, 32, 32)
    assert torch.equal(first.input, again.input)


def test_columns_are_input_output_and_target(tmp_path: Path, generator: torch.Generator) -> None:
    class Half(torch.nn.Module):
        """Returns half of its input."""

        def __init__(self) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * x

    images = torch.randn(2, 2, 1, 64, 64, generator=generator)
    patches = PatchBatch(images[0], images[1], torch.ones(2))
    samples = Samples(new_state(Half().train(), train_config()), patches, tmp_path / "s", None)
    picture = samples.picture()
    samples.close()
    assert picture.shape == (132, 200)
    assert torch.equal(samples.picture(), picture)
    for row, pair in enumerate(images.unbind(1)):
        cells = picture[row * 68 :][:64].float()
        columns = [cells[:, start : start + 64] for start in (0, 68, 136)]
        for column, image in zip(columns, (pair[0], pair[0], pair[1]), strict=True):
            stack = torch.stack([column.flatten(), image.flatten()])
            assert torch.corrcoef(stack)[0, 1] > 0.8
        # Levels of the output are those of the target behind a low-pass filter: much narrower.
        assert ((columns[1] == 0) | (columns[1] == 255)).float().mean() > 0.3


def test_a_picture_that_cannot_be_written_is_a_warning(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        if ".png" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    said: list[str] = []
    result = run(dataset, tmp_path / "run", train_config(), CPU, say=said.append)
    assert result.steps == 6
    warnings = [line for line in said if "No space left" in line]
    assert len(warnings) == 6
    assert all(line.startswith("warning: ") and ".png" in line for line in warnings)


def test_pictures_after_the_state_that_is_gone_on_from_are_forgotten(
    dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(dataset, out, train_config(keep=6), CPU)
    (out / "samples" / "step-000000099.png").write_bytes(b"of another attempt")
    run(dataset, out, train_config(keep=6), CPU, resume=True)
    assert _pictures(out) == [f"step-{step:09d}.png" for step in range(1, 7)]


def test_without_the_package_the_board_is_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ConfigError, match=r"pip install 'clearice\[tensorboard\]'"):
        run(dataset, tmp_path / "run", train_config(tensorboard=True), CPU)


def test_the_board_has_scalars_and_pictures(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    run(dataset, out, train_config(validations=3, tensorboard=True), CPU)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    records = read_metrics(out / "metrics.jsonl")
    for tag, values in (
        ("loss", [r["loss"] for r in records]),
        ("validation/mse", [r["validation"]["mse"] for r in records]),
    ):
        scalars = events.Scalars(tag)
        assert [s.step for s in scalars] == [2, 4, 6]
        assert [s.value for s in scalars] == pytest.approx(values, rel=1e-6)
    pictures = events.Images("input, output, target")
    assert [(p.step, p.width, p.height) for p in pictures] == [(s, 104, 68) for s in (2, 4, 6)]


def test_the_note_tells_what_one_wants_to_know() -> None:
    scores = Validation(0.5, {}, 0.8125, 3.0)
    report = TrainReport(
        3, 9, 1.0, {"mse": 0.25}, {"mse": 0.25}, None, 1e-3, 251.4, 7.0, scores, 0, 3 * 2**30
    )
    assert _note(report) == (
        "mse 0.25, 251 patches/s, 3.0 GiB, validation mse 0.5, correlation 0.812"
    )
