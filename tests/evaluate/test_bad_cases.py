"""What cannot be compared is refused in one line that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clearice.errors import InputFileError, PairingError
from clearice.evaluate import Case, match_cases, score
from helpers import write_image


def _case(folder: Path, generator: torch.Generator) -> Case:
    images = 5 + torch.randn(3, 40, 40, generator=generator)
    return Case(
        *(
            write_image(folder / f"{name}.mrc", image)
            for name, image in zip(("denoised", "raw", "reference"), images, strict=True)
        )
    )


def _nan(path: Path) -> None:
    image = torch.randn(40, 40)
    image[3, 4] = torch.nan
    write_image(path, image)


_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "shape": (lambda path: write_image(path, torch.randn(40, 44)), "40 × 44 px"),
    "pixel size": (lambda path: write_image(path, torch.randn(40, 40), 3.0), "pixel size"),
    "NaN": (_nan, "1 NaN or infinite"),
    "constant": (lambda path: write_image(path, torch.ones(40, 40)), "constant"),
    "missing": (lambda path: path.unlink(), "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "truncated"),
}


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
@pytest.mark.parametrize("role", ["raw", "reference"])
@pytest.mark.parametrize("fault", _FAULTS)
def test_a_file_that_cannot_be_compared(
    tmp_path: Path, generator: torch.Generator, role: str, fault: str
) -> None:
    case = _case(tmp_path, generator)
    path = tmp_path / f"{role}.mrc"
    spoil, reason = _FAULTS[fault]
    spoil(path)
    with pytest.raises(InputFileError) as caught:
        score([case])
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_partners_are_listed(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / "denoised" / f"{name}.mrc", torch.randn(16, 16))
    write_image(tmp_path / "raw" / "b.mrc", torch.randn(16, 16))
    write_image(tmp_path / "truth" / "a.mrc", torch.randn(16, 16))
    with pytest.raises(PairingError) as caught:
        match_cases(tmp_path / "denoised", tmp_path / "raw", truth=tmp_path / "truth")
    message = str(caught.value)
    for missing in ("raw/a.mrc", "raw/c.mrc", "truth/b.mrc", "truth/c.mrc"):
        assert missing in message
    assert "raw/b.mrc" not in message
    assert "truth/a.mrc" not in message
    assert "\n" not in message


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    write_image(tmp_path / "raw" / "b.mrc", torch.randn(16, 16))
    with pytest.raises(InputFileError, match=r"nothing: holds no \.mrc files"):
        match_cases(tmp_path / "nothing", tmp_path / "raw")
