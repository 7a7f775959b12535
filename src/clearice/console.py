"""What the terminal shows: progress bars with a time to go, quiet when nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

ProgressCallback = Callable[..., None]


def say(message: str) -> None:
    """Print one line for the user on standard error, where it never mixes with results."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(message)


class _RateColumn(ProgressColumn):
    """How many a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} {self._unit}/s")


@contextmanager
def progress_bar(
    label: str, *, quiet: bool = False, unit: str | None = None
) -> Iterator[ProgressCallback]:
    """Show a bar on standard error and yield its update: ``update(done, total, note=None)``.

    Args:
        label: What is being done.
        quiet: Show nothing.
        unit: Of what is counted; also show how many of them a second, over the last half minute.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *([] if unit is None else [_RateColumn(unit)]),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(label, total=None, note="")

        def update(done: int, total: int, note: str | None = None) -> None:
            bar.update(task, completed=done, total=total)
            if note is not None:
                bar.update(task, note=note)

        yield update
