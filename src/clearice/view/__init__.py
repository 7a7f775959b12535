"""A page to look at micrographs, served to this machine's browser or written as one file."""

from clearice.view.page import write_page
from clearice.view.server import Viewer, serve
from clearice.view.store import Store, open_store

__all__ = ["Store", "Viewer", "open_store", "serve", "write_page"]
