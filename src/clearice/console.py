"""What the terminal shows: progress bars with a time to go, quiet when nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

ProgressCallback = Callable[..., None]


def say(message: str) -> None:
    """Print one line for the user on standard error, where it never mixes with results."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(message)


@contextmanager
def progress_bar(label: str, *, quiet: bool = False) -> Iterator[ProgressCallback]:
    """Show a bar on standard error and yield its update: ``update(done, total, note=None)``.

    Args:
        label: What is being done.
        quiet: Show nothing.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(label, total=None, note="")

        def update(done: int, total: int, note: str | None = None) -> None:
            bar.update(task, completed=done, total=total)
            if note is not None:
                bar.update(task, note=note)

        yield update
