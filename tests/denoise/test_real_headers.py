"""Real microscope files keep their headers when they are denoised, but for what must change."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from clearice.denoise import Denoiser, denoise_files
from helpers import CPU, write_model

# Type and statistics of the pixels, our label, the version of the format that is written.
_NEW = {"mode", "dmin", "dmax", "dmean", "rms", "nlabl", "label", "nversion", "cella"}


@pytest.mark.parametrize("name", ["fei1_crop.mrc", "fei2_crop.mrc"])
def test_real_headers_survive(tmp_path: Path, test_data: Path, name: str) -> None:
    source = test_data / "headers" / name
    denoiser = Denoiser(write_model(tmp_path / "model.safetensors"), CPU)
    (result,) = denoise_files([source], denoiser, tmp_path / "out")
    with (
        mrcfile.open(source, header_only=True, permissive=True) as before,
        mrcfile.open(result) as after,
    ):
        fields = set(before.header.dtype.names)
        assert fields > _NEW
        for field in fields - _NEW:
            assert before.header[field].tobytes() == after.header[field].tobytes(), field
        assert before.extended_header.tobytes() == after.extended_header.tobytes()
        # Written as pixels times pixel size: equal but for rounding. Theirs has no z.
        for axis in "xy":
            old, new = (float(file.header.cella[axis]) for file in (before, after))
            assert new == pytest.approx(old, rel=1e-6)
        old_labels, new_labels = before.get_labels(), after.get_labels()
        assert new_labels == [*old_labels, "clearice: denoised (cnn3)"]
        assert float(after.header.dmean) == pytest.approx(after.data.mean(dtype=np.float64))
        assert int(after.header.mode) == 2
