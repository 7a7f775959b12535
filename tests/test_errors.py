"""Errors: one line, the file, the way out, and the exit code a script relies on."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearice import errors


def test_an_input_error_names_file_problem_and_remedy_in_one_line() -> None:
    error = errors.InputFileError(Path("a/b.mrc"), "is empty", "copy it again")
    assert str(error) == "a/b.mrc: is empty; copy it again"
    assert error.path == Path("a/b.mrc")


def test_an_unknown_name_gets_the_nearest_one_and_the_sorted_list() -> None:
    error = errors.UnknownNameError("network", "unett", ["unet", "cnn3"])
    assert str(error) == "unknown network 'unett' (did you mean 'unet'?); known: cnn3, unet"


def test_nothing_is_suggested_for_a_name_that_is_near_to_none() -> None:
    assert errors.did_you_mean("zzz", ["unet", "cnn3"]) == ""
    assert errors.did_you_mean("unet", []) == ""


def test_a_batch_error_tells_every_failure_and_the_total() -> None:
    error = errors.BatchError(["a.mrc: is empty", "b.mrc: is constant"], 5)
    assert str(error).startswith("2 of 5 failed")
    assert "a.mrc: is empty" in str(error)
    assert "b.mrc: is constant" in str(error)
    assert error.failures == ("a.mrc: is empty", "b.mrc: is constant")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UserError, 2),
        (errors.InputFileError, 2),
        (errors.ConfigError, 2),
        (errors.UnknownNameError, 2),
        (errors.OutputError, 2),
        (errors.DatasetError, 2),
        (errors.CheckpointError, 2),
        (errors.PairingError, 2),
        (errors.BatchError, 2),
        (errors.TrainingDivergedError, 1),
        (errors.TrainingInterruptedError, 130),
    ],
)
def test_every_error_is_caught_as_one_and_has_its_exit_code(
    kind: type[errors.ClearIceError], code: int
) -> None:
    assert issubclass(kind, errors.ClearIceError)
    assert kind.exit_code == code
