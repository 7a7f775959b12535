"""The only file-format code: everything that knows how a file is laid out stands here."""

from clearice.io.atomic import (
    atomic_path,
    ensure_folder,
    remove_partials,
    write_json,
    write_text,
)
from clearice.io.atoms import read_atoms
from clearice.io.mrc import (
    PixelSizeFallback,
    image_shape,
    open_movie,
    read_micrograph,
    read_stack,
    same_pixel_size,
    write_mrc,
)
from clearice.io.stacks import copy_crop
from clearice.io.star import write_coordinates

__all__ = [
    "PixelSizeFallback",
    "atomic_path",
    "copy_crop",
    "ensure_folder",
    "image_shape",
    "open_movie",
    "read_atoms",
    "read_micrograph",
    "read_stack",
    "remove_partials",
    "same_pixel_size",
    "write_coordinates",
    "write_json",
    "write_mrc",
    "write_text",
]
