"""What a report is about: which file is what, and which of them speak of the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clearice import checkpoint
from clearice.data import MANIFEST_NAME, Dataset, open_dataset
from clearice.errors import CheckpointError, InputFileError
from clearice.evaluate import reading
from clearice.evaluate.documents import (
    CardDocument,
    HallucinationDocument,
    PickingDocument,
    TrustDocument,
)
from clearice.train import CONFIG_NAME, METRICS_NAME

_REMEDY = "give a run's folder, or what 'clearice evaluate', 'trust' or 'hallucinate' wrote"
# What lights are made of.
JUDGED = ("card", "trust", "hallucination", "picking")
# What a folder of results is known by.
_IN_FOLDERS = ("trust.json", "hallucination.json")

Scores = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One thing that the user named.

    Attributes:
        path: The file, or the folder of a run or data set.
        kind: `run`, `dataset`, `scores`, or one of `JUDGED`.
        content: A document, scores by their names, or a data set; None for a run.
        model_sha256: Of the model that it is about; None if nothing says.
    """

    path: Path
    kind: str
    content: Any
    model_sha256: str | None


@dataclass
class Subject:
    """One model, and all that is said of it."""

    name: str
    model_sha256: str | None = None
    sources: list[Source] = field(default_factory=list)

    def of(self, kind: str) -> list[Source]:
        """Return the sources of a kind."""
        return [source for source in self.sources if source.kind == kind]

    @property
    def run(self) -> Path | None:
        """The folder of the training."""
        return next((source.path for source in self.of("run")), None)

    @property
    def dataset(self) -> Dataset | None:
        """The data set that it was trained on."""
        return next((source.content for source in self.of("dataset")), None)

    @property
    def card(self) -> CardDocument | None:
        """The report card."""
        return next((source.content for source in self.of("card")), None)

    @property
    def hallucination(self) -> HallucinationDocument | None:
        """The test for invention."""
        return next((source.content for source in self.of("hallucination")), None)

    @property
    def trust(self) -> list[tuple[Path, TrustDocument]]:
        """Maps of trust, and the folders that they are in."""
        return [(source.path.parent, source.content) for source in self.of("trust")]

    @property
    def picking(self) -> list[PickingDocument]:
        """Scores of picking."""
        return [source.content for source in self.of("picking")]

    @property
    def is_judged(self) -> bool:
        """Whether there is anything that lights are made of."""
        return any(self.of(kind) for kind in JUDGED)


def read_source(path: Path) -> Source:
    """Find out what a path is, and read it.

    Raises:
        InputFileError: It is missing, damaged or of no kind that a report shows.
    """
    if path.is_dir():
        return _folder(path)
    values = reading.read_json(path, _REMEDY)
    kind = reading.kind_of(values)
    if kind in JUDGED:
        document = reading.parse(path, kind, values)
        return Source(path, kind, document, document.model_sha256)
    sets = _score_sets(values)
    for scores in sets.values():
        reading.parse(path, "scores", scores)
    if sets:
        checksums = {scores.get("model_sha256") for scores in sets.values()}
        return Source(path, "scores", sets, checksums.pop() if len(checksums) == 1 else None)
    if kind is not None and kind != "scores":
        raise InputFileError(path, f"is of a kind that no report shows ({kind[:40]!r})", _REMEDY)
    raise InputFileError(path, "holds no scores", _REMEDY)


def _folder(path: Path) -> Source:
    """Read a run, a data set, or the results of `trust` or `hallucinate`."""
    if (path / MANIFEST_NAME).is_file():
        return Source(path, "dataset", open_dataset(path), None)
    if not (path / CONFIG_NAME).is_file():
        for name in _IN_FOLDERS:
            if (path / name).is_file():
                return read_source(path / name)
    if not (path / CONFIG_NAME).is_file() or not (path / METRICS_NAME).is_file():
        raise InputFileError(
            path,
            f"is no training run ({CONFIG_NAME} or {METRICS_NAME} is missing)",
            "check the folder",
        )
    try:
        return Source(path, "run", None, checkpoint.checksum(path))
    except CheckpointError:  # has just begun
        return Source(path, "run", None, None)


# What `evaluate.score` always writes.
_SCORE_TYPES: dict[str, type | tuple[type, ...]] = {
    "micrographs": list,
    "pixel_size_angstrom": (int, float),
    "highpass_angstrom": (int, float),
    "gaussian_sigma_px": (int, float, type(None)),
    "curves": dict,
    "files": list,
}


def _is_scores(values: Any) -> bool:
    return isinstance(values, dict) and all(
        isinstance(values.get(key), kind) for key, kind in _SCORE_TYPES.items()
    )


def _score_sets(values: Any) -> dict[str, Scores]:
    """Return one set of scores, or several under their names, of a file's values."""
    if _is_scores(values):
        return {"": values}
    sets = values if isinstance(values, dict) else {}
    return {name: scores for name, scores in sets.items() if _is_scores(scores)}


def gather(sources: Sequence[Source]) -> list[Subject]:
    """Put together what is about the same model.

    With runs, everything else must be about one of them; without runs but with cards, about the
    model of a card. What does not say which model it is about is taken for that of the only one.

    Raises:
        InputFileError: Something is about another model, says none where there are several, or is
            there twice.
    """
    anchors = [source for kind in ("run", "card") for source in sources if source.kind == kind]
    runs = [source for source in anchors if source.kind == "run"]
    anchors = runs or anchors
    subjects = [
        Subject(name, source.model_sha256, [source])
        for name, source in zip(_names(anchors), anchors, strict=True)
    ]
    loose = Subject("of a model that is not named")
    if not subjects:
        subjects = [Subject("", next((s.model_sha256 for s in sources if s.model_sha256), None))]
    taken = {id(source) for subject in subjects for source in subject.sources}
    for source in sources:
        if id(source) not in taken:
            _attach(source, subjects, loose)
    places = {id(source): place for place, source in enumerate(sources)}
    for subject in subjects:
        subject.sources.sort(key=lambda source: places[id(source)])
    return [*subjects, loose] if loose.sources else subjects


def _names(anchors: Sequence[Source]) -> list[str]:
    """Name models by their runs, or else by where their cards lie."""
    paths = [source.path.resolve() for source in anchors]
    short = [path.parent.name if path.name == "card.json" else path.stem for path in paths]
    return short if len(set(short)) == len(short) else [str(source.path) for source in anchors]


def _attach(source: Source, subjects: list[Subject], loose: Subject) -> None:
    owner = _owner(source, subjects) or loose
    if source.kind in ("card", "hallucination") and owner.of(source.kind):
        raise InputFileError(
            source.path,
            f"is a second {source.kind} file about one model ({owner.of(source.kind)[0].path})",
            "give one of them",
        )
    owner.sources.append(source)
    owner.model_sha256 = owner.model_sha256 or source.model_sha256


def _owner(source: Source, subjects: list[Subject]) -> Subject | None:
    """Return the model that a source is about; None if scores do not say."""
    if source.kind == "dataset":
        return _trained_on(source, subjects)
    known = source.model_sha256
    for subject in subjects:
        if known is not None and (
            known == subject.model_sha256 or (subject.run and _has_model(subject.run, known))
        ):
            return subject
    unsure = [s for s in subjects if known is None or s.model_sha256 is None]
    if known is not None and not unsure:
        names = " and ".join(str(subject.sources[0].path) for subject in subjects)
        told = getattr(source.content, "model", None)
        raise InputFileError(
            source.path,
            f"is about another model{f' ({told})' if told else ''} than {names}",
            "leave it out, or make it again with this model",
        )
    if len(unsure) > 1:
        if source.kind == "scores":
            return None
        raise InputFileError(
            source.path,
            "does not say which model it is about",
            "report one model at a time",
        )
    return unsure[0]


def _has_model(run: Path, checksum: str) -> bool:
    """Return whether one of a run's other checkpoints has this checksum."""
    return any(checkpoint.checksum(path) == checksum for path in sorted(run.rglob("*.safetensors")))


def _trained_on(source: Source, subjects: list[Subject]) -> Subject:
    """Return the model that was trained on a data set."""
    for subject in subjects:
        if subject.run is None:
            continue
        try:
            trained = checkpoint.load_info(subject.run).dataset_sha256
        except CheckpointError:
            continue
        if trained in ("", source.content.checksum()):
            return subject
    if not any(subject.run for subject in subjects):
        raise InputFileError(source.path, "is a data set", "give the folder of a run too")
    raise InputFileError(
        source.path, "is not the data set that the run was trained on", "give that one"
    )
