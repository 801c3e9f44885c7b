"""Numbers of a run, as a section of the cards of what it made: the model and the retriever."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from omnitune.io import printable, writing
from omnitune.report.parts import Contrast
from omnitune.report.results import Report

BEGIN = "<!-- numbers of the run: omnitune writes them anew when the run is repeated -->"
END = "<!-- end of the numbers of the run -->"

_NAMED = 8
"""Held-out documents that a card names."""


def write_run_cards(report: Report, folder: Path) -> None:
    """Put the numbers of a run into the cards in its folder; all else that stands there stays.

    Args:
        report: Of the run.
        folder: Of the run; a card that is not there is not made.

    Raises:
        ResourceError: The disk is full.
    """
    more = [report.all_pages, *report.further, *([report.votes] if report.votes else [])]
    measured = [(f"held-out {report.words.document}s", report.headline), *((one.label, one) for one in more)]
    about = "" if report.ladder is None else (
        f"The run chose {report.ladder.name} as its retriever (`retriever/` beside this folder). {report.ladder.why}"
    )  # fmt: skip
    model = _section(report, about, measured, ("before", "after"))
    for name in ("model", "distilled", "reranker"):
        _put(folder / name / "README.md", model)
    if report.ladder is not None:
        kinds = {"titles": report.ladder.headline, "questions": report.ladder.asked}
        rows = [(name, one) for name, one in kinds.items() if one is not None]
        # Without lexical search the sentence is about finetuning alone, which is not what this folder holds.
        said = report.sentence if report.ladder.headline is not None else report.ladder.why
        _put(folder / "retriever" / "README.md", _section(report, said, rows, ("lexical search", "this retriever")))


def _section(report: Report, about: str, rows: Sequence[tuple[str, Contrast]], columns: tuple[str, str]) -> str:
    """The section as Markdown, between the marks by which it is found again."""
    words, data = report.words, report.data
    held_out = [one.name for one in data.documents if "test" in one.split]
    named = ", ".join(map(_code, held_out[:_NAMED]))
    named += f" and {len(held_out) - _NAMED} more" if len(held_out) > _NAMED else ""
    day = datetime.fromisoformat(report.created)
    lines = [
        f"- **Command:** {_code(report.run.command)}",
        f"- **Report of:** {day:%Y-%m-%d %H:%M %Z}".rstrip(),
        f"- **Documents:** {len(data.documents):,}, of which {len(held_out):,} test: {named}",
        f"- **{words.page.capitalize()}s:** {data.all_pages:,}, of which {data.test_pages:,} are in those",
        f"- **Queries:** {data.train_pairs:,} training pairs, {data.test_queries:,} test queries",
    ]
    table = [
        f"| {report.metric} | {columns[0]} | {columns[1]} | difference, {100 * report.confidence:.0f}% interval | |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {_cell(name)} ({one.queries:,} queries) | {one.base.value:.3f} | {one.finetuned.value:.3f} | "
            f"{one.difference.value:+.3f} ({one.difference.low:+.3f} to {one.difference.high:+.3f}) | {one.verdict} |"
            for name, one in rows
        ),
    ]
    parts = ["## Run", printable(about, lines=False), "\n".join(lines), "\n".join(table) if rows else ""]
    return "\n\n".join([BEGIN, *(part for part in parts if part), END])


def _put(card: Path, section: str) -> None:
    """Replace the section of a card, or put it before that on training, or at the end."""
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8", errors="surrogateescape")  # people may have written it anyhow
    if BEGIN in text and END in text:
        before, after = text[: text.index(BEGIN)], text[text.rindex(END) + len(END) :]
    else:
        place = text.find("\n## Training\n")
        before, after = (text.rstrip() + "\n\n", "\n") if place < 0 else (text[: place + 1], f"\n{text[place:]}")
    whole = before + section + after
    if whole != text:
        with writing(card) as path:
            path.write_text(whole, encoding="utf-8", errors="surrogateescape")


def _cell(text: str) -> str:
    return printable(text, lines=False).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{printable(text, lines=False).replace('`', chr(39))}`"
