"""The page itself: for the server, or with everything inside for a few micrographs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jinja2

from clearice import __version__, io
from clearice.errors import OutputError
from clearice.view.collection import Collection
from clearice.view.images import LOWPASSES, TILE_PX, Look, level_count, tile
from clearice.view.store import Store

_HERE = Path(__file__).parent
_SCRIPTS = ("state.js", "stage.js", "spectrum.js", "controls.js")
# Edge of the finest picture that a page holds, and most bytes of a page.
_PAGE_PX = 2048
_MOST_BYTES = 64 << 20
_LOOK = Look()


def page(collection: Collection, *, nonce: str = "", inside: dict[str, Any] | None = None) -> str:
    """Return the HTML page.

    Args:
        collection: What can be looked at.
        nonce: What its scripts and styles are known by to the browser.
        inside: What the page would ask the server for, by its address; None: it asks.
    """
    data = {
        "labels": collection.labels,
        "names": collection.names,
        "tile": TILE_PX,
        "lowpasses": LOWPASSES if inside is None else [0],
        "inside": inside,
    }
    loader = jinja2.FileSystemLoader(_HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html.jinja").render(
        version=__version__,
        nonce=nonce,
        style=_part("view.css"),
        script="\n".join(_part(name) for name in _SCRIPTS),
        # Whatever files are called, nothing in them ends the script.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )


def write_page(store: Store, out: Path) -> Path:
    """Write one page that needs neither server nor network.

    It holds pictures of at most 2048 px and power spectra; it has no low-pass and no values.

    Args:
        store: What is shown.
        out: HTML file.

    Raises:
        InputFileError: A micrograph cannot be read.
        OutputError: It is not named as a page, would exceed 64 MiB, or cannot be written.
    """
    if out.suffix.lower() not in {".html", ".htm"}:
        raise OutputError(f"{out}: is no name of a page; give one that ends in .html")
    collection = store.collection
    inside: dict[str, Any] = {}
    size = 0
    for number, name in enumerate(collection.names):
        for key, value in _inside(store, number).items():
            inside[key] = value
            size += len(value) if isinstance(value, str) else 0
        if size > _MOST_BYTES:
            raise OutputError(
                f"{out}: would exceed {_MOST_BYTES >> 20} MiB with {name}, micrograph {number + 1} "
                f"of {len(collection.names)}; give fewer, or leave --out away to be served them"
            )
    io.write_text(out, page(collection, inside=inside))
    return out


def _inside(store: Store, number: int) -> dict[str, Any]:
    """Return all that a page needs of one micrograph."""
    found: dict[str, Any] = {}
    for version in range(len(store.collection.labels)):
        shape = store.micrograph(number, version).pixels.shape
        for level in range(level_count(*shape)):
            if max(shape) > _PAGE_PX << level:
                continue
            picture = store.picture(number, version, _LOOK, level)
            for row in range(-(-picture.shape[0] // TILE_PX)):
                for column in range(-(-picture.shape[1] // TILE_PX)):
                    key = f"tile/{number}/{version}/1-0/{level}/{row}_{column}.png"
                    found[key] = _uri("jpeg", io.encode_jpeg(tile(picture, row, column)))
        content, profile = store.spectrum(number, version)
        found[f"spectrum/{number}/{version}.png"] = _uri("png", content)
        found[f"spectrum/{number}/{version}.json"] = profile
    infos = store.info(number)
    for info in infos:
        info["file"] = Path(info["file"]).name  # a page that is passed on tells no folders
        finest = max(info["width"], info["height"])
        info["first_level"] = next(k for k in range(info["levels"]) if finest <= _PAGE_PX << k)
    found[f"info/{number}.json"] = infos
    return found


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _part(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
