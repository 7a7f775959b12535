"""What is compared: anything that turns the micrographs of a set into denoised ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from clearice import io
from clearice.benchmark.quality.sets import QualitySet, Sample
from clearice.denoise import Denoiser
from clearice.errors import ConfigError, InputFileError
from clearice.evaluate.classic import CLASSIC

Field = Float[Tensor, "h w"]
Images = Iterator[Field]
Method = Callable[[QualitySet, Sequence[Sample]], Images]

_SET: Final = "{set}"
TAKEN: Final = ("raw", "gaussian", "wiener", *CLASSIC)


@dataclass(frozen=True)
class Named:
    """A method and what it is called.

    Attributes:
        name: Heading of its column.
        path: A run, model file, or folder of denoised files; `{set}` in it stands for the set.
    """

    name: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> Named:
        """Read `NAME=PATH`, or `PATH`, whose last part is then the name."""
        name, equals, path = text.partition("=")
        return cls(name, Path(path)) if equals else cls(Path(text).stem or text, Path(text))

    def of(self, kind: QualitySet) -> Path:
        """Return the path for one set."""
        return Path(str(self.path).replace(_SET, kind.name))


def _classic(denoise: Callable[[Field], Field]) -> Method:
    return lambda _, of: (denoise(sample.raw) for sample in of)


def model_method(model: Named, device: torch.device) -> Method:
    """Return what a model makes of the whole dose."""

    def denoised(kind: QualitySet, of: Sequence[Sample]) -> Images:
        denoiser = Denoiser(model.of(kind), device)
        return (denoiser(sample.raw) for sample in of)

    return denoised


def folder_method(folder: Named) -> Method:
    """Return what another program wrote, as `SAMPLE.mrc` in a folder."""

    def denoised(kind: QualitySet, of: Sequence[Sample]) -> Images:
        return map(partial(_read, folder.of(kind)), of)

    return denoised


def _read(folder: Path, sample: Sample) -> Field:
    path = folder / f"{sample.name}.mrc"
    pixels = io.read_micrograph(path, sample.pixel_size_angstrom).pixels
    if pixels.shape != sample.raw.shape:
        shapes = [" × ".join(map(str, shape)) for shape in (pixels.shape, sample.raw.shape)]
        raise InputFileError(
            path, f"is {shapes[0]} px, the micrograph {shapes[1]}", "denoise what --write wrote"
        )
    return pixels


def check_paths(kinds: Sequence[QualitySet], named: Sequence[str]) -> None:
    """See that every model and folder is there, before minutes are spent on the first sets.

    Raises:
        ConfigError: One is missing.
    """
    for method in map(Named.parse, named):
        for kind in kinds:
            if not method.of(kind).exists():
                raise ConfigError(
                    f"{method.name}: {method.of(kind)} does not exist, which is to be scored on "
                    f"the set {kind.name}; check the path, or choose other --sets"
                )


def gather(
    models: Sequence[str], folders: Sequence[str], device: torch.device, *, classic: bool
) -> dict[str, Method]:
    """Return all methods by name, beside the radial filters that are always there.

    Raises:
        ConfigError: Two have the same name.
    """
    methods = {name: _classic(denoise) for name, denoise in CLASSIC.items()} if classic else {}
    found = [(model, model_method(model, device)) for model in map(Named.parse, models)]
    found += [(folder, folder_method(folder)) for folder in map(Named.parse, folders)]
    for named, method in found:
        if named.name in methods or named.name in TAKEN:
            raise ConfigError(
                f"two methods are called {named.name}; give another name, as in NAME=PATH"
            )
        methods[named.name] = method
    return methods
