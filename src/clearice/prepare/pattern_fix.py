"""Correct a whole data set for its fixed pattern, and report what that did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

from jaxtyping import Float
from torch import Tensor

from clearice.prepare.pattern import MINIMUM_MICROGRAPHS, PatternSource, estimate_pattern
from clearice.prepare.shrinkage import Component
from clearice.prepare.spectra import Agreement, half_agreement

# As many micrographs tell how halves agree as well as all do.
_LOOK_AT = 16


@dataclass(frozen=True)
class PatternReport:
    """What was found and removed in the micrographs of one shape.

    Attributes:
        shape: Groups, rows, columns.
        micrographs: How many there are.
        components: The pattern by class; none if there were too few micrographs to tell.
        defects: Hot and dead pixels that were replaced.
        before: How the halves agreed where they should not, over up to 16 micrographs.
        after: The same of the corrected ones; None if nothing was done.
    """

    shape: tuple[int, int, int]
    micrographs: int
    components: tuple[Component, ...]
    defects: int
    before: Agreement
    after: Agreement | None

    def __str__(self) -> str:
        _, height, width = self.shape
        what = f"fixed pattern of {self.micrographs} micrographs of {width}×{height} px"
        if self.after is None:
            return (
                f"{what}: left as it is; at least {MINIMUM_MICROGRAPHS} of one shape are needed to "
                "tell a pattern from noise"
            )
        found = [c for c in self.components if c.rms > 0]
        parts = ", ".join(f"{c.name} {c.rms:.3f} σ ({c.removed:.0%} removed)" for c in found)
        first, last = self.before.near_nyquist, self.after.near_nyquist
        return (
            f"{what}: {parts or 'none found'}; {self.defects} defective pixels replaced; "
            f"correlation of the halves near Nyquist {first.value:.4f} before, {last.value:.4f} "
            f"after (± {last.error:.4f})"
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers."""

        def agreement(of: Agreement) -> dict[str, dict[str, float]]:
            kinds = {"near_nyquist": of.near_nyquist, "rows": of.rows, "columns": of.columns}
            return {name: {"correlation": e.value, "error": e.error} for name, e in kinds.items()}

        return {
            "shape": list(self.shape),
            "micrographs": self.micrographs,
            "components": [asdict(component) for component in self.components],
            "defects": self.defects,
            "before": agreement(self.before),
            "after": None if self.after is None else agreement(self.after),
        }


def fix_pattern(
    sources: Sequence[PatternSource],
    write: Callable[[int, Float[Tensor, "k h w"]], None],
    *,
    input_target: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[PatternReport]:
    """Correct all micrographs, those of each shape by one another.

    Args:
        sources: Micrographs in the order of recording; each is read twice.
        write: Called with the place among the sources and the corrected groups, float32; may
            replace what the source reads.
        input_target: Group 0 is always the input and group 1, of higher dose, the target.
        progress: Called with (micrographs done, micrographs in all).

    Returns:
        One report for each shape.
    """
    shapes = dict.fromkeys(source.shape for source in sources)
    reports, done = [], 0
    for shape in shapes:
        places = [i for i, source in enumerate(sources) if source.shape == shape]

        def put(
            index: int, clean: Tensor, places: Sequence[int] = places, before: int = done
        ) -> None:
            write(places[index], clean)
            progress(before + index + 1, len(sources))

        reports.append(_fix_shape([sources[place] for place in places], put, input_target))
        done += len(places)
    return reports


def _fix_shape(
    sources: Sequence[PatternSource],
    write: Callable[[int, Float[Tensor, "k h w"]], None],
    input_target: bool,
) -> PatternReport:
    step = -(-len(sources) // _LOOK_AT)
    shape, count = sources[0].shape, len(sources)
    if count < MINIMUM_MICROGRAPHS:
        before = [half_agreement(source.read(), source.weights) for source in sources]
        return PatternReport(shape, count, (), 0, reduce(add, before), None)
    pattern = estimate_pattern(sources, input_target=input_target)
    before, after = [], []
    for index, source in enumerate(sources):
        stack = source.read()
        clean = pattern.corrected(index, stack)
        if index % step == 0:
            before.append(half_agreement(stack, source.weights))
            after.append(half_agreement(clean, source.weights))
        write(index, clean)
    return PatternReport(
        shape,
        count,
        pattern.components,
        len(pattern.defects.bad),
        reduce(add, before),
        reduce(add, after),
    )
