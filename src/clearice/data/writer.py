"""Write a data set: one stack a micrograph, then `dataset.json`, which makes it whole."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import __version__, io
from clearice.config import PrepareConfig
from clearice.data.manifest import MANIFEST_NAME, Manifest, MicrographEntry, Split
from clearice.data.normalise import Affine
from clearice.errors import InputFileError, OutputError
from clearice.seeds import derive_seed
from clearice.types import HalfSet

JOURNAL_NAME = "prepared.jsonl"
CORRECTED_FOLDER = "corrected"
_FOLDERS = ("stacks", "truth", CORRECTED_FOLDER)
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

    What is written is noted in a journal, so that a preparation that was stopped goes on where it
    was. Threads may add micrographs at the same time.

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
        self._lock = threading.Lock()
        self._journal = out / JOURNAL_NAME
        if not self._journal.exists():
            _refuse_what_is_not_ours(out)
        for folder in (out, *(out / name for name in _FOLDERS)):
            if folder.is_dir():
                io.remove_partials(folder)
        io.ensure_folder(out / "stacks")
        self._written = _read_journal(self._journal)
        # Without a line that a kill cut short; and there from the start, as a sign of its owner.
        lines = (_journal_line(*written) for written in self._written.values())
        io.write_text(self._journal, "".join(f"{line}\n" for line in lines))
        self._entries: list[MicrographEntry] = []

    def reuse(self, name: str, key: str) -> MicrographEntry | None:
        """Take over a micrograph that an earlier, stopped preparation wrote, if there is one.

        Args:
            name: Of the micrograph.
            key: What it was made from and how; compared with that of `add`.
        """
        known = self._written.get(name)
        if known is None or known[0] != key:
            return None
        entry = known[1]
        if not self._is_whole(entry):
            return None
        with self._lock:
            self._entries.append(entry)
        return entry

    def _is_whole(self, entry: MicrographEntry) -> bool:
        try:
            shape = io.image_shape(self._out / entry.file)
            if entry.truth is not None:
                io.image_shape(self._out / entry.truth)
        except InputFileError:
            return False
        return shape == entry.shape

    def add(
        self,
        half_set: HalfSet,
        normalised: Float[Tensor, "k h w"],
        affine: Affine,
        truth: Float[Tensor, "h w"] | None = None,
        *,
        key: str = "",
        shifts_px: Sequence[tuple[float, float]] | None = None,
        hot_pixels: int | None = 0,
        motion: str | None = None,
        dose_e_per_A2: float | None = None,
        checks: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one micrograph.

        Args:
            half_set: Where the groups come from.
            normalised: Its groups after `affine`.
            affine: The normalisation that was applied.
            truth: The noise-free image after the same normalisation, if known.
            key: What it was made from and how; empty if it should not be taken over later.
            shifts_px: (rows, columns) by which the content of each frame had moved.
            hot_pixels: How many were replaced; None if that could not be told.
            motion: What was found of it, in words.
            dose_e_per_A2: Total dose, e/Å², if known.
            checks: What was measured on it.
        """
        file = f"stacks/{half_set.name}.mrc"
        sha256 = self._write(file, normalised, half_set.pixel_size_angstrom)
        truth_file = truth_sha256 = None
        if truth is not None:
            truth_file = f"truth/{half_set.name}.mrc"
            io.ensure_folder(self._out / "truth")
            truth_sha256 = self._write(truth_file, truth[None], half_set.pixel_size_angstrom)
        groups, height, width = normalised.shape
        entry = MicrographEntry(
            name=half_set.name,
            file=file,
            truth=truth_file,
            shape=(groups, height, width),
            split=Split.TRAIN,
            mean=affine.mean,
            std=affine.std,
            weights=half_set.weights,
            sources=tuple(source.name for source in half_set.sources),
            sha256=sha256,
            truth_sha256=truth_sha256,
            pixel_size_angstrom=half_set.pixel_size_angstrom,
            shifts_px=None if shifts_px is None else tuple(shifts_px),
            hot_pixels=hot_pixels,
            motion=motion,
            dose_e_per_A2=dose_e_per_A2,
            checks=None if checks is None else dict(checks),
        )
        with self._lock:
            self._entries.append(entry)
            if key:
                io.append_line(self._journal, _journal_line(key, entry))

    @property
    def entries(self) -> list[MicrographEntry]:
        """What was added so far, by name; splits are assigned by `finish`."""
        return sorted(self._entries, key=lambda entry: entry.name)

    def stack(self, entry: MicrographEntry) -> Float[Tensor, "k h w"]:
        """Return the groups that were written, mapped from disk."""
        return io.read_stack(self._out / entry.file, mapped=True)

    def drop(self, name: str) -> None:
        """Leave a micrograph out after all."""
        self._entries = [entry for entry in self._entries if entry.name != name]

    def rewrite(
        self,
        entry: MicrographEntry,
        normalised: Float[Tensor, "k h w"],
        pixel_size_angstrom: float,
        checks: Mapping[str, Any] | None = None,
    ) -> None:
        """Put other pixels in a micrograph's place, in a file of their own until `finish`.

        So a preparation that is stopped meanwhile finds its stacks as the journal says.

        Args:
            entry: One of `entries`.
            normalised: Groups of the same shape.
            pixel_size_angstrom: Å/px.
            checks: What was measured on them.
        """
        file = f"{CORRECTED_FOLDER}/{entry.name}.mrc"
        io.ensure_folder(self._out / CORRECTED_FOLDER)
        update = {
            "file": file,
            "sha256": self._write(file, normalised, pixel_size_angstrom),
            "checks": entry.checks if checks is None else dict(checks),
        }
        index = self._entries.index(entry)
        self._entries[index] = entry.model_copy(update=update)

    def _write(self, file: str, stack: Float[Tensor, "k h w"], pixel_size: float) -> str:
        clipped = stack.clamp(-_FLOAT16_LIMIT, _FLOAT16_LIMIT).to(torch.float16)
        io.write_mrc(self._out / file, clipped, pixel_size, dtype="float16")
        return file_sha256(self._out / file)

    def finish(
        self,
        config: PrepareConfig,
        pixel_size_angstrom: float,
        *,
        input_target: bool,
        dose_ratio: float,
        target_gain: float,
        dose_e_per_A2: float | None = None,
        splits: Mapping[str, Split] | None = None,
        checks: Sequence[Mapping[str, Any]] = (),
        fixed_pattern: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Assign the splits and write `dataset.json`.

        Args:
            config: Fractions, seed and dose.
            pixel_size_angstrom: Of all micrographs, Å/px.
            input_target: Whether group 0 is always the input and group 1 always the target; of
                stacks of one image there is nothing to tell.
            dose_ratio: Dose of the target over that of the input.
            target_gain: Signal scale of the normalised input over that of the target.
            dose_e_per_A2: Total dose where the configuration names none, e/Å².
            splits: What each micrograph is for; None: by the fractions.
            checks: Results over all micrographs.
            fixed_pattern: What was found and removed.
        """
        entries = self.entries
        if splits is None:
            splits = assign_splits([entry.name for entry in entries], config)
        manifest = Manifest(
            clearice_version=__version__,
            pixel_size_angstrom=pixel_size_angstrom,
            dose_e_per_A2=config.dose_e_per_A2 or dose_e_per_A2,
            roles=_roles(entries, input_target=input_target),
            dose_ratio=dose_ratio,
            target_gain=target_gain,
            micrographs=tuple(
                entry.model_copy(update={"split": splits[entry.name]}) for entry in entries
            ),
            prepared=config.model_dump(mode="json"),
            checks=tuple(dict(check) for check in checks),
            fixed_pattern=None if fixed_pattern is None else dict(fixed_pattern),
        )
        io.write_json(self._out / MANIFEST_NAME, manifest.model_dump(mode="json"))
        self._remove_what_is_not_in({file for e in entries for file in (e.file, e.truth) if file})
        return manifest

    def _remove_what_is_not_in(self, files: set[str]) -> None:
        """Delete the journal and the stacks that no entry names."""
        self._journal.unlink(missing_ok=True)
        for folder in _FOLDERS:
            for path in (self._out / folder).glob("*.mrc"):
                if f"{folder}/{path.name}" not in files:
                    path.unlink()
            with suppress(OSError):
                (self._out / folder).rmdir()  # if nothing is left in it


def _roles(
    entries: Sequence[MicrographEntry], *, input_target: bool
) -> Literal["exchangeable", "input-target", "single"]:
    # One micrograph without halves is enough: what needs them must not find out amid its work.
    if any(entry.shape[0] == 1 for entry in entries):
        return "single"
    return "input-target" if input_target else "exchangeable"


def _refuse_what_is_not_ours(out: Path) -> None:
    """Refuse to write among files of another program, or of the user.

    Raises:
        OutputError: A folder that the data set would use has something in it.
    """
    for name in _FOLDERS:
        folder = out / name
        if folder.is_dir() and any(folder.iterdir()):
            raise OutputError(
                f"{folder}: holds other files, which would be overwritten; choose another --out"
            )


def _journal_line(key: str, entry: MicrographEntry) -> str:
    return json.dumps({"key": key, "entry": entry.model_dump(mode="json")})


def _read_journal(path: Path) -> dict[str, tuple[str, MicrographEntry]]:
    """Return the micrographs that are noted; a last line that a kill cut short is left out."""
    written: dict[str, tuple[str, MicrographEntry]] = {}
    if not path.is_file():
        return written
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            entry = MicrographEntry.model_validate(record["entry"])
        except (ValueError, KeyError, TypeError):
            continue
        written[entry.name] = (record["key"], entry)
    return written
