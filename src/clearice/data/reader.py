"""Read a data set: the manifest at once, the stacks when they are asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from clearice import io
from clearice.data.manifest import MANIFEST_NAME, Manifest, MicrographEntry, Split
from clearice.data.writer import file_sha256
from clearice.errors import DatasetError


@dataclass(frozen=True)
class Dataset:
    """A data-set folder.

    Attributes:
        folder: Where it is.
        manifest: What it holds.
    """

    folder: Path
    manifest: Manifest

    def entries(self, split: Split) -> list[MicrographEntry]:
        """Return the micrographs of one split."""
        return [entry for entry in self.manifest.micrographs if entry.split is split]

    def stack(self, entry: MicrographEntry, *, mapped: bool = False) -> Float[Tensor, "k h w"]:
        """Return the normalised group means, float16; `mapped` leaves them on disk.

        Raises:
            InputFileError: The stack is missing or damaged.
        """
        return io.read_stack(self.folder / entry.file, mapped=mapped)

    def truth(self, entry: MicrographEntry, *, mapped: bool = False) -> Float[Tensor, "1 h w"]:
        """Return the normalised noise-free image, float16.

        Raises:
            DatasetError: The data set was prepared without truth.
        """
        if entry.truth is None:
            raise DatasetError(
                f"{self.folder}: has no truth for '{entry.name}'; prepare it with --truth, or "
                "train on noisy targets"
            )
        return io.read_stack(self.folder / entry.truth, mapped=mapped)

    def checksum(self) -> str:
        """Return the SHA-256 of the manifest, which holds those of all stacks."""
        return file_sha256(self.folder / MANIFEST_NAME)

    def verify(self) -> list[str]:
        """Return the files whose checksum differs from the manifest's."""
        files = [(entry.file, entry.sha256) for entry in self.manifest.micrographs]
        files += [
            (entry.truth, entry.truth_sha256)
            for entry in self.manifest.micrographs
            if entry.truth and entry.truth_sha256
        ]
        return [file for file, sha in files if file_sha256(self.folder / file) != sha]


def open_dataset(folder: Path) -> Dataset:
    """Open a data set.

    Raises:
        DatasetError: No manifest (not a data set, or its preparation did not finish), a manifest
            that cannot be read, or stacks that are missing.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise DatasetError(
            f"{folder}: is no data set (no {MANIFEST_NAME}); make one with 'clearice prepare'"
        )
    try:
        manifest = Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(f"{path}: cannot be read ({reason}); prepare the data again") from None
    files = [file for e in manifest.micrographs for file in (e.file, e.truth) if file]
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise DatasetError(f"{folder}: misses {', '.join(missing[:5])}; prepare the data again")
    return Dataset(folder, manifest)
