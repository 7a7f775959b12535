"""How good methods are on fixed simulated sets with truth."""

from clearice.benchmark.quality.methods import check_paths, gather
from clearice.benchmark.quality.run import (
    caveats,
    run,
    tables,
    write_all_training,
    write_samples,
    write_training,
)
from clearice.benchmark.quality.sets import (
    SETS,
    VERSION,
    QualitySet,
    Sample,
    choose_sets,
    missing_sets,
    samples,
)

__all__ = [
    "SETS",
    "VERSION",
    "QualitySet",
    "Sample",
    "caveats",
    "check_paths",
    "choose_sets",
    "gather",
    "missing_sets",
    "run",
    "samples",
    "tables",
    "write_all_training",
    "write_samples",
    "write_training",
]
