"""Write a data set: one stack a micrograph, then `dataset.json`, which makes it whole."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import __version__, io
from clearice.config import PrepareConfig
from clearice.data.manifest import MANIFEST_NAME, Manifest, MicrographEntry, Split
from clearice.data.normalise import Affine
from clearice.errors import OutputError
from clearice.seeds import derive_seed
from clearice.types import HalfSet

_FLOAT16_LIMIT = 65504.0


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def assign_splits(names: list[str], config: PrepareConfig) -> dict[str, Split]:
    """Assign whole micrographs to train, validation and test.

    A fraction above 0 gets at least one micrograph as long as one is left to train on.

    Args:
        names: The micrographs.
        config: Fractions and seed.
    """
    order = sorted(names)
    random.Random(derive_seed(config.seed, "split")).shuffle(order)
    spare = len(order) - 1

    def share(fraction: float) -> int:
        return 0 if fraction == 0 else max(1, round(fraction * len(order)))

    n_validation = min(spare, share(config.validation_fraction))
    n_test = min(spare - n_validation, share(config.test_fraction))
    kinds = [Split.VALIDATION] * n_validation + [Split.TEST] * n_test
    kinds += [Split.TRAIN] * (len(order) - len(kinds))
    return dict(zip(order, kinds, strict=True))


class DatasetWriter:
    """Writes stacks one by one; the data set exists once `finish` has written its manifest.

    Args:
        out: Folder, created if missing.

    Raises:
        OutputError: The folder holds a data set already, or cannot be written.
    """

    def __init__(self, out: Path) -> None:
        if (out / MANIFEST_NAME).exists():
            raise OutputError(
                f"{out}: already holds a data set; choose another --out, or delete it"
            )
        self._out = io.ensure_folder(out)
        io.remove_partials(io.ensure_folder(out / "stacks"))
        self._entries: list[MicrographEntry] = []

    def add(
        self,
        half_set: HalfSet,
        normalised: Float[Tensor, "k h w"],
        affine: Affine,
        truth: Float[Tensor, "h w"] | None = None,
    ) -> None:
        """Write one micrograph.

        Args:
            half_set: Where the groups come from.
            normalised: Its groups after `affine`.
            affine: The normalisation that was applied.
            truth: The noise-free image after the same normalisation, if known.
        """
        file = f"stacks/{half_set.name}.mrc"
        self._write(file, normalised, half_set.pixel_size_angstrom)
        truth_file = None
        if truth is not None:
            truth_file = f"truth/{half_set.name}.mrc"
            io.ensure_folder(self._out / "truth")
            self._write(truth_file, truth[None], half_set.pixel_size_angstrom)
        groups, height, width = normalised.shape
        self._entries.append(
            MicrographEntry(
                name=half_set.name,
                file=file,
                truth=truth_file,
                shape=(groups, height, width),
                split=Split.TRAIN,
                mean=affine.mean,
                std=affine.std,
                weights=half_set.weights,
                sources=tuple(source.name for source in half_set.sources),
                sha256=file_sha256(self._out / file),
                truth_sha256=None if truth_file is None else file_sha256(self._out / truth_file),
            )
        )

    def _write(self, file: str, stack: Float[Tensor, "k h w"], pixel_size: float) -> None:
        clipped = stack.clamp(-_FLOAT16_LIMIT, _FLOAT16_LIMIT).to(torch.float16)
        io.write_mrc(self._out / file, clipped, pixel_size, dtype="float16")

    def finish(
        self,
        config: PrepareConfig,
        pixel_size_angstrom: float,
        *,
        input_target: bool,
        dose_ratio: float,
        target_gain: float,
    ) -> Manifest:
        """Assign the splits and write `dataset.json`.

        Args:
            config: Fractions, seed and dose.
            pixel_size_angstrom: Of all micrographs, Å/px.
            input_target: Whether group 0 is always the input and group 1 always the target.
            dose_ratio: Dose of the target over that of the input.
            target_gain: Signal scale of the normalised input over that of the target.
        """
        splits = assign_splits([entry.name for entry in self._entries], config)
        manifest = Manifest(
            clearice_version=__version__,
            pixel_size_angstrom=pixel_size_angstrom,
            dose_e_per_A2=config.dose_e_per_A2,
            roles="input-target" if input_target else "exchangeable",
            dose_ratio=dose_ratio,
            target_gain=target_gain,
            micrographs=tuple(
                entry.model_copy(update={"split": splits[entry.name]}) for entry in self._entries
            ),
        )
        io.write_json(self._out / MANIFEST_NAME, manifest.model_dump(mode="json"))
        return manifest
