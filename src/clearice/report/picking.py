"""The section of picking."""

from __future__ import annotations

from clearice.evaluate.documents import PickingDocument
from clearice.report.figures import Line, line_figure
from clearice.report.layout import Drawing, Section, Table
from clearice.report.verdict import span


def picking_section(picking: PickingDocument) -> Section:
    """Show how well particles are found."""
    settings, count = picking.settings, len(picking.micrographs)
    section = Section(
        f"Picking particles of {settings.diameter_angstrom:g} Å",
        f"One plain picker on each version of {count} micrograph{'s' if count > 1 else ''}: "
        f"{picking.particles} known particles, {'brighter' if settings.bright else 'darker'} than "
        f"the ice, found within {settings.tolerance:g} diameters.",
    )
    names = {name: _method(picking, name) for name in picking.methods}
    rows = [
        (
            names[name],
            [
                f"{method.average_precision:.3f}",
                span(method.average_precision_95) or "–",
                f"{method.recall_at_precision:.3f}",
                f"{method.best_f1:.3f}",
            ],
        )
        for name, method in picking.methods.items()
    ]
    recall = f"recall at {settings.precision:g}"
    columns = ["average precision", "95 %", recall, "best F1"]
    differences = [
        (
            f"denoised − {picking.best_lowpass if other == 'best_lowpass' else other}",
            [f"{found.difference:+.3f}".replace("-", "−"), span(found.interval_95) or "–"],
        )
        for other, found in picking.denoised_minus.items()
    ]
    section.tables = [
        Table("All versions of the micrographs", columns, rows),
        Table(
            "Difference of the average precision",
            ["difference", "95 %"],
            differences,
            plain=True,
        ),
    ]
    section.figures = [_precision_figure(picking, names)]
    return section


def _method(picking: PickingDocument, name: str) -> str:
    shown = name.replace(" Å", "\N{NO-BREAK SPACE}Å")
    if name == picking.best_lowpass:
        return f"{shown} (best)"
    return {"denoised": "clearice", "wiener": "radial Wiener"}.get(name, shown)


def _precision_figure(picking: PickingDocument, names: dict[str, str]) -> Drawing:
    styles: dict[str, tuple[str, bool]] = {
        "raw": ("raw", False),
        picking.best_lowpass: ("gaussian_best", True),
        "wiener": ("wiener", True),
        "denoised": ("denoised", False),
    }
    lines = [
        Line(names[name], colour, curve.recall, curve.precision, dashed)
        for name, (colour, dashed) in styles.items()
        if name in picking.methods and (curve := picking.methods[name].curve).recall
    ]
    svg = line_figure(lines, "recall", "precision", y_limits=(-0.02, 1.02))
    return Drawing("Precision against recall", svg, ("precision", "recall"))
