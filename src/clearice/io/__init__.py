"""The only file-format code: everything that knows how a file is laid out stands here."""

from clearice.io.atomic import (
    append_line,
    atomic_path,
    copy_file,
    ensure_folder,
    remove_partials,
    write_json,
    write_text,
)
from clearice.io.atoms import read_atoms
from clearice.io.coordinates import read_coordinates
from clearice.io.cryosparc import read_cs, write_cs
from clearice.io.defects import read_defects
from clearice.io.flat import FlatPairs, open_flat
from clearice.io.formats import (
    MICROGRAPH_SUFFIXES,
    MOVIE_SUFFIXES,
    is_micrograph_name,
    is_movie_name,
    stem,
)
from clearice.io.images import image_shape, open_movie, read_image, read_micrograph
from clearice.io.lists import LIST_SUFFIXES, read_input_list
from clearice.io.mdoc import Mdoc, find_mdoc, read_mdoc
from clearice.io.mrc import read_stack, write_mrc
from clearice.io.png import encode_jpeg, encode_png, write_png
from clearice.io.sections import PixelSizeFallback, same_pixel_size
from clearice.io.stacks import copy_crop
from clearice.io.star import read_star, write_coordinates, write_star
from clearice.io.tiff import write_tiff

__all__ = [
    "LIST_SUFFIXES",
    "MICROGRAPH_SUFFIXES",
    "MOVIE_SUFFIXES",
    "FlatPairs",
    "Mdoc",
    "PixelSizeFallback",
    "append_line",
    "atomic_path",
    "copy_crop",
    "copy_file",
    "encode_jpeg",
    "encode_png",
    "ensure_folder",
    "find_mdoc",
    "image_shape",
    "is_micrograph_name",
    "is_movie_name",
    "open_flat",
    "open_movie",
    "read_atoms",
    "read_coordinates",
    "read_cs",
    "read_defects",
    "read_image",
    "read_input_list",
    "read_mdoc",
    "read_micrograph",
    "read_stack",
    "read_star",
    "remove_partials",
    "same_pixel_size",
    "stem",
    "write_coordinates",
    "write_cs",
    "write_json",
    "write_mrc",
    "write_png",
    "write_star",
    "write_text",
    "write_tiff",
]
