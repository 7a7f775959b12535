"""Reading back what evaluations left behind: of a known kind and whole, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from clearice.errors import InputFileError
from clearice.evaluate.documents import (
    CardDocument,
    Document,
    HallucinationDocument,
    PickingDocument,
    ScoresDocument,
    TrustDocument,
)

RECORDS_NAME: Final = "denoise.json"
KINDS: Final[dict[str, type[Document]]] = {
    "card": CardDocument,
    "trust": TrustDocument,
    "hallucination": HallucinationDocument,
    "picking": PickingDocument,
    "scores": ScoresDocument,
}
COMMANDS: Final = {
    "card": "clearice evaluate card",
    "trust": "clearice trust",
    "hallucination": "clearice hallucinate",
    "picking": "clearice evaluate picking",
    "scores": "clearice evaluate",
}
# Files of the first versions do not say their kind.
_SIGNS: Final = {
    "trust": {"window_fwhm_angstrom", "method"},
    "hallucination": {"passed", "from_nothing"},
    "picking": {"methods", "denoised_minus"},
}
AnyDocument = TypeVar("AnyDocument", bound=Document)


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        remedy: What to give in its place, for the message.

    Raises:
        InputFileError: It is missing, unreadable or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputFileError(path, "does not exist", remedy) from None
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror})", remedy) from None
    except (ValueError, RecursionError):
        raise InputFileError(path, "is not valid JSON", remedy) from None


def kind_of(values: Any) -> str | None:
    """Return what kind of file values are from: what they say, or else what they hold."""
    if not isinstance(values, dict):
        return None
    kind = values.get("kind")
    if isinstance(kind, str):
        return kind
    return next((name for name, signs in _SIGNS.items() if signs <= values.keys()), None)


def parse(path: Path, kind: str, values: Any) -> Document:
    """Check the values of a file.

    Args:
        path: The file, for messages.
        kind: A key of `KINDS`.
        values: What the file holds.

    Raises:
        InputFileError: Something is missing or of another type.
    """
    try:
        return KINDS[kind].model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        where = ".".join(map(str, first["loc"])) or "values"
        raise InputFileError(
            path,
            f"is no whole {kind} file of this version ({where}: {message})",
            f"make it again with '{COMMANDS[kind]}'",
        ) from None


def read_document(path: Path, wanted: type[AnyDocument]) -> AnyDocument:
    """Read a file that must be of one kind.

    Raises:
        InputFileError: It is missing, damaged or of another kind.
    """
    kind = next(name for name, document in KINDS.items() if document is wanted)
    remedy = f"give what '{COMMANDS[kind]}' wrote"
    values = read_json(path, remedy)
    if kind_of(values) != kind:
        raise InputFileError(path, f"is no {kind} file", remedy)
    document = parse(path, kind, values)
    assert isinstance(document, wanted)
    return document


def made_by(folder: Path) -> dict[str, str | None]:
    """Return `model` and `model_sha256` of results, as the records beside them say.

    Args:
        folder: That `clearice denoise` wrote, or one of the parts (`denoised_even` ...) in it.

    Raises:
        InputFileError: The records are damaged.
    """
    path = folder / RECORDS_NAME
    if not path.is_file() and folder.name.startswith("denoised"):
        path = folder.parent / RECORDS_NAME
    if not path.is_file():
        return {"model": None, "model_sha256": None}
    remedy = "delete it, or denoise again"
    values = read_json(path, remedy)
    settings = values.get("settings") if isinstance(values, dict) else None
    if not isinstance(settings, dict):
        raise InputFileError(path, "is damaged", remedy)
    return {name: settings.get(name) for name in ("model", "model_sha256")}
