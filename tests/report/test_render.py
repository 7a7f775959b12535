"""The page: complete, self-contained, equal to the scores, and working in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from clearice import io, train
from clearice.evaluate import match_cases, score
from clearice.fourier import gaussian_lowpass
from clearice.report import render
from helpers import CPU, smooth_image, train_config, write_dataset, write_image

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@dataclass(frozen=True)
class Sources:
    """A run and its scores, as `evaluate` and as the demo writes them."""

    run: Path
    scores: Path
    demo: Path
    values: dict[str, Any]
    halves: dict[str, Any]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """A short run, and scores of two low-passed micrographs."""
    folder = tmp_path_factory.mktemp("report")
    generator = torch.Generator().manual_seed(1)
    for index in range(2):
        signal = smooth_image(generator, 128)
        first, second = 20 + signal + 2 * torch.randn(2, 128, 128, generator=generator)
        images = {
            "raw": first,
            "reference": second,
            "denoised": gaussian_lowpass(first, 2.0),
            "denoised_other": gaussian_lowpass(second, 2.0),
            "truth": signal,
        }
        for name, image in images.items():
            write_image(folder / name / f"mic{index}.mrc", image)
    roles = (folder / "denoised", folder / "raw")
    full = score(match_cases(*roles, truth=folder / "truth")).values
    halves = score(
        match_cases(*roles, folder / "reference", denoised_other=folder / "denoised_other")
    ).values
    both = score(match_cases(*roles, folder / "reference", folder / "truth")).values
    io.write_json(folder / "scores.json", both)
    demo = {
        "training_seconds": 1.0,
        "snr_db": full["truth"]["snr_db"],
        "half_correlation": halves["reference"]["half_correlation"],
        "full_dose": full,
        "halves": halves,
    }
    io.write_json(folder / "demo.json", demo)
    dataset = write_dataset(folder / "set", groups=4).folder
    config = train_config(loss={"mse": 0.99, "log-power": 0.01}, allow_biased=True)
    train.run(dataset, folder / "run", config, CPU)
    return Sources(folder / "run", folder / "scores.json", folder / "demo.json", both, halves)


@dataclass
class _Page(HTMLParser):
    """What a test wants to know of a page."""

    links: list[str] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)
    text: str = ""
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self._open.append(tag)
        self.links += [
            value or ""
            for key, value in attrs
            if key.rpartition(":")[2] in ("src", "href", "srcset", "action", "data", "poster")
        ]
        if tag == "table":
            self.tables.append([])
            self.captions.append(dict(attrs).get("aria-label") or "")
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        cell = self._open[:-1] if self._open[-1:] == ["a"] else self._open
        if cell and cell[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self._open and self._open[-1] == "caption":
            self.captions[-1] += data

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="session")
def page_file(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about all of them."""
    out = tmp_path_factory.mktemp("page") / "new" / "report.html"
    assert render([sources.run, sources.scores, sources.demo], out, "A <b>bold</b> & title") == out
    return out


def test_nothing_is_loaded_from_elsewhere(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    page = _read(page_file)
    assert page.links
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert "http" not in re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_the_page_has_all_its_parts(page_file: Path, sources: Sources) -> None:
    text = page_file.read_text(encoding="utf-8")
    page = _read(page_file)
    # One slider for the scores, two for the demo's full dose and halves.
    assert text.count('type="range"') == 3
    assert page.tags["select"] == 6
    for part in ("raw", "best Gaussian", "denoised", "truth"):
        assert re.search(rf"<option[^>]*>{part}</option>", text)
    for part in (
        "Loss: mse",
        "Loss: log-power",
        "Fourier ring correlation",
        "How much of the true amplitude survives",
        "Radial power spectra",
        "Definitions",
        "−10 log₁₀(1 − r²)",
        "FRC(De, Ro) / √FRC(Re, Ro)",
        "Exact configuration",
    ):
        assert part in page.text
    assert (sources.run / "config.yaml").read_text(encoding="utf-8") in page.text


def test_tables_hold_the_numbers_of_the_scores(tmp_path: Path, sources: Sources) -> None:
    page = _read(render([sources.scores], tmp_path / "report.html"))
    truth, bands, rho = page.tables
    methods = ("raw", "gaussian_best", "wiener", "denoised")
    scores = sources.values["truth"]
    assert truth[0][1:] == ["SNR, dB", "PSNR, dB", "SSIM"]
    for method, row in zip(methods, truth[1:], strict=True):
        wanted = [scores[name][method] for name in ("snr_db", "psnr_db", "ssim")]
        assert [float(cell) for cell in row[1:]] == pytest.approx(wanted, abs=0.0051)
    assert f"σ = {sources.values['gaussian_sigma_px']:g} px" in truth[2][0]
    reference = sources.values["reference"]
    assert [c.replace("–", "-").removesuffix(" Å") for c in bands[0][1:]] == list(
        reference["band_correlation"]
    )
    for method, row in zip(methods, bands[1:], strict=True):
        wanted = [band[method] for band in reference["band_correlation"].values()]
        assert [float(cell) for cell in row[1:]] == pytest.approx(wanted, abs=0.00051)
    for method, row in zip(methods, rho[1:], strict=True):
        value = reference["correlation_with_truth"][method]
        assert float(row[1]) == pytest.approx(value, abs=0.00051)
    assert f"{reference['half_correlation']:.3f}" in page.captions[2]


def test_scores_of_the_demo_show_noise_and_bias(tmp_path: Path, sources: Sources) -> None:
    page = _read(render([sources.demo], tmp_path / "report.html"))
    residual = page.tables[-1]
    assert residual[0][1:] == ["residual noise", "bias"]
    wanted = [sources.halves["reference"][name] for name in ("residual_noise", "bias")]
    assert [float(cell) for cell in residual[1][1:]] == pytest.approx(wanted, abs=0.00051)
    assert "Against the truth" in page.text
    assert "Against independent data" in page.text


def test_titles_are_escaped(page_file: Path, sources: Sources, tmp_path: Path) -> None:
    assert "A <b>bold</b> & title" in _read(page_file).text
    assert "<b>" not in page_file.read_text(encoding="utf-8")
    named = tmp_path / "named.json"
    named.write_text(json.dumps({"<script>alert(1)</script>": sources.values}))
    out = render([named], tmp_path / "report.html")
    assert "<script>alert" not in out.read_text(encoding="utf-8")
    assert html.escape("<script>alert(1)</script>") in out.read_text(encoding="utf-8")


def test_undefined_numbers_are_dashes(tmp_path: Path, sources: Sources) -> None:
    values = json.loads(sources.scores.read_text())
    values["reference"]["correlation_with_truth"] = dict.fromkeys(
        values["reference"]["correlation_with_truth"]
    )
    values["curves"]["gain"] = [None for _ in values["curves"]["gain"]]
    values["curves"]["signal_transfer"][::2] = [
        None for _ in values["curves"]["signal_transfer"][::2]
    ]
    io.write_json(tmp_path / "scores.json", values)
    page = _read(render([tmp_path / "scores.json"], tmp_path / "report.html"))
    assert {row[1] for row in page.tables[2][1:]} == {"–"}


def test_micrographs_that_are_gone_leave_the_numbers(tmp_path: Path, sources: Sources) -> None:
    values = json.loads(sources.scores.read_text())
    for files in values["files"]:
        files.update({role: str(tmp_path / "gone.mrc") for role in files})
    io.write_json(tmp_path / "scores.json", values)
    page = _read(render([tmp_path / "scores.json"], tmp_path / "report.html"))
    assert len(page.tables) == 3
    assert page.tags.get("img", 0) == 0


def _probe(frame: str) -> str:
    """Return script that measures the page in a frame once it is there."""
    return f"""
    {{
      const frame = document.getElementById("{frame}");
      const doc = frame.contentDocument, root = doc.documentElement;
      const box = doc.querySelector("[data-compare]"), stack = box.querySelector(".stack");
      const range = box.querySelector("input"), select = box.querySelector("[data-side=left]");
      const under = () => box.querySelector(".under").dataset.role, before = under();
      range.value = 20;
      range.dispatchEvent(new Event("input", {{bubbles: true}}));
      select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
      select.dispatchEvent(new Event("change", {{bubbles: true}}));
      found.{frame} = {{
        scroll: root.scrollWidth, client: root.clientWidth,
        cut: stack.style.getPropertyValue("--cut"),
        shown: frame.contentWindow.getComputedStyle(box.querySelector(".over")).clipPath,
        changed: under() !== before && under() === select.value,
        images: [...doc.images].map((image) => image.naturalWidth),
        figures: [...doc.querySelectorAll("figure svg")].map(
          (svg) => svg.getBoundingClientRect().width),
      }};
    }}"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_the_page_works_in_a_browser(page_file: Path, tmp_path: Path) -> None:
    catch = (
        "<script>window.onerror = (message) => { parent.problems.push(String(message)); };</script>"
    )
    page = page_file.read_text(encoding="utf-8").replace("<head>", "<head>" + catch, 1)
    widths = {"phone": 390, "desktop": 1440}
    frames = "".join(
        f'<iframe id="{name}" width="{width}" height="900" style="border:0" '
        f'srcdoc="{html.escape(page)}"></iframe>'
        for name, width in widths.items()
    )
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        '<!doctype html><meta charset="utf-8"><body><script>const problems = [], found = {};'
        "window.onerror = (message) => { problems.push(String(message)); };</script>"
        f"{frames}<pre id=result></pre><script>addEventListener('load', () => {{"
        f"try {{ {''.join(map(_probe, widths))} }}"
        "catch (error) { problems.push(String(error)); }"
        "document.body.innerHTML = ''; document.body.textContent = "
        "'RESULT' + JSON.stringify({problems, found}) + 'END'; });</script></body>",
        encoding="utf-8",
    )
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1600,1000",
        "--virtual-time-budget=4000",
        "--dump-dom",
        wrapper.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    match = re.search(r"RESULT(\{.*\})END", html.unescape(done.stdout))
    assert match, done.stdout[:500] + done.stderr[-500:]
    result = json.loads(match[1])
    assert result["problems"] == []
    for name, width in widths.items():
        seen = result["found"][name]
        assert width - 20 <= seen["client"] <= width
        assert seen["scroll"] <= seen["client"]
        assert seen["cut"] == "20%"
        assert "20%" in seen["shown"]
        assert seen["changed"]
        assert len(seen["images"]) == 11  # each once
        assert all(pixels > 0 for pixels in seen["images"])
        assert all(0 < figure <= seen["client"] for figure in seen["figures"])
