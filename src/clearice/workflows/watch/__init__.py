"""Watch: denoise what arrives in a folder, and show it on a page."""

from clearice.workflows.watch.page import PAGE_NAME
from clearice.workflows.watch.run import WatchPlan, watch

__all__ = ["PAGE_NAME", "WatchPlan", "watch"]
