"""The progress bar: how many a second, and nothing where nobody watches."""

from __future__ import annotations

import pytest
from rich.console import Console

from clearice import console
from clearice.console import progress_bar


@pytest.mark.parametrize("unit", [None, "micrographs"])
def test_a_bar_tells_how_many_a_second_if_it_counts_something(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unit: str | None
) -> None:
    def terminal(stderr: bool = False) -> Console:
        return Console(stderr=stderr, force_terminal=True, width=160)

    monkeypatch.setattr(console, "Console", terminal)
    with progress_bar("denoise", unit=unit) as update:
        for done in range(1, 5):
            update(done, 4)
    shown = capsys.readouterr().err
    assert "4/4" in shown
    assert ("micrographs/s" in shown) is (unit is not None)


def test_nothing_is_shown_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("denoise", unit="micrographs") as update:
        update(1, 2)
    assert capsys.readouterr().err == ""
