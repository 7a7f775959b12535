"""Figures as SVG that follows the page's text colour, in light and dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito: told apart with any colour vision, on white and on black.
COLOURS = {
    "raw": "#8c8c8c",
    "gaussian_best": "#e69f00",
    "wiener": "#009e73",
    "denoised": "#0072b2",
    "truth": "#d55e00",
    "other": "#cc79a7",
}
# Of a line of a legend.
_LABEL_LENGTH = 48
INK = "#010203"  # replaced by the page's own text colour


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: In the legend; empty leaves the curve out of it.
        colour: A key of `COLOURS`, or #rrggbb.
        x: Abscissae.
        y: Ordinates; None leaves a gap.
        dashed: For what is a warning or an estimate.
        thin: For what is there for context.
        band: Lower and upper ends of an interval at each abscissa; None leaves a gap.
        marker: Shape of its points, so that colour is not all that tells it apart.
    """

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float | None]
    dashed: bool = False
    thin: bool = False
    band: Sequence[tuple[float, float] | None] | None = None
    marker: str = ""


def line_figure(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    log_y: bool = False,
    y_limits: tuple[float, float] | None = None,
    resolution_axis: bool = False,
    level: float | None = None,
) -> str:
    """Draw curves for a column as wide as a phone, the legend below them, and return SVG.

    Args:
        lines: What to draw.
        x_label: With unit.
        y_label: With unit.
        log_y: Logarithmic ordinate.
        y_limits: Of the ordinate.
        resolution_axis: The abscissa is 1/Å: label its ticks with the resolution in Å as well.
        level: Ordinate of a dotted line across.
    """
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        lines = [replace(line, label=fill(line.label, _LABEL_LENGTH)) for line in lines]
        height = 2.9 + 0.19 * sum(line.label.count("\n") + 1 for line in lines if line.label)
        figure = Figure(figsize=(4.4, height), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            _draw_line(axes, line)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if log_y:
            axes.set_yscale("log")
        if y_limits:
            axes.set_ylim(*y_limits)
            axes.axhline(0, color=INK, linewidth=0.5)
        if level is not None:
            axes.axhline(level, color=INK, linewidth=0.8, linestyle=":")
        axes.locator_params(axis="x", nbins=5)
        if resolution_axis:
            ticks = [tick for tick in axes.get_xticks() if tick >= 0]
            axes.set_xlim(0, max(max(line.x) for line in lines))
            axes.set_xticks([t for t in ticks if t <= axes.get_xlim()[1]])
            labels = [f"{t:.3g}\n{1 / t:.3g} Å" if t > 0 else "0\n∞" for t in axes.get_xticks()]
            axes.set_xticklabels(labels)
        figure.legend(frameon=False, fontsize=9, ncols=1, loc="outside lower left")
        return _svg(figure)


def _draw_line(axes: Axes, line: Line) -> None:
    colour = COLOURS.get(line.colour, line.colour)
    axes.plot(
        line.x,
        [math.nan if v is None else v for v in line.y],
        color=colour,
        linestyle="--" if line.dashed else "-",
        linewidth=0.7 if line.thin else 1.6,
        marker=line.marker or None,
        markersize=4,
        label=line.label or None,
    )
    if line.band is not None:
        ends = [(math.nan, math.nan) if ends is None else ends for ends in line.band]
        low, high = zip(*ends, strict=True)
        axes.fill_between(line.x, low, high, color=colour, alpha=0.22, linewidth=0, step="mid")


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # A dark page gives some of them a lighter shade.
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name.replace('_', '-')}, {colour})")
    # The page sets the width; without these the drawing keeps its shape at any width.
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1),
        count=1,
    )
