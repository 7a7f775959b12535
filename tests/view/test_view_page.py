"""The page in a real Chromium: keys, mouse, fingers, both ways of opening it, no errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from chromium import find_chromium, open_page
from clearice.view import Viewer, open_store, write_page
from helpers import smooth_image, write_image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium"),
]

_DRAWN = "infos.length && waiting === 0 && !drawing && panes.length"
# Mean of a piece of the canvas in front of all filters.
_GREY = (
    "(([x, y]) => {{ const c = panes[{pane}].canvas, d = c.getContext('2d')"
    ".getImageData(x, y, 8, 8).data; return d.reduce((s, v, k) => k % 4 ? s : s + v, 0) / 64; }})"
    "([{x}, {y}])"
)


@pytest.fixture
def folders(tmp_path: Path, generator: torch.Generator) -> list[Path]:
    for name in ("mic_a", "mic_b", "mic_c"):
        image = smooth_image(generator, 700, 4.0)
        write_image(tmp_path / "raw" / f"{name}.mrc", image)
        write_image(tmp_path / "denoised" / f"{name}.mrc", -image)
    return [tmp_path / "raw", tmp_path / "denoised"]


@pytest.fixture
def address(folders: list[Path]) -> Iterator[str]:
    viewer = Viewer(open_store(folders))
    thread = threading.Thread(target=viewer.serve_forever, args=(0.05,))
    thread.start()
    yield viewer.address
    viewer.shutdown()
    thread.join()
    viewer.server_close()


def test_keys_and_mouse_do_what_the_help_says(address: str, tmp_path: Path) -> None:
    with open_page(address, tmp_path / "profile") as page:
        page.wait("typeof infos !== 'undefined' && " + _DRAWN)
        assert page.run("state.mode") == "slider"
        # The versions are each other's negative, at every place and in both halves.
        left, right = (page.run(_GREY.format(pane=0, x=x, y=300)) for x in (480, 560))
        page.press(" ")
        page.wait(_DRAWN)
        assert page.run("[state.a, state.b].join()") == "1,0"
        assert page.run(_GREY.format(pane=0, x=480, y=300)) == pytest.approx(255 - left, abs=2)
        assert page.run(_GREY.format(pane=0, x=560, y=300)) == pytest.approx(255 - right, abs=2)

        for key, wanted in (
            ("ArrowRight", "mic_b"),
            ("ArrowRight", "mic_c"),
            ("ArrowLeft", "mic_b"),
        ):
            page.press(key)
            page.wait(f"document.getElementById('name').textContent === '{wanted}'")
        page.wait("location.hash.includes('m=2')")

        page.press("s")
        assert page.run("state.mode + document.getElementById('bar').hidden") == "onetrue"
        page.press("d")
        page.wait("panes.length === 2 && " + _DRAWN)
        both = [page.run(_GREY.format(pane=pane, x=200, y=300)) for pane in (0, 1)]
        assert sum(both) == pytest.approx(255, abs=2)
        page.press("f")
        page.wait("document.querySelectorAll('#profile path.c1').length === 1")
        page.wait("[...document.querySelectorAll('#rings img')].every((i) => i.naturalWidth)")
        page.press("?")
        assert page.run("document.getElementById('help').open") is True
        page.press("?")
        assert page.run("document.getElementById('help').open") is False
        assert page.troubles() == []


def test_zoom_keeps_the_place_and_the_bar_is_dragged(address: str, tmp_path: Path) -> None:
    with open_page(address, tmp_path / "profile") as page:
        page.wait("typeof infos !== 'undefined' && " + _DRAWN)
        box = page.run("JSON.stringify(stage.getBoundingClientRect())")
        area = json.loads(box)
        x, y = area["left"] + area["width"] / 2 + 90, area["top"] + area["height"] / 2 - 40
        page.mouse("mouseMoved", x, y)
        page.wait("document.getElementById('cursor').textContent.includes('denoised')")
        before = page.run("document.getElementById('cursor').textContent")
        for _ in range(4):
            page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-200)
        page.mouse("mouseMoved", x, y)
        page.wait(_DRAWN + " && state.zoom > 2")
        page.wait("document.getElementById('cursor').textContent.includes('denoised')")
        assert page.run("document.getElementById('cursor').textContent") == before

        old = page.run("state.x")
        page.drag((x, y), (x + 50, y))
        assert page.run("state.x") == pytest.approx(old - 50 / page.run("state.zoom"), abs=1e-6)
        middle = area["left"] + area["width"] / 2
        page.drag((middle, y), (middle - area["width"] / 4, y))
        assert page.run("state.cut") == pytest.approx(25, abs=1)
        page.press("ArrowRight")  # of the bar, which has the focus
        assert page.run("state.cut") == pytest.approx(27, abs=1)
        assert page.run("shown") == 0
        assert page.troubles() == []


def test_two_fingers_zoom(address: str, tmp_path: Path) -> None:
    with open_page(address, tmp_path / "profile", (390, 800)) as page:
        page.wait("typeof infos !== 'undefined' && " + _DRAWN)
        assert page.run("document.documentElement.scrollWidth") <= 390
        before = page.run("fitZoom()")
        page.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)

        def touch(kind: str, *xs: float) -> None:
            points = [{"x": x, "y": 450, "id": k} for k, x in enumerate(xs)]
            page.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

        touch("touchStart", 100, 150)
        touch("touchMove", 75, 175)
        touch("touchMove", 50, 150)
        touch("touchEnd")
        assert page.run("state.zoom") == pytest.approx(2 * before, rel=0.01)
        assert page.troubles() == []


def test_a_page_with_everything_inside_needs_no_server(folders: list[Path], tmp_path: Path) -> None:
    out = write_page(open_store([path / "mic_b.mrc" for path in folders]), tmp_path / "page.html")
    address = f"{out.as_uri()}#mode=side&fft=1&theme=dark"
    with open_page(address, tmp_path / "profile") as page:
        page.wait("typeof infos !== 'undefined' && " + _DRAWN)
        page.wait("document.querySelectorAll('#profile path.c1').length === 1")
        both = [page.run(_GREY.format(pane=pane, x=200, y=300)) for pane in (0, 1)]
        assert sum(both) == pytest.approx(255, abs=3)
        assert page.run("performance.getEntriesByType('resource').length") == 0
        assert page.troubles() == []
