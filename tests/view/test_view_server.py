"""The server gives out its own files' pictures, to this machine's browser, and nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch

from clearice import io
from clearice.errors import OutputError
from clearice.view import Viewer, open_store, server
from clearice.view.images import Look, picture
from clearice.view.store import Recent
from helpers import smooth_image, write_image


def write_folders(parent: Path) -> list[Path]:
    generator = torch.Generator().manual_seed(4)
    for name in ("mic_a", "mic_b"):
        image = smooth_image(generator, 600)
        write_image(parent / "raw" / f"{name}.mrc", image[:, :530])
        write_image(parent / "denoised" / f"{name}.mrc", -image[:, :530])
    return [parent / "raw", parent / "denoised"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_folders(tmp_path_factory.mktemp("view"))


@pytest.fixture(scope="module")
def viewer(folders: list[Path]) -> Iterator[Viewer]:
    with serving(folders) as viewer:
        yield viewer


@contextmanager
def serving(folders: list[Path]) -> Iterator[Viewer]:
    viewer = Viewer(open_store(folders))
    thread = threading.Thread(target=viewer.serve_forever, args=(0.02,))
    thread.start()
    yield viewer
    viewer.shutdown()
    thread.join()
    viewer.server_close()


def get(
    viewer: Viewer, name: str, *, host: str | None = None, raw: bool = False
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", viewer.server_address[1], timeout=20)
    headers = {} if host is None else {"Host": host}
    connection.request("GET", name if raw else f"/{viewer.token}/{name}", headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def get_json(viewer: Viewer, name: str) -> Any:
    answer, content = get(viewer, name)
    assert answer.status == 200
    assert answer.getheader("Content-Type") == "application/json"
    return json.loads(content)


def test_a_tile_equals_an_independent_computation(viewer: Viewer, folders: list[Path]) -> None:
    pixels = io.read_micrograph(folders[1] / "mic_b.mrc").pixels
    for even, lowpass in ((0, 0), (1, 20)):
        for level, row, column in ((0, 0, 0), (0, 1, 1), (1, 0, 0)):
            name = f"tile/1/1/{even}-{lowpass}/{level}/{row}_{column}.png"
            answer, content = get(viewer, name)
            assert (answer.status, answer.getheader("Content-Type")) == (200, "image/png")
            whole = picture(pixels, 1.5, Look(bool(even), lowpass), level).numpy()
            part = whole[512 * row : 512 * row + 512, 512 * column : 512 * column + 512]
            assert np.array_equal(imagecodecs.png_decode(content), part)


def test_values_are_those_of_the_file(viewer: Viewer, folders: list[Path]) -> None:
    pixels = io.read_micrograph(folders[0] / "mic_a.mrc").pixels
    # Row 10 of the file is the eleventh from below.
    across, down = (33 + 0.5) / 530, (600 - 10 - 0.5) / 600
    values = get_json(viewer, f"value/0/{across:.9f}/{down:.9f}.json")
    assert values == pytest.approx([float(pixels[10, 33]), -float(pixels[10, 33])])
    assert get_json(viewer, "value/0/1/0.5.json") == [None, None]


def test_info_and_spectrum(viewer: Viewer) -> None:
    raw, denoised = get_json(viewer, "info/0.json")
    assert (raw["width"], raw["height"], raw["levels"]) == (530, 600, 2)
    assert (raw["pixel_size"], raw["assumed"]) == (1.5, False)
    assert denoised["file"].endswith("mic_a.mrc")
    answer, content = get(viewer, "spectrum/0/0.png")
    assert answer.status == 200
    assert imagecodecs.png_decode(content).shape == (256, 256)
    assert len(get_json(viewer, "spectrum/0/1.json")["log_power"]) == 128


def test_the_page_loads_nothing_from_elsewhere(viewer: Viewer) -> None:
    answer, content = get(viewer, "")
    page = content.decode()
    assert answer.status == 200
    policy = answer.getheader("Content-Security-Policy") or ""
    nonce = policy.split("script-src 'nonce-")[1].split("'")[0]
    assert page.count(f'nonce="{nonce}"') == page.count("<script") + page.count("<style")
    assert "default-src 'none'" in policy
    assert "https://" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert '"names":["mic_a","mic_b"]' in page


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:80", ""])
def test_other_hosts_are_refused(viewer: Viewer, host: str) -> None:
    answer, content = get(viewer, "", host=host)
    assert answer.status == 403
    assert viewer.token.encode() not in content


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:1", "[::1]:80"])
def test_a_tunnel_from_another_port_is_fine(viewer: Viewer, host: str) -> None:
    assert get(viewer, "", host=host)[0].status == 200


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "..%2f..%2fetc/passwd",
        "tile/../../../../etc/passwd",
        "tile/0/0/1-0/0/..%2f..%2f..%2fetc%2fpasswd.png",
        "%2e%2e/%2e%2e/etc/passwd",
        "view.css",
        "raw/mic_a.mrc",
        "tile/2/0/1-0/0/0_0.png",
        "tile/0/2/1-0/0/0_0.png",
        "tile/0/0/1-7/0/0_0.png",
        "tile/0/0/1-0/2/0_0.png",
        "tile/0/0/1-0/0/0_2.png",
        "tile/-1/0/1-0/0/0_0.png",
        "tile/0/0/1-0/0/99999999999999_0.png",
        "info/2.json",
        "spectrum/0/2.png",
        "value/2/0.5/0.5.json",
        "value/0/nan/0.5.json",
    ],
)
def test_what_is_not_offered_is_not_found(viewer: Viewer, name: str) -> None:
    answer, content = get(viewer, name)
    assert answer.status == 404
    assert b"root:" not in content


@pytest.mark.parametrize(
    "path", ["/", "/favicon.ico", "/info/0.json", "//info/0.json", "/x/", "/é"]
)
def test_without_the_secret_nothing_is_found(viewer: Viewer, path: str) -> None:
    connection = HTTPConnection("127.0.0.1", viewer.server_address[1], timeout=20)
    connection._encode_request = str.encode  # type: ignore[attr-defined]  # also what is no ASCII
    connection.request("GET", path)
    assert connection.getresponse().status == 404
    connection.close()


def test_other_methods_are_refused(viewer: Viewer) -> None:
    connection = HTTPConnection("127.0.0.1", viewer.server_address[1], timeout=20)
    connection.request("POST", f"/{viewer.token}/", b"x")
    assert connection.getresponse().status == 501
    connection.close()


def test_a_bad_micrograph_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    bad = write_folders(tmp_path)[1] / "mic_b.mrc"
    bad.write_bytes(b"no micrograph")
    with serving([tmp_path / "raw", tmp_path / "denoised"]) as viewer:
        raw, denoised = get_json(viewer, "info/1.json")
        assert "error" not in raw
        assert "mic_b.mrc" in denoised["error"]
        answer, content = get(viewer, "tile/1/1/1-0/0/0_0.png")
        assert answer.status == 422
        assert b"mic_b.mrc" in content
        assert get(viewer, "tile/1/0/1-0/0/0_0.png")[0].status == 200
        write_image(bad, torch.rand(600, 530))
        assert "error" not in get_json(viewer, "info/1.json")[1], "a failure is not kept"


def test_a_file_that_is_made_anew_is_read_anew(tmp_path: Path) -> None:
    folders = write_folders(tmp_path)
    with serving(folders) as viewer:
        before = get_json(viewer, "info/0.json")[1]["stamp"]
        old = get(viewer, "tile/0/1/1-0/0/0_0.png")[1]
        write_image(folders[1] / "mic_a.mrc", torch.rand(600, 500))
        info = get_json(viewer, "info/0.json")[1]
        assert (info["width"], info["stamp"] != before) == (500, True)
        assert get(viewer, f"tile/0/1/1-0/0/0_0.png?{info['stamp']}")[1] != old


def test_a_taken_port_is_one_line(viewer: Viewer) -> None:
    with pytest.raises(OutputError, match="leave --port out"):
        Viewer(viewer.store, viewer.server_address[1])


def test_the_browser_is_opened_only_where_there_is_a_screen(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(Viewer, "serve_forever", lambda _: None)
    monkeypatch.setattr(Viewer, "server_close", lambda _: None)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    server.serve(viewer, open_browser=True)
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    server.serve(viewer, open_browser=False)
    assert opened == []
    server.serve(viewer, open_browser=True)
    assert opened == [viewer.address]


def test_each_value_is_made_once_and_the_oldest_goes() -> None:
    made: list[int] = []
    started, go = threading.Event(), threading.Event()

    def make(key: int) -> int:
        made.append(key)
        started.set()
        assert go.wait(10)
        return key * key

    recent = Recent(make, lambda _: 10, 25)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(recent.get(3))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(10)
    go.set()
    for thread in threads:
        thread.join()
    assert (found, made) == ([9] * 4, [3])
    for key in (4, 3, 5, 3, 4):
        recent.get(key)
    assert made == [3, 4, 5, 4]
    assert len(recent) == 2


def test_an_interruption_closes_the_server(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    def interrupted(_: Viewer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Viewer, "serve_forever", interrupted)
    monkeypatch.setattr(Viewer, "server_close", lambda _: closed.append(True))
    server.serve(viewer)
    assert closed == [True]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
def test_control_c_stops_it_cleanly(folders: list[Path]) -> None:
    command = [sys.executable, "-m", "clearice", "view", str(folders[0]), "--no-open"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("view: http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
