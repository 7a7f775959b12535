"""The data set on disk and on its way into training: writer, reader, sampler, caches."""

from clearice.data.caches import CacheChoice
from clearice.data.loader import PatchLoader, default_workers
from clearice.data.manifest import MANIFEST_NAME, Manifest, MicrographEntry, Split
from clearice.data.normalise import Affine, DeviceAffine, dose_weighted_mean
from clearice.data.reader import Dataset, open_dataset
from clearice.data.sampler import GridSampler, PatchPlan, Sampler, patches_of
from clearice.data.writer import DatasetWriter, assign_splits

__all__ = [
    "MANIFEST_NAME",
    "Affine",
    "CacheChoice",
    "Dataset",
    "DatasetWriter",
    "DeviceAffine",
    "GridSampler",
    "Manifest",
    "MicrographEntry",
    "PatchLoader",
    "PatchPlan",
    "Sampler",
    "Split",
    "assign_splits",
    "default_workers",
    "dose_weighted_mean",
    "open_dataset",
    "patches_of",
]
