"""The README of a prepared dataset: what is in it, what was left out and why."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnitune.runtime import writing

_HEAD = """# Pages and queries from {name}

Made by `omnitune prepare` from {documents} documents: {pages:,} page images, {train:,} training pairs, {test:,} test
queries.

```python
from omnitune.documents import load

dataset = load("{out}")
dataset.train      # query, page
dataset.corpus     # page id -> image
dataset.queries, dataset.relevant
```

Queries are taken from the documents themselves: titles of the outline, captions, headings and, for training only, the
most telling words of sentences. The documents were split before any query was made.

The page images are copies of the documents. Whoever may not share those may not share this dataset.
"""


def write_card(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the card of a dataset from its facts."""
    asked = {side: sum(counts.values()) for side, counts in facts["queries"].items()}
    parts = [
        _HEAD.format(
            name=Path(facts["source"]).name,
            out=path.parent.name,
            documents=len(facts["documents"]),
            pages=sum(facts["pages"].values()),
            train=asked["train"],
            test=asked["test"],
        ),
        "## Documents\n",
        _table(
            ("document", "side", "pages", "queries"),
            ((d["name"], d["side"], d["pages"], d["queries"]) for d in facts["documents"]),
        ),
        "## Queries\n",
        _table(("side", "origin", "number"), _counts(facts["queries"])),
        _section("Skipped documents", (f"`{one['name']}`: {one['reason']}" for one in facts["skipped"])),
        _section("Training queries dropped", (f"{reason}: {count}" for reason, count in facts["dropped"].items())),
        _section(
            "Pages left out of their side, because a page that is more protected is nearly the same",
            (f"`{page}`, for `{other}`" for page, other in facts["left_out"].items()),
        ),
        _section(
            "Near-duplicate pages", (", ".join(f"`{page}`" for page in group) for group in facts["near_duplicates"])
        ),
        _section("Settings", (f"`{name}`: {value}" for name, value in facts["settings"].items())),
    ]
    with writing(path) as temporary:
        temporary.write_text("\n".join(part for part in parts if part), encoding="utf-8")


def _counts(queries: Mapping[str, Mapping[str, int]]) -> Iterable[tuple[str, str, int]]:
    return ((side, origin, count) for side, counts in queries.items() for origin, count in counts.items())


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def _section(title: str, lines: Iterable[str]) -> str:
    listed = "".join(f"- {line}\n" for line in lines)
    return f"## {title}\n\n{listed}" if listed else ""
