"""One tree of errors that a user can act on.

Each message says what is wrong, in which file, and the way out. Only `clearice.cli` catches
`ClearIceError`; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class ClearIceWarning(UserWarning):
    """Something the user should know, but that does not stop the work."""


class ClearIceError(Exception):
    """Base of every error that a user can act on."""

    exit_code = 1


class UserError(ClearIceError):
    """The request or its input cannot be used as it stands."""

    exit_code = 2


class InputFileError(UserError):
    """A file cannot be used.

    Args:
        path: The file.
        problem: What is wrong with it, without a full stop.
        remedy: What the user can do, as an imperative clause.
    """

    def __init__(self, path: Path | str, problem: str, remedy: str) -> None:
        self.path = Path(path)
        super().__init__(f"{path}: {problem}; {remedy}")


class ConfigError(UserError):
    """A configuration file or option has a value that cannot be used."""


class UnknownNameError(UserError):
    """A name that is in no registry.

    Args:
        kind: What the name should have been, for instance ``network``.
        name: The name that was given.
        known: The names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(
            f"unknown {kind} '{name}'{did_you_mean(name, names)}; known: {', '.join(names)}"
        )


class OutputError(UserError):
    """A result cannot be written where it was asked for."""


class DatasetError(UserError):
    """A data-set folder is missing something or does not fit the request."""


class CheckpointError(UserError):
    """A model file is missing, damaged or does not fit the request."""


class PairingError(UserError):
    """Half-sets that do not belong together."""


class BatchError(ClearIceError):
    """Some items of a batch failed; the others were done.

    Args:
        failures: One message for each item that failed.
        total: How many items the batch had.
    """

    exit_code = 2

    def __init__(self, failures: Sequence[str], total: int) -> None:
        self.failures = tuple(failures)
        self.total = total
        done = "; the others were done" if len(failures) < total else ""
        super().__init__(f"{len(failures)} of {total} failed{done}:\n  " + "\n  ".join(failures))


class TrainingDivergedError(ClearIceError):
    """The loss became NaN or infinite."""


class TrainingInterruptedError(ClearIceError):
    """Training was stopped by a signal, after its state was saved."""

    exit_code = 130


class JobAbortedError(ClearIceError):
    """A job was aborted by the program that started it, or by a signal."""

    exit_code = 130


class RankLostError(ClearIceError):
    """Another process of the same training is gone, or was never there."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
