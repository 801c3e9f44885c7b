"""Plots as inline SVG that follows the page: its font, its text colour, light or dark.

matplotlib draws with stand-in colours that are replaced by CSS variables afterwards, so one drawing serves both schemes
and print. Base is orange, finetuned blue, a pair that colour-blind readers tell apart; markers and line styles differ
too. No pyplot: nothing global is touched.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from omnitune.report.parts import Contrast, Interval
from omnitune.report.results import LossPoint, SizePoint, System

_INK, _GRID, _BASE, _TUNED, _OTHER = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
_VARIABLES = {
    _INK: "var(--ink)",
    _GRID: "var(--grid)",
    _BASE: "var(--base)",
    _TUNED: "var(--tuned)",
    _OTHER: "var(--other)",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "omnitune",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
}
_HIGHEST = 1.01
"""Where a score's axis ends: no score is above 1."""
_MARKS = {"float32": "o", "int8": "s", "uint8": "P", "binary": "^", "ubinary": "v"}


def dimensions_plot(dimensions: Sequence[Contrast], metric: str) -> str:
    """Score of both models against the embedding dimension, with intervals."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(3.5)
        dims = [c.dim for c in dimensions]
        for shift, part, style in ((0.985, "base", _base_style()), (1.015, "finetuned", _tuned_style())):
            intervals = [getattr(c, part) for c in dimensions]
            axes.errorbar(
                [d * shift for d in dims],
                [i.value for i in intervals],
                yerr=_errors(intervals),
                capsize=3,
                elinewidth=1.2,
                label=part,
                **style,
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(dims, [str(d) for d in dims])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("embedding dimensions")
        axes.set_ylabel(metric)
        axes.set_ylim(top=min(axes.get_ylim()[1], _HIGHEST))
        axes.legend(loc="lower right")
        best = max(dimensions, key=lambda c: c.dim)
        scores = f"{best.base.value:.3f} and the finetuned one {best.finetuned.value:.3f}"
        told = f"{metric} against embedding dimensions. At {best.dim} dimensions the base model scores {scores}."
        return _svg(figure, told, "dimensions")


def systems_plot(systems: Sequence[System], metric: str) -> str:
    """Score of every retriever with its interval, one row each."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(0.9 + 0.5 * len(systems))
        for row, system in enumerate(reversed(systems)):
            colour = {"base": _BASE, "finetuned": _TUNED}.get(system.name.split(" ")[0], _OTHER)
            axes.errorbar(
                [system.ndcg.value], [row], xerr=_errors([system.ndcg]), fmt="o", color=colour, capsize=3, markersize=7
            )
            axes.annotate(
                f"{system.ndcg.value:.3f}", (system.ndcg.value, row), (0, 8), textcoords="offset points", ha="center"
            )
        axes.set_yticks(range(len(systems)), [s.name for s in reversed(systems)])
        axes.set_ylim(-0.5, len(systems) - 0.2)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(right=min(axes.get_xlim()[1], _HIGHEST))
        axes.set_xlabel(metric)
        told = f"{metric} of every retriever: " + "; ".join(f"{s.name} {s.ndcg.value:.3f}" for s in systems) + "."
        return _svg(figure, told, "systems")


def sizes_plot(sizes: Sequence[SizePoint], metric: str, unit: str = "page") -> str:
    """Score of both models against the bytes that the embedding of one page, or what `unit` says, takes."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(3.9)
        for precision in dict.fromkeys(point.precision for point in sizes):
            points = sorted((p for p in sizes if p.precision == precision), key=lambda p: p.bytes_per_page)
            x = [p.bytes_per_page for p in points]
            for part, style in (("base", _base_style()), ("finetuned", _tuned_style())):
                look = {**style, "marker": _MARKS.get(precision, "D")}
                axes.plot(x, [getattr(p, part) for p in points], **look)
            low = points[0]
            axes.annotate(precision, (low.bytes_per_page, low.base), (4, -12), textcoords="offset points", fontsize=9)
        axes.plot([], [], label="base", **{**_base_style(), "marker": ""})
        axes.plot([], [], label="finetuned", **{**_tuned_style(), "marker": ""})
        axes.set_xscale("log", base=4)
        axes.margins(0.08, 0.12)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _bytes(value)))
        axes.set_xlabel(f"stored size of one {unit}'s embedding")
        axes.set_ylabel(metric)
        axes.set_ylim(top=min(axes.get_ylim()[1], _HIGHEST))
        axes.legend(loc="lower right")
        best = max(sizes, key=lambda p: p.finetuned)
        told = (
            f"{metric} against stored bytes per {unit}. The finetuned model is best at {best.dim} dimensions in "
            f"{best.precision}, {_bytes(best.bytes_per_page)} a {unit}: {best.finetuned:.3f}."
        )
        return _svg(figure, told, "sizes")


def loss_plot(losses: Sequence[LossPoint]) -> str:
    """Training loss against optimizer steps, as logged and smoothed."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(3.2)
        steps = np.array([p.step for p in losses])
        values = np.array([p.loss for p in losses])
        axes.plot(steps, values, color=_OTHER, linewidth=1.0, alpha=0.55, label="logged")
        # Centred running mean over 15% of the points; shorter at both ends.
        half = max(1, int(len(values) * 0.15 / 2))
        sums = np.concatenate([[0.0], np.cumsum(values)])
        ends = np.minimum(np.arange(len(values)) + half + 1, len(values))
        starts = np.maximum(np.arange(len(values)) - half, 0)
        axes.plot(steps, (sums[ends] - sums[starts]) / (ends - starts), color=_TUNED, label="smoothed")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.legend(loc="upper right")
        told = f"Training loss from {values[0]:.3f} at step {steps[0]} to {values[-1]:.3f} at step {steps[-1]}."
        return _svg(figure, told, "loss")


def _canvas(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.4, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def _base_style() -> dict[str, Any]:
    return {"color": _BASE, "marker": "s", "linestyle": (0, (4, 2)), "markerfacecolor": "none", "markersize": 6}


def _tuned_style() -> dict[str, Any]:
    return {"color": _TUNED, "marker": "o", "linestyle": "-", "markersize": 6}


def _errors(intervals: Sequence[Interval]) -> list[list[float]]:
    """Distances to both ends `(2, n)`; never negative, as a percentile interval may miss its own mean by rounding."""
    return [[max(0.0, i.value - i.low) for i in intervals], [max(0.0, i.high - i.value) for i in intervals]]


def _bytes(count: float) -> str:
    return f"{count / 1024:g} kB" if count >= 1024 else f"{count:g} B"


def _svg(figure: Figure, told: str, name: str) -> str:
    """The figure as one `<svg>` element with a description, free ids and the page's colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'font-family: [^;"]*', "font-family: var(--font)", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)  # it would style the whole page
    size = re.search(r'<svg[^>]*?viewBox="([^"]+)"', svg)
    assert size is not None
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{size[1]}"'
    head += ' stroke-linejoin="round"'
    told = told.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return head + f' role="img" aria-label="{told}"><title>{told}</title>' + svg[svg.index(">") + 1 :].strip()
