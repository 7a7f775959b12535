"""The progress of a run for TensorBoard, which is an extra package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from jaxtyping import UInt8
from torch import Tensor

from clearice.errors import ConfigError
from clearice.train.loop import TrainReport


@final
class Board:
    """Writes scalars and pictures as TensorBoard reads them.

    Args:
        folder: Of the event files.
        step: What an earlier attempt wrote of later steps is not shown.

    Raises:
        ConfigError: The package is missing.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise ConfigError(
                "the setting tensorboard needs the package of this name: "
                "pip install 'clearice[tensorboard]'"
            ) from None
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, report: TrainReport) -> None:
        """Write the numbers of a report."""
        for name, value in _numbers(report).items():
            self._writer.add_scalar(name, value, report.step)

    def picture(self, step: int, image: UInt8[Tensor, "rows columns"]) -> None:
        """Write a grey picture."""
        flipped = image.flip(0)  # rows count upwards in micrographs
        self._writer.add_image("input, output, target", flipped, step, dataformats="HW")

    def close(self) -> None:
        """Write what is waiting."""
        self._writer.close()


def _numbers(report: TrainReport) -> dict[str, float]:
    """Return what there is to plot, by its name."""
    numbers: dict[str, float | None] = {
        "loss": report.loss,
        **{f"parts/{name}": value for name, value in report.parts.items()},
        "learning rate": report.learning_rate,
        "patches per second": report.patches_per_second,
        "skipped steps": report.skipped,
        "device memory, GiB": (report.device_memory_bytes or 0) / 2**30 or None,
    }
    if report.validation is not None:
        numbers |= {
            "validation/mse": report.validation.mse,
            "validation/correlation": report.validation.correlation,
            "validation/snr_db": report.validation.snr_db,
        }
    return {name: value for name, value in numbers.items() if value is not None}
