"""What became of each micrograph of a watched folder, and the page that shows it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final
from urllib.parse import quote

import jinja2

from clearice import __version__, io
from clearice.denoise import Record, preview_of, read_records
from clearice.errors import InputFileError
from clearice.workflows.watch.arrivals import Stamp

PAGE_NAME = "index.html"
_RECORDS_NAME = "denoise.json"
# Pictures on the page: browsers load them as they come into view, but the page itself must stay
# quick to write and to reload.
_MOST_SHOWN = 400
_REFRESH_S = 10

State = Literal["watching", "stopped"]


@dataclass(frozen=True)
class Card:
    """One micrograph as the page shows it.

    Attributes:
        place: Below the watched folder.
        arrived: When it was last written, local time.
        seconds: That denoising took.
        size: Columns and rows, px, if it was denoised.
        picture: Link to its picture, if there is one.
        error: Why it failed.
    """

    place: str
    arrived: str
    seconds: float
    size: str = ""
    picture: str = ""
    error: str = ""

    @property
    def folder(self) -> str:
        """Where it lies below the watched folder; nothing if directly in it."""
        return self.place.rpartition("/")[0]

    @property
    def name(self) -> str:
        """Of the file."""
        return self.place.rpartition("/")[2]


@final
class Board:
    """The records of all micrographs of a watched folder, in the folders of results below `out`.

    Args:
        folder: What is watched.
        out: Folder for the results and the page.
        about: What denoises, in a few words.

    Raises:
        InputFileError: Records of an earlier run are damaged.
    """

    def __init__(self, folder: Path, out: Path, about: str) -> None:
        self._out = out
        self._about = about
        self._top = folder.absolute()
        # By the file of the result: two sources must not share one.
        self.records: dict[Path, Record] = {}
        self._sizes: dict[Path, str] = {}
        for file in sorted(out.rglob(_RECORDS_NAME)):
            self.update(file.parent)

    def update(self, results: Path) -> dict[Path, Record]:
        """Read the records of one folder of results, and return those that are new."""
        news = {}
        for output, record in read_records(results).items():
            target = results / output
            ours = Path(record.input).is_relative_to(self._top)
            if ours and record != self.records.get(target):
                news[target] = record
                self._sizes.pop(target, None)
        self.records |= news
        return news

    def forget_failures(self, results: Path) -> None:
        """Let what failed in one folder of results count as new when it is read again."""
        for target in [t for t, record in self.records.items() if record.status == "failed"]:
            if target.parent == results:
                del self.records[target]

    def known(self) -> dict[Path, Stamp]:
        """Return which files were denoised, and what they were like."""
        return {
            Path(record.input): Stamp(record.input_bytes, record.input_mtime_ns)
            for record in self.records.values()
            if record.status != "failed"
        }

    def place_of(self, record: Record) -> str:
        """Return the place of a micrograph below the watched folder."""
        return Path(record.input).relative_to(self._top).as_posix()

    def write(self, state: State, arriving: int) -> None:
        """Write the page, atomically.

        Args:
            state: Whether anything will still change.
            arriving: How many files are not whole yet.

        Raises:
            OutputError: It cannot be written.
        """
        newest = sorted(self.records.items(), key=_arrival, reverse=True)
        failed = [item for item in newest if item[1].status == "failed"]
        done = [item for item in newest if item[1].status != "failed"]
        page = _template().render(
            version=__version__,
            folder=str(self._top),
            about=self._about,
            state=state,
            updated=time.time(),
            updated_text=_local(time.time()),
            refresh=_REFRESH_S,
            done=len(done),
            failed=len(failed),
            arriving=arriving,
            older=len(done) - len(done[:_MOST_SHOWN]),
            failures=self._cards(failed[:_MOST_SHOWN]),
            cards=self._cards(done[:_MOST_SHOWN]),
        )
        io.write_text(self._out / PAGE_NAME, page)

    def _cards(self, items: Iterable[tuple[Path, Record]]) -> list[Card]:
        return [self._card(target, record) for target, record in items]

    def _card(self, target: Path, record: Record) -> Card:
        place, arrived = self.place_of(record), _local(record.input_mtime_ns / 1e9)
        if record.status == "failed":
            return Card(place, arrived, record.seconds, error=record.error or "")
        if target not in self._sizes:
            self._sizes[target] = _size_of(target)
        results = self._results_of(target, record)
        picture = preview_of(target, results).relative_to(self._out).as_posix()
        return Card(place, arrived, record.seconds, self._sizes[target], quote(picture))

    def _results_of(self, target: Path, record: Record) -> Path:
        """Return the folder that holds the records of a result."""
        return target.parents[len(Path(record.output).parts) - 1]


def _arrival(item: tuple[Path, Record]) -> tuple[int, str]:
    return item[1].input_mtime_ns, item[1].input


def _size_of(image: Path) -> str:
    try:
        _, rows, columns = io.image_shape(image)
    except (InputFileError, OSError):  # somebody has moved it away
        return ""
    return f"{columns} × {rows} px"


def _local(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("clearice.workflows", "watch")
    return jinja2.Environment(loader=loader, autoescape=True).get_template("page.html.jinja")
