"""The page of a comparison: its numbers, its pictures, and nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import io as streams
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clearice.fourier import ring_sums
from clearice.report import render_comparison
from clearice.report.comparison import _coloured, _common_range, _distance
from clearice.report.figures import Line
from clearice.report.pictures import DETAIL_PX, detail_crop, jpeg, levelled_crop
from helpers import smooth_image, write_image

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
X = [0.05, 0.1, 0.15, 0.2]
COLUMNS = {"snr_db": ("SNR, dB", 3), "transfer_8-4": ("signal transfer, 8–4 Å", 3)}


def _row(order: int, label: str, rank: int | None, snr: list[float]) -> dict[str, Any]:
    mean = {"snr_db": sum(snr) / len(snr), "transfer_8-4": 0.25 + order}
    spread = {"snr_db": 0.125 if len(snr) > 1 else None, "transfer_8-4": None}
    return {
        "order": order,
        "name": f"v{order}",
        "label": label,
        "rank": rank,
        "bound": "clean" in label,
        "like_best": rank == 2,
        "settings": {"loss": {"mse": 1.0}, "steps": 7},
        "n": len(snr),
        "asked": 2,
        "complete": len(snr) == 2,
        "merit": {"mean": mean["snr_db"], "spread": spread["snr_db"]},
        "mean": mean,
        "spread": spread,
        "against_first": {"snr_db": {"mean": mean["snr_db"] - 2.5, "spread": 0.0625}},
        "curves": {
            "frequency_per_angstrom": X,
            "correlation_with_truth_denoised": [0.9, 0.5, None, 0.1 * order],
            "signal_transfer_truth": [1.0, 0.8, 0.4, 0.2],
            "power_denoised": [100.0, 10.0, 1.0, 0.5],
        },
        "crops": f"v{order}-seed0",
        "seeds": [
            {
                "seed": seed,
                "metrics": {"snr_db": value},
                "training": {
                    "parameters": 2625,
                    "steps": 7,
                    "seconds": 2.0 + seed,
                    "parts": {"mse": 0.5 + seed},
                },
            }
            for seed, value in enumerate(snr)
        ],
    }


def _results() -> dict[str, Any]:
    return {
        "context": {"device": "cpu"},
        "contexts": [{"device": "H200", "torch": "2.1"}, {"device": "cpu", "torch": "2.2"}],
        "sharing": [1, 8],
        "reference": {"name": "v0", "label": "mse"},
        "about": {
            "detail_angstrom": [8, 4],
            "micrographs": ["a", "b"],
            "training_micrographs": 6,
            "split": "test",
            "pixel_size_angstrom": 1.5,
            "weights": "last",
            "failures": ["v9-seed0: <b>exploded</b>"],
            "grid": {"seeds": [0, 1]},
        },
        "ranked_by": "snr_db",
        "columns": [
            {"key": key, "label": label, "digits": digits, "better": "high"}
            for key, (label, digits) in COLUMNS.items()
        ],
        "baselines": {"raw": {"snr_db": 0.125}, "wiener": {"rho": 0.5}},
        "curves": {
            "frequency_per_angstrom": X,
            "correlation_with_truth_raw": [0.5, 0.2, 0.1, 0.0],
            "power_raw": [200.0, 100.0, 90.0, 80.0],
            "power_truth": [90.0, 9.0, 1.0, 0.1],
        },
        "variants": [
            _row(1, "mse + <i>0.05</i> frc", 1, [3.0, 3.5]),
            _row(0, "mse", 2, [2.5, 2.5]),
            _row(2, "mse, target clean", None, [4.0]),
        ],
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with crops."""
    folder = tmp_path_factory.mktemp("comparison")
    generator = torch.Generator().manual_seed(2)
    for order in range(3):
        crops = folder / "cells" / f"v{order}-seed0" / "crops"
        for role in ("raw", "truth", "denoised"):
            for suffix in ("", "-detail"):
                image = (1 + order) * smooth_image(generator, 96)
                write_image(crops / f"{role}{suffix}.mrc", image)
    return render_comparison(_results(), folder, folder / "new" / "report.html", "A <b>title</b>")


class _Tables(HTMLParser):
    """The cells of each table, as they are read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[-1][-1][-1] += data


def test_the_ranked_table_holds_means_spreads_and_baselines(page: Path) -> None:
    ranked, paired, transfer, training = _Tables(page.read_text(encoding="utf-8")).tables
    assert ranked[0] == ["", "to the best", "SNR, dB", "signal transfer, 8–4 Å"]
    assert [[cell.replace("\xa0", " ") for cell in row] for row in ranked[1:]] == [
        ["1. mse + <i>0.05</i> frc", "best", "3.250\n± 0.125", "1.250"],
        ["2. mse", "−0.750\n≈ best", "2.500\n± 0.125", "0.250"],
        ["bound: mse, target clean (1 of 2 seeds)", "+0.750", "4.000", "2.250"],
        ["raw", "", "0.125", "–"],
    ]
    assert [row[1].replace("\xa0", " ") for row in paired[1:]] == [
        "+0.750\n± 0.062",
        "+1.500\n± 0.062",
    ]
    assert [row[0] for row in paired[1:]] == [ranked[1][0], ranked[3][0]]
    assert transfer[0] == ["", "8–4 Å"]
    assert training[1] == ["mse + <i>0.05</i> frc", "2,625", "7", "2.5", "mse 1"]


def test_the_page_stands_alone_and_escapes_what_it_shows(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "http" not in re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    for markup in ("<b>title</b>", "<i>0.05</i>", "<b>exploded</b>"):
        assert markup not in text
        assert html.escape(markup) in text
    assert "2 held-out test micrographs" in text
    assert "H200 and cpu; not all with the same torch 2.1, 2.2." in text
    assert "Up to 8 trainings shared a device (not all alike)" in text
    assert "as they failed: 1 training." in text
    assert "steps: 7" in text


def test_figures_name_every_variant_and_what_they_are_compared_with(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", text)
    assert captions[:4] == [
        "FRC with the truth",
        "The same, less that of “mse”; far outliers leave the frame",
        "Signal transfer, against the truth",
        "Radial power spectra",
    ]
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == 4
    assert all("mse, target clean" in figure for figure in figures)
    assert ">truth<" in figures[3]


def test_the_bound_and_the_reference_have_a_colour_among_many() -> None:
    values = _results()
    rows = [_row(order, f"v{order}", order, [2.0, 2.0]) for order in range(1, 12)]
    values["variants"] = [*rows, _row(0, "mse", 12, [1.0, 1.0]), _row(12, "clean", None, [4.0])]
    colours = _coloured(values)
    assert list(colours) == [*(f"v{order}" for order in range(1, 7)), "v0", "v12"]
    assert len(set(colours.values())) == 8


def test_distances_are_those_from_one_where_one_is_best() -> None:
    near, far = _row(0, "a", 1, [1.0, 1.0]), _row(1, "b", 2, [1.0, 1.0])
    near["merit"], far["merit"] = {"mean": -0.1, "spread": None}, {"mean": -0.5, "spread": None}
    far["like_best"] = False
    for better, text in (("one", "+0.40"), ("low", "+0.40"), ("high", "−0.40")):
        assert _distance(far, near, {"key": "x", "digits": 2, "better": better}) == text
    assert _distance(near, near, {"key": "x", "digits": 2, "better": "one"}) == "best"


def test_one_bad_loss_does_not_set_the_range_of_the_differences() -> None:
    lines = [Line("", "raw", X, [0.0, height, None, 0.0]) for height in (0.02, -0.05, 0.01, 9.0)]
    assert _common_range(lines) == pytest.approx((-0.06, 0.06))
    assert _common_range(lines[:1]) == pytest.approx((-0.024, 0.024))


def _pictures(page: Path) -> list[tuple[str, np.ndarray]]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(
        r'<img loading="lazy" alt="([^"]*)" src="data:image/jpeg;base64,([^"]*)"', text
    )
    return [
        (html.unescape(label), np.asarray(Image.open(streams.BytesIO(base64.b64decode(data)))))
        for label, data in found
    ]


def test_crops_stand_in_order_of_rank_beside_raw_and_truth(page: Path) -> None:
    labels = [label for label, _ in _pictures(page)]
    wanted = ["raw", "truth", "mse + <i>0.05</i> frc", "mse", "mse, target clean"]
    assert labels == 2 * wanted


def test_variants_share_their_grey_levels(page: Path) -> None:
    """Their amplitudes are 1, 2 and 3, of which the middle one sets the levels."""
    for first in (0, 5):
        pictures = dict(_pictures(page)[first : first + 5])
        saturated = {
            label: float(((pixels < 4) | (pixels > 251)).mean())
            for label, pixels in pictures.items()
        }
        own = saturated["raw"]
        assert own < 0.05
        assert saturated["mse"] < own
        assert saturated["mse, target clean"] > 2 * own
        assert pictures["mse"].std() < 0.8 * pictures["mse, target clean"].std()


def test_without_crops_there_are_no_galleries(tmp_path: Path) -> None:
    out = render_comparison(_results(), tmp_path, tmp_path / "report.html")
    assert "<img" not in out.read_text(encoding="utf-8")
    assert "Fine detail" not in out.read_text(encoding="utf-8")


def test_a_detail_crop_holds_its_band_and_nothing_else() -> None:
    image = torch.randn(300, 320, generator=torch.Generator().manual_seed(0))
    crop = detail_crop(image, 1.5, 15.0, 8.0)
    assert crop.shape == (DETAIL_PX, DETAIL_PX)
    whole = detail_crop(image[:256, :256], 1.5, 15.0, 8.0)
    sums = ring_sums(whole, image[:256, :256], 128)
    frequency = (torch.arange(128) + 0.5) / 256
    inside = (frequency > 1.6 / 15) & (frequency < 1.4 / 8)
    outside = (frequency < 1.4 / 15) | (frequency > 1.6 / 8)
    assert torch.allclose(sums.power_x[inside], sums.power_y[inside], rtol=1e-4)
    assert float(sums.power_x[outside].max()) < 1e-6 * float(sums.power_y.max())


def test_a_levelled_crop_has_no_ramp_and_no_mean() -> None:
    rows = torch.linspace(0, 2 * torch.pi, 601)[:-1]
    ramp = torch.sin(rows)[:, None].expand(600, 600)
    fine = torch.sin(40 * rows).expand(600, 600)
    crop = levelled_crop(100 + 50 * ramp + fine, 20.0)
    assert crop.shape == (512, 512)
    assert float(crop.mean().abs()) < 0.1
    assert float((crop - fine[44:556, 44:556]).abs().max()) < 1.0


def test_given_grey_levels_are_used() -> None:
    image = torch.linspace(0, 10, 256).expand(64, 256)
    data = base64.b64decode(jpeg(image, (0.0, 20.0)).partition(",")[2])
    assert abs(int(np.asarray(Image.open(streams.BytesIO(data))).max()) - 127) < 4


def _wide_results() -> dict[str, Any]:
    """A comparison with every column that a ranking shows, and names as long as they get."""
    values = _results()
    names = ["snr_db", "rho", "psnr_db", "ssim", "truth_frc_8-4", "frc_8-4", "transfer_8-4"]
    names += ["residual_noise", "bias", "seconds"]
    values["columns"] = [
        {"key": key, "label": f"{key.replace('_', ' ')}, 8–4 Å", "digits": 4, "better": "high"}
        for key in names
    ]
    for row in values["variants"]:
        row["label"] += ", 0.2 mse + complex(power=0.5,high=0.35) + 3 frc(high=0.35), unet-large"
        row["mean"] = dict.fromkeys(names, -12.3456)
        row["spread"] = dict.fromkeys(names, 0.1234)
        row["against_first"] = {key: {"mean": -0.1234, "spread": 0.1234} for key in names}
    return values


def _measured(page: Path, widths: dict[str, int], folder: Path) -> dict[str, Any]:
    """Lay the page out in frames of these widths, and return what their scripts measure."""
    text = html.escape(page.read_text(encoding="utf-8"))
    frames = "".join(
        f'<iframe id="{name}" width="{width}" height="900" style="border:0" srcdoc="{text}">'
        "</iframe>"
        for name, width in widths.items()
    )
    wrapper = folder / "wrapper.html"
    wrapper.write_text(
        f'<!doctype html><meta charset="utf-8"><body>{frames}<script>'
        "addEventListener('load', () => { const found = {}; for (const frame of "
        "document.querySelectorAll('iframe')) { const doc = frame.contentDocument; "
        "found[frame.id] = {scroll: doc.documentElement.scrollWidth, "
        "client: doc.documentElement.clientWidth, "
        "boxes: [...doc.querySelectorAll('.scroll')].map((b) => [b.scrollWidth, b.clientWidth]), "
        "images: [...doc.images].map((image) => image.getBoundingClientRect().width)}; } "
        "document.body.textContent = 'RESULT' + JSON.stringify(found) + 'END'; });</script></body>",
        encoding="utf-8",
    )
    command = [
        *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        f"--user-data-dir={folder / 'profile'}",
        *("--window-size=1600,1000", "--virtual-time-budget=4000", "--dump-dom", wrapper.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    match = re.search(r"RESULT(\{.*\})END", html.unescape(done.stdout))
    assert match, done.stdout[:500] + done.stderr[-500:]
    found: dict[str, Any] = json.loads(match[1])
    return found


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_the_page_fits_phone_and_desktop(page: Path, tmp_path: Path) -> None:
    widths = {"phone": 390, "desktop": 1440}
    for name, seen in _measured(page, widths, tmp_path).items():
        assert widths[name] - 20 <= seen["client"] <= widths[name]
        assert seen["scroll"] <= seen["client"]
        assert len(seen["images"]) == 10
        assert all(0 < width <= seen["client"] for width in seen["images"])


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_no_column_is_cut_off_on_a_desktop_or_on_paper(tmp_path: Path) -> None:
    page = render_comparison(_wide_results(), tmp_path, tmp_path / "report.html")
    (seen,) = _measured(page, {"desktop": 1300}, tmp_path).values()
    assert len(seen["boxes"]) == 6
    assert all(needed <= given for needed, given in seen["boxes"])
    # The rules for print, laid out on screen: A4 within margins of 1 cm, at 96 pixels an inch.
    page.write_text(page.read_text(encoding="utf-8").replace("@media print", "@media all"))
    (seen,) = _measured(page, {"paper": 718}, tmp_path).values()
    assert all(needed <= given for needed, given in seen["boxes"])
    assert seen["scroll"] <= seen["client"]
