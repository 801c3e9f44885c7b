"""The README of a prepared dataset: what is in it, what was left out and why."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnitune.documents.kinds import KINDS, PAGES
from omnitune.documents.read.text import printable
from omnitune.io import writing

_HEAD = """# {page}s and queries from {name}

Made by `omnitune prepare` from {documents} {document}s: {pages:,} {made}s, {train:,} training pairs, {test:,} test
queries.

```python
from omnitune.documents import load

dataset = load("{out}")
dataset.train      # query, page
dataset.corpus     # page id -> {modality}
dataset.queries, dataset.relevant
```

{queries} The {document}s were split knowing of
their queries no more than their number.

The {made}s are copies of the {document}s. Whoever may not share those may not share this dataset.
"""

_QUERIES = {
    False: "Queries are taken from the documents themselves: titles of the outline, captions, headings and, for "
    "training only, the\nmost telling words of sentences.",
    True: "Queries are captions that people wrote; a segment without one is there to be found wrongly.",
}
"""By whether the queries are captions."""


def write_card(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the card of a dataset from its facts."""
    asked = {side: sum(counts.values()) for side, counts in facts["queries"].items()}
    kind = KINDS[facts["kind"]]
    document, page = kind.words.document, kind.words.page
    parts = [
        _HEAD.format(
            document=document,
            page=page.capitalize(),
            made="page image" if kind is PAGES else page,
            modality=kind.modality,
            queries=_QUERIES[kind.captioned],
            name=_text(Path(facts["source"]).name),
            out=_text(path.parent.name),
            documents=len(facts["documents"]),
            pages=sum(facts["pages"].values()),
            train=asked["train"],
            test=asked["test"],
        ),
        f"## {document.capitalize()}s\n",
        _table(
            (document, "side", f"{page}s", "queries"),
            ((d["name"], d["side"], d["pages"], d["queries"]) for d in facts["documents"]),
        ),
        _section(f"Text of the {page}s", (f"{source}: {count}" for source, count in facts["text_source"].items())),
        "## Queries\n",
        _table(
            ("side", "origin", "number"),
            [(side, origin, n) for side, counts in facts["queries"].items() for origin, n in counts.items()],
        ),
        _section("Office files", (f"drawn by {name}: {count}" for name, count in facts["drawn_by"].items())),
        _section(
            "Office files whose text was drawn, because LibreOffice did not convert them",
            (f"`{name}`: {reason}" for name, reason in facts["fallbacks"].items()),
        ),
        _section(f"Skipped {document}s", (f"`{one['name']}`: {one['reason']}" for one in facts["skipped"])),
        _section(
            f"{page.capitalize()}s that cannot be read",
            (f"`{one['document']}`: {one['reason']}" for one in facts["lost"]),
        ),
        _section(
            "Files that are not read (saved as PDF, they would be)",
            (f"{suffix or 'without a suffix'}: {count}" for suffix, count in facts["not_read"].items()),
        ),
        _section(
            "Captions of files that are not there",
            (f"`{name}`: {', '.join(some)}" for name, some in facts["unmatched_captions"].items()),
        ),
        _section("Training queries dropped", (f"{reason}: {count}" for reason, count in facts["dropped"].items())),
        _section(
            f"{page.capitalize()}s left out of their side, because a {page} that is more protected is nearly the same",
            (f"`{page}`, for `{other}`" for page, other in facts["left_out"].items()),
        ),
        _section(
            f"Near-duplicate {page}s", (", ".join(f"`{page}`" for page in group) for group in facts["near_duplicates"])
        ),
        _section("Settings", (f"`{name}`: {value}" for name, value in facts["settings"].items())),
    ]
    with writing(path) as temporary:
        temporary.write_text("\n".join(part for part in parts if part), encoding="utf-8")


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(_text(cell).replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def _text(value: Any) -> str:
    """Text from outside (names, reasons) as text: no HTML, no control characters, one line."""
    return html.escape(printable(str(value)), quote=False)


def _section(title: str, lines: Iterable[str]) -> str:
    listed = "".join(f"- {_text(line)}\n" for line in lines)
    return f"## {title}\n\n{listed}" if listed else ""
