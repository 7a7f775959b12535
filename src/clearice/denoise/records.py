"""What was done to each micrograph: for the user to read, and for the next run to go on from."""

from __future__ import annotations

import csv
import hashlib
import io as text_io
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, final

from clearice import __version__, checkpoint, io
from clearice.denoise.network import Recipe
from clearice.errors import InputFileError

JSON_NAME = "denoise.json"
CSV_NAME = "denoise.csv"
_SECONDS_BETWEEN_WRITES = 1.0
# Of a long list, writing takes longer: at most about a tenth of the time goes into it.
_WRITE_SHARE = 0.1
_COLUMNS = (
    *("input", "output", "status", "error", "seconds", "pixel_size_angstrom"),
    "out_of_depth",
)


@dataclass(frozen=True)
class Record:
    """What became of one micrograph.

    Attributes:
        input: Absolute path.
        output: Path below the folder of results, with `/`.
        status: `skipped` is done, by an earlier run.
        error: Why it failed.
        seconds: From the start of reading to the end of writing, waiting for its turn included.
        pixel_size_angstrom: Å/px, if it is known.
        input_bytes: Size of the input; of two halves, of both.
        input_mtime_ns: When the input was last changed; of two halves, added up.
        output_bytes: Size of all that was written of it but pictures.
        out_of_depth: How far it is outside of what a general model has seen, in widths of the usual
            range: 0 inside.
        made_with: Checksum of everything else that decides the result.
    """

    input: str
    output: str
    status: Literal["done", "skipped", "failed"]
    error: str | None = None
    seconds: float = 0.0
    pixel_size_angstrom: float | None = None
    input_bytes: int = 0
    input_mtime_ns: int = 0
    output_bytes: int = 0
    out_of_depth: float | None = None
    made_with: str = ""


def describe_run(recipe: Recipe) -> dict[str, Any]:
    """Return what of a denoiser decides the numbers of a run; its tiles do not.

    Args:
        recipe: What the denoiser is made from.

    Raises:
        CheckpointError: There is no model.
    """
    return {
        "model": str(checkpoint.resolve(recipe.model)),
        "model_sha256": checkpoint.checksum(recipe.model),
        "precision": recipe.precision,
        "restore_amplitude": recipe.restore_amplitude,
        "tta": recipe.tta,
    }


def checksum_of(settings: Mapping[str, Any]) -> str:
    """Return a checksum of settings and of this version; where a model lies does not count."""
    counted = {key: value for key, value in settings.items() if key != "model"}
    text = json.dumps([__version__, counted], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@final
class Ledger:
    """The records of a folder of results, on disk at most a second behind.

    Args:
        out: The folder.
        settings: Of this run, for the summary.
        outputs: Of this run; the summary keeps their order, in whatever order they are done.

    Raises:
        InputFileError: The records of earlier runs are damaged.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], outputs: Sequence[str]) -> None:
        self._out = out
        self._settings = dict(settings)
        self._outputs = tuple(outputs)
        self._records = _read(out / JSON_NAME)
        self._counts: Counter[str] = Counter()
        self._began = self._due = time.monotonic()

    def earlier(self, output: str, files: Sequence[Path]) -> Record | None:
        """Return the record of a result, if there is one and all its files are as written."""
        record = self._records.get(output)
        if record is None or record.status == "failed":
            return None
        try:
            whole = sum(path.stat().st_size for path in files) == record.output_bytes
        except OSError:
            return None
        return record if whole else None

    def add(self, record: Record) -> None:
        """Take a record of this run; what is said of its output so far is replaced."""
        self._records[record.output] = record
        self._counts[record.status] += 1
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write the JSON summary, atomically."""
        start = time.monotonic()
        counts = {status: self._counts[status] for status in ("done", "skipped", "failed")}
        totals = {
            "micrographs": len(self._outputs),
            **counts,
            "seconds": round(start - self._began, 3),
        }
        about = {"clearice_version": __version__, "settings": self._settings, "totals": totals}
        rows = [asdict(record) for record in self._in_order()]
        io.write_json(self._out / JSON_NAME, {**about, "micrographs": rows})
        now = time.monotonic()
        self._due = now + max(_SECONDS_BETWEEN_WRITES, (now - start) / _WRITE_SHARE)

    def _in_order(self) -> list[Record]:
        """Return those of other runs first, then those of this one, as they were given."""
        mine = set(self._outputs)
        others = [record for name, record in self._records.items() if name not in mine]
        return others + [self._records[name] for name in self._outputs if name in self._records]

    def write_csv(self) -> None:
        """Write the records as a table, atomically."""
        text = text_io.StringIO()
        table = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(record) for record in self._in_order())
        # A path need not be text: bytes that are none are spelt out.
        spelt = text.getvalue().encode("utf-8", "backslashreplace").decode()
        io.write_text(self._out / CSV_NAME, spelt)


def read_records(out: Path) -> dict[str, Record]:
    """Return the records of a folder of results, keyed by output; none if there are no records.

    Raises:
        InputFileError: They are damaged.
    """
    return _read(out / JSON_NAME)


def _read(path: Path) -> dict[str, Record]:
    if not path.exists():
        return {}
    known = {field.name for field in fields(Record)}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["micrographs"]
        records = [Record(**{k: v for k, v in row.items() if k in known}) for row in rows]
        return {record.output: record for record in records}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputFileError(
            path, f"is damaged ({reason})", "delete it: then all micrographs are denoised anew"
        ) from None
