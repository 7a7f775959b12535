"""The model card: what a user of a model must know, in Markdown, from the report's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from clearice import __version__, io
from clearice.checkpoint import BEST_NAME, load_model
from clearice.config import read_settings
from clearice.errors import CheckpointError, ConfigError
from clearice.evaluate.documents import Document
from clearice.export.card import describe
from clearice.report.sources import Source, Subject
from clearice.report.verdict import judge
from clearice.train import CONFIG_NAME, METRICS_NAME, read_metrics


def describe_subject(subject: Subject, licence: str) -> dict[str, Any]:
    """Return all that is known of a model, as JSON values.

    Args:
        subject: The model and its sources.
        licence: Of the model.
    """
    model, problem = None, None
    try:
        model = _model(subject, licence)
    except CheckpointError as error:  # its numbers can be shown all the same
        problem = str(error)
    return {
        "name": subject.name,
        "model_sha256": subject.model_sha256,
        "verdict": judge(subject).as_json() if subject.is_judged else None,
        "model": model,
        "problem": problem,
        "training": _training(subject),
        "data": _data(subject),
        "sources": [
            {"path": str(source.path), "kind": source.kind, "values": _values(source)}
            for source in subject.sources
        ],
    }


def _model(subject: Subject, licence: str) -> dict[str, Any] | None:
    if subject.run is None:
        return None
    if not (subject.run / BEST_NAME).is_file():  # has just begun
        return None
    network, info = load_model(subject.run)
    return describe(network, info, licence, "weights")


def _training(subject: Subject) -> dict[str, Any] | None:
    """Return the recipe of a run and how far it got."""
    if subject.run is None:
        return None
    records = read_metrics(subject.run / METRICS_NAME)
    last = records[-1] if records else None
    return {"config": read_settings(subject.run / CONFIG_NAME, {}), "last": last}


def _data(subject: Subject) -> dict[str, Any] | None:
    """Return what a data set holds."""
    if subject.dataset is None:
        return None
    manifest = subject.dataset.manifest
    entries = manifest.micrographs
    return {
        "micrographs": {
            split: sum(entry.split.value == split for entry in entries)
            for split in ("train", "validation", "test")
        },
        "groups": sorted({entry.shape[0] for entry in entries}),
        "sizes_px": sorted({entry.shape[1:] for entry in entries}),
        "pixel_size_angstrom": manifest.pixel_size_angstrom,
        "dose_e_per_A2": manifest.dose_e_per_A2,
        "roles": manifest.roles,
        "fixed_pattern_removed": manifest.fixed_pattern is not None,
        "prepared_by": f"clearice {manifest.clearice_version}",
    }


def _values(source: Source) -> Any:
    if isinstance(source.content, Document):
        return source.content.model_dump(mode="json", exclude_unset=True)
    return source.content if source.kind == "scores" else None


def write_model_card(models: Sequence[dict[str, Any]], out: Path) -> None:
    """Write a model card.

    Args:
        models: From `describe_subject`.
        out: Markdown file.

    Raises:
        ConfigError: There is not one model, or its run is missing.
        CheckpointError: The model cannot be loaded.
        OutputError: The file cannot be written.
    """
    if len(models) != 1:
        raise ConfigError(f"a model card is about one model, and these are {len(models)}")
    if models[0]["problem"] is not None:
        raise CheckpointError(models[0]["problem"])
    if models[0]["model"] is None:
        raise ConfigError(
            f"a model card needs the model: give the folder of its run, with {BEST_NAME}"
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clearice", "report"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    io.ensure_folder(out.parent)
    values = {kind: _find(models[0], kind) for kind in ("card", "hallucination", "trust")}
    page = environment.get_template("model_card.md.jinja").render(
        version=__version__,
        definitions=_definitions(models[0]["verdict"]),
        picking=_all(models[0], "picking"),
        **models[0],
        **values,
    )
    io.write_text(out, page)


def _cell(text: str) -> str:
    """Return text that does not end a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _definitions(verdict: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return what the lines of the verdict mean, each once."""
    lights = verdict["lights"] if verdict else []
    texts = {one["title"]: one["definition"].replace("*", "\\*") for one in lights}
    return [(title, text) for title, text in texts.items() if text]


def _all(model: dict[str, Any], kind: str) -> list[Any]:
    return [source["values"] for source in model["sources"] if source["kind"] == kind]


def _find(model: dict[str, Any], kind: str) -> Any:
    return next(iter(_all(model, kind)), None)
