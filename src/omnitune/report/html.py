"""The report as one self-contained HTML file, and the contact sheet of a search.

Document names, queries and everything else that came from a folder are untrusted: templates escape by default, and only
drawings made by `plots` go in as markup. No script, no link to anywhere: the file can be mailed, printed and archived.
"""

import base64
import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from omnitune.io import printable, write_json, writing
from omnitune.report import plots
from omnitune.report.parts import PAGE_WORDS, Page, Words
from omnitune.report.results import Report
from omnitune.report.wording import duration


def render_report(report: Report) -> str:
    """The report as HTML."""
    drawings = {
        "dimensions": plots.dimensions_plot(report.dimensions, report.metric) if len(report.dimensions) > 1 else "",
        "systems": plots.systems_plot(report.systems, report.metric),
        "sizes": plots.sizes_plot(report.sizes, report.metric, report.words.page) if report.sizes else "",
        "loss": plots.loss_plot(report.losses) if len(report.losses) > 1 else "",
    }
    main = report.main
    words = {
        "better": ("Better", "good"),
        "worse": ("Worse", "bad"),
        "no measurable difference": ("No measurable difference", "neutral"),
    }
    text, look = words[main.verdict]
    settings = [
        (name, [(str(key), json.dumps(value, ensure_ascii=False, default=str)) for key, value in section.items()])
        for name, section in report.run.settings.items()
        if isinstance(section, Mapping)
    ]
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            main=main,
            verdict={"text": text, "look": look},
            claim=report.sentence,
            words=report.words,
            drawings={name: Markup(drawing) for name, drawing in drawings.items()},  # noqa: S704 - made by plots
            settings=settings,
        )
    )


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `report.html` and `report.json`; each takes its place only when complete.

    Returns:
        Both paths.

    Raises:
        InputError: A number is not finite.
        ResourceError: The disk is full.
    """
    html, data = folder / "report.html", folder / "report.json"
    write_json(data, report.to_json())  # first: a number that is none is told before anything is replaced
    with writing(html) as path:
        path.write_text(render_report(report), encoding="utf-8")
    return html, data


def render_sheet(
    *,
    query: str,
    model: str,
    pages: Sequence[tuple[Page, float]],
    wanted: Collection[str] = (),
    words: Words = PAGE_WORDS,
) -> str:
    """A contact sheet: the pages found for one query with their scores, best first, as HTML.

    Args:
        query: What was looked for.
        model: Name of the model that looked.
        pages: The pages and their scores.
        wanted: Words to mark in what is shown of the pages' texts, in lower case.
        words: What pages are called.
    """
    # Cut at the borders of wanted words, each second part is one of them.
    border = re.compile(rf"(?i)\b({'|'.join(map(re.escape, sorted(wanted))) or '(?!)'})\b")
    return (
        _environment()
        .get_template("sheet.html")
        .render(query=query, model=model, pages=pages, words=words, split=border.split)
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("omnitune", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,  # not of markup, which is ours
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=lambda value: f"{value:.3f}",
        signed=lambda value: f"{value:+.3f}".replace("-", "\u2212"),
        p=p_value,
        bare_p=lambda value: p_value(value).removeprefix("p = ").removeprefix("p "),
        day=lambda value: f"{datetime.fromisoformat(value):%d %B %Y, %H:%M %Z}".strip().lstrip("0"),
        percent=lambda value: f"{100 * value:.0f}%",
        count=lambda value: f"{value:,}",
        duration=duration,
        image=lambda data: "data:image/jpeg;base64," + base64.b64encode(data).decode(),
    )
    return environment


def p_value(value: float) -> str:
    """A p-value as written in a sentence: `p = 0.012`, `p < 0.001`."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
